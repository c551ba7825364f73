"""Accepted events to messages: numbered, stamped, batched, with header and footer (SPEC 4 and 7).

Rules
-----
1. Events get their sequence numbers, and their stamps, in the order in which they come here. In a relay whose own
   events are batched they get them as their message is made: what peers send goes before an open batch without
   ending it, and numbers have the order of the messages.
2. Without a batch section each event is a message; then `alone` is true and `number` is all there is.
3. Header and footer are expanded for each batch as it opens, with its own first event and number; only the count
   of its events is filled in as it closes. If that fails, or if with them the event alone exceeds max-message-size,
   the event that would have opened the batch is refused.
4. No event is refused for what it holds: a value that it lacks is empty where there is no default, and line breaks
   in one are escaped as JSON escapes them.
5. A replay packs what the history has into batches of its own, numbered from 1. Where header and footer would
   make an event too large that was never the first of a batch, its own values are left out of them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from attrs import frozen

from trio_wsout._core.acknowledgement import stamp_of
from trio_wsout._core.batching import Batcher, Document
from trio_wsout._core.cursor import MISSING, pointer_value
from trio_wsout._core.json_line import is_object, parse_json, write_json
from trio_wsout._core.message import Accepted, BatchMessage, Message
from trio_wsout.config.event_paths import parse_pointer
from trio_wsout.config.quantities import format_time
from trio_wsout.config.sections import BatchMode, Mode
from trio_wsout.config.templates import Template, TemplateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout._core.batching import ClosedBatch
    from trio_wsout._core.payload import Encoder
    from trio_wsout.config.sections import Batch, Config
    from trio_wsout.config.templates import Resolve

__all__ = ["Packer", "PackingError"]

_TOO_LARGE = "with batch.header and batch.footer it exceeds max-message-size"
_LAST = 2**64 - 1
"""No event has a higher number."""


class PackingError(ValueError):
    """Events can't be put into a message; the text says why."""


@frozen
class _Edges:
    """Header and footer of one batch, in pieces: the count of its events goes between two of them."""

    header: Sequence[bytes] | None
    """None if there is no header."""
    footer: Sequence[bytes] | None
    """None if there is no footer."""
    size: int
    """Bytes that they take, with brackets and line ends, without the counts."""
    counted: int
    """How often the count stands in them."""

    def filled(self, count: int) -> tuple[bytes | None, bytes | None]:
        """Header and footer of a batch of so many events."""
        digits = b"%d" % count
        return (
            None if self.header is None else digits.join(self.header),
            None if self.footer is None else digits.join(self.footer),
        )


class _Lines:
    """Header and footer of the batches of one output."""

    def __init__(self, batch: Batch, encoder: Encoder, resolve: Resolve) -> None:
        self._header, self._footer = (
            None if text is None else Template.parse(text, of_batch=True)
            for text in (batch.header, batch.footer)
        )
        self._encoder = encoder
        self._resolve = resolve
        templates = [each for each in (self._header, self._footer) if each is not None]
        self._fixed = self._made(1, b"", 0.0) if all(each.is_static for each in templates) else None

    def edges(self, number: int, first: bytes, at: float) -> _Edges:
        """Header and footer of the batch `number`, whose first event is `first`, at `at` seconds since 1970.

        Raises:
            PackingError: They can't be expanded.
        """
        return self._fixed or self._made(number, first, at)

    def _made(self, number: int, first: bytes, at: float) -> _Edges:
        values = _Values(number, first, at, self._resolve)
        try:
            header, footer = values.expanded(self._header), values.expanded(self._footer)
        except TemplateError as error:
            message = f"batch.header or batch.footer: {error}"
            raise PackingError(message) from None
        pieces = [each for each in (header, footer) if each is not None]
        size = self._encoder.overhead(
            *(None if each is None else b"".join(each) for each in (header, footer))
        )
        return _Edges(header, footer, size, sum(len(each) - 1 for each in pieces))


class _Values:
    """The values of ``${…}`` for one batch."""

    def __init__(self, number: int, first: bytes, at: float, resolve: Resolve) -> None:
        self._number = number
        self._first = first
        self._at = at
        self._resolve = resolve
        self._event: object = None

    def expanded(self, template: Template | None) -> list[bytes] | None:
        """The pieces of a header or footer, around the count."""
        if template is None:
            return None
        return [text.encode() for text in template.expand_around("batch", "count", self._value)]

    def _value(self, source: str, name: str | None) -> str | None:
        """A value that stays in its line, for what follows a line break would be read as events."""
        match source, name:
            case "batch", _:
                return str(self._number)
            case "time", "epoch":
                return str(int(self._at))
            case "time", _:
                return format_time(self._at)
            case "event", _:
                return self._of_event(parse_pointer(name or ""))
            case _:
                value = self._resolve(source, name)
        if value is not None and ("\n" in value or "\r" in value):
            message = f"the value of ${{{source}{f'|{name}' if name else ''}}} holds a line break"
            raise TemplateError(message)
        return value

    def _of_event(self, tokens: Sequence[str]) -> str | None:
        """What a pointer finds in the first event as it stands in the message; None if there is nothing."""
        if self._event is None:
            try:
                self._event = parse_json(self._first)
            except ValueError:
                self._event = MISSING
        value = pointer_value(self._event, tokens)
        if value is MISSING:
            return None
        text = value if isinstance(value, str) else write_json(value).decode()
        text = json.dumps(text, ensure_ascii=False)[1:-1] if "\n" in text or "\r" in text else text
        return text.encode(errors="replace").decode()


