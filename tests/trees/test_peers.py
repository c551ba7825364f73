"""Who is connected, for how long and how well; who is sent away, and when (SPEC 3 and 10), at exact times on the mock clock."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.trees.conftest import open_session
from trio.testing import MockClock
from trio_wsout._wire.frames import PING, TEXT, masked_frame, masked_frames
from trio_wsout.testing import MemoryListener, PeerConnection, open_listener, open_peer

if TYPE_CHECKING:
    from trio_wsout import Output, Peer, PeerStatistics


def only(output: Output) -> tuple[Peer, PeerStatistics]:
    """The one connection there is."""
    ((peer, figures),) = output.peers().items()
    return peer, figures


def server(**more: Any) -> dict[str, Any]:
    return {"mode": "relay", "server": {"bind": "127.0.0.1:0", **more.pop("server", {})}, **more}


class WallClock:
    """A wall clock that runs with the mock clock, unless it is set."""

    def __init__(self) -> None:
        self.ahead = 1_700_000_000.0

    def time(self) -> float:
        return trio.current_time() + self.ahead


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock()
    monkeypatch.setattr(time, "time", clock.time)
    return clock


# -- who is connected --------------------------------------------------------------------------------------


async def test_the_figures_of_a_connection_are_those_of_what_went_over_it(
    role: str, autojump_clock: MockClock
) -> None:
    before = time.time()
    async with open_session(role, receive=True, payload="text", heartbeat="none") as (output, remote):
        peer, fresh = only(output)
        assert peer.dialled == (role == "link")
        assert before <= fresh.since <= time.time()
        assert (fresh.sent_messages, fresh.received_messages, fresh.round_trip) == (0, 0, None)
        remote.pong_after = 0.5
        for word in ("one", "two", "three"):
            await output.send(word)
        await remote.wait_messages(3)
        assert (only(output)[1].unconfirmed, only(output)[1].queued) == (3, 0)
        await output.flush()
        await remote.send("answer")
        assert (await output.received.receive()).peer is peer, "one name for it, wherever it is met"
        figures = only(output)[1]
        assert (figures.sent_messages, figures.received_messages) == (3, 1)
        assert (figures.unconfirmed, figures.queued, figures.round_trip) == (0, 0, 0.5)
        assert figures.since == fresh.since
        whole = output.statistics()
        assert (figures.sent_bytes, figures.received_bytes) == (whole.sent_bytes, whole.received_bytes)
        assert figures.sent_bytes > fresh.sent_bytes
        assert figures.received_bytes > fresh.received_bytes
    assert output.peers() == {}


async def test_what_waits_for_a_peer_is_queued_and_what_it_did_not_confirm_is_unconfirmed(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role, delivery={"max-unconfirmed": 2}, heartbeat="none") as (output, remote):
        remote.pong_after = None
        await output.send("0")
        await output.send("1")
        await remote.wait_messages(2)
        assert (only(output)[1].queued, only(output)[1].unconfirmed) == (0, 2)
        if role == "peer":
            await output.send("2")
            await trio.testing.wait_all_tasks_blocked()
            assert (only(output)[1].queued, only(output)[1].unconfirmed) == (1, 2)
        for ping in remote.pings:
            await remote.pong(ping)
        remote.pong_after = 0.0
        await output.flush()
        assert (only(output)[1].queued, only(output)[1].unconfirmed) == (0, 0)


async def test_a_link_has_its_messages_queued_while_it_asks_what_came(autojump_clock: MockClock) -> None:
    """After a break the first ping has to be answered before anything is sent again."""
    config = {"url": "ws://peer.test/", "connect": {"mode": "eager"}, "reconnect": {"jitter": 0}}
    async with open_peer() as peer, trio_wsout.open_output(config, open_stream=peer.open_stream) as output:
        first = only(output)[0]
        await output.send("before")
        await output.flush()
        peer.connections[0].pong_after = None
        await output.send("x")
        await peer.connections[0].wait_messages(2)
        await peer.connections[0].cut()
        await trio.sleep(0.1)
        assert output.peers() == {}
        await output.wait_connected()
        second, figures = only(output)
        assert (second == first, second.address == first.address) == (False, True)
        assert (figures.queued, figures.sent_messages) == (1, 0)
        await output.flush()
        assert (only(output)[1].queued, only(output)[1].sent_messages) == (0, 1)


async def test_a_miss_that_is_only_logged_is_counted_for_its_connection(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role, heartbeat={"action": "log-only"}) as (output, remote):
        remote.pong_after = None
        await trio.sleep(61)
        assert only(output)[1].heartbeat_misses == 2


async def test_each_of_many_has_its_own_figures_in_the_order_in_which_they_came(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async def authenticate(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
        return trio_wsout.Admit(identity=handshake.path.strip("/"))

    config = server(delivery="written", subprotocols=["v1"])
    async with trio_wsout.open_output(
        config, listeners=[listener], authenticate=authenticate, receive=True
    ) as output:
        ann = await listener.connect("/ann", subprotocols=["v1"])
        await output.send("for ann")
        bob = await listener.connect("/bob")
        await bob.send("from bob")
        assert (await output.received.receive()).peer.identity == "bob"
        await ann.wait_messages(2)
        peers = output.peers()
        assert [(each.identity, each.path, each.subprotocol) for each in peers] == [
            ("ann", "/ann", "v1"),
            ("bob", "/bob", None),
        ]
        assert [(each.sent_messages, each.received_messages) for each in peers.values()] == [(2, 0), (0, 1)]
        assert output.statistics().written_messages == 2, "what came from a peer is not written to it"
        await ann.cut()
        await trio.sleep(0.25)
        assert [each.identity for each in output.peers()] == ["bob"]


async def test_what_a_slow_peer_lost_is_counted_for_it_alone(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    config = server(delivery={"stamp": "seq"}, server={"slow-peer": "drop-oldest", "send-buffer-capacity": 2})
    async with trio_wsout.open_output(config, listeners=[listener]) as output:
        slow = await listener.connect("/slow", buffered=False)
        await listener.connect("/quick")
        slow.stop_reading()
        for number in range(20):
            await output.send({"n": number})
        await trio.testing.wait_all_tasks_blocked()
        figures = {each.path: their for each, their in output.peers().items()}
        assert figures["/quick"].lost_by_slow == 0
        assert figures["/slow"].lost_by_slow == output.statistics().listener.lost_by_slow > 0
        assert figures["/slow"].queued == 2
        slow.resume_reading()


async def test_who_catches_up_has_no_queue_that_could_be_told(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    config = {
        **server(delivery={"stamp": "seq"}, cursor={"query-parameter": "since"}),
        "mode": "server-output",
        "history": {"store": "memory:"},
    }
    async with trio_wsout.open_output(config, listeners=[listener]) as output:
        for number in range(2000):
            await output.send({"n": number, "pad": "x" * 100})
        await output.flush()
        client = await listener.connect("/?since=1-0", buffered=False)
        client.stop_reading()
        await trio.testing.wait_all_tasks_blocked()
        assert only(output)[1].queued is None
        client.resume_reading()
        await client.wait_messages(2001)  # and the gap
        await trio.testing.wait_all_tasks_blocked()
        assert (only(output)[1].queued, only(output)[1].sent_messages) == (0, 2000)


async def test_a_relay_shows_its_link_among_its_peers(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    config = server(url="ws://up.test/", delivery="written")
    async with (
        open_peer() as up,
        trio_wsout.open_output(config, listeners=[listener], open_stream=up.open_stream) as output,
    ):
        await trio.testing.wait_all_tasks_blocked()
        down = await listener.connect("/down")
        await output.send("for both")
        await down.send("for the link")
        await up.connections[0].wait_messages(2)
        await trio.testing.wait_all_tasks_blocked()
        told = {each.dialled: their.sent_messages for each, their in output.peers().items()}
        assert told == {True: 2, False: 1}
        assert (output.statistics().written_messages, output.statistics().peers) == (1, 1)


# -- sent away ---------------------------------------------------------------------------------------------


async def test_one_peer_is_closed_with_code_and_reason_and_the_others_stay(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(server(), listeners=[listener]) as output:
        ann, bob = await listener.connect("/ann"), await listener.connect("/bob")
        peer = next(each for each in output.peers() if each.path == "/ann")
        start = trio.current_time()
        assert output.disconnect(peer, 4403, "not any more")
        assert not output.disconnect(peer, 4404, "again"), "the first Close counts"
        assert not output.renew(peer, None), "it is being closed"
        await ann.wait_ended()
        assert (ann.close_code, ann.close_reason, ann.ended_at) == (4403, "not any more", start)
        await trio.testing.wait_all_tasks_blocked()
        assert [each.path for each in output.peers()] == ["/bob"]
        assert not output.disconnect(peer, 4403)
        await output.send("for bob")
        await output.flush()
        assert (ann.messages, bob.messages, bob.is_open) == ([], ["for bob"], True)


@pytest.mark.parametrize("stalled", [True, False])
async def test_who_can_not_be_told_or_does_not_answer_is_cut_after_five_seconds(
    stalled: bool, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(server(heartbeat="none"), listeners=[listener]) as output:
        client = await listener.connect(buffered=not stalled)
        client.answer_close = False
        if stalled:
            client.stop_reading()
        for word in ("taken by the pipe", "waits for room"):
            await output.send(word)
            await trio.sleep(0.5)
        assert output.disconnect(only(output)[0], 4403)
        await trio.sleep(4.75)
        assert len(output.peers()) == 1
        await trio.sleep(0.5)
        assert output.peers() == {}
        client.resume_reading()
        await client.wait_ended()
        assert client.close_code == (None if stalled else 4403)


async def test_nothing_waits_for_a_peer_that_is_sent_away(
    listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    config = server(server={"send-buffer-capacity": 1, "slow-peer-timeout": "1h"}, retry={"timeout": "2h"})
    async with trio_wsout.open_output(config, listeners=[listener]) as output:
        client = await listener.connect(buffered=False)
        client.stop_reading()
        sent: list[float] = []

        async def send() -> None:
            for number in range(10):
                await output.send("x" * 100_000 + str(number))
            await output.flush()
            sent.append(trio.current_time())

        nursery.start_soon(send)
        await trio.sleep(7)
        assert sent == []
        output.disconnect(only(output)[0], 4403)
        await trio.sleep(1)
        assert sent == [7]


async def test_a_peer_has_no_name_before_its_handshake_is_answered(
    listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(server(), listeners=[listener]) as output:
        client = PeerConnection(listener.dial(buffered=False))
        await client.request()
        await trio.sleep(1)
        assert output.peers() == {}
        nursery.start_soon(client.run)
        await client.wait_status()
        await output.wait_peers(1)
        assert output.disconnect(only(output)[0], 4403)
        await client.wait_closed()
        assert client.close_code == 4403


async def test_a_receiver_sends_the_sender_away(listener: MemoryListener, autojump_clock: MockClock) -> None:
    got: list[object] = []
    async with trio_wsout.open_output(server(), listeners=[listener], receive=True) as output:
        rude, polite = await listener.connect(), await listener.connect()
        await rude.send("rude")
        await polite.send("polite")
        async for item in output.received:
            got.append(item.event)
            if item.event == "rude":
                assert output.disconnect(item.peer, 4403, "rude")
                await rude.wait_closed()
            if len(got) == 2:
                break
        assert (rude.close_code, polite.close_code) == (4403, None)
    assert sorted(map(str, got)) == ["polite", "rude"]


async def test_who_judges_messages_sends_the_sender_away(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    def judge(message: trio_wsout.Received) -> trio_wsout.Received | None:
        if message.event != "spam":
            return message
        output.disconnect(message.peer, 4403, "no spam")
        return None

    async with trio_wsout.open_output(server(), listeners=[listener], on_message=judge) as output:
        spammer, other = await listener.connect(), await listener.connect()
        for word in ("hello", "spam"):
            await spammer.send(word)
        await spammer.wait_closed()
        await other.wait_messages(1)
        assert (spammer.close_reason, other.messages) == ("no spam", ["hello"])


@given(before=st.integers(0, 80), behind=st.integers(0, 80))
def test_who_is_sent_away_by_on_message_has_nothing_passed_on_that_came_behind_it_in_the_same_read(
    before: int, behind: int
) -> None:
    def judge(message: trio_wsout.Received) -> trio_wsout.Received | None:
        judged.append(str(message.event))
        if message.event != "spam":
            return message
        assert outputs[0].disconnect(message.peer, 4403, "no spam")
        return None

    async def run() -> None:
        async with (
            open_listener() as listener,
            trio_wsout.open_output(server(), listeners=[listener], on_message=judge) as output,
        ):
            outputs.append(output)
            spammer, other = await listener.connect(), await listener.connect()
            words = [*wanted, "spam", *("behind" for _ in range(behind))]
            frames = masked_frames([each.encode() for each in words], TEXT)
            await spammer.send_raw(b"".join([*frames, masked_frame(b"is it there?", PING)]))
            await spammer.wait_closed()
            await trio.sleep(1)
            assert (spammer.close_reason, spammer.pongs, other.messages) == ("no spam", [], wanted)
            assert output.statistics().dropped == 1 + behind

    outputs: list[Output] = []
    judged: list[str] = []
    wanted = [str(number) for number in range(before)]
    trio.run(run, clock=MockClock(autojump_threshold=0))
    assert judged == [*wanted, "spam"]


@pytest.mark.parametrize("how", ["sent away", "expired"])
async def test_of_what_comes_after_a_peer_is_sent_away_nothing_is_taken_and_nothing_confirmed(
    how: str, listener: MemoryListener, wall: WallClock, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(server(), listeners=[listener], receive=True) as output:
        client, other = await listener.connect("/a", buffered=False), await listener.connect("/b")
        peer = next(each for each in output.peers() if each.path == "/a")
        client.stop_reading()
        for word in ("taken by the pipe", "waits for room"):  # so that no Close can be written yet
            await output.send(word)
        await client.send("before")
        await trio.sleep(1)
        if how == "expired":
            output.renew(peer, wall.time())
        else:
            output.disconnect(peer, 4403)
        await trio.sleep(1)
        await client.send("behind")
        await client.ping(b"is it there?")
        await trio.sleep(1)
        client.resume_reading()
        await client.wait_closed()
        assert client.close_code == (4401 if how == "expired" else 4403)
        assert (client.pongs, other.messages[2:]) == ([], ["before"])
        await trio.sleep(1)
        assert output.received.receive_nowait().event == "before"
        with pytest.raises(trio.WouldBlock):
            output.received.receive_nowait()
        assert (output.statistics().received, output.statistics().dropped) == (2, 1)


async def test_a_connection_is_named_by_its_peer_and_a_link_is_no_such_peer(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    config = server(url="ws://up.test/")
    async with (
        open_peer() as up,
        trio_wsout.open_output(
            config, listeners=[listener], open_stream=up.open_stream, receive=True
        ) as output,
    ):
        client = await listener.connect()
        await client.send("hello")
        item = await output.received.receive()
        assert not output.disconnect(trio_wsout.Peer(address=item.peer.address), 4403)
        assert not output.renew(trio_wsout.Peer(address=item.peer.address), None)
        assert not output.disconnect(copy.copy(item.peer), 4403), "it names no connection"
        told = "named by its Peer, from peers\\(\\) or Received.peer, not by RawReceived$"
        with pytest.raises(TypeError, match=told):
            output.disconnect(item, 4403)  # type: ignore[arg-type]
        link = next(each for each in output.peers() if each.dialled)
        for call in (lambda: output.disconnect(link, 4403), lambda: output.renew(link, None)):
            with pytest.raises(ValueError, match="a link stays open as long as its output"):
                call()
        for code in (1004, 1005, 1006, 1015, 999, 5000):
            with pytest.raises(ValueError, match=f"a Close can't carry the code {code}"):
                output.disconnect(item.peer, code)
        with pytest.raises(ValueError, match="at most 123 bytes"):
            output.disconnect(item.peer, 4403, "é" * 62)
        await trio.sleep(1)
        assert client.is_open
        assert up.connections[0].is_open


async def test_a_client_has_no_peer_to_send_away(autojump_clock: MockClock) -> None:
    async with open_session("link") as (output, remote):
        with pytest.raises(ValueError, match="aclose"):
            output.disconnect(only(output)[0], 4403)
        assert not output.disconnect(trio_wsout.Peer(address="elsewhere"), 4403)
        assert remote.is_open


# -- admitted until ----------------------------------------------------------------------------------------


def until(at: float | None) -> Any:
    """An `authenticate` that admits until then."""

    async def authenticate(_: trio_wsout.Handshake) -> trio_wsout.Admit:
        return trio_wsout.Admit(until=at)

    return authenticate


async def test_a_peer_is_closed_at_the_time_until_which_it_was_admitted(
    listener: MemoryListener, wall: WallClock, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(
        server(), listeners=[listener], authenticate=until(wall.time() + 60), receive=True
    ) as output:
        await trio.sleep(5)
        client = await listener.connect()
        wall.ahead += 100_000  # somebody sets it
        await trio.sleep(54.5)
        await client.send("in time")
        assert client.is_open
        await client.wait_closed()
        assert (client.closed_at, client.close_code, client.close_reason) == (60, 4401, "expired")
        assert output.received.receive_nowait().event == "in time"
        await trio.sleep(1)
        assert output.peers() == {}


async def test_a_peer_that_is_renewed_stays_until_the_time_of_the_latest_renewal(
    listener: MemoryListener, wall: WallClock, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(
        server(), listeners=[listener], authenticate=until(wall.time() + 60)
    ) as output:
        client = await listener.connect()
        peer = only(output)[0]
        await trio.sleep(59)
        assert output.renew(peer, wall.time() + 100)
        await trio.sleep(50)
        assert output.renew(peer, None)
        await trio.sleep(3600)
        wall.ahead -= 7200  # what counts is what is left by the clock of the moment
        assert output.renew(peer, wall.time() + 20)
        await trio.sleep(5)
        assert output.renew(peer, wall.time() + 10)
        wall.ahead += 7200
        start = trio.current_time()
        await client.wait_closed()
        assert (client.closed_at, client.close_code) == (start + 10, 4401)
        await trio.sleep(1)
        assert not output.renew(peer, wall.time() + 100)
        assert output.peers() == {}


async def test_a_renewal_that_is_over_closes_the_peer_and_one_sets_a_time_where_there_was_none(
    listener: MemoryListener, wall: WallClock, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(server(), listeners=[listener]) as output:
        client = await listener.connect()
        await trio.sleep(7)
        assert output.renew(only(output)[0], wall.time() - 1)
        await client.wait_closed()
        assert (client.closed_at, client.close_code) == (7, 4401)
        other = await listener.connect()
        assert output.renew(list(output.peers())[-1], wall.time() + 0.5)
        await other.wait_closed()
        assert (other.closed_at, other.close_code) == (7.5, 4401)


async def test_a_renewal_that_is_no_time_is_refused_and_changes_nothing(
    listener: MemoryListener, wall: WallClock, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(
        server(), listeners=[listener], authenticate=until(wall.time() + 60)
    ) as output:
        client = await listener.connect()
        with pytest.raises(ValueError, match="divided by 1000"):
            output.renew(only(output)[0], wall.time() * 1000)
        await client.wait_closed()
        assert client.closed_at == 60


@pytest.mark.parametrize("late", [0.0, 3600.0])
async def test_an_admission_that_is_over_is_none(
    late: float,
    listener: MemoryListener,
    wall: WallClock,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with trio_wsout.open_output(
        server(), listeners=[listener], authenticate=until(wall.time() - late)
    ) as output:
        client = await listener.connect()
        assert (client.status, client.body) == (401, b"the time of this admission is over\n")
        assert output.statistics().listener.refused == 1
    assert "authenticate admitted a peer until a time that is over" in caplog.text


async def test_an_admission_that_ends_before_the_answer_is_read_ends_the_peer_at_once(
    listener: MemoryListener, nursery: trio.Nursery, wall: WallClock, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(server(), listeners=[listener], authenticate=until(wall.time() + 3)):
        client = PeerConnection(listener.dial(buffered=False))
        await client.request()
        await trio.sleep(5)
        nursery.start_soon(client.run)
        await client.wait_closed()
        assert (client.status, client.closed_at, client.close_code) == (101, 5, 4401)


async def test_a_peer_that_reads_nothing_is_cut_five_seconds_after_its_time(
    listener: MemoryListener, wall: WallClock, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(
        server(heartbeat="none"), listeners=[listener], authenticate=until(wall.time() + 10)
    ) as output:
        client = await listener.connect(buffered=False)
        client.stop_reading()
        for word in ("taken by the pipe", "waits for room"):
            await output.send(word)
            await trio.sleep(0.5)
        await trio.sleep_until(14.75)
        assert len(output.peers()) == 1
        await trio.sleep(0.5)
        assert output.peers() == {}


@given(
    first=st.none() | st.integers(1, 30),
    steps=st.lists(
        st.tuples(
            st.integers(1, 9),
            st.sampled_from(["renew", "renew", "for ever", "nothing"]),
            st.integers(-5, 30),
            st.sampled_from([0, 0, -10_000, 10_000]),
        ),
        max_size=12,
    ),
)
@settings(max_examples=50)
def test_whatever_is_renewed_a_peer_ends_when_its_latest_time_is_over(
    first: int | None, steps: list[tuple[int, str, int, int]]
) -> None:
    """Each step: so many seconds later, a renewal by so much, and then the wall clock is set. No two things happen at one time."""
    wall = WallClock()

    async def main() -> None:
        async with open_listener() as listener:
            ends = None if first is None else first + 0.125
            async with trio_wsout.open_output(
                server(),
                listeners=[listener],
                authenticate=until(None if first is None else wall.time() + first + 0.125),
            ) as output:
                client = await listener.connect()
                peer = only(output)[0]
                for seconds, what, more, jump in steps:
                    await trio.sleep(seconds + 0.5)
                    now = trio.current_time()
                    there = ends is None or now < ends
                    if what != "nothing":
                        at = None if what == "for ever" else wall.time() + more + 0.125
                        assert output.renew(peer, at) == there
                        ends = ends if not there else None if at is None else now + max(more + 0.125, 0)
                    wall.ahead += jump
                await trio.sleep(100)
                assert client.closed_at == (None if ends is None else pytest.approx(ends))
                assert client.close_code == (None if ends is None else 4401)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", wall.time)
        trio.run(main, clock=MockClock(autojump_threshold=0))


# -- the end -----------------------------------------------------------------------------------------------

ENDS: dict[str, tuple[list[tuple[Any, ...]], tuple[int | None, str]]] = {
    "nothing said": ([], (None, "")),
    "closed": ([()], (None, "")),
    "with a code": ([(1012, "come back")], (1012, "come back")),
    "with a reason": ([(None, "bye")], (None, "bye")),
    "the first counts": ([(4000, "one"), (4001, "two"), ()], (4000, "one")),
    "the first that says something counts": ([(), (4001, "two")], (4001, "two")),
}


@pytest.mark.parametrize(("calls", "told"), ENDS.values(), ids=ENDS)
async def test_what_aclose_named_is_told_as_the_block_is_left(
    role: str, calls: list[tuple[Any, ...]], told: tuple[int | None, str], autojump_clock: MockClock
) -> None:
    async with open_session(role) as (output, remote):
        await output.send("accepted before")
        for call in calls:
            await output.aclose(*call)
        if calls:
            with pytest.raises(trio.ClosedResourceError):
                await output.send("too late")
        await trio.sleep(30)
        assert (remote.is_open, remote.close_code) == (True, None), "the block is not left"
    assert remote.messages == ["accepted before"]
    usual = {"link": 1000, "peer": 1001}[role]
    assert (remote.close_code, remote.close_reason) == (told[0] or usual, told[1])


async def test_a_close_that_can_not_be_leaves_the_output_open(role: str, autojump_clock: MockClock) -> None:
    async with open_session(role) as (output, remote):
        with pytest.raises(ValueError, match="the code 1006"):
            await output.aclose(1006)
        with pytest.raises(ValueError, match="at most 123 bytes"):
            await output.aclose(reason="x" * 124)
        await output.send("goes on")
        await remote.wait_messages(1)
    assert remote.close_code == {"link": 1000, "peer": 1001}[role]


async def test_an_exception_that_leaves_the_block_is_told_as_aclose_said(
    role: str, autojump_clock: MockClock
) -> None:
    with pytest.RaisesGroup(KeyError, flatten_subgroups=True, allow_unwrapped=True):
        async with open_session(role) as (output, remote):
            await output.aclose(1012)
            raise KeyError
    assert remote.close_code == 1012


async def test_a_relay_tells_its_peers_and_its_link(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    config = server(url="ws://up.test/")
    async with open_peer() as up:
        async with trio_wsout.open_output(config, listeners=[listener], open_stream=up.open_stream) as output:
            client = await listener.connect()
            await output.aclose(1012, "restart")
        for remote in (client, up.connections[0]):
            assert (remote.close_code, remote.close_reason) == (1012, "restart")
