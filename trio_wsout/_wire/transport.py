"""The bytes of one open connection: reading, writing in order, writing without a task, and why it is over.

Rules
-----
1. One task reads, and one task, the writer, waits for room to write. While the writer has nothing to do others may
   write without waiting (`write_nowait`, `write_to_each`).
2. What others want written otherwise (pongs, pings) is queued for the writer, so that nothing lands inside of a frame
   and no reader waits for a writer.
3. A write that stopped inside of a frame is finished before anything else is written, or the connection is dead.
4. Nothing is written behind our Close.
5. The connection is over once, for the first reason that is known.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import trio
from attrs import define, field

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._wire.tcp import lost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["RECEIVE_BYTES", "Transport", "write_to_each"]

RECEIVE_BYTES = 64 * 1024
"""Bytes read by one call at most."""

T = TypeVar("T")

_ALONE = 1024
"""Bytes up to which what was read counts as having come alone, with nothing behind it yet."""
_QUIET = 0.25
"""Seconds without a byte after which a peer that broke the protocol has sent all that it will."""
_MOST_QUEUED = 64 * 1024
"""Bytes of queued control frames; a peer that pings on without reading is cut beyond that."""


def _fileno_of(stream: trio.abc.Stream) -> Callable[[], int] | None:
    """Return what returns the number of a plain socket; None if a stream is none, as with TLS.

    It is to be asked at each use: once the socket is closed the number is -1, and never another socket's.
    """
    if not isinstance(stream, trio.SocketStream) or sys.platform == "win32":
        return None
    return stream.socket.fileno


@define(eq=False)
class Transport:
    """Reads and writes one stream, which nobody else reads or writes."""

    # There is one for each of thousands of peers, and all of them are gone through at each event.
    stream: trio.abc.Stream
    _unread: bytes = b""
    """What came behind the opening handshake."""
    received_bytes: int = 0
    """Bytes that were read, TLS taken off."""
    written_bytes: int = field(default=0, init=False)
    """Bytes that the system has, before TLS, without those of a `write` under way."""
    disconnection: Disconnection | None = field(default=None, init=False)
    """Why the connection is over; None while it is not."""
    torn: bool = field(default=False, init=False)
    """Whether a write is under way or stopped inside of a frame. If no write is under way, nothing may be written."""
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
    """The rest of what was written without waiting and not taken whole."""
    _closing: bool = field(default=False, init=False)
    """Whether our Close was written, or is being written."""
    _alone: bool = field(default=True, init=False)
    """Whether the latest bytes came alone, so that it is better to wait before reading."""

    def __attrs_post_init__(self) -> None:
        self._fileno = _fileno_of(self.stream)

    # -- the end --------------------------------------------------------------------------------------

    def fail(self, disconnection: Disconnection) -> None:
        """Record why the connection is over; the first reason stays."""
        if self.disconnection is None:
            self.disconnection = disconnection
            if self._ended is not None:
                self._ended.set()
        if self._on_end is not None:
            self._on_end()

    def announce(self, disconnection: Disconnection) -> None:
        """Have this be the reason if the connection is lost from now on: the peer said so."""
        self._announced = disconnection

    def _lose(self, detail: str, error: BaseException | None = None) -> None:
        self.fail(self._announced or lost(detail, error))

    async def wait_ended(self) -> Disconnection:
        """Wait until the connection is over; return why."""
        if self._ended is None:  # so it stays for most
            self._ended = trio.Event()
            if self.disconnection is not None:
                self._ended.set()
        await self._ended.wait()
        assert self.disconnection is not None  # noqa: S101 - `fail` sets it before it sets the event
        return self.disconnection

    def on_end(self, call: Callable[[], object] | None) -> None:
        """Have `call` called when the connection is over; now if it is already. None: nothing any more."""
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
            # What a peer sends that is mostly silent (pongs) comes alone. To wait first then saves a system
            # call that finds nothing, with its exception, and a turn of the loop after the one that finds it.
            await trio.lowlevel.wait_readable(fileno())
            with suppress(BlockingIOError):
                return os.read(fileno(), RECEIVE_BYTES)
        return bytes(await self.stream.receive_some(RECEIVE_BYTES))

    async def hear_out(self) -> None:
        """Read on until the peer has hung up or is quiet: closing while bytes lie unread would overtake our Close."""
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
        """Have a control frame written by the writer; behind our Close it is dropped."""
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
        """The number of the socket, for `write_to_each`; None if nobody but the writer may write.

        Others may until the writer is woken, or the connection is over; the socket stays open for as long.
        """
        number = -1 if self._fileno is None or not self._is_free else self._fileno()
        return None if number < 0 else number

    @property
    def _is_free(self) -> bool:
        """Whether nobody is writing, nothing waits to be written, and the connection is open."""
        return not (
            self.torn or self._closing or self._queued or self._unsent or self.disconnection is not None
        )

    def write_nowait(self, data: bytes) -> bool:
        """Write frames if nobody is writing and the system takes some of them; return whether it did.

        What it did not take waits for the writer then. It costs one system call and wakes no task.
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
        """Have the rest of frames, which count as written, written by the writer before all else."""
        self._unsent = memoryview(data)[sent:]
        self.written_bytes -= len(self._unsent)
        if self.on_queued is not None:
            self.on_queued()

    def fail_writing(self, error: OSError) -> None:
        """Record that writing to the socket failed."""
        self._lose("writing failed", error)

    async def write(self, data: bytes) -> None:
        """Write what waits and then `data`, whole, or make the connection dead.

        Raises:
            trio.BrokenResourceError: The connection is over; `disconnection` says why.
        """
        if self.torn or self.disconnection is not None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError
        # A cancellation that is there already tears nothing; on sockets, none that comes later does while there is room.
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
        """Write what waits and then `frame` on a connection that is over. Never raises for the network."""
        data = self._take_queued(frame)
        if data and not self.torn:
            self.torn = True
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.send_all(data)

    def _take_queued(self, data: bytes) -> bytes:
        """Return what waits to be written, the rest of a frame first, and `data` behind it."""
        whole = b"".join((self._unsent, self._queued, data))
        self._unsent, self._queued = b"", b""
        return whole


def write_to_each(filenos: Mapping[T, int], data: bytes) -> dict[T, int | OSError]:
    """Write the same to many plain sockets without waiting; return those that did not take all of it.

    With each of these stands how many bytes the system took, or what went wrong. The numbers must be of open sockets,
    to which nobody is writing.
    """
    short: dict[T, int | OSError] = {}
    write, size = os.write, len(data)
    # A turn of this loop is what an event costs for each peer.
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
