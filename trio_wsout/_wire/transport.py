"""The bytes of one open connection: reading, writing in order, writing without a task, and the reason of its end.

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
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

import trio
from attrs import define, field

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._wire.tcp import lost

RECEIVE_BYTES = 64 * 1024
"""Bytes read by one call at most."""

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
class Transport:
    """Reads and writes one stream, which nothing else reads or writes."""

    # There is one for each of thousands of peers: mind its memory.
    stream: trio.abc.Stream
    _unread: bytes = field(default=b"", alias="unread")
    """Bytes that came behind the opening handshake."""
    received_bytes: int = 0
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
    _announced: Disconnection | None = field(default=None, init=False)
    _fileno: Callable[[], int] | None = field(init=False)
    _queued: bytes = field(default=b"", init=False)
    _unsent: bytes | memoryview = field(default=b"", init=False)
    """The rest of a write without waiting, which the system did not take."""
    _closing: bool = field(default=False, init=False)
    """Whether our Close was written, or is being written."""
    _alone: bool = field(default=True, init=False)
    """Whether the latest bytes came alone, so that it is better to wait before reading."""

    def __attrs_post_init__(self) -> None:
        self._fileno = _fileno_of(self.stream)

    # -- the end --------------------------------------------------------------------------------------

    def fail(self, disconnection: Disconnection) -> None:
        """Record the reason for which the connection is over; the first one stays."""
        if self.disconnection is None:
            self.disconnection = disconnection
            if self._ended is not None:
                self._ended.set()
        if self._on_end is not None:
            self._on_end()

    def announce(self, disconnection: Disconnection) -> None:
        """Use this reason if the connection is lost from now on, because the peer has sent a Close."""
        self._announced = disconnection

    def _lose(self, detail: str, error: BaseException | None = None) -> None:
        self.fail(self._announced or lost(detail, error))

    async def wait_ended(self) -> Disconnection:
        """Wait until the connection is over; return the reason."""
        if self._ended is None:  # most connections never need the event
            self._ended = trio.Event()
            if self.disconnection is not None:
                self._ended.set()
        await self._ended.wait()
        assert self.disconnection is not None  # noqa: S101 - `fail` sets it before it sets the event
        return self.disconnection

    def on_end(self, call: Callable[[], object] | None) -> None:
        """Have `call` called when the connection is over, or now if it is already; None ends that."""
        self._on_end = call
        if call is not None and self.disconnection is not None:
            call()

    async def cut(self) -> None:
        """Close the stream now, whatever is under way. Never fails or waits, also when cancelled."""
        self.fail(Disconnection(cause=Cause.LOCAL, detail="closed by this side"))
        self.torn = True
        await trio.aclose_forcefully(self.stream)

    # -- reading --------------------------------------------------------------------------------------

    async def read(self) -> bytes:
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
                return os.read(fileno(), RECEIVE_BYTES)
        return bytes(await self.stream.receive_some(RECEIVE_BYTES))

    async def hear_out(self) -> None:
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
                    chunk = bytes(await self.stream.receive_some(RECEIVE_BYTES))

    # -- writing --------------------------------------------------------------------------------------

    @property
    def has_queued(self) -> bool:
        """Whether control frames, or the rest of what `write_nowait` could not write, wait for the writer."""
        return bool(self._queued or self._unsent)

    def queue(self, frame: bytes) -> None:
        """Have the writer write a control frame; behind our Close it is dropped."""
        if self._closing:
            return
        if len(self._queued) + len(frame) > _MOST_QUEUED:
            detail = "the peer sends pings and does not read"
            self.fail(Disconnection(cause=Cause.PROTOCOL, detail=detail))
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

    def write_nowait(self, data: bytes) -> bool:
        """Write frames if no write is under way and the system takes some of them; return whether it did.

        The rest waits for the writer. It costs one system call and wakes no task.
        """
        if self._fileno is None or not self._is_free:
            return False
        try:
            sent = os.write(self._fileno(), data)
        except BlockingIOError:
            return False
        except OSError as error:
            self.fail_writing(error)
            return False
        self.written_bytes += len(data)
        if sent < len(data):
            self.keep_rest(data, sent)
        return True

    def wrote(self, size: int) -> None:
        """Count bytes that `write_to_each` wrote."""
        self.written_bytes += size

    def keep_rest(self, data: bytes, sent: int) -> None:
        """Have the writer write the rest of frames before all else; up to now they count as written whole."""
        self._unsent = memoryview(data)[sent:]
        self.written_bytes -= len(self._unsent)
        if self.on_queued is not None:
            self.on_queued()

    def fail_writing(self, error: OSError) -> None:
        """Record that writing to the socket failed."""
        self._lose("writing failed", error)

    async def write(self, data: bytes) -> None:
        """Write the waiting bytes and then `data`; a write that fails or is cancelled makes the connection dead.

        Raise trio.BrokenResourceError if the connection is over; `disconnection` has the reason.
        """
        if self.torn or self.disconnection is not None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError
        # A cancellation that is already there must not tear a frame. One that comes later tears it only if the socket is full.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._queued or self._unsent:
            data = self._take_queued(data)
        self.torn = True
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose("writing failed", error)
            raise trio.BrokenResourceError from None
        self.torn = False
        self.written_bytes += len(data)

    async def write_last(self, frame: bytes) -> None:
        """Write a Close, behind which nothing is written; raise as `write`."""
        self._closing = True
        await self.write(frame)

    async def write_farewell(self, frame: bytes) -> None:
        """Write the waiting bytes and then `frame` on a connection that is over. Never raises for the network."""
        data = self._take_queued(frame)
        if data and not self.torn:
            self.torn = True
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.send_all(data)

    def _take_queued(self, data: bytes) -> bytes:
        """Return the waiting bytes, the rest of a frame first, and `data` behind them."""
        whole = b"".join((self._unsent, self._queued, data))
        self._unsent, self._queued = b"", b""
        return whole


def write_to_each(filenos: Mapping[T, int], data: bytes) -> dict[T, int | OSError]:
    """Write the same bytes to many plain sockets without waiting.

    Return the sockets that did not take all of them, each with how many bytes it took, or with its error. The numbers
    must be those of open sockets to which no write is under way.
    """
    short: dict[T, int | OSError] = {}
    write, size = os.write, len(data)
    # One turn of this loop is the cost of an event for each peer.
    for key, fileno in filenos.items():
        try:
            count = write(fileno, data)
        except BlockingIOError:
            count = 0
        except OSError as error:
            short[key] = error
            continue
        if count != size:
            short[key] = count
    return short
