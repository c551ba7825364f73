"""A log in memory that several outputs share, for tests on the mock clock: the engine, and the store of one output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from attrs import define, evolve, field
from trio_wsout._core.acknowledgement import position_in
from trio_wsout._core.run_format import DamageError
from trio_wsout.errors import HistoryError
from trio_wsout.stores.log import Arrival, Entry, Extent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@define(eq=False)
class Stored:
    """A run of events, or the beginning of an epoch (``events`` is empty)."""

    epoch: int
    first: int
    events: list[Entry]
    node: object
    gap: bool = False
    """Whether events may be missing before it."""
    sound: int | None = None
    """Events of the run that can be read, for other outputs; None if all can."""
    behind: int = 0
    """Of the beginning of an epoch: the position before it."""

    @property
    def last(self) -> int:
        return self.first + len(self.events) - 1


@define(eq=False)
class Engine:
    """What outputs share. Each call takes `takes` seconds, half of them before anything happens."""

    takes: float = 0.0
    runs: list[Stored] = field(factory=list, init=False)
    epoch: int = field(default=1, init=False)
    tail: int = field(default=0, init=False)
    floor: int = field(default=0, init=False)
    away: str | None = field(default=None, init=False)
    """Why every call waits; None if none does."""
    refuses: str | None = field(default=None, init=False)
    """Why every call fails; None if none does."""
    changed: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    nodes: list[Node] = field(factory=list, init=False)

    def node(self) -> Node:
        """Return the store of another output."""
        self.nodes.append(Node(self))
        return self.nodes[-1]

    def leaves(self, why: str = "the engine can't be reached") -> None:
        """Answer nothing until `comes_back`."""
        self.away = why

    def comes_back(self) -> None:
        self.away = None
        self.changed.unpark_all()

    def begins_epoch(self, *, lost: int = 0, kept: bool = True) -> None:
        """Begin the next epoch, as after a restart: that lost the newest events, or kept none."""
        for _ in range(lost):
            self.runs[-1].events.pop()
            if not self.runs[-1].events:
                del self.runs[-1]
        if not kept:
            self.runs.clear()
        before = self.runs[-1].last if self.runs else self.floor
        behind, self.tail = before, self.tail + 1000
        self.epoch += 1
        if not self.runs:
            self.floor = self.tail
        gap = bool(lost) or not kept
        self.runs.append(Stored(self.epoch, self.tail + 1, [], None, gap=gap, behind=-1 if gap else behind))
        self.changed.unpark_all()

    def trims(self, upto: int) -> None:
        """Remove events up to a position."""
        self.floor = upto
        for run in self.runs:
            run.events = [each for each in run.events if each.position > upto]
            if run.events:
                run.first = run.events[0].position
        self.runs = [run for run in self.runs if run.events or run.first > upto]

    @property
    def entries(self) -> list[Entry]:
        return [each for run in self.runs for each in run.events]


@define(eq=False)
class Node:
    """The `SharedLog` of one output."""

    engine: Engine
    location: str = "engine"
    lag: int = 0
    waiting: str | None = None
    read: tuple[int, int] = (0, 0)
    """Epoch and position up to which it has read."""
    unanswered: bool = False
    """Whether appends are done and get no answer until the engine is back."""
    held: bool = False
    """Whether `follow` gets nothing."""
    own: list[list[Entry]] = field(factory=list)
    """Its runs that have not come round."""
    running: bool = False
    closed: bool = False

    @property
    def extent(self) -> Extent:
        engine, events = self.engine, self.engine.entries
        size = sum([len(each.payload) for each in events])
        holes = engine.tail - engine.floor - len(events)
        return Extent(epoch=engine.epoch, floor=engine.floor, tail=engine.tail, size=size, holes=holes)

    async def _wait(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError
        await trio.sleep(self.engine.takes / 2)
        await self._wait_for_engine()

    async def _wait_for_engine(self) -> None:
        try:
            while self.engine.away is not None:
                self.waiting = self.engine.away
                await self.engine.changed.park()
        finally:
            self.waiting = None
        if self.engine.refuses is not None:
            raise HistoryError(self.engine.refuses)

    async def _call(self, does: Callable[[], object]) -> None:
        await self._wait()
        does()
        await trio.sleep(self.engine.takes / 2)

    async def open(self, epoch: int, *, keep_epoch: bool = False) -> Extent:
        del epoch, keep_epoch
        await self._wait()
        self.read = (self.engine.epoch, self.engine.tail)
        return self.extent

    async def run(self) -> None:
        self.running = True
        try:
            await trio.sleep_forever()
        finally:
            self.running = False

    async def append(self, run: Sequence[Entry], settled: int = 0) -> Extent:
        del settled
        self.own.append(list(run))

        def store() -> None:
            engine = self.engine
            first = engine.tail + 1
            events = [evolve(each, position=n, epoch=engine.epoch) for n, each in enumerate(run, first)]
            engine.tail += len(run)
            engine.runs.append(Stored(engine.epoch, first, events, self))
            engine.changed.unpark_all()

        if self.unanswered:
            store()
            await self._wait_for_engine()
            return self.extent
        await self._call(store)
        return self.extent

    async def follow(self) -> Sequence[Arrival]:
        while True:
            await self._wait()
            if not self.held and (found := self._next()):
                return found
            await self.engine.changed.park()

    def _next(self) -> list[Arrival]:
        found: list[Arrival] = []
        for run in self.engine.runs:
            epoch, position = self.read
            if run.epoch < epoch or (run.last <= position and run.epoch == epoch):
                continue
            gap = run.gap and run.behind != position
            if run.epoch == epoch and run.events:
                gap = run.first != position + 1
            elif not run.events and not run.gap:
                gap = run.behind != position
            own = run.node is self
            if own:
                del self.own[0]
            events = list(run.events)
            found.append(_Arrival.made(run, events, own=own, gap=gap))
            self.read = (run.epoch, run.last)
        return found

    async def adjacent(self, position: int, following: int) -> bool:
        await self._wait()
        for run in self.engine.runs:
            if not run.events and run.behind == position:
                position = run.last
            elif position < run.last and run.first < following:
                return False
        return position == following - 1

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        del most_bytes
        await self._wait()
        found = [each for each in self.engine.entries if each.position > position][:most]
        await trio.sleep(self.engine.takes / 2)
        return found

    async def find(self, cursor: str) -> int | None:
        await self._wait()
        named = position_in(cursor)
        for each in reversed(self.engine.entries):
            if each.cursor == cursor or (each.epoch, each.position) == named:
                return each.position
        return None

    async def trim(self, now: float) -> Extent:
        del now
        await self._wait()
        return self.extent

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


class _Arrival(Arrival):
    """An arrival that holds its entries."""

    _events: list[Entry]

    @classmethod
    def made(cls, run: Stored, events: list[Entry], *, own: bool, gap: bool) -> _Arrival:
        arrival = cls(epoch=run.epoch, first=run.first, last=run.last, own=own, gap=gap)
        object.__setattr__(arrival, "_events", events[: run.sound])
        return arrival

    def entries(self) -> list[Entry]:
        if not self._events:
            raise DamageError("events are damaged")
        return self._events
