"""What an attempt was waiting for as `connect.timeout` went by is said in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import memory_stream_pair
from trio_wsout import ConnectError, open_output

if TYPE_CHECKING:
    from trio.testing import MockClock


class NoAnswer(trio.abc.HostnameResolver):
    """A name server that never answers."""

    async def getaddrinfo(self, *_: Any, **_more: Any) -> Any:
        await trio.sleep_forever()

    async def getnameinfo(self, *_: Any, **_more: Any) -> Any:
        await trio.sleep_forever()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no proxy of the machine's own used."""
    for name in ("ws_proxy", "wss_proxy", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "")


async def silent(_host: str, _port: int) -> trio.abc.Stream:
    return memory_stream_pair()[0]


async def never(*_: Any) -> Any:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("url", "connect", "hooks", "what"),
    [
        ("ws://h/", {}, {"token": never}, "credentials from the application"),
        ("ws://h:81/", {}, {"open_stream": never}, "a stream to h:81"),
        ("ws://[fe80::1%25lo]:81/", {}, {"open_stream": never}, "a stream to fe80::1%lo:81"),
        ("wss://h/", {}, {"open_stream": silent}, "the TLS handshake with h"),
        ("ws://h/", {}, {"open_stream": silent}, "the server's answer to the opening handshake"),
        ("ws://h:81/", {}, {}, "a TCP connection to h:81"),
        ("ws://h:81/", {"proxy": "http://p:1"}, {}, "the proxy's tunnel to h:81 (TCP to p:1)"),
        ("ws://h:81/", {"proxy": "https://p"}, {}, "the proxy's tunnel to h:81 (TCP to p:443)"),
        ("ws://h:81/", {"proxy": "socks5h://p"}, {}, "the proxy's tunnel to h:81 (SOCKS5 of p:1080)"),
    ],
)
async def test_what_did_not_come_is_named(
    url: str, connect: dict[str, Any], hooks: dict[str, Any], what: str, autojump_clock: MockClock
) -> None:
    document = {
        "url": url,
        "connect": {"timeout": "1s", **connect},
        "reconnect": {"max-attempts": 1},
    }
    trio.socket.set_custom_hostname_resolver(NoAnswer())
    with pytest.raises(ConnectError) as caught:
        async with open_output(document, **hooks) as output:
            await output.send("x")
            # No other deadline than connect.timeout: the clock may jump while the certificates are read.
            with pytest.raises(trio.BrokenResourceError):
                await output.flush()
    assert caught.value.cause == f"connect.timeout (1 s) went by without {what}"
