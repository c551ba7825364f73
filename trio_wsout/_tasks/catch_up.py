"""Catching up: who is behind reads the durable log, until what comes next is in memory.

A peer that resumes gets the history after its cursor, and a notice of a gap (SPEC 9). Its replay ends exactly where its
subscription begins: events are stored before they are posted, and a replay takes only events that were posted. When none of
them is left, the peer subscribes, with no task switch between. Events that are stored and lie in an open batch are not taken:
the peer gets them with the batch.

The sender of a link gets the backlog of its spool (SPEC 7): the events of an earlier run, and those for which there was no room
in memory, because the peer is away.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence

import trio
from attrs import define, field, frozen

from trio_wsout._core.acknowledgement import stamp_of
from trio_wsout._core.close_codes import GONE, INTERNAL_ERROR, CloseNow
from trio_wsout._core.durable_log import Entry
from trio_wsout._core.message import Accepted, Fate
from trio_wsout._core.packing import Packer, PackingError
from trio_wsout._tasks.fan_out import FanOut, gap_frame
from trio_wsout._tasks.ledger import Item, Mark
from trio_wsout._tasks.session import Session
from trio_wsout._wire.frames import plain_frame
from trio_wsout.errors import HistoryError, SpoolError
from trio_wsout.stores.log import LogStore, SharedLog

_PAGE = 1024
_PAGE_BYTES = 64 * 1024
"""Events, and bytes but at least one event, read in one go."""
_REMEMBERED = 8192
"""Receipts and document ends that are remembered for events that are on disk only."""


@frozen
class ReplayStart:
    """The start of a peer's replay."""

    position: int
    """The position of the last event that the peer has."""
    gap: bool
    """Whether events are missing behind the cursor that it asked for."""
    first: str | None
    """If there is a gap, the first cursor that is retained; None if nothing is retained, or no event has one."""


@frozen
class Reader:
    """Reads a durable log for those who are behind."""

    _store: LogStore
    _by_stamp: bool = False
    """Whether stamps are the cursors: the configuration names none in the events."""
    _max_age: float | None = None
    """Seconds that an event is kept; None if for ever."""
    _shared: SharedLog | None = None
    """The log, if several outputs share it; then positions may jump."""

    async def page(self, position: int) -> Sequence[Entry]:
        """Return the next events behind `position`, up to the first one that does not follow the one before it."""
        entries = await self._store.after(position, most=_PAGE, most_bytes=_PAGE_BYTES)
        if (
            self._shared is None
            or not entries
            or entries[-1].position == entries[0].position + len(entries) - 1
        ):
            return entries
        first = entries[0].position
        return [entry for number, entry in enumerate(entries, first) if entry.position == number]

    def cursor_of(self, entry: Entry) -> str | None:
        """Return the cursor of an event; None if it has none."""
        return stamp_of(entry.epoch, entry.position) if self._by_stamp else entry.cursor

    def first_cursor(self, entries: Sequence[Entry]) -> str | None:
        """Return the first cursor among these events; None if none of them has one."""
        return next((cursor for each in entries if (cursor := self.cursor_of(each)) is not None), None)

    async def adjacent(self, position: int, following: int) -> bool:
        """Return whether no event is missing between two positions."""
        if following == position + 1 or self._shared is None:
            return following <= position + 1
        return await self._shared.adjacent(position, following)

    async def locate(self, asked: str) -> ReplayStart:
        """Find the start of the replay for a peer that asks for the events after the cursor `asked`.

        Raises:
            HistoryError: The history can't be read.
        """
        floor = 0
        if self._max_age is not None:
            floor = (await self._store.trim(time.time())).floor
        position = await self._store.find(asked)
        if position is not None:
            return ReplayStart(position, gap=False, first=None)
        oldest = await self.page(0)
        position = oldest[0].position - 1 if oldest else floor
        return ReplayStart(position, gap=True, first=self.first_cursor(oldest))


