"""Events, document ends and time to batches (SPEC 4).

Rules
-----
1. A batch closes at `fixed_size` events (if none is configured: 100 in mode ``fixed``, no bound in mode ``document``), or
   `timeout` after its first event, or when it is flushed.
2. A batch closes early rather than exceed `max_bytes`. These count the events, one separator between two of them, and the
   overhead of header, footer and brackets; if the number of its events stands in header or footer, also its digits.
3. Mode ``fixed``: every batch is a document of its own, `first` and `last`.
4. Mode ``document``: a batch is a part of a document. All parts of a document have its id, and ids have no gaps. The first
   part is `first`. Only `end_document` ends a document, however long no event comes.
5. Each document has exactly one part that is `last`: the batch that is open when the document ends. If none is open (time,
   size or a flush closed it), the `last` part is empty: a marker with `count` 0, and no message. A document without events does
   not count: it has no parts and takes no id.
"""

from typing import Generic, TypeVar

from attrs import frozen

from trio_wsout.config.sections import Batch, BatchMode

T = TypeVar("T")

_FIXED_SIZE = 100


@frozen
class Document:
    """The marker of one part of a document (batch.use-document-marker)."""

    id: int
    """Number of the document, 1-based."""
    first: bool
    """Whether this is the document's first part."""
    last: bool
    """Whether this is the document's last part."""
    count: int
    """Events in this part; 0 only where a document ended and all of its events had gone in earlier parts."""


@frozen
class ClosedBatch(Generic[T]):
    """Events that become one message."""

    items: tuple[T, ...]
    """The events; empty only for the end of a document that had nothing open."""
    document: Document | None
    """The marker; None if documents are not marked."""


class Batcher(Generic[T]):
    """Collects events into one open batch. Times are absolute seconds of the caller's clock."""

    def __init__(self, policy: Batch, *, max_bytes: int) -> None:
        """Batch by `policy`; no batch has more than `max_bytes`, overhead included."""
        self._documents = policy.mode is BatchMode.DOCUMENT
        self._most = policy.fixed_size or (None if self._documents else _FIXED_SIZE)
        self._most_bytes = max_bytes
        self._timeout = policy.timeout
        self._marked = policy.use_document_marker
        self._items: list[T] = []
        self._bytes = 0
        self._counted = 0
        self.deadline: float | None = None
        """The time at which `poll` closes the open batch; None if none is open."""
        self._document = 1
        self._first = True

    @property
    def pending(self) -> int:
        """Events in the open batch."""
        return len(self._items)

    def make_room(self, size: int) -> ClosedBatch[T] | None:
        """Close the open batch if an event of `size` bytes does not fit into it."""
        if not self._items:
            return None
        digits = self._counted * len(str(len(self._items) + 1)) if self._counted else 0
        return self._close(last=False) if self._bytes + 1 + size + digits > self._most_bytes else None

    def add(
        self, item: T, size: int, now: float, overhead: int = 0, counted: int = 0
    ) -> ClosedBatch[T] | None:
        """Add an event of `size` bytes, for which `make_room` was called; return the batch that it completes, or None.

        If it opens a batch, `overhead` is the bytes that header, footer and brackets take, and `counted` how often the number of
        events stands in them. Alone in a batch, with all of this, the event must have at most `max_bytes`.
        """
        if self._items:
            self._bytes += 1 + size
        else:
            self._bytes = overhead + size
            self._counted = counted
            self.deadline = now + self._timeout
        self._items.append(item)
        return self._close(last=False) if len(self._items) == self._most else None

    def end_document(self) -> ClosedBatch[T] | None:
        """End the document, and return its last part, which may be empty; None if it had no event, or the mode is ``fixed``."""
        began = self._documents and (bool(self._items) or not self._first)
        return self._close(last=True) if began else None

    def flush(self) -> ClosedBatch[T] | None:
        """Close the open batch, if there is one; the document goes on."""
        return self._close(last=False) if self._items else None

    def poll(self, now: float) -> ClosedBatch[T] | None:
        """Close the open batch if its time is over by `now`; the document goes on."""
        return None if self.deadline is None or now < self.deadline else self._close(last=False)

    def _close(self, *, last: bool) -> ClosedBatch[T]:
        items = tuple(self._items)
        ends = last or not self._documents
        marker = Document(self._document, self._first, ends, len(items)) if self._marked else None
        self._items = []
        self.deadline = None
        self._document += ends
        self._first = ends
        return ClosedBatch(items, marker)
