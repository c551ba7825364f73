"""The journal: events go into a durable log, many with one commit, and then to the sender, in order (SPEC 7 and 11).

It stands between the intake and the sender, and is the sender's source. With a history it takes what waits in the intake.
With a spool it is behind a `DiskEntry`, whose ``send`` returns when the event is on disk; then a few events wait in memory,
and once there are more, further ones are on disk only, until reading back has caught up with them (`Backlog`).
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from math import inf
from typing import Protocol, cast

import trio
from attrs import define, field

from trio_wsout._core.durable_log import Entry, Extent, Kind, kind_of, stored_payload
from trio_wsout._core.message import Accepted, all_plain
from trio_wsout._tasks.catch_up import Backlog
from trio_wsout._tasks.channel import ReceivingEnd
from trio_wsout._tasks.ledger import Item, Ledger, Mark
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.config.sections import Payload
from trio_wsout.errors import EventError, HistoryError, SpoolError
from trio_wsout.stores.log import LogFullError, LogStore

RUN = 1024
_RUN_BYTES = 1 << 20
"""Most events, and bytes but at least one event, of one commit."""
_AHEAD = 256
"""With a history: items that wait for the sender before the next commit."""
_IN_MEMORY = 1024
_IN_MEMORY_BYTES = 8 << 20
"""With a spool: most items, and bytes but at least one run, that wait in memory, too."""
_NOWAIT = 256
"""Events of `send_nowait` that wait for the disk."""
_STORE_AFTER = 0.1
"""Seconds that a settled number waits for a run to be stored with; then it is stored alone."""
_RETRY = 1.0
"""Seconds until a log that was full is tried again, if nothing settles before."""
_TRIMS = 10
"""Old events are removed this many times within `max-age`."""
_OVERHEAD = 64
"""Bytes that an event takes on disk beside its payload, at most: where it is alone in its commit."""


class Uncommitted(Protocol):
    """The items that wait for the next commit."""

    def __len__(self) -> int:
        """Return how many items are not committed; at least 1 if one waits."""
        ...

    async def wait(self) -> None:
        """Wait until an item waits."""

    def take(self, room: float) -> Sequence[Item]:
        """Return the items that are committed now: the oldest, as many as a run may hold and `room` bytes take, but at least one."""
        ...

    def taken(self) -> None:
        """Forget the items of the latest `take`: they are committed."""

    def give_back(self) -> None:
        """Let the items of the latest `take` wait again: there was no room."""


@define(eq=False)
class IntakeRuns:
    """The `Uncommitted` of a history: what waits in the intake."""

    _queue: ReceivingEnd[Item]
    _at_once: int
    """Items that a source of the queue may have taken at its turn."""
    _run: list[Item] = field(factory=list[Item], init=False)
    """Items that have left the queue, and are not committed."""

    def __len__(self) -> int:
        return len(self._run) + len(self._queue.waiting)

    async def wait(self) -> None:
        await self._queue.wait()

    def take(self, room: float) -> Sequence[Item]:
        del room  # a history has room for everything
        # All of them are in memory already, so their bytes need no bound here.
        run, queue = self._run, self._queue
        while len(run) < RUN and (waiting := queue.waiting):
            run += queue.take(min(len(waiting), self._at_once, RUN - len(run)))
        return run

    def taken(self) -> None:
        self._run = []

    def give_back(self) -> None:
        """Do nothing: a history that is full breaks the output."""


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
    extent: Extent = field(default=Extent(epoch=0, floor=0, tail=0, size=0), init=False)
    """The extent of the log, as of the latest write."""
    full: str | None = field(default=None, init=False)
    """The reason for which no more events fit; None if the latest run fitted."""
    _ready: deque[Item] = field(factory=deque[Item], init=False)
    """Items that are committed, for the sender."""
    _ready_bytes: int = field(default=0, init=False)
    _to_take: Wakeup = field(factory=Wakeup, init=False)
    _room: Wakeup = field(factory=Wakeup, init=False)
    _freed: Wakeup = field(factory=Wakeup, init=False)
    _storing: int = field(default=0, init=False)
    """The position up to which all have settled, as it is on disk once the write under way is done."""
    _tidy_at: float = field(default=inf, init=False)
    """The time at which the log is written to even if no event waits: to store what has settled, or to remove old events."""
    _idle: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Bounds the wait for the next item."""

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
        return self.extent.size + _OVERHEAD * self.extent.events

    async def open(self, epoch: int) -> Extent:
        """Take the log over. The events that are left in a spool go first.

        Raises:
            HistoryError: It can't be read or written (a spool: SpoolError).
        """
        self.extent = await self._store.open(epoch, keep_epoch=self.backlog is not None)
        self._storing = self.extent.floor
        if self.backlog is not None:
            self.backlog.begin(self.extent.floor, self.extent.tail)
        return self.extent

    def __len__(self) -> int:
        """Return how many items the sender has not taken; a spool's that are on disk only do not count."""
        return len(self._ready) + len(self._uncommitted)

    # -- Source -------------------------------------------------------------------------------------------

    def receive_nowait(self) -> Item:
        """Return the next item that is in memory; raises trio.WouldBlock if none is."""
        ready = self._ready
        if not ready:
            raise trio.WouldBlock
        if len(ready) == _AHEAD:
            self._room.notify()
        item = ready.popleft()
        if self.backlog is not None and isinstance(item, Accepted):
            self._ready_bytes -= len(item.payload)
        return item

    async def receive(self) -> Item:
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

    def _make_ready(self, items: Sequence[Item]) -> None:
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
        items = self._uncommitted.take(self._max_bytes - self.size)
        plain = all_plain(items)  # marks are rare
        events = cast("Sequence[Accepted]", items) if plain else [i for i in items if isinstance(i, Accepted)]
        position, size = self.extent.tail, _size(events)
        try:
            if events and not await self._fits(size + _OVERHEAD * len(events)):
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
        self._hand_over(items, position, size)
        while self.backlog is None and len(self._ready) >= _AHEAD:
            await self._room.wait()

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
            if type(event.event) is dict
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

    def drain(self) -> list[Item]:
        """Return the items of a history that the sender has not taken, in order."""
        return [*self._ready, *self._uncommitted.take(inf)]

    def close(self, reason: str) -> None:
        """Hand nothing over any more; tasks that wait for an event that stays in the log fail with `reason`."""
        left = list(self._ready)
        if self.backlog is not None:
            left += self.backlog.close(reason)
        for item in left:
            if not isinstance(item, Accepted):
                item.abandon()
            elif item.fate is not None:
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


