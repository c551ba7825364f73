"""Resuming over real sockets: peers that are cut at any byte, and come back with a cursor."""

from __future__ import annotations

import json
import random
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from functools import partial
from itertools import groupby
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import trio
import trio_wsout
from trio_wsout.testing import PeerProtocol
from trio_wsout.testing.protocol import Close, Ping, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio_wsout.testing.protocol import PeerEvent

pytestmark = [pytest.mark.network, pytest.mark.heavy]

STORES = ["memory", "sqlite"]


def config(store: str, tmp_path: Path, **more: Any) -> dict[str, Any]:
    place = "memory:" if store == "memory" else f"sqlite:{tmp_path / 'history.db'}"
    history = {"store": place, **more.pop("history", {})}
    cursor = {"header-name": "Last-Event-ID", "query-parameter": "since", **more.pop("cursor", {})}
    server = {"bind": "127.0.0.1:0", "slow-peer-timeout": "30s"}
    fields = {"mode": "server-output", "server": server, "history": history, "cursor": cursor}
    return {**fields, "delivery": {"stamp": "seq"}, **more}


def port_of(output: trio_wsout.Output) -> int:
    return int(output.statistics().addresses[0].rpartition(":")[2])


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(600):
        while not holds():
            await trio.sleep(0.005)


class Peer:
    """Keeps the messages that arrived whole, and what answered its handshakes; resumes after the last message."""

    def __init__(self, *, by: str = "header", value: Callable[[Any], object] | None = None) -> None:
        self.messages: list[str] = []
        self.statuses: list[str | None] = []
        self.close_code: int | None = None
        self.asks: str | None = None
        """What it asks for if there is no message yet."""
        self._by = by
        self._value = value or (lambda event: event["seq"])
        self.stream = trio.SocketStream(trio.socket.socket())
        self._protocol = PeerProtocol(server=False)

    @property
    def events(self) -> list[Any]:
        return [json.loads(line) for message in self.messages for line in message.split("\n")]

    @property
    def cursor(self) -> str | None:
        if not self.messages:
            return self.asks
        return str(self._value(json.loads(self.messages[-1].rpartition("\n")[2])))

    async def dial(self, port: int, *, buffer: int | None = None) -> None:
        """Connect and ask."""
        await self.cut()
        self.close_code = None
        self.stream = trio.SocketStream(trio.socket.socket())
        if buffer is not None:
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await self.stream.socket.connect(("127.0.0.1", port))
        cursor, target, headers = self.cursor, "/feed?x=1", {}
        if cursor is not None and self._by == "header":
            headers = {"last-event-id": cursor}
        elif cursor is not None:
            target += f"&since={quote(cursor)}"
        self._protocol = PeerProtocol(server=False)
        await self.stream.send_all(self._protocol.request(target, headers))

    async def open(self, port: int, *, buffer: int | None = None) -> None:
        """Connect, and be let in."""
        await self.dial(port, buffer=buffer)
        let_in = len(self.statuses) + 1
        while len(self.statuses) < let_in:
            assert await self._read_some(65536), "cut before it was let in"

    async def read(self, most: float = inf) -> None:
        """Read so many bytes, or to the end."""
        while most > 0 and self.close_code is None:
            count = await self._read_some(int(min(most, 65536)))
            if not count:
                return
            most -= count

    async def _read_some(self, most: int) -> int:
        chunk = await self.stream.receive_some(most)
        with suppress(trio.BrokenResourceError):
            for event in self._protocol.feed(chunk):
                await self._on(event)
        return len(chunk)

    async def _on(self, event: PeerEvent) -> None:
        match event:
            case str():
                self.messages.append(event)
            case Ping():
                await self.stream.send_all(self._protocol.pong(event.payload))
            case Close():
                self.close_code = event.code
                await self.stream.send_all(self._protocol.close(event.code))
            case Response():
                assert event.status == 101
                self.statuses.append(event.headers.get("resume-status"))
            case _:
                pytest.fail(f"unexpected: {event!r}")

    async def read_until(self, holds: Callable[[], object], step: int = 64) -> None:
        """Read, so many bytes at a time, until something holds."""
        with trio.fail_after(300):
            while not holds():
                assert self.close_code is None, f"closed with {self.close_code} after {len(self.messages)}"
                assert await self._read_some(step), f"cut after {len(self.messages)}"

    async def take(self, count: int, step: int = 64) -> list[Any]:
        """Read until so many messages are there; gives the events of all of them."""
        await self.read_until(lambda: len(self.messages) >= count, step)
        return self.events

    async def cut(self, how: str = "RST") -> None:
        """End the connection at once; what arrived in part is lost."""
        if self.stream.socket.fileno() < 0:
            return
        if how == "RST":
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            with suppress(trio.BrokenResourceError):
                await self.stream.send_eof()
                while await self.stream.receive_some(65536):
                    pass
        await self.stream.aclose()


