"""Writing to sockets without waiting and without a task, where the stream is a plain socket."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["number_of", "write_to_each"]

T = TypeVar("T")


def number_of(stream: trio.abc.Stream) -> Callable[[], int] | None:
    """What tells the number of the socket of a stream, to ask for at each use; None: nothing can be written there at once.

    So with TLS, or where there is no socket. Once the socket is closed the number is -1, and never another socket's.
    """
    if not isinstance(stream, trio.SocketStream) or sys.platform == "win32":
        return None
    return stream.socket.fileno


def write_to_each(numbers: Mapping[T, int], data: bytes) -> dict[T, int | OSError]:
    """Write the same to many plain sockets, given by their numbers; gives those that did not take all of it.

    With each of these stands how many bytes the system took, or what went wrong. The numbers must be of open sockets,
    to which nobody is writing.
    """
    short: dict[T, int | OSError] = {}
    write, size = os.write, len(data)
    # A turn of this loop is what an event costs for each peer.
    for key, number in numbers.items():
        try:
            count = write(number, data)
        except BlockingIOError:
            count = 0
        except OSError as error:
            short[key] = error
            continue
        if count != size:
            short[key] = count
    return short
