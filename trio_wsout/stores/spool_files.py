"""A spool in a directory of segment files: what was appended survives a crash (SPEC 7).

``lock`` is locked by the output that uses the directory. A segment is named after the number of its first
event. A new one is synced with its header, and the directory with it, before a record goes in; a record is
synced before the next is written. So after any crash only the end of the newest file can be torn.

`open` reads all segments and changes nothing before it has found them whole. Other files in the directory
are left alone.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.spool_account import Segments
from trio_wsout._core.spool_format import (
    HEADER_SIZE,
    SALT_SIZE,
    DamageError,
    Header,
    encode_record,
    events_behind,
    record_size,
    scan,
)
from trio_wsout.errors import SpoolError
from trio_wsout.stores.spool import Spooled, SpoolFullError
from trio_wsout.stores.spool_directory import CLOSED, SpoolDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trio_wsout._core.spool_account import Segment
    from trio_wsout._core.spool_format import Scan

__all__ = ["FileSpool"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_sync_content = getattr(os, "fdatasync", os.fsync)
_RESTORE = "restore it from a copy, or move the directory away to begin with an empty spool"


class FileSpool:
    """Keeps events in the files of one directory, which is made if it is missing, mode 0700."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Use the directory at `path`, with at most `max_bytes` in it."""
        self.place = str(path)
        self._log = _Log(path, max_bytes)
        self._limiter = trio.CapacityLimiter(1)

    async def open(self, epoch: int) -> Spooled:
        """Lock the directory, look through all segments, and cut a torn tail off.

        Raises:
            SpoolError: It can't be used, is used by another output, or is damaged; then nothing was changed.
        """
        return await trio.to_thread.run_sync(self._log.open, epoch, limiter=self._limiter)

    async def append(self, events: Sequence[bytes], settled: int) -> int:
        """Keep a group of events, and that all up to `settled` are settled; gives the bytes on disk.

        Raises:
            SpoolError: It can't be written.
            SpoolFullError: There is no room now.
        """
        return await trio.to_thread.run_sync(self._log.append, events, settled, limiter=self._limiter)

    async def after(self, number: int, most_bytes: int) -> Sequence[bytes]:
        """Some of the oldest events behind `number`: about `most_bytes`, but at least one.

        Raises:
            SpoolError: They can't be read, or are damaged by now.
        """
        return await trio.to_thread.run_sync(self._log.after, number, most_bytes, limiter=self._limiter)

    async def aclose(self) -> None:
        """Close the directory; segments without anything unsettled are removed, if they can be."""
        await trio.to_thread.run_sync(self._log.close, limiter=self._limiter)