@pytest.fixture
async def peers() -> AsyncIterator[Callable[..., Peer]]:
    """Makes peers whose connections end with the test."""
    made: list[Peer] = []

    def make(**how: Any) -> Peer:
        made.append(Peer(**how))
        return made[-1]

    yield make
    for peer in made:
        await peer.cut()


async def be_cut(peer: Peer, port: int, draw: random.Random) -> None:
    """Be cut, wait a moment, come back and read some bytes."""
    await peer.cut(draw.choice(["RST", "FIN"]))
    await trio.sleep(draw.random() * 0.03)
    if draw.random() < 0.1:
        await peer.dial(port)
        return
    await peer.open(port)
    with suppress(trio.BrokenResourceError):  # the other side may find it too slow
        await peer.read(draw.randrange(12_000))


@pytest.mark.parametrize("store", STORES)
async def test_fifty_peers_cut_twenty_times_each_get_every_event_once_and_in_order(
    store: str, tmp_path: Path, peers: Callable[..., Peer]
) -> None:
    count, sent = 50, 0
    all_of_them = [peers(by="query" if n % 2 else "header") for n in range(count)]
    were_cut: list[Peer] = []

    async def live(peer: Peer, draw: random.Random) -> None:
        await peer.take(1)
        for _ in range(20):
            await be_cut(peer, port, draw)
        were_cut.append(peer)
        await peer.cut()
        await peer.open(port)
        await peer.read()

    async with trio.open_nursery() as nursery:
        async with trio_wsout.open_output(config(store, tmp_path)) as output:
            port = port_of(output)
            for peer in all_of_them:
                await peer.open(port)
            await output.wait_peers(count)
            for number, peer in enumerate(all_of_them):
                nursery.start_soon(live, peer, random.Random(number))
            while len(were_cut) < count:
                await output.send({"n": sent, "pad": "x" * 100})
                sent += 1
                if sent % 10 == 0:
                    await trio.sleep(0.002)
            await until(lambda: all(len(peer.messages) >= sent for peer in all_of_them))
    for peer in all_of_them:
        assert [event["n"] for event in peer.events] == list(range(sent))
        assert peer.statuses[0] is None
        assert set(peer.statuses[1:]) == {"resumed"}
        assert peer.close_code == 1001


@pytest.mark.parametrize("end", ["graceful", "cancelled"])
async def test_an_output_that_starts_again_on_the_same_file_goes_on_from_disk(
    end: str, tmp_path: Path, peers: Callable[..., Peer]
) -> None:
    both = [peers(by="header"), peers(by="query")]
    for start in range(0, 50, 10):
        with trio.CancelScope() as scope:
            async with trio_wsout.open_output(config("sqlite", tmp_path)) as output:
                for peer in both:
                    await peer.open(port_of(output))
                await output.wait_peers(2)
                for n in range(start, start + 10):
                    await output.send({"n": n})
                for peer, count in zip(both, (start + 1, start + 7), strict=True):
                    await peer.take(count)
                    await peer.cut()
                await output.flush()
                if end == "cancelled":
                    scope.cancel()
    async with trio_wsout.open_output(config("sqlite", tmp_path)) as output:
        await output.send({"n": 50})
        for peer in both:
            await peer.open(port_of(output))
            events = await peer.take(51)
            assert [event["n"] for event in events] == list(range(51))
            stamps = [event["seq"].split("-") for event in events]
            assert [int(seq) for _, seq in stamps] == list(range(1, 52))
            epochs = [int(epoch) for epoch, _ in stamps]
            assert epochs == sorted(epochs)
            assert len(set(epochs)) == 6
            assert peer.statuses == [None, *["resumed"] * 5]
            await peer.cut()


