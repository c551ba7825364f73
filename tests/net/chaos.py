"""A TCP proxy on 127.0.0.1 that does to each connection what a plan says, and tells what it really did.

It passes bytes on and never alters one, so TLS goes through it as plain text does. It reads along to know
where it is in a connection: in the opening handshake, between frames, within one, or in the closing
handshake. Through TLS it sees records, not frames, and can't tell a Close from anything else.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING

import trio
from attrs import frozen

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Iterable

__all__ = ["Chaos", "Cut", "Fault", "Follower", "Kind", "Place", "Way", "fault_plan", "open_chaos"]

_CHUNK = 65536
_NARROW = 8192
"""Bytes that a buffer of the kernel holds, about, where the line is throttled."""
_TICK = 0.02
"""Seconds between the pieces that a throttled line takes."""
_DRAIN = 1.0
"""Seconds that both sides have to end a connection after a FIN."""


class Kind(StrEnum):
    """How a connection ends."""

    FIN = "FIN"
    """Both sides read an end of file; what is on its way is dropped."""
    RST = "RST"
    """Both sides have their connection reset; what is on its way is dropped."""
    HOLD = "hold and drop"
    """What comes is taken for a while and goes nowhere; then both sides are reset."""
    HOLE = "black hole"
    """What comes is taken and goes nowhere, until one side gives the connection up."""


class Way(StrEnum):
    """A direction of bytes."""

    UP = "to the target"
    DOWN = "from the target"


class Place(StrEnum):
    """Where in its life a connection is."""

    HANDSHAKE = "in handshake"
    FRAME = "mid-frame"
    CLOSE = "mid-close"
    BETWEEN = "between frames"


@frozen(kw_only=True)
class Fault:
    """What is done to one connection."""

    kind: Kind
    way: Way = Way.UP
    """The direction whose bytes are counted."""
    place: Place = Place.BETWEEN
    """HANDSHAKE: bytes count from the first on, and the last of the handshake never passes. CLOSE: they
    count from the beginning of the Close frame. Otherwise they count from the end of the handshake."""
    after: int = 0
    """Bytes that still pass."""
    slices: int = 0
    """So many first bytes of each direction pass one by one."""
    late: float = 0.0
    """The first bytes from the target come so many seconds late."""
    hold: float = 0.03
    """Seconds for which HOLD takes what comes."""
    refuse: float = 0.0
    """Seconds for which connections are refused from the cut on."""


@frozen(kw_only=True)
class Cut:
    """What really happened to one connection."""

    kind: Kind
    place: Place
    at: float
    """When it began, in seconds of trio's clock."""


