"""An open WebSocket connection: messages, pings, the closing handshake, and the progress of written bytes."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Self

import trio
from attrs import define, field

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.heartbeat import Progress
from trio_wsout._core.read_out import Motion
from trio_wsout._wire.decoder import NO_STATUS, Close, Decoder, Part, Ping, Violation
from trio_wsout._wire.frames import CLOSE, PING, PONG
from trio_wsout._wire.tcp import bytes_unread, send_progress
from trio_wsout._wire.transport import Transport
from trio_wsout.config.secret import redact_secrets

FAREWELL = 1.0
"""Seconds that the last control frames of a connection may take, once it is over."""
_PROTOCOL_ERROR = 1002
_CLOSED_HERE = Disconnection(cause=Cause.LOCAL, detail="closed by this side")


@define(eq=False)
class Connection:
    """An open connection. It ends once, and `disconnection` has the reason; leaving ``async with`` cuts it.

    Only one task writes, only one receives.
    """

    transport: Transport
    """The bytes below the frames."""
    _decoder: Decoder = field(alias="decoder")
    """Decodes the peer's bytes."""
    _frame: Callable[[bytes, int], bytes] = field(alias="frame")
    """`masked_frame` on the side of a client, `plain_frame` on that of a server (RFC 6455 section 5.1)."""
    subprotocol: str | None = field(default=None, kw_only=True)
    """The subprotocol that both sides agreed on; None if there is none."""
    on_ping: Callable[[float], object] | None = field(default=None, init=False)
    """Called with the time, in seconds of trio's clock, at which the system took the last byte of a ping."""
    on_pong: Callable[[bytes], object] | None = field(default=None, init=False)
    """Called with the payload of each pong, as it is read."""
    before_answer: Callable[[], Awaitable[object]] | None = field(default=None, init=False)
    """Awaited by the task that receives, before a ping or a Close of the peer is answered."""
    _secrets: Sequence[str] = field(default=(), kw_only=True, alias="secrets")
    """Texts that are redacted where an error quotes the peer."""
    _parts: list[Part] = field(factory=list[Part], init=False)
    """The parts that were decoded and not handed over, the next one last."""
    _last: bytes | None = field(default=None, init=False)
    """The payload of the Close that answers the peer's Close or violation; None if neither came."""
    _closing: bool = field(default=False, init=False)
    """Whether this side has begun the closing handshake."""
    _closed_by_peer: Disconnection | None = field(default=None, init=False)
    """The disconnection that the peer's Close means, from the moment when it is read; None if none came."""
    _ping_waits: bool = field(default=False, init=False)
    """Whether a ping is queued."""
    _written_with_ping: int = field(default=0, init=False)
    """Bytes that were written up to the end of the latest ping."""

    @property
    def disconnection(self) -> Disconnection | None:
        """The reason for which the connection is over; None while it is open."""
        return self.transport.disconnection

    @property
    def peer_may_read(self) -> bool:
        """Whether the peer may still read although the connection is over, so that a write under way may go on."""
        over = self.transport.disconnection
        return over is not None and over.cause in (Cause.CLOSED, Cause.PROTOCOL)

    async def wait_ended(self) -> Disconnection:
        """Wait until the connection is over; return the reason."""
        return await self.transport.wait_ended()

    def end(self, disconnection: Disconnection) -> None:
        """Declare the connection over, for a reason that this side found."""
        self.transport.fail(disconnection)

    # -- writing --------------------------------------------------------------------------------------

    async def write(self, frames: bytes, ping: bytes | None = None) -> None:
        """Write frames, and then a ping with this payload if it is not None, in one go.

        A write that is cancelled or fails makes the connection dead. Raise trio.BrokenResourceError if the
        connection is over; `disconnection` has the reason.
        """
        if ping is not None:
            frames += self._frame(ping, PING)
        pings, self._ping_waits = ping is not None or self._ping_waits, False
        await self.transport.write(frames)
        if pings:
            self._pinged()

    def write_nowait(self, frames: bytes, ping: bytes | None = None) -> None:
        """Write as `write`, without waiting, if the transport has a `free_fileno`; the writer writes the rest that the system does not take."""
        if ping is not None:
            frames += self._frame(ping, PING)
        if not self.transport.write_nowait(frames):
            self.transport.wrote(len(frames))
            self.transport.keep_rest(frames, 0)
        if ping is not None:
            self._ping_taken()

    def wrote_part(self, frames: bytes, outcome: int | OSError) -> None:
        """Take the outcome of `write_to_each` for this connection: the number of bytes that the system took, or its error."""
        if isinstance(outcome, OSError):
            self.transport.fail_writing(outcome)
        elif outcome:
            self.transport.keep_rest(frames, outcome)

    def ping_nowait(self, payload: bytes) -> None:
        """Write a ping without waiting, or else have the writer write it before all else."""
        frame = self._frame(payload, PING)
        if not self.transport.write_nowait(frame):
            self.transport.queue(frame)
        self._ping_taken()

    def _ping_taken(self) -> None:
        """Note the ping as written, or as waiting for the writer, maybe with the rest of what was written before it."""
        if self.transport.has_queued:
            self._ping_waits = True
        else:
            self._pinged()

    def _pinged(self) -> None:
        self._written_with_ping = self.transport.written_bytes
        if self.on_ping is not None:
            self.on_ping(trio.current_time())

    # -- progress -------------------------------------------------------------------------------------

    def progress(self) -> Progress | None:
        """Return the progress of the written bytes; None if the system does not know it. One system call."""
        progress = send_progress(self.transport.stream)
        if progress is None:
            return None
        given, acknowledged = progress
        # The bytes that TLS adds to the writes behind the ping are not known, nor is the progress of a write under way.
        behind_ping = self.transport.written_bytes - self._written_with_ping
        return Progress(acknowledged=acknowledged, awaited=given - behind_ping)

    @property
    def motion(self) -> Motion:
        """The progress in both directions. One system call while a write is under way."""
        transport = self.transport
        writes = transport.torn and transport.disconnection is None
        progress = send_progress(transport.stream) if writes else None
        sent = transport.written_bytes if progress is None else progress[0]
        return Motion(received=transport.received_bytes, sent=sent, reads=transport.reading, writes=writes)

    @property
    def unread_bytes(self) -> int | None:
        """Bytes that lie unread in the socket; None if the system does not know. One system call."""
        return bytes_unread(self.transport.stream)

    # -- receiving ------------------------------------------------------------------------------------

    async def receive_many(self) -> list[str | bytes]:
        """Wait for the next messages: at least one, and as many as have come, up to a millisecond's work.

        With each call the messages of earlier calls count as processed: only then more is read, and pings
        behind them are answered. Raise trio.EndOfChannel if the connection is over; `disconnection` has the
        reason.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            while self._parts:
                part = self._parts.pop()
                if isinstance(part, list):
                    if not waited:
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    return part
                await self._answer(part)
            if self.transport.disconnection is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                raise trio.EndOfChannel
            waited = True
            self._decode(await self.transport.read())

    def _decode(self, chunk: bytes) -> None:
        """Decode the next bytes; take the pongs in them, and note a Close."""
        # While this side sends, most of the frames that come are pongs.
        pong = self._decoder.lone_pong(chunk)
        if pong is not None:
            if self.on_pong is not None:
                self.on_pong(pong)
            return
        parts, pongs = self._decoder.feed(chunk)
        if self.on_pong is not None:
            for pong in pongs:
                self.on_pong(pong)
        if parts:
            if isinstance(parts[-1], Close):
                self._heard_close(parts[-1])
            parts.reverse()
            self._parts = parts

    def _heard_close(self, close: Close) -> None:
        """Note that the peer has closed the connection; if this side has, too, it is over."""
        reason = redact_secrets(close.reason, self._secrets)
        detail = f"the peer closed with {close.code}" + (f" ({reason!r})" if reason else "")
        self._closed_by_peer = Disconnection(cause=Cause.CLOSED, code=close.code, detail=detail)
        self.transport.announce(self._closed_by_peer)
        if self._closing:
            self.transport.fail(_CLOSED_HERE)

    async def _answer(self, part: Ping | Close | Violation) -> None:
        """Answer a ping, a Close or a violation, once everything before it counts as processed."""
        if self.before_answer is not None and not isinstance(part, Violation):
            await self.before_answer()
        match part:
            case Ping(payload):
                self.transport.queue(self._frame(payload, PONG))
            case Close(code):
                self._last = b"" if code == NO_STATUS else code.to_bytes(2, "big")
                if self._closed_by_peer is not None:
                    self.transport.fail(self._closed_by_peer)
            case Violation(code, words):
                self._last = code.to_bytes(2, "big") + words.encode()
                detail = f"the peer broke the WebSocket protocol: it sent {words} ({code})"
                violation = Disconnection(cause=Cause.PROTOCOL, code=code, detail=detail)
                self.transport.fail(_CLOSED_HERE if self._closing else violation)

    # -- the end --------------------------------------------------------------------------------------

    async def aclose(self, code: int = 1000, reason: str = "") -> bool:
        """Write a Close and wait for the peer's answer; return whether it came.

        The caller bounds the time by a cancel scope. No other task may be writing.
        """
        transport = self.transport
        if transport.torn or transport.disconnection is not None:
            return False
        self._closing = True
        with suppress(trio.BrokenResourceError):
            await transport.write_last(self._frame(code.to_bytes(2, "big") + reason.encode(), CLOSE))
            if self._closed_by_peer is not None:
                transport.fail(_CLOSED_HERE)
            await transport.wait_ended()
        return self._closed_by_peer is not None

    async def farewell(self) -> None:
        """Write the last control frames of a connection that is over, for example the answer to a Close."""
        over = self.transport.disconnection
        if over is None or self.transport.torn or not self.peer_may_read:
            return
        violates = over.cause is Cause.PROTOCOL
        last = self._last
        if last is None and violates:
            last = _PROTOCOL_ERROR.to_bytes(2, "big")
        with trio.move_on_after(FAREWELL):
            await self.transport.write_farewell(b"" if last is None else self._frame(last, CLOSE))
            if violates:
                await self.transport.hear_out()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()  # noqa: ASYNC102 - by force, which never waits

    async def cut(self) -> None:
        """Close the transport now, whatever is under way. Never fails or waits, also when cancelled."""
        await self.transport.cut()
