"""Thousands of reconnects, comings and goings, cancelled sends: nothing is left behind, and nothing is torn."""

from __future__ import annotations

import gc
import json
import os
import socket
import statistics
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from processes import LONG, Child, Receiving, StrictPeer, bounded, disconnection, seeded
from trio_websocket import WebSocketConnection
from trio_wsout._core.heartbeat import HeartbeatMonitor

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

pytestmark = [
    pytest.mark.faults,
    pytest.mark.network,
    pytest.mark.skipif(
        not Path("/proc/self/statm").exists(), reason="what is left behind is read from /proc"
    ),
]

KINDS = (
    trio.MemorySendChannel,
    trio.MemoryReceiveChannel,
    trio.SocketStream,
    WebSocketConnection,
    HeartbeatMonitor,
)
NAMES = {kind.__name__ for kind in KINDS}
MEGABYTE = 1_000_000


def census() -> dict[str, int]:
    """What lives in this process now."""
    gc.collect()
    kept = [each for each in gc.get_objects() if type(each) in KINDS]
    return {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "file descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "pending pings": sum(not each.free for each in kept if isinstance(each, HeartbeatMonitor)),
        **Counter(type(each).__name__ for each in kept),
    }


async def back_at(baseline: dict[str, int], held: int = 0) -> None:
    """Wait until nothing more lives than at the baseline, but for so many objects of a kind that a waiting task may hold."""

    def surplus() -> dict[str, int]:
        found = {kind: count - baseline.get(kind, 0) for kind, count in census().items()}
        return {kind: more for kind, more in found.items() if more > (held if kind in NAMES else 0)}

    with trio.move_on_after(120):
        while surplus():
            await trio.sleep(0.05)
    assert surplus() == {}, "more than before"


class Memory:
    """What the process holds as something goes on, and how fast that grows."""

    def __init__(self) -> None:
        self._samples: list[tuple[int, int]] = []

    def note(self, count: int) -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self._samples.append((count, pages * os.sysconf("SC_PAGE_SIZE")))

    @property
    def slope(self) -> float:
        """Megabytes in 1,000, without the first tenth."""
        last = self._samples[-1][0]
        kept = [sample for sample in self._samples if sample[0] > last / 10]
        line = statistics.linear_regression(*zip(*kept, strict=True))
        return float(line.slope) * 1000 / MEGABYTE

    @property
    def growth(self) -> str:
        """In words; of a short run it would say nothing."""
        return f"memory {self.slope:+.3f} MB in 1,000, " if LONG else ""


@bounded
async def test_an_output_that_reconnects_for_ever_leaves_nothing_behind(
    tmp_path: Path, figures: Callable[[str], None]
) -> None:
    total, least, cut = (1_000_000, 2000, (200, 600)) if LONG else (20_000, 60, (100, 300))
    receiver = Receiving(tmp_path, cut=cut, seed=seeded().random())
    config = {
        "url": receiver.url,
        "reconnect": {"initial-backoff": "1ms", "max-backoff": "1ms"},
        "heartbeat": {"ping-interval": "50ms", "timeout": "10s"},
    }
    with disconnection(receiver):
        await receiver.start()
        before = census()
        began, memory, noted = time.monotonic(), Memory(), 0
        async with trio_wsout.open_output(config) as output:
            at_first: dict[str, int] = {}
            for number in range(total):
                await output.send({"n": number})
                reconnects = output.statistics().link.reconnects if number % 50 == 0 else noted
                if reconnects >= noted + 10:
                    noted = reconnects
                    memory.note(reconnects)
                if number == total // 10:
                    await output.flush()
                    await output.wait_connected()
                    at_first = census()
            await output.flush()
            await output.wait_connected()
            await back_at(at_first)
            figured = output.statistics()
        del output  # it keeps what was left in its queues
        await back_at(before)
        took = time.monotonic() - began
        numbers = receiver.numbers
    assert list(dict.fromkeys(numbers)) == list(range(total)), "first arrivals: all of them, in order"
    assert figured.link.reconnects >= least
    assert (figured.confirmed, figured.undelivered) == (total, 0)
    figures(
        f"{figured.link.reconnects} reconnects, {total} events in {took:.0f} s: 0 lost, "
        f"{len(numbers) - total} duplicates, {memory.growth}"
        "tasks, descriptors, channels and pings as before"
    )
    if LONG:
        assert memory.slope <= 1
        assert took <= 600


