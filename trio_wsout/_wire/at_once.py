"""Writing to a socket without waiting and without a task, where the stream is a plain socket."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["writer_at_once"]


def writer_at_once(stream: trio.abc.Stream) -> Callable[[bytes], int] | None:
    """What writes to a stream as much as the system takes at once; None: nothing can (TLS, or no socket).

    It raises OSError, and BlockingIOError where the system takes nothing. Nobody may be in `send_all` of the stream.
    """
    if not isinstance(stream, trio.SocketStream) or sys.platform == "win32":
        return None
    write, number_of = os.write, stream.socket.fileno
    # The number is asked for each time: once the socket is closed it is -1, and never another socket's.
    return lambda data: write(number_of(), data)