def _size(items: Sequence[Item]) -> int:
    return sum([len(item.payload) for item in items if isinstance(item, Accepted)])


@define(eq=False)
class _Sending:
    """An item that is not on disk yet."""

    item: Item
    task: trio.lowlevel.Task | None = None
    """The task that waits in `send`; None for `send_nowait`, and for marks."""
    writing: bool = False
    """Whether it is being written now: too late to take it back."""
    given_up: bool = False
    """Whether the task was cancelled while the item was being written."""
    on_disk: bool | None = None
    """Whether it is on disk; None while that is not decided."""
    _asleep: bool = False

    async def wait(self, take_back: Callable[[], object]) -> bool:
        """Wait until it is decided whether the item is on disk, and return that.

        Cancelled before the item is being written, it is taken back, and has not been sent. After that the write is
        waited for: otherwise nobody would know whether the event was sent.
        """

        def abort(_: object) -> trio.lowlevel.Abort:
            self.given_up = self.writing
            if self.writing:
                return trio.lowlevel.Abort.FAILED
            take_back()
            return trio.lowlevel.Abort.SUCCEEDED

        self.task = trio.lowlevel.current_task()
        while self.on_disk is None:
            self._asleep = True
            # One task switch for each event is all that the wait costs; an event and a shielded scope cost three.
            await trio.lowlevel.wait_task_rescheduled(abort)
        return self.on_disk

    def wake(self) -> None:
        """Wake the task that waits, if one does."""
        if self._asleep and self.task is not None:
            self._asleep = False
            trio.lowlevel.reschedule(self.task)


