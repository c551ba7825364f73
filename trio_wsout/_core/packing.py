"""Accepted events to messages: numbered, stamped, batched, with header and footer (SPEC 4 and 7).

Rules
-----
1. Events get their sequence numbers, and their stamps, in the order in which they come here.
2. Without a batch section each event is a message; then `alone` is true and `number` is all there is.
3. Header and footer are expanded as a batch opens. If that fails, or if with them the event exceeds
   max-message-size, the event that would have opened the batch is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_wsout._core.acknowledgement import stamp_of
from trio_wsout._core.batching import Batcher
from trio_wsout._core.json_line import is_object
from trio_wsout._core.message import Accepted, BatchMessage, Message
from trio_wsout.config.sections import BatchMode
from trio_wsout.config.templates import Template, TemplateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_wsout._core.batching import ClosedBatch
    from trio_wsout._core.payload import Encoder
    from trio_wsout.config.sections import Config

__all__ = ["Packer", "PackingError"]


class PackingError(ValueError):
    """An event can't be put into a message; the text says why."""


class Packer:
    """Packs the events of one output. Times are absolute seconds of the caller's clock."""

    taken: int
    """The number of the latest event."""

    alone: bool
    """Whether each event is a message of its own."""

    def __init__(
        self,
        config: Config,
        encoder: Encoder,
        *,
        epoch: int,
        resolve: Callable[[str, str | None], str | None],
        after: int = 0,
    ) -> None:
        """Stamp with `epoch`, expand header and footer with `resolve`, number events from `after` + 1."""
        self._encoder = encoder
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
        self.alone = self._batcher is None
        self.taken = after
        self._batch = batch

    @property
    def pending(self) -> int:
        """Events in the open batch."""
        return self._batcher.pending if self._batcher else 0

    @property
    def deadline(self) -> float | None:
        """When `poll` closes the open batch; None: nothing is open."""
        return self._batcher.deadline if self._batcher else None

    def go_on(self, epoch: int, after: int) -> None:
        """Go on where an earlier life ended: stamp with `epoch`, number events from `after` + 1."""
        self._epoch, self.taken = epoch, after

    def number(self, accepted: Accepted) -> None:
        """Give the event its number, and its stamp if objects are stamped."""
        self.taken += 1
        accepted.seq = self.taken
        if self._stamped and is_object(accepted.event):
            stamp = stamp_of(self._epoch, accepted.seq).encode()
            accepted.payload = self._encoder.stamped(accepted.payload, stamp)

    def plain(self, accepted: Accepted) -> bytes:
        """A numbered event without its stamp."""
        if self._stamped and is_object(accepted.event):
            return self._encoder.unstamped(accepted.payload, stamp_of(self._epoch, accepted.seq).encode())
        return accepted.payload

    def number_many(self, events: Sequence[Accepted]) -> None:
        """Give numbers to events that get no stamps, all at once."""
        for number, accepted in enumerate(events, self.taken + 1):
            accepted.seq = number
        self.taken += len(events)

    def add(self, accepted: Accepted, now: float) -> Sequence[Message]:
        """Put a numbered event into the open batch; gives the messages that this closes.

        Raises:
            PackingError: It fits into no message.
        """
        batcher = self._batcher
        if batcher is None:
            return (accepted,)
        if batcher.pending == 0:
            try:
                self._lines = (self._expand(self._header), self._expand(self._footer))
            except TemplateError as error:
                message = f"batch.header or batch.footer: {error}"
                raise PackingError(message) from None
        overhead = self._encoder.overhead(*self._lines)
        size = len(accepted.payload)
        if size + overhead > self._most_bytes:
            message = "with batch.header and batch.footer it exceeds max-message-size"
            raise PackingError(message)
        return [self._message(closed) for closed in batcher.add(accepted, size, now, overhead)]

    def poll(self, now: float) -> Sequence[Message]:
        """What has waited long enough by `now`."""
        return self._messages(self._batcher.poll(now) if self._batcher else None)

    def flush(self) -> Sequence[Message]:
        """What is in the open batch, now."""
        return self._messages(self._batcher.flush() if self._batcher else None)

    def end_document(self) -> Sequence[Message]:
        """What is left of the document; nothing where there are no documents."""
        return self._messages(self._batcher.end_document() if self._batcher and self._documents else None)

    def repack(self, events: Sequence[bytes]) -> list[bytes]:
        """Events that were packed before, already stamped, as messages of the same kind: for a replay.

        Raises:
            PackingError: Header or footer can't be expanded.
        """
        if self._batch is None:
            return list(events)
        try:
            lines = (self._expand(self._header), self._expand(self._footer))
        except TemplateError as error:
            message = f"batch.header or batch.footer: {error}"
            raise PackingError(message) from None
        overhead = self._encoder.overhead(*lines)
        batcher = Batcher[bytes](self._batch, max_bytes=self._most_bytes)
        closed = [each for event in events for each in batcher.add(event, len(event), 0.0, overhead)]
        last = batcher.flush()
        if last is not None:
            closed.append(last)
        return [self._encoder.message(each.items, *lines) for each in closed]

    def _expand(self, template: Template | None) -> bytes | None:
        return None if template is None else template.expand(self._value).encode()

    def _value(self, source: str, name: str | None) -> str | None:
        """A value that stays in its line, for what follows a line break would be read as events."""
        value = self._resolve(source, name)
        if value is not None and ("\n" in value or "\r" in value):
            message = f"the value of ${{{source}|{name}}} holds a line break"
            raise TemplateError(message)
        return value

    def _messages(self, closed: ClosedBatch[Accepted] | None) -> Sequence[Message]:
        return () if closed is None else (self._message(closed),)

    def _message(self, closed: ClosedBatch[Accepted]) -> Message:
        payload = self._encoder.message([accepted.payload for accepted in closed.items], *self._lines)
        return BatchMessage(payload, closed.items, closed.document)
