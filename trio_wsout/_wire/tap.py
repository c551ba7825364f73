"""The stream that trio_websocket is given instead of the socket's, so that this library owns both sides.

What comes in passes through `receive_some`, where every frame is watched for pongs and Closes.
What trio_websocket wants to send (pongs, the answer to a Close) is queued while the connection is
open, because only the writer writes then: so a reader never waits for a writer, and no control
frame lands inside another frame.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.ending import Cause, Ending
from trio_wsout._wire.at_once import writer_at_once
from trio_wsout._wire.frames import CLOSE, MOST_FRAGMENTS, FrameScanner, parse_close

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RECEIVE_BYTES", "Tap", "transport_trouble"]

RECEIVE_BYTES = 64 * 1024
"""Most bytes read by one call."""
_MOST_CONTROL = 64 * 1024
"""Bytes of queued control frames; a peer that pings on without reading is cut beyond that."""
_PONGS_KEPT = 16
_QUIET = 0.25
"""Seconds without a byte after which a peer that broke the protocol has said all that it will."""
_TOO_BIG = 1009
_CLOSE_BYTE = b"\x88"


def transport_trouble(error: BaseException) -> str:
    """One line about what broke a stream, from the most telling exception of the chain."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLError):
            return f"TLS: {inner.reason or 'broken'}"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return "the connection broke"


