"""An open WebSocket connection: messages, pings, the closing handshake, and the bytes below them.

Rules
-----
1. One task reads, and one task, the writer, waits for room to write. While the writer has nothing to do others may
   write without waiting (`write_nowait`, `write_to_each`).
2. A frame that others want to write at another time (pong, ping) is queued for the writer, so that nothing lands inside of a frame
   and no reader waits for a writer.
3. A write that stopped inside of a frame is finished before anything else is written, or the connection is dead.
4. Nothing is written behind our Close.
5. The connection is over once, for the first reason that is known.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self, TypeVar

import trio
from attrs import define, field

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.heartbeat import Progress
from trio_wsout._core.read_out import Motion
from trio_wsout._wire.decoder import NO_STATUS, Close, Decoder, Part, Ping, Violation
from trio_wsout._wire.frames import CLOSE, PING, PONG
from trio_wsout._wire.tcp import bytes_unread, lost, peer_left, send_progress
from trio_wsout.config.secret import redact_secrets

FAREWELL = 1.0
"""Seconds that the last control frames of a connection may take, once it is over."""
_RECEIVE_BYTES = 64 * 1024
"""Bytes read by one call at most."""
_PROTOCOL_ERROR = 1002
_CLOSED_HERE = Disconnection(cause=Cause.LOCAL, detail="closed by this side")

T = TypeVar("T")

_ALONE = 1024
"""A read of at most so many bytes counts as having come alone, with nothing behind it yet."""
_QUIET = 0.25
"""Seconds without a byte after which a peer that broke the protocol has sent all that it will."""
_MOST_QUEUED = 64 * 1024
"""Bytes of queued control frames; a peer that pings on without reading is cut beyond that."""


def _fileno_of(stream: trio.abc.Stream) -> Callable[[], int] | None:
    """Return the `fileno` of a plain socket; None if the stream is of another kind, as with TLS.

    It must be called at each use: once the socket is closed it returns -1, and never the number of another socket.
    """
    if not isinstance(stream, trio.SocketStream) or sys.platform == "win32":
        return None
    return stream.socket.fileno


@define(eq=False)
class Connection:
    """An open connection over a stream that nothing else reads or writes; leaving ``async with`` cuts it.

    Only one task writes, only one receives.
    """

    # There is one for each of thousands of peers: mind its memory.
    stream: trio.abc.Stream
    _decoder: Decoder = field(alias="decoder")
    """Decodes the peer's bytes."""
    _frame: Callable[[bytes, int], bytes] = field(alias="frame")
    """`masked_frame` on the side of a client, `plain_frame` on that of a server (RFC 6455 section 5.1)."""
    _unread: bytes = field(default=b"", kw_only=True, alias="unread")
    """Bytes that came behind the opening handshake."""
    received_bytes: int = field(default=0, kw_only=True)
    """Bytes that were read, without those that TLS adds."""
    written_bytes: int = field(default=0, init=False)
    """Bytes that the system took, counted before TLS, without those of a `write` under way."""
    disconnection: Disconnection | None = field(default=None, init=False)
    """The reason for which the connection is over; None while it is open."""
    torn: bool = field(default=False, init=False)
    """Whether a write is under way, or has stopped inside of a frame, after which nothing may be written."""
    reading: bool = field(default=False, init=False)
    """Whether the reader waits for bytes."""
    on_bytes: Callable[[float], object] | None = field(default=None, init=False)
    """Called with the time, in seconds of trio's clock, whenever bytes come."""
    on_queued: Callable[[], object] | None = field(default=None, init=False)
    """Called when something begins to wait for the writer."""
    _on_end: Callable[[], object] | None = field(default=None, init=False)
    _ended: trio.Event | None = field(default=None, init=False)
    _fileno: Callable[[], int] | None = field(init=False)
    _queued: bytes = field(default=b"", init=False)
    _unsent: bytes | memoryview = field(default=b"", init=False)
    """The rest of a write without waiting, which the system did not take."""
    _closing: bool = field(default=False, init=False)
    """Whether our Close was written, or is being written."""
    _alone: bool = field(default=True, init=False)
    """Whether the latest bytes came alone, so that it is better to wait before reading."""
    subprotocol: str | None = field(default=None, kw_only=True)
    """The subprotocol that both sides agreed on; None if there is none."""
    on_ping: Callable[[float], object] | None = field(default=None, init=False)
    """Called with the time, in seconds of trio's clock, at which the system took the last byte of a ping."""
    on_pong: Callable[[bytes], object] | None = field(default=None, init=False)
    """Called with the payload of each pong, as it is read."""
    before_answer: Callable[[], Awaitable[bool]] | None = field(default=None, init=False)
    """Awaited by the task that receives, before a ping or a Close of the peer is answered; returns whether a ping may be."""
    _secrets: Sequence[str] = field(default=(), kw_only=True, alias="secrets")
    """Texts that are redacted where an error quotes the peer."""
    _parts: list[Part] = field(factory=list[Part], init=False)
    """The parts that were decoded and not handed over, the next one last."""
    _last: bytes | None = field(default=None, init=False)
    """The payload of the Close that answers the peer's Close or violation; None if neither came."""
    _closed_by_peer: Disconnection | None = field(default=None, init=False)
    """The disconnection that the peer's Close means, from the moment when it is read; None if none came."""
    _ping_waits: bool = field(default=False, init=False)
    """Whether a ping is queued."""
    _written_with_ping: int = field(default=0, init=False)
    """Bytes that were written up to the end of the latest ping."""

    def __attrs_post_init__(self) -> None:
        self._fileno = _fileno_of(self.stream)

    # -- the end --------------------------------------------------------------------------------------

    @property
    def peer_may_read(self) -> bool:
        """Whether the peer may still read although the connection is over, so that a write under way may go on."""
        over = self.disconnection
        return over is not None and over.cause in (Cause.CLOSED, Cause.PROTOCOL)

    def end(self, disconnection: Disconnection) -> None:
        """Record the reason for which the connection is over; the first one stays."""
        if self.disconnection is None:
            self.disconnection = disconnection
            if self._ended is not None:
                self._ended.set()
        if self._on_end is not None:
            self._on_end()

    def _lose(self, detail: str, error: BaseException | None = None) -> None:
        # The loss of a connection whose Close has come is no loss.
        self.end(self._closed_by_peer or lost(detail, error))

    async def wait_ended(self) -> Disconnection:
        """Wait until the connection is over; return the reason."""
        if self._ended is None:  # most connections never need the event
            self._ended = trio.Event()
            if self.disconnection is not None:
                self._ended.set()
        await self._ended.wait()
        assert self.disconnection is not None  # noqa: S101 - `end` sets it before it sets the event
        return self.disconnection

    def on_end(self, call: Callable[[], object] | None) -> None:
        """Have `call` called when the connection is over, or now if it is already; None ends that."""
        self._on_end = call
        if call is not None and self.disconnection is not None:
            call()

    async def aclose(self, code: int = 1000, reason: str = "") -> bool:
        """Write a Close and wait for the peer's answer; return whether it came.

        The caller bounds the time by a cancel scope. No other task may be writing.
        """
        if self.torn or self.disconnection is not None:
            return False
        self._closing = True
        with suppress(trio.BrokenResourceError):
            await self._write(self._frame(code.to_bytes(2, "big") + reason.encode(), CLOSE))
            if self._closed_by_peer is not None:
                self.end(_CLOSED_HERE)
            await self.wait_ended()
        return self._closed_by_peer is not None

    async def farewell(self) -> None:
        """Write the last control frames of a connection that is over, for example the answer to a Close."""
        over = self.disconnection
        if over is None or self.torn or not self.peer_may_read:
            return
        violates = over.cause is Cause.PROTOCOL
        last = self._last
        if last is None and violates:
            last = _PROTOCOL_ERROR.to_bytes(2, "big")
        frames = self._take_queued(b"" if last is None else self._frame(last, CLOSE))
        with trio.move_on_after(FAREWELL):  # noqa: ASYNC912 - what there is to write has a cancel point
            if frames:
                self.torn = True
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.stream.send_all(frames)
            if violates:
                await self._hear_out()

    async def _hear_out(self) -> None:
        """Read on until the peer has hung up or is quiet.

        If a stream is closed while bytes lie unread in it, the system sends a reset, which may overtake our Close.
        """
        if self.reading:
            await trio.lowlevel.checkpoint()
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            chunk = b"-"
            while chunk:
                chunk = b""
                with trio.move_on_after(_QUIET):
                    chunk = bytes(await self.stream.receive_some(_RECEIVE_BYTES))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()  # noqa: ASYNC102 - by force, which never waits

    async def cut(self) -> None:
        """Close the stream now, whatever is under way. Never fails or waits, also when cancelled."""
        self.end(_CLOSED_HERE)
        self.torn = True
        await trio.aclose_forcefully(self.stream)

    # -- writing --------------------------------------------------------------------------------------

    async def write(self, frames: bytes, ping: bytes | None = None) -> None:
        """Write frames, and then a ping with this payload if it is not None, in one go.

        A write that is cancelled or fails makes the connection dead. Raise trio.BrokenResourceError if the
        connection is over; `disconnection` has the reason.
        """
        if ping is not None:
            frames += self._frame(ping, PING)
        pings, self._ping_waits = ping is not None or self._ping_waits, False
        await self._write(frames)
        if pings:
            self._pinged()

    def write_nowait(self, frames: bytes, ping: bytes | None = None) -> None:
        """Write as `write`, without waiting, if there is a `free_fileno`; the writer writes the rest that the system does not take."""
        if ping is not None:
            frames += self._frame(ping, PING)
        if not self._write_nowait(frames):
            self.wrote(len(frames))
            self._keep_rest(frames, 0)
        if ping is not None:
            self._ping_taken()

    def wrote_part(self, frames: bytes, outcome: int | OSError) -> None:
        """Take the outcome of `write_to_each` for this connection: the number of bytes that the system took, or its error."""
        if isinstance(outcome, OSError):
            self._lose("writing failed", outcome)
        elif outcome:
            self._keep_rest(frames, outcome)

    def ping_nowait(self, payload: bytes) -> None:
        """Write a ping without waiting, or else have the writer write it before all else."""
        frame = self._frame(payload, PING)
        if not self._write_nowait(frame):
            self._queue(frame)
        self._ping_taken()

    def _ping_taken(self) -> None:
        """Note the ping as written, or as waiting for the writer, maybe with the rest of what was written before it."""
        if self.has_queued:
            self._ping_waits = True
        else:
            self._pinged()

    def _pinged(self) -> None:
        self._written_with_ping = self.written_bytes
        if self.on_ping is not None:
            self.on_ping(trio.current_time())

    @property
    def has_queued(self) -> bool:
        """Whether control frames, or the rest of what `write_nowait` could not write, wait for the writer."""
        return bool(self._queued or self._unsent)

    def _queue(self, frame: bytes) -> None:
        """Have the writer write a control frame; behind our Close it is dropped."""
        if self._closing:
            return
        if len(self._queued) + len(frame) > _MOST_QUEUED:
            detail = "the peer sends pings and does not read"
            self.end(Disconnection(cause=Cause.PROTOCOL, detail=detail))
            return
        self._queued += frame
        if self.on_queued is not None:
            self.on_queued()

    @property
    def free_fileno(self) -> int | None:
        """The number of the socket, for `write_to_each`; None if only the writer may write.

        Others may write until the writer is woken or the connection is over; the socket stays open for as long.
        """
        number = -1 if self._fileno is None or not self._is_free else self._fileno()
        return None if number < 0 else number

    @property
    def _is_free(self) -> bool:
        """Whether no write is under way, nothing waits to be written, and the connection is open."""
        return not (
            self.torn or self._closing or self._queued or self._unsent or self.disconnection is not None
        )

    def _write_nowait(self, frames: bytes) -> bool:
        """Write frames if no write is under way and the system takes some of them; return whether it did.

        The rest waits for the writer. It costs one system call and wakes no task.
        """
        if self._fileno is None or not self._is_free:
            return False
        try:
            sent = os.write(self._fileno(), frames)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lose("writing failed", error)
            return False
        self.written_bytes += len(frames)
        if sent < len(frames):
            self._keep_rest(frames, sent)
        return True

    def wrote(self, size: int) -> None:
        """Count bytes that `write_to_each` wrote."""
        self.written_bytes += size

    def _keep_rest(self, frames: bytes, sent: int) -> None:
        """Have the writer write the rest of frames before all else; up to now they count as written whole."""
        self._unsent = memoryview(frames)[sent:]
        self.written_bytes -= len(self._unsent)
        if self.on_queued is not None:
            self.on_queued()

    async def _write(self, frames: bytes) -> None:
        """Write the waiting bytes and then `frames`; a write that fails or is cancelled makes the connection dead.

        Raise trio.BrokenResourceError if the connection is over; `disconnection` has the reason.
        """
        if self.torn or self.disconnection is not None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError
        # A cancellation that is already there must not tear a frame. One that comes later tears it only if the socket is full.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._queued or self._unsent:
            frames = self._take_queued(frames)
        self.torn = True
        try:
            await self.stream.send_all(frames)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose("writing failed", error)
            raise trio.BrokenResourceError from None
        self.torn = False
        self.written_bytes += len(frames)

    def _take_queued(self, frames: bytes) -> bytes:
        """Return the waiting bytes, the rest of a frame first, and `frames` behind them."""
        whole = b"".join((self._unsent, self._queued, frames))
        self._unsent, self._queued = b"", b""
        return whole

    # -- progress -------------------------------------------------------------------------------------

    def progress(self) -> Progress | None:
        """Return the progress of the written bytes; None if the system does not know it. One system call."""
        progress = send_progress(self.stream)
        if progress is None:
            return None
        given, acknowledged = progress
        # The bytes that TLS adds to the writes behind the ping are not known, nor is the progress of a write under way.
        behind_ping = self.written_bytes - self._written_with_ping
        return Progress(acknowledged=acknowledged, awaited=given - behind_ping)

    @property
    def motion(self) -> Motion:
        """The progress in both directions. One system call while a write is under way."""
        writes = self.torn and self.disconnection is None
        progress = send_progress(self.stream) if writes else None
        sent = self.written_bytes if progress is None else progress[0]
        return Motion(received=self.received_bytes, sent=sent, reads=self.reading, writes=writes)

    @property
    def unread_bytes(self) -> int | None:
        """Bytes that lie unread in the socket; None if the system does not know. One system call."""
        return bytes_unread(self.stream)

    @property
    def peer_left(self) -> bool:
        """Whether nothing more comes but what lies unread in the socket. One system call; false where the system does not know."""
        return peer_left(self.stream)

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
            if self.disconnection is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                raise trio.EndOfChannel
            waited = True
            self._decode(await self._read())

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
        if self._closing:
            self.end(_CLOSED_HERE)

    async def _answer(self, part: Ping | Close | Violation) -> None:
        """Answer a ping, a Close or a violation, once everything before it counts as processed.

        A ping behind messages that this side could not take is not answered: its pong would confirm them.
        """
        confirms = True
        if self.before_answer is not None and not isinstance(part, Violation):
            confirms = await self.before_answer()
        match part:
            case Ping(payload):
                if confirms:
                    self._queue(self._frame(payload, PONG))
            case Close(code):
                self._last = b"" if code == NO_STATUS else code.to_bytes(2, "big")
                if self._closed_by_peer is not None:
                    self.end(self._closed_by_peer)
            case Violation(code, words):
                self._last = code.to_bytes(2, "big") + words.encode()
                detail = f"the peer broke the WebSocket protocol: it sent {words} ({code})"
                violation = Disconnection(cause=Cause.PROTOCOL, code=code, detail=detail)
                self.end(_CLOSED_HERE if self._closing else violation)

    async def _read(self) -> bytes:
        """Wait for the next bytes; empty if the connection is over."""
        if self._unread:
            await trio.lowlevel.checkpoint()
            chunk, self._unread = self._unread, b""
            return chunk
        self.reading = True
        try:
            chunk = await self._receive_some()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose("reading failed", error)
            return b""
        finally:
            self.reading = False
        self._alone = len(chunk) <= _ALONE
        self.received_bytes += len(chunk)
        if not chunk:
            self._lose("the peer closed the connection without a Close frame")
        elif self.on_bytes is not None:
            self.on_bytes(trio.current_time())
        return chunk

    async def _receive_some(self) -> bytes:
        fileno = self._fileno
        while self._alone and fileno is not None and fileno() >= 0:
            # A peer that is mostly silent sends one frame at a time, pongs for example. To wait first saves a system call
            # that finds nothing, with its exception, and memory: this wait needs fewer coroutines than the stream's.
            await trio.lowlevel.wait_readable(fileno())
            with suppress(BlockingIOError):
                return os.read(fileno(), _RECEIVE_BYTES)
        return bytes(await self.stream.receive_some(_RECEIVE_BYTES))


def write_to_each(filenos: Mapping[T, int], frames: bytes) -> dict[T, int | OSError]:
    """Write the same bytes to many plain sockets without waiting.

    Return the sockets that did not take all of them, each with how many bytes it took, or with its error. The numbers
    must be those of open sockets to which no write is under way.
    """
    short: dict[T, int | OSError] = {}
    write, size = os.write, len(frames)
    # One turn of this loop is the cost of an event for each peer.
    for key, fileno in filenos.items():
        try:
            count = write(fileno, frames)
        except BlockingIOError:
            count = 0
        except OSError as error:
            short[key] = error
            continue
        if count != size:
            short[key] = count
    return short
