"""A cursor in a file of its own, which is replaced atomically (SPEC 9)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from typing import TYPE_CHECKING

import orjson

from trio_wsout.stores.advice import unusable_directory
from trio_wsout.stores.cursor import FORMAT, DiskCursorStore, StoredCursor, checksum

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FileCursorStore", "file_in_directory"]

_LARGEST = 1 << 20
"""Bytes of a cursor file."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_READABLE = 80
"""Characters of the state id that the file's name shows."""


def file_in_directory(directory: Path, state_id: str) -> Path:
    """Return the path of a state id's file: always inside `directory`, and different for each state id."""
    digest = hashlib.sha256(state_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return directory / f"{_UNSAFE.sub('_', state_id)[:_READABLE]}.{digest}.cursor"


class FileCursorStore(DiskCursorStore):
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
        stored = self._read()
        if stored is not None and stored.epoch > cursor.epoch:
            raise self._error("another process has taken it over; only one may use a state id at a time")
        document = {
            "format": FORMAT,
            "state-id": self._state_id,
            "epoch": cursor.epoch,
            "value": cursor.value,
            "checksum": checksum(self._state_id, cursor),
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
            with contextlib.suppress(FileNotFoundError):
                new.unlink()
            raise
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
