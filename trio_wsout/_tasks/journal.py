"""The journal: events go into a durable log, many with one commit, and then to the sender, in order (SPEC 7 and 11).

It stands between the intake and the sender, and is the sender's source. With a history it takes what waits in the intake.
With a spool it is behind a `DiskEntry`, whose ``send`` returns when the event is on disk; then a few events wait in memory,
and once there are more, further ones are on disk only, until reading back has caught up with them (`Backlog`).
"""

import time
from collections import deque
from collections.abc import Awaitable, Sequence
from math import inf
from typing import cast

import trio
from attrs import define, field

from trio_wsout._core.durable_log import Entry, Extent, Kind, kind_of, stored_payload
from trio_wsout._core.message import Accepted, OnDisk, Refused, all_plain
from trio_wsout._core.statistics import HistoryStatistics
from trio_wsout._tasks.catch_up import Backlog
from trio_wsout._tasks.channel import SendingEnd
from trio_wsout._tasks.following import Following
from trio_wsout._tasks.ledger import Coming, Item, Ledger, Mark, SharedFate
from trio_wsout._tasks.uncommitted import OVERHEAD, RUN_BYTES, Uncommitted
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.config.sections import Payload
from trio_wsout.errors import HistoryError, SpoolError
from trio_wsout.stores.log import LogFullError, LogStore

_AHEAD = 256
"""With a history: items that wait for the sender before the next commit."""
_IN_MEMORY = 1024
_IN_MEMORY_BYTES = 8 << 20
"""With a spool: most items, and bytes but at least one run, that wait in memory, too."""
_STORE_AFTER = 0.1
"""Seconds that a settled number waits for a run to be stored with; then it is stored alone."""
_RETRY = 1.0
"""Seconds until a log that was full is tried again, if nothing settles before."""
_TRIMS = 10
"""Old events are removed this many times within `max-age`."""


