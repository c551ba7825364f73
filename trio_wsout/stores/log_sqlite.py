"""A durable log in an SQLite database: appended events survive a crash (SPEC 7 and 11).

Write-ahead log and synchronous=FULL: one append is one transaction, one row, and one fsync. The row has the floor, too; events
that left are deleted later, many at once. A history has a second connection that reads, so that a replay waits for no
commit. A spool has an exclusive lock on the file, and so one connection only. Each connection is used in one thread at a
time. A call that has begun in a thread is finished there, also when it is cancelled.

On a full disk a checkpoint fails if it has to make the file larger; so the write-ahead log is not reset, and grows, until there is
no room to store even that events left. Therefore a spool appends only while it has a `Reserve`. When the disk is full and all
events have left, the reserve is given back, and its room is enough to make the database small, which needs no larger file.

`open` checks the schema, and that no row is missing between two others. It does not run ``PRAGMA quick_check``, which reads
every page (seconds for each gigabyte before the first event is sent) and finds no changed payload. Other damage is reported by
the call that meets it: SQLite finds damage of its own structure, and checksums find the rest.
"""

import errno
import os
import sqlite3
import stat
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import trio
from attrs import define, evolve, field

from trio_wsout._core.acknowledgement import position_in
from trio_wsout._core.durable_log import HISTORY, SPOOL, Entry, Extent, Use, check_run, exceeds, taken_over
from trio_wsout._core.run_format import DamageError, Run, run_of, sizes_in
from trio_wsout.config.sections import History
from trio_wsout.stores.advice import cause_and_advice, not_private
from trio_wsout.stores.log import LogFullError
from trio_wsout.stores.sqlite import Reserve, check_length, connect

__all__ = ["SqliteLog", "spool_in"]

_VERSION = 3
"""Version of the tables; other versions are refused. The column `log_meta.version` has to stay in all of them."""
_HAS_TABLE = "SELECT count(*) FROM sqlite_master WHERE name = ?"
_TABLES = (
    """CREATE TABLE log_meta (
        id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, epoch INTEGER NOT NULL, floor INTEGER NOT NULL
    )""",
    """CREATE TABLE log_runs (
        last INTEGER PRIMARY KEY, first INTEGER NOT NULL, epoch INTEGER NOT NULL, at REAL NOT NULL, floor INTEGER NOT NULL,
        checksum INTEGER NOT NULL, head BLOB NOT NULL, body BLOB NOT NULL
    )""",
    "CREATE TABLE log_cursors (position INTEGER PRIMARY KEY, cursor BLOB NOT NULL)",
    "CREATE INDEX log_cursors_cursor ON log_cursors (cursor)",
    """CREATE VIEW log_floor (floor) AS
    SELECT max(floor, coalesce((SELECT floor FROM log_runs ORDER BY last DESC LIMIT 1), 0)) FROM log_meta""",
)
_INSERT_META = "INSERT INTO log_meta (id, version, epoch, floor) VALUES (1, ?, 0, 0)"
_GET_VERSION = "SELECT version FROM log_meta"
_META = "SELECT epoch, floor FROM log_meta"
_ENDS = "SELECT (SELECT floor FROM log_floor), min(first), max(last), sum(last - first + 1) FROM log_runs"
_BYTES = "SELECT sum(length(body)) FROM log_runs WHERE last > ?"
_OLDEST = "SELECT last, first, at, head FROM log_runs WHERE last > ? ORDER BY last LIMIT 1"
_INSERT = """
INSERT INTO log_runs (last, first, epoch, at, head, body, checksum, floor) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_CURSOR = "INSERT INTO log_cursors (position, cursor) VALUES (?, ?)"
_AFTER = """
SELECT (SELECT floor FROM log_floor), last, first, epoch, at, head, body, checksum
FROM log_runs WHERE last > max(?, (SELECT floor FROM log_floor)) ORDER BY last
"""
_DELETE = "DELETE FROM log_runs WHERE last < ?"
_DELETE_CURSORS = "DELETE FROM log_cursors WHERE position < ?"
_FIND = "SELECT max(position) FROM log_cursors WHERE cursor = ? AND position >= (SELECT floor FROM log_floor)"
_FIND_STAMP = """
SELECT epoch FROM log_runs
WHERE last >= :position AND first <= :position AND :position >= (SELECT floor FROM log_floor) LIMIT 1
"""
_DELETE_EVERY = 8
"""Appends until the rows of events that left are deleted, with one of these appends."""
_REMEMBERED = 64
"""Runs whose sizes are remembered."""
_SPOOL = "spool.db"
_RESERVE = 128 << 10
"""Bytes of the reserve of a small spool. To make it small writes about 12 pages, and one for each 1022 of the file."""
_SHARE = 8
"""The reserve has 2 ** -8 of the file more at least; when it gets larger, twice that."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_Sizes = tuple[int, int, float, Sequence[int]]
"""First and last position of a run, its time, and the sizes of its payloads."""


