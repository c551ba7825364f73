"""The backlog: what is on disk and not with the sender yet, most of it on disk only.

As long as they are few, events wait in memory. Past that they wait on disk only, and so do all behind them, until
what is read back has caught up: a peer that is away costs disk and not memory. What an earlier life left is
read back first.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.message import Accepted
from trio_wsout._core.spool_format import decode_event
from trio_wsout._tasks.intake import DocumentEnd
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_wsout._core.message import Fate
    from trio_wsout._tasks.intake import Item, Mark
    from trio_wsout._tasks.ledger import Ledger
    from trio_wsout.stores.spool import SpoolStore

__all__ = ["Backlog"]

_IN_MEMORY = 1024
_IN_MEMORY_BYTES = 8 << 20
"""Most events, and bytes but at least one group, that are in memory, too."""
_READ = 64 << 10
"""Bytes that are read back in one go."""
_REMEMBERED = 8192
"""Receipts and document ends that are remembered for events that are on disk only."""


class Backlog:
    """Events that are on disk, in order, with the marks between them; a `Source`."""

    last: int
    """Number of the newest event."""

    def __init__(self, store: SpoolStore, ledger: Ledger, revive: Callable[[object], Accepted]) -> None:
        """Read back from `store`; `revive` makes an accepted event of one that was read."""
        self._store = store
        self._ledger = ledger
        self._revive = revive
        self._memory: deque[Item] = deque()
        self._memory_bytes = 0
        self._to_take = Wakeup()
        self._behind = False
        self._read = 0
        self._marks: deque[tuple[int, Mark]] = deque()
        self._fates: dict[int, Fate] = {}
        self._forgotten = trio.Event()
        self._closed = False
        self.last = 0

    def begin(self, settled: int, last: int) -> None:
        """Begin with the events behind number `settled`, which an earlier life left."""
        self._read, self.last = settled, last
        self._behind = last > settled
        if self._behind:
            # Whatever document the earlier life was in has ended with it.
            self._marks.append((last, DocumentEnd()))

    # -- what comes ---------------------------------------------------------------------------------------

    async def wait_remembering(self, item: Accepted | Mark) -> None:
        """Wait while an item needs memory although its events are on disk only, and there is no more of it."""
        if isinstance(item, Accepted) and item.fate is None:
            return  # noqa: ASYNC910 - `send` waits for the disk
        while self._behind and not self._closed and len(self._marks) + len(self._fates) >= _REMEMBERED:
            await self._forgotten.wait()

    def extend(self, group: Sequence[Item], size: int) -> None:
        """These are on disk now, with `size` bytes: events get their numbers, and marks their place."""
        few = len(self._memory) + len(group) <= _IN_MEMORY and self._memory_bytes + size <= _IN_MEMORY_BYTES
        if size and self._memory and not (few or self._behind):
            self._behind, self._read = True, self.last
        for item in group:
            if isinstance(item, Accepted):
                self._add(item)
            elif self._behind:
                self._marks.append((self.last, item))
            else:
                self._memory.append(item)
        self._to_take.notify()

    def _add(self, item: Accepted) -> None:
        self.last += 1
        if not self._behind:
            self._remember(item)
        elif item.fate is not None:
            self._fates[self.last] = item.fate

    def _remember(self, item: Accepted) -> None:
        self._memory.append(item)
        self._memory_bytes += len(item.payload)

    # -- Source -------------------------------------------------------------------------------------------

    def receive_nowait(self) -> Item:
        """The next item that is in memory; raises trio.WouldBlock when there is none."""
        if not self._memory:
            raise trio.WouldBlock
        item = self._memory.popleft()
        if isinstance(item, Accepted):
            self._memory_bytes -= len(item.payload)
        return item

    async def receive(self) -> Item:
        """Wait for the next item; cancelled, it has taken none."""
        await trio.lowlevel.checkpoint()
        while not self._memory:
            if self._behind:
                await self._read_back()
            else:
                await self._to_take.wait()
        return self.receive_nowait()

    async def _read_back(self) -> None:
        """Have some of what is on disk only in memory; a spool that can't be read breaks the output."""
        try:
            kept = await self._store.after(self._read, _READ)
        except SpoolError as error:
            self._ledger.break_with(error)
            await trio.sleep_forever()
        # What was written meanwhile and is not accepted yet comes with its own group.
        for each in islice(kept, self.last - self._read):
            self._read += 1
            item = self._revive(decode_event(each))
            item.fate = self._fates.pop(self._read, None)
            self._remember(item)
            while self._marks and self._marks[0][0] == self._read:
                self._memory.append(self._marks.popleft()[1])
        self._behind = self._read < self.last
        self._forgotten.set()
        self._forgotten = trio.Event()

    def close(self, reason: str) -> None:
        """Nothing is taken any more: who waits for an event that stays here hears `reason`."""
        self._closed = True
        self._forgotten.set()
        for item in (*self._memory, *(mark for _, mark in self._marks)):
            if not isinstance(item, Accepted):
                item.abandon()
            elif item.fate is not None:
                item.fate.failed(reason)
        for fate in self._fates.values():
            fate.failed(reason)