class Follower:
    """Reads along in one direction: where the handshake ends, where frames begin, where a Close is."""

    seen: int
    """Bytes so far. Positions count from the first byte."""
    opened_at: int | None
    """The first position behind the opening handshake."""
    close_at: int | None
    """Where a Close frame begins."""
    close_end: int
    """The position behind it."""

    def __init__(self, way: Way) -> None:
        self.seen = 0
        self.opened_at = None
        self.close_at = None
        self.close_end = 0
        self.secured = False
        self._next = 0
        self._held = b""
        self._starts: list[int] = []
        self._way = way
        self._records = 0

    def feed(self, data: bytes) -> None:
        """Read what comes next."""
        held = self._held + data
        self.seen += len(data)
        self._held = b""
        self._starts.clear()
        at = self._next - (self.seen - len(held))
        while at < len(held):
            size = self._unit(held, at)
            if size is None:
                self._held = held[at:]
                return
            self._starts.append(self._next)
            self._next += size
            at += size

    def place_of(self, position: int) -> Place:
        """What a connection is in that ends at this position of the data fed last."""
        if self.opened_at is None or position < self.opened_at:
            return Place.HANDSHAKE
        if self.close_at is not None and position >= self.close_at:
            return Place.CLOSE
        if position in (self.opened_at, self._next, *self._starts):
            return Place.BETWEEN
        return Place.FRAME

    def _unit(self, data: bytes, at: int) -> int | None:
        """Bytes of the unit that begins at an index: a handshake, a frame, a record; None: not known yet."""
        if self._next == 0:
            self.secured = data[at] == 0x16
        if self.secured:
            return self._record(data, at)
        if self.opened_at is None:
            end = data.find(b"\r\n\r\n", at)
            if end >= 0:
                self.opened_at = end + 4 - at
            return self.opened_at
        return self._frame(data, at)

    def _record(self, data: bytes, at: int) -> int | None:
        """A TLS record. A client's third of type 23 is behind its Finished and its request: it is open then."""
        if len(data) < at + 5:
            return None
        if data[at] == 0x17:
            self._records += 1
            if self._records == 3 and self._way is Way.UP:
                self.opened_at = self._next
        return 5 + int.from_bytes(data[at + 3 : at + 5], "big")

    def _frame(self, data: bytes, at: int) -> int | None:
        closes = data[at] & 0x0F == 8 and self.close_at in (None, self._next)
        if closes:
            self.close_at, self.close_end = self._next, self._next + 2
        if len(data) < at + 2:
            return None
        size, more = data[at + 1] & 0x7F, {126: 2, 127: 8}.get(data[at + 1] & 0x7F, 0)
        if len(data) < at + 2 + more:
            return None
        if more:
            size = int.from_bytes(data[at + 2 : at + 2 + more], "big")
        size += 2 + more + (4 if data[at + 1] & 0x80 else 0)
        if closes:
            self.close_end = self._next + size
        return size


class Chaos:
    """The proxy. A connection for which the plan has no fault passes unharmed."""

    port: int
    """Where it listens."""
    fault: Fault | None
    """What is planned for the latest connection."""
    cuts: list[Cut]
    """What was done to connections."""
    left: list[Cut]
    """Connections that one of the sides ended before a fault could."""
    given_up: list[float]
    """When sides gave up connections that had become black holes."""
    counts: Counter[str]
    """Answers that came late, connections in slices, times in which connections were refused."""
    accepted: int
    """Connections so far."""
    rate: int | None
    """Bytes a second in each direction; None: as fast as it goes."""

    def __init__(self, target: int, plan: Iterable[Fault | None] = (), *, rate: int | None = None) -> None:
        self.fault = None
        self.cuts = []
        self.left = []
        self.given_up = []
        self.counts = Counter()
        self.accepted = 0
        self.rate = rate
        self.dark = False
        self._target = target
        self._plan = iter(plan)
        self._connections: set[_Connection] = set()
        self._listener = _bound(0)
        if rate is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NARROW)
        self._refusing_until = 0.0
        self.port = int(self._listener.getsockname()[1])

    @property
    def kinds(self) -> Counter[str]:
        """How often each kind of cut happened, and how many were in each place."""
        return Counter([str(part) for cut in self.cuts for part in (cut.kind, cut.place)])

    def cut(self, kind: Kind) -> None:
        """Do this to all connections now."""
        for connection in list(self._connections):
            connection.strike(kind)

    def go_dark(self) -> float:
        """From now on nothing passes on any connection, and nobody is told; gives the time."""
        self.dark = True
        self.cut(Kind.HOLE)
        return trio.current_time()

    def heal(self) -> None:
        """New connections pass again. Those that met the darkness never will, and are reset."""
        self.dark = False
        for connection in list(self._connections):
            connection.end_hole()

    def refuse(self, seconds: float) -> None:
        """Have the kernel refuse connections from now on, for a while."""
        self.counts["refusing"] += 1
        self._refusing_until = trio.current_time() + seconds
        # Bound but not listening: the kernel refuses, and nobody else is given the port.
        self._listener.close()
        self._listener = _bound(self.port)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._listener.listen(100)
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    with suppress(trio.ClosedResourceError):
                        while True:
                            accepted, _ = await self._listener.accept()
                            nursery.start_soon(self._serve, trio.SocketStream(accepted))
                    while trio.current_time() < self._refusing_until:
                        await trio.sleep_until(self._refusing_until)
        finally:
            self._listener.close()

    async def _serve(self, client: trio.SocketStream) -> None:
        self.fault = next(self._plan, None)
        self.accepted += 1
        connection = _Connection(self, client, self.fault)
        self._connections.add(connection)
        try:
            await connection.run(self._target)
        finally:
            self._connections.remove(connection)


