"""A history store in an SQLite database: appended events survive a crash (SPEC 11).

Write-ahead log and synchronous=FULL: one append is one transaction and one fsync, and the events that it pushes
over the limits are removed in the same transaction. One connection writes and a second one reads, each in one
thread at a time, so that a replay waits for no commit. A call that has begun in a thread is finished there, also
when it is cancelled.

`open` checks the schema, the row about the log, and both ends of the log. It does not run ``PRAGMA quick_check``,
which reads every page (seconds for each gigabyte before the first event is sent) and finds no changed payload.
Other damage is reported by the call that meets it: SQLite finds damage of its own structure, and a checksum in each
row finds the rest.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import trio
from attrs import define, evolve, field, frozen

from trio_wsout._core.history import Entry, Extent, check_entries, exceeds, taken_over
from trio_wsout.config.sections import History
from trio_wsout.errors import HistoryError
from trio_wsout.stores.advice import cause_and_advice
from trio_wsout.stores.sqlite import check_length, connect

__all__ = ["SqliteHistoryStore"]

_VERSION = 2
"""Version of the tables; other versions are refused. The column `history_meta.version` has to stay in all of them."""
_META_TABLE = """
CREATE TABLE IF NOT EXISTS history_meta (
    id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, epoch INTEGER NOT NULL,
    floor INTEGER NOT NULL, floor_epoch INTEGER NOT NULL, floor_cursor BLOB,
    tail INTEGER NOT NULL, events INTEGER NOT NULL, size INTEGER NOT NULL
)
"""
_TABLES = (
    """CREATE TABLE IF NOT EXISTS history_log (
        position INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, at REAL NOT NULL, cursor BLOB,
        payload BLOB NOT NULL, checksum INTEGER NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS history_log_cursor ON history_log (cursor) WHERE cursor IS NOT NULL",
)
_INSERT_META = """
INSERT INTO history_meta (id, version, epoch, floor, floor_epoch, floor_cursor, tail, events, size)
VALUES (1, ?, 0, 0, 0, NULL, 0, 0, 0)
"""
_GET_VERSION = "SELECT version FROM history_meta"
_META = "SELECT epoch, tail, events, size, floor, floor_epoch, floor_cursor FROM history_meta"
_SET_META = """
UPDATE history_meta SET epoch = ?, tail = ?, events = ?, size = ?, floor = ?, floor_epoch = ?, floor_cursor = ?
"""
_ENDS = "SELECT (SELECT min(position) FROM history_log), (SELECT max(position) FROM history_log)"
_INSERT = "INSERT INTO history_log (position, epoch, at, cursor, payload, checksum) VALUES (?, ?, ?, ?, ?, ?)"
_ANOTHER_ROW = ", (?, ?, ?, ?, ?, ?)"
_MOST_ROWS = 64
"""Rows in one INSERT. For each statement a thread releases Python's lock, and may have to wait to get it back."""
_AFTER = """
SELECT position, epoch, at, cursor, payload, checksum
FROM history_log WHERE position > ? ORDER BY position LIMIT ?
"""
_OLDEST = "SELECT position, epoch, at, cursor, length(payload) FROM history_log ORDER BY position"
_DELETE = "DELETE FROM history_log WHERE position <= ?"
_FIND = """
SELECT coalesce((SELECT max(position) FROM history_log WHERE cursor = :cursor),
                (SELECT floor FROM history_meta WHERE floor_cursor = :cursor))
"""
_DAMAGED = "a row is damaged"


class SqliteHistoryStore:
    """A `HistoryStore` in a database file, which survives crashes and restarts (``sqlite:PATH``)."""

    def __init__(self, path: Path, limits: History) -> None:
        """Use the database at `path`, which is made if it is missing, and retain events within `limits`."""
        self._database = _Database(path, limits)
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(1)

    async def open(self, epoch: int) -> Extent:
        """Open the file, and take the log over with `epoch`, or with one more than the stored epoch if that is higher."""
        return await trio.to_thread.run_sync(self._database.open, epoch, limiter=self._writing)

    async def append(self, entries: Sequence[Entry]) -> Extent:
        """Append events, and remove those that exceed the limits when the last of them was accepted.

        It is cancelled before anything is written, or not at all.
        """
        return await trio.to_thread.run_sync(self._database.append, entries, limiter=self._writing)

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        """Return the oldest retained events after `position`, within the bounds but at least one."""
        return await trio.to_thread.run_sync(
            self._database.after, position, most, most_bytes, limiter=self._reading
        )

    async def find(self, cursor: str) -> int | None:
        """Return the newest position with this cursor, or None if the cursor is unknown."""
        return await trio.to_thread.run_sync(self._database.find, cursor, limiter=self._reading)

    async def trim(self, now: float) -> Extent:
        """Remove the events that exceed the limits at `now`, and return the new extent."""
        return await trio.to_thread.run_sync(self._database.trim, now, limiter=self._writing)

    async def aclose(self) -> None:
        """Close both connections once the calls that use them have ended."""
        with trio.CancelScope(shield=True):
            async with self._reading:
                await trio.to_thread.run_sync(self._database.close, limiter=self._writing)


