"""Several urls, on a mock clock: which one is tried when, what the application hears of it, and that nothing is lost."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from trio_wsout.testing import Accept, MemoryPeer, Refuse, Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener

URLS = ["ws://a.test/feed?token=canary", "ws://b.test/feed"]


def config(**fields: Any) -> dict[str, Any]:
    return {"url": URLS, "reconnect": {"jitter": 0}, **fields}


class Peers:
    """The peers of some hosts, and the state changes of a link to them."""

    def __init__(self, peers: dict[str, MemoryPeer]) -> None:
        self.peers = peers
        self.began = trio.current_time()
        self.changes: list[tuple[float, str, str]] = []
        self.delays: list[float | None] = []

    def __getitem__(self, name: str) -> MemoryPeer:
        return self.peers[name]

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        return await self.peers[host.partition(".")[0]].open_stream(host, port)

    def on_state(self, change: trio_wsout.LinkChange) -> None:
        self.changes.append((trio.current_time() - self.began, change.state.value, change.url))
        self.delays.append(change.delay)

    @property
    def dialled(self) -> list[tuple[float, str]]:
        """The time and the host of each attempt."""
        return [(at, url.split("/")[2][0]) for at, state, url in self.changes if state == "dialling"]

    @property
    def options(self) -> dict[str, Any]:
        return {"open_stream": self.open_stream, "on_state": self.on_state}


@asynccontextmanager
async def open_peers(*names: str) -> AsyncGenerator[Peers]:
    async with AsyncExitStack() as stack:
        yield Peers({name: await stack.enter_async_context(open_peer()) for name in names})


async def test_a_server_that_is_gone_costs_no_delay(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_wsout.link")
    async with open_peers("a", "b") as peers:
        peers["a"].plan(then=Unreachable())
        async with trio_wsout.open_output(config(), **peers.options) as output:
            await output.send("x")
            await output.flush()
            assert output.statistics().link.url == "ws://b.test/feed"
        assert peers["b"].messages == ["x"]
    assert peers.changes == [
        (0, "dialling", "ws://a.test/feed"),
        (0, "backing-off", "ws://b.test/feed"),
        (0, "dialling", "ws://b.test/feed"),
        (0, "open", "ws://b.test/feed"),
        (0, "closed", "ws://b.test/feed"),
    ]
    assert peers.delays[1] == 0
    told = [each.getMessage() for each in caplog.records if each.name == "trio_wsout.link"]
    assert told[0] == "link dialling (ws://a.test/feed)"
    assert told[1].endswith("; next attempt in 0 s (ws://b.test/feed)")
    assert "canary" not in caplog.text


async def test_what_was_not_confirmed_goes_to_the_next_server_after_a_delay(
    autojump_clock: MockClock,
) -> None:
    async with open_peers("a", "b") as peers:
        peers["a"].plan(Accept(pong_after=None), then=Unreachable())
        async with trio_wsout.open_output(config(), **peers.options) as output:
            for number in range(3):
                await output.send(str(number))
            await peers["a"].wait_messages(3)
            await trio.sleep(2)
            await peers["a"].cut()
            await output.flush()
            assert output.statistics().link.reconnects == 1
        assert peers["a"].messages == peers["b"].messages == ["0", "1", "2"]
    assert peers.dialled == [(0, "a"), (2.5, "b")]


async def test_all_are_tried_in_a_round_and_the_delays_between_rounds_grow(autojump_clock: MockClock) -> None:
    async with open_peers("a", "b") as peers:
        for name in "ab":
            peers[name].plan(*[Unreachable()] * 3)
        async with trio_wsout.open_output(config(), **peers.options) as output:
            await output.send("x")
            await output.flush()
    assert peers.dialled == [(at, name) for at in (0, 0.5, 1.5) for name in "ab"] + [(3.5, "a")]


async def test_the_link_gives_up_when_every_server_refused_for_good(autojump_clock: MockClock) -> None:
    async with open_peers("a", "b") as peers:
        peers["a"].plan(then=Refuse(status=HTTPStatus.NOT_FOUND))
        peers["b"].plan(Unreachable(), then=Refuse(status=HTTPStatus.FORBIDDEN))
        with pytest.raises(trio_wsout.ConnectError, match=r"403 Forbidden, which is final, of the last of 2"):
            async with trio_wsout.open_output(config(connect={"mode": "eager"}), **peers.options):
                pass
    assert peers.dialled == [(0, "a"), (0, "b"), (0.5, "a"), (0.5, "b")]


async def test_each_url_is_expanded_for_its_attempt(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEED", "x y")
    urls = ["ws://a.test/${secret|nothing}", "ws://b.test/${env|FEED}/${attempt}"]
    async with open_peers("a", "b") as peers:
        async with trio_wsout.open_output(config(url=urls), **peers.options) as output:
            await output.send("x")
            await output.flush()
            assert "url[0]: ${secret|nothing} has no value" in (output.statistics().link.last_error or "")
        assert peers["a"].attempts == []
        assert peers["b"].connections[0].path == "/x%20y/2"


async def test_the_link_of_a_relay_has_several_urls_as_well(
    autojump_clock: MockClock, listener: MemoryListener
) -> None:
    relay = config(mode="relay", server={"bind": "127.0.0.1:0"})
    async with open_peers("a", "b") as peers:
        peers["a"].plan(then=Unreachable())
        async with trio_wsout.open_output(relay, listeners=[listener], **peers.options):
            member = await listener.connect()
            await member.send("up")
            await peers["b"].wait_messages(1)
            await peers["b"].send("down")
            await member.wait_messages(1)
        assert (peers["b"].messages, member.messages) == (["up"], ["down"])
    assert peers.dialled == [(0, "a"), (0, "b")]
