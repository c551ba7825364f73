"""The directory of a spool: its lock, and the way to its files, which goes past no link, FIFO or stranger."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from trio_wsout.errors import SpoolError
from trio_wsout.stores.places import mend_of_error

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CLOSED", "SpoolDirectory"]

CLOSED = -1
"""A descriptor that is not open."""

_LOCK = "lock"
_SEGMENT = re.compile(r"[0-9]{20}\.spool", re.ASCII)
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class SpoolDirectory:
    """The directory and its lock: every file in it is opened here, and only if it is ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._directory = CLOSED
        self._lock = CLOSED

    def open(self) -> None:
        """Make it if need be, and lock it."""
        try:
            with suppress(FileExistsError):
                self.path.mkdir(0o700)
            self._directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise self.trouble("", "opened", error) from error
        self._check(self._directory, "", "chmod 700")
        self._lock = self.file(_LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self.error(
                "", "another output uses it; only one may at a time: stop the other or name another directory"
            ) from None
        except OSError as error:
            raise self.trouble(_LOCK, "locked", error) from error

    def close(self) -> None:
        """Unlock it."""
        for descriptor in (self._lock, self._directory):
            if descriptor != CLOSED:
                os.close(descriptor)
        self._lock = self._directory = CLOSED

    def names(self) -> list[str]:
        """The segments, oldest first."""
        try:
            found = os.listdir(self._directory)  # noqa: PTH208 - it was checked; what is at the path by now was not
        except OSError as error:
            raise self.trouble("", "read", error) from error
        return sorted(name for name in found if _SEGMENT.fullmatch(name))

    def file(self, name: str, flags: int) -> int:
        """Open a file; anything but a plain file of this user is refused."""
        try:
            descriptor = os.open(name, flags | _FLAGS, 0o600, dir_fd=self._directory)
        except OSError as error:
            raise self.trouble(name, "opened", error) from error
        try:
            self._check(descriptor, name, "chmod 600")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, descriptor: int, name: str, mend: str) -> None:
        status = os.fstat(descriptor)
        if name and not stat.S_ISREG(status.st_mode):
            raise self.error(name, "is not a plain file; remove it")
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise self.error(
                name, f"belongs to somebody else or can be written by others; chown and {mend} it"
            )

    def sync(self) -> None:
        """Have what was made and removed survive a crash."""
        os.fsync(self._directory)

    def unlink(self, name: str) -> None:
        """Remove a file, and have that survive a crash before the next is removed."""
        try:
            os.unlink(name, dir_fd=self._directory)
            self.sync()
        except OSError as error:
            raise self.trouble(name, "removed", error) from error

    def error(self, name: str, what: str) -> SpoolError:
        """What is wrong with a file, or, without a name, with the directory."""
        return SpoolError(f"spool {self.path / name if name else self.path}: {what}")

    def trouble(self, name: str, doing: str, error: OSError | ValueError) -> SpoolError:
        """What the system says, and what to do; ValueError: it can be no place at all."""
        if isinstance(error, OSError):
            return self.error(name, f"can't be {doing}: {error.strerror}; {mend_of_error(error)}")
        return self.error(name, f"can't be {doing}: it is no path; name another place in spool.path")
