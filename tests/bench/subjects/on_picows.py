"""picows, written in Cython: `transport.send` to each connection, from its callbacks where it reads."""

from __future__ import annotations

import asyncio

import picows
from event import now, text_of
from stage import LOOK, SETTLE, Clock, Job, perform, ready

TEXT = picows.WSMsgType.TEXT


class Listener(picows.WSListener):
    """One connection; what it does with frames is the work's."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def on_ws_connected(self, transport) -> None:
        self.room.present.append(transport)

    def on_ws_frame(self, transport, frame) -> None:
        self.room.took(transport, frame)

    def on_ws_disconnected(self, transport) -> None:
        self.room.left.set()


class Room:
    """The peers of one server."""

    def __init__(self, job: Job) -> None:
        self.job, self.clock, self.count = job, Clock(), 0
        self.present: list[picows.WSTransport] = []
        self.left = asyncio.Event()

    def took(self, transport, frame) -> None:
        """A frame has come."""

    def serve(self, main) -> None:
        """Serve until `main` is over."""
        job = self.job

        async def run() -> None:
            server = await picows.ws_create_server(
                lambda _: Listener(self),
                "127.0.0.1",
                0,
                ssl=job.server_tls(),
                enable_auto_ping=job.heartbeat > 0,
                auto_ping_idle_timeout=job.heartbeat or 20,
                auto_ping_reply_timeout=10,
            )
            async with server:
                ready(server.sockets[0].getsockname()[1])
                await main()

        asyncio.run(run())

    async def until_left(self) -> None:
        await self.left.wait()
        self.clock.tell()


class Counting(Room):
    """What peers send is counted."""

    def took(self, transport, frame) -> None:
        self.clock.start()
        frame.get_payload_as_bytes()
        self.count += 1
        if self.count == self.job.events:
            self.clock.tell()


class Relay(Room):
    """What a peer sends goes to all others."""

    def took(self, transport, frame) -> None:
        if frame.msg_type != TEXT:
            return
        self.clock.start()
        payload = frame.get_payload_as_bytes()
        for other in self.present:
            if other is not transport:
                other.send(TEXT, payload)


def fanout(job: Job) -> None:
    room = Room(job)

    async def main() -> None:
        while len(room.present) < job.peers:
            await asyncio.sleep(LOOK)
        await asyncio.sleep(SETTLE)
        room.clock.start()
        payload = text_of(job.size).encode()
        for number in range(job.events):
            fresh = text_of(job.size, now()).encode() if job.pace else payload
            for transport in room.present:
                transport.send(TEXT, fresh)
            if job.pace or number % 16 == 0:
                await asyncio.sleep(job.pace)
        await room.until_left()

    room.serve(main)


def idle(job: Job) -> None:
    Room(job).serve(asyncio.Event().wait)


def receive(job: Job) -> None:
    Counting(job).serve(asyncio.Event().wait)


def relay(job: Job) -> None:
    room = Relay(job)
    room.serve(room.until_left)


def push(job: Job) -> None:
    async def main() -> None:
        clock, payload = Clock(), text_of(job.size).encode()
        transport, _ = await picows.ws_connect(picows.WSListener, job.url, ssl_context=job.client_tls())
        clock.start()
        for number in range(job.events):
            transport.send(TEXT, payload)
            if number % 256 == 0:
                await asyncio.sleep(0)
        transport.send_close()
        await transport.wait_disconnected()
        clock.tell()

    asyncio.run(main())


if __name__ == "__main__":
    perform({each.__name__: each for each in (fanout, idle, receive, relay, push)})
