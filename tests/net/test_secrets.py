"""No secret is seen anywhere, whatever goes wrong, with every logger at DEBUG."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

import pytest
import trio
import trio_wsout
from trio_wsout.testing import Accept, Refuse, Silent, Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import Mapping

CANARY = "canary-7f3a"
SECRETS = {
    "headers": {"Authorization": f"Basic {CANARY}", "Cookie": f"session={CANARY}"},
    "auth": {
        "bearer-token": f"{CANARY}",
        "headers": {"X-Api-Key": CANARY, "X-Bad": "${secret|bad||fine}"},
        "query": {"token": CANARY},
    },
    "connect": {"timeout": "1s", "proxy": f"http://user:{CANARY}@proxy.test:3128"},
}


async def test_no_secret_is_seen_through_failures(
    autojump_clock: object, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    bad = iter([f"{CANARY}\r\nX: 1", f"{CANARY}\0"])

    async def headers() -> Mapping[str, str]:
        return {"X-Fresh": CANARY}

    async def token() -> str:
        return CANARY

    async with open_peer() as peer:
        peer.plan(
            Unreachable(),
            Refuse(status=503, headers=[("Set-Cookie", CANARY)]),
            Silent(),
            Accept(cut_after=1),
            Accept(close_after=(1, 1001)),
            Accept(),
            then=Refuse(status=401),
        )
        config = trio_wsout.load_config({"url": "ws://peer.test/x", **SECRETS})
        seen.append(repr(config))
        with pytest.raises(trio_wsout.ConnectError) as caught:
            async with trio_wsout.open_output(
                config,
                open_stream=peer.open_stream,
                headers=headers,
                token=token,
                secrets=lambda _: next(bad, None),
                on_state=lambda change: seen.append(repr(change)),
            ) as output:
                await output.send({"n": 1})
                await output.flush()
                seen.append(repr(output.statistics()))
                await peer.connections[-1].send_raw(b"\xff\xff")
                await trio.sleep(100)
        seen += [
            "".join(traceback.format_exception(caught.value)),
            repr(caught.value),
            repr(vars(caught.value)),
        ]
        assert peer.connections[-1].headers["x-api-key"] == CANARY, "it was sent"
        assert CANARY in peer.connections[-1].path
    captured = capsys.readouterr()
    seen += [captured.out, captured.err, *(str(vars(record)) for record in caplog.records), caplog.text]
    assert [text for text in seen if CANARY in text] == []
