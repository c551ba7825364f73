"""Pushing 256-byte events to one local peer: this library beside its peers, in one run, as ratios.

Each contestant is a process of its own and so is the sink, which only reads frames and answers
pings. Figures are events per second of the contestant's own CPU time and of wall time; the sink
prints its own CPU time, so that it is seen not to be what is measured. Medians of several rounds,
contestants in turn within each round.

    python tests/bench/push.py [--events 100000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import importlib
import importlib.util
import json
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

from comparison import EVENT, TEXT, compare

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


# -- the sink ---------------------------------------------------------------------------------------


def sink() -> None:
    """Accept one connection; count its messages, answer its pings, tell figures at its end."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    head = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    key = head.split(b":", 1)[1].strip()
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    print(json.dumps({"messages": swallow(connection), "cpu": time.process_time()}), flush=True)


def swallow(connection: socket.socket) -> int:
    """Read frames until Close or the end; gives how many messages there were."""
    data = bytearray()
    position = messages = 0
    while chunk := connection.recv(1 << 20):
        del data[:position]
        position = 0
        data += chunk
        end = len(data)
        while end - position >= 6:
            opcode, length, start = data[position] & 0xF, data[position + 1] & 0x7F, position + 6
            if length == 126:
                length, start = int.from_bytes(data[position + 2 : position + 4], "big"), position + 8
            if start + length > end:
                break
            if opcode in (1, 2):
                messages += 1
            else:
                key = data[start - 4 : start]
                payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(data[start : start + length]))
                connection.sendall(bytes((0x8A if opcode == 9 else 0x88, length)) + payload)
                if opcode == 8:
                    return messages
            position = start + length
    return messages


# -- the contestants ----------------------------------------------------------------------------------


def push_trio_wsout(url: str, count: int) -> None:
    import trio
    import trio_wsout

    async def main() -> None:
        async with trio_wsout.open_output({"url": url}) as output:
            for _ in range(count):
                await output.send(EVENT)

    trio.run(main)


def push_trio_websocket(url: str, count: int) -> None:
    import trio
    from trio_websocket import open_websocket_url

    async def main() -> None:
        async with open_websocket_url(url) as connection:
            for _ in range(count):
                await connection.send_message(TEXT)

    trio.run(main)


def push_websockets(url: str, count: int) -> None:
    from websockets.asyncio.client import connect

    async def main() -> None:
        async with connect(url, compression=None, proxy=None) as connection:
            for _ in range(count):
                await connection.send(TEXT)

    asyncio.run(main())


def push_aiohttp(url: str, count: int) -> None:
    import aiohttp

    async def main() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as connection:
            for _ in range(count):
                await connection.send_str(TEXT)

    asyncio.run(main())


def push_picows(url: str, count: int) -> None:
    import picows

    payload = TEXT.encode()

    async def main() -> None:
        transport, _ = await picows.ws_connect(picows.WSListener, url)
        for number in range(count):
            transport.send(picows.WSMsgType.TEXT, payload)
            if number % 256 == 0:
                await asyncio.sleep(0)
        transport.send_close()
        await transport.wait_disconnected()

    asyncio.run(main())


CONTESTANTS = {
    "trio_websocket": push_trio_websocket,
    "trio_wsout": push_trio_wsout,
    "websockets": push_websockets,
    "aiohttp": push_aiohttp,
    "picows": push_picows,
}


# -- the run ------------------------------------------------------------------------------------------


def one(name: str, url: str, count: int) -> None:
    """Be one contestant; print the figures of the pushing alone, imports not counted."""
    for module in (name, "trio", "websockets.asyncio.client"):
        importlib.import_module(module)
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    CONTESTANTS[name](url, count)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu": cpu, "wall": wall, "peak": after.ru_maxrss}))


def round_of(name: str, count: int) -> dict[str, float]:
    script = str(Path(__file__).resolve())
    with subprocess.Popen([sys.executable, script, "--sink"], stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())
        run = subprocess.run(
            [
                sys.executable,
                script,
                "--one",
                name,
                "--url",
                f"ws://127.0.0.1:{port}/",
                "--events",
                str(count),
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        seen = json.loads(receiver.stdout.readline())
    assert seen["messages"] == count, (name, seen)
    return {**json.loads(run.stdout), "other": seen["cpu"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sink:
        sink()
        return
    if arguments.one:
        one(arguments.one, arguments.url, arguments.events)
        return
    events = arguments.events
    compare(
        CONTESTANTS,
        lambda name: round_of(name, events),
        rounds=arguments.rounds,
        amount=events,
        unit="events",
        other="sink",
        what=f"{events} a round, all confirmed where there is such a thing",
    )


if __name__ == "__main__":
    main()