@define(eq=False)
class Journal:
    """Commits events, and hands them to the sender; a `Source`. It is a history's if it has no `backlog`."""

    _store: LogStore
    _uncommitted: Uncommitted
    _ledger: Ledger
    _payload: Payload
    _max_age: float | None = field(default=None, alias="max_age", kw_only=True)
    """Seconds that an event is kept; None if for ever."""
    _max_bytes: float = field(default=inf, alias="max_bytes", kw_only=True)
    """Bytes on disk, at most."""
    backlog: Backlog | None = field(default=None, kw_only=True)
    following: Following | None = field(default=None, kw_only=True)
    """What comes next where several outputs share the log; None where it is what was appended."""
    appended: int = field(default=0, init=False)
    """Events that were appended."""
    _peers: SendingEnd[Item] | None = field(default=None, alias="peers", kw_only=True)
    """The queue of the events that go to the peers of a relay, too; None where events go up the link only."""
    passing: deque[Item] = field(factory=deque[Item], init=False)
    """Items that are on disk, and wait for room in that queue."""
    extent: Extent = field(default=Extent(epoch=0, floor=0, tail=0, size=0), init=False)
    """The extent of the log, as of the latest write."""
    full: str | None = field(default=None, init=False)
    """The reason for which no more events fit; None if the latest run fitted."""
    _ready: deque[Coming] = field(factory=deque["Coming"], init=False)
    """Items that are committed, for the sender."""
    _ready_bytes: int = field(default=0, init=False)
    _to_take: Wakeup = field(factory=Wakeup, init=False)
    _room: Wakeup = field(factory=Wakeup, init=False)
    _to_follow: Wakeup = field(factory=Wakeup, init=False)
    """Wakes the task that follows a shared log."""
    _ends: bool = field(default=False, init=False)
    """Whether nothing more is taken from a shared log than this output's own events need."""
    _missing: list[Item] = field(factory=list[Item], init=False)
    """Items that were not committed when the output ended."""
    _freed: Wakeup = field(factory=Wakeup, init=False)
    _storing: int = field(default=0, init=False)
    """The position up to which all have settled, as it is on disk once the write under way is done."""
    _tidy_at: float = field(default=inf, init=False)
    """The time at which the log is written to even if no event waits: to store what has settled, or to remove old events."""
    _idle: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Bounds the wait for the next item, or for room among the peers."""

    @property
    def location(self) -> str:
        """The location of the log, for people."""
        return self._store.location

    @property
    def events(self) -> int:
        """Events that have not settled."""
        settled = self._ledger.settled
        return self.extent.tail - settled.upto - settled.beyond

    @property
    def size(self) -> int:
        """Bytes that the events of the log take on disk, at most."""
        return self.extent.size + OVERHEAD * self.extent.events

    async def open(self, epoch: int) -> Extent:
        """Take the log over. The events that are left in a spool go first.

        Raises:
            HistoryError: It can't be read or written (a spool: SpoolError).
        """
        self.extent = await self._store.open(epoch, keep_epoch=self.backlog is not None)
        self._storing = self.extent.floor
        if self.backlog is not None:
            self.backlog.begin(self.extent.floor, self.extent.tail)
        if self.following is not None:
            self.following.begin(self.extent)
        return self.extent

    def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks."""
        nursery.start_soon(self.run, name="journal")
        if self.following is not None:
            nursery.start_soon(self.following.store.run, name="shared log")
            nursery.start_soon(self._follow, self.following, name="follower")

    def __len__(self) -> int:
        """Return how many items the sender has not taken; a spool's that are on disk only do not count."""
        own = [] if self.following is None else self.following.own
        return len(self._ready) + len(own) + len(self._uncommitted)

    # -- Source -------------------------------------------------------------------------------------------

    def receive_nowait(self) -> Coming:
        """Return the next item that is in memory; raises trio.WouldBlock if none is."""
        ready = self._ready
        if not ready:
            raise trio.WouldBlock
        if len(ready) == _AHEAD:
            self._room.notify()
            self._to_follow.notify()
        item = ready.popleft()
        if self.backlog is not None and isinstance(item, Accepted):
            self._ready_bytes -= len(item.payload)
        return item

    async def receive(self) -> Coming:
        """Return the next item, waiting for one; if this is cancelled, no item is lost."""
        if self._ready:
            await trio.lowlevel.checkpoint()
        while not self._ready:
            if self.backlog is not None and self.backlog.behind:
                await self._read_back(self.backlog)
            else:
                await self._to_take.wait()
        return self.receive_nowait()

    async def _read_back(self, backlog: Backlog) -> None:
        """Read some of the events that are on disk only; a log that can't be read breaks the output."""
        try:
            items = await backlog.read()
        except SpoolError as error:
            self._ledger.break_with(error)
            await trio.sleep_forever()
        self._make_ready(items)

    def _make_ready(self, items: Sequence[Coming]) -> None:
        self._ready.extend(items)
        if self.backlog is not None:
            self._ready_bytes += _size(items)
        self._to_take.notify()

    # -- writing ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Commit until cancelled; a log that can't be written breaks the output."""
        try:
            while True:
                if self._max_age is not None:
                    self._tidy_at = trio.current_time() + self._max_age / _TRIMS
                elif self.backlog is None:  # nothing has ever to be tidied
                    await self._uncommitted.wait()
                    await self._commit()
                    continue
                with trio.CancelScope(
                    deadline=inf if len(self._uncommitted) else self._tidy_at
                ) as self._idle:
                    await self._uncommitted.wait()
                if self._idle.cancelled_caught:
                    await self._tidy()
                else:
                    await self._commit()
        except (HistoryError, SpoolError) as error:
            self._ledger.break_with(error)

    async def _tidy(self) -> None:
        try:
            if self._max_age is not None:
                await self._write(self._store.trim(time.time()))
            else:
                await self._append(())
        except LogFullError as full:
            self._disk_is_full(full)

    async def _commit(self) -> None:
        """Store the items that wait, and hand them to the sender."""
        items = self._uncommitted.take(self._max_bytes - self.size if self.following is None else RUN_BYTES)
        plain = all_plain(items)  # marks are rare
        events = cast("Sequence[Accepted]", items) if plain else [i for i in items if isinstance(i, Accepted)]
        if self.following is not None:
            await self._append_to_shared(self.following, items, events)
            return
        position, size = self.extent.tail, _size(events)
        try:
            if events and not await self._fits(size + OVERHEAD * len(events)):
                await self._wait_for_room("spool.max-bytes is reached")
                return
            if events:
                await self._append(self._entries(events))
        except LogFullError as full:
            self._disk_is_full(full)
            await self._wait_for_room("the disk is full")
            return
        self.full = None
        self._uncommitted.taken()
        self.appended += len(events)
        if self._peers is not None:
            self.passing.extend(_for_peers(items, position))
        self._hand_over(items, position, size)
        if self._peers is not None:
            await self._pass_on(self._peers)
        while self.backlog is None and len(self._ready) >= _AHEAD:
            await self._room.wait()

    async def _append_to_shared(
        self, following: Following, items: Sequence[Item], events: Sequence[Accepted]
    ) -> None:
        """Append events to a log that several outputs share; they are handed over when they come round."""
        self._uncommitted.taken()
        if not events:
            if not following.stay_behind(items):
                self._make_ready(items)
            return
        following.add(items)
        self._to_follow.notify()
        await self._append(self._entries(events))
        self.appended += len(events)
        await following.wait_for_few()

    async def _follow(self, following: Following) -> None:
        """Hand over what comes next in a shared log, until cancelled; a log that can't be read breaks the output."""
        try:
            while True:
                for arrival in await following.next():
                    while len(self._ready) >= _AHEAD or (self._ends and not following.own):
                        await self._to_follow.wait()
                    self._make_ready(following.items(arrival))
        except HistoryError as error:
            self._ledger.break_with(error)

    async def _pass_on(self, peers: SendingEnd[Item]) -> None:
        """Put items into the queue of the peers, waiting for room. What settles meanwhile leaves the log all the same."""
        passing = self.passing
        while passing:
            try:
                peers.send_nowait(passing[0])
            except trio.WouldBlock:
                with trio.CancelScope(deadline=self._tidy_at) as self._idle:
                    await peers.send(passing[0])
                if self._idle.cancelled_caught:
                    await self._tidy()
                    continue
            passing.popleft()

    async def _fits(self, size: int) -> bool:
        """Return whether there is room for events that take so many bytes, if need be after letting those leave that have settled."""
        if self.size + size > self._max_bytes and self._ledger.settled.upto > self.extent.floor:
            await self._append(())
        return self.size + size <= self._max_bytes

    def _disk_is_full(self, full: LogFullError) -> None:
        """Have what has settled stored a little later; a history that is full breaks the output."""
        if self.backlog is None:
            raise HistoryError(str(full)) from full
        self._tidy_at = trio.current_time() + _RETRY

    async def _wait_for_room(self, reason: str) -> None:
        """Wait until a spool may have room again; the open batch, which may hold all that is in it, goes now."""
        self.full = reason
        self._uncommitted.give_back()
        if self.backlog is not None and not self.backlog.behind and not self._ready:
            self._make_ready([Mark()])
        with trio.move_on_after(_RETRY):
            await self._freed.wait()

    def _hand_over(self, items: Sequence[Item], position: int, size: int) -> None:
        """Hand items that are committed to the sender; the first event among them lies behind `position`."""
        backlog = self.backlog
        if backlog is not None:
            few = len(self._ready) + len(items) <= _IN_MEMORY and self._ready_bytes + size <= _IN_MEMORY_BYTES
            if backlog.behind or (size and self._ready and not few):
                backlog.extend(items, position)
                self._to_take.notify()
                return
        self._make_ready(items)

    def _entries(self, events: Sequence[Accepted]) -> list[Entry]:
        now, epoch, payload, position = time.time(), self.extent.epoch, self._payload, self.extent.tail
        return [
            # Nearly all events are plain dicts, and need no call.
            Entry(number, epoch, Kind.JSON, event.payload, event.cursor, now)
            if type(event.event) is dict and event.source is None
            else Entry(number, epoch, kind_of(event, payload), stored_payload(event), event.cursor, now)
            for number, event in enumerate(events, position + 1)
        ]

    async def _append(self, run: Sequence[Entry]) -> None:
        """Append a run, and store with it the position up to which all events have settled."""
        self._storing, self._tidy_at = self._ledger.settled.upto, inf
        await self._write(self._store.append(run, self._storing if self.backlog is not None else 0))

    async def _write(self, extent: Awaitable[Extent]) -> None:
        self.extent = await extent

    def have_settled(self) -> None:
        """Have the position stored up to which the events of a spool have settled, and try again if it was full."""
        if self._ledger.settled.upto > self._storing and self._tidy_at == inf:
            self._tidy_at = self._idle.deadline = trio.current_time() + _STORE_AFTER
        self._freed.notify()

    # -- the end ----------------------------------------------------------------------------------------

    @property
    def waiting(self) -> str | None:
        """The reason, in words, for which a shared log makes this output wait; None if it does not."""
        return None if self.following is None else self.following.store.waiting

    def end(self) -> None:
        """Hand nothing over any more that lies behind the last event of this output."""
        self._ends = True

    def drain(self) -> list[Coming]:
        """Return the items of a history that the sender has not taken, in order, with those that wait in the intake."""
        while items := self._uncommitted.take(inf):
            self._missing += items
            self._uncommitted.taken()
        own = [] if self.following is None else self.following.own
        return [*self._ready, *own, *self._missing]

    def reasons(self, reason: str) -> dict[Accepted, str]:
        """Return, behind `drain`, why events that a shared log may not have are not delivered; `reason` is why others are not."""
        if self.following is None:
            return {}
        unknown, missing = (
            "whether the history has the event is not known",
            "the history does not have the event",
        )
        parts = (self.following.own, unknown), (self._missing, missing)
        return {
            item: f"{reason}; {text}" for items, text in parts for item in items if isinstance(item, Accepted)
        }

    def statistics(self, replayed: int) -> HistoryStatistics:
        """Return the figures of a history, of which peers got `replayed` events."""
        following = self.following
        if following is None:
            extent = self.extent
            return HistoryStatistics(
                events=extent.events, bytes=extent.size, replayed=replayed, appended=self.appended
            )
        store = following.store
        return HistoryStatistics(
            events=store.extent.events,
            bytes=store.extent.size,
            replayed=replayed,
            appended=self.appended,
            foreign=following.foreign,
            lag=store.lag,
            waiting=store.waiting,
        )

    def close(self, reason: str) -> None:
        """Hand nothing over any more; tasks that wait for an event that stays in the log fail with `reason`."""
        left = list(self._ready)
        if self.backlog is not None:
            left += self.backlog.close(reason)
        for item in left:
            if isinstance(item, Mark):
                item.abandon()
            elif isinstance(item, Accepted) and item.fate is not None:
                item.fate.failed(reason)

    async def aclose(self) -> None:
        """Store which events have settled, and close the log."""
        unstored = self.backlog is not None and self._ledger.settled.upto > self.extent.floor
        if unstored and not isinstance(self._ledger.broken, SpoolError):
            try:
                await self._append(())
            except (SpoolError, LogFullError) as error:
                self._ledger.break_with(error if isinstance(error, SpoolError) else SpoolError(str(error)))
        await self._store.aclose()


def _size(items: Sequence[Coming]) -> int:
    return sum([len(item.payload) for item in items if isinstance(item, Accepted)])


def _for_peers(items: Sequence[Item], position: int) -> list[Item]:
    """Return what goes to the peers of a relay; `items` go up its link, the first event among them behind `position`.

    An event that somebody waits for is confirmed once both have it.
    """
    kept: list[Item] = []
    for item in items:
        if not isinstance(item, Accepted):
            kept += () if item.twin is None else (item.twin,)
            continue
        position += 1
        if isinstance(item, Refused):
            continue  # the way up tells of it
        if item.fate is not None:
            item.fate = SharedFate(item.fate)
        theirs = OnDisk(
            item.payload, item.event, item.fate, source=item.source, cursor=item.cursor, position=position
        )
        theirs.at = item.at
        kept.append(theirs)
        item.source = None  # to the link all come from here
    return kept
