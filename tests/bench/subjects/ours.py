"""This library: an output, and the loop that an application writes around it."""

from __future__ import annotations

import trio
import trio_wsout
from event import event_of, now
from stage import LOOK, SETTLE, Clock, Job, perform, ready


def server(job: Job, mode: str) -> dict[str, object]:
    """The configuration of a listener."""
    listening: dict[str, object] = {"bind": "127.0.0.1:0"}
    if job.cert:
        listening["tls"] = {"cert": job.cert, "key": job.key}
    config: dict[str, object] = {"mode": mode, "server": listening}
    if job.heartbeat:
        config["heartbeat"] = {"ping-interval": job.heartbeat}
    if job.option:
        config["history"] = {"store": job.option, "max-events": 10_000}
    return config


def tell_port(output: trio_wsout.Output) -> None:
    ready(int(output.statistics().addresses[0].rpartition(":")[2]))


async def first_leaves(output: trio_wsout.Output, peers: int) -> None:
    while output.statistics().peers >= peers:
        await trio.sleep(LOOK)


def fanout(job: Job) -> None:
    async def main() -> None:
        clock = Clock()
        async with trio_wsout.open_output(server(job, "server-output")) as output:
            tell_port(output)
            await output.wait_peers(job.peers)
            await trio.sleep(SETTLE)
            clock.start()
            if job.pace:
                for _ in range(job.events):
                    await output.send(event_of(job.size, now()))
                    await trio.sleep(job.pace)
            else:
                event = event_of(job.size)
                for _ in range(job.events):
                    await output.send(event)
            await output.flush()
            await first_leaves(output, job.peers)
            clock.tell()

    trio.run(main)


def idle(job: Job) -> None:
    async def main() -> None:
        async with trio_wsout.open_output(server(job, "server-output")) as output:
            tell_port(output)
            await trio.sleep_forever()

    trio.run(main)


def receive(job: Job) -> None:
    async def main() -> None:
        clock = Clock()
        async with trio_wsout.open_output(server(job, "server-input") | {"payload": "json"}) as output:
            tell_port(output)
            count = 0
            async for message in output.received:
                clock.start()
                count += "t" in message.event
                if count == job.events:
                    clock.tell()

    trio.run(main)


def relay(job: Job) -> None:
    async def main() -> None:
        clock = Clock()
        async with trio_wsout.open_output(server(job, "relay")) as output:
            tell_port(output)
            await output.wait_peers(job.peers)
            await trio.sleep(SETTLE / 3)
            clock.start()
            await first_leaves(output, job.peers)
            clock.tell()

    trio.run(main)


def push(job: Job) -> None:
    async def main() -> None:
        clock, event = Clock(), event_of(job.size)
        tls = {"tls": {"ca-certificate": job.cert}} if job.cert else {}
        async with trio_wsout.open_output({"url": job.url, "connect": {"mode": "eager"}, **tls}) as output:
            clock.start()
            for _ in range(job.events):
                await output.send(event)
            await output.flush()
        clock.tell()

    trio.run(main)


def spool(job: Job) -> None:
    async def main() -> None:
        clock, event = Clock(), event_of(job.size)

        async def send(count: int) -> None:
            for _ in range(count):
                await output.send(event)

        config = {"url": job.url, "connect": {"mode": "eager"}, "spool": {"path": job.option}}
        async with trio_wsout.open_output(config) as output:
            clock.start()
            async with trio.open_nursery() as nursery:
                for _ in range(job.senders):
                    nursery.start_soon(send, job.events // job.senders)
            await output.flush()
        clock.tell()

    trio.run(main)


if __name__ == "__main__":
    perform({each.__name__: each for each in (fanout, idle, receive, relay, push, spool)})
