"""A spool in a directory of segment files: appended events survive a crash (SPEC 7).

The output that uses the directory has a lock on the file ``lock``. A segment is named after the number of its first
event. A new segment is synced with its header, and then its directory, before a record is written to it; a record is
synced before the next one is written. So after any crash only the end of the newest file can be torn.

`open` reads all segments, and changes nothing until it has found them whole. It ignores other files in the directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import trio
from attrs import define, field

from trio_wsout._core.spool_account import Segment, Segments
from trio_wsout._core.spool_format import (
    HEADER_SIZE,
    SALT_SIZE,
    DamageError,
    Header,
    Scan,
    encode_record,
    events_behind,
    record_size,
    scan,
)
from trio_wsout.errors import SpoolError
from trio_wsout.stores.advice import cause_and_advice
from trio_wsout.stores.spool import Spooled, SpoolFullError

__all__ = ["FileSpool"]

_CLOSED = -1
"""A file descriptor that is not open."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOCK = "lock"
_SEGMENT = re.compile(r"[0-9]{20}\.spool", re.ASCII)
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_sync_content = getattr(os, "fdatasync", os.fsync)


class FileSpool:
    """A `SpoolStore` in the files of one directory, which is made if it is missing, mode 0700."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Use the directory at `path`, with at most `max_bytes` in it."""
        self.location = str(path)
        self._segments = _SegmentFiles(_Directory(path), Segments(max_bytes))
        self._limiter = trio.CapacityLimiter(1)

    async def open(self, epoch: int) -> Spooled:
        """Lock the directory, read all segments, and cut a torn tail off; change nothing if a segment is damaged."""
        return await trio.to_thread.run_sync(self._segments.open, epoch, limiter=self._limiter)

    async def append(self, events: Sequence[bytes], settled: int) -> int:
        """Store a group of events, and the number `settled`, up to which all are settled; return the bytes on disk."""
        return await trio.to_thread.run_sync(self._segments.append, events, settled, limiter=self._limiter)

    async def after(self, number: int, most_bytes: int) -> Sequence[bytes]:
        """Return some of the oldest events after `number`: about `most_bytes`, but at least one."""
        return await trio.to_thread.run_sync(self._segments.after, number, most_bytes, limiter=self._limiter)

    async def aclose(self) -> None:
        """Remove the segments in which everything is settled, if that is possible, and unlock the directory."""
        await trio.to_thread.run_sync(self._segments.close, limiter=self._limiter)


@define(eq=False)
class _Directory:
    """A locked directory. It opens only plain files of this user, and follows no link in it."""

    _path: Path
    _descriptor: int = field(default=_CLOSED, init=False)
    _lock: int = field(default=_CLOSED, init=False)

    def open(self) -> None:
        """Make the directory if it is missing, and lock it."""
        try:
            with suppress(FileExistsError):
                self._path.mkdir(0o700)
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise self.failure("", "opened", error) from error
        self._check(self._descriptor, "", "chmod 700")
        self._lock = self.open_file(_LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self.error(
                "", "another output uses it; only one may at a time: stop the other or name another directory"
            ) from None
        except OSError as error:
            raise self.failure(_LOCK, "locked", error) from error

    def close(self) -> None:
        for descriptor in (self._lock, self._descriptor):
            if descriptor != _CLOSED:
                os.close(descriptor)
        self._lock = self._descriptor = _CLOSED

    def segments(self) -> list[str]:
        """Return the names of the segments, oldest first."""
        with self.errors("", "read"):
            # Listed by its descriptor: by now another directory may be at the path.
            found = os.listdir(self._descriptor)  # noqa: PTH208 - pathlib lists paths only
        return sorted(name for name in found if _SEGMENT.fullmatch(name))

    def open_file(self, name: str, flags: int) -> int:
        """Open a file and return its descriptor."""
        with self.errors(name, "opened"):
            descriptor = os.open(name, flags | _SAFE, 0o600, dir_fd=self._descriptor)
        try:
            self._check(descriptor, name, "chmod 600")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, descriptor: int, name: str, advice: str) -> None:
        status = os.fstat(descriptor)
        if name and not stat.S_ISREG(status.st_mode):
            raise self.error(name, "is not a plain file; remove it")
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise self.error(
                name, f"belongs to somebody else or can be written by others; chown and {advice} it"
            )

    def sync(self) -> None:
        """Make sure that files which were made or removed stay so after a crash."""
        os.fsync(self._descriptor)

    def unlink(self, name: str) -> None:
        """Remove a file for good, before the next one is removed."""
        with self.errors(name, "removed"):
            os.unlink(name, dir_fd=self._descriptor)
            self.sync()

    def error(self, name: str, reason: str) -> SpoolError:
        """Return the error for a file; for the directory if `name` is empty."""
        return SpoolError(f"spool {self._path / name if name else self._path}: {reason}")

    @contextmanager
    def errors(self, name: str, doing: str) -> Generator[None]:
        """Turn errors of the system into errors with advice."""
        try:
            yield
        except OSError as error:
            raise self.failure(name, doing, error) from error

    def failure(self, name: str, doing: str, error: OSError | ValueError) -> SpoolError:
        """Return the error for an exception of the system, with advice."""
        cause, advice = cause_and_advice(error, "spool.path")
        return self.error(name, f"can't be {doing}: {cause}; {advice}")


