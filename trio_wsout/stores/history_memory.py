"""Retained events in memory (SPEC 11)."""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.history import Entry, Extent, Limits, check_entries

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MemoryHistoryStore"]

_GONE = Entry(position=0, epoch=0, payload=b"", cursor=None, at=0.0)
"""Stands where an event was until its place is freed, so that its payload is freed at once."""


class MemoryHistoryStore:
    """Keeps events as long as the store lives (``memory:``)."""

    def __init__(self, limits: Limits) -> None:
        """Keep at most what `limits` allow."""
        self._limits = limits
        self._closed = False
        self._epoch = 0
        self._floor = 0
        self._floor_cursor: str | None = None
        self._tail = 0
        self._size = 0
        self._log: list[Entry] = []
        self._gone = 0
        """Places at the start of the log that are empty; never more than half of it."""
        self._newest: dict[str, int] = {}
        """Cursor value → the newest retained position that has it."""
        self._cursors: dict[str, str] = {}

    async def open(self, epoch: int) -> Extent:
        """Take the log over, as the owner of `epoch`, or of one above the last if that is higher."""
        await self._turn()
        self._epoch = max(epoch, self._epoch + 1)
        return self._extent()

    async def append(self, entries: Sequence[Entry]) -> Extent:
        """Keep these events and let go what is over the limits at the time of the last of them.

        Raises:
            HistoryError: Another output has taken the history over; nothing was kept.
        """
        await self._turn()
        check_entries(entries, place="history in memory", epoch=self._epoch, tail=self._tail)
        if entries:
            self._log.extend(entries)
            self._newest.update((each.cursor, each.position) for each in entries if each.cursor is not None)
            self._size += sum(len(each.payload) for each in entries)
            self._tail = entries[-1].position
            self._trim(entries[-1].at)
        return self._extent()

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        """The oldest retained events after `position`: at most `most`, and at most `most_bytes` but at least one."""
        await self._turn()
        start = bisect_right(self._log, position, lo=self._gone, key=attrgetter("position"))
        found: list[Entry] = []
        for entry in self._log[start : start + most]:
            most_bytes -= len(entry.payload)
            if found and most_bytes < 0:
                break
            found.append(entry)
        return found

    async def find(self, cursor: str) -> int | None:
        """Position of the newest event with this cursor value, retained or the last that left."""
        await self._turn()
        return self._newest.get(cursor, self._floor if cursor == self._floor_cursor else None)

    async def trim(self, now: float) -> Extent:
        """Let go what is over the limits at `now`, seconds since 1970; gives what is there then."""
        await self._turn()
        self._trim(now)
        return self._extent()

    async def get_cursor(self, name: str) -> str | None:
        """The cursor of that name; None: there is none."""
        await self._turn()
        return self._cursors.get(name)

    async def set_cursor(self, name: str, expected: str | None, value: str) -> bool:
        """Keep `value` if the cursor is still `expected`; gives whether it was."""
        await self._turn()
        if self._cursors.get(name) != expected:
            return False
        self._cursors[name] = value
        return True

    async def aclose(self) -> None:
        """Let everything go; the store can't be used any more."""
        self._closed = True
        self._log, self._gone = [], 0
        self._newest.clear()
        self._cursors.clear()
        await trio.lowlevel.checkpoint()

    async def _turn(self) -> None:
        """Let others run, before anything is read or changed: what follows is never cancelled half done."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("the history is closed")

    def _extent(self) -> Extent:
        return Extent(
            epoch=self._epoch,
            floor=self._floor,
            tail=self._tail,
            events=len(self._log) - self._gone,
            size=self._size,
        )

    def _trim(self, now: float) -> None:
        log = self._log
        while self._gone < len(log):
            oldest = log[self._gone]
            events = len(log) - self._gone
            if not self._limits.exceeded(events=events, size=self._size, age=now - oldest.at):
                break
            log[self._gone] = _GONE
            self._gone += 1
            self._size -= len(oldest.payload)
            self._floor, self._floor_cursor = oldest.position, oldest.cursor
            if oldest.cursor is not None and self._newest[oldest.cursor] == oldest.position:
                del self._newest[oldest.cursor]
        if self._gone * 2 > len(log):
            del log[: self._gone]
            self._gone = 0
