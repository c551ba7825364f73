"""The places of stores: which file is there, and what to do about what the system, or SQLite, says of one."""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["file_at", "is_cut_off", "mend_of_error", "mend_of_sqlite"]

_HEADER = 100
"""Bytes that every SQLite database has at least; SQLite itself takes an empty file for an empty database."""
_SPACE = "free some space"
_ACCESS = "make the file and its directory writable for this user"
_ERRORS = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: "create its directory",
    errno.ENOTDIR: "a part of its path is no directory; name another place",
    errno.ELOOP: "symbolic links are refused; name the file itself",
    errno.EISDIR: "it is a directory; name a file",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EMFILE: "make the limit of open files higher",
    errno.ENFILE: "make the limit of open files higher",
}
_SQLITE = {
    sqlite3.SQLITE_FULL: _SPACE,
    sqlite3.SQLITE_IOERR: "look at the disk and its quota",
    sqlite3.SQLITE_CANTOPEN: f"create its directory, or {_ACCESS}",
    sqlite3.SQLITE_READONLY: _ACCESS,
    sqlite3.SQLITE_PERM: _ACCESS,
    sqlite3.SQLITE_BUSY: "another process holds it; only one may use it at a time: stop the other",
    sqlite3.SQLITE_NOTADB: "restore it or remove it to start anew, or name another place",
    sqlite3.SQLITE_CORRUPT: "restore it or remove it to start anew",
}
_OTHERWISE = "mend that, or name another place"


def file_at(path: Path) -> tuple[int, int] | None:
    """Device and number of the file at a place; None: there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_cut_off(path: Path) -> bool:
    """Whether there is a file too short for a database; SQLite would silently begin a new one in it."""
    try:
        return path.is_file() and path.stat().st_size < _HEADER
    except (OSError, ValueError):  # SQLite has to say what is there
        return False


def mend_of_error(error: OSError) -> str:
    """What to do about an error of the system."""
    return _ERRORS.get(error.errno or 0, _OTHERWISE)


def mend_of_sqlite(error: Exception) -> str:
    """What to do about an error of SQLite's; one without a code is damage, found by Python or by us."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return _SQLITE.get(code & 0xFF, _OTHERWISE)