@define(eq=False)
class _SegmentFiles:
    """The segments of a spool. All methods block."""

    _directory: _Directory
    _segments: Segments
    _epoch: int = field(default=0, init=False)
    _settled: int = field(default=0, init=False)
    _file: int = field(default=_CLOSED, init=False)
    """Descriptor of the newest segment, once something was written to it."""
    _broken: bool = field(default=False, init=False)

    # -- opening ----------------------------------------------------------------------------------------

    def open(self, epoch: int) -> Spooled:
        try:
            self._directory.open()
            return self._open(epoch)
        except BaseException:
            self._directory.close()
            raise

    def _open(self, epoch: int) -> Spooled:
        self._epoch = epoch
        names = self._directory.segments()
        tails = [self._examine(name, newest=name == names[-1]) for name in names]
        torn = tails[-1] if tails else None
        if torn is not None:
            self._cut(names[-1], torn)
        self._release(newest_too=True)
        if not len(self._segments):
            # No event is left whose number anybody could know.
            self._epoch, self._settled, self._segments.last = epoch, 0, 0
        return Spooled(
            epoch=self._epoch,
            settled=self._settled,
            last=self._segments.last,
            size=self._segments.size,
            torn=int(torn is not None),
        )

    def _examine(self, name: str, *, newest: bool) -> int | None:
        """Read a segment and note its events; return the offset of its torn tail, or None if it is whole."""
        content = self._read(name)
        header = Header.decode(content)
        if header is None and newest and len(content) <= HEADER_SIZE:
            return 0
        if header is None:
            raise self._damaged(name, 0, "its header is not whole, or not of this version")
        if _name_of(header.first) != name:
            raise self._damaged(name, 0, f"it is segment {_name_of(header.first)} by its header")
        try:
            found = scan(content, header, newest=newest)
        except DamageError as error:
            raise self._damaged(name, error.offset, str(error)) from None
        self._note(header, found)
        return found.end if found.torn else None

    def _note(self, header: Header, found: Scan) -> None:
        segments = self._segments
        settled = max(
            [header.first - 1 if not len(segments) else 0, *(each.settled for each in found.records)]
        )
        self._settled = max(self._settled, settled)
        if len(segments) and header.first != segments.last + 1 and self._settled < header.first - 1:
            missing = f"events {segments.last + 1} to {header.first - 1} are missing"
            raise self._damaged(_name_of(header.first), 0, f"before it {missing}")
        segments.begin(header.first, header.salt, HEADER_SIZE)
        for each in found.records:
            segments.append(each.count, each.end - each.offset)
        self._epoch = header.epoch

    def _read(self, name: str) -> bytes:
        descriptor = self._directory.open_file(name, os.O_RDONLY)
        with self._directory.errors(name, "read"), os.fdopen(descriptor, "rb") as file:
            head = file.read(HEADER_SIZE)
            # A file that is no segment may be of any size.
            return head + file.read(1 if Header.decode(head) is None else -1)

    def _cut(self, name: str, end: int) -> None:
        """Cut a torn tail off, for good."""
        if end == 0:
            self._directory.unlink(name)
            return
        descriptor = self._directory.open_file(name, os.O_RDWR)
        with self._directory.errors(name, "written"), os.fdopen(descriptor, "r+b", buffering=0) as file:
            os.ftruncate(file.fileno(), end)
            os.fsync(file.fileno())

    # -- writing ----------------------------------------------------------------------------------------

    def append(self, events: Sequence[bytes], settled: int) -> int:
        self._settled = settled
        try:
            self._release()
            if events:
                self._store(events)
            elif self._segments.newest is not None:
                with suppress(SpoolFullError):
                    self._store(())
        except SpoolError:
            self._broken = True
            raise
        return self._segments.size

    def _store(self, events: Sequence[bytes]) -> None:
        segments, size = self._segments, record_size(events)
        if segments.wants_new(len(events)):
            size += HEADER_SIZE
        if not segments.fits(size):
            self._release(newest_too=True)
        if not segments.fits(size):
            raise SpoolFullError("spool.max-bytes is reached")
        segment = segments.newest
        if segment is None or segments.wants_new(len(events)):
            segment = self._begin()
        self._write(segment, events)

    def _write(self, segment: Segment, events: Sequence[bytes]) -> None:
        name = _name_of(segment.first)
        if self._file == _CLOSED:
            self._file = self._directory.open_file(name, os.O_WRONLY)
        record = encode_record(segment.last + 1, self._settled, events, segment.salt)
        try:
            _write_at(self._file, record, segment.size)
        except OSError as error:
            self._undo(error, name, segment.size)
        self._sync(name)
        self._segments.append(len(events), len(record))

    def _undo(self, error: OSError, name: str, size: int) -> None:
        """Cut off a record that was not written whole, if the disk is full: it is tried again later."""
        if error.errno not in _FULL:
            raise self._directory.failure(name, "written", error) from error
        with self._directory.errors(name, "written"):
            os.ftruncate(self._file, size)
        raise SpoolFullError("the disk is full") from None

    def _sync(self, name: str) -> None:
        """Sync what was written. A failure is final: nobody knows what is on disk, and a second try would not show it."""
        with self._directory.errors(name, "written"):
            _sync_content(self._file)
            there = os.fstat(self._file).st_nlink > 0
        if not there:
            raise self._directory.error(name, "was removed while it was in use; restore what is missing")

    def _begin(self) -> Segment:
        """Begin a new segment."""
        header = Header(salt=secrets.token_bytes(SALT_SIZE), epoch=self._epoch, first=self._segments.last + 1)
        name = _name_of(header.first)
        self._close_file()
        try:
            self._file = self._directory.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            _write_at(self._file, header.encode(), 0)
            self._sync(name)
            self._directory.sync()
        except (OSError, SpoolError) as error:
            self._never_begun(error, name)
        return self._segments.begin(header.first, header.salt, HEADER_SIZE)

    def _never_begun(self, error: OSError | SpoolError, name: str) -> None:
        """Remove a segment that could not be begun, if the disk is full: it is tried again later."""
        cause = error if isinstance(error, OSError) else error.__cause__
        begun = self._file != _CLOSED
        self._close_file()
        if not isinstance(cause, OSError) or cause.errno not in _FULL:
            raise error if isinstance(error, SpoolError) else self._directory.failure(name, "written", error)
        if begun:
            self._directory.unlink(name)
        raise SpoolFullError("the disk is full") from None

    def _release(self, *, newest_too: bool = False) -> None:
        """Remove segments in which everything is settled."""
        while segment := self._segments.oldest_settled(self._settled, newest_too=newest_too):
            if segment is self._segments.newest:
                self._close_file()
            self._directory.unlink(_name_of(segment.first))
            self._segments.remove_oldest()

    def _close_file(self) -> None:
        if self._file != _CLOSED:
            os.close(self._file)
            self._file = _CLOSED

    def close(self) -> None:
        if not self._broken:
            with suppress(SpoolError):  # the next start removes what is left
                self._release(newest_too=True)
        self._close_file()
        self._directory.close()

    # -- reading ----------------------------------------------------------------------------------------

    def after(self, number: int, most_bytes: int) -> Sequence[bytes]:
        segment, offset = self._segments.locate(number + 1)
        name = _name_of(segment.first)
        descriptor = self._directory.open_file(name, os.O_RDONLY)
        with self._directory.errors(name, "read"), os.fdopen(descriptor, "rb", buffering=0):
            # The first read is nearly always enough; a single event may be larger.
            for size in (2 * most_bytes, segment.size):
                content = os.pread(descriptor, min(size, segment.size - offset), offset)
                found, end = events_behind(content, number, segment.salt)
                if found:
                    return found
        raise self._damaged(name, offset + end, "a record is not whole any more")

    def _damaged(self, name: str, offset: int, reason: str) -> SpoolError:
        advice = "restore it from a copy, or move the directory away to begin with an empty spool"
        return self._directory.error(name, f"is damaged at byte {offset}: {reason}; {advice}")


def _name_of(first: int) -> str:
    return f"{first:020}.spool"


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written
