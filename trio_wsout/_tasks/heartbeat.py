"""One task that watches the deadlines of many peers, so that none needs a task or a timer of its own."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

import trio

from trio_wsout._tasks.look import UNCONNECTED, Suspect, look
from trio_wsout._tasks.wakeup import MovableDeadline

__all__ = ["HandshakeDeadline", "HasDeadline", "HeartbeatTask"]

_STALE = 64
"""Entries of deadlines that have moved, or of watched that are gone, before the heap is cleared of them."""


class HasDeadline(Protocol):
    """Who has deadlines."""

    due: float
    """When `HeartbeatTask` will look at it; infinity: never. Only `HeartbeatTask` sets it."""

    ticket: int
    """Its number in the heap; 0: it has none. Only `HeartbeatTask` sets it."""

    @property
    def deadline(self) -> float | None:
        """When there is something to do; None: not before something else happens."""
        ...

    def poll(self) -> Suspect | None:
        """The deadline has come. Return who is to be judged; None: nobody, and what was due is done."""
        ...


class HeartbeatTask:
    """Looks at each watched when its time has come.

    Nobody is judged before all that lay in the socket has been read: this is the one place that sees to it.
    A deadline that moves away costs nothing: it is found out when the old one comes.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._watched: dict[int, HasDeadline] = {}
        self._tickets = count(1)
        self._alarm = MovableDeadline()

    def look_at(self, watched: HasDeadline) -> None:
        """Its deadline may be nearer than it was."""
        self.no_later_than(watched, watched.deadline)

    def no_later_than(self, watched: HasDeadline, deadline: float | None) -> None:
        """Look at it at this time at the latest; None: whenever it says."""
        if deadline is not None and deadline < watched.due:
            self._watched.pop(watched.ticket, None)
            watched.due, watched.ticket = deadline, next(self._tickets)
            self._watched[watched.ticket] = watched
            heappush(self._heap, (deadline, watched.ticket))
            self._clear()
            self._alarm.no_later_than(deadline)

    def forget(self, watched: HasDeadline) -> None:
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
            suspects: dict[HasDeadline, Suspect] = {}
            while self._heap and self._heap[0][0] <= now:
                watched = self._watched.pop(heappop(self._heap)[1], None)
                if watched is not None:
                    self._serve(watched, now, suspects)
            if suspects:
                await self._judge(suspects)

    def _serve(self, watched: HasDeadline, now: float, suspects: dict[HasDeadline, Suspect]) -> None:
        watched.due = inf
        deadline = watched.deadline
        suspect = watched.poll() if deadline is not None and deadline <= now else None
        if suspect is None:
            self.look_at(watched)
        else:
            suspects[watched] = suspect

    async def _judge(self, suspects: dict[HasDeadline, Suspect]) -> None:
        """Judge those whose time is over still, after one look for all of them."""
        found_room = await look([each.connection for each in suspects.values()])
        now = trio.current_time()
        for watched, suspect in suspects.items():
            if watched.due == -inf:  # it was forgotten meanwhile
                continue
            deadline = watched.deadline
            if deadline is not None and deadline <= now:
                suspect.judge(found_room=suspect.connection in found_room)
            self.look_at(watched)


class HandshakeDeadline:
    """The deadline of a handshake: what it bounds is cancelled once what lay in the socket by then has been read.

    A scope's own deadline would cancel at once, also where this process did not run and the answer is there. For as
    long as that is known to have been, the handshake gets more time. A `HasDeadline`.
    """

    __slots__ = ("_extended", "_heartbeat_task", "_scope", "deadline", "due", "ticket")

    def __init__(self, heartbeat_task: HeartbeatTask, deadline: float) -> None:
        """Have `heartbeat_task` look at it at the deadline; `end` is to be called when the handshake is over."""
        self.due = inf
        self.ticket = 0
        self.deadline: float | None = deadline
        self._heartbeat_task = heartbeat_task
        self._scope: trio.CancelScope | None = None
        self._extended = False
        heartbeat_task.look_at(self)

    def scope(self) -> trio.CancelScope:
        """Return a scope for the next part of the handshake; it is cancelled already where the time is over."""
        self._scope = scope = trio.CancelScope()
        if self.deadline is None:
            scope.cancel()
        return scope

    def end(self) -> None:
        """The handshake is over."""
        self._scope = None
        self._heartbeat_task.forget(self)

    def poll(self) -> Suspect:
        """Time is up."""
        return Suspect(UNCONNECTED, self._judge)

    def _judge(self, *, found_room: bool) -> None:
        del found_room  # of a handshake nobody knows
        now, deadline = trio.current_time(), self.deadline
        if deadline is not None and now > deadline and not self._extended:
            self.deadline = now + (now - deadline)
            self._extended = True
            return
        self.deadline = None
        if self._scope is not None:
            self._scope.cancel()
