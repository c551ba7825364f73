"""Lines of a file or a pipe, read in large pieces so that a line costs no task switch; and the events in them."""

from __future__ import annotations

import codecs
import os
import select
import stat
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import orjson
import trio

from trio_wsout._core.json_line import JsonLine
from trio_wsout.cli.printing import to_json

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NO_JSON", "STANDARD_INPUT", "Lines", "undelivered_event"]

_PIECE = 64 * 1024
_LEFT_BEHIND = 1.0
"""Seconds that a thread which was left behind has to put down what it read."""
_ESCAPED = 6
"""Bytes that a byte of a text takes at most, written as a JSON string."""
_BEGIN, _REASON, _HEX = b'{"event":', b',"reason":', b',"hex":true'

STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0")
"""What standard input may be called where a file is named."""

NO_JSON = "read, but not sent; it is no JSON"
"""Why a line is kept as a text."""


class Lines:
    """Reads the lines of one file descriptor, in a thread once there is something to read."""

    total: int | None
    """Bytes that there are to read; None: it is no file, and nobody knows."""

    def __init__(self, descriptor: int, most: int, too_long: Callable[[], object]) -> None:
        """Read lines of at most `most` bytes, or as long as a text of so many bytes can be when it is escaped.

        `too_long` is called for each longer one, which is dropped while it is read, and counts as a line.
        """
        self._descriptor = descriptor
        self._most = most
        self._too_long = too_long
        self._begun: list[bytes] = []
        self._size = 0
        self._dropping = False
        self._first = True
        self._ended = False
        self._waits = True
        self._reading = threading.Lock()
        self._arrived: deque[bytes] = deque()
        """What a thread has read and nobody has taken yet."""
        self.read_bytes = 0
        self.total = _size_of(descriptor)

    @property
    def _begun_line(self) -> bytes:
        return b"".join(self._begun)

    def rest(self, *, waiting: bool) -> list[bytes]:
        """The lines that were read and not given; with those that wait in a pipe, which ends with its reader."""
        # A thread that was left behind may have read what it has not put down yet; one that reads in vain is not waited for.
        put_down = self._reading.acquire(timeout=_LEFT_BEHIND)
        while waiting and self._is_pipe() and self._ready() and (piece := os.read(self._descriptor, _PIECE)):
            self._arrived.append(piece)
        if put_down:
            self._reading.release()
        rest, self._begun = b"".join([*self._begun, *self._arrived]), []
        self._arrived.clear()
        return rest.split(b"\n")

    def _is_pipe(self) -> bool:
        try:
            return stat.S_ISFIFO(os.fstat(self._descriptor).st_mode)
        except OSError:
            return False

    def _ready(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    async def read(self) -> list[bytes]:
        """The next lines, many at a time, without their ends; an empty list at the end of the file.

        Raises:
            OSError: Reading failed.
        """
        while not self._ended:
            piece = await self._piece()
            self._ended = not piece
            self.read_bytes += len(piece)
            if lines := self._split(piece):
                return lines
        await trio.lowlevel.checkpoint()
        return []

    async def _piece(self) -> bytes:
        """Wait for the next bytes, also where whoever shares the pipe has set O_NONBLOCK; none at the end of the file."""
        while not self._arrived:
            if self._waits:
                try:
                    await trio.lowlevel.wait_readable(self._descriptor)
                except OSError:  # a file: what is read next is there always
                    self._waits = False
            with suppress(BlockingIOError):
                # Left behind when cancelled, what it reads is still there for `rest`.
                await trio.to_thread.run_sync(self._read_some, abandon_on_cancel=True)
        return self._arrived.popleft()

    def _read_some(self) -> None:
        with self._reading:
            self._arrived.append(os.read(self._descriptor, _PIECE))

    def _split(self, piece: bytes) -> list[bytes]:
        if self._dropping:
            _, end, piece = piece.partition(b"\n")
            if not end:
                return []
            self._dropping = False
        self._begun.append(piece)
        self._size += len(piece)
        if piece and b"\n" not in piece:
            self._bound()
            return []
        lines = self._begun_line.split(b"\n")
        rest = b"" if self._ended else lines.pop()
        self._begun, self._size = [rest] if rest else [], len(rest)
        if self._ended and lines == [b""]:
            return []
        if self._first and lines:
            # Some programs begin a text with a byte order mark; it is no part of the first line.
            self._first = False
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        return lines

    def _bound(self) -> None:
        """Drop a line that has become too long for any event."""
        if self._size > self._most:
            begin = self._begun[0].removeprefix(codecs.BOM_UTF8).lstrip()[:1]
            if begin != b'"' or self._size > self._most * _ESCAPED + 2:
                self._begun, self._size = [], 0
                self._dropping, self._first = True, False
                self._too_long()


def _size_of(descriptor: int) -> int | None:
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            return found.st_size - os.lseek(descriptor, 0, os.SEEK_CUR)
    except OSError:  # it can't be read either, and reading says so
        pass
    return None


def undelivered_event(line: bytes) -> JsonLine | bytes:
    """The event of a line that `--undelivered` wrote, as it was.

    Raises:
        ValueError: The line is none of these, or kept a line that was no JSON.
    """
    text = line.strip()
    end = text.rfind(_REASON)
    whole = JsonLine.read(text)
    if text.startswith(_BEGIN) and end > 0:
        # As it is written: a reason holds no bare quotes, so what stands last is none of the event's.
        in_hex = text[:end].endswith(_HEX)
        event = text[len(_BEGIN) : end].removesuffix(_HEX)
        if orjson.loads(text[end + len(_REASON) : -1]) == NO_JSON:
            raise ValueError("it was no JSON when it was read")
        found = JsonLine.read(event)
        if not in_hex:
            return found
        return bytes.fromhex(str(found.value()))
    value = whole.value()
    if not isinstance(value, dict) or "event" not in value:
        raise ValueError('expected {"event": …, "reason": …}, as --undelivered writes it')
    return JsonLine(to_json(cast("object", value["event"])))
