"""Lines that take everything at once and pass it on slowly, or not at all: exact times on the mock clock."""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import Accept, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener, PeerConnection

RATE = 1000
"""Bytes a second of a slow line."""
_TICK = 0.1
"""Seconds between two steps of it."""
PULSE = {"ping-interval": "20s", "timeout": "10s"}
LARGE = "x" * 40_000
"""40 s of a line."""


class SlowLine(trio.abc.Stream):
    """A stream with a line behind it: takes all at once, passes on so much a second, tells how much it has passed.

    What one write brought is read when all of it is there: the peers of these tests know no pieces.
    """

    def __init__(self, end: trio.abc.Stream, *, rate: float = RATE, tells: bool = True) -> None:
        self.rate = rate
        """Bytes a second."""
        self.stops_at = inf
        """When it stops passing on, in seconds of trio's clock."""
        self._end = end
        self._tells = tells
        self._given = 0
        self._passed = 0
        self._waiting, self._taking = trio.open_memory_channel[bytes](inf)

    def send_progress(self) -> tuple[int, int] | None:
        return (self._given, self._passed) if self._tells else None

    async def run(self) -> None:
        async for data in self._taking:
            left = len(data)
            while left:
                await trio.sleep(_TICK)
                if trio.current_time() > self.stops_at:
                    await trio.sleep_forever()
                passes = min(left, int(self.rate * _TICK))
                self._passed += passes
                left -= passes
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._end.send_all(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._given += len(data)
        self._waiting.send_nowait(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._end.receive_some(max_bytes)

    async def aclose(self) -> None:
        self._waiting.close()
        await self._end.aclose()


class Link:
    """A link to a peer in memory, whose first connection has a slow line, and later ones a fast one."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.lines: list[SlowLine] = []
        self._nursery = nursery

    def open(self, peer: Any, *, tells: bool = True, **fields: Any) -> Any:
        async def dial(host: str, port: int) -> SlowLine:
            rate = 1000 * RATE if self.lines else RATE
            line = SlowLine(await peer.open_stream(host, port), rate=rate, tells=tells)
            self._nursery.start_soon(line.run)
            self.lines.append(line)
            return line

        fields = {
            "url": "ws://peer.test/",
            "connect": {"mode": "eager"},
            "retry": {"timeout": "60s"},
            **fields,
        }
        fields |= {"reconnect": {"jitter": 0}}
        return trio_wsout.open_output({"heartbeat": PULSE, **fields}, open_stream=dial)


async def over(peer: Any) -> None:
    """Wait until the first connection is over."""
    while peer.connections[0].ended_at is None:
        await trio.sleep(0.01)


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    async with trio.open_nursery() as nursery:
        yield Link(nursery)
        nursery.cancel_scope.cancel()


async def test_a_message_that_takes_longer_than_the_timeout_arrives(
    link: Link, autojump_clock: MockClock
) -> None:
    async with open_peer() as peer, link.open(peer) as output:
        start = trio.current_time()
        await output.send(LARGE)
        await output.flush()
        assert 40 < trio.current_time() - start < 41
        assert (output.statistics().heartbeat_misses, output.statistics().link.reconnects) == (0, 0)
        assert peer.messages == [LARGE]


async def test_a_line_that_tells_nothing_is_judged_by_the_timeout_alone(
    link: Link, autojump_clock: MockClock
) -> None:
    async with open_peer() as peer, link.open(peer, tells=False) as output:
        start = trio.current_time()
        await output.send(LARGE)
        await output.flush()
        assert peer.connections[0].ended_at == start + 10.0
        assert output.statistics().heartbeat_misses == 1


async def test_a_line_that_stops_in_the_middle_is_found_one_look_and_the_timeout_later(
    link: Link, autojump_clock: MockClock
) -> None:
    async with open_peer() as peer, link.open(peer) as output:
        start = trio.current_time()
        link.lines[0].stops_at = start + 12.25
        await output.send(LARGE)
        await over(peer)
        # What passed at 12.2 is seen by the look at 12.5.
        assert peer.connections[0].ended_at == pytest.approx(start + 22.5)
        assert output.statistics().heartbeat_misses == 1
        await output.flush()
        assert peer.messages == [LARGE]


async def test_a_line_that_passes_nothing_is_found_the_timeout_after_the_ping(
    link: Link, autojump_clock: MockClock
) -> None:
    async with open_peer() as peer, link.open(peer) as output:
        start = trio.current_time()
        link.lines[0].stops_at = start
        await trio.sleep(3)
        await output.send("x")
        await over(peer)
        assert peer.connections[0].ended_at == start + 13.0


async def test_a_peer_that_has_everything_and_answers_nothing_is_found_the_timeout_after_that(
    link: Link, autojump_clock: MockClock
) -> None:
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=None))
        async with link.open(peer) as output:
            start = trio.current_time()
            await output.send("x" * 20_000)
            await over(peer)
            assert peer.messages == ["x" * 20_000]
            assert peer.connections[0].ended_at == pytest.approx(start + 20.5 + 10.0)
            await output.flush()


async def test_what_is_sent_behind_the_ping_puts_nothing_off(link: Link, autojump_clock: MockClock) -> None:
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=None))
        async with link.open(peer) as output:
            start = trio.current_time()
            await output.send("x")
            await trio.sleep(0.3)
            await output.send(LARGE)
            await over(peer)
            assert peer.connections[0].ended_at == start + 10.0
            await output.flush()


class SlowListener(trio.abc.Listener[SlowLine]):
    """Gives the streams of a listener in memory, each behind a slow line."""

    def __init__(self, listener: MemoryListener, nursery: trio.Nursery) -> None:
        self.lines: list[SlowLine] = []
        self._listener = listener
        self._nursery = nursery

    async def accept(self) -> SlowLine:
        line = SlowLine(await self._listener.accept())
        self._nursery.start_soon(line.run)
        self.lines.append(line)
        return line

    async def aclose(self) -> None:
        await self._listener.aclose()


@pytest.fixture
async def slow(listener: MemoryListener) -> AsyncIterator[SlowListener]:
    async with trio.open_nursery() as nursery:
        yield SlowListener(listener, nursery)
        nursery.cancel_scope.cancel()


SERVER: dict[str, Any] = {
    "mode": "server-output",
    "server": {"bind": "127.0.0.1:0"},
    "retry": {"timeout": "60s"},
    "heartbeat": PULSE,
}


async def admitted(listener: MemoryListener, output: trio_wsout.Output) -> PeerConnection:
    client = await listener.connect()
    await output.wait_peers(1)
    return client


async def test_a_message_for_a_peer_may_take_longer_than_the_timeout(
    listener: MemoryListener, slow: SlowListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(SERVER, listeners=[slow]) as output:
        client = await admitted(listener, output)
        start = trio.current_time()
        await output.send(LARGE)
        await output.flush()
        assert 40 < trio.current_time() - start < 41
        assert (output.statistics().heartbeat_misses, output.statistics().peers) == (0, 1)
        assert client.messages == [LARGE]


async def test_a_peer_whose_line_stops_in_the_middle_is_found_one_look_and_the_timeout_later(
    listener: MemoryListener, slow: SlowListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(SERVER, listeners=[slow]) as output:
        client = await admitted(listener, output)
        start = trio.current_time()
        slow.lines[0].stops_at = start + 12.25
        await output.send(LARGE)
        await output.flush()
        await client.wait_ended()
        assert client.ended_at == pytest.approx(start + 22.5)
        await trio.sleep(1)
        assert (output.statistics().heartbeat_misses, output.statistics().peers) == (1, 0)
