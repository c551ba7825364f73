"""The writing side of one connection's bytes, and its end: whole frames, in their order, by one writer at a time.

Only the writer's task writes, and for it, while it has nothing to do, `write_now`. Control frames of others are
queued, so that none lands inside another frame. What was begun is finished first, or the connection is dead.
"""

from __future__ import annotations

import errno
import os
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._wire.at_once import number_of
from trio_wsout._wire.frames import FrameScanner, parse_close

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Outgoing", "system_gave_up", "transport_trouble"]

_MOST_CONTROL = 64 * 1024
"""Bytes of queued control frames; a peer that pings on without reading is cut beyond that."""
_TOO_BIG = 1009
_CLOSE_BYTE = b"\x88"
_NOBODY_THERE = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN}
)
"""Errors of a connection by which the system, and not the peer, ends it."""


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


def system_gave_up(error: BaseException | None) -> bool:
    """Whether the system itself ended a connection, because nothing came from the peer or no way leads there."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NOBODY_THERE:
            return True
        error = error.__cause__ or error.__context__
    return False


class Outgoing(trio.abc.Stream):
    """Writes to the stream of one connection, and knows why that is over. `Tap` reads from it as well."""

    disconnection: Disconnection | None
    """Why the connection is over; None while it is not."""

    peer_close: bytes | None
    """Payload of the Close frame that the peer sent; None while it sent none."""

    written_bytes: int
    """Bytes that the system has, without those of a `write` under way; before TLS."""

    close_queued: bool
    """Whether trio_websocket's Close is, or was, among the control frames that wait: nothing may follow it."""

    # There is one for each of thousands of peers, and all of them are gone through at each event.
    __slots__ = (
        "_closing",
        "_control",
        "_ended",
        "_number",
        "_on_end",
        "_stream",
        "_torn",
        "_unsent",
        "close_queued",
        "disconnection",
        "on_control",
        "peer_close",
        "written_bytes",
    )

    def __init__(self, stream: trio.abc.Stream) -> None:
        """Write to `stream`, which nobody else writes to."""
        self._stream = stream
        self._number = number_of(stream)
        self._control = bytearray()
        self._unsent: bytes | memoryview = b""
        self._closing = False
        self._torn = False
        self._on_end: Callable[[], object] | None = None
        self.on_control: Callable[[], object] | None = None
        self._ended: trio.Event | None = None
        self.disconnection = None
        self.peer_close = None
        self.close_queued = False
        self.written_bytes = 0

    @property
    def stream(self) -> trio.abc.Stream:
        """The stream itself."""
        return self._stream

    # -- the end ------------------------------------------------------------------------------------

    def fail(self, disconnection: Disconnection) -> None:
        """Record why the connection is over; the first reason stays. Wakes who waits for the end."""
        if self.disconnection is None:
            self.disconnection = disconnection
            if self._ended is not None:
                self._ended.set()
        if self._on_end is not None:
            self._on_end()

    async def wait_ended(self) -> Disconnection:
        """Wait until the connection is over; gives why."""
        if self._ended is None:  # so it stays for most
            self._ended = trio.Event()
            if self.disconnection is not None:
                self._ended.set()
        await self._ended.wait()
        assert self.disconnection is not None  # noqa: S101 - `fail` sets it before it sets the event
        return self.disconnection

    def on_end(self, call: Callable[[], object] | None) -> None:
        """Have `call` called when the connection is over; at once if it is already."""
        self._on_end = call
        if call is not None and self.disconnection is not None:
            call()

    def closed_by_peer(self) -> Disconnection | None:
        """The ending that the peer's Close frame means; None: none came, or none that is valid."""
        close = None if self.peer_close is None else parse_close(self.peer_close)
        if close is None:
            return None
        code, reason = close
        said = f" ({self._shown(reason)!r})" if reason else ""
        return Disconnection(cause=Cause.CLOSED, code=code, detail=f"the peer closed with {code}{said}")

    def fail_by_peer(self, code: int | None) -> None:
        """Record that the peer closed the connection, or broke a rule for which it is sent a Close with `code`."""
        detail = (
            "the peer sent more than max-message-size in a message"
            if code == _TOO_BIG
            else f"the peer broke the WebSocket protocol ({code})"
        )
        self.fail(self.closed_by_peer() or Disconnection(cause=Cause.PROTOCOL, code=code, detail=detail))

    def _lost(self, detail: str, error: BaseException | None = None) -> None:
        """The transport is gone, by this error if it was one; a Close that came before is the better reason."""
        cause = Cause.UNHEALTHY if system_gave_up(error) else Cause.LOST
        self.fail(self.closed_by_peer() or Disconnection(cause=cause, detail=detail))

    def _shown(self, reason: str) -> str:
        """The reason of the peer's Close, as it may be told."""
        return reason

    # -- writing ------------------------------------------------------------------------------------

    @property
    def has_control(self) -> bool:
        """Whether control frames, or the rest of what `write_now` could not write, wait for the writer."""
        return bool(self._control or self._unsent)

    @property
    def torn(self) -> bool:
        """Whether a write stopped inside a frame: nothing may be written any more."""
        return self._torn

    def queue(self, data: bytes | bytearray | memoryview) -> None:
        """Have a control frame written by the writer; nothing is said behind our Close."""
        if self._closing:
            return
        if len(self._control) + len(data) > _MOST_CONTROL:
            self.fail(Disconnection(cause=Cause.PROTOCOL, detail="the peer sends pings and does not read"))
            return
        self._control += data
        if data[:1] == _CLOSE_BYTE:
            # `last_words` says it, and until then nobody writes: nothing may come behind a Close.
            self.close_queued = True
            ((_, payload),) = FrameScanner().feed(bytes(data))
            self.fail_by_peer(int.from_bytes(payload[:2], "big"))
        elif self.on_control is not None:
            self.on_control()

    def write_now(self, data: bytes) -> bool:
        """Write frames at once if nobody is writing and the system takes some of them; gives whether it did.

        What it did not take of them waits for the writer then, as control frames do. It costs one system
        call and wakes no task.
        """
        if self._number is None or not self._is_free:
            return False
        try:
            sent = os.write(self._number(), data)
        except BlockingIOError:
            return False
        except OSError as error:
            self.broke(error)
            return False
        self.written_bytes += len(data)
        if sent < len(data):
            self.keep_rest(data, sent)
        return True

    @property
    def _is_free(self) -> bool:
        """Whether nobody is writing, nothing waits to be written, and the connection is open."""
        return not (
            self._torn or self._closing or self._control or self._unsent or self.disconnection is not None
        )

    @property
    def free_number(self) -> int | None:
        """The number of the socket, while others may write to it at once (`write_to_each`); None: they may not.

        They may until the writer is woken, or the connection is over; the socket stays open for as long.
        """
        number = -1 if self._number is None or not self._is_free else self._number()
        return None if number < 0 else number

    def keep_rest(self, data: bytes, sent: int) -> None:
        """Have the rest of frames, which count as written, written by the writer before all else."""
        self._unsent = memoryview(data)[sent:]
        self.written_bytes -= len(self._unsent)
        if self.on_control is not None:
            self.on_control()

    def broke(self, error: OSError) -> None:
        """Writing to the socket failed: the connection is over."""
        self._lost(f"writing failed: {transport_trouble(error)}", error)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write the queued control frames and then `data`, whole, or make the connection dead.

        Raises:
            trio.BrokenResourceError: The connection is over; `disconnection` says why.
        """
        if self._torn or self.disconnection is not None:
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
            trouble = error
        else:
            self._torn = False
            self.written_bytes += len(data)
            return
        await self._hear_why()
        self._lost(f"writing failed: {transport_trouble(trouble)}", trouble)
        raise trio.BrokenResourceError

    async def say_close(self, frame: bytes) -> None:
        """Write a Close, behind which nothing is written; with the peer's own, even one before, that is the end.

        Raises:
            trio.BrokenResourceError: The connection is over; `disconnection` says why.
        """
        self._closing = True
        await self.write(frame)
        if self.peer_close is not None:
            self.fail(Disconnection(cause=Cause.LOCAL, detail="closed by this side"))

    async def last_words(self, data: bytes) -> None:
        """Write what control frames still wait, and `data`, on a connection that is over. Never raises."""
        data = self._before(data)
        if data and not self._torn:
            self._torn = True
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(data)

    def _before(self, data: bytes | bytearray | memoryview) -> bytes:
        """What waits to be written, and `data` behind it; the rest of a frame that is begun comes first."""
        whole = b"".join((self._unsent, self._control, data))
        self._unsent, self._control = b"", bytearray()
        return whole

    async def _hear_why(self) -> None:
        """Before a failed write becomes the ending: a chance to read why."""
