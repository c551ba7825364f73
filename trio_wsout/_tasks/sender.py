"""The sender: events of the intake become batches, batches become messages of the window."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio
from attrs import define

from trio_wsout._core.acknowledgement import stamp_of
from trio_wsout._core.batching import Batcher
from trio_wsout._core.delivery import Accepted, BatchMessage, Message
from trio_wsout._tasks.ledger import Flush
from trio_wsout._tasks.waking import Alarm
from trio_wsout.config.sections import BatchMode
from trio_wsout.config.templates import Template, TemplateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_wsout._core.batching import ClosedBatch
    from trio_wsout._core.payload import Encoder
    from trio_wsout._tasks.ledger import Ledger
    from trio_wsout._tasks.outbox import Outbox
    from trio_wsout.config.sections import Config

__all__ = ["DocumentEnd", "Intake", "Sender"]


@define(eq=False)
class DocumentEnd:
    """Mark in the intake: the document ends here."""


Intake = Accepted | DocumentEnd | Flush
"""What travels from ``send`` to the sender."""


class Sender:
    """Empties one intake into one outbox, in order."""

    def __init__(
        self,
        config: Config,
        encoder: Encoder,
        outbox: Outbox,
        ledger: Ledger,
        *,
        epoch: int,
        resolve: Callable[[str, str | None], str | None],
    ) -> None:
        """Stamp with `epoch`, expand header and footer with `resolve`."""
        self._encoder = encoder
        self._outbox = outbox
        self._ledger = ledger
        self._epoch = epoch
        self._resolve = resolve
        self._stamped = config.delivery.stamp is not None
        self._most_bytes = config.max_message_size
        batch = config.batch
        self._batcher = Batcher[Accepted](batch, max_bytes=self._most_bytes) if batch else None
        self._documents = batch is not None and batch.mode is BatchMode.DOCUMENT
        self._header = Template.parse(batch.header) if batch and batch.header is not None else None
        self._footer = Template.parse(batch.footer) if batch and batch.footer is not None else None
        self._lines: tuple[bytes | None, bytes | None] = (None, None)
        self._waiting: deque[Message] = deque()
        self._alarm = Alarm()

    @property
    def pending(self) -> int:
        """Events that left the intake and are in no message of the window yet."""
        waiting = sum(len(message.events) for message in self._waiting)
        return waiting + (self._batcher.pending if self._batcher else 0)

    def leftovers(self) -> list[Accepted]:
        """What is in no message of the window yet, in order; for the end."""
        rest = self._batcher.flush() if self._batcher else None
        waiting = [accepted for message in self._waiting for accepted in message.events]
        return [*waiting, *(rest.items if rest else ())]

    async def run(self, intake: trio.MemoryReceiveChannel[Intake]) -> None:
        """Work until the intake ends; then what is in the open batch goes, too."""
        while True:
            item: Intake | None = None
            with self._alarm.until(self._batcher.deadline if self._batcher else None):
                try:
                    item = await intake.receive()
                except trio.EndOfChannel:
                    break
            if item is not None:
                await self._take_waiting(item, intake)
            elif self._batcher is not None:
                await self._put(self._message(self._batcher.poll(trio.current_time())))
            self._outbox.ring()
        await self._close_batch()
        self._outbox.ring()

    async def _take_waiting(self, item: Intake, intake: trio.MemoryReceiveChannel[Intake]) -> None:
        """Take one item and all that waits behind it: a task switch serves many, and a plain event costs none."""
        plain, offer = self._plain, self._outbox.window.accept
        try:
            while True:
                message = plain(item)
                if message is None:
                    await self._take(item)
                elif not offer(message):
                    await self._put(message)
                item = intake.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return

    def _plain(self, item: Intake) -> Message | None:
        """The message of an event that goes alone; None: the item needs more than that."""
        if self._batcher is not None or not isinstance(item, Accepted) or item.refusal is not None:
            return None
        self._count(item)
        return item

    def _count(self, accepted: Accepted) -> None:
        """The event leaves the intake: it gets its number, and its stamp if it has one."""
        ledger = self._ledger
        ledger.taken += 1
        accepted.seq = ledger.taken
        if self._stamped and type(accepted.event) is dict:
            stamp = stamp_of(self._epoch, accepted.seq).encode()
            accepted.payload = self._encoder.stamped(accepted.payload, stamp)

    async def _take(self, item: Intake) -> None:
        match item:
            case Accepted():
                self._count(item)
                if item.refusal is not None:
                    await self._refuse((item,), item.refusal)
                elif self._batcher is not None:
                    await self._batch(item, self._batcher)
            case Flush():
                await self._close_batch()
                self._ledger.watch(item)
            case DocumentEnd():
                if self._batcher is not None and self._documents:
                    await self._put(self._message(self._batcher.end_document()))

    async def _close_batch(self) -> None:
        if self._batcher is not None:
            await self._put(self._message(self._batcher.flush()))

    async def _batch(self, accepted: Accepted, batcher: Batcher[Accepted]) -> None:
        """Put one event into the open batch; header and footer are expanded as a batch opens."""
        if batcher.pending == 0:
            try:
                self._lines = (self._expand(self._header), self._expand(self._footer))
            except TemplateError as error:
                await self._refuse((accepted,), f"batch.header or batch.footer: {error}")
                return
        overhead = self._encoder.overhead(*self._lines)
        size = len(accepted.payload)
        if size + overhead > self._most_bytes:
            await self._refuse((accepted,), "with batch.header and batch.footer it exceeds max-message-size")
            return
        await self._put(*map(self._message, batcher.add(accepted, size, trio.current_time(), overhead)))

    def _expand(self, template: Template | None) -> bytes | None:
        return None if template is None else template.expand(self._resolve).encode()

    def _message(self, closed: ClosedBatch[Accepted] | None) -> Message | None:
        if closed is None:
            return None
        payload = self._encoder.message([accepted.payload for accepted in closed.items], *self._lines)
        message = BatchMessage(payload, closed.items)
        message.document = closed.document
        return message

    async def _put(self, *messages: Message | None) -> None:
        """Put messages into the window, waiting for room; cancelled, `leftovers` has what is not in it."""
        waiting = self._waiting
        waiting.extend(message for message in messages if message is not None)
        while waiting:
            await self._outbox.put(waiting[0])
            waiting.popleft()

    async def _refuse(self, events: Iterable[Accepted], reason: str) -> None:
        await self._ledger.report((accepted, reason) for accepted in events)
