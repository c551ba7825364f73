"""Reading and writing in a thread, also where whoever shares the pipe or terminal has set O_NONBLOCK."""

from __future__ import annotations

import os
import select

__all__ = ["read_some", "wait_writable", "write_all"]


def read_some(descriptor: int, most: int) -> bytes:
    """Wait for the next bytes, `most` of them at most; none at the end of the file."""
    while True:
        try:
            return os.read(descriptor, most)
        except BlockingIOError:
            _wait(descriptor, select.POLLIN)


def write_all(descriptor: int, text: bytes) -> None:
    """Write all of it, however long that takes."""
    left = memoryview(text)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            wait_writable(descriptor)


def wait_writable(descriptor: int) -> None:
    """Wait until the descriptor takes something, or its reader is gone."""
    _wait(descriptor, select.POLLOUT)


def _wait(descriptor: int, for_what: int) -> None:
    poll = select.poll()
    poll.register(descriptor, for_what)
    poll.poll()
