"""What comes next where several outputs share a log: what the log says, whoever appended it (SPEC 11).

A journal appends its items, and hands them over when they come round in the log, between the events of other outputs. So all
outputs have one order. The items wait here meanwhile, with their receipts, and the marks behind them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from attrs import define, field

from trio_wsout._core.acknowledgement import stamp_of
from trio_wsout._core.durable_log import Entry, Extent
from trio_wsout._core.message import Accepted
from trio_wsout._core.run_format import DamageError
from trio_wsout._core.shared_log import Arrival
from trio_wsout._tasks.ledger import Coming, Item, Stretch
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.stores.log import SharedLog

_log = logging.getLogger("trio_wsout")

_OWN = 8
"""Commits that have not come round, before the next one waits."""


@define(eq=False)
class Following:
    """Turns what comes next in a shared log into items for the sender."""

    store: SharedLog
    _revive: Callable[[Entry], Accepted]
    """Returns an event of another output as it goes to peers."""
    _by_stamp: bool
    """Whether stamps are the cursors."""
    _epoch: int = field(default=0, init=False)
    _position: int = field(default=0, init=False)
    """Position of the last event that was handed over."""
    _cursor: str | None = field(default=None, init=False)
    """The cursor of that event; None if it has none, or there was none."""
    _incomplete: bool = field(default=False, init=False)
    """Whether events behind it are damaged."""
    _own: deque[list[Item]] = field(factory=deque[list[Item]], init=False)
    """The items of each commit of this output that has not come round, with the marks behind it."""
    _came_round: Wakeup = field(factory=Wakeup, init=False)
    foreign: int = field(default=0, init=False)
    """Events of other outputs that came."""

    def begin(self, extent: Extent) -> None:
        """Begin behind the tail of the log."""
        self._epoch, self._position = extent.epoch, extent.tail

    @property
    def own(self) -> list[Item]:
        """The items of this output that have not come round."""
        return [item for run in self._own for item in run]

    def add(self, items: Sequence[Item]) -> None:
        """Keep the items of a commit, which is appended now, until they come round."""
        self._own.append(list(items))

    def stay_behind(self, marks: Sequence[Item]) -> bool:
        """Keep marks with the latest commit; return false if all have come round, so that nothing is before the marks."""
        if self._own:
            self._own[-1] += marks
        return bool(self._own)

    async def wait_for_few(self) -> None:
        """Wait until only a few commits have not come round."""
        while len(self._own) >= _OWN:
            await self._came_round.wait()

    async def next(self) -> Sequence[Arrival]:
        """Wait for what comes next.

        Raises:
            HistoryError: The log can't be read, and waiting does not help.
        """
        return await self.store.follow()

    def items(self, arrival: Arrival) -> list[Coming]:
        """Return what comes next, as the sender takes it."""
        own: list[Item] = []
        events: Sequence[Accepted] = ()
        if arrival.own:
            own = self._own.popleft()
            self._came_round.notify()
            events = [item for item in own if isinstance(item, Accepted)]
        elif arrival.last >= arrival.first:
            events = self._events_of_others(arrival)
            self.foreign += len(events)
        gap = arrival.gap or self._incomplete
        stretch = Stretch(
            epoch=arrival.epoch,
            first=arrival.first,
            foreign=0 if arrival.own else len(events),
            gap=(self._cursor, self._first_cursor(arrival, events)) if gap else None,
        )
        as_it_was = (arrival.epoch, arrival.first) == (self._epoch, self._position + 1)
        self._epoch, self._position = arrival.epoch, arrival.first + len(events) - 1
        self._incomplete = self._position < arrival.last
        if events:
            self._cursor = self._cursor_of(events[-1], self._position)
        if as_it_was and not gap and arrival.own:
            return [*own]
        return [stretch, *(own or events)]

    def _events_of_others(self, arrival: Arrival) -> Sequence[Accepted]:
        """Return the events of other outputs, up to the first damaged one."""
        try:
            entries = arrival.entries()
        except DamageError as error:
            _log.error("history %s: %s; peers are told of a gap", self.store.location, error)
            return ()
        return [self._revive(entry) for entry in entries]

    def _first_cursor(self, arrival: Arrival, events: Sequence[Accepted]) -> str | None:
        if self._by_stamp:
            return stamp_of(arrival.epoch, arrival.first) if events else None
        return next((event.cursor for event in events if event.cursor is not None), None)

    def _cursor_of(self, event: Accepted, position: int) -> str | None:
        return stamp_of(self._epoch, position) if self._by_stamp else event.cursor
