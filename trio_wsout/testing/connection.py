"""One connection of a test peer over a stream: everything that came over it, and the peer's behaviour."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from math import inf

import trio
from attrs import define, field, frozen

from trio_wsout.testing.protocol import Close, Headers, PeerEvent, PeerProtocol, Ping, Pong, Request, Response

__all__ = ["Accept", "PeerConnection", "Refuse", "Silent", "Step", "Unreachable"]


@frozen(kw_only=True)
class Accept:
    """Accept the handshake and then behave."""

    after: float = 0.0
    """Seconds before the handshake is answered."""
    subprotocol: str | None = None
    """Subprotocol to choose; None chooses none."""
    read: bool = True
    """Whether the peer reads after the handshake. If it does not, `open_peer(buffered=False)` makes the output wait."""
    pong_after: float | None = 0.0
    """Seconds before a ping is answered; None if it never is."""
    cut_after: int | None = None
    """Cut the connection, without a Close, once this many messages have come; None to leave it open."""
    cut_on: str | bytes | None = None
    """Cut the connection, without a Close, when this message comes; None to leave it open."""
    close_after: tuple[int, int] | None = None
    """Messages after which to send a Close, and its code; None to send none."""
    answer_close: bool = True
    """Whether a Close is answered."""


@frozen(kw_only=True)
class Refuse:
    """Answer the handshake with another status than 101."""

    status: int = 503
    """HTTP status."""
    headers: Headers = ()
    """Headers of the response."""


@frozen
class Unreachable:
    """Fail the connect, as TCP does when nobody listens."""


@frozen
class Silent:
    """Take the connection and never answer anything."""


Step = Accept | Refuse | Unreachable | Silent


@define(eq=False)
class PeerConnection:
    """One connection of a peer: it records everything that comes, and sends for the peer. Times are seconds of trio's clock."""

    stream: trio.abc.Stream
    """The stream that carries it."""
    step: Step = field(factory=Accept)
    """The peer's own behaviour; of a peer that dials, only the part of `Accept` after the handshake counts."""
    server: bool = field(default=False, kw_only=True)
    """Whether the peer is the server of the connection."""
    pong_after: float | None = field(default=0.0, init=False)
    """Seconds before a ping is answered; None if it never is. May be set at any time."""
    answer_close: bool = field(default=True, init=False)
    """Whether a Close is answered. May be set at any time."""
    path: str = field(default="", init=False)
    """Path and query of the request that came."""
    headers: dict[str, str] = field(factory=dict[str, str], init=False)
    """Headers of the request or response that came, names in lower case."""
    status: int | None = field(default=None, init=False)
    """Status of the response; None while there is none."""
    subprotocol: str | None = field(default=None, init=False)
    """The subprotocol that the server chose; None if it chose none."""
    body: bytes = field(default=b"", init=False)
    """Body of a response other than 101."""
    messages: list[str | bytes] = field(factory=list[str | bytes], init=False)
    """Messages that came, in order."""
    message_times: list[float] = field(factory=list[float], init=False)
    """The time at which each message came."""
    pings: list[bytes] = field(factory=list[bytes], init=False)
    """Payloads of the pings that came, in order."""
    ping_times: list[float] = field(factory=list[float], init=False)
    """The time at which each ping came."""
    pongs: list[bytes] = field(factory=list[bytes], init=False)
    """Payloads of the pongs that came, in order."""
    pong_times: list[float] = field(factory=list[float], init=False)
    """The time at which each pong came."""
    close_code: int | None = field(default=None, init=False)
    """Code of the Close that came; None while none has."""
    close_reason: str = field(default="", init=False)
    """Reason of the Close that came."""
    closed_at: float | None = field(default=None, init=False)
    """The time at which the Close came; None while none has."""
    opened_at: float = field(factory=trio.current_time, init=False)
    """The time at which the stream was opened."""
    ended_at: float | None = field(default=None, init=False)
    """The time at which the connection was over; None while it is open."""
    _changed: trio.lowlevel.ParkingLot = field(
        factory=trio.lowlevel.ParkingLot, alias="changed", kw_only=True
    )
    """Tasks that wait for a change."""
    _protocol: PeerProtocol = field(init=False)
    _writing: trio.Lock = field(factory=trio.Lock, init=False)
    _reading: trio.Event = field(factory=trio.Event, init=False)
    """Set while the peer reads."""
    _pongs_due: trio.MemorySendChannel[tuple[float, bytes]] = field(init=False)
    """Takes the next pongs: the time to send each, and its payload."""
    _close_sent: bool = field(default=False, init=False)
    _over: bool = field(default=False, init=False)
    """Whether further bytes are ignored."""
    _returned: int = field(default=0, init=False)
    """Messages that `receive` has returned."""

    def __attrs_post_init__(self) -> None:
        self._protocol = PeerProtocol(server=self.server)
        if not isinstance(self.step, Silent):
            self._reading.set()
        if isinstance(self.step, Accept):
            self.pong_after, self.answer_close = self.step.pong_after, self.step.answer_close

    # -- received so far ------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done and the connection not over."""
        return self.status == HTTPStatus.SWITCHING_PROTOCOLS and self.ended_at is None

    async def receive(self) -> str | bytes:
        """Return the next message that no other call has returned.

        Raises:
            trio.EndOfChannel: The connection is over, and no message is left.
        """
        await self.wait_until(lambda: len(self.messages) > self._returned or self.ended_at is not None)
        if self._returned == len(self.messages):
            raise trio.EndOfChannel
        self._returned += 1
        return self.messages[self._returned - 1]

    async def wait_messages(self, count: int) -> None:
        """Wait until this many messages have come in all."""
        await self.wait_until(lambda: len(self.messages) >= count)

    async def wait_status(self) -> int:
        """Wait for the response to the handshake, and return its status.

        Raises:
            trio.BrokenResourceError: The connection ended without one.
        """
        await self.wait_until(lambda: self.status is not None or self.ended_at is not None)
        if self.status is None:
            raise trio.BrokenResourceError("the connection ended before the handshake was answered")
        return self.status

    async def wait_closed(self) -> None:
        """Wait until a Close has come, or the connection is over without one."""
        await self.wait_until(lambda: self.close_code is not None or self.ended_at is not None)

    async def wait_ended(self) -> None:
        """Wait until the connection is over."""
        await self.wait_until(lambda: self.ended_at is not None)

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds` returns true; it is called after everything that comes, and at the end."""
        while not holds():
            await self._changed.park()
        await trio.lowlevel.checkpoint()

    # -- actions of the peer -------------------------------------------------------------------------------

    async def send(self, message: str | bytes) -> None:
        """Send a message.

        Raises:
            trio.ClosedResourceError: A Close was sent before.
        """
        await self._send_frame(self._protocol.message(message))

    async def ping(self, payload: bytes = b"") -> None:
        """Send a ping."""
        await self._send_frame(self._protocol.ping(payload))

    async def pong(self, payload: bytes = b"") -> None:
        """Send a pong, whether or not a ping asked for it."""
        await self._send_frame(self._protocol.pong(payload))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a Close, unless one was sent."""
        if not self._close_sent:
            self._close_sent = True
            await self.send_raw(self._protocol.close(code, reason))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes that need not be frames."""
        async with self._writing:
            await self.stream.send_all(data)

    async def _send_frame(self, frame: bytes) -> None:
        async with self._writing:
            if self._close_sent:
                raise trio.ClosedResourceError("a Close was sent")
            await self.stream.send_all(frame)

    async def cut(self) -> None:
        """Cut the connection without a Close."""
        self._over = True
        await trio.aclose_forcefully(self.stream)

    def stop_reading(self) -> None:
        """Read nothing from now on, like a peer whose network is gone. The end of the connection goes unnoticed, too."""
        self._reading = trio.Event()

    def resume_reading(self) -> None:
        """Read again, first the bytes that came in the meantime."""
        self._reading.set()

    async def request(
        self, path: str = "/", headers: Headers = (), *, subprotocols: Sequence[str] = ()
    ) -> None:
        """Send the opening handshake, as a client does first."""
        await self.send_raw(self._protocol.request(path, headers, subprotocols=subprotocols))

    async def run(self) -> None:
        """Read, and answer pings and a Close, until the connection is over."""
        self._pongs_due, due = trio.open_memory_channel[tuple[float, bytes]](inf)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_pongs, due)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self.ended_at = trio.current_time()
            self._changed.unpark_all()

    # -- inside -------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self.stream:
                while True:
                    await self._reading.wait()
                    chunk = await self.stream.receive_some()
                    await self._reading.wait()
                    if not chunk:
                        return
                    for event in self._protocol.feed(chunk):
                        await self._on(event)
                        if self._over:
                            return
                    self.body = self._protocol.body
                    self._changed.unpark_all()

    async def _on(self, event: PeerEvent) -> None:
        now = trio.current_time()
        match event:
            case str() | bytes():
                await self._on_message(event)
            case Request():
                await self._on_request(event)
            case Response():
                self.status, self.headers = event.status, event.headers
                self.subprotocol = event.headers.get("sec-websocket-protocol")
            case Ping(payload):
                self.pings.append(payload)
                self.ping_times.append(now)
                if self.pong_after is not None:
                    self._pongs_due.send_nowait((now + self.pong_after, payload))
            case Pong(payload):
                self.pongs.append(payload)
                self.pong_times.append(now)
            case Close(code, reason):
                self.close_code, self.close_reason, self.closed_at = code, reason, now
                if self.answer_close:
                    await self.close(code, reason)
                self._over = self._close_sent

    async def _on_request(self, request: Request) -> None:
        self.path, self.headers = request.path, request.headers
        if isinstance(self.step, Accept):
            if self.step.after:
                await trio.sleep(self.step.after)
            await self.send_raw(self._protocol.accept(subprotocol=self.step.subprotocol))
            self.status, self.subprotocol = HTTPStatus.SWITCHING_PROTOCOLS, self.step.subprotocol
            if not self.step.read:
                self.stop_reading()
        elif isinstance(self.step, Refuse):
            await self.send_raw(self._protocol.refuse(self.step.status, self.step.headers))
            self.status = self.step.status

    async def _on_message(self, message: str | bytes) -> None:
        self.messages.append(message)
        self.message_times.append(trio.current_time())
        self._changed.unpark_all()
        if not isinstance(self.step, Accept):
            return
        step, count = self.step, len(self.messages)
        if message == step.cut_on or (step.cut_after is not None and count >= step.cut_after):
            await self.cut()
        elif step.close_after is not None and count == step.close_after[0]:
            await self.close(step.close_after[1])

    async def _send_pongs(self, due: trio.MemoryReceiveChannel[tuple[float, bytes]]) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for at, payload in due:
                await trio.sleep_until(at)
                await self.pong(payload)
