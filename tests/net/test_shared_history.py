"""Outputs that share a history on a real server: nodes and server killed with -9 in turn, peers that resume on any node."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from processes import LONG, Child, Subscription, bounded, free_port, seeded, until
from valkey_server import Server

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.faults, pytest.mark.network]

NODES = 3
PEERS = 100 if LONG else 12
KILLS = 40 if LONG else 8


@contextmanager
def engine() -> Iterator[Server]:
    """A server that has on disk what it has answered."""
    server = Server(persistent=True)
    try:
        yield server
    finally:
        server.close()


def node(server: Server, port: int, **fields: Any) -> dict[str, Any]:
    return {
        "mode": "server-output",
        "server": {"bind": f"127.0.0.1:{port}"},
        "history": {"store": f"unix://{server.socket}?stream=events"},
        "cursor": {"header-name": "Last-Event-ID"},
        "delivery": {"stamp": "seq"},
        **fields,
    }


def position(stamp: str) -> int:
    return int(stamp.partition("-")[2])


async def test_a_server_that_is_killed_and_comes_back_loses_nothing_and_doubles_nothing() -> None:
    ports = [free_port(), free_port()]
    with engine() as server:
        async with (
            trio_wsout.open_output(node(server, ports[0])) as a,
            trio_wsout.open_output(node(server, ports[1])) as b,
            trio.open_nursery() as nursery,
        ):
            seen: list[list[Any]] = [[], []]
            for port, events in zip(ports, seen, strict=True):
                nursery.start_soon(Subscription(events.append).visit, port, 10**9)
            await a.wait_peers(1)
            await b.wait_peers(1)
            for n in range(200):
                await (a, b)[n % 2].send({"n": n})
            await a.flush()
            server.kill()
            for n in range(200, 300):
                await (a, b)[n % 2].send({"n": n})
            with trio.move_on_after(1) as flushing:
                await a.flush()
            assert flushing.cancelled_caught
            assert a.statistics().history.waiting
            assert [output.statistics().peers for output in (a, b)] == [1, 1]
            await trio.to_thread.run_sync(server.start)
            with trio.fail_after(60):
                await a.flush()
                await b.flush()
                await until(lambda: min(map(len, seen)) >= 300, 60)
            assert seen[0] == seen[1]
            assert sorted(event["n"] for event in seen[0]) == list(range(300))
            await until(lambda: a.statistics().history.events == 300, 10)
            for now in (a.statistics(), b.statistics()):
                assert (now.accepted, now.confirmed, now.undelivered) == (150, 150, 0)
                assert (now.history.appended, now.history.foreign) == (150, 150)
            nursery.cancel_scope.cancel()


async def test_a_server_that_comes_back_empty_is_a_gap_for_all() -> None:
    ports = [free_port(), free_port()]
    server = Server()
    try:
        async with (
            trio_wsout.open_output(node(server, ports[0])) as a,
            trio_wsout.open_output(node(server, ports[1])) as b,
            trio.open_nursery() as nursery,
        ):
            seen: list[list[Any]] = [[], []]
            for port, events in zip(ports, seen, strict=True):
                nursery.start_soon(Subscription(events.append).visit, port, 10**9)
            await a.wait_peers(1)
            await b.wait_peers(1)
            for n in range(10):
                await a.send({"n": n})
            await a.flush()
            await until(lambda: min(map(len, seen)) == 10, 60)
            before = seen[0][-1]["seq"]
            server.kill()
            await trio.to_thread.run_sync(server.start)
            for n in range(10, 20):
                await b.send({"n": n})
            with trio.fail_after(60):
                await b.flush()
            await until(lambda: min(map(len, seen)) >= 21, 60)
            assert seen[0] == seen[1]
            assert [event.get("n") for event in seen[0] if "seq" in event] == list(range(20))
            assert seen[0][10]["gap"]["asked"] == before
            late: list[Any] = []
            subscription = Subscription(late.append, before)
            nursery.start_soon(subscription.visit, ports[0], 10**9)
            await until(lambda: len(late) >= 11, 60)
            assert subscription.resumed == ["gap"]
            assert late[0] == {"gap": {"asked": before, "first": seen[0][-10]["seq"]}}
            assert [event["n"] for event in late[1:]] == list(range(10, 20))
            nursery.cancel_scope.cancel()
    finally:
        server.close()


class Nodes:
    """Three processes on one server; what lives, and what was confirmed."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.ports = [free_port() for _ in range(NODES)]
        self.confirmed = folder / "confirmed"
        self.children: list[Child | None] = [None] * NODES
        self.lives = 0

    def start(self, number: int) -> None:
        self.lives += 1
        run = f"{number}.{self.lives}"
        config = node(self.server, self.ports[number], **{"shutdown-timeout": "5s"})
        self.children[number] = Child(
            self.folder, "serve", config=config, run=run, confirmed=str(self.confirmed)
        )

    def kill(self, number: int) -> None:
        child = self.children[number]
        assert child is not None
        child.kill()
        self.children[number] = None

    @property
    def told(self) -> set[tuple[str, int]]:
        """Run and number of each event that was confirmed."""
        lines = self.confirmed.read_text().rpartition("\n")[0].split("\n") if self.confirmed.exists() else []
        return {(run, int(number)) for run, number in (line.split() for line in lines if line)}

    def close(self) -> None:
        for number in range(NODES):
            if self.children[number] is not None:
                self.kill(number)


