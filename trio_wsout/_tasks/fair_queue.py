"""A queue with many sources that take turns, and one receiver; backpressure reaches each source alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_wsout._core.round_robin import RoundRobin
from trio_wsout._tasks.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsout._tasks.intake import Item

__all__ = ["FairQueue", "FairSender"]


class FairQueue:
    """The receiving end; a `Source`."""

    def __init__(self) -> None:
        self._turns = RoundRobin["Item"]()
        self._wakeup = Wakeup()
        self._held: Callable[[], bool] = bool
        self._free: FairSender | None = None
        self.closed = False

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._turns)

    def source(self, most: int) -> FairSender:
        """A new source, of which at most `most` items wait."""
        return FairSender(self, most)

    def hold(self, while_: Callable[[], bool], *, but: FairSender) -> None:
        """While that is so nothing is taken but from one source; `notify` says that it may have ended."""
        self._held, self._free = while_, but

    def hold_nothing(self) -> None:
        """From now on everything is taken: for the end, when it is only counted."""
        self._held = bool

    def notify(self) -> None:
        """There may be something to take."""
        self._wakeup.notify()

    def put(self, source: FairSender, item: Item, most: int) -> bool:
        """Part of a source."""
        if not self._turns.put(source, item, most):
            return False
        self._wakeup.notify()
        return True

    def receive_nowait(self) -> Item:
        """The next item; raises trio.WouldBlock when none waits."""
        taken = self._turns.take(self._free if self._held() else None)
        if taken is None:
            raise trio.WouldBlock
        source, item = taken
        if isinstance(source, FairSender):
            source.taken()
        return item

    async def receive(self) -> Item:
        """Wait for the next item; cancelled, it has taken none."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                await self._wakeup.wait()

    def close(self) -> None:
        """Nobody receives any more: who sends gets trio.BrokenResourceError."""
        self.closed = True


class FairSender:
    """One sending end."""

    waiting: int
    """How many items of this source wait."""

    def __init__(self, queue: FairQueue, most: int) -> None:
        self._queue = queue
        self._most = most
        self.waiting = 0
        self._down_to = 0
        self._fewer: trio.Event | None = None

    @property
    def full(self) -> bool:
        """Whether no more of this source may wait."""
        return self.waiting >= self._most

    def send_nowait(self, value: Item) -> None:
        """Put an item; raises trio.WouldBlock while too many of this source wait."""
        if self._queue.closed:
            raise trio.BrokenResourceError
        if not self._queue.put(self, value, self._most):
            raise trio.WouldBlock
        self.waiting += 1

    async def send(self, value: Item) -> None:
        """Put an item; waits while too many of this source wait."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                self.send_nowait(value)
            except trio.WouldBlock:
                await self._wait_for(self._most - 1)
            else:
                return

    async def wait_taken(self) -> None:
        """Wait until all items of this source were taken."""
        await trio.lowlevel.checkpoint()
        while self.waiting:
            await self._wait_for(0)

    async def _wait_for(self, count: int) -> None:
        """Wait until at most so many wait; all who wait at a time wait for the same."""
        if self._fewer is None:
            self._fewer, self._down_to = trio.Event(), count
        await self._fewer.wait()

    def taken(self) -> None:
        """Part of the queue: an item of this source was taken."""
        self.waiting -= 1
        if self._fewer is not None and self.waiting <= self._down_to:
            self._fewer.set()
            self._fewer = None
