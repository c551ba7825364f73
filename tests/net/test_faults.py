"""Whole runs through links that are cut in every way: nothing is lost, nothing hangs.

FAULTS=long makes the runs long; FAULTS_SEED gives the seed that a failure printed.
"""

from __future__ import annotations

import json
import os
import random
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from math import inf
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from chaos import Chaos, Fault, Kind, Place, Way, fault_plan, open_chaos
from history_check import Identity, Verdict, check, event, identify
from trio_wsout._core.disconnection import Cause
from trio_wsout._core.resend import LinkSubscription
from trio_wsout._modes.tree import Tree
from trio_wsout._tasks.ledger import Ledger
from trio_wsout._tasks.session import Session
from trio_wsout.testing import PeerProtocol
from trio_wsout.testing.protocol import Close, Ping, Pong, Request, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import trustme
    from trio_wsout.testing.protocol import PeerEvent

pytestmark = [pytest.mark.faults, pytest.mark.network]

LONG = os.environ.get("FAULTS") == "long"
EVENTS, CUTS, ROUNDS = (100_000, 75, 4) if LONG else (3_000, 12, 1)
WINDOW = 256
"""Messages that may be unconfirmed."""
PACE = 100
"""Events that a source may be ahead of who is to see them as they are sent."""
SIZE = 100
"""Bytes of an event's padding, about."""
FEW = 32
"""Messages that a peer may have unconfirmed while it receives much."""
BYTES = 180 * EVENTS // (25 * ROUNDS)
"""Bytes of events between two cuts, about, when all cuts happen."""
BACK = 1.0
"""Seconds, at most, from a cut until events go on: a dead connection is cut, never closed politely."""
UNSEEN = 1.0
"""Seconds more where only the heartbeat of `LINK` finds it: half a second to a ping, and half for its pong."""
LINK: dict[str, Any] = {
    "reconnect": {"initial-backoff": "10ms", "max-backoff": "50ms"},
    "connect": {"timeout": "2s"},
    "heartbeat": {"ping-interval": "500ms", "timeout": "500ms"},
    "delivery": {"max-unconfirmed": WINDOW},
    "shutdown-timeout": "20s",
}


@pytest.fixture
def seed() -> int:
    """Drives everything that is random. pytest shows it with a failure."""
    given = os.environ.get("FAULTS_SEED", "1" if os.environ.get("CI") else "")
    drawn = int(given) if given else random.randrange(10**6)
    print(f"FAULTS_SEED={drawn}")
    return drawn


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    """No run may hang."""
    with trio.fail_after(1800 if LONG else 600):
        yield


async def until(holds: Callable[[], object], seconds: float = 300) -> None:
    with trio.fail_after(seconds):
        while not holds():
            await trio.sleep(0.005)


class Line:
    """One connection of an end: keeps what comes, answers pings, says Close where it is to."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: PeerProtocol,
        close_after: Callable[[], int | None],
        seen: set[Identity],
    ) -> None:
        self.stream = stream
        self.arrived: list[Identity | None] = []
        self.cursor: str | None = None
        """The stamp of the latest message."""
        self.times: list[float] = []
        """When they came, in seconds of trio's clock."""
        self.went_on_at = inf
        """When the first of them came that had not come on an earlier connection."""
        self.opened = trio.Event()
        self.opened_at = inf
        self.pong = b""
        """The payload of the latest pong."""
        self.ponged = trio.Event()
        self.protocol = protocol
        self._close_after = close_after
        self._seen = seen
        self._lock = trio.Lock()
        self._closed = False

    async def say(self, *frames: bytes) -> None:
        async with self._lock:
            if not self._closed:
                await self.stream.send_all(b"".join(frames))

    async def close(self, code: int) -> None:
        """Say Close, after which nothing more is said."""
        await self.say(self.protocol.close(code))
        self._closed = True

    async def run(self) -> None:
        """Read to the end; a message that is torn there is not kept."""
        with suppress(trio.BrokenResourceError):
            while data := await self.stream.receive_some(65536):
                for each in self.protocol.feed(data):
                    await self._on(each)

    async def wait_pong(self, payload: bytes) -> None:
        while self.pong != payload:
            self.ponged = trio.Event()
            await self.ponged.wait()

    async def _on(self, event: PeerEvent) -> None:
        match event:
            case Request() | Response():
                if isinstance(event, Request):
                    await self.say(self.protocol.accept())
                self.opened_at = trio.current_time()
                self.opened.set()
            case str():
                await self._on_text(event)
            case Pong():
                self.pong = event.payload
                self.ponged.set()
            case Ping():
                await self.say(self.protocol.pong(event.payload))
            case Close():
                await self.close(event.code)
            case _:
                pytest.fail(f"unexpected: {event!r}")

    async def _on_text(self, text: str) -> None:
        one = identify(text)
        self.arrived.append(one)
        self.times.append(trio.current_time())
        self.cursor = json.loads(text).get("seq")
        if one is not None:
            if one not in self._seen:
                self.went_on_at = min(self.went_on_at, self.times[-1])
            self._seen.add(one)
        if len(self.times) == self._close_after():
            await self.close(1012)


