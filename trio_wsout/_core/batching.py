"""Events, document ends and time to batches (SPEC 4).

Rules
-----
1. Mode ``fixed``: a batch closes at `fixed_size` events (default 100), or `timeout` after its first.
2. Mode ``document``: it closes at the document's end, or when no event came for `timeout` (that
   ends the document, too); `fixed_size`, if given, bounds it.
3. A batch closes early rather than exceed `max_bytes`: events, one separator between two of them,
   and the overhead of header, footer and brackets.
4. A document that needs several batches marks them: the same id, `first` on the first, `last` on
   the one that its end closed. A document whose end comes when nothing is open (its last batch was
   closed by size or by `flush`) ends without a batch of its own, and so without a `last`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import frozen

from trio_wsout.config.sections import BatchMode

if TYPE_CHECKING:
    from trio_wsout.config.sections import Batch

__all__ = ["Batcher", "ClosedBatch", "Document"]

T = TypeVar("T")

_FIXED_SIZE = 100


@frozen
class Document:
    """The marker of one batch of a document (batch.use-document-marker)."""

    id: int
    """Number of the document, 1-based."""
    first: bool
    """Whether this is the document's first batch."""
    last: bool
    """Whether the document's end closed this batch."""
    count: int
    """Events in this batch."""


@frozen
class ClosedBatch(Generic[T]):
    """Events that become one message."""

    items: tuple[T, ...]
    """The events, never empty."""
    document: Document | None
    """The marker, where documents are marked."""


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
        self._deadline: float | None = None
        self._document = 1
        self._first = True

    @property
    def pending(self) -> int:
        """Events in the open batch."""
        return len(self._items)

    @property
    def deadline(self) -> float | None:
        """When `poll` closes the open batch; None: nothing is open."""
        return self._deadline

    def add(self, item: T, size: int, now: float, overhead: int = 0) -> list[ClosedBatch[T]]:
        """Add an event of `size` bytes.

        Args:
            item: The event.
            size: Its bytes; with `overhead` at most max_bytes.
            now: The time.
            overhead: Bytes that header, footer and brackets take in a batch that it opens.

        Returns:
            The batches that this closes, in order: none, one or two.
        """
        closed: list[ClosedBatch[T]] = []
        if self._items and self._bytes + 1 + size > self._most_bytes:
            closed.append(self._close(last=False))
        if not self._items:
            self._bytes = overhead + size
            self._deadline = now + self._timeout
        else:
            self._bytes += 1 + size
        if self._documents:
            self._deadline = now + self._timeout
        self._items.append(item)
        if self._most is not None and len(self._items) >= self._most:
            closed.append(self._close(last=False))
        return closed

    def end_document(self) -> ClosedBatch[T] | None:
        """End the document; gives its last batch, if one is open.

        Raises:
            RuntimeError: The mode is ``fixed``: there are no documents.
        """
        if not self._documents:
            message = "there are no documents in fixed batches"
            raise RuntimeError(message)
        if self._items:
            return self._close(last=True)
        if not self._first:
            self._next_document()
        return None

    def flush(self) -> ClosedBatch[T] | None:
        """Close the open batch, if there is one; the document goes on."""
        return self._close(last=False) if self._items else None

    def poll(self, now: float) -> ClosedBatch[T] | None:
        """Close the open batch if its time is over by `now`; a document that went quiet has ended."""
        if self._deadline is None or now < self._deadline:
            return None
        return self._close(last=self._documents)

    def _close(self, *, last: bool) -> ClosedBatch[T]:
        items = tuple(self._items)
        marker = Document(self._document, self._first, last, len(items)) if self._marked else None
        self._items = []
        self._deadline = None
        self._first = False
        if last or not self._documents:
            self._next_document()
        return ClosedBatch(items, marker)

    def _next_document(self) -> None:
        self._document += 1
        self._first = True
