"""The line before the disk: its sources, and what each of them is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio_wsout._core.message import Accepted
from trio_wsout._tasks.uncommitted import OVERHEAD, DiskEntry

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout._tasks.uncommitted import DiskSource


class NothingBehind:
    """A backlog that nobody has to wait for."""

    async def wait_remembering(self, item: object) -> None:
        await trio.lowlevel.checkpoint()


def entry_of(most_bytes: int = 1 << 20) -> DiskEntry:
    backlog: Any = NothingBehind()
    return DiskEntry(most_bytes, backlog)


def event(number: int, size: int = 0) -> Accepted:
    return Accepted(b"x" * size, number)


async def test_a_source_waits_while_so_many_of_its_items_are_not_on_disk_and_no_other_does(
    autojump_clock: MockClock,
) -> None:
    entry = entry_of()
    small, other = entry.clone(2), entry.clone(2)
    for number in range(2):
        small.send_nowait(event(number))
    with pytest.raises(trio.WouldBlock):
        small.send_nowait(event(2))
    other.send_nowait(event(10))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(small.send, event(2))
        await trio.testing.wait_all_tasks_blocked()
        assert (len(small), len(other), len(entry)) == (2, 1, 3)
        assert [each.event for each in entry.take(1 << 20)] == [0, 1, 10]
        entry.give_back()
        await trio.testing.wait_all_tasks_blocked()
        assert len(small) == 2, "nothing is on disk yet"
        entry.take(1 << 20)
        entry.taken()
        await trio.testing.wait_all_tasks_blocked()
        assert (len(small), len(other)) == (1, 0)
    assert [each.event for each in entry.take(1 << 20)] == [2]


async def test_a_source_is_empty_once_all_of_its_items_are_on_disk(autojump_clock: MockClock) -> None:
    entry = entry_of()
    one, other = entry.clone(9), entry.clone(9)
    await one.wait_empty()
    one.send_nowait(event(0, 100))
    one.send_nowait(event(1, 100))
    other.send_nowait(event(2))
    empty: list[str] = []

    async def wait(name: str, source: DiskSource) -> None:
        await source.wait_empty()
        empty.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "one", one)
        nursery.start_soon(wait, "other", other)
        for expected in ([], ["one", "other"]):
            entry.take(100 + OVERHEAD if not expected else 1 << 20)
            entry.taken()
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(empty) == expected


async def test_a_source_that_waits_hears_that_nothing_is_taken_any_more(autojump_clock: MockClock) -> None:
    entry = entry_of()
    source = entry.clone(1)
    source.send_nowait(event(0))
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await source.send(event(1))

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert [each.event for each in entry.close()] == [0]
    with pytest.raises(trio.BrokenResourceError):
        source.send_nowait(event(2))


async def test_a_send_of_a_source_that_is_cancelled_has_sent_nothing(autojump_clock: MockClock) -> None:
    entry = entry_of()
    source = entry.clone(1)
    source.send_nowait(event(0))
    with trio.move_on_after(1) as scope:
        await source.send(event(1))
    assert scope.cancelled_caught
    entry.take(1 << 20)
    entry.taken()
    assert (len(source), len(entry)) == (0, 0)


class LineMachine(RuleBasedStateMachine):
    """Sources, the journal that takes and commits, or gives back, against one list for each thing."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = entry_of()
        self.sources = [self.entry.clone(3) for _ in range(3)]
        self.line: list[tuple[int, int]] = []
        self.taken = 0
        self.on_disk: list[int] = []
        self.number = 0

    @rule(source=st.integers(0, 2), size=st.sampled_from([0, 100, 5000]))
    def send(self, source: int, size: int) -> None:
        waiting = sum(each == source for each, _ in self.line)
        try:
            self.sources[source].send_nowait(event(self.number, size))
        except trio.WouldBlock:
            assert waiting == 3
        else:
            assert waiting < 3
            self.line.append((source, self.number))
        self.number += 1

    @precondition(lambda self: self.line and not self.taken)
    @rule(room=st.sampled_from([0, 200, 1 << 20]))
    def take(self, room: int) -> None:
        run = self.entry.take(room)
        self.taken = len(run)
        assert self.taken, "at least one"
        assert [each.event for each in run if isinstance(each, Accepted)] == [
            number for _, number in self.line[: self.taken]
        ]
        size = sum(OVERHEAD + len(each.payload) for each in run if isinstance(each, Accepted))
        assert self.taken == 1 or size <= room

    @precondition(lambda self: self.taken)
    @rule(fits=st.booleans())
    def decide(self, *, fits: bool) -> None:
        if fits:
            trio.run(self.commit)
            self.on_disk += [number for _, number in self.line[: self.taken]]
            del self.line[: self.taken]
        else:
            self.entry.give_back()
        self.taken = 0

    async def commit(self) -> None:
        await trio.lowlevel.checkpoint()
        self.entry.taken()

    @invariant()
    def each_is_told_what_is_not_on_disk(self) -> None:
        assert len(self.entry) == len(self.line)
        for source, each in enumerate(self.sources):
            assert len(each) == sum(one == source for one, _ in self.line)
        assert self.on_disk == sorted(self.on_disk)


TestLine = LineMachine.TestCase
