"""The protocol of cursor stores, the store in memory, and the base class of the stores on disk (SPEC 9)."""

from __future__ import annotations

import hashlib
import sqlite3
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Protocol

import trio
from attrs import frozen

from trio_wsout.errors import CursorError
from trio_wsout.stores.advice import cause_and_advice

__all__ = ["FORMAT", "CursorStore", "DiskCursorStore", "MemoryCursorStore", "StoredCursor", "checksum"]

FORMAT = 1
"""Version of the stored data."""


@frozen(kw_only=True)
class StoredCursor:
    """A cursor as a store keeps it."""

    value: str
    epoch: int
    """Grows by one with each output that opens the store; the output with the highest epoch owns it."""


class CursorStore(Protocol):
    """Keeps one cursor. One output uses it at a time."""

    async def load(self) -> StoredCursor | None:
        """Return the stored cursor, or None if none was ever stored.

        Raises:
            CursorError: It can't be read, or is damaged.
        """

    async def save(self, cursor: StoredCursor) -> None:
        """Replace the stored cursor. Once this has returned, `cursor` survives a crash.

        Raises:
            CursorError: It can't be written, or an output with a higher epoch has taken over.
        """


def checksum(state_id: str, cursor: StoredCursor) -> str:
    """Return the checksum that is stored beside a cursor, so that damage is found."""
    text = f"{FORMAT}\0{state_id}\0{cursor.epoch}\0{cursor.value}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class MemoryCursorStore:
    """Keeps a cursor as long as the store exists (``memory:``)."""

    def __init__(self) -> None:
        self._stored: StoredCursor | None = None

    async def load(self) -> StoredCursor | None:
        """Return the cursor that was saved last, or None."""
        await trio.lowlevel.checkpoint()
        return self._stored

    async def save(self, cursor: StoredCursor) -> None:
        """Replace the cursor."""
        await trio.lowlevel.checkpoint()
        self._stored = cursor


class DiskCursorStore(ABC):
    """A store that blocks, and therefore works in a thread; a cancellation never interrupts a save."""

    _kind: ClassVar[str]
    """How errors call the store's file."""

    def __init__(self, path: Path, state_id: str) -> None:
        """Keep the cursor of `state_id` in the file at `path`."""
        self._path = path
        self._state_id = state_id

    async def load(self) -> StoredCursor | None:
        """Read the cursor; CursorError for anything but a whole cursor of this state id."""
        return await trio.to_thread.run_sync(self._load)

    async def save(self, cursor: StoredCursor) -> None:
        """Replace the cursor; the old one stays whole if that fails (CursorError)."""
        await trio.to_thread.run_sync(self._save, cursor)

    @abstractmethod
    def _load(self) -> StoredCursor | None: ...

    @abstractmethod
    def _save(self, cursor: StoredCursor) -> None: ...

    def _error(self, reason: str) -> CursorError:
        return CursorError(f"{self._kind} {self._path}: {reason}")

    def _failure(
        self, doing: str, error: OSError | sqlite3.Error | ValueError, consequence: str = ""
    ) -> CursorError:
        """Return the error for an exception of the system or of SQLite; `consequence` follows the cause."""
        cause, advice = cause_and_advice(error, "cursor.persist-to")
        return self._error(f"can't be {doing}: {cause}{consequence}; {advice}")
