"""Callables of the application that raise or give nonsense: they cost an attempt or a line in the log, never the output."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import Unreachable, open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock

CLIENT = {"url": "ws://peer.test/", "reconnect": {"initial-backoff": "1s"}}


def broken() -> float:
    raise LookupError


@pytest.mark.parametrize(
    "drawn",
    [broken, nan, inf, None, "0.5", -0.1, 1, 1 + 2j, []],
    ids=lambda drawn: "raises" if drawn is broken else repr(drawn),
)
async def test_a_draw_that_is_none_costs_a_line_in_the_log(
    drawn: Any, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_peer() as up:
        up.plan(Unreachable())
        async with trio_wsout.open_output(
            CLIENT, open_stream=up.open_stream, draw=drawn if callable(drawn) else lambda: drawn
        ) as output:
            await output.send("one")
            await output.flush()
        assert trio.current_time() <= 1
    told = [each.getMessage() for each in caplog.records if "draw" in each.getMessage()]
    what = "raised LookupError" if drawn is broken else "gave no number in [0, 1)"
    assert told == [f"the draw callable {what}; a number was drawn without it"]


@pytest.mark.parametrize("given", [None, 7, "stream"])
async def test_what_is_no_stream_costs_an_attempt(given: Any, autojump_clock: MockClock) -> None:
    attempts = 0
    async with open_peer() as up:

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            nonlocal attempts
            attempts += 1
            stream = await up.open_stream(host, port)
            if attempts > 1:
                return stream
            await trio.aclose_forcefully(stream)
            return given  # type: ignore[no-any-return] - what it must not do

        async with trio_wsout.open_output(CLIENT, open_stream=open_stream) as output:
            await output.send("one")
            await output.flush()
            assert "open_stream" in (output.statistics().last_error or "")
    assert attempts == 2
