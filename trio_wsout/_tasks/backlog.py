"""The backlog of a spool: events that are on disk and that the sender has not taken yet.

A few events wait in memory as well. Once there are more, further events wait on disk only, until reading back has caught up
with them: a peer that is away costs disk and not memory. Events of an earlier run are read back first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import trio
from attrs import define, field

from trio_wsout._core.message import Accepted, Fate
from trio_wsout._core.spool_format import decode_event
from trio_wsout._tasks.ledger import Item, Ledger, Mark
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import SpoolError
from trio_wsout.stores.spool import SpoolStore

__all__ = ["Backlog"]

_IN_MEMORY = 1024
_IN_MEMORY_BYTES = 8 << 20
"""Most events, and bytes but at least one group, that wait in memory, too."""
_READ = 64 << 10
"""Bytes that are read back in one go."""
_REMEMBERED = 8192
"""Receipts and document ends that are remembered for events that are on disk only."""


@define(eq=False)
class Backlog:
    """Events that are on disk, in order, with the marks between them; the sender takes from it as from a channel."""

    _store: SpoolStore
    _ledger: Ledger
    _revive: Callable[[object], Accepted]
    """Turns an event that was read back into an accepted one."""
    last: int = field(default=0, init=False)
    """Number of the newest event."""
    _memory: deque[Item] = field(factory=deque[Item], init=False)
    _memory_bytes: int = field(default=0, init=False)
    _to_take: Wakeup = field(factory=Wakeup, init=False)
    _behind: bool = field(default=False, init=False)
    """Whether events wait on disk only: all behind number `_read`."""
    _read: int = field(default=0, init=False)
    _marks: deque[tuple[int, Mark]] = field(factory=deque[tuple[int, Mark]], init=False)
    """Marks between the events, each with the number of the event before it."""
    _fates: dict[int, Fate] = field(factory=dict[int, "Fate"], init=False)
    """The fates of events that a task waits for, by the number of the event."""
    _forgotten: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    """Tasks that wait until some of these marks and fates have gone."""
    _closed: bool = field(default=False, init=False)

    def begin(self, settled: int, last: int) -> None:
        """Begin with the events of an earlier run: those behind number `settled`, up to `last`."""
        self._read, self.last = settled, last
        self._behind = last > settled
        if self._behind:
            # A document that the earlier run did not end has ended with that run.
            self._marks.append((last, Mark(ends_document=True)))

    # -- putting ------------------------------------------------------------------------------------------

    async def wait_remembering(self, item: Accepted | Mark) -> None:
        """While events wait on disk only, wait for memory if an item needs some: a mark, or an event with a receipt."""
        if isinstance(item, Accepted) and item.fate is None:
            return  # noqa: ASYNC910 - `send` waits for the disk
        while self._behind and not self._closed and len(self._marks) + len(self._fates) >= _REMEMBERED:
            await self._forgotten.park()

    def extend(self, group: Sequence[Item], size: int) -> None:
        """Add events that are on disk now, with `size` bytes, and the marks between them."""
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

    # -- taking -------------------------------------------------------------------------------------------

    def receive_nowait(self) -> Item:
        """Return the next item that is in memory; raises trio.WouldBlock if none is."""
        if not self._memory:
            raise trio.WouldBlock
        item = self._memory.popleft()
        if isinstance(item, Accepted):
            self._memory_bytes -= len(item.payload)
        return item

    async def receive(self) -> Item:
        """Return the next item, waiting for one; if this is cancelled, no item is lost."""
        await trio.lowlevel.checkpoint()
        while not self._memory:
            if self._behind:
                await self._read_back()
            else:
                await self._to_take.wait()
        return self.receive_nowait()

    async def _read_back(self) -> None:
        """Read some of the events that are on disk only; a spool that can't be read breaks the output."""
        try:
            kept = await self._store.after(self._read, _READ)
        except SpoolError as error:
            self._ledger.break_with(error)
            await trio.sleep_forever()
        # Events that were written meanwhile and are not accepted yet come with their own group.
        for each in islice(kept, self.last - self._read):
            self._read += 1
            item = self._revive(decode_event(each))
            item.fate = self._fates.pop(self._read, None)
            self._remember(item)
            while self._marks and self._marks[0][0] == self._read:
                self._memory.append(self._marks.popleft()[1])
        self._behind = self._read < self.last
        self._forgotten.unpark_all()

    def close(self, reason: str) -> None:
        """Let nothing more be taken; tasks that wait for an event that stays in the spool fail with `reason`."""
        self._closed = True
        self._forgotten.unpark_all()
        for item in (*self._memory, *(mark for _, mark in self._marks)):
            if not isinstance(item, Accepted):
                item.abandon()
            elif item.fate is not None:
                item.fate.failed(reason)
        for fate in self._fates.values():
            fate.failed(reason)
