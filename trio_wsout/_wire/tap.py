"""The stream that trio_websocket is given instead of the socket's, so that this library owns both sides.

Once the connection is open, who receives reads the socket: `next_part` gives whole messages as they are,
takes pongs at once, and answers a ping when everything before it was taken. The rest goes to wsproto frame
by frame, through `receive_some`, and nothing goes on before wsproto is done with it. So the order stays, and
more is read only when all that was read is taken.
What trio_websocket wants to send (pongs, the answer to a Close) is queued while the connection is
open, because only the writer writes then: so a reader never waits for a writer, and no control
frame lands inside another frame.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._wire.frames import MOST_FRAGMENTS, PONG, masked_frame, plain_frame
from trio_wsout._wire.outgoing import Outgoing, transport_trouble
from trio_wsout._wire.split import Ping, Slow, Splitter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsout._wire.split import Part

__all__ = ["RECEIVE_BYTES", "Tap"]

RECEIVE_BYTES = 64 * 1024
"""Most bytes read by one call."""
_ALONE = 1024
"""Bytes up to which what was read counts as having come alone: nothing is there behind it yet."""
_QUIET = 0.25
"""Seconds without a byte after which a peer that broke the protocol has said all that it will."""
_TOO_BIG = 1009


class Tap(Outgoing):
    """One connection's bytes, between its stream and trio_websocket."""

    received_bytes: int
    """Bytes that came, TLS taken off."""

    __slots__ = (
        "_alone",
        "_done",
        "_for_wsproto",
        "_frame",
        "_gone",
        "_head",
        "_is_open",
        "_parts",
        "_quiet",
        "_reading",
        "_splitter",
        "_unread",
        "_wanted",
        "before_answer",
        "on_life",
        "on_pong",
        "received_bytes",
    )

    def __init__(self, stream: trio.abc.Stream, *, masked: bool, most: int) -> None:
        """Tap a stream whose peer masks its frames, or does not (RFC 6455 section 5.1).

        Messages of more than `most` bytes are left to trio_websocket, which refuses them.
        """
        super().__init__(stream)
        self._frame = plain_frame if masked else masked_frame
        self._splitter = Splitter(masked=masked, most=most)
        self._head: bytes | bytearray = b""
        self._unread = b""
        self._parts: list[Part] = []
        self._for_wsproto = b""
        self._wanted = trio.Event()
        self._done: trio.Event | None = None
        self._gone = False
        self._is_open = False
        self._alone = False
        self._reading = False
        self._quiet: trio.Event | None = None
        self.on_life: Callable[[float], object] | None = None
        self.on_pong: Callable[[bytes], object] | None = None
        self.before_answer: Callable[[], Awaitable[object]] | None = None
        self.received_bytes = 0

    # -- what trio_websocket calls ------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read the handshake, and then what `next_part` has for wsproto; end of file if it is over before it began."""
        del max_bytes
        if not self._is_open:
            head = await self._receive_head()
            if head or self.disconnection is not None:
                return head
        if self._done is not None:
            self._done.set()
        await self._wanted.wait()
        self._wanted = trio.Event()
        data, self._for_wsproto = self._for_wsproto, b""
        return data

    async def _receive_head(self) -> bytes:
        """The next bytes of the handshake; empty: wsproto has them all."""
        await trio.lowlevel.checkpoint()
        head, self._head = self._head, b""
        return bytes(head)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Queue control frames once the connection is open, drop them once Close was said; write before that."""
        if not self._is_open:
            await self.write(data)
            return
        await trio.lowlevel.checkpoint()
        self.queue(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Part of the stream interface; trio_websocket does not call it."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream, unless the connection is open or was: then its owner closes it."""
        if self._is_open:
            self.reader_gone()
            await trio.lowlevel.checkpoint()
        else:
            await self._stream.aclose()

    # -- what the connection calls ------------------------------------------------------------------

    def begin_with(self, head: bytes, frames: bytes) -> None:
        """Give a head to trio_websocket, and once the connection is open what came behind it to who receives."""
        self._head, self._unread = head, frames

    def opened(self) -> None:
        """The handshake is over: from now on control frames wait for the writer."""
        self._is_open = True

    def reader_gone(self) -> None:
        """trio_websocket reads no more: what it has not said by now it never will."""
        self._gone = True
        if self._done is not None:
            self._done.set()

    @property
    def reader_is_gone(self) -> bool:
        """Whether trio_websocket reads no more."""
        return self._gone

    @property
    def reads(self) -> bool:
        """Whether who receives has taken all that came, and waits for more."""
        return self._reading

    async def next_part(self) -> list[str | bytes] | Slow | None:
        """Wait for what comes next: messages, or bytes that wsproto has seen now; None: the connection is over.

        Who calls has taken everything before. It is a checkpoint.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            if self._parts:
                part = self._parts.pop()
                if isinstance(part, list):
                    if not waited:
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    return part
                if self.before_answer is not None and (isinstance(part, Ping) or part.close is not None):
                    await self.before_answer()
                if isinstance(part, Slow):
                    await self._judge(part)
                    return part
                self.queue(self._frame(part.payload, PONG))
                continue
            if self.disconnection is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return None
            waited = True
            if self._splitter.scattered:
                detail = f"the peer sent more than {MOST_FRAGMENTS} fragments of a message"
                self.fail(Disconnection(cause=Cause.PROTOCOL, code=_TOO_BIG, detail=detail))
                continue
            chunk, self._unread = self._unread, b""
            self._split(chunk or await self._read())

    async def hear_out(self) -> None:
        """Read on until the peer answers our Close or is quiet: where bytes lie unread, closing would overtake it."""
        if self._reading:
            self._quiet = trio.Event()
            with trio.move_on_after(_QUIET):
                await self._quiet.wait()
        if self._reading:
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            chunk = b""
            while not self._splitter.close_in(chunk):
                chunk = b""
                with trio.move_on_after(_QUIET):
                    chunk = bytes(await self._stream.receive_some(RECEIVE_BYTES))
                if not chunk:
                    return

    def abort(self) -> trio.abc.Stream:
        """Give up the stream for closing by force; nothing is read or written from here on."""
        self.fail(Disconnection(cause=Cause.LOCAL, detail="closed by this side"))
        self._torn = True
        return self._stream

    # -- inside ---------------------------------------------------------------------------------------

    async def _read(self) -> bytes:
        self._reading = True
        try:
            chunk = await self._receive_some()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lost(f"reading failed: {transport_trouble(error)}", error)
            return b""
        finally:
            self._reading = False
            if self._quiet is not None:
                self._quiet.set()
        self._alone = len(chunk) <= _ALONE
        self.received_bytes += len(chunk)
        if chunk and self.on_life is not None:
            self.on_life(trio.current_time())
        if not chunk:
            self._lost("the peer closed the connection without a Close frame")
        return chunk

    async def _receive_some(self) -> bytes:
        """The next bytes of the stream; empty: its end."""
        number = self._number
        while self._alone and number is not None and number() >= 0:
            # What a peer sends that is mostly silent (pongs) comes alone. To wait first then saves a system
            # call that finds nothing, with its exception, and a turn of the loop after the one that finds it.
            await trio.lowlevel.wait_readable(number())
            with suppress(BlockingIOError):
                return os.read(number(), RECEIVE_BYTES)
        return bytes(await self._stream.receive_some(RECEIVE_BYTES))

    def _split(self, chunk: bytes) -> None:
        """Put the next bytes into parts; take the pongs in them, and note a Close."""
        if not chunk:
            return
        # Most of what comes while this side sends.
        pong = self._splitter.lone_pong(chunk)
        if pong is not None:
            self._take_pong(pong)
            return
        parts, pongs = self._splitter.split(chunk)
        for payload in pongs:
            self._take_pong(payload)
        if parts:
            last = parts[-1]
            if isinstance(last, Slow) and last.close is not None:
                self._heard_close(last.close)
            parts.reverse()
            self._parts = parts

    def _heard_close(self, payload: bytes) -> None:
        if self.peer_close is None:
            self.peer_close = payload
        if self._closing:
            self.fail(Disconnection(cause=Cause.LOCAL, detail="closed by this side"))

    async def _judge(self, part: Slow) -> None:
        """Give bytes to wsproto, and wait until trio_websocket is done with them."""
        if self._gone:
            await trio.lowlevel.checkpoint()
            return
        self._for_wsproto = part.data
        self._done = trio.Event()
        self._wanted.set()
        await self._done.wait()
        self._done = None

    def _take_pong(self, payload: bytes) -> None:
        if self.on_pong is not None:
            self.on_pong(payload)
