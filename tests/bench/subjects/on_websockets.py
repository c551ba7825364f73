"""websockets on asyncio: `broadcast`, which its documentation recommends for many peers."""

from __future__ import annotations

import asyncio
import contextlib

from event import now, text_of
from stage import LOOK, SETTLE, Clock, Job, perform, ready
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed


async def listen(job: Job, take, main) -> None:
    """Serve until `main` is over."""
    beat = job.heartbeat or None
    async with serve(
        take, "127.0.0.1", 0, ssl=job.server_tls(), compression=None, ping_interval=beat, ping_timeout=10
    ) as server:
        ready(server.sockets[0].getsockname()[1])
        await main()


def fanout(job: Job) -> None:
    clock, present, left = Clock(), set[ServerConnection](), asyncio.Event()

    async def take(connection: ServerConnection) -> None:
        present.add(connection)
        await connection.wait_closed()
        left.set()

    async def main() -> None:
        while len(present) < job.peers:
            await asyncio.sleep(LOOK)
        await asyncio.sleep(SETTLE)
        clock.start()
        text = text_of(job.size)
        for number in range(job.events):
            broadcast(present, text_of(job.size, now()) if job.pace else text)
            if job.pace or number % 16 == 0:
                await asyncio.sleep(job.pace)
        await left.wait()
        clock.tell()

    asyncio.run(listen(job, take, main))


def idle(job: Job) -> None:
    async def take(connection: ServerConnection) -> None:
        await connection.wait_closed()

    asyncio.run(listen(job, take, asyncio.Event().wait))


def receive(job: Job) -> None:
    clock, count = Clock(), 0

    async def take(connection: ServerConnection) -> None:
        nonlocal count
        async for _ in connection:
            clock.start()
            count += 1
            if count == job.events:
                clock.tell()

    asyncio.run(listen(job, take, asyncio.Event().wait))


def relay(job: Job) -> None:
    clock, present, left = Clock(), set[ServerConnection](), asyncio.Event()

    async def take(connection: ServerConnection) -> None:
        present.add(connection)
        with contextlib.suppress(ConnectionClosed):
            async for text in connection:
                clock.start()
                broadcast(present - {connection}, text)
        left.set()

    async def main() -> None:
        await left.wait()
        clock.tell()

    asyncio.run(listen(job, take, main))


def push(job: Job) -> None:
    async def main() -> None:
        clock, text = Clock(), text_of(job.size)
        async with connect(job.url, ssl=job.client_tls(), compression=None, proxy=None) as connection:
            clock.start()
            for _ in range(job.events):
                await connection.send(text)
        clock.tell()

    asyncio.run(main())


if __name__ == "__main__":
    perform({each.__name__: each for each in (fanout, idle, receive, relay, push)})