class _Connection:
    """One connection through the proxy."""

    def __init__(self, chaos: Chaos, client: trio.SocketStream, fault: Fault | None) -> None:
        self._chaos = chaos
        self._fault = fault
        self._client = client
        self._streams = [client]
        self._followers = {way: Follower(way) for way in Way}
        self._passed = dict.fromkeys(Way, 0)
        self._struck: Kind | None = None
        self._left = False
        self._over = trio.CancelScope()

    async def run(self, target: int) -> None:
        """Pass bytes both ways until the end, which is a reset where nothing else came before it."""
        if self._fault is not None and self._fault.slices:
            self._chaos.counts["slices"] += 1
        try:
            with self._over, suppress(OSError):
                client, server = self._client, trio.SocketStream(trio.socket.socket())
                self._streams.append(server)
                if self._chaos.rate is not None:
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NARROW)
                await server.socket.connect(("127.0.0.1", target))
                if self._chaos.rate is not None:
                    for stream in self._streams:
                        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _NARROW)
                if self._chaos.dark:
                    self.strike(Kind.HOLE)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, client, server, Way.UP)
                    nursery.start_soon(self._pump, server, client, Way.DOWN)
        finally:
            for stream in self._streams:
                _reset(stream)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, way: Way) -> None:
        """Pass on what comes in one direction, until it ends."""
        ended = False
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(_CHUNK if self._chaos.rate is None else _NARROW):
                await self._take(bytes(data), sink, way)
            ended = True
        if self._struck is Kind.FIN and ended:
            return
        if self._struck is Kind.HOLE:
            self._chaos.given_up.append(trio.current_time())
        if self._struck is None and not self._left:
            self._left = True
            kind = Kind.FIN if ended else Kind.RST
            self._chaos.left.append(Cut(kind=kind, place=self._place, at=trio.current_time()))
        if self._struck is None and ended:
            _finish(sink)
        else:
            self._over.cancel()

    async def _take(self, data: bytes, sink: trio.SocketStream, way: Way) -> None:
        if self._struck is not None:
            return
        self._followers[way].feed(data)
        self._note_opening(way)
        if way is Way.DOWN and self._passed[way] == 0 and self._fault is not None and self._fault.late:
            self._chaos.counts["late"] += 1
            await trio.sleep(self._fault.late)
        until = self._limit(way)
        if until is None or self._passed[way] + len(data) < until:
            await self._pass_on(data, sink, way)
        else:
            await self._pass_on(data[: max(0, until - self._passed[way])], sink, way)
            assert self._fault is not None
            self.strike(self._fault.kind)

    def _note_opening(self, way: Way) -> None:
        """Through TLS only the client's records tell when the handshake is over."""
        down, up = self._followers[Way.DOWN], self._followers[Way.UP]
        if way is Way.UP and up.secured and up.opened_at is not None and down.opened_at is None:
            down.opened_at = down.seen

    def _limit(self, way: Way) -> int | None:
        """The position in this direction where the fault strikes; None: not in what has come."""
        fault, follower = self._fault, self._followers[way]
        if fault is None or fault.way is not way:
            return None
        match fault.place, follower.opened_at, follower.close_at:
            case Place.HANDSHAKE, None, _:
                return fault.after
            case Place.HANDSHAKE, int(opened_at), _:
                # Where its last part came alone it has passed by now: too late for its place, but not for a cut.
                return max(self._passed[way], min(fault.after, opened_at - 1))
            case Place.CLOSE, _, int(close_at):
                return min(close_at + fault.after, follower.close_end)
            case Place.FRAME | Place.BETWEEN, int(opened_at), _:
                return opened_at + fault.after
        return None

    async def _pass_on(self, data: bytes, sink: trio.SocketStream, way: Way) -> None:
        slices = 0 if self._fault is None else max(0, self._fault.slices - self._passed[way])
        for piece in self._pieces(data, slices):
            if self._struck is not None:
                return
            await sink.send_all(piece)
            self._passed[way] += len(piece)
            if self._chaos.rate is not None:
                await trio.sleep(len(piece) / self._chaos.rate)

    def _pieces(self, data: bytes, slices: int) -> Iterable[bytes]:
        yield from (data[at : at + 1] for at in range(min(slices, len(data))))
        rest = data[slices:]
        size = len(rest) if self._chaos.rate is None else max(1, int(self._chaos.rate * _TICK))
        yield from (rest[at : at + size] for at in range(0, len(rest), size or 1))

    @property
    def _place(self) -> Place:
        """Where the connection is, in the direction that is further from peace."""
        places = {follower.place_of(self._passed[way]) for way, follower in self._followers.items()}
        return min(places, key=[Place.HANDSHAKE, Place.CLOSE, Place.FRAME, Place.BETWEEN].index)

    def strike(self, kind: Kind) -> None:
        """Do it. From now on nothing passes."""
        if self._struck is not None:
            return
        self._struck = kind
        now = trio.current_time()
        self._chaos.cuts.append(Cut(kind=kind, place=self._place, at=now))
        match kind:
            case Kind.RST:
                self._over.cancel()
            case Kind.FIN:
                for stream in self._streams:
                    _finish(stream)
                self._over.deadline = now + _DRAIN
            case Kind.HOLD:
                self._over.deadline = now + (0.05 if self._fault is None else self._fault.hold)
            case Kind.HOLE:
                pass
        if self._fault is not None and self._fault.refuse:
            self._chaos.refuse(self._fault.refuse)

    def end_hole(self) -> None:
        """Reset what nothing passes through any more."""
        if self._struck is Kind.HOLE:
            self._over.cancel()


