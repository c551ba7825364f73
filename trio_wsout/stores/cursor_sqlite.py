"""Cursors in an SQLite database, one row a state id (SPEC 9)."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from trio_wsout.stores.cursor_file import checksum
from trio_wsout.stores.cursors import BlockingCursorStore, StoredCursor
from trio_wsout.stores.places import is_cut_off, mend_of_sqlite

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
_LOAD_ALL = "SELECT state_id, epoch, value, checksum FROM cursors"
_BUSY = 5.0
"""Seconds to wait for another process that writes."""


def _whole(state_id: str, epoch: int, value: str, found: str) -> bool:
    """Whether a row is as it was written."""
    return found == checksum(state_id, StoredCursor(value=value, epoch=epoch))


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
        if is_cut_off(self._path):
            raise self._damaged("the file is cut off")
        there = os.path.exists(self._path)  # noqa: PTH110 - pathlib raises where a name is too long
        if there and not os.access(self._path, os.W_OK):
            raise self._error("can't be written; make the file writable for this user, or name another place")
        try:
            with closing(self._connect()) as connection:
                row = connection.execute(_LOAD, (self._state_id,)).fetchone()
                if row is None:
                    self._look_for_damage(connection)
                    return None
        except (sqlite3.Error, ValueError) as error:
            raise self._failed("read", error) from error
        if not _whole(self._state_id, *row):
            raise self._damaged("the cursor's row is damaged")
        epoch, value, _ = row
        return StoredCursor(value=value, epoch=epoch)

    def _look_for_damage(self, connection: sqlite3.Connection) -> None:
        """There is no row of this state id: raise unless that is because there never was one."""
        if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise self._damaged("the file is damaged")
        if not all(_whole(*row) for row in connection.execute(_LOAD_ALL)):
            raise self._damaged("a row is damaged, which may be that of this state id")

    def _damaged(self, what: str) -> CursorError:
        return self._error(f"{what}; restore the file, or remove it to start anew")

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