class SqliteLog:
    """A `LogStore` in a database file (``sqlite:PATH``)."""

    def __init__(self, path: Path, limits: History, use: Use = HISTORY) -> None:
        """Use the database at `path`, which is made if it is missing, and keep events within `limits`."""
        self.location = str(path.parent if use is SPOOL else path)
        self._database = _Database(path, limits, use)
        self._writing = trio.CapacityLimiter(1)
        self._reading = self._writing if use is SPOOL else trio.CapacityLimiter(1)

    async def open(self, epoch: int, *, keep_epoch: bool = False) -> Extent:
        """Open the file, and take the log over with `epoch`, or with one more than the stored epoch if that is higher."""
        return await trio.to_thread.run_sync(self._database.open, epoch, keep_epoch, limiter=self._writing)

    async def append(self, run: Sequence[Entry], settled: int = 0) -> Extent:
        """Append events; remove those up to `settled`, and those that exceed the limits at the time of the last one.

        It is cancelled before anything is written, or not at all.
        """
        return await trio.to_thread.run_sync(self._database.append, run, settled, limiter=self._writing)

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        """Return the oldest events after `position`, within the bounds but at least one."""
        return await trio.to_thread.run_sync(
            self._database.after, position, most, most_bytes, limiter=self._reading
        )

    async def find(self, cursor: str) -> int | None:
        """Return the newest position with this cursor, or with this stamp; None if the cursor is unknown."""
        return await trio.to_thread.run_sync(self._database.find, cursor, limiter=self._reading)

    async def trim(self, now: float) -> Extent:
        """Remove the events that exceed the limits at `now`, and return the new extent."""
        return await trio.to_thread.run_sync(self._database.trim, now, limiter=self._writing)

    async def aclose(self) -> None:
        """Close the file once the calls that use it have ended; shrink it if it is a spool without events."""
        with trio.CancelScope(shield=True):
            async with nullcontext() if self._reading is self._writing else self._reading:
                await trio.to_thread.run_sync(self._database.close, limiter=self._writing)


def spool_in(directory: Path) -> SqliteLog:
    """Return the spool in a directory, which is made if it is missing, mode 0700."""
    return SqliteLog(directory / _SPOOL, History(), SPOOL)


