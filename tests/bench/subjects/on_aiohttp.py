"""aiohttp: `send_str` to each connection, which waits while that one is full."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web
from event import now, text_of
from stage import LOOK, SETTLE, Clock, Job, perform, ready


async def listen(job: Job, take, main) -> None:
    """Serve until `main` is over; `take` is given each open connection."""

    async def answer(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=False, heartbeat=job.heartbeat or None)
        await connection.prepare(request)
        await take(connection)
        return connection

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=job.server_tls())
    await site.start()
    ready(runner.addresses[0][1])
    await main()


def fanout(job: Job) -> None:
    clock, left = Clock(), asyncio.Event()
    present: list[web.WebSocketResponse] = []

    async def take(connection: web.WebSocketResponse) -> None:
        present.append(connection)
        await drain(connection)
        left.set()

    async def main() -> None:
        while len(present) < job.peers:
            await asyncio.sleep(LOOK)
        await asyncio.sleep(SETTLE)
        clock.start()
        text = text_of(job.size)
        for _ in range(job.events):
            fresh = text_of(job.size, now()) if job.pace else text
            for connection in present:
                await connection.send_str(fresh)
            await asyncio.sleep(job.pace)
        await left.wait()
        clock.tell()

    asyncio.run(listen(job, take, main))


async def drain(connection: web.WebSocketResponse) -> None:
    async for _ in connection:
        pass


def idle(job: Job) -> None:
    asyncio.run(listen(job, drain, asyncio.Event().wait))


def receive(job: Job) -> None:
    clock, count = Clock(), 0

    async def take(connection: web.WebSocketResponse) -> None:
        nonlocal count
        async for _ in connection:
            clock.start()
            count += 1
            if count == job.events:
                clock.tell()

    asyncio.run(listen(job, take, asyncio.Event().wait))


def relay(job: Job) -> None:
    clock, left = Clock(), asyncio.Event()
    present: list[web.WebSocketResponse] = []

    async def take(connection: web.WebSocketResponse) -> None:
        present.append(connection)
        async for message in connection:
            clock.start()
            for other in present:
                if other is not connection:
                    await other.send_str(message.data)
        left.set()

    async def main() -> None:
        await left.wait()
        clock.tell()

    asyncio.run(listen(job, take, main))


def push(job: Job) -> None:
    async def main() -> None:
        clock, text = Clock(), text_of(job.size)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(job.url, ssl=job.client_tls() or True) as connection,
        ):
            clock.start()
            for _ in range(job.events):
                await connection.send_str(text)
        clock.tell()

    asyncio.run(main())


if __name__ == "__main__":
    perform({each.__name__: each for each in (fanout, idle, receive, relay, push)})
