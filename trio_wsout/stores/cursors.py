"""Where a cursor is kept: the protocol that every cursor store follows, and the one in memory (SPEC 9)."""

from __future__ import annotations

from typing import Protocol

import trio
from attrs import frozen

__all__ = ["CursorStore", "MemoryCursorStore", "StoredCursor"]


@frozen(kw_only=True)
class StoredCursor:
    """A cursor as it is kept."""

    value: str
    """The cursor."""
    epoch: int
    """Grows by one with each output that opens the store; the highest owns it."""


class CursorStore(Protocol):
    """Keeps one cursor. One output uses it at a time."""

    async def load(self) -> StoredCursor | None:
        """What is kept; None: nothing yet.

        Raises:
            CursorError: It can't be read, or is damaged.
        """

    async def save(self, cursor: StoredCursor) -> None:
        """Keep this cursor instead; when it returns, it survives a crash.

        Raises:
            CursorError: It can't be written, or an output of a higher epoch has taken over.
        """


class MemoryCursorStore:
    """Keeps a cursor as long as the store lives (``memory:``)."""

    def __init__(self) -> None:
        self._kept: StoredCursor | None = None

    async def load(self) -> StoredCursor | None:
        """What was saved last."""
        await trio.lowlevel.checkpoint()
        return self._kept

    async def save(self, cursor: StoredCursor) -> None:
        """Keep the cursor."""
        await trio.lowlevel.checkpoint()
        self._kept = cursor