class Packer:
    """Packs the events of one output. Times are absolute seconds of the caller's clock."""

    taken: int
    """The number of the latest event."""

    alone: bool
    """Whether each event is a message of its own."""

    def __init__(
        self, config: Config, encoder: Encoder, *, epoch: int, resolve: Resolve, after: int = 0
    ) -> None:
        """Stamp with `epoch`, expand header and footer with `resolve`, number events from `after` + 1."""
        self._encoder = encoder
        self._epoch = epoch
        self._stamped = config.delivery.stamp is not None
        self._most_bytes = config.max_message_size
        self._batch = batch = config.batch
        self._batcher = Batcher[Accepted](batch, max_bytes=self._most_bytes) if batch else None
        self._lines = _Lines(batch, encoder, resolve) if batch else None
        self._documents = batch is not None and batch.mode is BatchMode.DOCUMENT
        self._late = batch is not None and config.mode is Mode.RELAY
        self._edges = _Edges(None, None, 0, 0)
        self._made = 0
        self.alone = self._batcher is None
        self.taken = after

    @property
    def pending(self) -> int:
        """Events in the open batch."""
        return self._batcher.pending if self._batcher else 0

    @property
    def deadline(self) -> float | None:
        """When `poll` closes the open batch; None if nothing is open."""
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

    def add(self, accepted: Accepted, now: float, at: float) -> tuple[Sequence[Message], str | None]:
        """Number an event and put it into the open batch, or into the next one, `at` seconds since 1970.

        Returns:
            The messages that this closes, in order; and why the event fits into none, or None if it does.
        """
        batcher, lines = self._batcher, self._lines
        if batcher is None or lines is None:
            self.number(accepted)
            return (accepted,), None
        size = len(accepted.payload)
        if not self._late:
            self.number(accepted)
            size = len(accepted.payload)
        elif self._stamped and is_object(accepted.event):
            size = len(self._encoder.stamped(accepted.payload, stamp_of(self._epoch, _LAST).encode()))
        messages = self._messages(batcher.make_room(size))
        edges = self._edges
        if not batcher.pending:
            try:
                edges = lines.edges(self._made + 1, accepted.payload, at)
            except PackingError as error:
                return messages, self._refused(accepted, str(error))
            if size + edges.size + edges.counted > self._most_bytes:
                return messages, self._refused(accepted, _TOO_LARGE)
            self._edges = edges
        closed = batcher.add(accepted, size, now, edges.size, edges.counted)
        return [*messages, *self._messages(closed)], None

    def poll(self, now: float) -> Sequence[Message]:
        """What has waited long enough by `now`."""
        return self._messages(self._batcher.poll(now) if self._batcher else None)

    def flush(self) -> Sequence[Message]:
        """What is in the open batch, now."""
        return self._messages(self._batcher.flush() if self._batcher else None)

    def end_document(self) -> tuple[Sequence[Message], Document | None]:
        """End the document, where there are documents.

        Returns:
            What is left of it, and the marker of its last part: None if nothing ended, or if nothing is marked.
        """
        closed = self._batcher.end_document() if self._batcher and self._documents else None
        return self._messages(closed), None if closed is None else closed.document

    def repack(self, events: Sequence[bytes], at: float) -> list[bytes]:
        """Events that were packed before, already stamped, as messages of the same kind: for a replay.

        Raises:
            PackingError: Header or footer can't be expanded, or an event does not fit with them.
        """
        lines = self._lines
        if self._batch is None or lines is None:
            return list(events)
        batcher = Batcher[bytes](self._batch, max_bytes=self._most_bytes)
        messages: list[bytes] = []
        edges = self._edges

        def close(closed: ClosedBatch[bytes] | None) -> None:
            if closed is not None:
                messages.append(self._encoder.message(closed.items, *edges.filled(len(closed.items))))

        for event in events:
            close(batcher.make_room(len(event)))
            if not batcher.pending:
                edges = self._edges_again(lines, len(messages) + 1, event, at)
            close(batcher.add(event, len(event), 0.0, edges.size, edges.counted))
        close(batcher.flush())
        return messages

    def _edges_again(self, lines: _Lines, number: int, first: bytes, at: float) -> _Edges:
        for known in (first, b""):
            edges = lines.edges(number, known, at)
            if len(first) + edges.size + edges.counted <= self._most_bytes:
                return edges
        raise PackingError(f"an event of the history: {_TOO_LARGE}")

    def _refused(self, accepted: Accepted, reason: str) -> str:
        if self._late:
            self.number(accepted)
        return reason

    def _messages(self, closed: ClosedBatch[Accepted] | None) -> Sequence[Message]:
        if closed is None or not closed.items:
            return ()
        self._made += 1
        if self._late:
            for accepted in closed.items:
                self.number(accepted)
        payloads = [accepted.payload for accepted in closed.items]
        payload = self._encoder.message(payloads, *self._edges.filled(len(payloads)))
        return (BatchMessage(payload, closed.items, closed.document),)