class Tap(trio.abc.Stream):
    """One connection's bytes, between its stream and trio_websocket."""

    ending: Ending | None
    """Why the connection is over; None while it is not."""

    peer_close: bytes | None
    """Payload of the Close frame that the peer sent; None while it sent none."""

    received_bytes: int
    """Bytes that came, TLS taken off."""

    written_bytes: int
    """Bytes that the system has, without those of a `write` under way; before TLS."""

    close_queued: bool
    """Whether trio_websocket's Close is, or was, among the control frames that wait: nothing may follow it."""

    def __init__(self, stream: trio.abc.Stream, *, masked: bool) -> None:
        """Tap a stream whose peer masks its frames, or does not (RFC 6455 section 5.1)."""
        self._stream = stream
        self._masked = masked
        self._first = b""
        self._frames = b""
        self._open = trio.Event()
        self._open.set()
        self._scanner = FrameScanner()
        self._control = bytearray()
        self._now = writer_at_once(stream)
        self._unsent: bytes | memoryview = b""
        self._is_open = False
        self._closing = False
        self.close_queued = False
        self._torn = False
        self._reading: trio.Event | None = None
        self._on_end: Callable[[], object] | None = None
        self.on_control: Callable[[], object] | None = None
        self.on_life: Callable[[float], object] | None = None
        self.on_pong: Callable[[bytes], object] | None = None
        self._pong_sender, self.pongs = trio.open_memory_channel[bytes](_PONGS_KEPT)
        self.ended = trio.Event()
        self.ending = None
        self.peer_close = None
        self.received_bytes = 0
        self.written_bytes = 0

    # -- the end ------------------------------------------------------------------------------------

    def fail(self, ending: Ending) -> None:
        """Record why the connection is over; the first reason stays. Wakes who waits for the end."""
        if self.ending is None:
            self.ending = ending
            self.ended.set()
        if self._on_end is not None:
            self._on_end()

    def on_end(self, call: Callable[[], object] | None) -> None:
        """Have `call` called when the connection is over; at once if it is already."""
        self._on_end = call
        if call is not None and self.ending is not None:
            call()

    def closed_by_peer(self) -> Ending | None:
        """The ending that the peer's Close frame means; None: none came, or none that is valid."""
        close = None if self.peer_close is None else parse_close(self.peer_close)
        if close is None:
            return None
        code, reason = close
        said = f" ({reason!r})" if reason else ""
        return Ending(cause=Cause.CLOSED, code=code, detail=f"the peer closed with {code}{said}")

    def fail_by_peer(self, code: int | None) -> None:
        """Record that the peer closed the connection, or broke a rule for which it is sent a Close with `code`."""
        detail = (
            "the peer sent more than max-message-size in a message"
            if code == _TOO_BIG
            else f"the peer broke the WebSocket protocol ({code})"
        )
        self.fail(self.closed_by_peer() or Ending(cause=Cause.PROTOCOL, code=code, detail=detail))

    # -- what trio_websocket calls ------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read the next bytes; end of file once the connection is over."""
        del max_bytes
        if self.ending is not None:
            await trio.lowlevel.checkpoint()
            return b""
        if self._first:
            await trio.lowlevel.checkpoint()
            first, self._first = self._first, b""
            return first
        # What wsproto reads before the handshake is answered it looks at when something comes behind that.
        await self._open.wait()
        if self._frames:
            frames, self._frames = self._frames, b""
            self._watch(frames)
            return frames
        while True:
            chunk = await self._read()
            # Most of what comes while this side sends: wsproto need not look at it, for it does nothing with pongs.
            pong = self._scanner.lone_pong(chunk, masked=self._masked) if chunk else None
            if pong is None:
                self._watch(chunk)
                if self._scanner.scattered:
                    detail = f"the peer sent more than {MOST_FRAGMENTS} fragments of a message"
                    self.fail(Ending(cause=Cause.PROTOCOL, code=_TOO_BIG, detail=detail))
                    return b""
                return chunk
            self._take_pong(pong)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Queue control frames once the connection is open, drop them once Close was said; write before that."""
        if not self._is_open:
            await self.write(data)
            return
        await trio.lowlevel.checkpoint()
        if self._closing:
            return
        if len(self._control) + len(data) > _MOST_CONTROL:
            self.fail(Ending(cause=Cause.PROTOCOL, detail="the peer sends pings and does not read"))
            return
        self._control += data
        if data[:1] == _CLOSE_BYTE:
            # `last_words` says it, and until then nobody writes: nothing may come behind a Close.
            self.close_queued = True
            ((_, payload),) = FrameScanner().feed(bytes(data))
            self.fail_by_peer(int.from_bytes(payload[:2], "big"))
        elif self.on_control is not None:
            self.on_control()

    async def wait_send_all_might_not_block(self) -> None:
        """Part of the stream interface; trio_websocket does not call it."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream, unless the connection is open or was: then its owner closes it."""
        if self._is_open:
            broke = Ending(cause=Cause.PROTOCOL, detail="the peer broke the WebSocket protocol")
            self.fail(self.closed_by_peer() or broke)
            await trio.lowlevel.checkpoint()
        else:
            await self._stream.aclose()

    # -- what the connection calls ------------------------------------------------------------------

    def begin_with(self, head: bytes, frames: bytes) -> None:
        """Give a head first, and once the connection is open the frames that came behind it."""
        self._first, self._frames = head, frames
        self._open = trio.Event()

    def opened(self) -> None:
        """The handshake is over: from now on control frames wait for the writer."""
        self._is_open = True
        self._open.set()

    async def say_close(self, frame: bytes) -> None:
        """Write a Close, behind which nothing is written; the peer's own is the end then. Raises as `write`."""
        self._closing = True
        await self.write(frame)

    @property
    def has_control(self) -> bool:
        """Whether control frames, or the rest of what `write_now` could not write, wait for the writer."""
        return bool(self._control or self._unsent)

    @property
    def stream(self) -> trio.abc.Stream:
        """What it taps."""
        return self._stream

    @property
    def torn(self) -> bool:
        """Whether a write stopped inside a frame: nothing may be written any more."""
        return self._torn

    def write_now(self, data: bytes) -> bool:
        """Write frames at once if nobody is writing and the system takes some of them; gives whether it did.

        What it did not take of them waits for the writer then, as control frames do. It costs one system
        call and wakes no task: for the many connections to which the same bytes go.
        """
        if self._now is None or self._torn or self._control or self._unsent or self._closing:
            return False
        if self.ending is not None:
            return False
        try:
            sent = self._now(data)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lost(f"writing failed: {transport_trouble(error)}")
            return False
        self.written_bytes += sent
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            if self.on_control is not None:
                self.on_control()
        return True

    def queue(self, frame: bytes) -> None:
        """Have a control frame written before all else, when the writer comes to it."""
        self._control += frame
        if self.on_control is not None:
            self.on_control()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write the queued control frames and then `data`, whole, or make the connection dead.

        Raises:
            trio.BrokenResourceError: The connection is over; `ending` says why.
        """
        if self._torn or self.ending is not None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError
        # A cancellation that is there already tears nothing; on sockets, none that comes later does while there is room.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._control or self._unsent:
            data = self._before(data)
        self._torn = True
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            trouble = transport_trouble(error)
        else:
            self._torn = False
            self.written_bytes += len(data)
            return
        await self._hear_why()
        self._lost(f"writing failed: {trouble}")
        raise trio.BrokenResourceError

    async def last_words(self, data: bytes) -> None:
        """Write what control frames still wait, and `data`, on a connection that is over. Never raises."""
        data = self._before(data)
        if data and not self._torn:
            self._torn = True
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(data)

    async def hear_out(self) -> None:
        """Read on until the peer answers our Close or is quiet: where bytes lie unread, closing would overtake it."""
        if self._reading is not None:
            with trio.move_on_after(_QUIET):
                await self._reading.wait()
        if self._reading is not None:
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            chunk = b""
            while not any(opcode == CLOSE for opcode, _ in self._scanner.feed(chunk)):
                chunk = b""
                with trio.move_on_after(_QUIET):
                    chunk = bytes(await self._stream.receive_some(RECEIVE_BYTES))
                if not chunk:
                    return

    def abort(self) -> trio.abc.Stream:
        """Give up the stream for closing by force; nothing is read or written from here on."""
        self.fail(Ending(cause=Cause.LOCAL, detail="closed by this side"))
        self._torn = True
        self._pong_sender.close()
        return self._stream

    # -- inside ---------------------------------------------------------------------------------------

    def _before(self, data: bytes | bytearray | memoryview) -> bytes:
        """What waits to be written, and `data` behind it; the rest of a frame that is begun comes first."""
        whole = b"".join((self._unsent, self._control, data))
        self._unsent, self._control = b"", bytearray()
        return whole

    async def _read(self) -> bytes:
        self._reading = trio.Event()
        try:
            chunk = bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lost(f"reading failed: {transport_trouble(error)}")
            return b""
        finally:
            self._reading.set()
            self._reading = None
        self.received_bytes += len(chunk)
        if chunk and self.on_life is not None:
            self.on_life(trio.current_time())
        if not chunk:
            self._lost("the peer closed the connection without a Close frame")
        return chunk

    def _lost(self, detail: str) -> None:
        """The transport is gone; a Close that came before is the better reason."""
        self.fail(self.closed_by_peer() or Ending(cause=Cause.LOST, detail=detail))

    async def _hear_why(self) -> None:
        """Before a failed write becomes the ending: a chance to read why."""

    def _watch(self, chunk: bytes | bytearray) -> None:
        for opcode, payload in self._scanner.feed(chunk):
            if opcode == CLOSE:
                self.peer_close = payload if self.peer_close is None else self.peer_close
                if self._closing:
                    self.fail(Ending(cause=Cause.LOCAL, detail="closed by this side"))
            else:
                self._take_pong(payload)

    def _take_pong(self, payload: bytes) -> None:
        if self.on_pong is not None:
            self.on_pong(payload)
            return
        # Where there is no room, there are more unasked pongs than anybody sends: the one that is waited
        # for comes again with the next ping, and until then nothing counts as confirmed.
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._pong_sender.send_nowait(payload)