class _Log:
    """What is in the directory; every method blocks."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._directory = SpoolDirectory(path)
        self._segments = Segments(max_bytes)
        self._epoch = 0
        self._settled = 0
        self._file = CLOSED
        self._broken = False

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
        names = self._directory.names()
        tails = [self._look(name, newest=name == names[-1]) for name in names]
        torn = tails[-1] if tails else None
        if torn is not None:
            self._cut(names[-1], torn)
        self._release(newest_too=True)
        if not len(self._segments):
            # Nothing is left that anybody could know by its number.
            self._epoch, self._settled, self._segments.last = epoch, 0, 0
        return Spooled(
            epoch=self._epoch,
            settled=self._settled,
            last=self._segments.last,
            size=self._segments.size,
            torn=int(torn is not None),
        )

    def _look(self, name: str, *, newest: bool) -> int | None:
        """Look through a segment, and note what it holds; gives where a torn tail begins."""
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
        descriptor = self._directory.file(name, os.O_RDONLY)
        try:
            with os.fdopen(descriptor, "rb") as file:
                head = file.read(HEADER_SIZE)
                # What is no segment may be of any size.
                return head + file.read(1 if Header.decode(head) is None else -1)
        except OSError as error:
            raise self._directory.trouble(name, "read", error) from error

    def _cut(self, name: str, end: int) -> None:
        """Cut a torn tail off, for good."""
        if end == 0:
            self._directory.unlink(name)
            return
        descriptor = self._directory.file(name, os.O_RDWR)
        try:
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        except OSError as error:
            raise self._directory.trouble(name, "written", error) from error
        finally:
            os.close(descriptor)

    # -- writing ----------------------------------------------------------------------------------------

    def append(self, events: Sequence[bytes], settled: int) -> int:
        self._settled = settled
        try:
            self._release()
            if events:
                self._keep(events)
            elif self._segments.newest is not None:
                with suppress(SpoolFullError):
                    self._keep(())
        except SpoolError:
            self._broken = True
            raise
        return self._segments.size

    def _keep(self, events: Sequence[bytes]) -> None:
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
        if self._file == CLOSED:
            self._file = self._directory.file(name, os.O_WRONLY)
        record = encode_record(segment.last + 1, self._settled, events, segment.salt)
        try:
            _write_at(self._file, record, segment.size)
        except OSError as error:
            self._undo(error, name, segment.size)
        self._sync(name)
        self._segments.append(len(events), len(record))

    def _undo(self, error: OSError, name: str, size: int) -> None:
        """A record was not written, or a part of it: on a full disk it is taken back, and tried again later."""
        if error.errno not in _FULL:
            raise self._directory.trouble(name, "written", error) from error
        try:
            os.ftruncate(self._file, size)
        except OSError as second:
            raise self._directory.trouble(name, "written", second) from second
        raise SpoolFullError("the disk is full") from None

    def _sync(self, name: str) -> None:
        """What was written survives a crash. If not, nobody knows what the disk has, and trying again would not tell."""
        try:
            _sync_content(self._file)
            there = os.fstat(self._file).st_nlink > 0
        except OSError as error:
            raise self._directory.trouble(name, "written", error) from error
        if not there:
            raise self._directory.error(name, "was removed while it was in use; restore what is missing")

    def _begin(self) -> Segment:
        """Begin a new segment."""
        header = Header(salt=secrets.token_bytes(SALT_SIZE), epoch=self._epoch, first=self._segments.last + 1)
        name = _name_of(header.first)
        self._close_file()
        try:
            self._file = self._directory.file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            _write_at(self._file, header.encode(), 0)
            self._sync(name)
            self._directory.sync()
        except (OSError, SpoolError) as error:
            self._never_begun(error, name)
        return self._segments.begin(header.first, header.salt, HEADER_SIZE)

    def _never_begun(self, error: OSError | SpoolError, name: str) -> None:
        """A segment could not be begun: on a full disk nothing of it stays."""
        cause = error if isinstance(error, OSError) else error.__cause__
        begun = self._file != CLOSED
        self._close_file()
        if not isinstance(cause, OSError) or cause.errno not in _FULL:
            raise error if isinstance(error, SpoolError) else self._directory.trouble(name, "written", error)
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
        if self._file != CLOSED:
            os.close(self._file)
            self._file = CLOSED

    def close(self) -> None:
        if not self._broken:
            with suppress(SpoolError):  # what is not removed now is at the next start
                self._release(newest_too=True)
        self._close_file()
        self._directory.close()

    # -- reading ----------------------------------------------------------------------------------------

    def after(self, number: int, most_bytes: int) -> Sequence[bytes]:
        segment, offset = self._segments.place_of(number + 1)
        name = _name_of(segment.first)
        descriptor = self._directory.file(name, os.O_RDONLY)
        try:
            # Nearly always the first look is enough; a single event may be larger.
            for size in (2 * most_bytes, segment.size):
                content = os.pread(descriptor, min(size, segment.size - offset), offset)
                found, end = events_behind(content, number, segment.salt)
                if found:
                    return found
        except OSError as error:
            raise self._directory.trouble(name, "read", error) from error
        finally:
            os.close(descriptor)
        raise self._damaged(name, offset + end, "a record is not whole any more")

    def _damaged(self, name: str, offset: int, what: str) -> SpoolError:
        return self._directory.error(name, f"is damaged at byte {offset}: {what}; {_RESTORE}")


def _name_of(first: int) -> str:
    return f"{first:020}.spool"


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written