@define(eq=False)
class _Database:
    """The database. Its methods block, so they are called in threads."""

    _path: Path
    _limits: History
    _use: Use
    _extent: Extent = field(default=Extent(epoch=0, floor=0, tail=0, size=0), init=False)
    _writer: sqlite3.Connection | None = field(default=None, init=False)
    _reader: sqlite3.Connection | None = field(default=None, init=False)
    """The same connection for a spool."""
    _file: os.stat_result | None = field(default=None, init=False)
    """The file that was opened, as of the latest write."""
    _reserve: Reserve = field(init=False)
    _recent: deque[_Sizes] = field(factory=lambda: deque[_Sizes](maxlen=_REMEMBERED), init=False)
    """Runs that were appended lately: most of them leave soon, and need not be read for that."""
    _oldest: _Sizes = field(default=(0, 0, 0.0, ()), init=False)
    """The oldest run, if it was needed."""
    _appends: int = field(default=0, init=False)
    """Appends since rows were deleted."""
    _closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._reserve = Reserve(self._path.with_name(f"{self._path.name}-reserve"))

    # -- opening ----------------------------------------------------------------------------------------

    def open(self, epoch: int, keep_epoch: bool) -> Extent:  # noqa: FBT001 - called in a thread
        try:
            if not self._closed and self._writer is None:
                with self._errors("opened", ValueError):
                    self._connect()
            with self._transaction("opened") as connection:
                self._make_tables(connection)
                extent = self._read_extent(connection)
            if not (keep_epoch and extent.events):  # else nothing is written: a full disk does not matter
                if (
                    self._use is SPOOL and extent.tail and not extent.events
                ):  # the last run may have met a full disk
                    with self._errors("opened"):
                        self._shrink(connection, extent.tail)
                with self._transaction("opened"):
                    extent = evolve(self._read_extent(connection), epoch=max(epoch, extent.epoch + 1))
                    connection.execute("UPDATE log_meta SET epoch = ?", (extent.epoch,))
            with suppress(LogFullError):
                self._extend_reserve()
        except BaseException:
            if self._extent.epoch == 0:
                self._disconnect()
            raise
        self._extent = extent
        return extent

    def _connect(self) -> None:
        if self._use is SPOOL:
            new = self._claim_directory()
            self._writer = self._reader = connect(
                self._path, first="PRAGMA locking_mode = EXCLUSIVE", check_same_thread=False, busy=0.0
            )
            if new:
                self._path.chmod(0o600)
        else:
            check_length(self._path)
            self._writer = connect(self._path, check_same_thread=False)
            self._reader = connect(self._path, "PRAGMA query_only = ON", check_same_thread=False)
        if self._writer.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            raise self._error("opened", "no write-ahead log is possible there", f"set {self._use.setting}")
        self._writer.execute("PRAGMA secure_delete = OFF")  # it would write each page of a deleted row
        self._file = _stat(self._path)

    def _claim_directory(self) -> bool:
        """Make the directory if it is missing; check that nobody else can write to it or its files. Return whether there is no file yet."""
        directory = self._path.parent
        try:
            with suppress(FileExistsError):
                directory.mkdir(0o700)
            self._check_private(directory, stat.S_ISDIR, "directory", "700")
            for name in ("-reserve", "-wal", "-journal", "-shm", ""):
                path = self._path.with_name(self._path.name + name)
                there = os.path.lexists(path)
                if there:
                    self._check_private(path, stat.S_ISREG, "plain file", "600")
        except OSError as error:
            raise self._error("opened", *cause_and_advice(error, self._use.setting)) from error
        if there and self._path.stat().st_size:
            check_length(self._path)
        return not there

    def _check_private(self, path: Path, of_kind: Any, kind: str, mode: str) -> None:  # noqa: ANN401 - of stat
        status = path.lstat() if kind != "directory" else path.stat()
        if not of_kind(status.st_mode):
            raise self._use.error(f"{self._use.name} {path}: is no {kind}; remove it, or name another path")
        if fault := not_private(status, mode):
            raise self._use.error(f"{self._use.name} {path}: {fault}")

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        advice = f"remove it to start anew, or set {self._use.setting}"
        if connection.execute(_HAS_TABLE, ("history_meta",)).fetchone() != (0,):
            raise self._error("opened", "an older version of this library made it", advice)
        if connection.execute(_HAS_TABLE, ("log_meta",)).fetchone() == (0,):
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(_INSERT_META, (_VERSION,))
        version = connection.execute(_GET_VERSION).fetchone()
        if version is None:
            raise DamageError("the row about the log is missing")
        if version != (_VERSION,):
            cause = f"its tables are of version {version[0]}, and this library knows {_VERSION}"
            raise self._error("opened", cause, f"use the library that made it, or {advice}")

    def _read_extent(self, connection: sqlite3.Connection) -> Extent:
        """Read the extent, and make sure that no row is missing between two others."""
        epoch, _ = _meta(connection)
        match connection.execute(_ENDS).fetchone():
            case (int(floor), None, None, None):
                return Extent(epoch=epoch, floor=floor, tail=floor, size=0)
            case (int(floor), int(first), int(last), int(count)):
                if not (first - 1 <= floor <= last and count == last - first + 1):
                    raise DamageError("events are missing")
            case _:
                raise DamageError("the positions of events are damaged")
        extent = Extent(epoch=epoch, floor=floor, tail=last, size=0)
        if floor == last:
            return extent
        (size,) = connection.execute(_BYTES, (floor,)).fetchone()
        first, _, _, sizes = self._run_behind(connection, floor)
        return evolve(extent, size=size - sum(sizes[: floor + 1 - first]))

    # -- writing ----------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry], settled: int, now: float | None = None) -> Extent:
        try:
            return self._append(entries, settled, now)
        except LogFullError:
            some_are_left = max(settled, self._extent.floor) < self._extent.tail
            if self._use is not SPOOL or self._writer is None or some_are_left:
                raise
            with self._errors("written"):
                self._shrink(self._writer, self._extent.tail)
            self._extent = evolve(self._extent, floor=self._extent.tail, size=0)
            with suppress(LogFullError):
                self._extend_reserve()
        return self._append(entries, settled, now)

    def _append(self, entries: Sequence[Entry], settled: int, now: float | None) -> Extent:
        if entries:
            self._extend_reserve()
        with self._transaction("written") as connection:
            extent = self._owned_extent(connection)
            check_run(entries, extent, store=self._name, use=self._use)
            floor = extent.floor
            if entries:
                run, now = run_of(entries), entries[-1].at
                extent = evolve(extent, tail=run.last, size=extent.size + len(run.body))
                self._recent.append((run.first, run.last, run.at, sizes_in(run.head, len(entries))))
                extent = self._trimmed(connection, extent, settled, now)
                row = run.last, run.first, run.epoch, run.at, run.head, run.body, run.checksum, extent.floor
                connection.execute(_INSERT, row)
                cursors = [(each.position, _blob(each.cursor)) for each in entries if each.cursor is not None]
                if cursors and self._use is not SPOOL:  # nobody looks for a cursor in a spool
                    connection.executemany(_INSERT_CURSOR, cursors)
            else:
                extent = self._trimmed(connection, extent, settled, now)
                if extent.floor > floor:
                    connection.execute("UPDATE log_meta SET floor = ?", (extent.floor,))
            self._delete(connection, extent.floor)
        self._extent = extent
        return extent

    def trim(self, now: float) -> Extent:
        try:
            return self.append((), 0, now)
        except LogFullError as full:
            raise self._use.error(str(full)) from full

    def _owned_extent(self, connection: sqlite3.Connection) -> Extent:
        """Return the extent, after making sure that no other output has taken the log over; nobody can take a spool."""
        if self._use is SPOOL:
            return self._extent
        owner, _ = _meta(connection)
        if owner != self._extent.epoch:
            raise taken_over(self._name, use=self._use, owner=owner, epoch=self._extent.epoch)
        return self._extent

    def _trimmed(
        self,
        connection: sqlite3.Connection,
        extent: Extent,
        settled: int,
        now: float | None,
    ) -> Extent:
        """Return the extent without the events up to `settled` and those that exceed the limits."""
        floor, size = extent.floor, extent.size
        while floor < extent.tail:
            first, last, at, sizes = self._run_behind(connection, floor)
            rest = sizes[floor + 1 - first :]
            count = max(0, min(settled, last) - floor)
            size -= sum(rest[:count])
            age = 0.0 if now is None else now - at
            for each in rest[count:]:
                if not exceeds(self._limits, events=extent.tail - floor - count, size=size, age=age):
                    break
                size -= each
                count += 1
            floor += count
            if floor < last:
                break
        return extent if floor == extent.floor else evolve(extent, floor=floor, size=size)

    def _run_behind(self, connection: sqlite3.Connection, floor: int) -> _Sizes:
        """Return first and last position, time and sizes of the run that holds the event behind `floor`."""
        first, last, *_ = self._oldest
        if first <= floor + 1 <= last:
            return self._oldest
        recent = self._recent
        while recent and recent[0][1] <= floor:
            recent.popleft()
        if recent and recent[0][0] <= floor + 1:
            self._oldest = recent[0]
            return self._oldest
        match connection.execute(_OLDEST, (floor,)).fetchone():
            case (int(last), int(first), float(at), bytes(head)) if first <= floor + 1:
                self._oldest = first, last, at, sizes_in(head, last - first + 1)
                return self._oldest
            case _:
                raise DamageError(f"event {floor + 1} is missing or damaged")

    def _extend_reserve(self) -> None:
        """Make sure that a spool has its reserve, or raise LogFullError."""
        size = self._file.st_size if self._file is not None else 0
        if self._use is SPOOL and self._reserve.size < _RESERVE + (size >> _SHARE):
            with self._errors("written"):
                self._reserve.extend(_RESERVE + (size >> _SHARE - 1))

    def _delete(self, connection: sqlite3.Connection, floor: int) -> None:
        """Delete the rows of events that left, but not that of the last one: a cursor may name it."""
        self._appends += 1
        if self._appends >= _DELETE_EVERY:
            self._appends = 0
            connection.execute(_DELETE, (floor,))
            connection.execute(_DELETE_CURSORS, (floor,))

    def close(self) -> None:
        self._closed = True
        if self._use is SPOOL and self._writer is not None and not self._extent.events:
            with suppress(sqlite3.Error, OSError):
                self._shrink(self._writer, self._extent.tail)
        self._disconnect()

    def _shrink(self, connection: sqlite3.Connection, tail: int) -> None:
        """Give the room of all events, which have left up to `tail`, and of the reserve back to the system."""
        self._reserve.give_back()
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # a checkpoint before VACUUM takes this room
        try:
            with _committed(connection):
                connection.execute("UPDATE log_meta SET floor = ? WHERE floor <> ?", (tail, tail))
                connection.execute("DELETE FROM log_runs")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint = TRUNCATE")
        finally:
            connection.execute("PRAGMA wal_autocheckpoint = 1000")
            self._recent.clear()
            self._oldest = (0, 0, 0.0, ())

    def _disconnect(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()
        self._reader = self._writer = None

    # -- reading ----------------------------------------------------------------------------------------

    def after(self, position: int, most: int, most_bytes: int) -> Sequence[Entry]:
        found: list[Entry] = []
        with self._read() as connection, closing(connection.execute(_AFTER, (position,))) as rows:
            for floor, *row in rows:
                try:
                    position = max(position, _integer(floor))
                    run = _run_behind(row, position)
                except DamageError:
                    if found:
                        break
                    raise
                for entry in run:
                    most_bytes -= len(entry.payload)
                    if len(found) == most or (found and most_bytes < 0):
                        return found
                    found.append(entry)
                position = found[-1].position
                if position < row[0]:
                    break
        return found

    def find(self, cursor: str) -> int | None:
        with self._read() as connection:
            (position,) = connection.execute(_FIND, (_blob(cursor),)).fetchone()
            if position is not None:
                return _integer(position)
            epoch, position = position_in(cursor) or (0, 0)
            row = connection.execute(_FIND_STAMP, {"position": position}).fetchone()
            return position if row == (epoch,) else None

    # -- errors -----------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, doing: str) -> Generator[sqlite3.Connection]:
        """Commit all changes of the block, or none."""
        if self._writer is None:
            raise trio.ClosedResourceError(f"the {self._use.name} is not open")
        with self._errors(doing):
            try:
                with _committed(self._writer):
                    yield self._writer
                    self._check_file()
            except BaseException:
                self._recent.clear()
                self._oldest = (0, 0, 0.0, ())
                raise

    def _check_file(self) -> None:
        """Refuse a file that was removed while it is open: it would accept everything and keep nothing."""
        now = _stat(self._path)
        if now is None or self._file is None or not os.path.samestat(now, self._file):
            cause = "it was removed or replaced while it was open"
            raise self._error(
                "written", cause, "find out which program did it, stop that program, and start again"
            )
        self._file = now

    @contextmanager
    def _read(self) -> Generator[sqlite3.Connection]:
        if self._reader is None:
            raise trio.ClosedResourceError(f"the {self._use.name} is not open")
        with self._errors("read"):
            yield self._reader

    @contextmanager
    def _errors(self, doing: str, also: type[ValueError] = UnicodeDecodeError) -> Generator[None]:
        """Turn errors of SQLite, and damage that is found here, into an error with advice."""
        try:
            yield
        except DamageError as error:
            advice = "restore it or remove it to start anew; the events before and behind can be read"
            raise self._error(doing, str(error), advice) from error
        except (sqlite3.Error, OSError, also) as error:
            failure = self._error(doing, *cause_and_advice(error, self._use.setting))
            full = (
                error.errno in _NO_ROOM
                if isinstance(error, OSError)
                else getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
            )
            if doing == "written" and full:
                raise LogFullError(str(failure)) from error
            raise failure from error

    @property
    def _name(self) -> str:
        return f"{self._use.name} database {self._path}"

    def _error(self, doing: str, cause: str, advice: str) -> Exception:
        return self._use.error(f"{self._name}: can't be {doing}: {cause}; {advice}")


@contextmanager
def _committed(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _stat(path: Path) -> os.stat_result | None:
    """Return the status of a file, or None if there is none."""
    try:
        return path.stat()
    except OSError:
        return None


# -- rows; damage can turn any value into one of another type -------------------------------------------------


def _meta(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the epoch that owns the log, and the floor that was stored without an event."""
    match connection.execute(_META).fetchone():
        case (int(epoch), int(floor)):
            return epoch, floor
        case _:
            raise DamageError("the row about the log is damaged")


def _integer(value: object) -> int:
    if isinstance(value, int):
        return value
    raise DamageError("the floor is damaged")


def _run_behind(row: Sequence[Any], position: int) -> list[Entry]:
    """Return the events of a row behind `position`, up to the first damaged one."""
    match row:
        case (
            int(last),
            int(first),
            int(epoch),
            float(at),
            bytes(head),
            bytes(body),
            int(checksum),
        ):
            if first > position + 1:
                raise DamageError(f"events {position + 1} to {first - 1} are missing")
            return Run(last, first, epoch, at, head, body, checksum).entries(position)
        case _:
            raise DamageError(f"event {position + 1} is damaged")


def _blob(text: str) -> bytes:
    """Encode a text as bytes, because SQLite's texts can't hold lone surrogates."""
    return text.encode("utf-8", "surrogatepass")
