"""The protocol of history stores (SPEC 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trio_wsout._core.history import Entry, Extent

__all__ = ["Entry", "Extent", "HistoryStore"]


class HistoryStore(Protocol):
    """A log of events, bounded by the limits with which the store was made.

    One output writes to it at a time; any number of tasks read it. Every method raises HistoryError if the store
    can't be read or written; the error names the store, the cause and what to do.
    """

    async def open(self, epoch: int) -> Extent:
        """Take the log over with `epoch`, or with one more than the stored epoch if that is higher."""
        ...

    async def append(self, entries: Sequence[Entry]) -> Extent:
        """Append events whose positions grow and follow the tail, and remove events that exceed the limits.

        All of them are stored, or none. Once this has returned they survive whatever the store survives.

        Raises:
            HistoryError: They can't be written, or an output with a higher epoch has taken over.
        """
        ...

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        """Return the oldest retained events after `position`: at most `most`, and at most `most_bytes` but at least one."""
        ...

    async def find(self, cursor: str) -> int | None:
        """Return the position of the newest event with this cursor, among those retained and the last one removed.

        None if the cursor is unknown.
        """
        ...

    async def trim(self, now: float) -> Extent:
        """Remove the events that exceed the limits at `now` (seconds since 1970), and return the new extent."""
        ...

    async def aclose(self) -> None:
        """Close the store, which can't be used any more. Never fails."""
        ...
