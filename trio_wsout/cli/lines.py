"""Lines of JSON: reading them from a file or a pipe, and formatting messages from peers as lines."""

import codecs
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import trio
from attrs import define, field

from trio_wsout._core.json_line import JsonLine, write_json
from trio_wsout._core.received import RawReceived, Received
from trio_wsout.cli.terminal import escape_controls, is_ready

STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0")
"""Names of standard input where a file is named."""

_PIECE = 64 * 1024
_LEFT_BEHIND = 1.0
"""Seconds that an abandoned thread has to hand over its piece."""
_ESCAPED = 6
"""Most bytes that a byte of a text needs in a JSON string."""


@define(eq=False)
class InputLines:
    """Reads the lines of one file descriptor, in large pieces, so that few lines cost a task switch.

    It waits in a task, and reads in a thread once there is something to read.
    """

    _descriptor: int
    _most: int
    """Most bytes of a line. A JSON string may be as long as the escapes of a text of so many bytes."""
    _too_long: Callable[[], object]
    """Called for each longer line. It counts as a line, and is dropped while it is read."""
    _dropping: bool = field(default=False, alias="dropping", kw_only=True)
    """Whether the rest of a line is being dropped: of one that is too long, or of one that another process began to read."""
    read_bytes: int = field(default=0, init=False)
    total: int | None = field(default=None, init=False)
    """Bytes that there are to read, or None if that is unknown because it is no file."""
    _is_pipe: bool = field(init=False)
    _begun: list[bytes] = field(factory=list, init=False)
    """The pieces of a line that has no end yet."""
    _size: int = field(default=0, init=False)
    """Their bytes."""
    _ended: bool = field(default=False, init=False)
    _waits: bool = field(default=True, init=False)
    """Whether the system can wait until the descriptor is readable; not so for a file."""
    _reading: threading.Lock = field(factory=threading.Lock, init=False)
    """Held by the thread that reads."""
    _arrived: deque[bytes] = field(factory=deque, init=False)
    """Pieces that a thread has read and no task has split yet."""

    def __attrs_post_init__(self) -> None:
        status = os.fstat(self._descriptor)
        self._is_pipe = stat.S_ISFIFO(status.st_mode)
        if stat.S_ISREG(status.st_mode):
            self.total = status.st_size - os.lseek(self._descriptor, 0, os.SEEK_CUR)

    async def read(self) -> list[bytes]:
        """Return the next lines without their ends, many at a time; an empty list at the end of the file."""
        while not self._ended:
            piece = await self._piece()
            self._ended = not piece
            if not self.read_bytes:
                # Some programs begin a text with a byte order mark, which is no part of the first line.
                piece = piece.removeprefix(codecs.BOM_UTF8)
            self.read_bytes += len(piece)
            if lines := self._split(piece):
                return lines
        await trio.lowlevel.checkpoint()
        return []

    def rest(self, *, waiting: bool) -> list[bytes]:
        """Return the lines that were read but not returned; with `waiting` also those in a pipe, lost when its reader ends."""
        # An abandoned thread may still hold a piece; one that reads in vain is not waited for.
        handed_over = self._reading.acquire(timeout=_LEFT_BEHIND)
        if waiting and self._is_pipe:
            while is_ready(self._descriptor, select.POLLIN) and (piece := os.read(self._descriptor, _PIECE)):
                self._arrived.append(piece)
        if handed_over:
            self._reading.release()
        rest, self._begun = b"".join([*self._begun, *self._arrived]), []
        self._arrived.clear()
        return rest.split(b"\n")

    async def _piece(self) -> bytes:
        """Wait for the next bytes, also if another process that shares the pipe set O_NONBLOCK; none at the end."""
        while not self._arrived:
            if self._waits:
                try:
                    await trio.lowlevel.wait_readable(self._descriptor)
                except OSError:  # a file can be read at any time
                    self._waits = False
            with suppress(BlockingIOError):
                # If this is cancelled, `rest` returns what the abandoned thread reads.
                await trio.to_thread.run_sync(self._read_piece, abandon_on_cancel=True)
        return self._arrived.popleft()

    def _read_piece(self) -> None:
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
            self._check_size()
            return []
        lines = b"".join(self._begun).split(b"\n")
        rest = b"" if self._ended else lines.pop()
        self._begun, self._size = [rest] if rest else [], len(rest)
        return [] if self._ended and lines == [b""] else lines

    def _check_size(self) -> None:
        """Drop a line that has become too long for any event."""
        if self._size > self._most:
            start = self._begun[0].lstrip()[:1]
            if start != b'"' or self._size > self._most * _ESCAPED + 2:
                self._begun, self._size = [], 0
                self._dropping = True
                self._too_long()


def line_of(item: Received, *, with_peer: bool, as_json: bool) -> bytes:
    """Return the line that is printed for a message, wrapped with the address and identity of its peer or not.

    JSON stays as the peer wrote it if it is JSON by the configuration (`as_json`), or a text that is one line of JSON.
    """
    if as_json and isinstance(item, RawReceived):
        event = to_json(JsonLine.joined(item.raw))
    elif isinstance(item.event, str) and (line := _one_line(item.event)) is not None:
        event = line
    else:
        event = to_json(item.event)
    if not with_peer:
        return event + b"\n"
    identity = {} if item.peer.identity is None else {"identity": item.peer.identity}
    return to_json({"peer": item.peer.address, **identity})[:-1] + b',"event":' + event + b"}\n"


def _one_line(text: str) -> bytes | None:
    """Return a text that is one line of JSON, without the line's end, or None if it is something else."""
    line = text.removesuffix("\n").removesuffix("\r").encode()
    with suppress(ValueError):
        if b"\n" not in line and b"\r" not in line:
            JsonLine.read(line)
            return line
    return None


def escape_lines(lines: bytes) -> str:
    """Return lines for a terminal: JSON allows all but the oldest control characters to stand unescaped."""
    return "\n".join(map(escape_controls, lines.decode(errors="replace").split("\n")))


def to_json(value: object) -> bytes:
    """Encode a value that was read from JSON, on one line, or raise as `write_json` does; bytes become hexadecimal text."""
    if isinstance(value, JsonLine):
        # A carriage return is a blank there, but some readers would end the line at it.
        return value.text.replace(b"\r", b" ")
    if isinstance(value, bytes):
        value = value.hex()
    return write_json(value)