def _bound(port: int) -> trio.socket.SocketType:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return trio.socket.from_stdlib_socket(bound)


def _finish(stream: trio.SocketStream) -> None:
    """Say that nothing more comes, and go on reading."""
    with suppress(OSError):
        stream.socket.shutdown(socket.SHUT_WR)


def _reset(stream: trio.SocketStream) -> None:
    """End a connection with what it has in its buffers; a reset, where the end was not reached before."""
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@asynccontextmanager
async def open_chaos(
    target: int, plan: Iterable[Fault | None] = (), *, rate: int | None = None
) -> AsyncIterator[Chaos]:
    """A proxy to a port of 127.0.0.1, for as long as the block lasts."""
    chaos = Chaos(target, plan, rate=rate)
    async with trio.open_nursery() as nursery:
        await nursery.start(chaos.run)
        yield chaos
        nursery.cancel_scope.cancel()


def fault_plan(
    draw: random.Random, rounds: int, *, head: int, up: int, down: int, closes: bool = True
) -> list[Fault]:
    """Faults of all kinds, in all places, in both directions, 25 a round, in an order of their own.

    `head` is about the size of a handshake, `up` and `down` are about the bytes between two cuts.
    """
    places = [Place.HANDSHAKE, Place.FRAME, Place.FRAME, Place.CLOSE if closes else Place.FRAME]
    plan: list[Fault] = []
    for _ in range(rounds):
        planned = [*product((Kind.FIN, Kind.RST, Kind.HOLD), Way, places)]
        planned.append((Kind.HOLE, draw.choice([*Way]), Place.FRAME))
        draw.shuffle(planned)
        for number, (kind, way, place) in enumerate(planned):
            scale = {Place.HANDSHAKE: head, Place.CLOSE: 9}.get(place, 2 * (up if way is Way.UP else down))
            plan.append(
                Fault(
                    kind=kind,
                    way=way,
                    place=place,
                    after=draw.randrange(scale),
                    slices=400 if number % 4 == 0 else 0,
                    late=0.05 if number % 4 == 1 else 0.0,
                    refuse=0.06 if number % 4 == 2 and kind is not Kind.HOLE else 0.0,
                )
            )
    return plan
