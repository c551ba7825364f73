"""The sender: events of the intake become batches, batches become messages of the window."""

from __future__ import annotations

import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Protocol, cast

import trio

from trio_wsout._core.message import Accepted, Refused, all_plain
from trio_wsout._tasks.intake import BatchEnd, DocumentEnd, Intake
from trio_wsout._tasks.ledger import Flush

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_wsout._core.message import Message
    from trio_wsout._core.packing import Packer
    from trio_wsout._tasks.fan_out import FanOut
    from trio_wsout._tasks.intake import Item
    from trio_wsout._tasks.ledger import Ledger
    from trio_wsout._tasks.outbox import Outbox

__all__ = ["AudienceSender", "LinkSender", "Sender", "Sink", "Source"]

_LONE = 0.001
"""Seconds after which an event comes alone."""


class Source(Protocol):
    """Where the sender takes from."""

    async def receive(self) -> Item:
        """Wait for the next item; cancelled, it has taken none."""
        ...

    def receive_nowait(self) -> Item:
        """The next item; raises trio.WouldBlock when none waits."""
        ...


class Sink(Protocol):
    """Where the sender's messages go."""

    def accept(self, message: Message) -> bool:
        """Take a message if there is room; gives whether there was."""
        ...

    async def put(self, message: Message) -> None:
        """Take a message; waits while there is no room."""
        ...

    def notify(self) -> None:
        """Messages were accepted: wake who writes them."""
        ...


class Sender:
    """Empties one intake into one sink, in order."""

    def __init__(self, packer: Packer, sink: Sink, ledger: Ledger) -> None:
        self._packer = packer
        self._sink = sink
        self._ledger = ledger
        self._waiting: deque[Message] = deque()

    @property
    def pending(self) -> int:
        """Events that left the intake and are in no message of the window yet."""
        return sum(len(message.events) for message in self._waiting) + self._packer.pending

    def leftovers(self) -> list[Accepted]:
        """What is in no message of the window yet, in order; for the end."""
        return [
            accepted for message in (*self._waiting, *self._packer.flush()) for accepted in message.events
        ]

    async def run(self, source: Source) -> None:
        """Work until cancelled."""
        while True:
            item: Item | None = None
            deadline = self._packer.deadline
            if deadline is None:
                item = await self._receive(source)
            else:
                with trio.move_on_at(deadline):
                    item = await self._receive(source)
            if item is not None:
                await self._take_waiting(item, source)
            else:
                await self._put(self._packer.poll(trio.current_time()))
            self._ring()

    async def _receive(self, source: Source) -> Item:
        return await source.receive()

    def _ring(self) -> None:
        """Have what was taken written."""
        self._sink.notify()

    async def _take_waiting(self, item: Item, source: Source) -> None:
        """Take one item and all that waits behind it: a task switch serves many, and a plain event costs none."""
        alone, offer = self._packer.alone, self._sink.accept
        try:
            while True:
                if alone and type(item) is Accepted:
                    self._number(item)
                    if not offer(item):
                        await self._put((item,))
                else:
                    await self._take(item)
                item = source.receive_nowait()
        except trio.WouldBlock:
            return

    def _number(self, accepted: Accepted) -> None:
        self._packer.number(accepted)
        self._ledger.taken += 1

    async def _take(self, item: Item) -> None:
        match item:
            case Accepted():
                self._ledger.taken += 1
                await self._pack(item)
            case Flush():
                try:
                    await self._put(self._packer.flush())
                except BaseException:
                    item.abandon()
                    raise
                self._ledger.heartbeat_task(item, self._packer.taken)
            case DocumentEnd():
                messages, marker = self._packer.end_document()
                self._ledger.document_ended(item.fate, marker, self._packer.taken)
                await self._put(messages)
            case BatchEnd():
                await self._put(self._packer.flush())

    async def _pack(self, accepted: Accepted) -> None:
        messages: Sequence[Message] = ()
        refusal = accepted.reason if isinstance(accepted, Refused) else None
        if refusal is not None:
            self._packer.number(accepted)
        elif accepted.source is not None:
            # What a relay passes on goes as it came, and at once: a batch of its own events stays open.
            self._packer.number(accepted)
            messages = (accepted,)
        else:
            messages, refusal = self._packer.add(accepted, trio.current_time(), time.time())
        if refusal is not None:
            self._ledger.refused(accepted, refusal)
        await self._put(messages)
        if refusal is not None:
            await self._ledger.report(())

    async def _put(self, messages: Iterable[Message]) -> None:
        """Put messages into the window, waiting for room; cancelled, `leftovers` has what is not in it."""
        waiting = self._waiting
        waiting.extend(messages)
        while waiting:
            await self._sink.put(waiting[0])
            waiting.popleft()


class AudienceSender(Sender):
    """A sender to peers, with nothing between: an event that comes alone is written by who sends it.

    A task switch, with the turn of the loop that it takes, costs as much as writing to ten peers, and the event
    would be late by that. Those that come in numbers wait for the switch, and go together.
    """

    def __init__(self, packer: Packer, fan_out: FanOut, ledger: Ledger) -> None:
        super().__init__(packer, fan_out, ledger)
        self._log = fan_out.log
        self._free = False
        self._last = -inf

    async def run(self, source: Source) -> None:
        """Work until cancelled."""
        assert isinstance(source, Intake)  # noqa: S101 - where nothing waits there, nothing is before an event
        source.offer_first = self._take_alone
        await super().run(source)

    async def _receive(self, source: Source) -> Item:
        self._free = True
        try:
            return await super()._receive(source)
        finally:
            self._free = False

    def _ring(self) -> None:
        super()._ring()
        # What comes right behind belongs to what was written now: many at a time cost a part of one by one.
        self._last = trio.current_time()

    def _take_alone(self, item: Item) -> bool:
        """Take what comes where nothing waits, if it is a plain event, comes alone, and there is room for it."""
        if (
            not (self._free and self._packer.alone and type(item) is Accepted)
            or trio.current_time() - self._last < _LONE
            or self._log.full
        ):
            return False
        self._number(item)
        self._sink.accept(item)
        self._ring()
        return True


class LinkSender(Sender):
    """A sender of events that go as they are: one a message, without a stamp, to a link.

    All that waits and has room in the window goes there at once, so that numbering an event and moving
    it costs a part of what encoding it does. Only what must wait, or is no plain event, goes singly.
    """

    def __init__(self, packer: Packer, outbox: Outbox, ledger: Ledger) -> None:
        super().__init__(packer, outbox, ledger)
        self._window = outbox.window

    async def run(self, source: Source) -> None:
        """Work until cancelled."""
        assert isinstance(source, Intake)  # noqa: S101 - a link has no other
        while True:
            await source.wait()
            while source.waiting:
                if not self._move(source):
                    await self._take(source.receive_nowait())
            self._sink.notify()

    def _move(self, intake: Intake) -> int:
        """Move what has room, unless something waits that is no plain event; gives how many events."""
        waiting = intake.waiting
        if not all_plain(waiting):
            return 0
        count = self._window.accept_many(cast("Sequence[Accepted]", waiting))
        self._packer.number_many(cast("list[Accepted]", intake.take(count)))
        self._ledger.taken += count
        return count