@bounded
async def test_a_server_whose_clients_come_and_go_for_ever_keeps_nothing_of_them(
    tmp_path: Path, figures: Callable[[str], None]
) -> None:
    clients, visits, stays = (200, 10, (10, 1100)) if LONG else (20, 4, (1, 200))
    retained = 5000
    config: dict[str, Any] = {
        "mode": "server-output",
        "server": {"bind": "127.0.0.1:0", "idle-timeout": "1h"},
        "history": {"max-events": retained},
        "cursor": {"header-name": "Last-Event-ID"},
        "delivery": {"stamp": "seq"},
    }
    sent, memory, before = 0, Memory(), census()

    async def post(output: trio_wsout.Output) -> None:
        nonlocal sent
        while True:
            await output.wait_peers(1)
            for _ in range(100):
                await output.send({"n": sent})
                sent += 1
            await output.flush()
            await trio.sleep(100 / retained)  # so that who is away for less than a second misses nothing

    async with trio_wsout.open_output(config) as output:
        for _ in range(retained):
            await output.send({"n": -1})
        await output.flush()
        alone = census()
        port = int(output.statistics().addresses[0].rpartition(":")[2])
        began = time.monotonic()
        visitors = Child(
            tmp_path, "visit", port=port, clients=clients, visits=visits, stays=stays, seed=seeded().random()
        )
        with disconnection(visitors):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(post, output)
                noted = 0
                while visitors.process.poll() is None:
                    await trio.sleep(0.01)
                    admitted = output.statistics().listener.admitted
                    if admitted >= noted + 10:
                        noted = admitted
                        memory.note(admitted)
                nursery.cancel_scope.cancel()
            took = time.monotonic() - began
            told = await visitors.wait_said("taken")
            assert await visitors.wait() == 0
        while output.statistics().peers:
            await trio.sleep(0.01)
        await back_at(alone, held=4)  # of the last one or two that came
        figured = output.statistics()
    del output
    await back_at(before)
    came = figured.listener
    assert (came.admitted, came.refused, came.expelled) == (clients * visits, 0, 0)
    assert figured.undelivered == 0
    figures(
        f"{clients} clients came {came.admitted} times in {took:.0f} s, {told} events: no gap, nothing twice, "
        f"{memory.growth}tasks, descriptors, channels and pings as before"
    )
    if LONG:
        assert told >= 1_000_000
        assert memory.slope <= 1
        assert took <= 600


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope before a given step of any task."""

    def __init__(self) -> None:
        self._left = 0
        self._scope: trio.CancelScope | None = None

    def aim(self, scope: trio.CancelScope, step: int) -> None:
        self._scope, self._left = scope, step

    def rest(self) -> None:
        self._scope = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._scope is not None:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


class Sends:
    """Sends that are cancelled at random, and what became of each."""

    def __init__(self, output: trio_wsout.Output, draw: random.Random, most: int) -> None:
        self._output = output
        self._draw = draw
        self._most = most
        self._number = 0
        self._canceller = CancelAtStep()
        self.accepted: list[tuple[int, int]] = []
        """Number and size of each event that was accepted, in order."""
        self.cancelled = 0

    def _event(self, size: int) -> dict[str, Any]:
        self._number += 1
        return {"n": self._number, "pad": chr(97 + self._number % 26) * size}

    def _fill(self) -> None:
        """Leave no room: the next send has to wait."""
        try:
            while True:
                self._output.send_nowait(self._event(10))
                self.accepted.append((self._number, 10))
        except trio.WouldBlock:
            return

    async def run(self, count: int) -> None:
        """So many sends, and sometimes a flush, each cancelled at a random step, which may come too late."""
        trio.lowlevel.add_instrument(self._canceller)
        try:
            for _ in range(count):
                self._fill()
                size = int(1024 * (self._most / 1024) ** self._draw.random())
                act = self._draw.choice([self._output.send, self._output.submit])
                await self._cancelled(partial(act, self._event(size)), size)
                if self._draw.random() < 0.05:
                    await self._cancelled(self._output.flush, None)
        finally:
            trio.lowlevel.remove_instrument(self._canceller)

    async def _cancelled(self, act: Callable[[], Awaitable[object]], size: int | None) -> None:
        with trio.CancelScope() as scope:
            self._canceller.aim(scope, int(100 ** self._draw.random()))
            await act()
            if size is not None:
                self.accepted.append((self._number, size))
        self._canceller.rest()
        self.cancelled += scope.cancelled_caught


@pytest.mark.parametrize("transport", ["memory", "socket"])
@bounded
async def test_a_send_that_is_cancelled_anywhere_was_accepted_whole_or_not_at_all(
    transport: str, figures: Callable[[str], None]
) -> None:
    count, most = (1000, 8 * 2**20) if LONG else (60, 2**20)
    draw, arrived = seeded(), []

    def keep(number: int, text: str) -> None:
        event = json.loads(text)
        assert set(event["pad"]) == {chr(97 + event["n"] % 26)}
        arrived.append((event["n"], len(event["pad"])))

    peer = StrictPeer(keep)
    peer.step = lambda: draw.choice([1, 100, 1000, 65536, 65536, 65536])
    config = {
        "url": "ws://127.0.0.1/",
        "delivery": {"max-unconfirmed": 4},
        "max-message-size": "9MiB",
        "shutdown-timeout": "60s",
    }
    async with trio.open_nursery() as nursery:

        async def open_memory(host: str, port: int) -> trio.abc.Stream:
            ours, theirs = trio.testing.lockstep_stream_pair()
            nursery.start_soon(peer.serve, theirs)
            return ours

        hook: dict[str, Any] = {"open_stream": open_memory}
        if transport == "socket":
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            listeners[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            await nursery.start(trio.serve_listeners, peer.serve, listeners)
            config["url"], hook = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/", {}
        async with trio_wsout.open_output(config, **hook) as output:
            sends = Sends(output, draw, most)
            await sends.run(count)
        nursery.cancel_scope.cancel()
    figured = output.statistics()
    assert arrived == sends.accepted, "each accepted event once, whole and in order, and no other"
    assert (figured.accepted, figured.confirmed) == (len(arrived), len(arrived))
    assert (peer.connections, peer.faults, peer.torn) == (1, [], 0)
    assert 0 < sends.cancelled < count
    figures(
        f"{count} sends of 1 KB to {most // 2**20} MB cancelled at random, {transport}: {sends.cancelled} were not "
        f"accepted, {len(arrived)} events arrived whole and once, 0 torn frames"
    )
