"""A process that did not run finds the answer before it judges: sockets, and a mock clock that jumps meanwhile.

What a peer sends lies in the socket, and the clock jumps, within one step of one task: so the loop hears of both at the
same time, as a process does that was stopped, and nobody knows whose task it lets run first.
"""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from trio_wsout.testing import PeerProtocol
from trio_wsout.testing.protocol import Close, Ping, Request, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener
    from trio_wsout.testing.protocol import PeerEvent

ROUNDS = 8
"""Times that each is tried, for the order of tasks is a matter of luck."""
SERVER: dict[str, Any] = {"bind": "127.0.0.1:0"}
SHORT = "x" * 500


class RawPeer:
    """A peer on a real socket that does all it does at once, and never waits."""

    all: list[RawPeer] = []  # noqa: RUF012 - closed and emptied after each test

    def __init__(self, *, server: bool) -> None:
        self.socket, theirs = socket.socketpair()
        self.all.append(self)
        self.socket.setblocking(False)
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        self.protocol = PeerProtocol(server=server)
        self.over = False
        self._came: list[PeerEvent] = []
        self.early: list[PeerEvent] = []
        """What came with the answer to the handshake."""

    def say(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def text(self, text: str) -> bytes:
        return self.protocol.message(text)

    def hear(self) -> list[PeerEvent]:
        """What has come since the last time."""
        self._read()
        came, self._came = self._came, []
        return came

    def _read(self) -> None:
        while not self.over:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            self.over = not data
            if data:
                self._came += self.protocol.feed(data)

    def pongs(self, events: Iterable[PeerEvent] | None = None) -> list[bytes]:
        """The answers to the pings among these, or among what has come by now."""
        came = self.hear() if events is None else events
        return [self.protocol.pong(event.payload) for event in came if isinstance(event, Ping)]

    @property
    def cut(self) -> bool:
        self._read()
        return self.over


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while RawPeer.all:
        RawPeer.all.pop().socket.close()


class Server:
    """Opens streams for a link, whose other ends are peers that have accepted."""

    def __init__(self) -> None:
        self.peers: list[RawPeer] = []
        self.accepts = True

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        peer = RawPeer(server=True)
        self.peers.append(peer)
        return peer.stream

    async def open(self) -> RawPeer:
        """Let the link's latest handshake come, and answer it."""
        await trio.testing.wait_all_tasks_blocked()
        peer = self.peers[-1]
        assert [type(event) for event in peer.hear()] == [Request]
        peer.say(peer.protocol.accept())
        await trio.testing.wait_all_tasks_blocked()
        return peer


@asynccontextmanager
async def running(config: dict[str, Any], **more: Any) -> AsyncIterator[trio_wsout.Output]:
    """An output that is cancelled at the end: on this clock nothing that waits would ever end."""
    trouble: Exception | None = None
    with trio.CancelScope() as cut:
        async with trio_wsout.open_output(config, **more) as output:
            try:
                yield output
            except Exception as error:
                trouble = error  # the cancellation would take its place
            cut.cancel()
    if trouble is not None:
        raise trouble


@asynccontextmanager
async def link(**more: Any) -> AsyncIterator[tuple[trio_wsout.Output, RawPeer, Server]]:
    server = Server()
    config = {"url": "ws://peer.test/", "reconnect": {"jitter": 0}, **more}
    async with running(config, open_stream=server.open_stream) as output, trio.open_nursery() as nursery:
        nursery.start_soon(output.wait_connected)
        yield output, await server.open(), server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def listening(
    listener: MemoryListener, **more: Any
) -> AsyncIterator[tuple[trio_wsout.Output, RawPeer]]:
    config = {"mode": "server-output", "server": SERVER, **more}
    async with running(config, listeners=[listener]) as output:
        yield output, await visitor(listener)


@asynccontextmanager
async def open_raw(
    role: str, listener: MemoryListener, **more: Any
) -> AsyncIterator[tuple[trio_wsout.Output, RawPeer]]:
    """An output with one session, and its other end."""
    if role == "link":
        async with link(**more) as (output, peer, _):
            yield output, peer
    else:
        async with listening(listener, **more) as (output, peer):
            yield output, peer


async def visitor(listener: MemoryListener, target: str = "/") -> RawPeer:
    """A peer whose handshake was answered."""
    peer = RawPeer(server=False)
    listener.add(peer.stream)
    peer.say(peer.protocol.request(target))
    await trio.testing.wait_all_tasks_blocked()
    answer, *peer.early = peer.hear()
    assert isinstance(answer, Response)
    return peer


async def passes(clock: MockClock, seconds: float) -> None:
    """Let time pass while the loop runs."""
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


BEAT = {"ping-interval": "20s", "timeout": "10s"}


async def test_the_pong_is_found_first(role: str, listener: MemoryListener, mock_clock: MockClock) -> None:
    async with open_raw(role, listener, heartbeat=BEAT, retry={"timeout": "1d"}) as (output, peer):
        for late in range(ROUNDS):
            await passes(mock_clock, 20)
            pongs = peer.pongs()
            assert len(pongs) == 1
            peer.say(*pongs)
            mock_clock.jump(10 + 100 * late)  # the process does not run
            await trio.testing.wait_all_tasks_blocked()
            assert not peer.cut
        assert output.statistics().heartbeat_misses == 0
        await passes(mock_clock, 20)
        assert len(peer.pongs()) == 1
        await passes(mock_clock, 9.75)
        assert not peer.cut
        await passes(mock_clock, 0.25)
        assert peer.cut, "the dead are found in time"
        assert output.statistics().heartbeat_misses == 1


async def test_the_pong_behind_much_else_is_found_first(
    role: str, listener: MemoryListener, mock_clock: MockClock
) -> None:
    async with open_raw(role, listener, heartbeat="none", retry={"timeout": "30s"}) as (output, peer):
        for _ in range(ROUNDS):
            await output.send("x")
            await trio.testing.wait_all_tasks_blocked()
            (pong,) = peer.pongs()
            peer.say(*[peer.text(SHORT)] * 100, pong)
            mock_clock.jump(1000)
            await trio.testing.wait_all_tasks_blocked()
            assert output.statistics().unconfirmed == 0
        assert not peer.cut
        await output.send("x")
        await passes(mock_clock, 0)
        await passes(mock_clock, 29.75)
        peer.say(*[peer.text(SHORT)] * 100)
        assert not peer.cut
        await passes(mock_clock, 0.25)
        assert peer.cut, "life is no confirmation"


async def test_what_could_not_be_asked_for_meanwhile_is_not_late(
    role: str, listener: MemoryListener, mock_clock: MockClock
) -> None:
    async with open_raw(role, listener, heartbeat="none", retry={"timeout": "30s"}) as (output, peer):
        for _ in range(ROUNDS):
            await output.send("first")
            await trio.testing.wait_all_tasks_blocked()
            (pong,) = peer.pongs()
            await passes(mock_clock, 5)
            await output.send("second")  # no ping goes for it before the first is answered
            await trio.testing.wait_all_tasks_blocked()
            peer.say(pong)
            mock_clock.jump(1000)
            await trio.testing.wait_all_tasks_blocked()
            await passes(mock_clock, 29.75)
            assert not peer.cut, "its time begins with the answer that was found"
            peer.say(*peer.pongs())
            await passes(mock_clock, 0)
            assert output.statistics().unconfirmed == 0


async def test_a_link_that_starts_slowly_finds_the_first_pong_first(mock_clock: MockClock) -> None:
    for _ in range(ROUNDS):
        async with link(heartbeat="none", retry={"timeout": "30s"}) as (output, peer, server):
            await output.send("x")
            await passes(mock_clock, 0)
            peer.socket.close()
            await passes(mock_clock, 0)
            await passes(mock_clock, 1)
            again = await server.open()
            again.say(*again.pongs())
            mock_clock.jump(31)
            await trio.testing.wait_all_tasks_blocked()
            assert not again.cut
            assert any(isinstance(event, str) for event in again.hear())


async def test_the_acknowledgement_is_found_first(
    role: str, listener: MemoryListener, mock_clock: MockClock
) -> None:
    delivery = {"level": "acked", "stamp": "s"}
    async with open_raw(role, listener, heartbeat="none", delivery=delivery) as (output, peer):
        for _ in range(ROUNDS):
            await output.send({"n": 1})
            await trio.testing.wait_all_tasks_blocked()
            texts = [event for event in peer.hear() if isinstance(event, str)]
            peer.say(peer.text(json.dumps({"ack": json.loads(texts[-1])["s"]})))
            mock_clock.jump(1000)
            await trio.testing.wait_all_tasks_blocked()
            assert output.statistics().unconfirmed == 0
        assert not peer.cut


async def test_a_write_that_could_not_go_on_meanwhile_costs_no_connection(
    role: str, listener: MemoryListener, mock_clock: MockClock
) -> None:
    async with open_raw(role, listener, heartbeat="none", retry={"timeout": "30s"}) as (output, peer):
        for _ in range(ROUNDS):
            for _ in range(8):
                await output.send("x" * 100_000)
            await trio.testing.wait_all_tasks_blocked()
            pongs = peer.pongs()  # takes what the socket holds, which is not all
            assert output.statistics().written < output.statistics().accepted
            peer.say(*pongs)
            mock_clock.jump(1000)
            for _ in range(20):
                await trio.testing.wait_all_tasks_blocked()
                peer.say(*peer.pongs())
            assert output.statistics().unconfirmed == 0
        assert not peer.cut


async def test_an_answer_to_the_handshake_is_found_first(mock_clock: MockClock) -> None:
    server = Server()
    config = {"url": "ws://peer.test/", "connect": {"timeout": "10s"}, "reconnect": {"jitter": 0}}
    async with running(config, open_stream=server.open_stream) as output:
        await output.send("x")
        for _ in range(ROUNDS):
            await trio.testing.wait_all_tasks_blocked()
            peer = server.peers[-1]
            assert peer.hear()
            peer.say(peer.protocol.accept())
            mock_clock.jump(1000)
            await trio.testing.wait_all_tasks_blocked()
            assert output.statistics().link.state == "open"
            peer.socket.close()
            await passes(mock_clock, 0)
            await passes(mock_clock, 31)
        await passes(mock_clock, 9.75)
        assert output.statistics().link.state == "dialling"
        await passes(mock_clock, 0.25)
        assert output.statistics().link.state == "backing-off"


# -- peers of a listener --------------------------------------------------------------------------------


async def test_of_many_peers_only_those_are_cut_who_said_nothing(
    listener: MemoryListener, mock_clock: MockClock
) -> None:
    async with listening(listener, heartbeat=BEAT) as (output, first):
        peers = [first] + [await visitor(listener) for _ in range(99)]
        await passes(mock_clock, 20)
        for number, peer in enumerate(peers):
            pongs = peer.pongs()
            if number % 3:
                peer.say(*[peer.text(SHORT)] * number, *pongs)
        mock_clock.jump(1000)
        await trio.testing.wait_all_tasks_blocked()
        assert [peer.cut for peer in peers] == [number % 3 == 0 for number in range(100)]
        assert output.statistics().peers == 66


async def test_a_peer_that_said_something_is_not_idle(
    listener: MemoryListener, mock_clock: MockClock
) -> None:
    server = SERVER | {"idle-timeout": "60s"}
    async with listening(listener, server=server, heartbeat="none") as (_, peer):
        for _ in range(ROUNDS):
            peer.say(peer.text("x"))
            mock_clock.jump(1000)
            await trio.testing.wait_all_tasks_blocked()
        await passes(mock_clock, 59.75)
        assert peer.hear() == []
        await passes(mock_clock, 0.25)
        assert [type(event) for event in peer.hear()] == [Close]


async def test_a_peer_that_took_what_there_was_is_not_slow(
    listener: MemoryListener, mock_clock: MockClock
) -> None:
    server = SERVER | {"send-buffer-capacity": 1}
    async with listening(listener, server=server, heartbeat="none") as (output, peer):
        for _ in range(ROUNDS):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(output.send, "x" * 100_000)
                await trio.testing.wait_all_tasks_blocked()
                peer.say(*peer.pongs())  # it takes all that there is, and has room now
                mock_clock.jump(4.9)
                mock_clock.jump(100)
                for _ in range(100):
                    await trio.testing.wait_all_tasks_blocked()
                    peer.say(*peer.pongs())
            await output.flush()
        assert output.statistics().listener.expelled == 0
        for _ in range(20):
            output.send_nowait("x" * 100_000)
        await passes(mock_clock, 0)
        await passes(mock_clock, 4.75)
        assert output.statistics().listener.expelled == 0
        await passes(mock_clock, 0.25)
        assert output.statistics().listener.expelled == 1


async def test_a_peer_whose_confirmations_lay_unread_is_not_slow(
    listener: MemoryListener, mock_clock: MockClock
) -> None:
    server = SERVER | {"send-buffer-capacity": 1}
    delivery = {"max-unconfirmed": 1}
    async with listening(listener, server=server, delivery=delivery, heartbeat="none") as (output, peer):
        for _ in range(ROUNDS):
            for _ in range(3):
                output.send_nowait("x")
            await trio.testing.wait_all_tasks_blocked()
            peer.say(*[peer.text(SHORT)] * 100, *peer.pongs())
            mock_clock.jump(20)
            for _ in range(5):
                await trio.testing.wait_all_tasks_blocked()
                peer.say(*peer.pongs())
            assert output.statistics().unconfirmed == 0
        assert output.statistics().listener.expelled == 0


async def test_a_handshake_that_lies_there_is_taken(listener: MemoryListener, mock_clock: MockClock) -> None:
    async with listening(listener, heartbeat="none") as (output, _):
        for number in range(ROUNDS):
            peer = RawPeer(server=False)
            listener.add(peer.stream)
            await trio.testing.wait_all_tasks_blocked()
            peer.say(peer.protocol.request())
            mock_clock.jump(1000)
            await trio.testing.wait_all_tasks_blocked()
            assert output.statistics().peers == number + 2
        silent = RawPeer(server=False)
        listener.add(silent.stream)
        await passes(mock_clock, 0)
        await passes(mock_clock, 9.75)
        assert not silent.cut
        await passes(mock_clock, 0.25)
        assert silent.cut


async def test_the_last_words_before_the_answer_to_a_close_are_heard(
    listener: MemoryListener, mock_clock: MockClock
) -> None:
    server = SERVER | {"idle-timeout": "60s"}
    config = {"mode": "server-input", "server": server, "heartbeat": "none"}
    async with running(config, listeners=[listener]) as output:
        for _ in range(ROUNDS):
            peer = await visitor(listener)
            await passes(mock_clock, 60)
            (close,) = peer.hear()
            assert isinstance(close, Close)
            peer.say(peer.text("x"), peer.protocol.close(close.code))
            mock_clock.jump(1000)
            await trio.testing.wait_all_tasks_blocked()
            assert output.received.receive_nowait().event == "x"


async def test_a_part_of_the_history_that_could_not_go_on_meanwhile_costs_no_peer(
    listener: MemoryListener, mock_clock: MockClock
) -> None:
    more = {
        "history": {},
        "delivery": {"stamp": "s"},
        "cursor": {"query-parameter": "since"},
        "heartbeat": "none",
    }
    async with listening(listener, **more) as (output, first):
        await output.send({"n": 0})
        await trio.testing.wait_all_tasks_blocked()
        events = first.hear()
        cursor = next(json.loads(each)["s"] for each in events if isinstance(each, str))
        first.say(*first.pongs(events))
        for _ in range(3):
            await output.send({"n": "x" * 500_000})
            for _ in range(20):
                await trio.testing.wait_all_tasks_blocked()
                first.say(*first.pongs())
        for _ in range(ROUNDS):
            peer = await visitor(listener, f"/?since={cursor}")
            mock_clock.jump(1000)
            count = sum(isinstance(event, str) for event in peer.early)
            for _ in range(20):
                await trio.testing.wait_all_tasks_blocked()
                came = peer.hear()
                count += sum(isinstance(event, str) for event in came)
                peer.say(*peer.pongs(came))
            assert not peer.over
            assert count == 3
        silent = await visitor(listener, f"/?since={cursor}")
        await passes(mock_clock, 0)
        await passes(mock_clock, 29.75)
        assert output.statistics().peers == 2 + ROUNDS
        await passes(mock_clock, 0.25)
        assert output.statistics().peers == 1 + ROUNDS
        assert silent.socket.fileno() >= 0
