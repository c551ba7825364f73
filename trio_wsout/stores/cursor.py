"""The stores of a cursor: in memory, in a file that is replaced atomically, or in a row of an SQLite database (SPEC 9)."""

import hashlib
import os
import re
import secrets
import sqlite3
import stat
from abc import ABC, abstractmethod
from contextlib import closing, suppress
from pathlib import Path
from typing import ClassVar, Protocol

import orjson
import trio
from attrs import frozen

from trio_wsout.errors import CursorError
from trio_wsout.stores.advice import cause_and_advice, not_private, unusable_directory
from trio_wsout.stores.sqlite import check_length, connect

__all__ = [
    "AwayError",
    "CursorStore",
    "FileCursorStore",
    "MemoryCursorStore",
    "SqliteCursorStore",
    "StoredCursor",
    "file_in_directory",
]


@frozen(kw_only=True)
class StoredCursor:
    """A cursor as a store keeps it."""

    value: str
    epoch: int
    """Grows by one with each output that opens the store; the output with the highest epoch owns it."""


class AwayError(Exception):
    """The cursor can't be saved now, and may be later; the text has the reason and advice."""


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
            AwayError: It can't be written now.
        """


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


# -- on disk ----------------------------------------------------------------------------------------------

_FORMAT = 1
"""Version of the stored form."""


def _checksum(state_id: str, cursor: StoredCursor) -> str:
    """Return the checksum that is stored beside a cursor, so that damage is found."""
    text = f"{_FORMAT}\0{state_id}\0{cursor.epoch}\0{cursor.value}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class _DiskCursorStore(ABC):
    """A store that blocks, and therefore works in a thread; a cancellation never interrupts a save."""

    _kind: ClassVar[str]
    """The name of the store's file in errors."""

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


# -- in a file --------------------------------------------------------------------------------------------

_LARGEST = 1 << 20
"""Bytes of a cursor file."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_READABLE = 80
"""Characters of the state id that the file's name shows."""


def file_in_directory(directory: Path, state_id: str) -> Path:
    """Return the path of a state id's file: always inside `directory`, and different for each state id."""
    digest = hashlib.sha256(state_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return directory / f"{_UNSAFE.sub('_', state_id)[:_READABLE]}.{digest}.cursor"


class FileCursorStore(_DiskCursorStore):
    """Keeps a cursor in one file, mode 0600: a new file is written, synced, renamed, and its directory synced."""

    _kind = "cursor file"

    def _load(self) -> StoredCursor | None:
        """Read the file, after making sure that it can be replaced."""
        stored = self._read()
        reason = unusable_directory(self._path.parent)
        if reason is not None:
            raise self._error(f"{reason} in cursor.persist-to")
        return stored

    def _read(self) -> StoredCursor | None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._failure("opened", error) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise self._error("is not a plain file; name another path in cursor.persist-to")
        with os.fdopen(descriptor, "rb") as file:
            if fault := not_private(status, "600"):
                raise self._error(fault)
            content = file.read(_LARGEST + 1)
        return self._parse(content)

    def _parse(self, content: bytes) -> StoredCursor:
        advice = "restore it, or remove it to start anew"
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError:
            raise self._error(f"is damaged; {advice}") from None
        match document:
            case {
                "format": int(),
                "state-id": str(state_id),
                "epoch": int(epoch),
                "value": str(value),
                "checksum": found,
            }:
                cursor = StoredCursor(value=value, epoch=epoch)
            case _:
                raise self._error(f"is damaged or no cursor file; {advice}")
        if found != _checksum(state_id, cursor):
            raise self._error(f"is damaged (its checksum does not fit); {advice}")
        if state_id != self._state_id:
            raise self._error("holds the cursor of another state id; name another file")
        return cursor

    def _save(self, cursor: StoredCursor) -> None:
        stored = self._read()
        if stored is not None and stored.epoch > cursor.epoch:
            raise self._error("another process has taken it over; only one may use a state id at a time")
        document = {
            "format": _FORMAT,
            "state-id": self._state_id,
            "epoch": cursor.epoch,
            "value": cursor.value,
            "checksum": _checksum(self._state_id, cursor),
        }
        content = orjson.dumps(document)
        if len(content) > _LARGEST:
            raise self._error(
                f"can't keep a cursor of {len(cursor.value)} characters, the file may have {_LARGEST} bytes; "
                "the old value is intact; set cursor.value-field to something shorter"
            )
        try:
            self._replace(content)
        except (OSError, ValueError) as error:
            raise self._failure("written", error, ", the old value is intact") from error

    def _replace(self, content: bytes) -> None:
        new = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.rename(self._path)
        except BaseException:
            with suppress(FileNotFoundError):
                new.unlink()
            raise
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


# -- in a row of a database -------------------------------------------------------------------------------

_TABLE = """
CREATE TABLE IF NOT EXISTS cursors (
    state_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, value TEXT NOT NULL, checksum TEXT NOT NULL
) WITHOUT ROWID
"""
_SAVE = """
INSERT INTO cursors (state_id, epoch, value, checksum) VALUES (?, ?, ?, ?)
ON CONFLICT (state_id) DO UPDATE SET epoch = excluded.epoch, value = excluded.value,
    checksum = excluded.checksum WHERE cursors.epoch <= excluded.epoch
"""
_LOAD = "SELECT state_id, epoch, value, checksum FROM cursors WHERE state_id = ?"
_LOAD_ALL = "SELECT state_id, epoch, value, checksum FROM cursors"


class SqliteCursorStore(_DiskCursorStore):
    """Keeps a cursor in a row of a database, which is made if it is missing, and opened anew for each access."""

    _kind = "cursor database"

    def _load(self) -> StoredCursor | None:
        exists = os.path.exists(self._path)  # noqa: PTH110 - pathlib raises where a name is too long
        try:
            check_length(self._path)
            if exists and not os.access(self._path, os.W_OK):
                raise self._error(
                    "can't be written; make the file writable for this user, or name another path"
                )
            with closing(connect(self._path, _TABLE)) as connection:
                row = connection.execute(_LOAD, (self._state_id,)).fetchone()
                if row is not None:
                    return self._cursor(*row)
                self._check_for_damage(connection)
        except (sqlite3.Error, ValueError) as error:
            raise self._failure("read", error) from error
        return None

    def _check_for_damage(self, connection: sqlite3.Connection) -> None:
        """Make sure, where this state id has no row, that it never had one."""
        if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the file is damaged")
        for row in connection.execute(_LOAD_ALL):
            self._cursor(*row)

    def _cursor(self, state_id: str, epoch: int, value: str, stored: str) -> StoredCursor:
        cursor = StoredCursor(value=value, epoch=epoch)
        if stored != _checksum(state_id, cursor):
            maybe = "" if state_id == self._state_id else ", which may be that of this state id"
            raise sqlite3.DatabaseError(f"a row is damaged{maybe}")
        return cursor

    def _save(self, cursor: StoredCursor) -> None:
        row = (self._state_id, cursor.epoch, cursor.value, _checksum(self._state_id, cursor))
        try:
            with closing(connect(self._path, _TABLE)) as connection:
                written = connection.execute(_SAVE, row).rowcount
        except (sqlite3.Error, ValueError) as error:
            raise self._failure("written", error, ", the old value is intact") from error
        if written == 0:
            raise self._error(
                "another process has taken the cursor over; only one may use a state id at a time"
            )
