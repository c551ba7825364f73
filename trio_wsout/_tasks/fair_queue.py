"""A queue with many sources that take turns and one receiver; a full source waits alone."""

from __future__ import annotations

from collections.abc import Callable

import trio
from attrs import define, field

from trio_wsout._core.round_robin import RoundRobin
from trio_wsout._tasks.intake import Item
from trio_wsout._tasks.wakeup import Wakeup

__all__ = ["FairQueue", "FairSender"]


@define(eq=False)
class FairQueue:
    """The receiving end; a `Source`."""

    _turns: RoundRobin[Item] = field(factory=RoundRobin["Item"], init=False)
    _wakeup: Wakeup = field(factory=Wakeup, init=False)
    _restricted: Callable[[], bool] = field(default=bool, init=False)
    _favoured: FairSender | None = field(default=None, init=False)
    closed: bool = field(default=False, init=False)

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._turns)

    def source(self, most: int) -> FairSender:
        """Return a new source that may have at most `most` items waiting."""
        return FairSender(self, most)

    def restrict(self, while_: Callable[[], bool], *, to: FairSender) -> None:
        """Take only from the source `to` while `while_` returns true; call `notify` when its result may have changed."""
        self._restricted, self._favoured = while_, to

    def lift_restriction(self) -> None:
        """Take from all sources again."""
        self._restricted = bool

    def notify(self) -> None:
        """Wake the receiver: there may be something to take."""
        self._wakeup.notify()

    def put(self, source: FairSender, item: Item, most: int) -> bool:
        """Put an item if fewer than `most` items of its source wait; return whether it was put."""
        if not self._turns.put(source, item, most):
            return False
        self._wakeup.notify()
        return True

    def receive_nowait(self) -> Item:
        """Return the next item; raises trio.WouldBlock if none waits."""
        turn = self._turns.take(self._favoured if self._restricted() else None)
        if turn is None:
            raise trio.WouldBlock
        source, item = turn
        if isinstance(source, FairSender):
            source.was_taken()
        return item

    async def receive(self) -> Item:
        """Return the next item, waiting for one; if this is cancelled, no item is lost."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                await self._wakeup.wait()

    def close(self) -> None:
        """Refuse further items; tasks that send get trio.BrokenResourceError."""
        self.closed = True


@define(eq=False)
class FairSender:
    """The sending end of one source; an `Entry`."""

    _queue: FairQueue
    _most: int
    waiting: int = field(default=0, init=False)
    """The number of items of this source that wait."""
    _fewer: trio.Event | None = field(default=None, init=False)
    """Set when at most `_down_to` items wait; None if no task waits for that."""
    _down_to: int = field(default=0, init=False)

    @property
    def full(self) -> bool:
        """Whether this source has no room for another item."""
        return self.waiting >= self._most

    def send_nowait(self, value: Item) -> None:
        """Put an item; raises as `Entry.send_nowait` does."""
        if self._queue.closed:
            raise trio.BrokenResourceError
        if not self._queue.put(self, value, self._most):
            raise trio.WouldBlock
        self.waiting += 1

    async def send(self, value: Item) -> None:
        """Put an item, waiting for room; raises as `Entry.send` does."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                self.send_nowait(value)
            except trio.WouldBlock:
                await self._wait_until_at_most(self._most - 1)
            else:
                return

    async def wait_empty(self) -> None:
        """Wait until no item of this source waits."""
        await trio.lowlevel.checkpoint()
        while self.waiting:
            await self._wait_until_at_most(0)

    async def _wait_until_at_most(self, count: int) -> None:
        """Wait until at most `count` items wait; while another task waits already, its count is used instead."""
        if self._fewer is None:
            self._fewer, self._down_to = trio.Event(), count
        await self._fewer.wait()

    def was_taken(self) -> None:
        """Note that an item of this source left the queue."""
        self.waiting -= 1
        if self._fewer is not None and self.waiting <= self._down_to:
            self._fewer.set()
            self._fewer = None