class Wanderer:
    """A peer that goes from node to node, and keeps all that it got."""

    def __init__(self, nodes: Nodes, draw: random.Random) -> None:
        self.nodes, self.draw = nodes, draw
        self.events: list[Any] = []
        self.subscription = Subscription(self.events.append)

    async def run(self) -> None:
        while True:
            with trio.move_on_after(self.draw.uniform(0.3, 3)):
                try:
                    port = self.draw.choice(self.nodes.ports)
                    await self.subscription.visit(
                        port, self.draw.randint(100, 5000), how=self.draw.choice(["RST", "FIN"])
                    )
                except (OSError, AssertionError):  # the node is not there, or can't read the history now
                    await trio.sleep(0.05)

    def position(self) -> int:
        return position(self.events[-1]["seq"]) if self.events else 0


@bounded
async def test_nodes_and_server_are_killed_in_turn_and_each_peer_has_all_events_in_one_order(
    tmp_path: Path, figures: Callable[[str], None]
) -> None:
    draw = seeded()
    with engine() as server:
        nodes = Nodes(server, tmp_path)
        try:
            async with trio.open_nursery() as nursery:
                for number in range(NODES):
                    nodes.start(number)
                for child in nodes.children:
                    assert child is not None
                    await child.wait_said("ready")
                peers = [Wanderer(nodes, draw) for _ in range(PEERS)]
                for peer in peers:
                    nursery.start_soon(peer.run)
                await until(lambda: all(peer.events for peer in peers), 60)
                for kill in range(KILLS):
                    await trio.sleep(draw.uniform(0.2, 1.5))
                    if kill % (NODES + 1) == NODES:
                        server.kill()
                        await trio.sleep(draw.uniform(0, 1))
                        await trio.to_thread.run_sync(server.start)
                    else:
                        nodes.kill(kill % (NODES + 1))
                        await trio.sleep(draw.uniform(0, 0.5))
                        nodes.start(kill % (NODES + 1))
                told = nodes.told
                last = max(peer.position() for peer in peers)
                await until(lambda: all(peer.position() > last for peer in peers), 120)
                whole = {position(event["seq"]): event for peer in peers for event in peer.events}
                await until(
                    lambda: all(peer.position() > max(whole) for peer in peers), 120
                )  # all of these are with everybody, or lost
                nursery.cancel_scope.cancel()
        finally:
            nodes.close()
    check(peers, told, max(whole))
    figures(f"{len(whole)} events, {len(told)} confirmed before the last kill, {nodes.lives} lives of nodes")


def check(peers: list[Wanderer], told: set[tuple[str, int]], upto: int) -> None:
    """Hold what each peer got against the events of all, up to a position."""
    whole: dict[int, Any] = {}
    for peer in peers:
        positions = [position(event["seq"]) for event in peer.events]  # word of a gap has none: KeyError
        assert positions == sorted(set(positions)), "in order, and nothing twice"
        for event in peer.events:
            assert whole.setdefault(position(event["seq"]), event) == event
    order = sorted(number for number in whole if number <= upto)
    for peer in peers:
        first = position(peer.events[0]["seq"])
        got = [number for number in (position(event["seq"]) for event in peer.events) if number <= upto]
        assert got == [number for number in order if number >= first], "nothing is missing"
    everything = [(event["run"], event["n"]) for event in (whole[number] for number in order)]
    assert len(set(everything)) == len(everything), "no event twice under another position"
    begun = set(everything)
    for run, number in told:
        assert (run, number) in begun or number < min(n for r, n in begun if r == run), json.dumps(
            [run, number]
        )


async def test_a_relay_confirms_a_message_to_its_sender_once_the_server_has_it() -> None:
    with engine() as server:
        relay = node(server, 0, mode="relay", payload="json")
        async with trio_wsout.open_output(relay) as output, trio.open_nursery() as nursery:
            (address,) = output.statistics().addresses
            idle = Subscription(lambda _: None)
            nursery.start_soon(idle.visit, int(address.rpartition(":")[2]), 10**9)
            await output.wait_peers(1)
            async with trio_wsout.open_output({"url": f"ws://{address}/", "payload": "json"}) as sender:
                await sender.send({"n": 0})
                with trio.fail_after(60):
                    await sender.flush()
                await until(lambda: idle.seen == 1, 60)
                server.kill(signal.SIGSTOP)
                for n in range(1, 4):
                    await sender.send({"n": n})
                await until(lambda: output.statistics().accepted == 4, 60)
                with trio.move_on_after(1) as flushing:
                    await sender.flush()
                assert flushing.cancelled_caught
                assert sender.statistics().confirmed == 1
                server.kill(signal.SIGCONT)
                with trio.fail_after(60):
                    await sender.flush()
                await until(lambda: idle.seen >= 4, 60)
            nursery.cancel_scope.cancel()
