"""Events as rows of an SQLite history, with a checksum: what the disk changed is found as it is read."""

from __future__ import annotations

import sqlite3
from typing import Any
from zlib import crc32

from trio_wsout._core.history import Entry

__all__ = ["DAMAGED", "blob_of", "check_row", "entry_of", "row_of", "text_of"]

DAMAGED = "a row is damaged"


def row_of(entry: Entry) -> tuple[int, int, float, bytes | None, bytes, int]:
    """The values of an event's row, in the order of its columns."""
    position, epoch, cursor, payload = entry.position, entry.epoch, blob_of(entry.cursor), entry.payload
    return position, epoch, entry.at, cursor, payload, _checksum(position, epoch, cursor, payload)


def entry_of(row: Any, *, behind: int) -> Entry:  # noqa: ANN401 - a row holds what the file holds
    """The event of a row that was read behind the position `behind`.

    Raises:
        sqlite3.DatabaseError: It is not what was written.
    """
    position, epoch, at, cursor, payload, checksum = row
    check_row(epoch, at, cursor)
    whole = isinstance(payload, bytes) and checksum == _checksum(position, epoch, cursor, payload)
    # A damaged page can have a row twice, in the place of another.
    if not whole or position <= behind:
        raise sqlite3.DatabaseError(DAMAGED)
    value = None if cursor is None else text_of(cursor)
    return Entry(position=position, epoch=epoch, at=at, cursor=value, payload=payload)


def _checksum(position: int, epoch: int, cursor: bytes | None, payload: bytes) -> int:
    """CRC-32 of what a peer may get of an event, begun with its place."""
    return crc32(payload, crc32(cursor or b"", position + epoch))


def check_row(epoch: object, at: object, cursor: object) -> None:
    """Damage can turn any value into one of another type; the position can't be anything but a number."""
    if not (
        isinstance(epoch, int) and isinstance(at, float) and (cursor is None or isinstance(cursor, bytes))
    ):
        raise sqlite3.DatabaseError(DAMAGED)


def blob_of(text: str | None) -> bytes | None:
    """As bytes, because SQLite's texts can't hold every text of Python's: lone surrogates."""
    return None if text is None else text.encode("utf-8", "surrogatepass")


def text_of(blob: Any) -> str:  # noqa: ANN401 - a row holds what the file holds
    """The text that `blob_of` was given."""
    if isinstance(blob, bytes):
        return blob.decode("utf-8", "surrogatepass")
    raise sqlite3.DatabaseError(DAMAGED)
