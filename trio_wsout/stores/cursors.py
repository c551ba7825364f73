"""Where a cursor is kept: the protocol that every cursor store follows, and the one in memory (SPEC 9)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import trio
from attrs import frozen

from trio_wsout.errors import CursorError
from trio_wsout.stores.places import mend_of_error

__all__ = ["BlockingCursorStore", "CursorStore", "MemoryCursorStore", "StoredCursor"]


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


class BlockingCursorStore(ABC):
    """A store whose work blocks, and so is done in a thread; a save is never torn by a cancellation."""

    _place: str
    """What the store is and where, for errors."""

    async def load(self) -> StoredCursor | None:
        """Read and verify; raises CursorError for anything but a whole cursor of ours."""
        return await trio.to_thread.run_sync(self._load)

    async def save(self, cursor: StoredCursor) -> None:
        """Replace; what was there stays whole if that fails (CursorError)."""
        await trio.to_thread.run_sync(self._save, cursor)

    def _error(self, what: str) -> CursorError:
        return CursorError(f"{self._place}: {what}")

    def _trouble(self, doing: str, error: OSError | ValueError, kept: str = "") -> CursorError:
        """What the system says about the place, and what to do; ValueError: it can be no place at all."""
        if isinstance(error, OSError):
            cause, mend = error.strerror or type(error).__name__, mend_of_error(error)
        else:
            cause, mend = "it is no path", "name another place in cursor.persist-to"
        return self._error(f"can't be {doing}: {cause}{kept}; {mend}")

    @abstractmethod
    def _load(self) -> StoredCursor | None:
        """`load`, in a thread."""

    @abstractmethod
    def _save(self, cursor: StoredCursor) -> None:
        """`save`, in a thread."""


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