CHILD = """
import json, sys, trio, trio_wsout

async def main():
    async with trio_wsout.open_output(json.loads(sys.argv[1])) as output:
        print(output.statistics().addresses[0].rpartition(":")[2], flush=True)
        await output.wait_peers(3)
        n = 0
        while True:
            await output.send({"run": sys.argv[2], "n": n})
            n += 1
            if n % 10 == 0:
                await trio.sleep(0.001)

trio.run(main)
"""


async def test_when_the_process_is_killed_and_starts_again_all_peers_see_the_same_events(
    tmp_path: Path, peers: Callable[..., Peer]
) -> None:
    draw = random.Random(1)
    three = [peers(by="header"), peers(by="query"), peers(by="header")]
    arguments = [sys.executable, "-c", CHILD, json.dumps(config("sqlite", tmp_path))]
    for run in range(4):
        before = max(len(peer.messages) for peer in three)
        async with trio.open_nursery() as running:
            start = partial(trio.run_process, [*arguments, str(run)], stdout=subprocess.PIPE, check=False)
            process: trio.Process = await running.start(start)
            assert process.stdout is not None
            port = int(await process.stdout.receive_some())
            async with trio.open_nursery() as nursery:
                for peer in three:
                    await peer.open(port)
                for peer in three:
                    nursery.start_soon(peer.take, before + draw.randrange(1, 300))
            process.kill()
        for peer in three:
            await peer.cut(draw.choice(["RST", "FIN"]))
    async with trio_wsout.open_output(config("sqlite", tmp_path)) as output:
        await output.send({"run": "the last", "n": 0})
        await output.flush()
        whole = output.statistics().history.events
        for peer in three:
            await peer.open(port_of(output))
            await peer.take(whole)
            assert peer.events == three[0].events
            assert peer.statuses == [None, *["resumed"] * 4]
            await peer.cut()
    seen = [(event["run"], event["n"]) for event in three[0].events]
    assert [name for name, _ in groupby(run for run, _ in seen)] == ["0", "1", "2", "3", "the last"]
    for number in range(4):
        numbers = [n for run, n in seen if run == str(number)]
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("by", ["header", "query"])
@pytest.mark.parametrize("asked", ["older than the history", "of an earlier epoch", "unknown"])
@pytest.mark.parametrize("store", STORES)
async def test_a_cursor_that_leads_nowhere_meets_an_explicit_gap_and_then_what_is_retained(
    store: str, asked: str, by: str, tmp_path: Path, peers: Callable[..., Peer]
) -> None:
    fields = config(store, tmp_path, history={"max-events": 10})
    if asked == "of an earlier epoch":
        async with trio_wsout.open_output(fields) as output:
            peer = peers()
            await peer.open(port_of(output))
            await output.send({"n": -1})
            await output.send({"n": -2})
            await peer.take(1)
            asked = str(peer.cursor)
            await peer.cut()
    async with trio_wsout.open_output(fields) as output:
        first = peers()
        await first.open(port_of(output))
        for n in range(30):
            await output.send({"n": n})
        seen = await first.take(30)
        if asked == "older than the history":
            asked = seen[18]["seq"]  # the event before the last that left
        again = peers(by=by)
        again.asks = asked
        await again.open(port_of(output))
        assert again.statuses == ["gap"]
        # One more event now would push out the first of these before it is read for the replay.
        notice, *_ = await again.take(11)
        assert notice == {"gap": {"asked": asked, "first": seen[20]["seq"]}}
        await output.send({"n": 30})
        _, *events = await again.take(12)
        assert [event["n"] for event in events] == list(range(20, 31))
        await first.cut()
        await again.cut()


