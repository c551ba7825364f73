"""The archive: messages go into the history first and then to the peers, many with one commit (SPEC 11)."""

from __future__ import annotations

import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from trio_wsout._core.acknowledgement import stamp_of
from trio_wsout._core.history import Entry, Extent, first_cursor
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import HistoryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from trio_wsout._core.message import Accepted, Message
    from trio_wsout._tasks.fan_out import FanOut
    from trio_wsout._tasks.ledger import Ledger
    from trio_wsout.config.sections import Config
    from trio_wsout.stores.history import HistoryStore

__all__ = ["HistoryJournal", "Start"]

_WAITING = 256
"""Messages that wait for the next commit."""
_REPLAYED = 1024
_REPLAYED_BYTES = 64 * 1024
"""Events, and bytes, read from the history in one go."""
_TRIMS = 10
"""Times in `max-age` that events are looked for which are too old."""


@frozen(kw_only=True)
class Start:
    """Where the replay for a peer begins."""

    position: int
    """The last event that it has."""
    gap: bool
    """Whether events after what it asked for are missing."""
    first: str | None
    """Cursor of the first retained event that has one, where there is a gap; None: nothing is retained, or none has."""


class HistoryJournal:
    """Keeps every message before the peers get it; a `Sink`."""

    def __init__(self, config: Config, store: HistoryStore, fan_out: FanOut, ledger: Ledger) -> None:
        cursor, history = config.cursor, config.history
        named = cursor is not None and (cursor.value_field or cursor.value_pointer) is not None
        self._by_stamp = not named
        self._max_age = history.max_age if history is not None else None
        self._store = store
        self._fan_out = fan_out
        self._ledger = ledger
        self._waiting: deque[Message] = deque()
        self._keeping: deque[Message] = deque()
        self._wakeup = Wakeup()
        self._room = Wakeup()
        self._posted = Wakeup()
        self._closed = False
        self._asking: set[trio.Event] = set()
        self.extent = Extent(epoch=0, floor=0, tail=0, events=0, size=0)

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
        """Take a message if not too many wait for the commit."""
        if len(self._waiting) >= _WAITING:
            return False
        self._waiting.append(message)
        return True

    async def put(self, message: Message) -> None:
        """Take a message; waits while too many wait."""
        while not self.accept(message):
            self._wakeup.notify()
            await self._room.wait()

    def notify(self) -> None:
        """Messages wait: have them kept."""
        if self._waiting:
            self._wakeup.notify()

    def leftovers(self) -> list[Accepted]:
        """What was not posted yet, in order; for the end."""
        return [event for message in (*self._keeping, *self._waiting) for event in message.events]

    # -- work -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep and post until cancelled; a history that fails breaks the output."""
        try:
            while True:
                with trio.move_on_after(inf if self._max_age is None else self._max_age / _TRIMS):
                    await self._wakeup.wait()
                if self._waiting:
                    await self._keep()
                else:
                    await self._learn(self._store.trim(time.time()))
        except HistoryError as error:
            self._ledger.break_with(error)

    async def _keep(self) -> None:
        while self._waiting:
            self._keeping, self._waiting = self._waiting, deque()
            self._room.notify()
            await self._learn(self._store.append(self._entries(self._keeping)))
            keeping, offer = self._keeping, self._fan_out.accept
            while keeping:
                if not offer(keeping[0]):
                    await self._fan_out.put(keeping[0])
                keeping.popleft()
            self._fan_out.notify()
        self._posted.notify()

    async def wait_posted(self) -> None:
        """Wait until everything that was put is posted, or the history is closed. For one task."""
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

    async def _learn(self, answer: Awaitable[Extent]) -> None:
        """Learn what the log holds from an answer to a write; one that was overtaken by another tells nothing new."""
        answered = trio.Event()
        self._asking.add(answered)
        try:
            extent = await answer
            if (extent.tail, extent.floor) >= (self.extent.tail, self.extent.floor):
                self.extent = extent
        finally:
            self._asking.remove(answered)
            answered.set()

    # -- reading ------------------------------------------------------------------------------------------

    async def locate(self, asked: str) -> Start:
        """Where the replay for a peer begins that asks for what follows a cursor.

        Raises:
            HistoryError: It can't be read.
        """
        if self._max_age is not None:
            await self._learn(self._store.trim(time.time()))
        position = await self._store.find(asked)
        if position is not None and position >= self.extent.floor:
            return Start(position=position, gap=False, first=None)
        floor = self.extent.floor
        oldest = await self._store.after(floor, most=1, most_bytes=1)
        if oldest and oldest[0].cursor is None:
            oldest = await self._store.after(floor, most=_REPLAYED, most_bytes=_REPLAYED_BYTES)
        return Start(position=floor, gap=True, first=first_cursor(oldest))

    async def after(self, position: int) -> Sequence[Entry]:
        """The next events after `position`; `extent.floor` is no older than what they show."""
        entries = await self._store.after(position, most=_REPLAYED, most_bytes=_REPLAYED_BYTES)
        for answered in tuple(self._asking):
            await answered.wait()
        return entries

    async def aclose(self) -> None:
        """Close the store."""
        self._closed = True
        self._posted.notify()
        await self._store.aclose()
