"""Cursors in an SQLite database, one row for each state id (SPEC 9)."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from trio_wsout.stores.cursor import DiskCursorStore, StoredCursor, checksum
from trio_wsout.stores.sqlite import check_length, connect

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
_LOAD = "SELECT state_id, epoch, value, checksum FROM cursors WHERE state_id = ?"
_LOAD_ALL = "SELECT state_id, epoch, value, checksum FROM cursors"


class SqliteCursorStore(DiskCursorStore):
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
        """There is no row of this state id: make sure that there never was one."""
        if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the file is damaged")
        for row in connection.execute(_LOAD_ALL):
            self._cursor(*row)

    def _cursor(self, state_id: str, epoch: int, value: str, stored: str) -> StoredCursor:
        cursor = StoredCursor(value=value, epoch=epoch)
        if stored != checksum(state_id, cursor):
            maybe = "" if state_id == self._state_id else ", which may be that of this state id"
            raise sqlite3.DatabaseError(f"a row is damaged{maybe}")
        return cursor

    def _save(self, cursor: StoredCursor) -> None:
        row = (self._state_id, cursor.epoch, cursor.value, checksum(self._state_id, cursor))
        try:
            with closing(connect(self._path, _TABLE)) as connection:
                written = connection.execute(_SAVE, row).rowcount
        except (sqlite3.Error, ValueError) as error:
            raise self._failure("written", error, ", the old value is intact") from error
        if written == 0:
            raise self._error(
                "another process has taken the cursor over; only one may use a state id at a time"
            )
