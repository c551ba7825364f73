"""A cursor in a file of its own, replaced atomically (SPEC 9)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from typing import TYPE_CHECKING

import orjson

from trio_wsout.stores.cursors import BlockingCursorStore, StoredCursor

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FileCursorStore", "checksum", "file_in_directory"]

_FORMAT = 1
_LARGEST = 1 << 20
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_SHOWN = 80


def file_in_directory(directory: Path, state_id: str) -> Path:
    """The file of a state id: readable where it can be, of another name for every other id, in the directory."""
    digest = hashlib.sha256(state_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return directory / f"{_UNSAFE.sub('_', state_id)[:_SHOWN]}.{digest}.cursor"


def checksum(state_id: str, cursor: StoredCursor) -> str:
    """What must come out when a stored cursor is whole."""
    text = f"{_FORMAT}\0{state_id}\0{cursor.epoch}\0{cursor.value}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class FileCursorStore(BlockingCursorStore):
    """Keeps a cursor in one file, mode 0600: written aside, synced, renamed, directory synced."""

    def __init__(self, path: Path, state_id: str) -> None:
        """Use the file at `path`, which must be made for `state_id`."""
        self._path = path
        self._state_id = state_id
        self._place = f"cursor file {path}"

    def _load(self) -> StoredCursor | None:
        """Read it, once it is known that it can be replaced."""
        kept = self._read()
        directory = self._path.parent
        if not directory.is_dir():
            raise self._error(
                f"the directory {directory} is not there; create it, or name another place in cursor.persist-to"
            )
        if not os.access(directory, os.W_OK | os.X_OK):
            raise self._error(
                f"nothing can be written into {directory}; make it writable for this user, or name another place "
                "in cursor.persist-to"
            )
        return kept

    def _read(self) -> StoredCursor | None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._trouble("opened", error) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise self._error("is not a plain file; name another place in cursor.persist-to")
        with os.fdopen(descriptor, "rb") as file:
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise self._error(
                    "belongs to somebody else or can be written by others; chown and chmod 600 it"
                )
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
        if found != checksum(state_id, cursor):
            raise self._error(f"is damaged (its checksum does not fit); {advice}")
        if state_id != self._state_id:
            raise self._error("holds the cursor of another state id; name another file")
        return cursor

    def _save(self, cursor: StoredCursor) -> None:
        kept = self._read()
        if kept is not None and kept.epoch > cursor.epoch:
            raise self._error("another process has taken it over; only one may use a state id at a time")
        content = orjson.dumps(
            {
                "format": _FORMAT,
                "state-id": self._state_id,
                "epoch": cursor.epoch,
                "value": cursor.value,
                "checksum": checksum(self._state_id, cursor),
            }
        )
        if len(content) > _LARGEST:
            raise self._error(
                f"can't keep a cursor of {len(cursor.value)} characters, the file may have {_LARGEST} bytes; "
                "the old value is intact; set cursor.value-field to something shorter"
            )
        try:
            self._replace(content)
        except (OSError, ValueError) as error:
            raise self._trouble("written", error, ", the old value is intact") from error

    def _replace(self, content: bytes) -> None:
        aside = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(aside, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.rename(self._path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                aside.unlink()
            raise
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