class End:
    """The other end of connections that are cut: what came on each of them."""

    chaos: Chaos | None = None
    """What they go through."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.seen: set[Identity] = set()

    @property
    def arrived(self) -> list[list[Identity | None]]:
        """Who came on each connection."""
        return [line.arrived for line in self.lines]

    @property
    def cursor(self) -> str | None:
        """The stamp of the latest message."""
        return next((line.cursor for line in reversed(self.lines) if line.cursor is not None), None)

    @property
    def whole(self) -> int:
        """How many different events there are."""
        return len(self.seen)

    def _close_after(self) -> int | None:
        """After how many messages to say Close; None: never."""
        fault = None if self.chaos is None else self.chaos.fault
        return 20 + fault.after if fault is not None and fault.place is Place.CLOSE else None

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Be the server of a connection, to its end."""
        await self._run(Line(stream, PeerProtocol(server=True), self._close_after, self.seen))

    async def dial(self, port: int) -> None:
        """Be the client of a connection, to its end; ask for what follows the latest message."""
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            line = Line(stream, PeerProtocol(server=False), self._close_after, self.seen)
            asked = {} if self.cursor is None else {"Last-Event-ID": self.cursor}
            with suppress(trio.BrokenResourceError):
                await line.say(line.protocol.request("/feed", asked))
            await self._run(line)

    async def follow(self, port: int) -> None:
        """Dial again and again."""
        while True:
            with suppress(OSError):
                await self.dial(port)
            await trio.sleep(0.01)

    async def _run(self, line: Line) -> None:
        self.lines.append(line)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._talk, line)
                await line.run()
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(line.stream)

    async def _talk(self, line: Line) -> None:
        """Say what is to be said on a connection."""


