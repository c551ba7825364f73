"""Fan-out of 256-byte events to local peers: this library beside its peers, in one run, as ratios.

Each contestant is a server in a process of its own; all peers live in one other process, which only
counts frames and answers pings. Figures are frames (events times peers) per second of the server's
own CPU time and of wall time, from the first event until the last peer has the last of them; the
peers' CPU time is printed, too. Medians of several rounds, contestants in turn within each round.

    python tests/bench/fanout.py [--events 5000] [--peers 100] [--paced 0.005] [--rounds 3] [--only NAME]…

`--paced` sends one event that often, in seconds, in place of a burst.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import json
import resource
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path

from comparison import EVENT, TEXT, compare, module_of

FRAME = 4 + len(TEXT)
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


# -- the peers --------------------------------------------------------------------------------------


class Peer:
    """One raw connection: counts text frames, answers pings."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(HANDSHAKE)
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.socket.recv(65536)
        assert self.rest.startswith(b"HTTP/1.1 101"), self.rest
        self.rest = self.rest.partition(b"\r\n\r\n")[2]
        self.frames = 0

    def read(self) -> None:
        data = self.rest + self.socket.recv(1 << 18)
        position, end = 0, len(data)
        while end - position >= 2:
            if data[position] == 0x81:
                if position + FRAME > end:
                    break
                self.frames += 1
                position += FRAME
                continue
            size = data[position + 1]
            if position + 2 + size > end:
                break
            if data[position] == 0x89:
                self.socket.sendall(
                    bytes((0x8A, 0x80 | size, 0, 0, 0, 0)) + data[position + 2 : position + 2 + size]
                )
            position += 2 + size
        self.rest = data[position:]


def audience(port: int, peers: int, events: int) -> None:
    """Connect; read until everybody has everything; tell when that was, and the CPU time of it."""
    selector = selectors.DefaultSelector()
    for _ in range(peers):
        peer = Peer(port)
        peer.socket.setblocking(False)
        selector.register(peer.socket, selectors.EVENT_READ, peer)
    waiting = peers
    start = time.process_time()
    while waiting:
        for key, _ in selector.select():
            before = key.data.frames
            key.data.read()
            waiting -= before < events <= key.data.frames
    print(json.dumps({"cpu": time.process_time() - start, "done": time.monotonic()}), flush=True)
    # What still comes (a ping, a Close) needs a reader for the moment that the server takes to see us go.
    for key in list(selector.get_map().values()):
        assert key.data.frames == events
        key.data.socket.close()


# -- the contestants ----------------------------------------------------------------------------------


class Clock:
    """Takes the figures of a server from its first event on."""

    def start(self) -> None:
        self.before = resource.getrusage(resource.RUSAGE_SELF)
        self.at = time.monotonic()

    def tell(self) -> None:
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - self.before.ru_utime - self.before.ru_stime
        print(json.dumps({"cpu": cpu, "start": self.at, "peak": after.ru_maxrss}), flush=True)


def ready(port: int) -> None:
    print(port, flush=True)


def serve_trio_wsout(peers: int, events: int, pace: float, **more: object) -> None:
    import trio
    import trio_wsout

    async def main() -> None:
        clock = Clock()
        config = {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}, **more}
        async with trio_wsout.open_output(config) as output:
            ready(int(output.statistics().addresses[0].rpartition(":")[2]))
            await output.wait_peers(peers)
            clock.start()
            for _ in range(events):
                await output.send(EVENT)
                if pace:
                    await trio.sleep(pace)
            while output.statistics().peers:
                await trio.sleep(0.01)
        clock.tell()

    trio.run(main)


def serve_trio_wsout_history(peers: int, events: int, pace: float) -> None:
    serve_trio_wsout(peers, events, pace, history={"store": "memory:", "max-events": 10_000})


def serve_trio_websocket(peers: int, events: int, pace: float) -> None:
    import trio
    from trio_websocket import ConnectionClosed, serve_websocket

    async def main() -> None:
        clock = Clock()
        channels: list[trio.MemorySendChannel[str]] = []
        gone = 0

        async def handle(request: object) -> None:
            nonlocal gone
            connection = await request.accept()
            sending, taking = trio.open_memory_channel(256)
            channels.append(sending)
            try:
                async for text in taking:
                    await connection.send_message(text)
                await connection.get_message()
            except ConnectionClosed:
                pass
            gone += 1

        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
            ready(server.port)
            while len(channels) < peers:
                await trio.sleep(0.01)
            clock.start()
            for _ in range(events):
                for channel in channels:
                    await channel.send(TEXT)
                if pace:
                    await trio.sleep(pace)
            for channel in channels:
                channel.close()
            while gone < peers:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        clock.tell()

    trio.run(main)


