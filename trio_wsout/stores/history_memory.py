"""A history store in memory (SPEC 11)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter

import trio
from attrs import define, field

from trio_wsout._core.history import Entry, Extent, check_entries, exceeds
from trio_wsout.config.sections import History

__all__ = ["MemoryHistoryStore"]

_REMOVED = Entry(position=0, epoch=0, payload=b"", cursor=None, at=0.0)
"""Replaces a removed event until the list is shortened, so that the event's payload is freed immediately."""


@define(eq=False)
class MemoryHistoryStore:
    """A `HistoryStore` that keeps events as long as it exists (``memory:``)."""

    _limits: History
    _closed: bool = field(default=False, init=False)
    _epoch: int = field(default=0, init=False)
    _floor: int = field(default=0, init=False)
    _floor_cursor: str | None = field(default=None, init=False)
    _tail: int = field(default=0, init=False)
    _size: int = field(default=0, init=False)
    _log: list[Entry] = field(factory=list, init=False)
    _removed: int = field(default=0, init=False)
    """Number of `_REMOVED` entries at the start of the list; never more than half of it."""
    _newest: dict[str, int] = field(factory=dict, init=False)
    """For each cursor the newest retained position that has it."""

    async def open(self, epoch: int) -> Extent:
        """Take the log over with `epoch`, or with one more than the last epoch if that is higher."""
        await self._checkpoint()
        self._epoch = max(epoch, self._epoch + 1)
        return self._extent()

    async def append(self, entries: Sequence[Entry]) -> Extent:
        """Append events, and remove those that exceed the limits when the last of them was accepted."""
        await self._checkpoint()
        check_entries(entries, store="history in memory", epoch=self._epoch, tail=self._tail)
        if entries:
            self._log.extend(entries)
            self._newest.update((each.cursor, each.position) for each in entries if each.cursor is not None)
            self._size += sum(len(each.payload) for each in entries)
            self._tail = entries[-1].position
            self._trim(entries[-1].at)
        return self._extent()

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        """Return the oldest retained events after `position`, within the bounds but at least one."""
        await self._checkpoint()
        start = bisect_right(self._log, position, lo=self._removed, key=attrgetter("position"))
        found: list[Entry] = []
        for entry in self._log[start : start + most]:
            most_bytes -= len(entry.payload)
            if found and most_bytes < 0:
                break
            found.append(entry)
        return found

    async def find(self, cursor: str) -> int | None:
        """Return the newest position with this cursor, or None if the cursor is unknown."""
        await self._checkpoint()
        return self._newest.get(cursor, self._floor if cursor == self._floor_cursor else None)

    async def trim(self, now: float) -> Extent:
        """Remove the events that exceed the limits at `now`, and return the new extent."""
        await self._checkpoint()
        self._trim(now)
        return self._extent()

    async def aclose(self) -> None:
        """Close the store and free all events."""
        self._closed = True
        self._log, self._removed = [], 0
        self._newest.clear()
        await trio.lowlevel.checkpoint()

    async def _checkpoint(self) -> None:
        """Let other tasks run before anything is read or changed, so that a cancellation leaves nothing half done."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("the history is closed")

    def _extent(self) -> Extent:
        events = len(self._log) - self._removed
        return Extent(epoch=self._epoch, floor=self._floor, tail=self._tail, events=events, size=self._size)

    def _trim(self, now: float) -> None:
        log = self._log
        while self._removed < len(log):
            oldest = log[self._removed]
            events = len(log) - self._removed
            if not exceeds(self._limits, events=events, size=self._size, age=now - oldest.at):
                break
            log[self._removed] = _REMOVED
            self._removed += 1
            self._size -= len(oldest.payload)
            self._floor, self._floor_cursor = oldest.position, oldest.cursor
            if oldest.cursor is not None and self._newest[oldest.cursor] == oldest.position:
                del self._newest[oldest.cursor]
        if self._removed * 2 > len(log):
            del log[: self._removed]
            self._removed = 0
