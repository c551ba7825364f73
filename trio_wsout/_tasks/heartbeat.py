"""The heartbeat: one task watches the deadlines of all connections, so that none needs a task or a timer of its own.

No peer is judged by the clock alone. This process may have stood still, and the peer's answer may lie in the socket: so
everything that lies there is read first (`read_out`).
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from types import TracebackType
from typing import Protocol

import trio
from attrs import define, field

from trio_wsout._core.read_out import Motion, ReadOut
from trio_wsout._wire.connection import Connection

_STALE = 64
"""Entries of deadlines that moved, or that nobody has any more, before the heap is cleared of them."""
_UNCONNECTED = Motion(received=0, sent=0, reads=True, writes=False)
"""The motion of a handshake: it has no connection yet, and `read_out` takes as many turns of the loop for it."""


class Suspect(Protocol):
    """A peer whose deadline is over: it is judged once everything in its socket has been read."""

    @property
    def connection(self) -> Connection | None:
        """Its connection; None while its handshake is under way."""
        ...

    def judge(self, *, found_room: bool) -> None:
        """Act on the deadline, which is over still; `found_room` is whether a waiting write could go on."""


class HasDeadline(Protocol):
    """An object with deadlines."""

    due: float
    """The time of its next poll, infinity if none is planned. Only `HeartbeatTask` sets it."""

    ticket: int
    """Its number in the heap, 0 if it has none. Only `HeartbeatTask` sets it."""

    def next_deadline(self) -> float | None:
        """Return the time of the next poll (absolute seconds); None if there is nothing to wait for."""

    def poll(self) -> Suspect | None:
        """Act on the deadline, which is over; or return the peer that has to be judged for it."""


@define(eq=False)
class HeartbeatTask:
    """Polls each watched object when its deadline is over.

    A deadline that moves to a later time costs nothing: the object is asked for it when the old time comes.
    """

    _heap: list[tuple[float, int]] = field(factory=list[tuple[float, int]], init=False)
    _watched: dict[int, HasDeadline] = field(factory=dict[int, HasDeadline], init=False)
    _tickets: count[int] = field(factory=lambda: count(1), init=False)
    _sleep: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Bounds the sleep until the earliest deadline."""

    def reschedule(self, watched: HasDeadline) -> None:
        """Take note of a deadline that may be nearer than it was."""
        self.no_later_than(watched, watched.next_deadline())

    def no_later_than(self, watched: HasDeadline, deadline: float | None) -> None:
        """Poll an object at `deadline` (absolute seconds) at the latest; None changes nothing."""
        if deadline is not None and deadline < watched.due:
            self._watched.pop(watched.ticket, None)
            watched.due, watched.ticket = deadline, next(self._tickets)
            self._watched[watched.ticket] = watched
            heappush(self._heap, (deadline, watched.ticket))
            self._drop_stale()
            self._sleep.deadline = min(self._sleep.deadline, deadline)

    def forget(self, watched: HasDeadline) -> None:
        """Never poll an object again, and keep no reference to it."""
        self._watched.pop(watched.ticket, None)
        watched.due = -inf
        self._drop_stale()

    def _drop_stale(self) -> None:
        """Clear the heap of stale entries once they outnumber the others."""
        if len(self._heap) > 2 * len(self._watched) + _STALE:
            self._heap = [each for each in self._heap if each[1] in self._watched]
            heapify(self._heap)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._sleep = trio.CancelScope(deadline=self._heap[0][0] if self._heap else inf)
            with self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            suspects: dict[HasDeadline, Suspect] = {}
            while self._heap and self._heap[0][0] <= now:
                watched = self._watched.pop(heappop(self._heap)[1], None)
                if watched is not None:
                    self._poll(watched, now, suspects)
            if suspects:
                await self._judge(suspects)

    def _poll(self, watched: HasDeadline, now: float, suspects: dict[HasDeadline, Suspect]) -> None:
        watched.due = inf
        deadline = watched.next_deadline()
        suspect = watched.poll() if deadline is not None and deadline <= now else None
        if suspect is None:
            self.reschedule(watched)
        else:
            suspects[watched] = suspect

    async def _judge(self, suspects: dict[HasDeadline, Suspect]) -> None:
        """Read what lies in the sockets of all suspects, then judge those whose deadlines are still over."""
        found_room = await read_out([each.connection for each in suspects.values()])
        now = trio.current_time()
        for watched, suspect in suspects.items():
            if watched.due == -inf:  # it was forgotten meanwhile
                continue
            deadline = watched.next_deadline()
            if deadline is not None and deadline <= now:
                suspect.judge(found_room=suspect.connection in found_room)
            self.reschedule(watched)


async def read_out(connections: Iterable[Connection | None]) -> set[Connection | None]:
    """Wait until everything that lies in the sockets of these connections has been read by their readers (`_core.read_out`).

    It takes a bounded number of turns of the loop, whatever the peers do meanwhile. None stands for a handshake.

    Returns:
        The connections whose peers took more of a write that waited for room.
    """
    read_outs = {
        each: ReadOut(_motion(each), unread_bytes=None if each is None else each.unread_bytes)
        for each in connections
    }
    going = [each for each in read_outs if _is_open(each)]
    while going:
        await trio.lowlevel.checkpoint()
        going = [each for each in going if _is_open(each) and not read_outs[each].turned(_motion(each))]
    return {each for each, done in read_outs.items() if done.found_room}


def _motion(connection: Connection | None) -> Motion:
    return _UNCONNECTED if connection is None else connection.motion


def _is_open(connection: Connection | None) -> bool:
    return connection is None or connection.disconnection is None


@define(eq=False)
class HandshakeDeadline:
    """Cancels the block once its time is over, and everything that lay in the socket by then was read.

    A scope's own deadline would cancel even if this process did not run for a while and the answer came. For as
    long as it is known not to have run, the handshake gets more time, once. A `HasDeadline` and a `Suspect`.
    """

    _heartbeat_task: HeartbeatTask
    _deadline: float | None
    connection: None = field(default=None, init=False)
    due: float = field(default=inf, init=False)
    ticket: int = field(default=0, init=False)
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _extended: bool = field(default=False, init=False)

    def __enter__(self) -> None:
        self._heartbeat_task.reschedule(self)
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._heartbeat_task.forget(self)
        return bool(self._scope.__exit__(kind, error, trace))

    def next_deadline(self) -> float | None:
        """Return when the handshake has to be over; None once it is given up."""
        return self._deadline

    def poll(self) -> Suspect:
        """Return itself to be judged."""
        return self

    def judge(self, *, found_room: bool) -> None:
        """Give the handshake more time, once, or cancel it."""
        del found_room  # a handshake has no waiting write
        now, deadline = trio.current_time(), self._deadline
        if deadline is not None and now > deadline and not self._extended:
            self._deadline = now + (now - deadline)
            self._extended = True
        else:
            self._deadline = None
            self._scope.cancel()
