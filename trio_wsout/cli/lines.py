"""Lines of a file or a pipe, read in large pieces so that a line costs no task switch."""

from __future__ import annotations

import os

import trio

__all__ = ["Lines"]

_PIECE = 256 * 1024


class Lines:
    """Reads the lines of one file descriptor.

    Reading happens in a thread, which is left behind when the task is cancelled: a read of a
    terminal or a pipe can't be interrupted otherwise.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._ended = False

    async def read(self) -> list[bytes]:
        """The next lines, many at a time, without their ends; an empty list at the end of the file."""
        while not self._ended:
            piece = await trio.to_thread.run_sync(os.read, self._descriptor, _PIECE, abandon_on_cancel=True)
            self._ended = not piece
            lines = (self._rest + piece).split(b"\n")
            self._rest = b"" if self._ended else lines.pop()
            lines = lines if lines != [b""] else []
            if lines:
                return lines
        await trio.lowlevel.checkpoint()
        return []
