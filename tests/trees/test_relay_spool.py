"""A relay with a spool on the mock clock: what goes up is on disk first, and peers and link are behind without each other."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from tests.trees.disk import Disk
from trio_wsout.testing import Accept, MemoryListener, MemoryPeer, PeerConnection, Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock


def config(**more: Any) -> dict[str, Any]:
    reconnect = {"initial-backoff": "10ms", "max-backoff": "10ms", "jitter": 0}
    return {
        "mode": "relay",
        "server": {"bind": "127.0.0.1:0"},
        "url": "ws://up.test/",
        "reconnect": reconnect,
        "spool": {"path": "/spool"},
        **more,
    }


def balanced(output: trio_wsout.Output) -> trio_wsout.Statistics:
    now = output.statistics()
    assert now.accepted == now.confirmed + now.undelivered + now.unconfirmed
    return now


# -- one by one ---------------------------------------------------------------------------------------------


async def test_send_returns_when_the_event_is_on_disk_and_peers_and_link_get_it_then(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=1.0)
    async with open_peer() as up:
        async with trio_wsout.open_output(
            config(), listeners=[listener], open_stream=up.open_stream, spool=disk
        ) as output:
            client = await listener.connect()
            await output.wait_peers(1)
            start = trio.current_time()
            await output.send("one")
            assert trio.current_time() - start == 1.0
            await output.flush()
            assert trio.current_time() - start == 1.0
            assert [each - start for each in client.message_times] == [1.0]
            assert [each - start for each in up.connections[0].message_times] == [1.0]
            now = balanced(output)
            assert (now.accepted, now.confirmed, now.spool.events, now.queued) == (1, 1, 0, 0)
        assert disk.settled == 1


async def test_a_pong_says_that_what_was_sent_before_is_on_disk(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=1.0)
    async with open_peer() as up:
        async with trio_wsout.open_output(
            config(), listeners=[listener], open_stream=up.open_stream, spool=disk
        ) as output:
            ann, bob = await listener.connect(), await listener.connect()
            await output.wait_peers(2)
            start = trio.current_time()
            await ann.send("first")
            await trio.sleep(0.25)
            await ann.send("second")
            await ann.ping(b"?")
            await bob.ping(b"!")
            await trio.sleep(3)
            assert [each - start for each in ann.pong_times] == [2.0], (
                "its second message was in the next group"
            )
            assert [each - start for each in bob.pong_times] == [0.25], "it has sent nothing"
            assert [each - start for each in bob.message_times] == [1.0, 2.0]
        assert up.messages == ["first", "second"]
        assert ann.messages == []
        assert [count for _, count, _ in disk.groups if count] == [1, 1]


async def test_events_leave_the_disk_when_the_link_has_them_whatever_peers_do(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    with pytest.raises(trio_wsout.DeliveryError) as caught:
        async with (
            open_peer() as up,
            trio_wsout.open_output(
                config(**{"shutdown-timeout": "1s"}),
                listeners=[listener],
                open_stream=up.open_stream,
                spool=disk,
            ) as output,
        ):
            client = await listener.connect()
            client.pong_after = None
            await output.wait_peers(1)
            receipt = await output.submit("mine")
            await client.send("its own")
            await up.wait_messages(2)
            await trio.sleep(0.5)
            now = balanced(output)
            assert (disk.settled, now.spool.events) == (2, 0)
            assert (now.confirmed, now.unconfirmed) == (0, 2), "a peer has not confirmed the first"
            assert not receipt.settled
    assert [each.event for each in caught.value.undelivered] == ["mine", "its own"]
    now = balanced(output)
    assert (now.accepted, now.confirmed, now.undelivered, now.unconfirmed) == (2, 0, 2, 0)


async def test_events_leave_the_disk_while_a_peer_that_is_slow_makes_the_relay_wait(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0, events=list(range(5000)))
    fields = config(
        server={"bind": "127.0.0.1:0", "send-buffer-capacity": 1, "slow-peer-timeout": "60s"},
        heartbeat=None,
        retry={"timeout": "100s"},
    )
    async with open_peer() as up:
        up.plan(Accept(after=2.0))
        async with (
            trio_wsout.open_output(
                fields, listeners=[listener], open_stream=up.open_stream, spool=disk
            ) as output,
            trio.open_nursery() as nursery,
        ):
            slow = await listener.connect(buffered=False)
            await output.wait_peers(1)
            slow.stop_reading()

            async def send() -> None:
                for number in range(600):
                    await output.send(str(number) * 100)

            nursery.start_soon(send)
            await trio.sleep(5)
            now = balanced(output)
            assert disk.count < 5600, "the queue of the peers is full"
            assert disk.settled == disk.count == len(up.messages)
            assert (now.spool.events, now.spool.bytes) == (0, 0)
            slow.resume_reading()
        assert up.messages[5000:] == slow.messages == [str(number) * 100 for number in range(600)]


async def test_events_that_only_peers_have_stay_and_are_told_once(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    async with open_peer() as up:
        up.plan(then=Unreachable())
        with pytest.raises(
            trio_wsout.DeliveryError, match="2 accepted events not confirmed.*/spool"
        ) as caught:
            async with trio_wsout.open_output(
                config(**{"shutdown-timeout": "1s"}),
                listeners=[listener],
                open_stream=up.open_stream,
                spool=disk,
            ) as output:
                client = await listener.connect()
                await output.wait_peers(1)
                receipt = await output.submit("one")
                await output.send("two")
                await client.wait_messages(2)
                await trio.sleep(1)
                now = balanced(output)
                assert (now.confirmed, now.unconfirmed, now.spool.events) == (0, 2, 2)
        assert caught.value.undelivered == ()
        with pytest.raises(trio_wsout.DeliveryError, match="goes first at the next start"):
            await receipt.wait()
    now = balanced(output)
    assert (now.accepted, now.confirmed, now.undelivered, now.unconfirmed) == (2, 0, 0, 2)
    assert (disk.count, disk.settled) == (2, 0)


async def test_what_an_earlier_run_left_goes_first_and_up_only(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0, events=list(range(1000)), settled=300)
    async with open_peer() as up:
        up.plan(Accept(after=1.0))
        async with trio_wsout.open_output(
            config(), listeners=[listener], open_stream=up.open_stream, spool=disk
        ) as output:
            client, other = await listener.connect(), await listener.connect()
            await output.wait_peers(2)
            now = balanced(output)
            assert (now.accepted, now.unconfirmed, now.window, now.spool.events) == (700, 700, 700, 700)
            await output.send("new")
            await other.send("other's")
            await client.wait_messages(2)
            assert trio.current_time() < 1.0, "peers get it while the link is not even open"
            assert balanced(output).unconfirmed == 702
            await output.flush()
            now = balanced(output)
            assert (now.accepted, now.confirmed, now.queued, now.spool.events) == (702, 702, 0, 0)
        assert up.messages == [*map(str, range(300, 1000)), "new", "other's"]
        assert client.messages == ["new", "other's"]
        assert other.messages == ["new"]


async def test_a_link_that_is_away_costs_disk_and_keeps_no_peer_waiting(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    small = config(delivery={"max-unconfirmed": 10})
    async with open_peer() as up:
        up.plan(then=Unreachable())
        async with trio_wsout.open_output(
            small, listeners=[listener], open_stream=up.open_stream, spool=disk
        ) as output:
            ann, bob = await listener.connect(), await listener.connect()
            await output.wait_peers(2)
            for number in range(2000):
                await output.send(f"mine {number}")
                await ann.send(f"ann's {number}")
            await bob.wait_messages(4000)
            now = balanced(output)
            assert (now.spool.events, now.unconfirmed, now.window) == (4000, 4000, 10)
            receipt = await output.submit("last")
            up.plan(then=Accept())
            await receipt.wait()
            assert balanced(output).confirmed == 4001
            await up.send("down")
            await ann.wait_messages(2002)
        for name, count in (("mine", 2000), ("ann's", 2000)):
            expected = [f"{name} {number}" for number in range(count)]
            assert [each for each in up.messages if str(each).startswith(name)] == expected
            assert [each for each in bob.messages if str(each).startswith(name)] == expected
        assert disk.read >= set(range(1200, 4000)), "only the oldest were kept in memory"


async def test_a_full_spool_keeps_senders_waiting_and_what_comes_down_goes_on(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    tight = config(spool={"path": "/spool", "max-bytes": 1150}, **{"max-message-size": 60})
    async with open_peer() as up:
        up.plan(Accept(pong_after=None))
        async with trio_wsout.open_output(
            tight, listeners=[listener], open_stream=up.open_stream, spool=disk
        ) as output:
            ann, bob = await listener.connect(), await listener.connect()
            await output.wait_peers(2)
            async with trio.open_nursery() as nursery:
                for number in range(1000):
                    await ann.send(str(number))
                await ann.ping(b"behind them")
                nursery.start_soon(output.send, "mine")
                await trio.sleep(1)
                kept = len(bob.messages)
                now = balanced(output)
                assert kept == now.spool.events == 17
                assert now.spool.waits == "spool.max-bytes is reached"
                assert now.accepted == 17 + 64, "one more turn of the peer waits, and no more is read from it"
                assert ann.pongs == []
                await up.send("down")
                await trio.sleep(0.5)
                assert (ann.messages, bob.messages[kept:]) == (["down"], ["down"])
                assert balanced(output).accepted == 17 + 64 + 1
                up.connections[0].pong_after = 0.0
                await up.cut()  # and once again: now it confirms
            await output.flush()
            await trio.sleep(1)
            assert ann.pongs == [b"behind them"]
            assert balanced(output).spool.waits is None
        sent = [each for each in dict.fromkeys(up.messages) if each != "mine"]
        assert sent == list(map(str, range(1000)))
        assert [each for each in bob.messages if each not in {"mine", "down"}] == sent


@pytest.mark.parametrize("link_opens", [True, False])
async def test_a_history_and_a_spool_each_number_what_they_keep(
    *, link_opens: bool, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0, events=[{"n": 0}])
    fields = config(
        payload="json",
        delivery={"stamp": "seq"},
        history={"store": "memory:"},
        cursor={"header-name": "Last-Event-ID"},
    )
    fields["shutdown-timeout"] = "1s"
    async with open_peer() as up:
        up.plan(then=Accept() if link_opens else Unreachable())
        with suppress(trio_wsout.DeliveryError):
            async with trio_wsout.open_output(
                fields, listeners=[listener], open_stream=up.open_stream, spool=disk
            ) as output:
                ann = await listener.connect()
                await output.wait_peers(1)
                if link_opens:
                    await up.wait_messages(1)
                    await up.send('{"down": 1}')
                    await ann.wait_messages(1)
                await output.send({"n": 1})
                await ann.send('{ "n": 12345678901234567890123 }')
                await trio.sleep(0.5)
                epoch = json.loads(ann.messages[-1])["seq"].partition("-")[0]
                late = await listener.connect(headers=[("Last-Event-ID", f"{epoch}-{len(ann.messages)}")])
                await late.wait_messages(1)
                await trio.sleep(0.5)
                now = balanced(output)
                assert (now.history.events, now.spool.events) == ((3, 0) if link_opens else (2, 3))
        came_down = int(link_opens)
        assert ann.messages[came_down:] == [f'{{"n":1,"seq":"{epoch}-{1 + came_down}"}}']
        assert late.messages == [f'{{ "n": 12345678901234567890123 ,"seq":"{epoch}-{2 + came_down}"}}']
        if link_opens:
            assert up.messages == [
                '{"n":0,"seq":"9-1"}',
                '{"n":1,"seq":"9-2"}',
                '{ "n": 12345678901234567890123 ,"seq":"9-3"}',
            ]
    # What stayed goes up as it came, with the stamps that it had.
    if not link_opens:
        await _what_is_left_goes_up_as_it_came(disk, fields)


async def _what_is_left_goes_up_as_it_came(disk: Disk, fields: dict[str, Any]) -> None:
    disk.left = (), 0
    async with open_peer() as up, trio.open_nursery() as nursery:
        async with trio_wsout.open_output(
            fields, listeners=[MemoryListener(nursery)], open_stream=up.open_stream, spool=disk
        ) as output:
            await output.flush()
        assert up.messages == [
            '{"n":0,"seq":"9-1"}',
            '{"n":1,"seq":"9-2"}',
            '{ "n": 12345678901234567890123 ,"seq":"9-3"}',
        ]
        nursery.cancel_scope.cancel()


async def test_acknowledgements_of_the_link_name_what_the_spool_numbered(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0, events=[{"n": 0}, {"n": 1}])
    fields = config(delivery={"level": "acked", "stamp": "seq"})
    async with open_peer() as up:
        async with trio_wsout.open_output(
            fields, listeners=[listener], open_stream=up.open_stream, spool=disk
        ) as output:
            await output.send({"n": 2})
            await up.wait_messages(3)
            assert [json.loads(each)["seq"] for each in up.messages] == ["9-1", "9-2", "9-3"]
            await up.send('{"ack": "9-2"}')
            await trio.sleep(0.5)
            assert (balanced(output).confirmed, disk.settled) == (2, 2)
            await up.send('{"ack": "9-3"}')
            await trio.sleep(0.5)
            assert (balanced(output).confirmed, disk.settled) == (3, 3)


async def test_what_the_link_gives_up_leaves_is_told_once_and_fails_the_receipt(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    reports, items = trio.open_memory_channel[trio_wsout.Undelivered](10)
    async with open_peer() as up:
        up.plan(Accept(pong_after=None, cut_after=1))
        async with trio_wsout.open_output(
            config(retry={"retries": 0}, payload="binary-base64"),
            listeners=[listener],
            open_stream=up.open_stream,
            undelivered=reports,
            spool=disk,
        ) as output:
            client = await listener.connect()
            client.pong_after = None
            await output.wait_peers(1)
            receipt = await output.submit("once")
            with pytest.raises(trio_wsout.DeliveryError):
                await receipt.wait()
            await output.send("no base64")
            await trio.sleep(0.5)
            now = balanced(output)
            assert (now.accepted, now.undelivered, now.spool.events) == (2, 2, 0)
            await client.cut()
            await output.flush()
            assert client.messages == [b"\xa2w\x1e"]
            now = balanced(output)
            assert (now.accepted, now.confirmed, now.undelivered, now.unconfirmed) == (2, 0, 2, 0)
    assert [items.receive_nowait().event for _ in range(2)] == ["once", "no base64"]
    assert disk.settled == 2


async def test_an_event_that_the_link_has_given_up_and_a_peer_lacks_is_counted_once(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    reports, items = trio.open_memory_channel[trio_wsout.Undelivered](0)
    async with open_peer() as up:
        async with trio_wsout.open_output(
            config(retry={"retries": 0}, delivery={"max-unconfirmed": 4}),
            listeners=[listener],
            open_stream=up.open_stream,
            undelivered=reports,
            spool=disk,
        ) as output:
            client = await listener.connect()
            await output.wait_peers(1)
            await output.send("both have it")
            await output.flush()
            client.pong_after = up.connections[0].pong_after = None
            for number in range(3):
                await output.send(f"the link gives it up {number}")
            await up.wait_messages(4)
            await up.cut()
            for number in range(2):
                await output.send(f"the link has it {number}")
            await trio.sleep(0.5)
            now = balanced(output)
            assert (now.confirmed, now.undelivered, now.unconfirmed) == (1, 0, 5), "nobody takes reports"
            for count in range(3):
                await items.receive()
                await trio.sleep(0.1)
                now = balanced(output)
                assert (now.confirmed, now.undelivered, now.unconfirmed) == (1, count + 1, 4 - count)
            client.pong_after = 0.0
            await client.cut()
            await output.flush()
            now = balanced(output)
            assert (now.accepted, now.confirmed, now.undelivered, now.unconfirmed) == (6, 3, 3, 0)


async def test_nothing_is_queued_at_the_end_but_what_stays_on_disk(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    async with open_peer() as up:
        up.plan(then=Unreachable())
        with pytest.raises(trio_wsout.DeliveryError):
            async with trio_wsout.open_output(
                config(**{"shutdown-timeout": "1s"}),
                listeners=[listener],
                open_stream=up.open_stream,
                spool=disk,
            ) as output:
                client = await listener.connect()
                await output.wait_peers(1)
                await output.send("on disk")
                disk.takes = 10.0
                for number in range(3):
                    await client.send(str(number))
                await trio.sleep(0.5)
                assert balanced(output).queued == 3
    now = balanced(output)
    assert (now.undelivered, now.unconfirmed, now.queued) == (3, 1, 1)


async def test_a_flush_waits_for_peers_and_link(listener: MemoryListener, autojump_clock: MockClock) -> None:
    disk = Disk(takes=0)
    async with open_peer() as up:
        up.plan(Accept(pong_after=1.0))
        async with trio_wsout.open_output(
            config(), listeners=[listener], open_stream=up.open_stream, spool=disk
        ) as output:
            client = await listener.connect()
            await output.wait_peers(1)
            await output.send("warm")
            await output.flush()
            for theirs, ours, took in ((1.0, 3.0, 3.0), (2.0, 0.5, 2.0)):
                up.connections[0].pong_after, client.pong_after = theirs, ours
                start = trio.current_time()
                receipt = await output.submit("x")
                await output.flush()
                assert trio.current_time() - start == pytest.approx(took)
                assert receipt.settled


async def test_what_is_too_old_for_the_link_is_told_once_whatever_peers_have(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    reports, items = trio.open_memory_channel[trio_wsout.Undelivered](100)
    fields = config(
        delivery={"max-age": "10s", "max-unconfirmed": 2},
        server={"bind": "127.0.0.1:0", "slow-peer": "drop-oldest"},
    )
    async with open_peer() as up:
        up.plan(then=Unreachable())
        async with trio_wsout.open_output(
            fields, listeners=[listener], open_stream=up.open_stream, undelivered=reports, spool=disk
        ) as output:
            client, slow = await listener.connect(), await listener.connect(buffered=False)
            await output.wait_peers(2)
            slow.stop_reading()
            for number in range(3):
                await output.send(f"{number}" * 1000)
            await client.wait_messages(3)
            await trio.sleep(11)
            up.plan(then=Accept())
            await output.send("new")
            await output.flush()
            now = balanced(output)
            assert (now.accepted, now.confirmed, now.undelivered, now.too_old) == (4, 1, 3, 3)
        assert up.messages == ["new"]
        assert [items.receive_nowait().event for _ in range(3)] == [f"{number}" * 1000 for number in range(3)]
        with pytest.raises(trio.WouldBlock):
            items.receive_nowait()


async def test_an_eager_link_is_open_at_the_start(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    eager = config(connect={"mode": "eager"})
    async with open_peer() as up:
        up.plan(Unreachable(), Accept(after=1.0))
        async with trio_wsout.open_output(
            eager, listeners=[listener], open_stream=up.open_stream, spool=Disk(takes=0)
        ) as output:
            assert trio.current_time() == pytest.approx(1.01)
            assert output.statistics().link.state == "open"


async def test_a_spool_that_breaks_breaks_the_relay(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    async with open_peer() as up:
        up.plan(then=Unreachable())
        with pytest.raises(trio_wsout.SpoolError, match="it is gone.*1 accepted event was in the spool"):
            async with trio_wsout.open_output(
                config(), listeners=[listener], open_stream=up.open_stream, spool=disk
            ) as output:
                await output.send("x")
                disk.broken = "it is gone"
                with pytest.raises(trio.BrokenResourceError):
                    await output.send("y")


async def test_a_link_that_gives_up_breaks_the_relay_and_says_what_stays(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    fields = config(reconnect={"max-attempts": 2, "jitter": 0})
    async with open_peer() as up:
        up.plan(then=Unreachable())
        with pytest.raises(trio_wsout.ConnectError, match="1 accepted event stays in the spool"):
            async with trio_wsout.open_output(
                fields, listeners=[listener], open_stream=up.open_stream, spool=disk
            ) as output:
                await output.send("x")
                with pytest.raises(trio.BrokenResourceError):
                    await output.flush()


async def test_a_peer_that_is_slow_makes_the_others_and_the_link_wait_as_ever(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    disk = Disk(takes=0)
    fields = config(
        server={"bind": "127.0.0.1:0", "send-buffer-capacity": 1, "slow-peer-timeout": "5s"},
    )
    async with open_peer() as up:
        async with trio_wsout.open_output(
            fields, listeners=[listener], open_stream=up.open_stream, spool=disk
        ) as output:
            slow = await listener.connect(buffered=False)
            await output.wait_peers(1)
            slow.stop_reading()
            start = trio.current_time()
            for number in range(600):
                await output.send(str(number) * 100)
            await output.flush()
            assert 5.0 <= trio.current_time() - start < 6.0
            assert output.statistics().listener.expelled == 1
            balanced(output)
        assert len(up.messages) == 600


async def test_the_cursor_of_what_comes_down_moves_as_without_a_spool(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    cursor = {"from": "received", "value-field": "n", "query-parameter": "since", "initial-value": "0"}
    disk = Disk(takes=0)
    async with open_peer() as up:
        async with trio_wsout.open_output(
            config(payload="json", cursor=cursor),
            listeners=[listener],
            open_stream=up.open_stream,
            spool=disk,
        ) as output:
            client = await listener.connect()
            await output.wait_connected()
            await output.send({"n": 9})
            await up.wait_messages(1)
            await up.send('{"n": 5}')
            await client.wait_messages(2)
            await output.flush()
            await up.cut()
            await trio.sleep(1)
            assert up.connections[1].path == "/?since=5"
            assert balanced(output).confirmed == 2


# -- lives --------------------------------------------------------------------------------------------------


Step = tuple[str, int, int]


@define(eq=False)
class Script:
    """Lives of a relay that is killed again and again, while its program and its peers send, and its link comes and goes."""

    lives: Sequence[tuple[Sequence[Step], float]]
    """The steps of each life, and seconds that a commit takes."""
    history: bool
    disk: Disk = field(factory=Disk)
    said: dict[str, int] = field(factory=dict)
    promised: dict[str, int] = field(factory=dict)
    """How many of the messages of each source were said to be safe."""
    listening: list[tuple[PeerConnection, dict[str, int], str]] = field(factory=list)
    """Peers, with what had been said when their life began, and their own name."""
    up: MemoryPeer = field(init=False)

    async def run(self) -> None:
        async with open_peer() as self.up:
            for steps, takes in self.lives:
                self.disk.takes = takes
                await self.live(steps)
            self.up.plan(then=Accept())
            self.disk.takes = 0
            await self.live([("wait", 0, 3000)], to_the_end=True)

    async def live(self, steps: Sequence[Step], *, to_the_end: bool = False) -> None:
        killed = trio.CancelScope()
        fields = config(delivery={"max-unconfirmed": 4}, **({"history": {}} if self.history else {}))
        async with trio.open_nursery() as nursery:
            listener = MemoryListener(nursery)
            with killed:
                async with trio_wsout.open_output(
                    fields, listeners=[listener], open_stream=self.up.open_stream, spool=self.disk
                ) as output:
                    clients = [await listener.connect() for _ in range(2)]
                    names = [f"peer{len(self.listening) + number}" for number in range(2)]
                    before = dict(self.said)
                    self.listening += [
                        (client, before, name) for client, name in zip(clients, names, strict=True)
                    ]
                    for what, number, count in steps:
                        await self.step(output, what, clients[number % 2], names[number % 2], count)
                        balanced(output)
                    if to_the_end:
                        await output.flush()
                        assert output.statistics().spool.events == 0
                    # From here on nothing reaches the disk: that is the kill.
                    self.disk = self.disk.as_it_is()
                    killed.cancel()
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    async def step(
        self, output: trio_wsout.Output, what: str, client: PeerConnection, name: str, count: int
    ) -> None:
        match what:
            case "send":
                for _ in range(count):
                    event = self.next("program")
                    with trio.move_on_after(1):
                        await output.send(event)
                        self.promised["program"] = self.said["program"]
            case "peer":
                for _ in range(count):
                    await client.send(self.next(name))
                before = self.said.get(name, 0)
                await client.ping(b"%d" % before)
                with trio.move_on_after(0.3):
                    while b"%d" % before not in client.pongs:
                        await trio.sleep(0.05)
                    self.promised[name] = before
            case "down" if self.up.connected:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.up.send(self.next("down"))
            case "cut" if self.up.connected:
                self.up.plan(*[Unreachable()] * count)
                await self.up.cut()
            case "wait":
                await trio.sleep(count / 1000)
            case _:
                pass

    def next(self, name: str) -> str:
        number = self.said.get(name, 0)
        self.said[name] = number + 1
        return f"{name}:{number}"

    def check(self) -> None:
        firsts: dict[str, list[int]] = {}
        for message in dict.fromkeys(self.up.messages):
            name, _, number = str(message).partition(":")
            firsts.setdefault(name, []).append(int(number))
        assert "down" not in firsts
        for name, numbers in firsts.items():
            assert numbers == sorted(numbers), f"{name}: out of order"
        for name, count in self.promised.items():
            lost = {*range(count)} - {*firsts.get(name, [])}
            assert not lost, f"{name} was promised {count}"
        for client, before, own in self.listening:
            heard: dict[str, list[int]] = {}
            for message in client.messages:
                name, _, number = str(message).partition(":")
                heard.setdefault(name, []).append(int(number))
            assert own not in heard
            for name, numbers in heard.items():
                if name == "down":  # what goes down a link that is cut is lost
                    assert numbers == sorted(set(numbers))
                    continue
                first = before.get(name, 0)
                assert numbers == list(range(first, first + len(numbers))), (
                    "a peer got another run's, or a hole"
                )


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "peer", "peer", "down", "cut", "wait"]),
        st.integers(0, 1),
        st.integers(1, 12),
    ),
    max_size=12,
)


@given(st.lists(st.tuples(STEPS, st.sampled_from([0.0, 0.02, 0.2])), min_size=1, max_size=3), st.booleans())
def test_what_was_promised_is_sent_up_by_a_later_life_in_order_and_peers_hear_only_their_own_life(
    lives: list[tuple[list[Step], float]], history: bool
) -> None:
    logging.getLogger("trio_wsout").setLevel(logging.ERROR)
    script = Script(lives, history)
    try:
        trio.run(script.run, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logging.getLogger("trio_wsout").setLevel(logging.NOTSET)
    script.check()
