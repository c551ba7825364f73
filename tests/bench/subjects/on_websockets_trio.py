"""websockets on Trio: its `broadcast`, which waits for the slowest peer."""

from __future__ import annotations

import trio
from event import now, text_of
from stage import LOOK, SETTLE, Clock, Job, perform, ready
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import connect
from websockets.trio.connection import broadcast
from websockets.trio.server import ServerConnection, serve


def listen(job: Job, take, main) -> None:
    """Serve until `main` is over."""

    async def run() -> None:
        beat = job.heartbeat or None
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            ready(listener.socket.getsockname()[1])
            nursery.start_soon(
                lambda: serve(
                    take,
                    listeners=[listener],
                    ssl=job.server_tls(),
                    compression=None,
                    ping_interval=beat,
                    ping_timeout=10,
                )
            )
            await main()

    trio.run(run)


def fanout(job: Job) -> None:
    clock, present, left = Clock(), set[ServerConnection](), trio.Event()

    async def take(connection: ServerConnection) -> None:
        present.add(connection)
        await drain(connection)
        left.set()

    async def main() -> None:
        while len(present) < job.peers:
            await trio.sleep(LOOK)
        await trio.sleep(SETTLE)
        clock.start()
        text = text_of(job.size)
        for _ in range(job.events):
            await broadcast(present, text_of(job.size, now()) if job.pace else text)
            if job.pace:
                await trio.sleep(job.pace)
        await left.wait()
        clock.tell()

    listen(job, take, main)


async def drain(connection: ServerConnection) -> None:
    try:
        async for _ in connection:
            pass
    except ConnectionClosed:
        pass


def idle(job: Job) -> None:
    listen(job, drain, trio.sleep_forever)


def receive(job: Job) -> None:
    clock, count = Clock(), 0

    async def take(connection: ServerConnection) -> None:
        nonlocal count
        async for _ in connection:
            clock.start()
            count += 1
            if count == job.events:
                clock.tell()

    listen(job, take, trio.sleep_forever)


def relay(job: Job) -> None:
    clock, present, left = Clock(), set[ServerConnection](), trio.Event()

    async def take(connection: ServerConnection) -> None:
        present.add(connection)
        try:
            async for text in connection:
                clock.start()
                await broadcast(present - {connection}, text)
        except ConnectionClosed:
            pass
        left.set()

    async def main() -> None:
        await left.wait()
        clock.tell()

    listen(job, take, main)


def push(job: Job) -> None:
    async def main() -> None:
        clock, text = Clock(), text_of(job.size)
        async with connect(job.url, ssl=job.client_tls(), compression=None, proxy=None) as connection:
            clock.start()
            for _ in range(job.events):
                await connection.send(text)
        clock.tell()

    trio.run(main)


if __name__ == "__main__":
    perform({each.__name__: each for each in (fanout, idle, receive, relay, push)})
