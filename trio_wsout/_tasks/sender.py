"""The sender: accepted events become batches, batches become messages, and these go to the log."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import cast

import trio
from attrs import define, field

from trio_wsout._core.message import Accepted, Message, Refused, all_plain
from trio_wsout._core.packing import Packer
from trio_wsout._tasks.channel import ReceivingEnd
from trio_wsout._tasks.fan_out import FanOut
from trio_wsout._tasks.journal import Journal
from trio_wsout._tasks.ledger import Coming, Item, Ledger, Mark, Stretch

_LONE = 0.001
"""An event counts as alone if no other one came for so many seconds before it."""

_UNREPORTED = 1024
"""Undelivered events that may wait to be reported; then nothing is sent until they are."""


@define(eq=False)
class Sender:
    """Empties one source into the log, in order."""

    _packer: Packer
    _source: ReceivingEnd[Item] | Journal
    """The queue, or the journal behind it."""
    _fan_out: FanOut
    _ledger: Ledger
    _queue: ReceivingEnd[Item] | None = field(default=None, alias="queue")
    """The source once more, where events go up a link as they are: each alone in its message, without a stamp."""
    _waiting: deque[Message] = field(factory=deque["Message"], init=False)
    """Messages that the log has no room for yet."""
    _notified_at: float = field(default=-inf, init=False)

    @property
    def pending(self) -> int:
        """The number of events that left the source and are not in the log yet."""
        return sum(len(message.events) for message in self._waiting) + self._packer.pending

    def leftovers(self) -> list[Accepted]:
        """Take out the events that are not in the log yet, in order; for the end."""
        messages = (*self._waiting, *self._packer.flush())
        self._waiting.clear()
        return [accepted for message in messages for accepted in message.events]

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            item: Coming | None = None
            deadline = self._packer.deadline
            if deadline is None:
                item = await self._source.receive()
            else:
                with trio.move_on_at(deadline):
                    item = await self._source.receive()
            if item is not None:
                await self._take_waiting(item)
            else:
                await self._put(self._packer.poll(trio.current_time()))
            self._notify()
            await self._wait_reported()

    async def _wait_reported(self) -> None:  # noqa: ASYNC910 - only waits if there is too much
        """Wait while the application takes no undelivered events, so that their number stays bounded."""
        if self._ledger.unreported >= _UNREPORTED:
            await self._ledger.report()

    def _notify(self) -> None:
        self._fan_out.notify()
        # An event that follows soon does not come alone: many events in one write cost less than one by one.
        self._notified_at = trio.current_time()

    def take_alone(self, item: Item) -> bool:
        """Take an item if it is an event that comes alone and every peer has room for it; return whether it was taken.

        Called by the task that sends it, while the sender's task waits for an item, so that nothing is before this one. A
        task switch, with the turn of the loop that it takes, costs as much as writing to ten peers, and would delay the
        event. Events that come in numbers wait for the switch, and are written together.
        """
        if (
            not (self._packer.alone and type(item) is Accepted)
            or trio.current_time() - self._notified_at < _LONE
            or self._fan_out.log.full
        ):
            return False
        self._packer.number(item)
        self._fan_out.accept(item)
        self._notify()
        return True

    async def _take_waiting(self, item: Coming) -> None:
        """Take an item and everything that waits behind it."""
        # One task switch serves all of them, and an event that goes alone in its message costs no call that awaits.
        source, alone, accept = self._source, self._packer.alone, self._fan_out.accept
        try:
            while True:
                if alone and type(item) is Accepted:
                    self._packer.number(item)
                    if not accept(item):
                        await self._put((item,))
                else:
                    await self._take(item)
                if self._queue is not None:
                    self._move(self._queue)
                item = source.receive_nowait()
        except trio.WouldBlock:
            return

    def _move(self, queue: ReceivingEnd[Item]) -> None:
        """Move the events that the link has room for into the log in one go, if nothing but events waits.

        So numbering an event and moving it costs a part of encoding it.
        """
        waiting = queue.waiting
        if all_plain(waiting):
            log = self._fan_out.log
            events = cast("Sequence[Accepted]", waiting)
            count = log.offer_many(events)
            if count and log.delivery.max_age is not None:
                log.aged(events[0])  # the oldest
            self._packer.number_many(cast("list[Accepted]", queue.take(count)))

    async def _take(self, item: Coming) -> None:
        match item:
            case Accepted():
                await self._pack(item)
            case Mark():
                await self._pass(item)
            case Stretch():
                await self._go_on(item)

    async def _pass(self, mark: Mark) -> None:
        """Close the open batch at a mark."""
        messages, marker = self._packer.end_document() if mark.ends_document else (self._packer.flush(), None)
        try:
            await self._put(messages)
        except BaseException:
            mark.abandon()
            raise
        self._ledger.passed(mark, self._packer.last_seq, marker)

    async def _go_on(self, stretch: Stretch) -> None:
        """Go on as a shared log says; where numbers jump, close the open batch, and report a gap if there is one."""
        if stretch.gap is not None or stretch.first != self._packer.last_seq + 1:
            await self._put(self._packer.flush())
        self.begin(stretch)
        if stretch.gap is not None:
            await self._put(self._fan_out.gap(*stretch.gap, stretch.first - 1))

    def begin(self, stretch: Stretch) -> None:
        """Number the next events as a shared log has done, and note which of them are of other outputs."""
        before, first = self._packer.last_seq, stretch.first
        self._ledger.skip_to(before, first)
        if first != before + 1:
            self._packer.go_on(stretch.epoch, first - 1)
            self._fan_out.jump(stretch.epoch, first - 1)
        if stretch.foreign:
            self._ledger.foreign.add(first, first + stretch.foreign - 1)

    async def _pack(self, accepted: Accepted) -> None:
        messages: Sequence[Message] = ()
        refusal = accepted.reason if isinstance(accepted, Refused) else None
        if refusal is not None:
            self._packer.number(accepted)
        elif accepted.source is not None:
            # A relay passes messages of peers on as they came and without delay, behind what is in the open batch.
            messages = (*self._packer.flush(), accepted)
            self._packer.number(accepted)
        elif self._fan_out.let_go(accepted):  # no batch is as old as this, and lost with it
            self._packer.number(accepted)
        else:
            messages, refusal = self._packer.add(accepted, trio.current_time(), time.time())
        if refusal is not None:
            self._ledger.refused(accepted, refusal)
        await self._put(messages)
        if refusal is not None:
            await self._ledger.report()

    async def _put(self, messages: Iterable[Message]) -> None:
        """Put messages into the log, waiting for room; if this is cancelled, `leftovers` takes out the events that are not in it."""
        waiting = self._waiting
        waiting.extend(messages)
        while waiting:
            await self._wait_reported()
            await self._fan_out.put(waiting[0])
            waiting.popleft()
