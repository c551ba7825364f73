"""Two ways for one task to be woken by others: a bell, and an alarm whose time may come nearer."""

from __future__ import annotations

from math import inf

import trio

__all__ = ["MovableDeadline", "Wakeup", "earliest"]


class Wakeup:
    """Wakes the one task that waits; rings while nobody waits are kept, as one."""

    # Every peer has one, and every event rings some: without a trio.Event, and the set in it, for each wait.
    __slots__ = ("_rung", "_waiting")

    def __init__(self) -> None:
        self._rung = False
        self._waiting: trio.lowlevel.Task | None = None

    def notify(self) -> None:
        """Wake the waiting task, or the next that waits."""
        self._rung = True
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None

    async def wait(self) -> None:
        """Wait for a ring since the last `wait`."""
        if self._rung:
            await trio.lowlevel.checkpoint()
        else:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        self._rung = False

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


class MovableDeadline:
    """Bounds the wait of one task by a deadline that other tasks may bring nearer meanwhile."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()

    def until(self, deadline: float | None) -> trio.CancelScope:
        """A scope that ends at `deadline` (absolute seconds; None: never), or when that is brought nearer."""
        self._scope = trio.CancelScope(deadline=inf if deadline is None else deadline)
        return self._scope

    def no_later_than(self, deadline: float | None) -> None:
        """Bring the deadline of the latest scope nearer, if it is later."""
        if deadline is not None and deadline < self._scope.deadline:
            self._scope.deadline = deadline


def earliest(*deadlines: float | None) -> float | None:
    """The earliest of some deadlines; None: there is none."""
    return min((each for each in deadlines if each is not None), default=None)
