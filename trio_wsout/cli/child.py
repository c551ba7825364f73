"""What a process of `run --processes` and its parent tell each other, over a pair of sockets.

The parent sends a `Role` first, then single bytes, of which a higher one of `END`, `INTERRUPT` and `ABORT` includes the lower
ones. The child sends `Figures`: when its output is open, whenever the parent asks for them, and at its end. If the parent dies,
the sockets are closed, and the child ends as after `INTERRUPT`.
"""

import os
import pickle
import socket
from collections.abc import Callable
from contextlib import suppress

import trio
from attrs import define, field, frozen

from trio_wsout._core.statistics import Statistics
from trio_wsout.cli.exit_codes import INTERRUPTED
from trio_wsout.config import Config

VARIABLE = "TRIO_WSOUT_PARENT"
"""The environment variable that has the descriptor of a child's socket."""
FIGURES, BEGIN, END, INTERRUPT, ABORT = b"0", b"1", b"2", b"3", b"4"
"""Send the figures; read the input (the awaited peers are there); the input has ended; end gracefully; end immediately."""
_LENGTH = 4


@frozen
class Role:
    """What a child is to do, beside what the command line says."""

    number: int
    """1 for the first child."""
    config: Config
    reads: bool
    """Whether it reads the input, which is its standard input then."""
    again: bool = False
    """Whether another child, which was killed, has read the input before, up to the middle of a line perhaps."""


@frozen
class Figures:
    """The figures of a child."""

    statistics: Statistics
    skipped: int
    """Lines of the input that were skipped."""


def pack(message: Role | Figures) -> bytes:
    """Return a message, with its length before it."""
    content = pickle.dumps(message)
    return len(content).to_bytes(_LENGTH) + content


async def receive_figures(stream: trio.SocketStream, take: Callable[[Figures], object]) -> None:
    """Pass the figures that a child sends on, until it is gone."""
    unread = b""
    with suppress(trio.BrokenResourceError):
        async for piece in stream:
            unread += piece
            while len(unread) > _LENGTH and len(unread) >= (
                whole := _LENGTH + int.from_bytes(unread[:_LENGTH])
            ):
                take(pickle.loads(unread[_LENGTH:whole]))  # noqa: S301 - only the child has the other socket
                unread = unread[whole:]


@define(eq=False)
class Parent:
    """The parent of this process."""

    role: Role
    _socket: socket.socket
    begun: trio.Event = field(factory=trio.Event, init=False)
    """Set when the awaited peers are there, so that the input may be read."""

    def tell(self, figures: Figures) -> None:
        """Send the figures; never waits."""
        with suppress(OSError):  # the parent is gone
            self._socket.send(pack(figures))

    async def watch(self, told: Callable[[bytes], object]) -> None:
        """Call `told` for each byte that the parent sends, and with `INTERRUPT` when it is gone."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._socket))
        with suppress(trio.BrokenResourceError):
            while byte := bytes(await stream.receive_some(1)):
                if byte == BEGIN:
                    self.begun.set()
                told(byte)
        told(INTERRUPT)


def find_parent() -> Parent | None:
    """Return the parent that started this process by `--processes`, and its role; None if it was started otherwise."""
    descriptor = os.environ.pop(VARIABLE, None)
    if descriptor is None:
        return None
    ours = socket.socket(fileno=int(descriptor))
    length = int.from_bytes(ours.recv(_LENGTH, socket.MSG_WAITALL))
    if not length:  # it was killed meanwhile
        raise SystemExit(INTERRUPTED)
    role: Role = pickle.loads(ours.recv(length, socket.MSG_WAITALL))  # noqa: S301 - only the parent has the other socket
    return Parent(role, ours)
