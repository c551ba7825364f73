"""The items that wait for the next commit of a journal: what the intake holds, or what waits for the disk (SPEC 7 and 11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, islice
from math import inf
from typing import Protocol

import trio
from attrs import Factory, define, field

from trio_wsout._core.durable_log import stored_payload
from trio_wsout._core.message import Accepted
from trio_wsout._tasks.catch_up import Backlog
from trio_wsout._tasks.channel import ReceivingEnd
from trio_wsout._tasks.ledger import Item
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import EventError

RUN = 1024
RUN_BYTES = 1 << 20
"""Most events, and bytes but at least one event, of one commit."""
_NOWAIT = 256
"""Events of `send_nowait` that wait for the disk."""
OVERHEAD = 64
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
    _count: int = field(default=0, init=False)
    """Those of them that the latest `take` returned."""

    def __len__(self) -> int:
        return len(self._run) + len(self._queue.waiting)

    async def wait(self) -> None:
        if self._run:
            await trio.lowlevel.checkpoint()
        else:
            await self._queue.wait()

    def take(self, room: float) -> Sequence[Item]:
        # All of them are in memory already, so their bytes need a bound only where a store has one.
        run, queue = self._run, self._queue
        while len(run) < RUN and (waiting := queue.waiting):
            run += queue.take(min(len(waiting), self._at_once, RUN - len(run)))
        self._count = len(run) if room == inf else _fitting(run, room)
        return run[: self._count]

    def taken(self) -> None:
        self._run = self._run[self._count :]

    def give_back(self) -> None:
        """Do nothing: a history that is full breaks the output."""


def _fitting(items: Sequence[Item], room: float) -> int:
    """Return how many of the items, at least one, have no more than `room` bytes together."""
    sizes = accumulate([len(item.payload) if isinstance(item, Accepted) else 0 for item in items])
    return next((max(1, index) for index, size in enumerate(sizes) if size > room), len(items))


@define(eq=False)
class _Sending:
    """An item that is not on disk yet."""

    item: Item
    source: DiskSource | None = None
    """The source that does not wait for it; None if a task waits in `send`, and for marks."""
    writing: bool = False
    """Whether it is being written now: too late to take it back."""
    given_up: bool = False
    """Whether the task was cancelled while the item was being written."""
    on_disk: bool | None = None
    """Whether it is on disk; None while that is not decided."""
    _asleep: trio.lowlevel.Task | None = None
    """The task that waits in `send`."""

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

        while self.on_disk is None:
            self._asleep = trio.lowlevel.current_task()
            # One task switch for each event is all that the wait costs; an event and a shielded scope cost three.
            await trio.lowlevel.wait_task_rescheduled(abort)
        return self.on_disk

    def decided(self, *, on_disk: bool) -> None:
        """Tell the task or the source that waits whether it is on disk."""
        self.on_disk = on_disk
        if self.source is not None:
            self.source.written()
        self.wake()

    def wake(self) -> None:
        """Wake the task that waits, if one does."""
        if self._asleep is not None:
            trio.lowlevel.reschedule(self._asleep)
            self._asleep = None


@define(eq=False)
class DiskSource:
    """A source that does not wait for each of its items: `send_nowait`, or one peer of a relay. `most` of them may not be on disk."""

    _entry: DiskEntry
    _most: int
    _count: int = field(default=0, init=False)
    _moved: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def __len__(self) -> int:
        """Return how many of its items are not on disk."""
        return self._count

    def send_nowait(self, value: Item) -> None:
        """Take an item; raises as `SendingEnd.send_nowait` does; it is on disk a moment later."""
        if self._count >= self._most and not self._entry.closed:
            raise trio.WouldBlock
        self._entry.put(value, self)
        self._count += 1

    async def send(self, value: Item) -> None:
        """Take an item, waiting for room; if this is cancelled, nothing was sent."""
        await trio.lowlevel.checkpoint()
        while self._count >= self._most:
            await self._moved.park()
        self.send_nowait(value)

    async def wait_empty(self) -> None:
        """Wait until all of its items are on disk."""
        await trio.lowlevel.checkpoint()
        while self._count:
            await self._moved.park()

    def written(self) -> None:
        """Note that one of its items is on disk, or will never be."""
        self._count -= 1
        self._moved.unpark_all()


@define(eq=False)
class DiskEntry:
    """Takes what goes into a spool, and returns when it is on disk; a `Uncommitted`.

    All sources stand in one line. It is no `SendingEnd`: that returns when an item is in the queue, and its waits can be cancelled at
    any time; here a wait ends with a commit, and can't be cancelled while that is under way.
    """

    _max_bytes: int
    _backlog: Backlog
    _waiting: dict[_Sending, None] = field(factory=dict[_Sending, None], init=False)
    """Items that are not on disk yet, in order."""
    _run: list[_Sending] = field(factory=list[_Sending], init=False)
    """Those of them that are being written."""
    _nowait: DiskSource = field(
        default=Factory(lambda self: DiskSource(self, _NOWAIT), takes_self=True), init=False
    )
    _wakeup: Wakeup = field(factory=Wakeup, init=False)
    closed: bool = field(default=False, init=False)
    """Whether nothing more is taken."""

    def __len__(self) -> int:
        """Return how many items are not on disk yet."""
        return len(self._waiting)

    # -- sending ----------------------------------------------------------------------------------------

    def clone(self, most: int) -> DiskSource:
        """Return another source, of which `most` items may not be on disk."""
        return DiskSource(self, most)

    def send_nowait(self, value: Item) -> None:
        """Take an item; raises as `SendingEnd.send_nowait` does; it is on disk a moment later."""
        self._check(value)
        self._nowait.send_nowait(value)

    async def send(self, value: Item) -> None:
        """Take an event, and wait until it is on disk; or take a mark, behind all events so far.

        If this is cancelled before the event is being written, nothing was sent; after that, it waits for the write.
        """
        self._check(value)
        await trio.lowlevel.checkpoint_if_cancelled()
        if isinstance(value, Accepted) or value.ends_document:
            await self._backlog.wait_remembering(value)
        sending = self.put(value)
        if not isinstance(value, Accepted):
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif not await sending.wait(lambda: self._waiting.pop(sending)):
            raise trio.BrokenResourceError

    def put(self, value: Item, source: DiskSource | None = None) -> _Sending:
        """Let an item wait for the disk."""
        if self.closed:
            raise trio.BrokenResourceError
        sending = _Sending(value, source)
        self._waiting[sending] = None
        self._wakeup.notify()
        return sending

    def _check(self, value: Item) -> None:
        most = self._max_bytes - OVERHEAD
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
        size, most = 0, min(RUN_BYTES, room)
        self._run = []
        for sending in islice(self._waiting, RUN):
            if isinstance(sending.item, Accepted):
                size += OVERHEAD + len(sending.item.payload)
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
            sending.decided(on_disk=True)

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
        self.closed = True
        waiting = list(self._waiting)
        self._waiting.clear()
        for sending in waiting:
            sending.decided(on_disk=False)
            if not isinstance(sending.item, Accepted):
                sending.item.abandon()
        return [each.item for each in waiting if each.source is not None and isinstance(each.item, Accepted)]
