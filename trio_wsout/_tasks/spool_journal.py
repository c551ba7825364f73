"""The spooler: what is sent goes to disk first, many events with one sync, and then on, in order (SPEC 7).

It is the `Entry` of `send`; behind it stands the `Backlog`, which is the `Source` of the sender.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.message import Accepted
from trio_wsout._core.spool_account import Settled
from trio_wsout._core.spool_format import EVENT_OVERHEAD, HEADER_SIZE, RECORD_OVERHEAD, encode_event
from trio_wsout._tasks.backlog import Backlog
from trio_wsout._tasks.ledger import Flush
from trio_wsout._tasks.sending import Sending
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import EventError, SpoolError
from trio_wsout.stores.spool import SpoolFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trio_wsout._core.message import Message
    from trio_wsout._tasks.intake import Item
    from trio_wsout._tasks.ledger import Ledger
    from trio_wsout.stores.spool import Spooled, SpoolStore

__all__ = ["SpoolJournal"]

_AT_ONCE = 256
"""Events of `send_nowait` that wait for the disk."""
_GROUP = 1024
_GROUP_BYTES = 1 << 20
"""Most events, and bytes but at least one event, of one group."""
_TELL_AFTER = 0.1
"""Seconds that a settled event may wait for a group that tells it along; then it is told alone."""
_RETRY = 1.0
"""Seconds until a spool that was full is tried again, if nothing is settled before."""


class SpoolJournal:
    """The spool of one output, with the waiting around it."""

    size: int
    """Bytes on disk."""
    torn: int
    """Torn groups that were cut off as it was opened."""

    def __init__(
        self, store: SpoolStore, max_bytes: int, ledger: Ledger, revive: Callable[[object], Accepted]
    ) -> None:
        """Keep events in `store`; `revive` makes an accepted event of one that is read back."""
        self._store = store
        self._most = max_bytes - HEADER_SIZE - RECORD_OVERHEAD - EVENT_OVERHEAD
        self._ledger = ledger
        self.backlog = Backlog(store, ledger, revive)
        self._waiting: dict[Sending, None] = {}
        self._at_once = 0
        self._wakeup = Wakeup()
        self._freed = Wakeup()
        self._full: str | None = None
        # Settled numbers, up to which one the disk was told so, and when it has to be told more.
        self._settled = Settled(0)
        self._told = 0
        self._telling = 0
        self._tell_at = inf
        self._closed = False
        self.size = 0
        self.torn = 0

    @property
    def place(self) -> str:
        """Where the spool is, for people."""
        return self._store.location

    @property
    def events(self) -> int:
        """Events on disk that are not settled."""
        return self.backlog.last - self._settled.upto - self._settled.beyond

    @property
    def waits(self) -> str | None:
        """Why `send` waits; None: for nothing but the next sync."""
        return self._full if self._waiting else None

    async def open(self, epoch: int) -> Spooled:
        """Take the spool over; what is left in it goes first.

        Raises:
            SpoolError: It can't be used, or is damaged.
        """
        found = await self._store.open(epoch)
        self._settled = Settled(found.settled)
        self._told = self._telling = found.settled
        self.backlog.begin(found.settled, found.last)
        self.size, self.torn = found.size, found.torn
        return found

    # -- Entry ------------------------------------------------------------------------------------------

    def send_nowait(self, value: Item) -> None:
        """Take an event if not too many wait for the disk: it is there a moment later."""
        sending = Sending(value, self._kept(value))
        if self._at_once >= _AT_ONCE and not self._closed:
            raise trio.WouldBlock
        self._put(sending)
        self._at_once += 1

    async def send(self, value: Item) -> None:
        """Take an event, and wait until it is on disk; or take a mark, behind all events so far.

        Cancelled while it waits for its turn, it has taken nothing. Once it is being written that is waited for.
        """
        sending = Sending(value, self._kept(value))
        await trio.lowlevel.checkpoint_if_cancelled()
        if not isinstance(value, Flush):
            await self.backlog.wait_remembering(value)
        self._put(sending)
        if not isinstance(value, Accepted):
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif not await sending.wait(partial(self._waiting.pop, sending)):
            raise trio.BrokenResourceError

    def _put(self, sending: Sending) -> None:
        if self._closed:
            raise trio.BrokenResourceError
        self._waiting[sending] = None
        self._wakeup.notify()

    def _kept(self, value: Item) -> bytes:
        if not isinstance(value, Accepted):
            return b""
        kept = encode_event(value)
        if len(kept) > self._most:
            message = f"the event has {len(kept)} bytes, {self._most} fit into spool.max-bytes"
            raise EventError(message)
        return kept

    # -- writing ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until cancelled; a spool that can't be written breaks the output."""
        try:
            while True:
                with trio.move_on_at(self._tell_at):
                    await self._wakeup.wait()
                while self._waiting:
                    await self._write(self._next_group())
                if trio.current_time() >= self._tell_at:
                    await self._append(())
        except SpoolError as error:
            self._ledger.break_with(error)

    def _next_group(self) -> list[Sending]:
        """What waits, oldest first, as much as one group may hold."""
        group: list[Sending] = []
        size, most = 0, min(_GROUP_BYTES, self._most)
        for sending in islice(self._waiting, _GROUP):
            size += EVENT_OVERHEAD + len(sending.kept)
            if group and size > most:
                break
            sending.writing = True
            group.append(sending)
        return group

    async def _write(self, group: Sequence[Sending]) -> None:
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
            self._at_once -= sending.task is None and bool(sending.kept)
            sending.on_disk = True
            sending.wake()
        self.backlog.extend([sending.item for sending in group], sum([len(event) for event in events]))

    async def _append(self, events: Sequence[bytes]) -> None:
        self._telling, self._tell_at = self._settled.upto, inf
        self.size = await self._store.append(events, self._telling)
        self._told = self._telling

    def _give_back(self, group: Iterable[Sending]) -> None:
        """Nothing of the group was kept: who was cancelled meanwhile may go."""
        for sending in group:
            sending.writing = False
            if sending.given_up:
                sending.wake()

    # -- fates ------------------------------------------------------------------------------------------

    def confirmed(self, messages: Sequence[Message]) -> None:
        """The events of these messages are confirmed: they may leave."""
        first, last = 0, -1
        for message in messages:
            for accepted in message.events:
                if accepted.seq != last + 1:
                    self._settle(first, last)
                    first = accepted.seq
                last = accepted.seq
        self._settle(first, last)

    def failed(self, accepted: Accepted) -> None:
        """This event is undelivered and was reported: it may leave."""
        self._settle(accepted.seq, accepted.seq)

    def _settle(self, first: int, last: int) -> None:
        if first > last:
            return
        self._settled.add(first, last)
        if self._settled.upto > self._telling and self._tell_at == inf:
            self._tell_at = trio.current_time() + _TELL_AFTER
            self._wakeup.notify()
        self._freed.notify()

    # -- the end ----------------------------------------------------------------------------------------

    def close(self, reason: str) -> list[Accepted]:
        """Take nothing more; who waits for an event that stays hears `reason`. Gives what was accepted and never kept."""
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
        """Tell what is settled, and close the spool."""
        if self._settled.upto > self._told and not isinstance(self._ledger.broken, SpoolError):
            try:
                await self._append(())
            except SpoolError as error:
                self._ledger.break_with(error)
        await self._store.aclose()
        if not self.events:
            self.size = 0
