"""Writing to a socket without waiting and without a task, where the stream is a plain socket."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["number_of", "writer_at_once"]


def writer_at_once(stream: trio.abc.Stream) -> Callable[[bytes], int] | None:
    """What writes to a stream as much as the system takes at once; None: nothing can (TLS, or no socket).

    It raises OSError, and BlockingIOError where the system takes nothing. Nobody may be in `send_all` of the stream.
    """
    number = number_of(stream)
    if number is None:
        return None
    write = os.write
    return lambda data: write(number(), data)


def number_of(stream: trio.abc.Stream) -> Callable[[], int] | None:
    """What tells the number of a plain socket, to ask for at each use; None: it is none, or has none to write to.

    Once the socket is closed that is -1, and never another socket's.
    """
    if not isinstance(stream, trio.SocketStream) or sys.platform == "win32":
        return None
    return stream.socket.fileno
