"""Small tools for waiting: a wakeup, a deadline that may come nearer, and a scope that an event cancels."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio
from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MovableDeadline", "Wakeup", "cancel_when", "earliest"]


# Every peer has one, and every event notifies some: a trio.Event, and the set in it, for each wait would cost more.
@define(eq=False, weakref_slot=False)
class Wakeup:
    """Wakes the one task that waits. Notifications while no task waits count as one, for the next wait."""

    _notified: bool = field(default=False, init=False)
    _waiting: trio.lowlevel.Task | None = field(default=None, init=False)

    def notify(self) -> None:
        """Wake the waiting task, or the next that waits."""
        self._notified = True
        if self._waiting is not None:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None

    async def wait(self) -> None:
        """Wait for a notification since the last `wait`."""
        if self._notified:
            await trio.lowlevel.checkpoint()
        else:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._notified = False

    def _abort(self, _: Callable[[], None]) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED


@define(eq=False)
class MovableDeadline:
    """Bounds the wait of one task by a deadline that other tasks may bring nearer meanwhile."""

    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)

    def until(self, deadline: float | None) -> trio.CancelScope:
        """Return a scope that ends at `deadline` (absolute seconds; None: never), or when that is brought nearer."""
        self._scope = trio.CancelScope(deadline=inf if deadline is None else deadline)
        return self._scope

    def no_later_than(self, deadline: float) -> None:
        """Bring the deadline of the latest scope nearer, if it is later."""
        self._scope.deadline = min(self._scope.deadline, deadline)


async def cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    """Cancel `scope` when `event` is set."""
    await event.wait()
    scope.cancel()


def earliest(*deadlines: float | None) -> float | None:
    """Return the earliest of some deadlines; None if none of them is set."""
    return min((each for each in deadlines if each is not None), default=None)
