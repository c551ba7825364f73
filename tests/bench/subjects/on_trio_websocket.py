"""trio-websocket alone: a task, a bounded channel and `send_message` for each peer, as its documentation has it."""

from __future__ import annotations

import trio
from event import now, text_of
from stage import LOOK, SETTLE, Clock, Job, perform, ready
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url, serve_websocket


class Room:
    """The peers of one server."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.channels: list[trio.MemorySendChannel[str]] = []
        self.connections: list[WebSocketConnection] = []
        self.left = 0

    async def take(self, request) -> None:
        connection = await request.accept()
        sending, taking = trio.open_memory_channel[str](256)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.forward, connection, taking)
                if self.job.heartbeat:
                    nursery.start_soon(self.ping, connection)
                self.channels.append(sending)
                self.connections.append(connection)
                await self.listen(connection)
        except* ConnectionClosed:
            pass
        self.left += 1

    async def listen(self, connection: WebSocketConnection) -> None:
        while True:
            await connection.get_message()

    async def forward(self, connection: WebSocketConnection, taking: trio.MemoryReceiveChannel[str]) -> None:
        async for text in taking:
            await connection.send_message(text)

    async def ping(self, connection: WebSocketConnection) -> None:
        while True:
            await trio.sleep(self.job.heartbeat)
            with trio.fail_after(10):
                await connection.ping()

    async def send(self, text: str) -> None:
        for channel in self.channels:
            await channel.send(text)

    async def until(self, *, present: int = 0, gone: int = 0) -> None:
        while len(self.channels) < present or self.left < gone:
            await trio.sleep(LOOK)


class Relay(Room):
    """What a peer sends goes to all others."""

    clock = Clock()

    async def listen(self, connection: WebSocketConnection) -> None:
        while True:
            text = await connection.get_message()
            self.clock.start()
            for channel, other in zip(self.channels, self.connections, strict=True):
                if other is not connection:
                    await channel.send(text)


class Counting(Room):
    """What peers send is counted."""

    clock = Clock()
    count = 0

    async def listen(self, connection: WebSocketConnection) -> None:
        while True:
            await connection.get_message()
            self.clock.start()
            self.count += 1
            if self.count == self.job.events:
                self.clock.tell()


def serve(room: Room, main) -> None:
    async def run() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, room.take, "127.0.0.1", 0, room.job.server_tls())
            ready(server.port)
            await main()

    trio.run(run)


def fanout(job: Job) -> None:
    room, clock = Room(job), Clock()

    async def main() -> None:
        await room.until(present=job.peers)
        await trio.sleep(SETTLE)
        clock.start()
        text = text_of(job.size)
        for _ in range(job.events):
            await room.send(text_of(job.size, now()) if job.pace else text)
            if job.pace:
                await trio.sleep(job.pace)
        await room.until(gone=1)
        clock.tell()

    serve(room, main)


def idle(job: Job) -> None:
    serve(Room(job), trio.sleep_forever)


def receive(job: Job) -> None:
    serve(Counting(job), trio.sleep_forever)


def relay(job: Job) -> None:
    room = Relay(job)

    async def main() -> None:
        await room.until(gone=1)
        room.clock.tell()

    serve(room, main)


def push(job: Job) -> None:
    async def main() -> None:
        clock, text = Clock(), text_of(job.size)
        async with open_websocket_url(job.url, job.client_tls()) as connection:
            clock.start()
            for _ in range(job.events):
                await connection.send_message(text)
        clock.tell()

    trio.run(main)


if __name__ == "__main__":
    perform({each.__name__: each for each in (fanout, idle, receive, relay, push)})
