"""The spool journal: accepted events go to disk first, many with one sync, and then to the sender, in order (SPEC 7).

`send` puts into it; behind it stands the `Backlog`, from which the sender takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from math import inf

import trio
from attrs import define, field

from trio_wsout._core.message import Accepted, Message
from trio_wsout._core.settled import Settled
from trio_wsout._core.spool_format import EVENT_OVERHEAD, HEADER_SIZE, RECORD_OVERHEAD, encode_event
from trio_wsout._tasks.backlog import Backlog
from trio_wsout._tasks.ledger import Item, Ledger
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import EventError, SpoolError
from trio_wsout.stores.spool import Spooled, SpoolFullError, SpoolStore

__all__ = ["SpoolJournal"]

_NOWAIT = 256
"""Events of `send_nowait` that wait for the disk."""
_GROUP = 1024
_GROUP_BYTES = 1 << 20
"""Most events, and bytes but at least one event, of one group."""
_STORE_AFTER = 0.1
"""Seconds that a settled number waits for a group to be stored with; then it is stored alone."""
_RETRY = 1.0
"""Seconds until a spool that was full is tried again, if nothing settles before."""


@define(eq=False)
class _Sending:
    """An item that is not on disk yet."""

    item: Item
    kept: bytes
    """The event as it is kept; empty for a mark."""
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
class SpoolJournal:
    """The spool of one output, with the waiting around it."""

    _store: SpoolStore
    _max_bytes: int
    _ledger: Ledger
    backlog: Backlog
    size: int = field(default=0, init=False)
    """Bytes on disk."""
    torn: int = field(default=0, init=False)
    """Torn groups that were cut off as it was opened."""
    _waiting: dict[_Sending, None] = field(factory=dict[_Sending, None], init=False)
    """Items that are not on disk yet, in order."""
    _nowait: int = field(default=0, init=False)
    """The number of events that came by `send_nowait` and are not on disk yet."""
    _wakeup: Wakeup = field(factory=Wakeup, init=False)
    _freed: Wakeup = field(factory=Wakeup, init=False)
    _full: str | None = field(default=None, init=False)
    """The reason for which no more events fit; None if the latest group fitted."""
    _settled: Settled = field(factory=lambda: Settled(0), init=False)
    _stored: int = field(default=0, init=False)
    """The number up to which all are settled, as it is on disk."""
    _storing: int = field(default=0, init=False)
    """The value that `_stored` has once the write under way is done."""
    _store_at: float = field(default=inf, init=False)
    """The time at which a newer number is stored by itself; infinity if there is none."""
    _closed: bool = field(default=False, init=False)

    @property
    def location(self) -> str:
        """The location of the spool, for people."""
        return self._store.location

    @property
    def events(self) -> int:
        """Events on disk that have not settled."""
        return self.backlog.last - self._settled.upto - self._settled.beyond

    @property
    def waits(self) -> str | None:
        """The reason for which `send` waits; None if it waits for the next sync only."""
        return self._full if self._waiting else None

    @property
    def _most(self) -> int:
        """Size in bytes of the largest event that fits into an empty spool."""
        return self._max_bytes - HEADER_SIZE - RECORD_OVERHEAD - EVENT_OVERHEAD

    async def open(self, epoch: int) -> Spooled:
        """Take the spool over; the events in it go first.

        Raises:
            SpoolError: It can't be used, or is damaged.
        """
        found = await self._store.open(epoch)
        self._settled = Settled(found.settled)
        self._stored = self._storing = found.settled
        self.backlog.begin(found.settled, found.last)
        self.size, self.torn = found.size, found.torn
        return found

    # -- putting ----------------------------------------------------------------------------------------

    def send_nowait(self, value: Item) -> None:
        """Take an item; raises as `SendingEnd.send_nowait` does; an event is on disk a moment later."""
        sending = _Sending(value, self._kept(value))
        if self._nowait >= _NOWAIT and not self._closed:
            raise trio.WouldBlock
        self._put(sending)
        self._nowait += 1

    async def send(self, value: Item) -> None:
        """Take an event, and wait until it is on disk; or take a mark, behind all events so far.

        If this is cancelled before the event is being written, nothing was sent; after that, it waits for the write.
        """
        sending = _Sending(value, self._kept(value))
        await trio.lowlevel.checkpoint_if_cancelled()
        if isinstance(value, Accepted) or value.ends_document:
            await self.backlog.wait_remembering(value)
        self._put(sending)
        if not isinstance(value, Accepted):
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif not await sending.wait(partial(self._waiting.pop, sending)):
            raise trio.BrokenResourceError

    def _put(self, sending: _Sending) -> None:
        if self._closed:
            raise trio.BrokenResourceError
        self._waiting[sending] = None
        self._wakeup.notify()

    def _kept(self, value: Item) -> bytes:
        if not isinstance(value, Accepted):
            return b""
        kept = encode_event(value)
        if len(kept) > self._most:
            raise EventError(f"the event has {len(kept)} bytes, {self._most} fit into spool.max-bytes")
        return kept

    # -- writing ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until cancelled; a spool that can't be written breaks the output."""
        try:
            while True:
                with trio.move_on_at(self._store_at):
                    await self._wakeup.wait()
                while self._waiting:
                    await self._write(self._next_group())
                if trio.current_time() >= self._store_at:
                    await self._append(())
        except SpoolError as error:
            self._ledger.break_with(error)

    def _next_group(self) -> list[_Sending]:
        """Return the waiting items, oldest first, as many as one group may hold."""
        group: list[_Sending] = []
        size, most = 0, min(_GROUP_BYTES, self._most)
        for sending in islice(self._waiting, _GROUP):
            size += EVENT_OVERHEAD + len(sending.kept)
            if group and size > most:
                break
            sending.writing = True
            group.append(sending)
        return group

    async def _write(self, group: Sequence[_Sending]) -> None:
        events = [sending.kept for sending in group if sending.kept]
        try:
            if events:
                await self._append(events)
        except SpoolFullError as full:
            self._full = str(full)
            self._give_back(group)
            with trio.move_on_after(_RETRY):
                await self._freed.wait()
            return
        self._full = None
        for sending in group:
            del self._waiting[sending]
            self._nowait -= sending.task is None and bool(sending.kept)
            sending.on_disk = True
            sending.wake()
        self.backlog.extend([sending.item for sending in group], sum([len(event) for event in events]))

    async def _append(self, events: Sequence[bytes]) -> None:
        """Append a group, and store with it the number up to which all events have settled."""
        self._storing, self._store_at = self._settled.upto, inf
        self.size = await self._store.append(events, self._storing)
        self._stored = self._storing

    def _give_back(self, group: Iterable[_Sending]) -> None:
        """End the waits that were cancelled while this group was being written: nothing of it was kept."""
        for sending in group:
            sending.writing = False
            if sending.given_up:
                sending.wake()

    # -- fates ------------------------------------------------------------------------------------------

    def confirmed(self, messages: Sequence[Message]) -> None:
        """Let the events of confirmed messages leave the spool."""
        first, last = 0, -1
        for message in messages:
            for accepted in message.events:
                if accepted.seq != last + 1:
                    self._settle(first, last)
                    first = accepted.seq
                last = accepted.seq
        self._settle(first, last)

    def failed(self, accepted: Accepted) -> None:
        """Let an event leave the spool that was reported as undelivered."""
        self._settle(accepted.seq, accepted.seq)

    def _settle(self, first: int, last: int) -> None:
        if first > last:
            return
        self._settled.add(first, last)
        if self._settled.upto > self._storing and self._store_at == inf:
            self._store_at = trio.current_time() + _STORE_AFTER
            self._wakeup.notify()
        self._freed.notify()

    # -- the end ----------------------------------------------------------------------------------------

    def close(self, reason: str) -> list[Accepted]:
        """Take nothing more; tasks that wait for an event that stays in the spool fail with `reason`.

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
        self.backlog.close(reason)
        return [each.item for each in waiting if each.task is None and isinstance(each.item, Accepted)]

    async def aclose(self) -> None:
        """Store which events have settled, and close the spool."""
        if self._settled.upto > self._stored and not isinstance(self._ledger.broken, SpoolError):
            try:
                await self._append(())
            except SpoolError as error:
                self._ledger.break_with(error)
        await self._store.aclose()
        if not self.events:
            self.size = 0
