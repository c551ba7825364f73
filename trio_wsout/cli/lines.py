"""Lines of a file or a pipe, read in large pieces so that a line costs no task switch."""

from __future__ import annotations

import codecs

import trio

from trio_wsout.cli.descriptors import read_some

__all__ = ["Lines"]

_PIECE = 64 * 1024


class Lines:
    """Reads the lines of one file descriptor.

    Reading happens in a thread, which is left behind when the task is cancelled: a read of a
    terminal or a pipe can't be interrupted otherwise.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begun: list[bytes] = []
        self._first = True
        self._ended = False

    @property
    def begun(self) -> bytes:
        """The beginning of a line whose end was not read yet."""
        return b"".join(self._begun)

    async def read(self) -> list[bytes]:
        """The next lines, many at a time, without their ends; an empty list at the end of the file.

        Raises:
            OSError: Reading failed.
        """
        while not self._ended:
            piece = await trio.to_thread.run_sync(read_some, self._descriptor, _PIECE, abandon_on_cancel=True)
            self._ended = not piece
            if lines := self._split(piece):
                return lines
        await trio.lowlevel.checkpoint()
        return []

    def _split(self, piece: bytes) -> list[bytes]:
        self._begun.append(piece)
        if piece and b"\n" not in piece:
            return []
        lines = self.begun.split(b"\n")
        rest = b"" if self._ended else lines.pop()
        self._begun = [rest] if rest else []
        if self._ended and lines == [b""]:
            return []
        if self._first and lines:
            # Some programs begin a text with a byte order mark; it is no part of the first line.
            self._first = False
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        return lines
