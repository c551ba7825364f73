"""A WebSocket server in memory that does what a script says; public as `trio_wsout.testing` (no sockets).

It speaks real RFC 6455 by wsproto over trio's memory streams, so everything but the kernel is
exercised, and on a mock clock every time is exact.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
import trio.testing
from attrs import define, field, frozen
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

__all__ = ["Accept", "MemoryPeer", "PeerConnection", "Refuse", "Silent", "Step", "Unreachable", "open_peer"]


@frozen(kw_only=True)
class Accept:
    """Answer the handshake and then behave."""

    after: float = 0.0
    """Seconds before the handshake is answered."""
    subprotocol: str | None = None
    """Subprotocol to choose; None: none."""
    read: bool = True
    """Whether what comes is read at all; see `MemoryPeer.buffered`."""
    pong_after: float | None = 0.0
    """Seconds before a ping is answered; None: never."""
    cut_after: int | None = None
    """Cut the connection, without a Close, once this many messages have come."""
    cut_on: str | bytes | None = None
    """Cut the connection, without a Close, when this message comes."""
    close_after: tuple[int, int] | None = None
    """Messages after which to send Close, and its code."""
    answer_close: bool = True
    """Whether a Close is answered."""


@frozen(kw_only=True)
class Refuse:
    """Answer the handshake with another status than 101."""

    status: int = 503
    """HTTP status."""
    headers: Sequence[tuple[str, str]] = ()
    """Headers of the answer."""


@frozen
class Unreachable:
    """Fail the connect, as TCP does when nobody listens."""


@frozen
class Silent:
    """Take the connection and never answer anything."""


Step = Accept | Refuse | Unreachable | Silent


@define(eq=False)
class PeerConnection:
    """What the peer saw of one connection."""

    opened_at: float
    """When the stream was opened, in seconds of trio's clock."""
    path: str = ""
    """Path and query of the request."""
    headers: dict[str, str] = field(factory=dict)
    """Headers of the request, names in lower case."""
    messages: list[str | bytes] = field(factory=list)
    """Messages that came, in order."""
    pings: list[bytes] = field(factory=list)
    """Payloads of the pings that came, in order."""
    pongs: list[bytes] = field(factory=list)
    """Payloads of the pongs that came, in order."""
    close_code: int | None = None
    """Code of the Close that came; None: none came."""
    ended_at: float | None = None
    """When the connection was over; None: it is not."""


class MemoryPeer:
    """The server that `open_peer` gives; hand its `open_stream` to `open_output`."""

    attempts: list[float]
    """When each attempt to connect was made, in seconds of trio's clock; also those that found nobody."""

    connections: list[PeerConnection]
    """Every connection so far, also those whose handshake was refused; an unreachable attempt makes none."""

    def __init__(self, nursery: trio.Nursery, *, buffered: bool) -> None:
        self._nursery = nursery
        self._buffered = buffered
        self._steps: deque[Step] = deque()
        self._default: Step = Accept()
        self._live: _Live | None = None
        self._arrived = trio.Event()
        self.attempts = []
        self.connections = []

    # -- the script -------------------------------------------------------------------------------------

    def plan(self, *steps: Step, then: Step | None = None) -> None:
        """Say what happens to the next attempts, one step each, and to all after them."""
        self._steps.extend(steps)
        if then is not None:
            self._default = then

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        """Open a connection to this peer; the argument `open_stream` of `open_output`."""
        del host, port
        await trio.lowlevel.checkpoint()
        step = self._steps.popleft() if self._steps else self._default
        self.attempts.append(trio.current_time())
        if isinstance(step, Unreachable):
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        seen = PeerConnection(opened_at=trio.current_time())
        self.connections.append(seen)
        pair = trio.testing.memory_stream_pair if self._buffered else trio.testing.lockstep_stream_pair
        ours, theirs = pair()
        self._live = _Live(self, step, seen, ours)
        self._nursery.start_soon(self._live.run)
        return theirs

    # -- now ----------------------------------------------------------------------------------------------

    @property
    def messages(self) -> list[str | bytes]:
        """All messages of all connections, in order."""
        return [message for each in self.connections for message in each.messages]

    @property
    def connected(self) -> bool:
        """Whether a connection is open and its handshake done."""
        return self._live is not None and self._live.open

    async def wait_messages(self, count: int) -> None:
        """Wait until this many messages have come."""
        while len(self.messages) < count:
            await self._arrived.wait()
        await trio.lowlevel.checkpoint()

    async def send(self, message: str | bytes) -> None:
        """Send a message on the open connection."""
        event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        await self._now().send(event)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send Close on the open connection."""
        await self._now().send(CloseConnection(code=code, reason=reason))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes that need be no frames."""
        await self._now().send_raw(data)

    async def cut(self) -> None:
        """Cut the open connection without a Close."""
        await trio.aclose_forcefully(self._now().stream)

    def _now(self) -> _Live:
        if self._live is None:
            message = "the peer has no connection"
            raise RuntimeError(message)
        return self._live

    def note(self) -> None:
        """Wake who waits for messages; called by connections."""
        self._arrived.set()
        self._arrived = trio.Event()


