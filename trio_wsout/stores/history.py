"""Where retained events are kept: the protocol that every history store follows (SPEC 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trio_wsout._core.history import Entry, Extent

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Entry", "Extent", "HistoryStore"]


class HistoryStore(Protocol):
    """Keeps one log of events, bounded by the limits that it was made with.

    One output writes to it at a time; any number of tasks read. Every method raises HistoryError when
    the store can't be read or written, naming the place, the cause and what to do.
    """

    async def open(self, epoch: int) -> Extent:
        """Take the log over, as the owner of a new epoch: `epoch`, or one above the stored if that is higher."""
        ...

    async def append(self, entries: Sequence[Entry]) -> Extent:
        """Keep these events, whose positions follow the tail in growing order, and let go what is over the limits.

        When it returns they survive what the store survives. All or none are kept.

        Raises:
            HistoryError: They can't be written, or an output of a higher epoch has taken over.
        """
        ...

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        """The oldest retained events after `position`: at most `most`, and at most `most_bytes` but at least one."""
        ...

    async def find(self, cursor: str) -> int | None:
        """Position of the newest event whose cursor value this is, retained or the last that left; None: unknown."""
        ...

    async def trim(self, now: float) -> Extent:
        """Let go what is over the limits at `now`, seconds since 1970; gives what is there then."""
        ...

    async def get_cursor(self, name: str) -> str | None:
        """A cursor that some reader of the log keeps here; None: there is none of that name."""
        ...

    async def set_cursor(self, name: str, expected: str | None, value: str) -> bool:
        """Keep `value` if the cursor is still `expected` (None: there is none yet); gives whether it was."""
        ...

    async def aclose(self) -> None:
        """Close the store; it can't be used any more. Never fails."""
        ...
