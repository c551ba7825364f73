"""Retained events in an SQLite database: what was appended survives a crash (SPEC 11).

Write-ahead log and synchronous=FULL: one append is one transaction and one fsync, and what it makes
leave goes in the same transaction. One connection writes and a second one reads, each in one thread
at a time, so that a replay waits for no commit. What has begun in a thread is finished there,
whatever is cancelled.

`open` looks at the schema, at the row about the log and at both ends of the log. It does not run
``PRAGMA quick_check``: that reads every page, seconds for each gigabyte before the first event goes
out, and finds no changed payload either. Damage elsewhere is told by the call that meets it: SQLite
finds what breaks its own structure, and a checksum in each row what does not.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING

import trio
from attrs import evolve, frozen

from trio_wsout._core.history import Entry, Extent, Limits, check_entries, taken_over
from trio_wsout.errors import HistoryError
from trio_wsout.stores.history_rows import DAMAGED, blob_of, check_row, entry_of, row_of, text_of
from trio_wsout.stores.places import file_at, is_cut_off, mend_of_sqlite

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

__all__ = ["SqliteHistoryStore"]

_VERSION = 2
"""Of the tables; a database with another one is refused. `history_meta.version` has to stay where it is."""
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
    "CREATE TABLE IF NOT EXISTS history_cursors (name BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
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
_ROW_MORE = ", (?, ?, ?, ?, ?, ?)"
_MOST_ROWS = 64
"""Rows in one INSERT. For each statement a thread lets Python go, and may have to wait for it."""
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
_GET_CURSOR = "SELECT value FROM history_cursors WHERE name = ?"
_NEW_CURSOR = "INSERT OR IGNORE INTO history_cursors (value, name) VALUES (?, ?)"
_SET_CURSOR = "UPDATE history_cursors SET value = ? WHERE name = ? AND value = ?"

_BUSY = 5.0
"""Seconds to wait for another process that writes."""


class SqliteHistoryStore:
    """Keeps events in a database file, through crashes and restarts (``sqlite:PATH``)."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """Use the database at `path`, which is made if it is missing, and keep at most what `limits` allow."""
        self._log = _Log(path, limits)
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(1)

    async def open(self, epoch: int) -> Extent:
        """Take the log over, as the owner of `epoch`, or of one above the stored if that is higher.

        Raises:
            HistoryError: The file can't be opened, or is no history of this version.
        """
        return await trio.to_thread.run_sync(self._log.open, epoch, limiter=self._writing)

    async def append(self, entries: Sequence[Entry]) -> Extent:
        """Keep these events and let go what is over the limits at the time of the last of them.

        When it returns they survive a crash. A cancellation comes before anything is written, or not at all.

        Raises:
            HistoryError: They can't be written, or another output has taken over; none was kept.
        """
        return await trio.to_thread.run_sync(self._log.append, entries, limiter=self._writing)

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        """The oldest retained events after `position`: at most `most`, and at most `most_bytes` but at least one."""
        return await trio.to_thread.run_sync(
            self._log.after, position, most, most_bytes, limiter=self._reading
        )

    async def find(self, cursor: str) -> int | None:
        """Position of the newest event with this cursor value, retained or the last that left."""
        return await trio.to_thread.run_sync(self._log.find, cursor, limiter=self._reading)

    async def trim(self, now: float) -> Extent:
        """Let go what is over the limits at `now`, seconds since 1970; gives what is there then."""
        return await trio.to_thread.run_sync(self._log.trim, now, limiter=self._writing)

    async def get_cursor(self, name: str) -> str | None:
        """The cursor of that name; None: there is none."""
        return await trio.to_thread.run_sync(self._log.get_cursor, name, limiter=self._reading)

    async def set_cursor(self, name: str, expected: str | None, value: str) -> bool:
        """Keep `value` if the cursor is still `expected`; gives whether it was."""
        return await trio.to_thread.run_sync(
            self._log.set_cursor, name, expected, value, limiter=self._writing
        )

    async def aclose(self) -> None:
        """Close both connections when the calls that use them have ended; the store can't be used any more."""
        with trio.CancelScope(shield=True):
            async with self._reading:
                await trio.to_thread.run_sync(self._log.close, limiter=self._writing)