@pytest.mark.parametrize("store", STORES)
async def test_without_stamps_a_gap_is_told_by_the_header_and_the_first_message(
    store: str, tmp_path: Path, peers: Callable[..., Peer]
) -> None:
    fields = config(store, tmp_path, history={"max-events": 5}, delivery={}, cursor={"value-field": "id"})
    async with trio_wsout.open_output(fields) as output:
        for n in range(9):
            await output.send({"id": f"e{n}"})
        await output.flush()
        for asked, status, count in (
            ("e2", "gap", 5),
            ("x", "gap", 5),
            ("e3", "resumed", 5),
            ("e6", "resumed", 2),
        ):
            peer = peers()
            peer.asks = asked
            await peer.open(port_of(output))
            assert peer.statuses == [status]
            told = [{"gap": {"asked": asked, "first": "e4"}}] if status == "gap" else []
            events = [{"id": f"e{n}"} for n in range(9 - count, 9)]
            assert await peer.take(len(told) + count) == [*told, *events]
            await peer.cut()


async def test_where_nothing_is_retained_every_cursor_meets_a_gap(
    tmp_path: Path, peers: Callable[..., Peer]
) -> None:
    fields = config("memory", tmp_path)
    del fields["history"]
    async with trio_wsout.open_output(fields) as output:
        await output.send({"n": 0})
        await output.flush()
        peer = peers()
        peer.asks = "1-1"
        await peer.open(port_of(output))
        await output.send({"n": 1})
        notice, event = await peer.take(2)
        assert peer.statuses == ["gap"]
        assert notice == {"gap": {"asked": "1-1", "first": None}}
        assert event["n"] == 1
        await peer.cut()


VALUES: dict[str, tuple[dict[str, str], Callable[[int], dict[str, Any]], Callable[[Any], object]]] = {
    "field": ({"value-field": "id"}, lambda n: {"id": n}, lambda event: event["id"]),
    "dotted field": (
        {"value-field": "meta.id"},
        lambda n: {"meta": {"id": f"ä {n}%&?"}},
        lambda event: event["meta"]["id"],
    ),
    "pointer": (
        {"value-pointer": "/a~1b/1"},
        lambda n: {"a/b": [0, n + 0.5]},
        lambda event: event["a/b"][1],
    ),
}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("kind", VALUES)
async def test_peers_resume_by_a_value_of_the_events(
    kind: str, store: str, tmp_path: Path, peers: Callable[..., Peer]
) -> None:
    cursor, event, value = VALUES[kind]
    draw = random.Random(kind)
    sent, fields = 0, config(store, tmp_path, cursor=cursor, delivery={})
    both = [peers(by="query", value=value) for _ in range(2)]
    for _ in range(3 if store == "sqlite" else 1):  # values outlive the output, where the history does
        async with trio_wsout.open_output(fields) as output:
            for peer in both:
                await peer.open(port_of(output))
            await output.wait_peers(2)
            for _ in range(5):
                for _ in range(20):
                    await output.send(event(sent))
                    sent += 1
                for peer in both:
                    await peer.take(draw.randint(len(peer.messages), sent) or 1)
                    await peer.cut()
                    await peer.open(port_of(output))
                    await output.send(event(sent))
                    sent += 1
            for peer in both:
                await peer.take(sent - draw.randrange(10))
                await peer.cut()
    async with trio_wsout.open_output(fields) as output:
        for peer in both if store == "sqlite" else ():
            await peer.open(port_of(output))
            await peer.take(sent)
            await peer.cut()
    for peer in both:
        assert peer.events == [event(n) for n in range(len(peer.messages))]
        assert len(peer.messages) > sent - 10
        assert set(peer.statuses[1:]) == {"resumed"}