class _Live:
    """One connection while it lives."""

    def __init__(self, peer: MemoryPeer, step: Step, seen: PeerConnection, stream: trio.abc.Stream) -> None:
        self._peer = peer
        self._step = step
        self._seen = seen
        self.stream = stream
        self._websocket = WSConnection(ConnectionType.SERVER)
        self._writing = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self.open = False

    async def run(self) -> None:
        """Serve until the connection is over, whoever ends it."""
        try:
            async with trio.open_nursery() as self._nursery:
                await self._serve()
                self._nursery.cancel_scope.cancel()
        finally:
            self.open = False
            self._seen.ended_at = trio.current_time()
            self._peer.note()

    async def _serve(self) -> None:
        try:
            async with self.stream:
                if isinstance(self._step, Silent):
                    await trio.sleep_forever()
                while chunk := await self.stream.receive_some():
                    self._websocket.receive_data(bytes(chunk))
                    for event in self._websocket.events():
                        await self._on(event)
                    if self._websocket.state is ConnectionState.CLOSED:
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError):
            return

    async def send(self, event: Event) -> None:
        """Send one wsproto event."""
        await self.send_raw(self._websocket.send(event))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes."""
        async with self._writing:
            await self.stream.send_all(data)

    async def _on(self, event: Event) -> None:
        match event:
            case Request():
                await self._answer(event)
            case TextMessage() | BytesMessage():
                await self._take(event)
            case Ping():
                self._seen.pings.append(bytes(event.payload))
                self._answer_ping(event)
            case Pong():
                self._seen.pongs.append(bytes(event.payload))
            case CloseConnection():
                self._seen.close_code = event.code
                if isinstance(self._step, Accept) and not self._step.answer_close:
                    await trio.sleep_forever()
                if self._websocket.state is ConnectionState.REMOTE_CLOSING:
                    await self.send(event.response())
            case _:
                pass

    async def _answer(self, request: Request) -> None:
        self._seen.path = request.target
        self._seen.headers = {
            name.decode("latin-1").lower(): value.decode("utf-8", "replace")
            for name, value in request.extra_headers
        }
        if isinstance(self._step, Refuse):
            headers = [(name.encode(), value.encode()) for name, value in self._step.headers]
            await self.send(RejectConnection(status_code=self._step.status, headers=headers))
            return
        assert isinstance(self._step, Accept)  # noqa: S101 - the others never get here
        if self._step.after:
            await trio.sleep(self._step.after)
        await self.send(AcceptConnection(subprotocol=self._step.subprotocol))
        self.open = True
        if not self._step.read:
            await trio.sleep_forever()

    async def _take(self, event: TextMessage | BytesMessage) -> None:
        if not event.message_finished:
            message = "the library sends whole frames only"
            raise AssertionError(message)
        self._seen.messages.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
        self._peer.note()
        step = self._step
        count = len(self._seen.messages)
        if isinstance(step, Accept):
            due = step.cut_after is not None and count >= step.cut_after
            if due or self._seen.messages[-1] == step.cut_on:
                await trio.aclose_forcefully(self.stream)
            elif step.close_after is not None and count == step.close_after[0]:
                await self.send(CloseConnection(code=step.close_after[1]))

    def _answer_ping(self, ping: Ping) -> None:
        delay = self._step.pong_after if isinstance(self._step, Accept) else None
        if delay is not None and self._nursery is not None:
            self._nursery.start_soon(self._pong, bytes(ping.payload), delay)

    async def _pong(self, payload: bytes, delay: float) -> None:
        if delay:
            await trio.sleep(delay)
        if self._websocket.state is ConnectionState.OPEN:
            try:
                await self.send(Pong(payload=payload))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return


@asynccontextmanager
async def open_peer(*, buffered: bool = True) -> AsyncGenerator[MemoryPeer, None]:
    """Open a peer that lives as long as the block.

    Args:
        buffered: Whether bytes that nobody reads are kept without end. Without it, a writer waits
            until they are read, as for a socket with full buffers.
    """
    trouble: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield MemoryPeer(nursery, buffered=buffered)
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - raised again below, where no nursery makes a group of it
            trouble = error
        nursery.cancel_scope.cancel()
    if trouble is not None:
        raise trouble