@frozen(kw_only=True)
class _State:
    """The row about the log."""

    extent: Extent
    floor_epoch: int = 0
    floor_cursor: bytes | None = None


class _Log:
    """The database; blocks, so every method is called in a thread."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._place = f"history database {path}"
        self._limits = limits
        self._epoch = 0
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._closed = False

    def open(self, epoch: int) -> Extent:
        if not self._closed and self._writer is None:
            try:
                with self._telling("opened"):
                    self._connect()
            except ValueError as error:
                raise self._error("opened", "it is no path", "name another place in history.store") from error
        try:
            with self._transaction("opened") as connection:
                self._make_tables(connection)
                state = _state(connection)
                _check_ends(connection, state.extent)
                extent = evolve(state.extent, epoch=max(epoch, state.extent.epoch + 1))
                _set_state(connection, evolve(state, extent=extent))
        except BaseException:
            if self._epoch == 0:
                self._disconnect()
            raise
        self._epoch = extent.epoch
        return extent

    def append(self, entries: Sequence[Entry]) -> Extent:
        with self._transaction("written") as connection:
            state = self._owned(connection)
            extent = state.extent
            check_entries(entries, place=self._place, epoch=extent.epoch, tail=extent.tail)
            if not entries:
                return extent
            for start in range(0, len(entries), _MOST_ROWS):
                rows = [row_of(each) for each in entries[start : start + _MOST_ROWS]]
                statement = _INSERT + _ROW_MORE * (len(rows) - 1)
                connection.execute(statement, [value for row in rows for value in row])
            extent = evolve(
                extent,
                tail=entries[-1].position,
                events=extent.events + len(entries),
                size=extent.size + sum(len(each.payload) for each in entries),
            )
            state = self._trimmed(connection, evolve(state, extent=extent), entries[-1].at)
            _set_state(connection, state)
        return state.extent

    def after(self, position: int, most: int, most_bytes: int) -> Sequence[Entry]:
        found: list[Entry] = []
        with self._reads() as connection, closing(connection.execute(_AFTER, (position, most))) as rows:
            for row in rows:
                entry = entry_of(row, behind=position)
                position = entry.position
                most_bytes -= len(entry.payload)
                if found and most_bytes < 0:
                    break
                found.append(entry)
        return found

    def find(self, cursor: str) -> int | None:
        with self._reads() as connection:
            (position,) = connection.execute(_FIND, {"cursor": blob_of(cursor)}).fetchone()
            if position is None or isinstance(position, int):
                return position
            raise sqlite3.DatabaseError(DAMAGED)

    def trim(self, now: float) -> Extent:
        with self._transaction("written") as connection:
            before = self._owned(connection)
            state = self._trimmed(connection, before, now)
            if state is not before:
                _set_state(connection, state)
        return state.extent

    def get_cursor(self, name: str) -> str | None:
        with self._reads() as connection:
            row = connection.execute(_GET_CURSOR, (blob_of(name),)).fetchone()
            return None if row is None else text_of(row[0])

    def set_cursor(self, name: str, expected: str | None, value: str) -> bool:
        with self._transaction("written") as connection:
            if expected is None:
                changed = connection.execute(_NEW_CURSOR, (blob_of(value), blob_of(name)))
            else:
                changed = connection.execute(_SET_CURSOR, (blob_of(value), blob_of(name), blob_of(expected)))
        return bool(changed.rowcount)

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
        if is_cut_off(self._path):
            raise self._error("opened", "the file is cut off", "restore it, or remove it to start anew")
        with ExitStack() as opened:
            connections: list[sqlite3.Connection] = []
            for _ in range(2):
                connection = sqlite3.connect(
                    self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False
                )
                opened.callback(connection.close)
                connections.append(connection)
            writer, reader = connections
            (mode,) = writer.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise self._error("opened", "no write-ahead log is possible there", "set history.store")
            writer.execute("PRAGMA synchronous = FULL")
            reader.execute("PRAGMA query_only = ON")
            opened.pop_all()
            self._writer, self._reader = writer, reader
            self._file = file_at(self._path)

    def _check_place(self) -> None:
        """A file that was removed while it is open takes everything and keeps nothing."""
        if file_at(self._path) != self._file:
            cause = "it was removed or replaced while it was open"
            raise self._error("written", cause, "find out by whom, stop that, and start again")

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

    def _owned(self, connection: sqlite3.Connection) -> _State:
        """The row about the log, which is still this output's."""
        state = _state(connection)
        if state.extent.epoch != self._epoch:
            raise taken_over(self._place, owner=state.extent.epoch, epoch=self._epoch)
        return state

    def _trimmed(self, connection: sqlite3.Connection, state: _State, now: float) -> _State:
        """Let go what is over the limits, in the transaction that is open."""
        events, size = state.extent.events, state.extent.size
        left: tuple[int, int, bytes | None] | None = None
        with closing(connection.execute(_OLDEST)) as rows:
            for row in rows:
                position, epoch, at, cursor, length = row
                check_row(epoch, at, cursor)
                if not self._limits.exceeded(events=events, size=size, age=now - at):
                    break
                events, size, left = events - 1, size - length, (position, epoch, cursor)
        if left is None:
            return state
        position, epoch, cursor = left
        connection.execute(_DELETE, (position,))
        extent = evolve(state.extent, floor=position, events=events, size=size)
        return _State(extent=extent, floor_epoch=epoch, floor_cursor=cursor)

    @contextmanager
    def _transaction(self, what: str) -> Generator[sqlite3.Connection]:
        """All of what is done in it is kept, or nothing."""
        if self._writer is None:
            raise trio.ClosedResourceError("the history is not open")
        with self._telling(what):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._check_place()
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    @contextmanager
    def _reads(self) -> Generator[sqlite3.Connection]:
        if self._reader is None:
            raise trio.ClosedResourceError("the history is not open")
        with self._telling("read"):
            yield self._reader

    @contextmanager
    def _telling(self, what: str) -> Generator[None]:
        """Tell what SQLite says in words that help; without a code it is damage, found here or by Python."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._error(what, str(error), mend_of_sqlite(error)) from error

    def _error(self, what: str, cause: str, mend: str) -> HistoryError:
        return HistoryError(f"{self._place}: can't be {what}: {cause}; {mend}")


def _state(connection: sqlite3.Connection) -> _State:
    match connection.execute(_META).fetchone():
        case (int(epoch), int(tail), int(events), int(size), int(floor), int(was), bytes() | None as cursor):
            extent = Extent(epoch=epoch, floor=floor, tail=tail, events=events, size=size)
            return _State(extent=extent, floor_epoch=was, floor_cursor=cursor)
        case _:
            raise sqlite3.DatabaseError(DAMAGED)


def _set_state(connection: sqlite3.Connection, state: _State) -> None:
    extent = state.extent
    floor = (extent.floor, state.floor_epoch, state.floor_cursor)
    connection.execute(_SET_META, (extent.epoch, extent.tail, extent.events, extent.size, *floor))


def _check_ends(connection: sqlite3.Connection, extent: Extent) -> None:
    """Whether the log's first and last event are where its row says."""
    first, last = connection.execute(_ENDS).fetchone()
    whole = (
        extent.floor < first and last == extent.tail
        if extent.events > 0 and first is not None
        else extent.events == 0 and first is None and extent.floor == extent.tail
    )
    if not whole:
        raise sqlite3.DatabaseError("events are missing, or are no part of the log")
