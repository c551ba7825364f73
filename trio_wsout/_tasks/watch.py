"""One task that watches the deadlines of many peers, so that none needs a task or a timer of its own."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

import trio

from trio_wsout._tasks.waking import Alarm

__all__ = ["Watch", "Watched"]

_STALE = 64
"""Entries of deadlines that have moved, or of watched that are gone, before the heap is cleared of them."""


class Watched(Protocol):
    """Who has deadlines."""

    due: float
    """When `Watch` will look at it; infinity: never. Only `Watch` sets it."""

    ticket: int
    """Its number in the heap; 0: it has none. Only `Watch` sets it."""

    @property
    def deadline(self) -> float | None:
        """When there is something to do; None: not before something else happens."""
        ...

    def poll(self) -> None:
        """The deadline has come."""
        ...


class Watch:
    """Looks at each watched when its time has come.

    A deadline that moves away costs nothing: it is found out when the old one comes.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._watched: dict[int, Watched] = {}
        self._tickets = count(1)
        self._alarm = Alarm()

    def look_at(self, watched: Watched) -> None:
        """Its deadline may be nearer than it was."""
        self.no_later_than(watched, watched.deadline)

    def no_later_than(self, watched: Watched, deadline: float | None) -> None:
        """Look at it at this time at the latest; None: whenever it says."""
        if deadline is not None and deadline < watched.due:
            self._watched.pop(watched.ticket, None)
            watched.due, watched.ticket = deadline, next(self._tickets)
            self._watched[watched.ticket] = watched
            heappush(self._heap, (deadline, watched.ticket))
            self._clear()
            self._alarm.no_later_than(deadline)

    def forget(self, watched: Watched) -> None:
        """Never look at it again, and keep nothing of it."""
        self._watched.pop(watched.ticket, None)
        watched.due = -inf
        self._clear()

    def _clear(self) -> None:
        """Clear the heap of what is stale, once that is more than what is not."""
        if len(self._heap) > 2 * len(self._watched) + _STALE:
            self._heap = [each for each in self._heap if each[1] in self._watched]
            heapify(self._heap)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with self._alarm.until(self._heap[0][0] if self._heap else None):
                await trio.sleep_forever()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                watched = self._watched.pop(heappop(self._heap)[1], None)
                if watched is not None:
                    self._serve(watched, now)

    def _serve(self, watched: Watched, now: float) -> None:
        watched.due = inf
        deadline = watched.deadline
        if deadline is not None and deadline <= now:
            watched.poll()
        self.look_at(watched)
