"""One WebSocket connection, opening handshake behind it: write frames, receive messages, close, cut."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

import trio
from trio_websocket import ConnectionClosed

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.heartbeat import Progress
from trio_wsout._core.look import Motion
from trio_wsout._wire.frames import BINARY, CLOSE, PING, TEXT, masked_frame, masked_frames, plain_frame
from trio_wsout._wire.tcp import bytes_lying, bytes_told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_websocket import WebSocketConnection

    from trio_wsout._wire.tap import Tap

__all__ = ["FAREWELL", "Connection"]

FAREWELL = 1.0
"""Seconds that the last control frames of a connection that is over may take."""
_TOO_BIG = 1009
_PROTOCOL_ERROR = 1002
_NOT_UTF_8 = 1007
_FAULTS = (_PROTOCOL_ERROR, _NOT_UTF_8, _TOO_BIG)


class Connection:
    """An open connection. It ends once: `ended` is set and `disconnection` says why; leaving ``async with`` cuts it.

    Only one task writes, only one receives. Nothing here raises anything of trio_websocket's.
    """

    __slots__ = (
        "_closing",
        "_frame",
        "_on_ping",
        "_opcode",
        "_ping_waits",
        "_tap",
        "_websocket",
        "_written_with_ping",
        "subprotocol",
    )

    def __init__(self, websocket: WebSocketConnection, tap: Tap, *, text: bool, masking: bool) -> None:
        """Own an open connection; `masking` says that this is the client's side (RFC 6455 section 5.1)."""
        self._websocket = websocket
        self._tap = tap
        self._frame = masked_frame if masking else plain_frame
        self._opcode = TEXT if text else BINARY
        self._closing = False
        self._ping_waits = False
        self._written_with_ping = 0
        self._on_ping: Callable[[float], object] | None = None
        self.subprotocol = websocket.subprotocol
        """The subprotocol that the server chose; None: none."""
        tap.opened()

    @property
    def disconnection(self) -> Disconnection | None:
        """Why the connection is over; None while it is open."""
        return self._tap.disconnection

    @property
    def hears(self) -> bool:
        """Whether the peer may still read, although the connection is over: a write under way is worth its end."""
        return self.disconnection is not None and self.disconnection.cause in (Cause.CLOSED, Cause.PROTOCOL)

    @property
    def received_bytes(self) -> int:
        """Bytes received so far, handshake included."""
        return self._tap.received_bytes

    @property
    def has_control(self) -> bool:
        """Whether control frames wait for the next `write`."""
        return self._tap.has_control

    def on_control(self, call: Callable[[], object]) -> None:
        """Have `call` called whenever control frames start to wait for the writer."""
        self._tap.on_control = call

    def on_life(self, call: Callable[[float], object]) -> None:
        """Have `call` called with the time, in seconds of trio's clock, whenever bytes come."""
        self._tap.on_life = call

    def on_end(self, call: Callable[[], object] | None) -> None:
        """Have `call` called when the connection is over; at once if it is already."""
        self._tap.on_end(call)

    def on_ping(self, call: Callable[[float], object]) -> None:
        """Have `call` called with the time when the system has all of a ping; its timeout runs from there."""
        self._on_ping = call

    def on_pong(self, call: Callable[[bytes], object]) -> None:
        """Have `call` called with the payload of each pong, as it is read."""
        self._tap.on_pong = call

    def before_answer(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Have `wait` awaited, by who receives, before a ping or a Close of the peer is answered."""
        self._tap.before_answer = wait

    async def wait_ended(self) -> Disconnection:
        """Wait until the connection is over; gives why."""
        return await self._tap.wait_ended()

    def end(self, disconnection: Disconnection) -> None:
        """Declare the connection over, for a reason that this side found."""
        self._tap.fail(disconnection)

    # -- writing --------------------------------------------------------------------------------------

    async def write(self, payloads: Sequence[bytes], ping: bytes | None = None) -> int:
        """Write each payload as one masked message, and then a ping, in one go; gives the bytes written.

        A write that is cancelled or fails makes the connection dead.

        Raises:
            trio.BrokenResourceError: The connection is over; `disconnection` says why.
        """
        frames = masked_frames(payloads, self._opcode)
        if ping is not None:
            frames.append(masked_frame(ping, PING))
        blob = b"".join(frames)
        await self._write(blob, pings=ping is not None)
        return len(blob)

    async def write_frames(self, frames: bytes, ping: bytes | None = None) -> int:
        """Write frames that are ready, and then a ping, in one go; gives the bytes written, raises as `write`."""
        if ping is not None:
            frames += self._frame(ping, PING)
        await self._write(frames, pings=ping is not None)
        return len(frames)

    def write_at_once(self, frames: bytes) -> None:
        """Write frames at once, to what has a `free_number`; what the system does not take now the writer is to write."""
        if not self._tap.write_now(frames):
            self._tap.written_bytes += len(frames)
            self._tap.keep_rest(frames, 0)

    @property
    def free_number(self) -> int | None:
        """The number of the socket, while others may write to it at once; None: they may not (`Outgoing`)."""
        return self._tap.free_number

    def wrote(self, size: int) -> None:
        """Others wrote so many bytes to the socket at once."""
        self._tap.written_bytes += size

    def wrote_some(self, frames: bytes, outcome: int | OSError) -> None:
        """Others wrote these frames at once, and not all of them were taken: so many bytes, or this went wrong."""
        if isinstance(outcome, OSError):
            self._tap.broke(outcome)
        elif outcome:
            self._tap.keep_rest(frames, outcome)

    def ping_now(self, payload: bytes) -> None:
        """Write a ping at once, or have it written before all else when the writer comes to it."""
        frame = self._frame(payload, PING)
        if not self._tap.write_now(frame):
            self._ping_waits = True
            self._tap.queue(frame)
        elif self._tap.has_control:
            self._ping_waits = True  # the rest of it does
        else:
            self._pinged()

    async def _write(self, data: bytes, *, pings: bool) -> None:
        pings, self._ping_waits = pings or self._ping_waits, False
        await self._tap.write(data)
        if pings:
            self._pinged()

    def _pinged(self) -> None:
        self._written_with_ping = self._tap.written_bytes
        if self._on_ping is not None:
            self._on_ping(trio.current_time())

    def progress(self) -> Progress | None:
        """How far what was written has come; None: the system does not know. One system call."""
        told = bytes_told(self._tap.stream)
        if told is None:
            return None
        given, acknowledged = told
        # What TLS adds to the writes behind the ping, and the part of one that is under way, is not known.
        behind_ping = self._tap.written_bytes - self._written_with_ping
        return Progress(acknowledged=acknowledged, awaited=given - behind_ping)

    @property
    def motion(self) -> Motion:
        """How far it has come both ways. One system call while a write is under way."""
        tap = self._tap
        writes = tap.torn and self.disconnection is None
        told = bytes_told(tap.stream) if writes else None
        sent = tap.written_bytes if told is None else told[0]
        return Motion(received=tap.received_bytes, sent=sent, reads=tap.reads, writes=writes)

    @property
    def lying(self) -> int | None:
        """Bytes that lie unread in the socket; None: the system does not say. One system call."""
        return bytes_lying(self._tap.stream)

    # -- receiving ------------------------------------------------------------------------------------

    async def receive_many(self) -> list[str | bytes]:
        """Wait for the next messages: at least one, and as many as have come whole, up to a millisecond's work.

        Who calls has all that came before: only then more is read, and pings behind it are answered.

        Raises:
            trio.EndOfChannel: The connection is over; `disconnection` says why.
        """
        while True:
            part = await self._tap.next_part()
            if isinstance(part, list):
                return part
            if part is None:
                raise trio.EndOfChannel
            if part.ends_message:
                try:
                    return [await self._websocket.get_message()]
                except ConnectionClosed:
                    pass
            closed = self._websocket.closed
            if closed is not None or self._tap.reader_is_gone:
                if not self._closing:
                    self._tap.fail_by_peer(None if closed is None else closed.code)
                raise trio.EndOfChannel

    # -- the end --------------------------------------------------------------------------------------

    async def aclose(self, code: int = 1000, reason: str = "") -> bool:
        """Say Close and wait for the peer's answer; gives whether it came.

        The caller bounds the time by a cancel scope. No other task may be writing.
        """
        if self._tap.torn or self.disconnection is not None:
            return False
        self._closing = True
        with suppress(trio.BrokenResourceError):
            await self._tap.say_close(self._frame(code.to_bytes(2, "big") + reason.encode(), CLOSE))
            await self._tap.wait_ended()
        return self._tap.peer_close is not None

    async def farewell(self) -> None:
        """Let the last control frames out (the answer to a Close) when the connection is over, briefly."""
        disconnection = self.disconnection
        if self._tap.torn or disconnection is None or not self.hears:
            return
        with trio.move_on_after(FAREWELL):
            await self._tap.last_words(self._last_close(disconnection))
            if disconnection.cause is Cause.PROTOCOL:
                await self._tap.hear_out()

    def _last_close(self, disconnection: Disconnection) -> bytes:
        """A Close for a peer that broke the protocol, where wsproto has found the fault and queued none."""
        if self._tap.close_queued:
            return b""
        found = self._websocket.closed
        code = disconnection.code if disconnection.cause is Cause.PROTOCOL else None
        code = code or (None if found is None else found.code)
        if code not in _FAULTS:
            if disconnection.cause is Cause.CLOSED:
                return b""
            code = _PROTOCOL_ERROR
        return self._frame(code.to_bytes(2, "big"), CLOSE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()  # noqa: ASYNC102 - by force, which never waits

    async def cut(self) -> None:
        """Close the transport at once, whatever is under way. Never fails or waits, also when cancelled."""
        await trio.aclose_forcefully(self._tap.abort())
