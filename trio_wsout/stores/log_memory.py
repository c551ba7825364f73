"""A durable log that lasts as long as its object (SPEC 11)."""

from collections.abc import Sequence

import trio
from attrs import define, evolve, field

from trio_wsout._core.acknowledgement import position_in
from trio_wsout._core.durable_log import HISTORY, Entry, Extent, Kind, check_run, exceeds
from trio_wsout.config.sections import History

__all__ = ["MemoryLog"]

_LEFT = Entry(position=0, epoch=0, kind=Kind.JSON, payload=b"", cursor=None, at=0.0)
"""Replaces an event that left until the list is shortened, so that the payload is freed immediately."""


@define(eq=False)
class MemoryLog:
    """A `LogStore` in memory (``memory:``)."""

    _limits: History
    location: str = field(default="memory", init=False)
    _closed: bool = field(default=False, init=False)
    _extent: Extent = field(default=Extent(epoch=0, floor=0, tail=0, size=0), init=False)
    _entries: list[Entry] = field(factory=list[Entry], init=False)
    _start: int = field(default=0, init=False)
    """The number of `_LEFT` entries at the beginning of the list; never more than half of it."""
    _last_left: Entry = field(default=_LEFT, init=False)
    _newest: dict[str, int] = field(factory=dict[str, int], init=False)
    """For each cursor the newest position that has it, among the events and the last that left."""

    async def open(self, epoch: int, *, keep_epoch: bool = False) -> Extent:
        """Take the log over with `epoch`, or with one more than the last epoch if that is higher."""
        await self._checkpoint()
        if not (keep_epoch and self._extent.events):
            self._extent = evolve(self._extent, epoch=max(epoch, self._extent.epoch + 1))
        return self._extent

    async def append(self, run: Sequence[Entry], settled: int = 0) -> Extent:
        """Append events; remove those up to `settled`, and those that exceed the limits at the time of the last one."""
        await self._checkpoint()
        check_run(run, self._extent, store="history in memory", use=HISTORY)
        self._entries.extend(run)
        self._newest.update([(each.cursor, each.position) for each in run if each.cursor is not None])
        self._trim(settled, run[-1].at if run else None, run)
        return self._extent

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        """Return the oldest events after `position`, within the bounds but at least one."""
        await self._checkpoint()
        start = self._start + max(0, position - self._extent.floor)
        found: list[Entry] = []
        for entry in self._entries[start : start + most]:
            most_bytes -= len(entry.payload)
            if found and most_bytes < 0:
                break
            found.append(entry)
        return found

    async def find(self, cursor: str) -> int | None:
        """Return the newest position with this cursor, or with this stamp; None if the cursor is unknown."""
        await self._checkpoint()
        found = self._newest.get(cursor)
        if found is not None:
            return found
        epoch, position = position_in(cursor) or (0, 0)
        behind = position - self._extent.floor
        if behind == 0:
            named = self._last_left
        else:
            named = self._entries[self._start + behind - 1] if 0 < behind <= self._extent.events else _LEFT
        return position if named.epoch == epoch and named is not _LEFT else None

    async def trim(self, now: float) -> Extent:
        """Remove the events that exceed the limits at `now`, and return the new extent."""
        await self._checkpoint()
        self._trim(0, now)
        return self._extent

    async def aclose(self) -> None:
        """Close the log and free all events."""
        self._closed = True
        self._entries.clear()
        self._start = 0
        self._newest.clear()
        await trio.lowlevel.checkpoint()

    async def _checkpoint(self) -> None:
        """Let other tasks run before anything is read or changed, so that a cancellation leaves nothing half done."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("the history is closed")

    def _trim(self, settled: int, now: float | None, run: Sequence[Entry] = ()) -> None:
        """Remove what leaves once these entries are appended, and take the new extent."""
        entries, newest, tail = self._entries, self._newest, self._extent.tail + len(run)
        size = self._extent.size + sum([len(each.payload) for each in run])
        events, left = tail - self._extent.floor, self._last_left
        while events:
            oldest = entries[self._start]
            age = 0.0 if now is None else now - oldest.at
            if oldest.position > settled and not exceeds(self._limits, events=events, size=size, age=age):
                break
            if left.cursor is not None and newest.get(left.cursor) == left.position:
                del newest[left.cursor]
            entries[self._start] = _LEFT
            self._start += 1
            events, size, left = events - 1, size - len(oldest.payload), oldest
        self._last_left = left
        self._extent = Extent(epoch=self._extent.epoch, floor=tail - events, tail=tail, size=size)
        if self._start * 2 > len(entries):
            del entries[: self._start]
            self._start = 0
