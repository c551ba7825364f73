"""Writing to a socket without waiting and without a task, where the stream is a plain socket."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WritesAtOnce", "writer_at_once"]


@runtime_checkable
class WritesAtOnce(Protocol):
    """A stream of another kind that can do so."""

    def send_at_once(self, data: bytes) -> int:
        """Take bytes if there is room; gives how many, at least one. Raises OSError, BlockingIOError: there is none."""
        ...


def writer_at_once(stream: trio.abc.Stream) -> Callable[[bytes], int] | None:
    """What writes to a stream as much as the system takes at once; None: nothing can (TLS, or no socket).

    It raises OSError, and BlockingIOError where the system takes nothing. Nobody may be in `send_all` of the stream.
    """
    if isinstance(stream, WritesAtOnce):
        return stream.send_at_once
    if not isinstance(stream, trio.SocketStream) or sys.platform == "win32":
        return None
    write, number_of = os.write, stream.socket.fileno
    # The number is asked for each time: once the socket is closed it is -1, and never another socket's.
    return lambda data: write(number_of(), data)