@frozen(kw_only=True)
class _Meta:
    """The row about the log."""

    extent: Extent
    floor_epoch: int = 0
    floor_cursor: bytes | None = None


@define(eq=False)
class _Database:
    """The database. Its methods block, so they are called in threads."""

    _path: Path
    _limits: History
    _epoch: int = field(default=0, init=False)
    _writer: sqlite3.Connection | None = field(default=None, init=False)
    _reader: sqlite3.Connection | None = field(default=None, init=False)
    _file: os.stat_result | None = field(default=None, init=False)
    """The file that was opened."""
    _closed: bool = field(default=False, init=False)

    def open(self, epoch: int) -> Extent:
        try:
            if not self._closed and self._writer is None:
                with self._errors("opened", ValueError):
                    self._connect()
            with self._transaction("opened") as connection:
                self._make_tables(connection)
                meta = _read_meta(connection)
                _check_ends(connection, meta.extent)
                extent = evolve(meta.extent, epoch=max(epoch, meta.extent.epoch + 1))
                _write_meta(connection, evolve(meta, extent=extent))
        except BaseException:
            if self._epoch == 0:
                self._disconnect()
            raise
        self._epoch = extent.epoch
        return extent

    def append(self, entries: Sequence[Entry]) -> Extent:
        with self._transaction("written") as connection:
            meta = self._owned_meta(connection)
            extent = meta.extent
            check_entries(entries, store=self._name, epoch=extent.epoch, tail=extent.tail)
            if not entries:
                return extent
            for start in range(0, len(entries), _MOST_ROWS):
                rows = [_row_of(each) for each in entries[start : start + _MOST_ROWS]]
                statement = _INSERT + _ANOTHER_ROW * (len(rows) - 1)
                connection.execute(statement, [value for row in rows for value in row])
            extent = evolve(
                extent,
                tail=entries[-1].position,
                events=extent.events + len(entries),
                size=extent.size + sum(len(each.payload) for each in entries),
            )
            meta = self._trimmed(connection, evolve(meta, extent=extent), entries[-1].at)
            _write_meta(connection, meta)
        return meta.extent

    def after(self, position: int, most: int, most_bytes: int) -> Sequence[Entry]:
        found: list[Entry] = []
        with self._read() as connection, closing(connection.execute(_AFTER, (position, most))) as rows:
            for row in rows:
                entry = _entry_of(row, after=position)
                position = entry.position
                most_bytes -= len(entry.payload)
                if found and most_bytes < 0:
                    break
                found.append(entry)
        return found

    def find(self, cursor: str) -> int | None:
        with self._read() as connection:
            (position,) = connection.execute(_FIND, {"cursor": _blob_of(cursor)}).fetchone()
            if position is None or isinstance(position, int):
                return position
            raise sqlite3.DatabaseError(_DAMAGED)

    def trim(self, now: float) -> Extent:
        with self._transaction("written") as connection:
            before = self._owned_meta(connection)
            meta = self._trimmed(connection, before, now)
            if meta is not before:
                _write_meta(connection, meta)
        return meta.extent

    def close(self) -> None:
        self._closed = True
        self._disconnect()

    def _disconnect(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()
        self._reader = self._writer = None

    def _connect(self) -> None:
        check_length(self._path)
        self._writer = connect(self._path, check_same_thread=False)
        if self._writer.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            raise self._error("opened", "no write-ahead log is possible there", "set history.store")
        self._reader = connect(self._path, "PRAGMA query_only = ON", check_same_thread=False)
        self._file = _stat(self._path)

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute(_META_TABLE)
        row = connection.execute(_GET_VERSION).fetchone()
        if row is None:
            connection.execute(_INSERT_META, (_VERSION,))
        elif row != (_VERSION,):
            cause = f"its tables are of version {row[0]}, and this library knows {_VERSION}"
            raise self._error("opened", cause, "use the library that made it, or set history.store")
        for statement in _TABLES:
            connection.execute(statement)

    def _owned_meta(self, connection: sqlite3.Connection) -> _Meta:
        """Return the row about the log, after making sure that no other output has taken the log over."""
        meta = _read_meta(connection)
        if meta.extent.epoch != self._epoch:
            raise taken_over(self._name, owner=meta.extent.epoch, epoch=self._epoch)
        return meta

    def _trimmed(self, connection: sqlite3.Connection, meta: _Meta, now: float) -> _Meta:
        """Delete the events that exceed the limits; return the new row about the log, which is yet to be written."""
        events, size = meta.extent.events, meta.extent.size
        removed: tuple[int, int, bytes | None] | None = None
        with closing(connection.execute(_OLDEST)) as rows:
            for row in rows:
                position, epoch, at, cursor, length = row
                _check_types(epoch, at, cursor)
                if not exceeds(self._limits, events=events, size=size, age=now - at):
                    break
                events, size, removed = events - 1, size - length, (position, epoch, cursor)
        if removed is None:
            return meta
        position, epoch, cursor = removed
        connection.execute(_DELETE, (position,))
        extent = evolve(meta.extent, floor=position, events=events, size=size)
        return _Meta(extent=extent, floor_epoch=epoch, floor_cursor=cursor)

    @contextmanager
    def _transaction(self, doing: str) -> Generator[sqlite3.Connection]:
        """Commit all changes of the block, or none."""
        if self._writer is None:
            raise trio.ClosedResourceError("the history is not open")
        with self._errors(doing):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._check_file()
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def _check_file(self) -> None:
        """Refuse a file that was removed while it is open: it would accept everything and keep nothing."""
        now = _stat(self._path)
        if now is None or self._file is None or not os.path.samestat(now, self._file):
            cause = "it was removed or replaced while it was open"
            raise self._error(
                "written", cause, "find out which program did it, stop that program, and start again"
            )

    @contextmanager
    def _read(self) -> Generator[sqlite3.Connection]:
        if self._reader is None:
            raise trio.ClosedResourceError("the history is not open")
        with self._errors("read"):
            yield self._reader

    @contextmanager
    def _errors(self, doing: str, also: type[ValueError] = UnicodeDecodeError) -> Generator[None]:
        """Turn errors of SQLite, and damage that is found here, into a HistoryError with advice."""
        try:
            yield
        except (sqlite3.Error, also) as error:
            raise self._error(doing, *cause_and_advice(error, "history.store")) from error

    @property
    def _name(self) -> str:
        return f"history database {self._path}"

    def _error(self, doing: str, cause: str, advice: str) -> HistoryError:
        return HistoryError(f"{self._name}: can't be {doing}: {cause}; {advice}")


def _stat(path: Path) -> os.stat_result | None:
    """Return the status of a file, or None if there is none."""
    try:
        return path.stat()
    except OSError:
        return None


# -- the row about the log --------------------------------------------------------------------------------


def _read_meta(connection: sqlite3.Connection) -> _Meta:
    match connection.execute(_META).fetchone():
        case (int(epoch), int(tail), int(events), int(size), int(floor), int(was), bytes() | None as cursor):
            extent = Extent(epoch=epoch, floor=floor, tail=tail, events=events, size=size)
            return _Meta(extent=extent, floor_epoch=was, floor_cursor=cursor)
        case _:
            raise sqlite3.DatabaseError(_DAMAGED)


def _write_meta(connection: sqlite3.Connection, meta: _Meta) -> None:
    extent = meta.extent
    floor = (extent.floor, meta.floor_epoch, meta.floor_cursor)
    connection.execute(_SET_META, (extent.epoch, extent.tail, extent.events, extent.size, *floor))


def _check_ends(connection: sqlite3.Connection, extent: Extent) -> None:
    """Make sure that the first and the last event are where the row about the log has them."""
    first, last = connection.execute(_ENDS).fetchone()
    whole = (
        extent.floor < first and last == extent.tail
        if extent.events > 0 and first is not None
        else extent.events == 0 and first is None and extent.floor == extent.tail
    )
    if not whole:
        raise sqlite3.DatabaseError("events are missing, or are no part of the log")


# -- events as rows; damage can turn any value into one of another type ----------------------------------------

_Row = tuple[int, int, float, bytes | None, bytes, int]
"""Position, epoch, time, cursor, payload and checksum."""


def _row_of(entry: Entry) -> _Row:
    cursor = _blob_of(entry.cursor)
    checksum = _checksum(entry.position, entry.epoch, cursor, entry.payload)
    return entry.position, entry.epoch, entry.at, cursor, entry.payload, checksum


def _entry_of(row: Any, *, after: int) -> Entry:  # noqa: ANN401 - a row holds what the file holds
    """Return the event of a row that was read after the position `after`, or report that the row is damaged."""
    position, epoch, at, cursor, payload, checksum = row
    _check_types(epoch, at, cursor)
    whole = isinstance(payload, bytes) and checksum == _checksum(position, epoch, cursor, payload)
    # A damaged page can hold a row twice, the second time in place of another row.
    if not whole or position <= after:
        raise sqlite3.DatabaseError(_DAMAGED)
    value = None if cursor is None else cursor.decode("utf-8", "surrogatepass")
    return Entry(position=position, epoch=epoch, at=at, cursor=value, payload=payload)


def _checksum(position: int, epoch: int, cursor: bytes | None, payload: bytes) -> int:
    """Return the CRC-32 of all parts of an event that a peer may get, started with its position and epoch."""
    return crc32(payload, crc32(cursor or b"", position + epoch))


def _check_types(epoch: object, at: object, cursor: object) -> None:
    # A position is an integer always: it is SQLite's own key of the row.
    if not (
        isinstance(epoch, int) and isinstance(at, float) and (cursor is None or isinstance(cursor, bytes))
    ):
        raise sqlite3.DatabaseError(_DAMAGED)


def _blob_of(text: str | None) -> bytes | None:
    """Encode a text as bytes, because SQLite's texts can't hold lone surrogates."""
    return None if text is None else text.encode("utf-8", "surrogatepass")
