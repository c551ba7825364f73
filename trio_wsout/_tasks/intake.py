"""The intake: accepted events wait here for the sender, which takes all of them in one go.

A memory channel would pass one event at a time, and that costs more than encoding the event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import trio
from attrs import define, field

from trio_wsout._core.message import Accepted, Fate
from trio_wsout._tasks.ledger import Flush
from trio_wsout._tasks.wakeup import Wakeup

__all__ = ["BatchEnd", "DocumentEnd", "Entry", "Intake", "Item", "Mark", "Source"]


@define(eq=False)
class DocumentEnd:
    """Mark between events: the document ends here."""

    fate: Fate | None = None
    """Confirmed when the end of the document is; None if no task waits for that."""

    def abandon(self) -> None:
        """Fail the fate, because the output ended first."""
        if self.fate is not None:
            self.fate.failed("the output ended before the document did")


@define(eq=False)
class BatchEnd:
    """Mark between events: the batch ends here."""

    def abandon(self) -> None:
        """Do nothing: nobody waits for the end of a batch."""


Mark = DocumentEnd | BatchEnd | Flush
"""A mark between events."""

Item = Accepted | Mark
"""An event, or a mark between events, on its way from ``send`` to the sender."""


class Entry(Protocol):
    """Takes the items that `Output` accepts."""

    def send_nowait(self, value: Item) -> None:
        """Put an item.

        Raises:
            trio.WouldBlock: There is no room.
            trio.BrokenResourceError: Nothing is taken any more.
        """

    async def send(self, value: Item) -> None:
        """Put an item, waiting for room; raises trio.BrokenResourceError as `send_nowait` does."""


class Source(Protocol):
    """A queue from which the sender takes items."""

    async def receive(self) -> Item:
        """Return the next item, waiting for one; if this is cancelled, no item is lost."""
        ...

    def receive_nowait(self) -> Item:
        """Return the next item; raises trio.WouldBlock if none waits."""
        ...


@define(eq=False)
class _Waiting:
    """A task that waits in `Intake.send` for room."""

    item: Item
    task: trio.lowlevel.Task
    refused: bool = False
    """Whether it was woken because there will never be room."""


@define(eq=False)
class Intake:
    """A bounded queue with one taker; an `Entry` and a `Source`. Tasks that wait for room get it in their order."""

    _most: int
    """Items that may wait, beside those of tasks that wait for room."""
    offer_first: Callable[[Item], bool] | None = field(default=None, init=False)
    """Called with an item that comes while nothing waits; returns whether it took the item. None if every item waits."""
    _items: deque[Item] = field(factory=deque[Item], init=False)
    _outside: deque[_Waiting] = field(factory=deque[_Waiting], init=False)
    _wakeup: Wakeup = field(factory=Wakeup, init=False)
    _closed: bool = field(default=False, init=False)

    # -- putting ------------------------------------------------------------------------------------------

    def send_nowait(self, value: Item) -> None:
        """Put an item; raises as `Entry.send_nowait` does."""
        items = self._items
        if len(items) >= self._most:  # true, too, once it is closed
            raise trio.BrokenResourceError if self._closed else trio.WouldBlock
        if not items:
            if self.offer_first is not None and self.offer_first(value):
                return
            self._wakeup.notify()
        items.append(value)

    async def send(self, value: Item) -> None:
        """Put an item, waiting for room; if this is cancelled, the item was not put."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self.send_nowait(value)
        except trio.WouldBlock:
            await self._wait_for_room(_Waiting(value, trio.lowlevel.current_task()))
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _wait_for_room(self, waiting: _Waiting) -> None:
        def leave(_: object) -> trio.lowlevel.Abort:
            # Called in the moment of the cancellation: a task that was let in before is not cancelled here any more.
            self._outside.remove(waiting)
            return trio.lowlevel.Abort.SUCCEEDED

        self._outside.append(waiting)
        await trio.lowlevel.wait_task_rescheduled(leave)
        if waiting.refused:
            raise trio.BrokenResourceError

    # -- taking -------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> Sequence[Item]:
        """The items that can be taken now, oldest first; not a copy, and only valid until the next call."""
        return self._items

    def take(self, count: int) -> list[Item]:
        """Take the first `count` items of `waiting`."""
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
        """Return the next item; raises trio.WouldBlock if none waits."""
        if not self._items:
            raise trio.WouldBlock
        return self.take(1)[0]

    async def receive(self) -> Item:
        """Return the next item, waiting for one; if this is cancelled, no item is lost."""
        await self.wait()
        return self.receive_nowait()

    async def wait(self) -> None:
        """Wait until something can be taken."""
        # Waiting is a checkpoint by itself; a second one would delay a lone event by a turn of the loop.
        if self._items:
            await trio.lowlevel.checkpoint()
        while not self._items:
            await self._wakeup.wait()

    def close(self) -> None:
        """Refuse further items; those that wait can still be taken."""
        self._closed = True
        self._most = 0
        self.offer_first = None
        while self._outside:
            waiting = self._outside.popleft()
            waiting.refused = True
            trio.lowlevel.reschedule(waiting.task)
