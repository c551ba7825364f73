"""Accepted events to messages: numbered, stamped, batched, with header and footer (SPEC 4 and 7).

Rules
-----
1. Events get their sequence numbers, and their stamps, in the order in which they come here.
2. Without a batch section each event is a message. Then `alone` is true, and only `number` or `number_many` is needed.
3. Header and footer of a batch are expanded when it opens, with its first event and its number; only the count of its events
   is filled in when it closes. If they can't be expanded, or if the event alone exceeds max-message-size with them, the event
   that would have opened the batch is refused.
4. No event is refused because of its values: a value that it lacks is empty unless there is a default, and line breaks in a
   value are escaped as JSON escapes them.
5. A replay packs events of the history into batches of its own, numbered from 1. If its header and footer would make an event
   too large that was never the first of a batch, the values of that event are left out of them.
"""

import json
from collections.abc import Sequence
from functools import cache

from attrs import evolve, frozen

from trio_wsout._core.acknowledgement import stamp_of
from trio_wsout._core.batching import Batcher, ClosedBatch, Document
from trio_wsout._core.cursor import MISSING, pointer_value
from trio_wsout._core.durable_log import Entry, Kind
from trio_wsout._core.json_line import is_object, parse_json, write_json
from trio_wsout._core.message import Accepted, BatchMessage, Message
from trio_wsout._core.payload import Encoder
from trio_wsout.config.event_paths import parse_pointer
from trio_wsout.config.quantities import format_time
from trio_wsout.config.sections import Batch, Config
from trio_wsout.config.templates import Resolve, Template, TemplateError

_TOO_LARGE = "with batch.header and batch.footer it exceeds max-message-size"
_COUNT = "\ud800"
"""Stands in header and footer for the count of events, which is not known yet; no value holds half of a surrogate pair."""


class PackingError(ValueError):
    """Events can't be packed into a message; the text has the reason."""


@frozen
class _Edges:
    """Header and footer of one batch, each None if there is none; they hold `_COUNT` in place of the count of its events."""

    header: str | None
    footer: str | None
    size: int
    """Bytes that they take, with brackets and line ends, without the counts."""
    counts: int
    """The number of times that the count stands in them."""

    def filled(self, count: int) -> tuple[bytes | None, bytes | None]:
        """Return header and footer of a batch of `count` events."""
        header, footer = (
            None if edge is None else edge.replace(_COUNT, str(count)).encode()
            for edge in (self.header, self.footer)
        )
        return header, footer


class _EdgeTemplates:
    """The templates of header and footer of one output."""

    def __init__(self, batch: Batch, encoder: Encoder, resolve: Resolve) -> None:
        self._header, self._footer = (
            None if text is None else Template.parse(text, of_batch=True)
            for text in (batch.header, batch.footer)
        )
        self._encoder = encoder
        self._resolve = resolve
        templates = [each for each in (self._header, self._footer) if each is not None]
        self._static = self._expanded(1, b"", 0.0) if all(each.is_static for each in templates) else None

    def edges(self, number: int, first: bytes, at: float) -> _Edges:
        """Return header and footer of the batch `number` with the first event `first`, at `at` seconds since 1970, or raise PackingError."""
        return self._static or self._expanded(number, first, at)

    def _expanded(self, number: int, first: bytes, at: float) -> _Edges:
        value_of = _batch_values(number, first, at, self._resolve)
        try:
            header, footer = (
                None if template is None else template.expand(value_of)
                for template in (self._header, self._footer)
            )
        except TemplateError as error:
            raise PackingError(f"batch.header or batch.footer: {error}") from None
        counts = sum(each.count(_COUNT) for each in (header, footer) if each is not None)
        edges = _Edges(header, footer, 0, counts)
        return evolve(edges, size=self._encoder.overhead(*edges.filled(0)) - counts)


def _batch_values(number: int, first: bytes, at: float, resolve: Resolve) -> Resolve:
    """Return the function that returns the value of each ``${…}`` of one batch; no value has a line break."""
    parse = cache(lambda: _parsed(first))

    def value_of(source: str, name: str | None) -> str | None:
        match source, name:
            case "batch", "count":
                return _COUNT
            case "batch", _:
                return str(number)
            case "time", "epoch":
                return str(int(at))
            case "time", _:
                return format_time(at)
            case "event", _:
                return _text_of(pointer_value(parse(), parse_pointer(name or "")))
            case _:
                value = resolve(source, name)
        # The text behind a line break would be read as events.
        if value is not None and ("\n" in value or "\r" in value):
            raise TemplateError(f"the value of ${{{source}{f'|{name}' if name else ''}}} holds a line break")
        return None if value is None else value.encode(errors="replace").decode()

    return value_of


def _parsed(event: bytes) -> object:
    try:
        return parse_json(event)
    except ValueError:
        return MISSING


def _text_of(value: object) -> str | None:
    """Return a value of an event as one line of text; None if it is MISSING."""
    if value is MISSING:
        return None
    text = value if isinstance(value, str) else write_json(value).decode()
    text = json.dumps(text, ensure_ascii=False)[1:-1] if "\n" in text or "\r" in text else text
    return text.encode(errors="replace").decode()


