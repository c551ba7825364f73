"""The history journal: messages go into the history first, many with one commit, and then to the peers (SPEC 11)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Sequence
from math import inf

import trio
from attrs import define, field, frozen

from trio_wsout._core.acknowledgement import stamp_of
from trio_wsout._core.history import Entry, Extent, first_cursor
from trio_wsout._core.message import Accepted, Message
from trio_wsout._tasks.fan_out import FanOut
from trio_wsout._tasks.ledger import Ledger
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import HistoryError
from trio_wsout.stores.history import HistoryStore

__all__ = ["HistoryJournal", "ReplayStart"]

_WAITING = 256
"""Messages that wait for the next commit."""
_REPLAYED = 1024
_REPLAYED_BYTES = 64 * 1024
"""Events, and bytes, read from the history in one go."""
_TRIMS = 10
"""Old events are removed this many times within `max-age`."""


@frozen(kw_only=True)
class ReplayStart:
    """The start of a peer's replay."""

    position: int
    """The position of the last event that the peer has."""
    gap: bool
    """Whether events are missing behind the cursor that it asked for."""
    first: str | None
    """If there is a gap, the first cursor that is retained; None if nothing is retained, or no event has one."""


@define(eq=False)
class HistoryJournal:
    """Keeps every message before the peers get it; a `Sink`."""

    _store: HistoryStore
    _fan_out: FanOut
    _ledger: Ledger
    _max_age: float | None = field(alias="max_age")
    """Seconds that an event is kept; None if for ever."""
    _by_stamp: bool = field(alias="by_stamp")
    """Whether stamps are the cursors: the configuration names none in the events."""
    extent: Extent = field(default=Extent(epoch=0, floor=0, tail=0, events=0, size=0), init=False)
    """The extent of the history, as of the latest write."""
    _waiting: deque[Message] = field(factory=deque["Message"], init=False)
    """Messages that wait for the next commit."""
    _keeping: deque[Message] = field(factory=deque["Message"], init=False)
    """Messages of the commit under way, until they are posted."""
    _wakeup: Wakeup = field(factory=Wakeup, init=False)
    _room: Wakeup = field(factory=Wakeup, init=False)
    _posted: Wakeup = field(factory=Wakeup, init=False)
    _closed: bool = field(default=False, init=False)
    _writes: set[trio.Event] = field(factory=set[trio.Event], init=False)
    """Writes under way, each as an event that is set when it has ended."""

    async def open(self, epoch: int) -> Extent:
        """Take the history over.

        Raises:
            HistoryError: It can't be read or written.
        """
        self.extent = await self._store.open(epoch)
        self._fan_out.log.start_after(self.extent.tail)
        return self.extent

    # -- Sink -------------------------------------------------------------------------------------------

    def accept(self, message: Message) -> bool:
        """Take a message if not too many wait for the commit; return whether it was taken."""
        if len(self._waiting) >= _WAITING:
            return False
        self._waiting.append(message)
        return True

    async def put(self, message: Message) -> None:
        """Take a message, waiting while too many wait."""
        while not self.accept(message):
            self._wakeup.notify()
            await self._room.wait()

    def notify(self) -> None:
        """Wake the task that writes the taken messages, if there are any."""
        if self._waiting:
            self._wakeup.notify()

    def leftovers(self) -> list[Accepted]:
        """Return the events that are not posted yet, in order; for the end."""
        return [event for message in (*self._keeping, *self._waiting) for event in message.events]

    # -- writing ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep and post until cancelled; a history that fails breaks the output."""
        try:
            while True:
                with trio.move_on_after(inf if self._max_age is None else self._max_age / _TRIMS):
                    await self._wakeup.wait()
                if self._waiting:
                    await self._keep()
                else:
                    await self._write(self._store.trim(time.time()))
        except HistoryError as error:
            self._ledger.break_with(error)

    async def _keep(self) -> None:
        while self._waiting:
            self._keeping, self._waiting = self._waiting, deque()
            self._room.notify()
            await self._write(self._store.append(self._entries(self._keeping)))
            keeping, accept = self._keeping, self._fan_out.accept
            while keeping:
                if not accept(keeping[0]):
                    await self._fan_out.put(keeping[0])
                keeping.popleft()
            self._fan_out.notify()
        self._posted.notify()

    async def wait_posted(self) -> None:
        """Wait until every message taken so far is posted, or the history is closed. For one task."""
        while (self._waiting or self._keeping) and not self._closed:
            await self._posted.wait()

    def _entries(self, messages: Sequence[Message]) -> list[Entry]:
        now, epoch, by_stamp = time.time(), self.extent.epoch, self._by_stamp
        return [
            Entry(
                position=event.seq,
                epoch=epoch,
                payload=event.payload,
                cursor=stamp_of(epoch, event.seq) if by_stamp else event.cursor,
                at=now,
            )
            for message in messages
            for event in message.events
        ]

    async def _write(self, extent: Awaitable[Extent]) -> None:
        """Await a write to the store, and take the extent that it returns, unless a later write has returned before."""
        done = trio.Event()
        self._writes.add(done)
        try:
            found = await extent
            if (found.tail, found.floor) >= (self.extent.tail, self.extent.floor):
                self.extent = found
        finally:
            self._writes.remove(done)
            done.set()

    # -- reading ------------------------------------------------------------------------------------------

    async def locate(self, asked: str) -> ReplayStart:
        """Find the start of the replay for a peer that asks for the events after the cursor `asked`.

        Raises:
            HistoryError: The history can't be read.
        """
        if self._max_age is not None:
            await self._write(self._store.trim(time.time()))
        position = await self._store.find(asked)
        if position is not None and position >= self.extent.floor:
            return ReplayStart(position=position, gap=False, first=None)
        floor = self.extent.floor
        oldest = await self._store.after(floor, most=1, most_bytes=1)
        if oldest and oldest[0].cursor is None:
            oldest = await self._store.after(floor, most=_REPLAYED, most_bytes=_REPLAYED_BYTES)
        return ReplayStart(position=floor, gap=True, first=first_cursor(oldest))

    async def after(self, position: int) -> Sequence[Entry]:
        """Return the next events behind `position`; `extent` is then no older than they are.

        Raises:
            HistoryError: The history can't be read.
        """
        entries = await self._store.after(position, most=_REPLAYED, most_bytes=_REPLAYED_BYTES)
        for done in tuple(self._writes):
            await done.wait()
        return entries

    async def aclose(self) -> None:
        """Close the store."""
        self._closed = True
        self._posted.notify()
        await self._store.aclose()
