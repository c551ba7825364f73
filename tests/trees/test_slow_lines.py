"""Lines that take everything at once and pass it on slowly, or not at all: exact times on the mock clock."""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import trio
from tests.trees.conftest import open_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

RATE = 1000
"""Bytes a second of a slow line."""
_TICK = 0.1
"""Seconds between two steps of it."""
FIELDS: dict[str, Any] = {
    "heartbeat": {"ping-interval": "20s", "timeout": "10s"},
    "retry": {"timeout": "60s"},
}
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


class Lines:
    """Slow lines around the streams of an output; those of a link that comes again are fast."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.tell = True
        """Whether a line tells how much it has passed."""
        self.first: SlowLine | None = None
        self._nursery = nursery

    def through(self, stream: trio.abc.Stream) -> SlowLine:
        line = SlowLine(stream, rate=1000 * RATE if self.first else RATE, tells=self.tell)
        self.first = self.first or line
        self._nursery.start_soon(line.run)
        return line

    def stop_at(self, when: float) -> None:
        """Let the first line pass nothing more on from then on."""
        assert self.first is not None
        self.first.stops_at = when


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    async with trio.open_nursery() as nursery:
        yield Lines(nursery)
        nursery.cancel_scope.cancel()


async def test_a_message_that_takes_longer_than_the_timeout_arrives(
    role: str, lines: Lines, autojump_clock: MockClock
) -> None:
    async with open_session(role, through=lines.through, **FIELDS) as (output, remote):
        start = trio.current_time()
        await output.send(LARGE)
        await output.flush()
        assert 40 < trio.current_time() - start < 41
        assert (output.statistics().heartbeat_misses, output.statistics().peers) == (0, 1)
        assert remote.messages == [LARGE]


async def test_a_line_that_tells_nothing_is_judged_by_the_timeout_alone(
    role: str, lines: Lines, autojump_clock: MockClock
) -> None:
    lines.tell = False
    async with open_session(role, through=lines.through, **FIELDS) as (output, remote):
        start = trio.current_time()
        await output.send(LARGE)
        await output.flush()
        await remote.wait_ended()
        assert remote.ended_at == start + 10.0
        assert output.statistics().heartbeat_misses == 1


async def test_a_line_that_stops_in_the_middle_is_found_one_look_and_the_timeout_later(
    role: str, lines: Lines, autojump_clock: MockClock
) -> None:
    async with open_session(role, through=lines.through, **FIELDS) as (output, remote):
        start = trio.current_time()
        lines.stop_at(start + 12.25)
        await output.send(LARGE)
        await remote.wait_ended()
        # What passed at 12.2 is seen by the look at 12.5.
        assert remote.ended_at == pytest.approx(start + 22.5)
        await output.flush()
        await trio.sleep(1)
        assert output.statistics().heartbeat_misses == 1


async def test_a_line_that_passes_nothing_is_found_the_timeout_after_the_ping(
    role: str, lines: Lines, autojump_clock: MockClock
) -> None:
    async with open_session(role, through=lines.through, **FIELDS) as (output, remote):
        start = trio.current_time()
        lines.stop_at(start)
        await trio.sleep(3)
        await output.send("x")
        await remote.wait_ended()
        assert remote.ended_at == start + 13.0


async def test_a_peer_that_has_everything_and_answers_nothing_is_found_the_timeout_after_that(
    role: str, lines: Lines, autojump_clock: MockClock
) -> None:
    async with open_session(role, through=lines.through, **FIELDS) as (output, remote):
        remote.pong_after = None
        start = trio.current_time()
        await output.send("x" * 20_000)
        await remote.wait_ended()
        assert remote.messages == ["x" * 20_000]
        assert remote.ended_at == pytest.approx(start + 20.5 + 10.0)
        await output.flush()


async def test_what_is_sent_behind_the_ping_puts_nothing_off(
    role: str, lines: Lines, autojump_clock: MockClock
) -> None:
    async with open_session(role, through=lines.through, **FIELDS) as (output, remote):
        remote.pong_after = None
        start = trio.current_time()
        await output.send("x")
        await trio.sleep(0.3)
        await output.send(LARGE)
        await remote.wait_ended()
        assert remote.ended_at == start + 10.0
        await output.flush()
