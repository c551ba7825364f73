"""Causes, in words, for which files and directories can't be used, and advice on them."""

# ruff: noqa: PTH110, PTH112 - pathlib raises where a name is too long; os.path returns False

import errno
import os
import sqlite3
import stat
from pathlib import Path

__all__ = ["cause_and_advice", "not_private", "unusable_directory"]

_SPACE = "free some space"
_ACCESS = "make the file and its directory writable for this user"
_FILE_LIMIT = "make the limit of open files higher"
_ERRNO = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: "name a path that can be written to",
    errno.ENOENT: "create its directory",
    errno.ENOTDIR: "a part of its path is no directory; name another path",
    errno.ELOOP: "symbolic links are refused; name the file itself",
    errno.EISDIR: "it is a directory; name a file",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EMFILE: _FILE_LIMIT,
    errno.ENFILE: _FILE_LIMIT,
}
_SQLITE = {
    sqlite3.SQLITE_FULL: _SPACE,
    sqlite3.SQLITE_IOERR: "look at the disk and its quota",
    sqlite3.SQLITE_CANTOPEN: f"create its directory, or {_ACCESS}",
    sqlite3.SQLITE_READONLY: _ACCESS,
    sqlite3.SQLITE_PERM: _ACCESS,
    sqlite3.SQLITE_BUSY: "another process holds it; only one may use it at a time: stop the other",
    sqlite3.SQLITE_NOTADB: "restore it or remove it to start anew, or name another path",
    sqlite3.SQLITE_CORRUPT: "restore it or remove it to start anew",
}
_OTHERWISE = "mend that, or name another path"


def cause_and_advice(error: OSError | sqlite3.Error | ValueError, field: str) -> tuple[str, str]:
    """Return the cause of an error, in words, and advice for the user.

    An SQLite error without a code, and a UnicodeDecodeError, mean damage. Any other ValueError means that the
    system takes the text for no path.

    Args:
        error: An exception of opening, reading or writing a file.
        field: The path of the configuration's field that names the file.
    """
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__, _ERRNO.get(error.errno or 0, _OTHERWISE)
    if isinstance(error, sqlite3.Error | UnicodeDecodeError):
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        return str(error), _SQLITE.get(code & 0xFF, _OTHERWISE)
    return "it is no path", f"name another path in {field}"


def not_private(status: os.stat_result, mode: str) -> str | None:
    """Return the fault of a file or directory that others can change, with the `mode` to set; None if only this user can."""
    if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return None
    return f"belongs to somebody else or can be written by others; chown and chmod {mode} it"


def unusable_directory(directory: Path) -> str | None:
    """Return why no file can be made in a directory, with advice; None if one can."""
    if not os.path.exists(directory):
        return f"the directory {directory} is not there; create it, or name another path"
    if not os.path.isdir(directory):
        return f"{directory} is no directory; name another path"
    if not os.access(directory, os.W_OK | os.X_OK):
        return (
            f"nothing can be written into {directory}; make it writable for this user, or name another path"
        )
    return None
