"""Cursors in an SQLite database, one row a state id (SPEC 9)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from trio_wsout.stores.cursor_file import checksum
from trio_wsout.stores.cursors import BlockingCursorStore, StoredCursor
from trio_wsout.stores.places import mend_of_sqlite

if TYPE_CHECKING:
    from pathlib import Path

    from trio_wsout.errors import CursorError

__all__ = ["SqliteCursorStore"]

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
_LOAD = "SELECT epoch, value, checksum FROM cursors WHERE state_id = ?"
_BUSY = 5.0
"""Seconds to wait for another process that writes."""


class SqliteCursorStore(BlockingCursorStore):
    """Keeps a cursor in a row; WAL, synchronous=FULL, a connection for each access, in a thread."""

    def __init__(self, path: Path, state_id: str) -> None:
        """Use the database at `path`, which is made if it is missing."""
        self._path = path
        self._state_id = state_id
        self._place = f"cursor database {path}"

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_TABLE)
        except BaseException:
            connection.close()
            raise
        return connection

    def _load(self) -> StoredCursor | None:
        try:
            with closing(self._connect()) as connection:
                row = connection.execute(_LOAD, (self._state_id,)).fetchone()
        except (sqlite3.Error, ValueError) as error:
            raise self._failed("read", error) from error
        if row is None:
            return None
        epoch, value, found = row
        cursor = StoredCursor(value=value, epoch=epoch)
        if found != checksum(self._state_id, cursor):
            raise self._error("the cursor's row is damaged; restore the file, or remove it to start anew")
        return cursor

    def _save(self, cursor: StoredCursor) -> None:
        row = (self._state_id, cursor.epoch, cursor.value, checksum(self._state_id, cursor))
        try:
            with closing(self._connect()) as connection:
                written = connection.execute(_SAVE, row).rowcount
        except (sqlite3.Error, ValueError) as error:
            raise self._failed("written", error, ", the old value is intact") from error
        if written == 0:
            raise self._error(
                "another process has taken the cursor over; only one may use a state id at a time"
            )

    def _failed(self, doing: str, error: sqlite3.Error | ValueError, kept: str = "") -> CursorError:
        if isinstance(error, ValueError):
            return self._trouble(doing, error)
        return self._error(f"can't be {doing}: {error}{kept}; {mend_of_sqlite(error)}")