@define(eq=False)
class DiskEntry:
    """Takes what the output of a spool accepts, and returns when it is on disk; a `Uncommitted`."""

    _max_bytes: int
    _backlog: Backlog
    _waiting: dict[_Sending, None] = field(factory=dict[_Sending, None], init=False)
    """Items that are not on disk yet, in order."""
    _run: list[_Sending] = field(factory=list[_Sending], init=False)
    """Those of them that are being written."""
    _nowait: int = field(default=0, init=False)
    """The number of events that came by `send_nowait` and are not on disk yet."""
    _wakeup: Wakeup = field(factory=Wakeup, init=False)
    _closed: bool = field(default=False, init=False)

    def __len__(self) -> int:
        """Return how many items are not on disk yet."""
        return len(self._waiting)

    # -- sending ----------------------------------------------------------------------------------------

    def send_nowait(self, value: Item) -> None:
        """Take an item; raises as `SendingEnd.send_nowait` does; an event is on disk a moment later."""
        self._check(value)
        if self._nowait >= _NOWAIT and not self._closed:
            raise trio.WouldBlock
        self._put(_Sending(value))
        self._nowait += 1

    async def send(self, value: Item) -> None:
        """Take an event, and wait until it is on disk; or take a mark, behind all events so far.

        If this is cancelled before the event is being written, nothing was sent; after that, it waits for the write.
        """
        self._check(value)
        await trio.lowlevel.checkpoint_if_cancelled()
        if isinstance(value, Accepted) or value.ends_document:
            await self._backlog.wait_remembering(value)
        sending = _Sending(value)
        self._put(sending)
        if not isinstance(value, Accepted):
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif not await sending.wait(lambda: self._waiting.pop(sending)):
            raise trio.BrokenResourceError

    def _put(self, sending: _Sending) -> None:
        if self._closed:
            raise trio.BrokenResourceError
        self._waiting[sending] = None
        self._wakeup.notify()

    def _check(self, value: Item) -> None:
        most = self._max_bytes - _OVERHEAD
        size = len(stored_payload(value)) if isinstance(value, Accepted) else 0
        if size > most:
            raise EventError(f"the event has {size} bytes, {most} fit into spool.max-bytes")

    # -- Uncommitted -------------------------------------------------------------------------------------------

    async def wait(self) -> None:
        if self._waiting:
            await trio.lowlevel.checkpoint()
        while not self._waiting:
            await self._wakeup.wait()

    def take(self, room: float) -> Sequence[Item]:
        size, most = 0, min(_RUN_BYTES, room)
        self._run = []
        for sending in islice(self._waiting, RUN):
            if isinstance(sending.item, Accepted):
                size += _OVERHEAD + len(sending.item.payload)
                if self._run and size > most:
                    break
            sending.writing = True
            self._run.append(sending)
        return [sending.item for sending in self._run]

    def taken(self) -> None:
        now = trio.current_time()
        for sending in self._run:
            if isinstance(sending.item, Accepted):
                sending.item.at = now
            del self._waiting[sending]
            self._nowait -= sending.task is None and isinstance(sending.item, Accepted)
            sending.on_disk = True
            sending.wake()

    def give_back(self) -> None:
        """Let the items of the latest `take` wait again; waits that were cancelled meanwhile end: nothing of them was stored."""
        for sending in self._run:
            sending.writing = False
            if sending.given_up:
                sending.wake()

    def close(self) -> list[Accepted]:
        """Take nothing more.

        Returns:
            The events that were accepted, and are not on disk.
        """
        self._closed = True
        waiting = list(self._waiting)
        self._waiting.clear()
        for sending in waiting:
            sending.on_disk = False
            sending.wake()
            if not isinstance(sending.item, Accepted):
                sending.item.abandon()
        return [each.item for each in waiting if each.task is None and isinstance(each.item, Accepted)]
