"""One item on its way to disk, and the task that waits for it in `send`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from attrs import define

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsout._tasks.intake import Item

__all__ = ["Sending"]


@define(eq=False)
class Sending:
    """An item that is not on disk yet."""

    item: Item
    kept: bytes
    """The event as it is kept; empty for a mark."""
    task: trio.lowlevel.Task | None = None
    """Who waits in `send`; None: nobody does."""
    writing: bool = False
    """Whether it is being written now: too late to take it back."""
    given_up: bool = False
    """Whether the task was cancelled while it was being written."""
    on_disk: bool | None = None
    """None: that is not decided."""
    _asleep: bool = False

    async def wait(self, take_back: Callable[[], object]) -> bool:
        """Wait until it is decided whether it is on disk; gives that.

        Cancelled before it is being written it is taken back, and has not been sent. After that the write is
        waited for: nobody could say what became of it.
        """

        def abort(_: object) -> trio.lowlevel.Abort:
            self.given_up = self.writing
            if self.writing:
                return trio.lowlevel.Abort.FAILED
            take_back()
            return trio.lowlevel.Abort.SUCCEEDED

        self.task = trio.lowlevel.current_task()
        while self.on_disk is None:
            self._asleep = True
            # One switch of tasks for each event is all that the wait costs; an event and a shielded scope cost three.
            await trio.lowlevel.wait_task_rescheduled(abort)
        return self.on_disk

    def wake(self) -> None:
        """Have the task look."""
        if self._asleep and self.task is not None:
            self._asleep = False
            trio.lowlevel.reschedule(self.task)
