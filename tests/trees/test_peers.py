"""Who is connected, for how long and how well; who is sent away, and when (SPEC 3 and 10), at exact times on the mock clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import trio
import trio.testing
import trio_wsout
from tests.trees.conftest import open_session
from trio_wsout.testing import MemoryListener, open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout import Output, Peer, PeerStatistics


def only(output: Output) -> tuple[Peer, PeerStatistics]:
    """The one connection there is."""
    ((peer, figures),) = output.peers().items()
    return peer, figures


def server(**more: Any) -> dict[str, Any]:
    return {"mode": "relay", "server": {"bind": "127.0.0.1:0", **more.pop("server", {})}, **more}


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
