"""SQLite databases in which a committed transaction survives a crash."""

import sqlite3
from pathlib import Path

__all__ = ["check_length", "connect"]

_BUSY = 5.0
"""Seconds to wait for another process that writes."""
_SHORTEST = 100
"""Bytes of the header that every database has."""


def connect(
    path: Path, setup: str = "", *, first: str = "", check_same_thread: bool = True, busy: float = _BUSY
) -> sqlite3.Connection:
    """Open the database at `path`, which is made if it is missing, with a write-ahead log and synchronous=FULL.

    The statement `first` is executed before that, and `setup` behind it. Only the caller's statements begin and end
    transactions. While another process writes, each waits for `busy` seconds.

    Raises:
        sqlite3.Error: The database can't be opened.
        ValueError: `path` is no path.
    """
    connection = sqlite3.connect(
        path, timeout=busy, isolation_level=None, check_same_thread=check_same_thread
    )
    try:
        for statement in (first, "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", setup):
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def check_length(path: Path) -> None:
    """Refuse a file that is too short for a database: SQLite would silently begin a new one in it.

    Raises:
        sqlite3.DatabaseError: The file is cut off.
    """
    try:
        cut_off = path.is_file() and path.stat().st_size < _SHORTEST
    except (OSError, ValueError):  # SQLite reports these
        return
    if cut_off:
        raise sqlite3.DatabaseError("the file is cut off")
