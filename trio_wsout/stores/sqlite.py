"""SQLite databases in which a committed transaction survives a crash."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from attrs import define, field

__all__ = ["Reserve", "check_length", "connect"]

_BUSY = 5.0
"""Seconds to wait for another process that writes."""
_allocate: Callable[[int, int, int], None] | None = getattr(os, "posix_fallocate", None)
"""None on systems that have no such call."""
_NO_ALLOCATION = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
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


@define(eq=False)
class Reserve:
    """A file that keeps some room of a disk, to be given back when the disk is full."""

    path: Path
    size: int = field(default=0, init=False)
    """Bytes that were asked for."""

    def extend(self, size: int) -> None:
        """Make the file, mode 0600, or make it larger; OSError if the disk has no room for that.

        Where the system can't allocate, the file may be empty.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if _allocate is not None:
                _allocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise
        finally:
            os.close(descriptor)
        self.size = size

    def give_back(self) -> None:
        """Remove the file."""
        self.size = 0
        self.path.unlink(missing_ok=True)


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
