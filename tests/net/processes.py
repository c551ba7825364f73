"""Processes that are killed and stopped: what runs in them, how they are started, and peers that take nothing on trust.

As a program: ``processes.py ROLE OPTIONS``, the options a JSON object.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, RejectConnection, Request, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from wsproto.events import Event

LONG = os.environ.get("FAULTS") == "long"


def seeded() -> random.Random:
    """Chance, and its seed among what pytest shows of a test that fails."""
    seed = int(os.environ.get("FAULTS_SEED") or secrets.randbits(32))
    print(f"FAULTS_SEED={seed}")
    return random.Random(seed)


def bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Have a test fail that hangs. (A scope in a fixture would not do that: no test runs inside it.)"""

    @wraps(test)
    async def bound(**arguments: Any) -> None:
        with trio.fail_after(1800 if LONG else 600):
            await test(**arguments)

    return bound


async def until(holds: Callable[[], object], within: float = 300) -> None:
    with trio.fail_after(within):
        while not holds():
            await trio.sleep(0.005)


def free_port() -> int:
    """A free port out of which no connection goes: where nobody listens, such a one could meet itself."""
    while True:
        port = random.randrange(20_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def reset(stream: trio.SocketStream) -> None:
    """Have closing it be a reset, which loses what is on its way."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class StrictPeer:
    """A server on wsproto: a message is kept before anything behind it is looked at, a ping answered after that."""

    def __init__(self, keep: Callable[[int, str], object], *, acks: bool = False) -> None:
        """Have `keep` called with the number of the connection and each message; `acks` names their stamps."""
        self._keep = keep
        self._acks = acks
        self.step: Callable[[], int] = lambda: 65536
        """Gives the most bytes to read next."""
        self.cut_after: Callable[[], int] | None = None
        """Gives how many messages a connection lives."""
        self.close_after: Callable[[], int | None] = lambda: None
        """Gives the message of a connection after which to say Close, and read on; None: never."""
        self.opened: Callable[[int, Request], object] = lambda number, request: None
        self.connections = 0
        self.faults: list[str] = []
        """What was no WebSocket protocol."""
        self.torn = 0
        """Connections that ended inside a message."""

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to its end, whoever ends it."""
        one = _One(self, stream, self.connections)
        self.connections += 1
        try:
            await one.run()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except (RemoteProtocolError, LocalProtocolError) as error:
            self.faults.append(f"connection {one.number}: {error!r}")
        finally:
            self.torn += bool(one.parts)
            await trio.aclose_forcefully(stream)

    def took(self, number: int, text: str) -> bytes | None:
        """Keep a message; gives the acknowledgement."""
        self._keep(number, text)
        return json.dumps({"ack": json.loads(text)["seq"]}).encode() if self._acks else None


class _One:
    """One connection of a strict peer."""

    def __init__(self, peer: StrictPeer, stream: trio.abc.Stream, number: int) -> None:
        self.number = number
        self.parts: list[str] = []
        self._peer = peer
        self._stream = stream
        self._websocket = WSConnection(ConnectionType.SERVER)
        self._left = peer.cut_after() if peer.cut_after is not None else None
        self._ack: bytes | None = None
        self._whole_messages = 0
        self._closing = False

    async def run(self) -> None:
        while True:
            data = await self._stream.receive_some(self._peer.step())
            if not data:
                return
            self._websocket.receive_data(bytes(data))
            for event in self._websocket.events():
                if not await self._on(event):
                    return
            if self._ack is not None:
                ack, self._ack = self._ack, None
                await self._send(TextMessage(data=ack.decode()))

    async def _send(self, event: Event) -> None:
        await self._stream.send_all(self._websocket.send(event))

    async def _on(self, event: Event) -> bool:
        """Do what an event asks for; False: that was the last."""
        match event:
            case Request():
                self._peer.opened(self.number, event)
                await self._send(AcceptConnection())
            case TextMessage():
                self.parts.append(event.data)
                return not event.message_finished or await self._whole()
            case Ping():
                await self._send(event.response())
            case CloseConnection():
                if not self._closing:
                    await self._send(event.response())
                return False
            case _:
                raise RemoteProtocolError(f"{event!r} is not what this side sends")
        return True

    async def _whole(self) -> bool:
        text = "".join(self.parts)
        self.parts.clear()
        self._ack = self._peer.took(self.number, text)
        self._whole_messages += 1
        if self._whole_messages == self._peer.close_after():
            self._closing = True
            await self._send(CloseConnection(code=1012))
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                if isinstance(self._stream, trio.SocketStream) and self.number % 2:
                    reset(self._stream)
                return False
        return True


class Subscription:
    """A client on wsproto of a server that keeps a history: resumes after the last event that it took."""

    def __init__(self, keep: Callable[[Any], object], cursor: str | None = None) -> None:
        self.keep = keep
        self.cursor = cursor
        self.seen = 0
        """Events that came so far."""
        self.resumed: list[str | None] = []
        """What the answers to its handshakes say of its cursor."""
        self.close_code: int | None = None

    async def visit(self, port: int, most: int, how: str = "FIN") -> None:
        """Connect, and take events until the connection is over, or until there were so many; then cut it so."""
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        if how == "RST":
            reset(stream)
        try:
            await self.stay(stream, self.seen + most)
        except trio.BrokenResourceError:
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def stay(self, stream: trio.SocketStream, most: int) -> None:
        """Take events on a stream that is open, until the connection is over, or until there were so many in all."""
        websocket = WSConnection(ConnectionType.CLIENT)
        extra = [] if self.cursor is None else [(b"last-event-id", self.cursor.encode())]
        await stream.send_all(websocket.send(Request(host="127.0.0.1", target="/", extra_headers=extra)))
        parts: list[str] = []
        while data := await stream.receive_some(65536):
            websocket.receive_data(bytes(data))
            for event in websocket.events():
                match event:
                    case AcceptConnection():
                        headers = dict(event.extra_headers)
                        status = headers.get(b"resume-status")
                        self.resumed.append(None if status is None else status.decode())
                    case RejectConnection():
                        raise AssertionError(f"refused with {event.status_code}")
                    case TextMessage():
                        parts.append(event.data)
                        if event.message_finished:
                            self._take("".join(parts))
                            parts.clear()
                            if self.seen == most:
                                return
                    case Ping():
                        await stream.send_all(websocket.send(event.response()))
                    case CloseConnection():
                        self.close_code = event.code
                        await stream.send_all(websocket.send(event.response()))
                        return
                    case _:
                        pass

    def _take(self, text: str) -> None:
        event = json.loads(text)
        if "seq" in event:
            self.cursor = event["seq"]
            self.seen += 1
        self.keep(event)


class Child:
    """One of the roles below in a process of its own; what it prints is in a file."""

    def __init__(
        self,
        folder: Path,
        role: str,
        *,
        popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
        **options: Any,
    ) -> None:
        self._said = folder / f"{role}-{secrets.token_hex(4)}"
        with self._said.open("wb") as said:
            self.process = popen(
                [sys.executable, __file__, role, json.dumps(options)], stdin=subprocess.DEVNULL, stdout=said
            )

    @property
    def said(self) -> list[dict[str, Any]]:
        """The objects that it has printed so far."""
        whole, _, _ = self._said.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    async def until(self, holds: Callable[[], object], within: float = 300) -> None:
        """Wait until something holds that needs it alive."""

        def look() -> bool:
            ended = self.process.poll() is not None
            held = bool(holds())
            assert held or not ended, f"the process has ended with {self.process.returncode}"
            return held

        await until(look, within)

    async def wait_for(self, like: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until it printed an object like that; gives the first."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = filter(like, self.said)
            return bool(found)

        await self.until(look)
        return found[0]

    async def wait_said(self, key: str) -> Any:
        """Wait until it printed an object with that key; gives the value."""
        return (await self.wait_for(lambda said: key in said))[key]

    async def wait(self, within: float = 60) -> int:
        """Wait for its end; gives the exit code."""
        await until(lambda: self.process.poll() is not None, within)
        return self.process.returncode

    def signal(self, which: signal.Signals) -> None:
        self.process.send_signal(which)

    def kill(self) -> None:
        """Kill it as by ``kill -9``; when this returns, it is no more."""
        self.process.kill()
        self.process.wait()


class Receiving:
    """A strict peer in a process of its own, at one port through its lives; the file of what it read."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", **options: Any) -> None:
        self._folder = folder
        self.host = host
        self.port = free_port()
        self.url = f"ws://{host}:{self.port}/"
        self.file = folder / "read"
        self.file.touch()
        self._options = options
        self.child: Child | None = None

    async def start(self) -> None:
        self.child = Child(
            self._folder,
            "receive",
            host=self.host,
            port=self.port,
            file=str(self.file),
            **self._options,
        )
        await self.child.wait_said("ready")

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()

    def signal(self, which: signal.Signals) -> None:
        assert self.child is not None
        self.child.signal(which)

    @property
    def lines(self) -> list[tuple[str, str, str]]:
        """What it noted: connection, ``open`` or ``text``, and the message or the request's cursor header."""
        whole, _, _ = self.file.read_text().rpartition("\n")  # what a kill has torn was not read
        found = [line.split(" ", 2) for line in whole.split("\n") if line]
        return [(number, kind, rest) for number, kind, rest in found]

    @property
    def numbers(self) -> list[int]:
        """The number in each event, in the order in which they were read."""
        return [json.loads(text)["n"] for _, kind, text in self.lines if kind == "text"]

    @property
    def distinct(self) -> list[int]:
        """The numbers without those that were there before."""
        return list(dict.fromkeys(self.numbers))


@contextmanager
def disconnection(*things: Any) -> Iterator[None]:
    """Kill the processes of these when the block ends, however it does."""
    try:
        yield
    finally:
        for each in things:
            child = each.child if isinstance(each, Receiving) else each
            if child is not None:
                child.kill()


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def receive(options: dict[str, Any]) -> None:
    """Role: a strict peer that appends what it reads to a file before it reads on."""
    draw = random.Random(options.get("seed"))
    out = os.open(options["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    life = os.getpid()

    def keep(number: int, text: str) -> None:
        os.write(out, f"{life}.{number} text {text}\n".encode())

    def opened(number: int, request: Request) -> None:
        cursor = dict(request.extra_headers).get(b"last-event-id", b"")
        os.write(out, f"{life}.{number} open {cursor.decode()}\n".encode())

    peer = StrictPeer(keep, acks=options.get("acks", False))
    peer.opened = opened
    if "cut" in options:
        peer.cut_after = partial(draw.randint, *options["cut"])
    listeners = await trio.open_tcp_listeners(options["port"], host=options["host"])
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, peer.serve, listeners)
        say(ready=True)
        seen = 0
        while True:
            await trio.sleep(0.05)
            if len(peer.faults) > seen:
                seen = len(peer.faults)
                say(faults=peer.faults)


async def send(options: dict[str, Any]) -> None:
    """Role: an output that sends numbered events at a pace, and tells what becomes of its link.

    Where it pauses, SIGUSR1 makes it go on; where it does not, SIGUSR1 makes it send no more.
    """
    import trio_wsout

    heard, total, burst = 0, options.get("total"), options.get("burst", 1)
    pause_every: int | None = options.get("pause_every")

    def tell(change: trio_wsout.LinkChange) -> None:
        why = None if change.disconnection is None else change.disconnection.detail
        say(state=change.state.value, at=time.monotonic(), why=why)

    async def hear() -> None:
        nonlocal heard
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            async for _ in signals:
                heard += 1

    async with (
        trio_wsout.open_output(options["config"], on_state=tell) as output,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(hear)
        cursor = output.statistics().link.cursor
        number = 0 if cursor is None else int(cursor) + 1
        say(first=number)
        while number != total and (pause_every or not heard):
            while pause_every and heard < number // pause_every:
                await trio.sleep(0.01)
            await output.send({"n": number})
            number += 1
            if "pace" in options and number % burst == 0:
                await trio.sleep(options["pace"])
        await output.flush()
        statistics = output.statistics()
        nursery.cancel_scope.cancel()
    say(
        sent=number,
        confirmed=statistics.confirmed,
        undelivered=statistics.undelivered,
        reconnects=statistics.link.reconnects,
        misses=statistics.heartbeat_misses,
    )


async def spool(options: dict[str, Any]) -> None:
    """Role: an output with a spool; many tasks send, and each number is noted when its `send` has returned.

    One that is `idle` sends nothing, and ends at SIGUSR1.
    """
    import trio_wsout

    out = os.open(options["sent"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    number, total = options["first"], options.get("total")

    async def post() -> None:
        nonlocal number
        while total is None or number < total:
            taken, number = number, number + 1
            await output.send({"n": taken})
            os.write(out, f"{taken}\n".encode())

    async with trio_wsout.open_output(options["config"]) as output:
        figures = output.statistics()
        say(left=figures.spool.events)
        if options.get("idle"):
            with trio.open_signal_receiver(signal.SIGUSR1) as signals:
                await anext(signals)
            return
        async with trio.open_nursery() as nursery:
            for _ in range(options["tasks"]):
                nursery.start_soon(post)
    say(confirmed=output.statistics().confirmed)


async def serve(options: dict[str, Any]) -> None:
    """Role: a server output that sends until it is killed, and notes what is confirmed."""
    import trio_wsout

    run, out = options["run"], os.open(options["confirmed"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sending, taking = trio.open_memory_channel[tuple[int, trio_wsout.Receipt]](10_000)

    async def note() -> None:
        async for number, receipt in taking:
            await receipt.wait()
            os.write(out, f"{run} {number}\n".encode())

    async with trio.open_nursery() as nursery, trio_wsout.open_output(options["config"]) as output:
        say(ready=True)
        nursery.start_soon(note)
        for number in itertools.count():
            await sending.send((number, await output.submit({"run": run, "n": number})))
            if number % 10 == 0:
                await trio.sleep(0.001)


async def visit(options: dict[str, Any]) -> None:
    """Role: clients that come for some events, go, and come back with their cursor."""
    draw = random.Random(options["seed"])
    taken = 0

    async def live() -> None:
        nonlocal taken
        numbers: list[int] = []

        def keep(event: Any) -> None:
            assert not numbers or event["n"] == numbers[0] + 1, f"{event} after {numbers}"
            numbers[:] = [event["n"]]

        client = Subscription(keep)
        for _ in range(options["visits"]):
            await client.visit(
                options["port"], draw.randint(*options["stays"]), how=draw.choice(["RST", "FIN"])
            )
            await trio.sleep(draw.random() * 0.05)
        assert client.resumed == [None, *["resumed"] * (options["visits"] - 1)]
        assert client.close_code is None
        taken += client.seen

    async with trio.open_nursery() as nursery:
        for _ in range(options["clients"]):
            nursery.start_soon(live)
    say(taken=taken)


ROLES = {"receive": receive, "send": send, "serve": serve, "spool": spool, "visit": visit}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests end it
    trio.run(ROLES[sys.argv[1]], json.loads(sys.argv[2]))