class Source:
    """Sends the events of one run, and keeps what it was told of each."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._receipts: list[trio_wsout.Receipt] = []
        self.undelivered_to, self._undelivered = trio.open_memory_channel[trio_wsout.Undelivered](inf)
        self._failed: list[Identity] = []

    async def send(
        self,
        output: trio_wsout.Output,
        count: int,
        enough: Callable[[], bool],
        ends: Sequence[End] = (),
    ) -> None:
        """Send so many events, and then one by one up to twice as many more until enough has happened.

        Ends that are to see the events as they are sent, and not afterwards, are not all left far behind.
        """
        begin = len(self._receipts)
        for number in range(begin, begin + 3 * count):
            if number >= begin + count:
                if enough():
                    break
                await trio.sleep(0.001)
            if number % PACE == 0:
                await self._not_far_ahead_of(ends)
            self._receipts.append(await output.submit(event(self._run, number, SIZE)))

    async def _not_far_ahead_of(self, ends: Sequence[End]) -> None:
        known = (self._run, len(self._receipts) - PACE)
        if ends and known[1] >= 0:
            await until(lambda: any(known in end.seen for end in ends))

    @property
    def sent(self) -> list[Identity]:
        return [(self._run, number) for number in range(len(self._receipts))]

    @property
    def undelivered(self) -> list[Identity]:
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                item = self._undelivered.receive_nowait()
                self._failed.append((item.event["run"], item.event["n"]))
        return self._failed

    @property
    def confirmed(self) -> list[Identity]:
        failed = set(self.undelivered)
        told = zip(self.sent, self._receipts, strict=True)
        return [one for one, receipt in told if receipt.settled and one not in failed]


@asynccontextmanager
async def serving(end: End, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """An end as a server on a free port, for as long as the block lasts."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def take(stream: trio.abc.Stream) -> None:
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        await end.serve(stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, take, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def port_of(output: trio_wsout.Output) -> int:
    return int(output.statistics().addresses[0].rpartition(":")[2])


def ends_of(*proxies: Chaos) -> int:
    """How many connections ended: cut, or ended by a side that was told or had lost patience."""
    return sum(len(chaos.cuts) + len(chaos.left) for chaos in proxies)


def faults_of(*proxies: Chaos) -> dict[str, int]:
    """What happened to connections, by kind and by place, and how often in all."""
    kinds: dict[str, int] = {"cuts": sum(len(chaos.cuts) for chaos in proxies)}
    for chaos in proxies:
        for name, count in {**chaos.kinds, **chaos.counts}.items():
            kinds[name] = kinds.get(name, 0) + count
    return kinds


REQUIRED: dict[str, int] = {
    "cuts": CUTS,
    Kind.FIN: ROUNDS,
    Kind.RST: ROUNDS,
    Kind.HOLD: ROUNDS,
    Kind.HOLE: 1,
    Place.HANDSHAKE: ROUNDS,
    Place.FRAME: ROUNDS,
    Place.CLOSE: ROUNDS,
    "slices": 1,
    "late": 1,
    "refusing": 1,
}
"""What must have happened in a run."""


def missing(chaos: Chaos, required: Mapping[str, int]) -> bool:
    """Whether something that is required has not happened."""
    faults = faults_of(chaos)
    return any(faults.get(name, 0) < count for name, count in required.items())


def waits(chaos: Chaos, end: End) -> list[tuple[Kind, float]]:
    """Each cut, with the seconds until events went on, or the next cut came before they could.

    They go on with the first event that had not come before, on a later connection.
    """
    cuts = sorted(chaos.cuts, key=lambda cut: cut.at)
    found: list[tuple[Kind, float]] = []
    for number, cut in enumerate(cuts):
        ends = [line.went_on_at for line in end.lines if line.opened_at > cut.at]
        ends += [each.at for each in cuts[number + 1 :]]
        if min(ends, default=inf) < inf:
            found.append((cut.kind, min(ends) - cut.at))
    return found


def reopened(end: End) -> list[float]:
    """Seconds from the opening of each connection to its first message."""
    return [line.times[0] - line.opened_at for line in end.lines if line.times]


def tell(
    figures: Callable[[str], None], name: str, verdict: Verdict, proxies: Sequence[Chaos], ends: Sequence[End]
) -> None:
    """Note what a run measured, and complain."""
    after_cuts = [each for chaos, end in zip(proxies, ends, strict=True) for each in waits(chaos, end)]
    told = [seconds for kind, seconds in after_cuts if kind is not Kind.HOLE]
    unseen = [seconds for kind, seconds in after_cuts if kind is Kind.HOLE]
    after_opening = [each for end in ends for each in reopened(end)]
    faults = ", ".join(f"{count} {each}" for each, count in sorted(faults_of(*proxies).items()))
    figures(
        f"{name}: {verdict.sent} events; {faults}; lost {len(verdict.lost)}, "
        f"reordered {len(verdict.reordered)}, duplicates {verdict.duplicates} of {verdict.allowed} allowed; "
        f"events went on after a cut: median {median(told):.3f} s, worst {max(told):.3f} s ({BACK:g} s allowed), "
        f"after a black hole: worst {max(unseen, default=0):.3f} s ({UNSEEN + BACK:g} s allowed), "
        f"first arrival after reopening: median {median(after_opening):.3f} s, worst {max(after_opening):.3f} s"
    )
    assert verdict.complaints == []
    # How fast it is is measured on a machine that does nothing else.
    if LONG:
        assert max(told) <= BACK
        assert all(seconds <= UNSEEN + BACK for seconds in unseen)


async def run_client(
    plan: Iterable[Fault],
    count: int,
    *,
    tls: tuple[ssl.SSLContext, str] | None = None,
    required: Mapping[str, int] = REQUIRED,
) -> tuple[Verdict, Chaos, End]:
    """Client mode through a proxy."""
    end, source = End(), Source("client")
    context, ca = tls or (None, None)
    async with serving(end, context) as port, open_chaos(port, plan) as chaos:
        end.chaos = chaos
        scheme = "ws" if tls is None else "wss"
        fields = {**LINK, "url": f"{scheme}://127.0.0.1:{chaos.port}/"}
        if ca is not None:
            fields["tls"] = {"ca-certificate": ca}
        async with trio_wsout.open_output(fields, undelivered=source.undelivered_to) as output:
            await source.send(output, count, lambda: not missing(chaos, required))
    verdict = check(
        source.sent,
        source.confirmed,
        source.undelivered,
        end.arrived,
        window=WINDOW,
        cuts=ends_of(chaos),
        faults=faults_of(chaos),
        required=required,
    )
    return verdict, chaos, end


async def test_a_client_whose_link_is_cut_in_every_way_loses_nothing(
    seed: int, figures: Callable[[str], None]
) -> None:
    plan = fault_plan(random.Random(seed), ROUNDS, head=180, up=BYTES, down=20)
    verdict, chaos, end = await run_client(plan, EVENTS)
    tell(figures, "client", verdict, [chaos], [end])


async def test_a_client_loses_nothing_through_tls_either(
    seed: int, figures: Callable[[str], None], ca: trustme.CA
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    plan = fault_plan(random.Random(seed), ROUNDS, head=500, up=BYTES, down=150, closes=False)
    required = {name: count for name, count in REQUIRED.items() if name != Place.CLOSE}
    tls = context, ca.cert_pem.bytes().decode()
    verdict, chaos, end = await run_client(plan, EVENTS, tls=tls, required=required)
    tell(figures, "client, TLS", verdict, [chaos], [end])


def served(tmp_path: Path, store: str, **more: Any) -> dict[str, Any]:
    """The fields of an output with a listener and a history, from which peers resume."""
    place = "memory:" if store == "memory" else f"sqlite:{tmp_path / 'history.db'}"
    return {
        "mode": "server-output",
        "server": {"bind": "127.0.0.1:0", "slow-peer-timeout": "30s"},
        "history": {"store": place},
        "cursor": {"header-name": "last-event-id"},
        "delivery": {"stamp": "seq", "max-unconfirmed": WINDOW},
        "heartbeat": LINK["heartbeat"],
        "shutdown-timeout": "20s",
        **more,
    }


def peer_plan(seed: int, number: int) -> list[Fault]:
    """Faults for a peer. It has read something before the first: who never read has no cursor."""
    plan = fault_plan(random.Random(f"{seed} {number}"), ROUNDS, head=180, up=20, down=BYTES)
    return [Fault(kind=Kind.RST, way=Way.DOWN, place=Place.FRAME, after=2000), *plan]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_peers_that_are_cut_and_resume_have_every_event_once(
    store: str, seed: int, figures: Callable[[str], None], tmp_path: Path
) -> None:
    source, ends = Source("served"), [End(), End()]

    def enough() -> bool:
        return not any(missing(chaos, REQUIRED) for chaos in proxies)

    async with trio.open_nursery() as nursery:
        async with trio_wsout.open_output(served(tmp_path, store)) as output:
            proxies = [Chaos(port_of(output), peer_plan(seed, number)) for number in range(2)]
            for end, chaos in zip(ends, proxies, strict=True):
                end.chaos = chaos
                await nursery.start(chaos.run)
                nursery.start_soon(end.follow, chaos.port)
            await output.wait_peers(2)
            await source.send(output, EVENTS, enough, ends)
            await until(lambda: all(end.whole == len(source.sent) for end in ends))
        nursery.cancel_scope.cancel()
    for number, (end, chaos) in enumerate(zip(ends, proxies, strict=True)):
        verdict = check(
            source.sent,
            source.confirmed,
            source.undelivered,
            end.arrived,
            window=0,
            cuts=ends_of(chaos),
            faults=faults_of(chaos),
            required=REQUIRED,
        )
        tell(figures, f"peer {number} of a server, {store}", verdict, [chaos], [end])


class Upstream(End):
    """A server for a relay's link: reads what comes up, and says as many events as come, each at least once."""

    def __init__(self) -> None:
        super().__init__()
        self._said = 0
        self._confirmed = 0
        self.done = False
        """Whether nothing new is to be said."""

    @property
    def sent(self) -> list[Identity]:
        return [("upstream", number) for number in range(self._said)]

    @property
    def confirmed(self) -> list[Identity]:
        """Those after which a ping was answered."""
        return self.sent[: self._confirmed]

    async def _talk(self, line: Line) -> None:
        await line.opened.wait()
        with suppress(trio.BrokenResourceError):
            while not self.done or self._confirmed < self._said:
                self._said = self._said if self.done else self._confirmed + FEW
                numbers = range(self._confirmed, self._said)
                events = [json.dumps(event("upstream", number, SIZE)) for number in numbers]
                barrier = str(self._said).encode()
                await line.say(*map(line.protocol.message, events), line.protocol.ping(barrier))
                await line.wait_pong(barrier)
                self._confirmed = numbers.stop
                while not self.done and self._confirmed > len(self.seen) // 2:
                    await trio.sleep(0.005)


async def test_a_relay_whose_link_and_peers_are_cut_passes_on_everything(
    seed: int, figures: Callable[[str], None], tmp_path: Path
) -> None:
    """Up go events of the application and of a peer that sends; down come events for every peer."""
    count = EVENTS // 2
    upstream, peer = Upstream(), End()
    application, device = Source("application"), Source("device")
    up = [application, device]
    sources_of_peer: list[Source | Upstream] = [*up, upstream]
    draw = random.Random(seed)
    head, few = 180, 2000
    async with trio.open_nursery() as nursery, serving(upstream) as port:
        link = Chaos(port, fault_plan(draw, ROUNDS, head=head, up=BYTES // 2, down=few))
        upstream.chaos = link
        await nursery.start(link.run)
        fields = served(tmp_path, "memory", mode="relay", payload="json", url=f"ws://127.0.0.1:{link.port}/")
        async with trio_wsout.open_output({**LINK, **fields}) as output:
            to_peer = Chaos(port_of(output), peer_plan(seed, 0))
            to_device = Chaos(
                port_of(output), fault_plan(draw, ROUNDS, head=head, up=BYTES // 8, down=BYTES // 8)
            )
            peer.chaos = to_peer
            await nursery.start(to_peer.run)
            await nursery.start(to_device.run)
            nursery.start_soon(peer.follow, to_peer.port)
            await output.wait_peers(1)

            def enough() -> bool:
                return not (missing(link, REQUIRED) or missing(to_peer, REQUIRED))

            async def send_from_device() -> None:
                fields = {
                    **LINK,
                    "url": f"ws://127.0.0.1:{to_device.port}/",
                    "delivery": {"max-unconfirmed": FEW},
                }
                async with trio_wsout.open_output(fields, undelivered=device.undelivered_to) as sending:
                    await device.send(sending, count, lambda: True, [upstream])

            async with trio.open_nursery() as sources:
                sources.start_soon(send_from_device)
                await application.send(output, count, enough, [upstream])
            upstream.done = True
            await until(lambda: upstream.confirmed == upstream.sent)
            await output.flush()
            await until(lambda: peer.whole == sum(len(each.sent) for each in sources_of_peer))
        nursery.cancel_scope.cancel()
    verdict = check(
        [one for source in up for one in source.sent],
        [one for source in up for one in source.confirmed],
        [one for source in up for one in source.undelivered],
        upstream.arrived,
        window=WINDOW,
        cuts=ends_of(link, to_device),
        direct=False,
        faults=faults_of(link),
        required=REQUIRED,
    )
    tell(figures, "up a relay's link", verdict, [link], [upstream])
    verdict = check(
        [one for source in sources_of_peer for one in source.sent],
        [one for source in sources_of_peer for one in source.confirmed],
        [one for source in up for one in source.undelivered],
        peer.arrived,
        window=WINDOW,
        cuts=ends_of(link, to_device),
        direct=False,
        faults=faults_of(to_peer),
        required=REQUIRED,
    )
    tell(figures, "peer of a relay", verdict, [to_peer], [peer])


RELAY: dict[str, Any] = {
    "mode": "relay",
    "server": {"bind": "127.0.0.1:0"},
    "payload": "json",
    "shutdown-timeout": "1s",
}


async def test_a_relay_that_is_busy_both_ways_over_its_link_does_not_stand_still() -> None:
    count = 5000
    end, here, there = End(), Source("here"), Source("there")
    async with trio.open_nursery() as nursery:
        async with trio_wsout.open_output(RELAY) as upstream:
            port = port_of(upstream)
            nursery.start_soon(end.dial, port)
            await upstream.wait_peers(1)
            fields = {**RELAY, "url": f"ws://127.0.0.1:{port}/", "connect": {"mode": "eager"}}
            async with trio_wsout.open_output(fields) as relay:
                await upstream.wait_peers(2)
                async with trio.open_nursery() as sending:
                    sending.start_soon(here.send, relay, count, lambda: True)
                    sending.start_soon(there.send, upstream, count, lambda: True)
                await relay.flush()
                await upstream.flush()
        nursery.cancel_scope.cancel()
    sent = [*here.sent, *there.sent]
    assert check(sent, sent, [], end.arrived, window=0, cuts=0).complaints == []


async def test_peers_of_a_relay_that_send_while_they_receive_are_not_called_slow() -> None:
    count = 5000
    sources = [Source("one"), Source("other")]
    async with trio_wsout.open_output(RELAY) as relay:
        fields = {"url": f"ws://127.0.0.1:{port_of(relay)}/", "connect": {"mode": "eager"}}

        async def run(source: Source) -> None:
            async with trio_wsout.open_output(fields) as output:
                await relay.wait_peers(2)
                await source.send(output, count, lambda: True)

        async with trio.open_nursery() as nursery:
            for source in sources:
                nursery.start_soon(run, source)
        told = relay.statistics()
    assert (told.listener.expelled, told.dropped) == (0, 0)
    assert [len(source.confirmed) for source in sources] == [count, count]


async def test_a_peer_that_is_cut_while_a_relay_reads_nothing_overtakes_none_of_its_own() -> None:
    """What a relay confirmed goes on before what the peer sends over its next connection."""
    count, cuts = 1000, 4
    hearer, device = End(), Source("device")
    async with trio.open_nursery() as nursery:
        server = {"bind": "127.0.0.1:0", "send-buffer-capacity": 16, "slow-peer-timeout": "2s"}
        async with trio_wsout.open_output({**RELAY, "server": server}) as relay:
            port = port_of(relay)
            chaos = Chaos(port)
            await nursery.start(chaos.run)
            nursery.start_soon(hearer.dial, port)
            await relay.wait_peers(1)

            async def stall() -> None:
                """Be a peer that reads nothing, until it is expelled."""
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                async with stream:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    await stream.send_all(PeerProtocol(server=False).request())
                    expelled = relay.statistics().listener.expelled
                    await until(lambda: relay.statistics().listener.expelled > expelled)

            async def cut_when_stalled() -> None:
                for _ in range(cuts):
                    seen = -1
                    while seen < relay.statistics().received:
                        seen = relay.statistics().received
                        await trio.sleep(0.2)
                    chaos.cut(Kind.RST)
                    await until(lambda seen=seen: relay.statistics().received > seen)

            fields = {**LINK, "url": f"ws://127.0.0.1:{chaos.port}/", "delivery": {"max-unconfirmed": WINDOW}}
            async with trio_wsout.open_output(fields, undelivered=device.undelivered_to) as output:
                nursery.start_soon(stall)
                await relay.wait_peers(2)
                nursery.start_soon(cut_when_stalled)
                await device.send(output, count, lambda: True)
                await output.flush()
            await until(lambda: hearer.whole == count)
        nursery.cancel_scope.cancel()
    verdict = check(
        device.sent,
        device.confirmed,
        device.undelivered,
        hearer.arrived,
        window=WINDOW,
        cuts=cuts,
        direct=False,
    )
    assert verdict.complaints == []


def confirm_on_write(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Session._wrote  # noqa: SLF001 - the place for the bug

    def wrote(session: Session, messages: int, events: int) -> None:
        real(session, messages, events)
        if session.subscription is not None:
            session.subscription.ping_taken()
            session.subscription.pong_received(trio.current_time())

    monkeypatch.setattr(Session, "_wrote", wrote)


def go_on_behind_what_is_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    real = LinkSubscription.disconnected

    def disconnected(link: LinkSubscription, disconnection: Any) -> None:
        link.ping_taken()
        link.pong_received(trio.current_time())
        real(link, disconnection)

    monkeypatch.setattr(LinkSubscription, "disconnected", disconnected)


def drop_the_queue_on_close(monkeypatch: pytest.MonkeyPatch) -> None:
    async def finish(tree: Tree) -> None:
        tree.closing.set()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Tree, "finish", finish)
    monkeypatch.setattr(Ledger, "abandon", lambda *_: [])


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (None, ""),
        (confirm_on_write, "lost"),
        (go_on_behind_what_is_torn, "lost"),
        (drop_the_queue_on_close, "forgotten"),
    ],
    ids=["as it is", "confirmed when written", "torn connection taken for whole", "queue dropped on close"],
)
async def test_a_planted_bug_is_complained_about(
    plant: Callable[[pytest.MonkeyPatch], None] | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    figures: Callable[[str], None],
) -> None:
    if plant is not None:
        plant(monkeypatch)
    plan = [Fault(kind=Kind.HOLD, place=Place.FRAME, after=20_000), Fault(kind=Kind.RST, after=30_001)]
    verdict, _, _ = await run_client(plan, 1000, required={"cuts": 2})
    planted = "no bug" if plant is None else plant.__name__.replace("_", " ")
    figures(f"checker, planted: {planted}; it complains: {'; '.join(verdict.complaints) or 'of nothing'}")
    assert words in " ".join(verdict.complaints)
    assert bool(verdict.complaints) == (plant is not None)


PULSE = {"ping-interval": "300ms", "timeout": "300ms"}
FOUND = 0.3 + 0.3
"""Seconds in which a dead link is found with that; tests/trees holds it to that exactly, on a clock of its own."""


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
async def test_a_client_finds_a_black_hole_in_time_and_everything_arrives_afterwards(
    busy: bool, figures: Callable[[str], None]
) -> None:
    end, source, changes = End(), Source("client"), list[tuple[float, trio_wsout.LinkChange]]()
    async with serving(end) as port, open_chaos(port) as chaos:
        fields = {**LINK, "url": f"ws://127.0.0.1:{chaos.port}/", "heartbeat": PULSE}
        async with trio_wsout.open_output(
            fields, on_state=lambda change: changes.append((trio.current_time(), change))
        ) as output:
            await source.send(output, 500, lambda: True)
            await output.flush()
            async with trio.open_nursery() as nursery:
                if busy:
                    nursery.start_soon(source.send, output, 2000, lambda: True)
                await until(lambda: len(end.seen) >= (600 if busy else 500))
                changes.clear()
                since = chaos.go_dark()
                await until(lambda: changes)
                found = changes[0][0] - since
                assert changes[0][1].disconnection is not None
                assert changes[0][1].disconnection.cause is Cause.UNHEALTHY, "the heartbeat found it"
                chaos.heal()
    verdict = check(source.sent, source.confirmed, [], end.arrived, window=WINDOW, cuts=ends_of(chaos))
    assert verdict.complaints == []
    figures(
        f"black hole, {'busy' if busy else 'quiet'} client: found after {found:.3f} s "
        f"({FOUND:g} s at least), {len(source.sent)} events, 0 lost"
    )


async def test_a_server_finds_a_black_hole_in_time_and_the_peer_resumes(
    figures: Callable[[str], None], tmp_path: Path
) -> None:
    end, source = End(), Source("served")
    fields = served(tmp_path, "memory", heartbeat=PULSE)
    async with trio.open_nursery() as nursery:
        async with trio_wsout.open_output(fields) as output, open_chaos(port_of(output)) as chaos:
            port = chaos.port
            nursery.start_soon(end.follow, port)
            await output.wait_peers(1)
            await source.send(output, 500, lambda: True)
            await until(lambda: end.whole == 500)
            since = chaos.go_dark()
            await until(lambda: output.statistics().peers == 0)
            found = trio.current_time() - since
            await source.send(output, 500, lambda: True)
            chaos.heal()
            await until(lambda: end.whole == 1000)
        nursery.cancel_scope.cancel()
    verdict = check(source.sent, source.confirmed, [], end.arrived, window=0, cuts=1)
    assert verdict.complaints == []
    figures(f"black hole, server: found after {found:.3f} s ({FOUND:g} s at least), 1000 events, 0 lost")


class Talker(End):
    """Says these messages on each connection."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__()
        self._messages = messages

    async def _talk(self, line: Line) -> None:
        await line.opened.wait()
        for message in self._messages:
            await line.say(line.protocol.message(message))


async def test_a_thousand_unread_messages_are_no_reason_for_an_alarm(figures: Callable[[str], None]) -> None:
    end, unread = Talker([str(n) for n in range(1000)]), 5
    async with serving(end) as port:
        fields = {**LINK, "url": f"ws://127.0.0.1:{port}/", "heartbeat": PULSE}
        async with trio_wsout.open_output(fields, receive=True) as output:
            await output.wait_connected()
            await trio.sleep(unread)
            await output.send(event("client", 0))
            for n in range(1000):
                assert (await output.received.receive()).event == str(n)
            await output.flush()
    told = output.statistics()
    figures(
        f"1000 messages unread for {unread:g} s, pings: 0.3 s + 0.3 s: "
        f"{told.heartbeat_misses} false alarms, {told.link.reconnects} reconnects"
    )
    assert (told.link.reconnects, told.heartbeat_misses) == (0, 0)
    assert end.arrived == [[("client", 0)]]


@pytest.mark.parametrize("way", list(Way))
async def test_a_large_message_on_a_slow_line_is_no_reason_for_an_alarm(
    way: Way, figures: Callable[[str], None]
) -> None:
    size = 1_000_000 if LONG else 128_000
    end = Talker(["x" * size] if way is Way.DOWN else [])
    async with serving(end) as port, open_chaos(port, rate=65536) as chaos:
        fields = {
            **LINK,
            "url": f"ws://127.0.0.1:{chaos.port}/",
            "heartbeat": {"ping-interval": "1s", "timeout": "1s"},
            "connect": {"mode": "eager"},
        }
        start = trio.current_time()
        async with trio_wsout.open_output(fields, receive=True) as output:
            if way is Way.UP:
                await output.send(event("client", 0, size - 100))
            else:
                assert (await output.received.receive()).event == "x" * size
                await output.send(event("client", 0))
            await output.flush()
        took = trio.current_time() - start
    told = output.statistics()
    figures(
        f"{size} bytes {way} at 64 KB/s: {took:.1f} s, {told.heartbeat_misses} misses, {told.link.reconnects} reconnects"
    )
    assert (told.link.reconnects, told.heartbeat_misses) == (0, 0)
    assert end.arrived == [[("client", 0)]]


async def test_a_large_message_for_a_peer_on_a_slow_line_is_no_reason_for_an_alarm(
    figures: Callable[[str], None],
) -> None:
    size = 1_000_000 if LONG else 128_000
    end, start = End(), trio.current_time()
    fields = {
        "mode": "server-output",
        "server": {"bind": "127.0.0.1:0"},
        "heartbeat": {"ping-interval": "1s", "timeout": "1s"},
    }
    async with trio.open_nursery() as nursery:
        async with trio_wsout.open_output(fields) as output, open_chaos(port_of(output), rate=65536) as chaos:
            port = chaos.port
            nursery.start_soon(end.dial, port)
            await output.wait_peers(1)
            await output.send(event("served", 0, size - 100))
            await until(lambda: end.seen or output.statistics().peers == 0)
            await output.flush()
            told = output.statistics()
        nursery.cancel_scope.cancel()
    figures(
        f"{size} bytes to a peer at 64 KB/s: {trio.current_time() - start:.1f} s, {told.heartbeat_misses} misses"
    )
    assert (told.peers, told.heartbeat_misses) == (1, 0)
    assert end.arrived == [[("served", 0)]]
