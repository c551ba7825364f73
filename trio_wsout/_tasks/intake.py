"""The intake: what `send` accepted waits here for the sender, who may take all of it at once.

A memory channel does the same one event at a time. Then putting and taking cost more than encoding
the event does, so this one gives what it has as a whole.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio
from attrs import define

from trio_wsout._core.message import Accepted
from trio_wsout._tasks.ledger import Flush
from trio_wsout._tasks.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_wsout._core.message import Fate

__all__ = ["BatchEnd", "DocumentEnd", "Intake", "Item", "Mark"]


@define(eq=False)
class DocumentEnd:
    """Mark in the intake: the document ends here."""

    fate: Fate | None = None
    """Who waits for the end."""

    def abandon(self) -> None:
        """The output has ended: nobody will say that the document has."""
        if self.fate is not None:
            self.fate.failed("the output ended before the document did")


@define(eq=False)
class BatchEnd:
    """Mark in the intake: the batch ends here."""

    def abandon(self) -> None:
        """The output has ended; nobody waits for a batch."""


Mark = DocumentEnd | BatchEnd | Flush
"""What stands between events."""

Item = Accepted | Mark
"""What travels from ``send`` to the sender."""


@define(eq=False)
class _Waiting:
    """Who waits in `send` for room, and with what."""

    item: Item
    task: trio.lowlevel.Task
    refused: bool = False
    """Whether it never will be let in."""


class Intake:
    """A bounded queue with one taker. Who waits for room is let in in the order of waiting."""

    def __init__(self, most: int) -> None:
        """Let at most `most` items wait, beside those of who waits in `send`."""
        self._most = most
        self._items: deque[Item] = deque()
        self._outside: deque[_Waiting] = deque()
        self._wakeup = Wakeup()
        self._closed = False
        self.offer_first: Callable[[Item], bool] | None = None
        """Who is offered an item that comes where nothing waits; gives whether it was taken. None: nobody."""

    # -- who puts -----------------------------------------------------------------------------------------

    def send_nowait(self, value: Item) -> None:
        """Put an item.

        Raises:
            trio.WouldBlock: There is no room.
            trio.BrokenResourceError: Nobody takes any more.
        """
        items = self._items
        if len(items) >= self._most:  # so it is, too, when nobody takes any more
            raise trio.BrokenResourceError if self._closed else trio.WouldBlock
        if not items:
            if self.offer_first is not None and self.offer_first(value):
                return
            self._wakeup.notify()
        items.append(value)

    async def send(self, value: Item) -> None:
        """Put an item; waits for room. Cancelled, it has put none.

        Raises:
            trio.BrokenResourceError: Nobody takes any more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self.send_nowait(value)
        except trio.WouldBlock:
            await self._wait(_Waiting(value, trio.lowlevel.current_task()))
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _wait(self, waiting: _Waiting) -> None:
        def leave(_: object) -> trio.lowlevel.Abort:
            # Called in the moment of the cancellation: who was let in before it is not cancelled here any more.
            self._outside.remove(waiting)
            return trio.lowlevel.Abort.SUCCEEDED

        self._outside.append(waiting)
        await trio.lowlevel.wait_task_rescheduled(leave)
        if waiting.refused:
            raise trio.BrokenResourceError

    # -- who takes ----------------------------------------------------------------------------------------

    @property
    def waiting(self) -> Sequence[Item]:
        """What can be taken now, oldest first; not to be kept."""
        return self._items

    def take(self, count: int) -> list[Item]:
        """Take so many of `waiting`."""
        items = self._items
        if count == len(items):  # nearly always; it takes a tenth of the time
            taken = list(items)
            items.clear()
        else:
            taken = [items.popleft() for _ in range(count)]
        outside = self._outside
        while outside and len(items) < self._most:
            first = outside.popleft()
            items.append(first.item)
            trio.lowlevel.reschedule(first.task)
        return taken

    def receive_nowait(self) -> Item:
        """Take the next item; raises trio.WouldBlock when none waits."""
        if not self._items:
            raise trio.WouldBlock
        return self.take(1)[0]

    async def receive(self) -> Item:
        """Wait for the next item; cancelled, it has taken none."""
        await self.wait()
        return self.receive_nowait()

    async def wait(self) -> None:
        """Wait until something can be taken."""
        # Waiting is a checkpoint by itself, and one turn of the loop later is when a lone event is late.
        if self._items:
            await trio.lowlevel.checkpoint()
        while not self._items:
            await self._wakeup.wait()

    def close(self) -> None:
        """Nobody takes any more, or puts; what waits can still be taken."""
        self._closed = True
        self._most = 0
        self.offer_first = None
        while self._outside:
            waiting = self._outside.popleft()
            waiting.refused = True
            trio.lowlevel.reschedule(waiting.task)