async def test_events_without_a_value_come_again_with_those_after_the_last_that_has_one(
    tmp_path: Path, peers: Callable[..., Peer]
) -> None:
    fields = config("memory", tmp_path, cursor={"value-field": "id"}, delivery={})
    async with trio_wsout.open_output(fields) as output:
        events: list[dict[str, object]] = [{"id": "a"}, {}, {"id": None}, {"id": "b"}, {"id": "a"}, {"x": 1}]
        for each in events:
            await output.send(each)
        await output.flush()
        for asked, count in (("b", 2), ("a", 1)):  # of a value that came twice the newest counts
            peer = peers()
            peer.asks = asked
            await peer.open(port_of(output))
            assert await peer.take(count) == events[-count:]
            await peer.cut()


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("wrapped", [False, True], ids=["lines", "array"])
async def test_a_peer_resumes_in_the_middle_of_a_batch(
    wrapped: bool, store: str, tmp_path: Path, peers: Callable[..., Peer]
) -> None:
    batch = {"mode": "fixed", "fixed-size": 4, "header": "begin", "footer": "end", "wrap-as-json": wrapped}

    def taken_apart(message: str) -> list[Any]:
        first, *lines, last = message.split("\n")
        assert (first, last) == ("begin", "end")
        events = [json.loads(line) for line in lines]
        assert len(events) == 1 or not wrapped
        return events[0] if wrapped else events

    async with trio_wsout.open_output(config(store, tmp_path, batch=batch)) as output:
        peer = peers()
        await peer.open(port_of(output))
        await output.wait_peers(1)
        for n in range(12):
            await output.send({"n": n})
        await peer.read_until(lambda: len(peer.messages) >= 3)
        batches = [taken_apart(message) for message in peer.messages]
        assert [[event["n"] for event in each] for each in batches] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9, 10, 11],
        ]
        stamps = [event["seq"] for each in batches for event in each]
        await peer.cut()
        resumed = [peers(by="query" if n % 2 else "header") for n in range(12)]
        for n, each in enumerate(resumed):
            each.asks = stamps[n]
            await each.open(port_of(output))
            assert each.statuses == ["resumed"]
        await output.wait_peers(12)
        for n in range(12, 16):
            await output.send({"n": n})
        for n, each in enumerate(resumed):
            await each.read_until(lambda: each.messages and '"n":15' in each.messages[-1])  # noqa: B023
            got = [event for message in each.messages for event in taken_apart(message)]
            assert [event["n"] for event in got] == list(range(n + 1, 16))
            assert [event["seq"] for event in got[: 11 - n]] == stamps[n + 1 :]
            await each.cut()


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("stamped", [True, False], ids=["stamped", "not stamped"])
async def test_a_replay_that_the_history_overtakes_is_told(
    stamped: bool, store: str, tmp_path: Path, peers: Callable[..., Peer]
) -> None:
    pad = "x" * 16_000
    fields = config(
        store,
        tmp_path,
        history={"max-events": 600},
        cursor={} if stamped else {"value-field": "n"},
        delivery={"stamp": "seq"} if stamped else {},
    )
    async with trio_wsout.open_output(fields) as output:
        receipts = [await output.submit({"n": n, "pad": pad}) for n in range(600)]
        await output.flush()
        assert all(receipt.settled for receipt in receipts)
        first = peers()
        first.asks = "nothing"
        await first.open(port_of(output))
        events = await first.take(2, 65536)
        await first.cut()
        slow = peers(value=lambda event: event["seq" if stamped else "n"])
        slow.asks = events[1]["seq"] if stamped else str(events[1]["n"])
        await slow.open(port_of(output), buffer=4096)
        assert slow.statuses == ["resumed"]
        await slow.take(1, 4096)
        for n in range(600, 1300):
            await output.send({"n": n, "pad": pad})
        await output.flush()
        await slow.read_until(lambda: '{"n":1299,' in slow.messages[-1][:20], 65536)
        got = slow.events
        (at,) = [index for index, event in enumerate(got) if "gap" in event]
        asked, first = ((each["seq"] if stamped else str(each["n"])) for each in (got[at - 1], got[at + 1]))
        assert got[at] == {"gap": {"asked": asked, "first": first}}
        start = events[1]["n"] + 1
        assert [event["n"] for event in got[:at]] == list(range(start, start + at))
        assert [event["n"] for event in got[at + 1 :]] == list(range(got[at + 1]["n"], 1300))
        assert got[at + 1]["n"] >= 700
        await slow.cut()