@define(eq=False)
class Replay:
    """One peer's way through the history."""

    _reader: Reader
    _fan_out: FanOut
    _packer: Packer
    _position: int
    """Position of the last event that the peer has."""
    _cursor: str | None
    """The last cursor that the peer has; None if its last event has none."""
    _notice: bytes = field(alias="notice")
    """The frame that reports a gap before the next event; empty if there is none."""

    async def next_frames(self, session: Session) -> bytes:
        """Return the next frames to write; empty once the peer has caught up and joined the log.

        Raises:
            CloseNow: Events were lost meanwhile, and such a peer is refused (history.on-gap); or the history can't be read.
        """
        try:
            return await self._next_frames(session)
        except (HistoryError, PackingError) as error:
            self._fan_out.peer_log.error("a peer's replay was broken off: %s", error)
            raise CloseNow(INTERNAL_ERROR) from None

    async def _next_frames(self, session: Session) -> bytes:
        frames = b""
        log = self._fan_out.log
        while not frames and session.subscription is None:
            before = log.last_seq
            entries = await self._reader.page(self._position)
            posted = log.last_seq
            news = [entry for entry in entries if entry.position <= posted]
            # Events that were posted before the read were in the history; if none of them is left there, they have left it.
            await self._look_for_gap(news, news[0].position - 1 if news else before)
            if news:
                self._position, self._cursor = news[-1].position, self._reader.cursor_of(news[-1])
            elif self._position == log.last_seq:
                session.join()
            elif self._position > log.last_seq:  # the peer was at another output, which has read more
                await self._fan_out.posted.park()
            frames, self._notice = self._notice + self._frames(news, session), b""
        return frames

    async def _look_for_gap(self, news: Sequence[Entry], floor: int) -> None:
        """Note a gap if events up to position `floor` left the history before they were read."""
        if floor <= self._position:
            return  # noqa: ASYNC910 - the page was waited for
        first = self._reader.first_cursor(news)
        if not await self._reader.adjacent(self._position, floor + 1):
            if not self._fan_out.tells_gaps:
                raise CloseNow(GONE, first or "")
            self._notice = gap_frame(self._cursor, first)
        self._position = floor

    def _frames(self, news: Sequence[Entry], session: Session) -> bytes:
        """Return the frames of these events, without those that the peer itself sent meanwhile."""
        early = session.sent_early
        others = [entry for entry in news if not early or entry.position not in early]
        if early:
            early.difference_update([entry.position for entry in news])
        count, messages = self._packer.repack(others, time.time()) if others else (0, [])
        session.replayed(len(messages), count)
        return b"".join([plain_frame(message, self._fan_out.opcode) for message in messages])


@define(eq=False)
class Backlog:
    """The events of a spool that the sender has to read from the disk, and what has to be remembered of them."""

    _reader: Reader
    _revive: Callable[[Entry], Accepted]
    """Turns an event that was read back into an accepted one."""
    _read: int = field(default=0, init=False)
    """Position of the last event that the sender has, or that is in memory for it."""
    _last: int = field(default=0, init=False)
    """Position of the last event that it has to read."""
    _marks: deque[tuple[int, Mark]] = field(factory=deque[tuple[int, Mark]], init=False)
    """Marks between the events, each with the position of the event before it."""
    _fates: dict[int, Fate] = field(factory=dict[int, "Fate"], init=False)
    """The fates of events that a task waits for, by position."""
    _forgotten: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    """Tasks that wait until some of these marks and fates have gone."""
    _closed: bool = field(default=False, init=False)

    @property
    def behind(self) -> bool:
        """Whether the sender has to read from the disk before it may take anything newer."""
        return self._read < self._last

    def begin(self, after: int, last: int) -> None:
        """Have the sender read the events of an earlier run: those behind position `after`, up to `last`."""
        self._read = self._last = after
        if last > after:
            self._last = last
            # A document that the earlier run did not end has ended with that run.
            self._marks.append((last, Mark(ends_document=True)))

    def extend(self, items: Sequence[Item], position: int) -> None:
        """Have the sender read these events, the first of which lies behind `position`; keep the marks between them."""
        if not self.behind:
            self._read = position
        for item in items:
            if not isinstance(item, Accepted):
                self._marks.append((position, item))
                continue
            position += 1
            if item.fate is not None:
                self._fates[position] = item.fate
        self._last = position

    async def read(self) -> list[Item]:
        """Return the next events, with the marks between them; at least one item.

        Raises:
            SpoolError: The spool can't be read, or lacks the next event.
        """
        entries = await self._reader.page(self._read)
        items: list[Item] = [*self._marks_reached()]  # the first run that stayed on disk may begin with marks
        for entry in entries:
            if entry.position > self._last:  # it is written, and not accepted yet
                break
            item = self._revive(entry)
            self._read = entry.position
            item.fate = self._fates.pop(self._read, None)
            items += (item, *self._marks_reached())
        if not items:
            raise SpoolError(f"event {self._read + 1} is missing in the spool; restore it from a copy")
        self._forgotten.unpark_all()
        return items

    def _marks_reached(self) -> list[Mark]:
        """Take out the marks that lie directly behind the last event that was read."""
        marks: list[Mark] = []
        while self._marks and self._marks[0][0] == self._read:
            marks.append(self._marks.popleft()[1])
        return marks

    async def wait_remembering(self, item: Accepted | Mark) -> None:
        """While events wait on disk only, wait for memory if an item needs some: a mark, or an event with a receipt."""
        if isinstance(item, Accepted) and item.fate is None:
            return  # noqa: ASYNC910 - `send` waits for the disk
        while self.behind and not self._closed and len(self._marks) + len(self._fates) >= _REMEMBERED:
            await self._forgotten.park()

    def close(self, reason: str) -> list[Mark]:
        """Let nobody wait; tasks that wait for an event fail with `reason`. Return the marks that are left."""
        self._closed = True
        self._forgotten.unpark_all()
        for fate in self._fates.values():
            fate.failed(reason)
        return [mark for _, mark in self._marks]