def serve_websockets(peers: int, events: int, pace: float) -> None:
    from websockets.asyncio.server import broadcast, serve

    async def main() -> None:
        clock = Clock()
        connections: set[object] = set()

        async def handle(connection: object) -> None:
            connections.add(connection)
            await connection.wait_closed()
            connections.discard(connection)

        async with serve(handle, "127.0.0.1", 0, compression=None) as server:
            ready(server.sockets[0].getsockname()[1])
            while len(connections) < peers:
                await asyncio.sleep(0.01)
            clock.start()
            for number in range(events):
                broadcast(connections, TEXT)
                if pace or number % 16 == 0:
                    await asyncio.sleep(pace)
            while connections:
                await asyncio.sleep(0.01)
        clock.tell()

    asyncio.run(main())


def serve_aiohttp(peers: int, events: int, pace: float) -> None:
    from aiohttp import web

    async def main() -> None:
        clock = Clock()
        connections: list[web.WebSocketResponse] = []
        gone = 0

        async def handle(request: web.Request) -> web.WebSocketResponse:
            nonlocal gone
            connection = web.WebSocketResponse(compress=False)
            await connection.prepare(request)
            connections.append(connection)
            async for _ in connection:
                pass
            gone += 1
            return connection

        app = web.Application()
        app.router.add_get("/", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ready(runner.addresses[0][1])
        while len(connections) < peers:
            await asyncio.sleep(0.01)
        clock.start()
        for _ in range(events):
            for connection in connections:
                await connection.send_str(TEXT)
            await asyncio.sleep(pace)
        while gone < peers:
            await asyncio.sleep(0.01)
        clock.tell()
        await runner.cleanup()

    asyncio.run(main())


def serve_picows(peers: int, events: int, pace: float) -> None:
    import picows

    payload = TEXT.encode()

    async def main() -> None:
        clock = Clock()
        transports: set[object] = set()

        class Listener(picows.WSListener):
            def on_ws_connected(self, transport: object) -> None:
                transports.add(transport)

            def on_ws_disconnected(self, transport: object) -> None:
                transports.discard(transport)

        server = await picows.ws_create_server(lambda _: Listener(), "127.0.0.1", 0)
        async with server:
            ready(server.sockets[0].getsockname()[1])
            while len(transports) < peers:
                await asyncio.sleep(0.01)
            clock.start()
            for number in range(events):
                for transport in list(transports):
                    transport.send(picows.WSMsgType.TEXT, payload)
                if pace or number % 16 == 0:
                    await asyncio.sleep(pace)
            while transports:
                await asyncio.sleep(0.01)
        clock.tell()

    asyncio.run(main())


CONTESTANTS = {
    "trio_websocket": serve_trio_websocket,
    "trio_wsout": serve_trio_wsout,
    "trio_wsout_history": serve_trio_wsout_history,
    "websockets": serve_websockets,
    "aiohttp": serve_aiohttp,
    "picows": serve_picows,
}


# -- the run ------------------------------------------------------------------------------------------


def round_of(name: str, peers: int, events: int, pace: float) -> dict[str, float]:
    script = [sys.executable, str(Path(__file__).resolve())]
    shape = ["--peers", str(peers), "--events", str(events), "--paced", str(pace)]
    with contextlib.ExitStack() as stack:
        serving = [*script, *shape, "--serve", name]
        server = stack.enter_context(subprocess.Popen(serving, stdout=subprocess.PIPE, text=True))
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        watching = [*script, *shape, "--audience", port]
        seen = json.loads(
            subprocess.run(watching, check=True, capture_output=True, text=True, timeout=300).stdout
        )
        told = json.loads(server.stdout.readline())
    return {
        "cpu": told["cpu"],
        "wall": seen["done"] - told["start"],
        "peak": told["peak"],
        "other": seen["cpu"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--paced", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--audience", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    peers, events, pace = arguments.peers, arguments.events, arguments.paced
    if arguments.serve:
        importlib.import_module(module_of(arguments.serve))
        CONTESTANTS[arguments.serve](peers, events, pace)
        return
    if arguments.audience:
        audience(arguments.audience, peers, events)
        return
    pattern = f"one event every {pace:g} s" if pace else "a burst"
    compare(
        arguments.only or list(CONTESTANTS),
        lambda name: round_of(name, peers, events, pace),
        rounds=arguments.rounds,
        amount=events * peers,
        unit="frames",
        other="peers",
        what=f"{pattern}, {events} events to each of {peers} peers",
    )


if __name__ == "__main__":
    main()
