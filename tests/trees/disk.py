"""A spool in memory for tests on the mock clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import trio
from trio_wsout.config import History
from trio_wsout.errors import SpoolError
from trio_wsout.stores.log import Entry, Kind, LogFullError
from trio_wsout.stores.log_memory import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout.stores.log import Extent


class Disk(MemoryLog):
    """A log that is slow or full as it is told; what is in it outlives the output."""

    def __init__(self, takes: float = 1.0, events: Sequence[object] = (), settled: int = 0) -> None:
        super().__init__(History())
        self.location = "/spool"
        self.takes = takes
        self.left = events, settled
        """Events of an earlier life, and how many of them are settled."""
        self.count = 0
        """Events that were ever appended."""
        self.settled = settled
        self.room: int | None = None
        """Most events that are not settled; None: any number."""
        self.groups: list[tuple[float, int, int]] = []
        """When each group was kept, its events, and what it says is settled."""
        self.broken: str | None = None
        self.reads = 0
        self.read: set[int] = set()
        """Numbers of the events that were read back."""
        self.closed = False

    async def open(self, epoch: int, *, keep_epoch: bool = False) -> Extent:
        self.closed = False
        events, settled = self.left
        if events:
            await super().open(9)
            entries = [Entry(number, 9, *form(each), None, 0.0) for number, each in enumerate(events, 1)]
            await super().append(entries, settled)
            self.count = len(events)
        return await super().open(epoch, keep_epoch=keep_epoch)

    async def append(self, run: Sequence[Entry], settled: int = 0) -> Extent:
        with trio.CancelScope(shield=True):
            await trio.sleep(self.takes)
        if self.broken is not None:
            raise SpoolError(self.broken)
        self.settled = settled
        extent = await super().append((), settled)
        if run and self.room is not None and extent.events + len(run) > self.room:
            raise LogFullError("/spool: the disk is full") from OSError()
        self.count += len(run)
        self.groups.append((trio.current_time(), len(run), settled))
        return await super().append(run, settled)

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        await trio.sleep(self.takes / 10)
        self.reads += 1
        if self.broken is not None:
            raise SpoolError(self.broken)
        entries = await super().after(position, most=min(most, 100), most_bytes=most_bytes)
        self.read.update(each.position - 1 for each in entries)
        return entries

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True

    @property
    def events(self) -> list[str]:
        """The events that have not left it, as texts."""
        return [each.payload.decode() for each in self._entries[self._start :]]

    def as_it_is(self) -> Disk:
        """Return a disk with what is on this one now, whatever is written to this one later."""
        other = Disk(self.takes)
        other._entries, other._start = list(self._entries), self._start
        other._extent, other.count = self._extent, self.count
        return other


def form(event: object) -> tuple[Kind, bytes]:
    """Kind and payload of an event as a log has it."""
    if isinstance(event, str):
        return Kind.TEXT, event.encode()
    return (Kind.BYTES, event) if isinstance(event, bytes) else (Kind.JSON, orjson.dumps(event))
