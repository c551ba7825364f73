"""A server and a listener in memory, without sockets: pass them to `open_output` instead of the network.

They speak RFC 6455 over trio's memory streams, so a test exercises everything but the kernel, and on a mock clock every
time is exact.
"""

import errno
import os
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from math import inf

import trio
import trio.testing
from attrs import define, field

from trio_wsout.testing.connection import Accept, PeerConnection, Step, Unreachable
from trio_wsout.testing.protocol import Headers

__all__ = ["MemoryListener", "MemoryPeer", "open_listener", "open_peer"]


@define(eq=False)
class MemoryPeer:
    """A server in memory, made by `open_peer`. Pass its `open_stream` to `open_output`."""

    _nursery: trio.Nursery
    _buffered: bool
    attempts: list[float] = field(factory=list[float], init=False)
    """The time of each attempt to connect, in seconds of trio's clock, unreachable ones included."""
    connections: list[PeerConnection] = field(factory=list[PeerConnection], init=False)
    """Every connection so far, refused ones included; an unreachable attempt makes none."""
    _steps: deque[Step] = field(factory=deque[Step], init=False)
    _default: Step = field(factory=Accept, init=False)
    _changed: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def plan(self, *steps: Step, then: Step | None = None) -> None:
        """Set the steps for the next attempts, one step each, and for all attempts after them.

        Args:
            steps: For the next attempts, in order.
            then: For all attempts after them; None to leave that as it is, which is `Accept()` at first.
        """
        self._steps.extend(steps)
        if then is not None:
            self._default = then

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        """Open a connection to this peer. Pass this method to `open_output` as `open_stream`."""
        del host, port
        await trio.lowlevel.checkpoint()
        step = self._steps.popleft() if self._steps else self._default
        self.attempts.append(trio.current_time())
        if isinstance(step, Unreachable):
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        ours, theirs = _stream_pair(buffered=self._buffered)
        self.connections.append(PeerConnection(ours, step, server=True, changed=self._changed))
        self._nursery.start_soon(self.connections[-1].run)
        return theirs

    @property
    def messages(self) -> list[str | bytes]:
        """All messages of all connections, in order."""
        return [message for each in self.connections for message in each.messages]

    @property
    def connected(self) -> bool:
        """Whether a connection is open and its handshake done."""
        return bool(self.connections) and self.connections[-1].is_open

    async def wait_messages(self, count: int) -> None:
        """Wait until this many messages have come over all connections."""
        while sum(len(each.messages) for each in self.connections) < count:
            await self._changed.park()
        await trio.lowlevel.checkpoint()

    async def send(self, message: str | bytes) -> None:
        """Send a message on the latest connection."""
        await self._latest.send(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a Close on the latest connection."""
        await self._latest.close(code, reason)

    async def cut(self) -> None:
        """Cut the latest connection without a Close."""
        await self._latest.cut()

    @property
    def _latest(self) -> PeerConnection:
        if not self.connections:
            raise RuntimeError("the peer has no connection")
        return self.connections[-1]


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener in memory, made by `open_listener`. Pass it to `open_output` in `listeners`, then connect peers to it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._waiting, self._incoming = trio.open_memory_channel[trio.abc.Stream](inf)

    async def connect(
        self,
        path: str = "/",
        headers: Headers = (),
        *,
        subprotocols: Sequence[str] = (),
        buffered: bool = True,
    ) -> PeerConnection:
        """Connect a peer, and return when its handshake was answered, whatever the status.

        Args:
            path: Path and query to ask for.
            headers: Headers beside those of every handshake.
            subprotocols: Subprotocols to offer.
            buffered: Whether bytes that the peer does not read are kept without limit. If not, the output waits until
                the peer reads, as with a socket whose buffers are full.

        Raises:
            trio.BrokenResourceError: The connection ended without an answer.
        """
        peer = await self.knock(path, headers, subprotocols=subprotocols, buffered=buffered)
        await peer.wait_status()
        return peer

    async def knock(
        self,
        path: str = "/",
        headers: Headers = (),
        *,
        subprotocols: Sequence[str] = (),
        buffered: bool = True,
    ) -> PeerConnection:
        """Connect a peer, and return when its handshake was sent. The arguments are those of `connect`."""
        peer = PeerConnection(self.dial(buffered=buffered))
        self._nursery.start_soon(peer.run)
        await peer.request(path, headers, subprotocols=subprotocols)
        return peer

    def dial(self, *, buffered: bool = True) -> trio.abc.HalfCloseableStream:
        """Return a stream whose other end the output accepts next, to send bytes that no `PeerConnection` sends."""
        ours, theirs = _stream_pair(buffered=buffered)
        self.add(theirs)
        return ours

    def add(self, stream: trio.abc.Stream) -> None:
        """Let the output accept this stream next."""
        self._waiting.send_nowait(stream)

    async def accept(self) -> trio.abc.Stream:
        """Accept the next stream; called by the output."""
        return await self._incoming.receive()

    async def aclose(self) -> None:
        """Accept nothing more; called by the output."""
        self._incoming.close()
        await trio.lowlevel.checkpoint()


def _stream_pair(*, buffered: bool) -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
    return trio.testing.memory_stream_pair() if buffered else trio.testing.lockstep_stream_pair()


@asynccontextmanager
async def open_peer(*, buffered: bool = True) -> AsyncGenerator[MemoryPeer, None]:
    """Open a server in memory, for outputs that have a link; it lives as long as the block.

    Args:
        buffered: Whether bytes that nobody reads are kept without limit. If not, the side that writes waits
            until they are read, as with a socket whose buffers are full.
    """
    async with _open_tasks() as nursery:
        yield MemoryPeer(nursery, buffered)


@asynccontextmanager
async def open_listener() -> AsyncGenerator[MemoryListener, None]:
    """Open a listener in memory, for outputs that listen; the peers that connect to it live as long as the block."""
    async with _open_tasks() as nursery:
        yield MemoryListener(nursery)


@asynccontextmanager
async def _open_tasks() -> AsyncGenerator[trio.Nursery, None]:
    """Open a nursery that is cancelled at the end of the block; an exception of the block comes out as it is."""
    trouble: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - raised again below, where no nursery makes a group of it
            trouble = error
        nursery.cancel_scope.cancel()
    if trouble is not None:
        raise trouble