class Packer:
    """Packs the events of one output. Times are absolute seconds of the caller's clock, but for those since 1970."""

    last_seq: int
    """The sequence number of the latest event."""

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
        self._templates = _EdgeTemplates(batch, encoder, resolve) if batch else None
        self._edges = _Edges(None, None, 0, 0)
        self._made = 0
        self.alone = self._batcher is None
        self.last_seq = after

    @property
    def pending(self) -> int:
        """Events in the open batch."""
        return self._batcher.pending if self._batcher else 0

    @property
    def deadline(self) -> float | None:
        """The time at which `poll` closes the open batch; None if none is open."""
        return self._batcher.deadline if self._batcher else None

    def go_on(self, epoch: int, after: int) -> None:
        """Continue where an earlier process ended: stamp with `epoch`, number events from `after` + 1."""
        self._epoch, self.last_seq = epoch, after

    def number(self, accepted: Accepted) -> None:
        """Set the number of an event, and stamp it if objects are stamped."""
        self.last_seq += 1
        accepted.seq = self.last_seq
        if self._stamped and is_object(accepted.event):
            stamp = stamp_of(self._epoch, accepted.seq).encode()
            accepted.payload = self._encoder.stamped(accepted.payload, stamp)

    def number_many(self, events: Sequence[Accepted]) -> None:
        """Set the numbers of events that get no stamps."""
        for number, accepted in enumerate(events, self.last_seq + 1):
            accepted.seq = number
        self.last_seq += len(events)

    def add(self, accepted: Accepted, now: float, at: float) -> tuple[Sequence[Message], str | None]:
        """Number an event and put it into the open batch, or into the next one, `at` seconds since 1970.

        Returns:
            The messages that this closes, in order; and the reason for which the event fits into no message, None if it fits.
        """
        batcher, templates = self._batcher, self._templates
        if batcher is None or templates is None:
            self.number(accepted)
            return (accepted,), None
        self.number(accepted)
        size = len(accepted.payload)
        messages = self._messages(batcher.make_room(size))
        edges = self._edges
        if not batcher.pending:
            try:
                edges = templates.edges(self._made + 1, accepted.payload, at)
            except PackingError as error:
                return messages, str(error)
            if size + edges.size + edges.counts > self._most_bytes:
                return messages, _TOO_LARGE
            self._edges = edges
        closed = batcher.add(accepted, size, now, edges.size, edges.counts)
        return [*messages, *self._messages(closed)], None

    def poll(self, now: float) -> Sequence[Message]:
        """Return the message of the open batch if its time is over by `now`."""
        return self._messages(self._batcher.poll(now) if self._batcher else None)

    def flush(self) -> Sequence[Message]:
        """Return the message of the open batch, if there is one."""
        return self._messages(self._batcher.flush() if self._batcher else None)

    def end_document(self) -> tuple[Sequence[Message], Document | None]:
        """End the document, where there are documents.

        Returns:
            The message of its last part, if that has events; and the marker of that part: None if no document ended, or if
            documents are not marked.
        """
        closed = self._batcher.end_document() if self._batcher else None
        return self._messages(closed), None if closed is None else closed.document

    def repack(self, entries: Sequence[Entry], at: float) -> tuple[int, list[bytes]]:
        """Return events of the history, each stamped by its own epoch and position, as messages of the same kind, for a replay.

        Returns:
            The number of events, without those that fit into no message, and the messages.

        Raises:
            PackingError: Header or footer can't be expanded.
        """
        events = [self._stamped_again(entry) for entry in entries if entry.kind is not Kind.REFUSED]
        templates = self._templates
        if self._batch is None or templates is None:
            return len(events), events
        batcher = Batcher[bytes](self._batch, max_bytes=self._most_bytes)
        messages: list[bytes] = []
        edges, count = self._edges, 0

        def close(closed: ClosedBatch[bytes] | None) -> None:
            if closed is not None:
                messages.append(self._encoder.message(closed.items, *edges.filled(len(closed.items))))

        for event in events:
            close(batcher.make_room(len(event)))
            if not batcher.pending:
                fitting = self._edges_again(templates, len(messages) + 1, event, at)
                if fitting is None:
                    continue
                edges = fitting
            count += 1
            close(batcher.add(event, len(event), 0.0, edges.size, edges.counts))
        close(batcher.flush())
        return count, messages

    def _stamped_again(self, entry: Entry) -> bytes:
        payload = entry.payload
        if not (self._stamped and entry.kind in (Kind.JSON, Kind.LINE)):
            return payload
        payload = payload.strip()
        stamp = stamp_of(entry.epoch, entry.position).encode()
        return self._encoder.stamped(payload, stamp) if payload.startswith(b"{") else payload

    def _edges_again(self, templates: _EdgeTemplates, number: int, first: bytes, at: float) -> _Edges | None:
        """Return header and footer of a batch that begins with the event `first`; None if it does not fit with them."""
        for known in (first, b""):
            edges = templates.edges(number, known, at)
            if len(first) + edges.size + edges.counts <= self._most_bytes:
                return edges
        return None

    def _messages(self, closed: ClosedBatch[Accepted] | None) -> Sequence[Message]:
        if closed is None or not closed.items:
            return ()
        self._made += 1
        payloads = [accepted.payload for accepted in closed.items]
        payload = self._encoder.message(payloads, *self._edges.filled(len(payloads)))
        return (BatchMessage(payload, closed.items, closed.document),)
