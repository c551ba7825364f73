"""Events that are too old when their turn comes (delivery.max-age), to the second, for a link, for peers, and for both."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from trio_wsout.config import History
from trio_wsout.stores.log import Entry, Kind
from trio_wsout.stores.log_memory import MemoryLog
from trio_wsout.testing import Accept, Unreachable, open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener, PeerConnection

REASON = "older than delivery.max-age (10s) when its turn came"
AWAY = Unreachable()


def client(**fields: Any) -> dict[str, Any]:
    return {
        "url": "ws://peer.test/",
        "reconnect": {"jitter": 0, "initial-backoff": "1s", "max-backoff": "1s"},
        "shutdown-timeout": "1s",
        "delivery": {"max-age": "10s"},
        **fields,
    }


def server(mode: str = "server-output", **fields: Any) -> dict[str, Any]:
    return {
        "mode": mode,
        "server": {"bind": "127.0.0.1:0"},
        "delivery": {"max-age": "10s", "stamp": "seq"},
        "retry": {"timeout": "1000s"},
        "heartbeat": "none",
        **fields,
    }


class Lost:
    """The channel of undelivered events, and when each came."""

    def __init__(self) -> None:
        self.sending, self._receiving = trio.open_memory_channel[trio_wsout.Undelivered](0)
        self.told: list[tuple[float, object]] = []

    async def run(self) -> None:
        async for each in self._receiving:
            assert each.reason == REASON
            self.told.append((trio.current_time(), each.event))


@pytest.fixture
async def lost(nursery: trio.Nursery) -> Lost:
    made = Lost()
    nursery.start_soon(made.run)
    return made


async def fill(peer: PeerConnection, output: trio_wsout.Output) -> None:
    """Have writes to a peer wait until it reads again: the first event blocks its line."""
    peer.stop_reading()
    for _ in range(2):
        await output.send({"n": 0})
        await trio.testing.wait_all_tasks_blocked()


# -- a link -------------------------------------------------------------------------------------------------


async def test_without_a_connection_each_event_is_told_in_its_time(
    lost: Lost, autojump_clock: MockClock
) -> None:
    async with open_peer() as peer:
        peer.plan(then=AWAY)
        async with trio_wsout.open_output(
            client(), open_stream=peer.open_stream, undelivered=lost.sending
        ) as output:
            await output.send("a")
            await trio.sleep(4)
            receipt = await output.submit("b")
            await output.send("c")
            await trio.sleep(20)
            assert lost.told == [(10, "a"), (14, "b"), (14, "c")]
            with pytest.raises(trio_wsout.DeliveryError):
                await receipt.wait()
            await output.flush()
            figures = output.statistics()
            assert (figures.accepted, figures.undelivered, figures.too_old, figures.window) == (3, 3, 3, 0)
            peer.plan(then=Accept())
            await output.send("d")
            await output.flush()
        assert peer.messages == ["d"]


async def test_what_is_young_when_the_link_comes_goes_first(lost: Lost, autojump_clock: MockClock) -> None:
    async with open_peer() as peer:
        peer.plan(*[AWAY] * 12)
        async with trio_wsout.open_output(
            client(), open_stream=peer.open_stream, undelivered=lost.sending
        ) as output:
            for n in range(8):
                await output.send(n)
                await trio.sleep(1)
            await output.flush()
            opened = peer.connections[0].opened_at
            assert opened == 12
            assert [event for _, event in lost.told] == [0, 1, 2]
            assert peer.messages == ["3", "4", "5", "6", "7"]
            assert peer.connections[0].message_times == [12.0] * 5


async def test_what_waits_for_a_full_window_is_told_in_its_time_and_lets_the_next_in(
    lost: Lost, autojump_clock: MockClock
) -> None:
    """From the log to the tasks that wait in ``send``, whose events are no older than since they got a place."""
    delivery = {"max-age": "10s", "max-unconfirmed": 2}
    async with open_peer() as peer:
        peer.plan(then=AWAY)
        async with trio_wsout.open_output(
            client(delivery=delivery), open_stream=peer.open_stream, undelivered=lost.sending
        ) as output:
            with trio.move_on_after(5) as given_up:
                for n in range(1000):
                    await output.send(n)
            first = output.statistics().accepted
            assert given_up.cancelled_caught
            assert 256 < first < 300
            await output.send("later")  # waits until the first are too old
            assert trio.current_time() == 10
            await trio.sleep(30)
            assert lost.told == [*[(10, n) for n in range(first)], (20, "later")]


async def test_what_was_written_is_sent_again_however_old_it_is_and_what_waits_behind_it_is_told(
    lost: Lost, autojump_clock: MockClock
) -> None:
    delivery = {"max-age": "10s", "max-unconfirmed": 2}
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=None), *[AWAY] * 30)
        async with trio_wsout.open_output(
            client(delivery=delivery), open_stream=peer.open_stream, undelivered=lost.sending
        ) as output:
            await output.send("a")
            await output.send("b")
            await peer.wait_messages(2)
            await peer.cut()
            await trio.sleep(1)
            for n in range(300):
                await output.send(n)  # waits, at 256 and some more, until the first of them are too old
            assert trio.current_time() == 11
            await trio.sleep(15)
            assert [event for _, event in lost.told] == list(range(300))
            assert {at for at, _ in lost.told} == {11, 21}
            assert output.statistics().unconfirmed == 2
            await output.flush()
            assert peer.messages == ["a", "b", "a", "b"]
            figures = output.statistics()
            assert figures.link is not None
            assert (figures.confirmed, figures.too_old, figures.link.resent) == (2, 300, 2)


@pytest.mark.parametrize("kind", ["stamped", "batches", "spool"])
async def test_nobody_waits_for_a_full_window_for_longer_than_max_age(
    lost: Lost, autojump_clock: MockClock, kind: str
) -> None:
    """The link is away with all of the window written: what waits in the queue, on disk and in ``send`` is told in time."""
    delivery = {"max-age": "10s", "max-unconfirmed": 2}
    fields: dict[str, dict[str, Any]] = {
        "stamped": {"delivery": delivery | {"stamp": "seq"}},
        "batches": {"batch": {"mode": "fixed", "fixed-size": 100, "timeout": "500ms"}},
        "spool": {"spool": {"path": "/spool", "max-bytes": "4MiB"}},
    }
    disk = MemoryLog(History()) if kind == "spool" else None
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=None), *[AWAY] * 60)
        async with trio_wsout.open_output(
            client(**{"delivery": delivery} | fields[kind]),
            open_stream=peer.open_stream,
            undelivered=lost.sending,
            spool=disk,
        ) as output:
            for n in (1, 2):
                await output.send({"n": n})
                await trio.sleep(0.6)
            await peer.wait_messages(2)
            await peer.cut()
            accepted: list[float] = []
            await trio.sleep(2 - trio.current_time())
            for n in range(600):
                await output.send({"n": n})
                accepted.append(trio.current_time())
            assert all(later - earlier <= 10 for earlier, later in itertools.pairwise(accepted))
            await trio.sleep(11)
            assert [each["n"] for _, each in lost.told] == [*range(600)]  # type: ignore[index]
            late = [at - since for (at, _), since in zip(lost.told, accepted, strict=True)]
            assert max(late) <= (10.5 if kind == "batches" else 10), (
                "a batch that was open may wait to be closed"
            )
            assert output.statistics().unconfirmed == 2
            await output.flush()
            assert output.statistics().confirmed == 2


async def test_without_a_channel_the_output_breaks(autojump_clock: MockClock) -> None:
    async with open_peer() as peer:
        peer.plan(then=AWAY)
        with pytest.raises(trio_wsout.DeliveryError) as caught:
            async with trio_wsout.open_output(client(), open_stream=peer.open_stream) as output:
                await output.send("a")
                with pytest.raises(trio.BrokenResourceError):
                    await output.flush()
        assert trio.current_time() == 10
        assert [(each.event, each.reason) for each in caught.value.undelivered] == [("a", REASON)]


async def test_a_batch_is_as_old_as_its_first_event(lost: Lost, autojump_clock: MockClock) -> None:
    batch = {"mode": "fixed", "fixed-size": 10, "timeout": "6s"}
    async with open_peer() as peer:
        peer.plan(then=AWAY)
        async with trio_wsout.open_output(
            client(batch=batch), open_stream=peer.open_stream, undelivered=lost.sending
        ) as output:
            await output.send("a")
            await trio.sleep(5)
            await output.send("b")
            await trio.sleep(5.5)
            assert lost.told == [(10, "a"), (10, "b")]


async def test_an_event_counts_from_the_time_at_which_send_returned(
    lost: Lost, autojump_clock: MockClock
) -> None:
    """With a spool that is when it is on disk; after a restart as well, for the disk has the time."""

    class Disk(MemoryLog):
        async def append(self, run: Any, settled: int = 0) -> Any:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            return await super().append(run, settled)

        async def aclose(self) -> None:
            """Stay, for the next output."""

    disk = Disk(History())
    async with open_peer() as peer:
        peer.plan(then=AWAY)
        fields = client(spool={"path": "/spool"})
        async with trio_wsout.open_output(
            fields, open_stream=peer.open_stream, undelivered=lost.sending, spool=disk
        ) as output:
            await output.send("a")
            assert trio.current_time() == 3
            await trio.sleep(15)
            assert lost.told == [(13, "a")]
            await output.flush()

        # An earlier run left one event that is too old, and one that will be in 4 s.
        left = MemoryLog(History())
        await left.open(9)
        now = time.time()
        entries = [
            Entry(1, 9, Kind.TEXT, b"old", None, now - 60),
            Entry(2, 9, Kind.TEXT, b"young", None, now - 6),
        ]
        await left.append(entries, 0)
        began = trio.current_time()
        async with trio_wsout.open_output(
            fields, open_stream=peer.open_stream, undelivered=lost.sending, spool=left
        ) as output:
            await trio.sleep(0.5)
            assert [event for _, event in lost.told] == ["a", "old"]
            await trio.sleep(8)
            assert lost.told[-1][1] == "young"
            assert 3 < lost.told[-1][0] - began <= 4
            spool = output.statistics().spool
            assert spool is not None
            assert spool.events == 0


async def test_while_nobody_takes_what_is_too_old_no_more_is_accepted(autojump_clock: MockClock) -> None:
    sending, receiving = trio.open_memory_channel[trio_wsout.Undelivered](0)
    fields = client(delivery={"max-age": "10s", "max-unconfirmed": 10})
    async with open_peer() as peer:
        peer.plan(then=AWAY)
        async with trio_wsout.open_output(
            fields, open_stream=peer.open_stream, undelivered=sending
        ) as output:
            sent = 0
            with trio.move_on_after(3600):
                while True:
                    await output.send(sent)
                    sent += 1
            accepted = output.statistics().accepted
            assert 1024 < accepted < 2048
            assert [(await receiving.receive()).event for _ in range(accepted)] == list(range(accepted))
            await output.send("again")
            assert (await receiving.receive()).event == "again"


async def test_ending_does_not_wait_for_what_is_too_old(lost: Lost, autojump_clock: MockClock) -> None:
    async with open_peer() as peer:
        peer.plan(then=AWAY)
        fields = client(**{"shutdown-timeout": "1h"})
        async with trio_wsout.open_output(
            fields, open_stream=peer.open_stream, undelivered=lost.sending
        ) as output:
            await output.send("a")
        assert trio.current_time() == 10
        assert lost.told == [(10, "a")]


# -- peers --------------------------------------------------------------------------------------------------


async def test_a_slow_peer_loses_what_is_too_old_and_is_told_and_others_lose_nothing(
    listener: MemoryListener, lost: Lost, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(server(), listeners=[listener], undelivered=lost.sending) as output:
        good, slow = await listener.connect(), await listener.connect(buffered=False)
        await output.wait_peers(2)
        await fill(slow, output)
        for n in range(1, 200):
            await output.send({"n": n})
        await trio.sleep(9)
        receipt = await output.submit({"n": 200})
        await trio.sleep(3)
        assert len(good.messages) == 202
        slow.resume_reading()
        await output.flush()
        await receipt.wait()
        got = [json.loads(each) for each in slow.messages]
        gaps = [index for index, each in enumerate(got) if "gap" in each]
        assert len(gaps) == 1
        stamps = {json.loads(each)["n"]: json.loads(each)["seq"] for each in good.messages}
        before, behind = got[gaps[0] - 1], got[gaps[0] + 1]
        assert got[gaps[0]] == {"gap": {"asked": stamps[before["n"]], "first": stamps[200]}}
        assert (behind["n"], got[-1]["n"]) == (200, 200)
        figures = output.statistics()
        assert figures.listener is not None
        assert figures.listener.lost_by_slow == 199 - before["n"]
        assert (figures.confirmed, figures.undelivered) == (202, 0), "one peer has each of them"
    assert lost.told == []


async def test_what_no_peer_could_be_written_is_undelivered(
    listener: MemoryListener, lost: Lost, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(server(), listeners=[listener], undelivered=lost.sending) as output:
        slow = await listener.connect(buffered=False)
        await output.wait_peers(1)
        await fill(slow, output)
        for n in range(2, 100):
            await output.send({"n": n})
        await trio.sleep(9)
        assert lost.told == []
        await trio.sleep(3)
        told = len(lost.told)
        assert lost.told == [(10, {"n": n}) for n in range(100 - told, 100)]
        assert told > 90
        slow.resume_reading()
        await output.flush()
        figures = output.statistics()
        assert (figures.confirmed, figures.too_old) == (100 - told, told)
        got = [json.loads(each) for each in slow.messages]
        assert [each["n"] for each in got] == [0, *range(99 - told)][: len(got)]
        await output.send({"n": "new"})
        await slow.wait_messages(len(got) + 2)
        assert "gap" in json.loads(slow.messages[-2])


async def test_with_no_peer_nothing_is_too_old(
    listener: MemoryListener, lost: Lost, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(server(), listeners=[listener], undelivered=lost.sending) as output:
        receipt = await output.submit("a")
        await receipt.wait()
        await trio.sleep(60)
        figures = output.statistics()
        assert figures.listener is not None
        assert (figures.confirmed, figures.listener.unheard, lost.told) == (1, 1, [])


async def test_what_peers_missed_is_theirs_from_the_history_however_old_it_is(
    listener: MemoryListener, lost: Lost, autojump_clock: MockClock
) -> None:
    fields = server(history={"store": "memory:"}, cursor={"header-name": "Last-Event-ID"})
    async with trio_wsout.open_output(fields, listeners=[listener], undelivered=lost.sending) as output:
        await output.send({"n": 0})
        await output.send({"n": 1})
        await output.flush()
        await trio.sleep(60)
        first = await listener.connect("/", [("Last-Event-ID", "0-0")])
        await first.wait_messages(3)
        assert [json.loads(each).get("n") for each in first.messages] == [None, 0, 1]
    assert lost.told == []


# -- both ---------------------------------------------------------------------------------------------------


async def test_a_relay_whose_link_is_away_serves_its_peers_and_tells_what_did_not_go_up(
    listener: MemoryListener, lost: Lost, autojump_clock: MockClock
) -> None:
    fields = {**client(), **server("relay"), "payload": "json"}
    async with open_peer() as up:
        up.plan(then=AWAY)
        async with trio_wsout.open_output(
            fields, listeners=[listener], open_stream=up.open_stream, undelivered=lost.sending
        ) as output:
            one, two = await listener.connect(), await listener.connect()
            await output.wait_peers(2)
            await output.send({"n": 1})
            await trio.sleep(2)
            await one.send('{"n":2}')
            await two.wait_messages(2)
            await trio.sleep(5)
            await output.send({"n": 3})
            up.plan(*[AWAY] * 6, then=Accept())
            await up.wait_messages(1)
            assert 12 < trio.current_time() < 17
            assert [(at, each["n"]) for at, each in lost.told] == [(10, 1), (12, 2)]  # type: ignore[index]
            assert [json.loads(each)["n"] for each in up.messages] == [3]
            assert [json.loads(each)["n"] for each in two.messages] == [1, 2, 3]
            await output.flush()
            figures = output.statistics()
            assert (figures.confirmed, figures.too_old) == (1, 2)


@pytest.mark.parametrize("history", [False, True], ids=["direct", "history"])
@pytest.mark.parametrize("batch", [False, True], ids=["alone", "batches"])
async def test_what_waits_behind_a_relays_full_link_is_told_in_its_time(
    listener: MemoryListener, lost: Lost, autojump_clock: MockClock, *, batch: bool, history: bool
) -> None:
    """From the queue, whoever sent it, to the tasks that wait in ``send``; what the link has written stays its own."""
    delivery = {"max-age": "10s", "max-unconfirmed": 2}
    fields = {**client(), **server("relay"), "payload": "json", "delivery": delivery}
    if batch:
        fields["batch"] = {"mode": "fixed", "fixed-size": 100, "timeout": "500ms"}
    if history:
        fields["history"] = {"store": "memory:"}
    async with open_peer() as up:
        up.plan(Accept(pong_after=None), *[AWAY] * 33)
        async with trio_wsout.open_output(
            fields, listeners=[listener], open_stream=up.open_stream, undelivered=lost.sending
        ) as output:
            one, two = await listener.connect(), await listener.connect()
            await output.wait_peers(2)
            for n in ("a", "b"):
                await output.send(n)
                await trio.sleep(0.6)
            await up.wait_messages(2)
            await up.cut()
            await trio.sleep(2 - trio.current_time())
            await one.send("-1")
            await trio.sleep(1)
            for n in range(256):
                await output.send(n)
            assert trio.current_time() == 3
            await output.send("later")  # waits for the first of them
            assert trio.current_time() == 13
            await trio.sleep(15)
            assert lost.told[0] == (12, -1)
            assert lost.told[1:] == [*[(13, n) for n in range(256)], (23, "later")]
            assert output.statistics().unconfirmed == 2
            assert two.messages == one.messages
            assert len(two.messages) == 2
            await output.send("new")
            await output.flush()
            assert len(two.messages) == 3
    assert [json.loads(each) for each in up.messages] == ["a", "b", "a", "b", "new"]


async def test_a_full_log_leaves_no_sender_waiting_for_longer(
    listener: MemoryListener, lost: Lost, autojump_clock: MockClock
) -> None:
    """A slow peer that never reads is outlived by what it should have got."""
    fields = server(server={"bind": "127.0.0.1:0", "slow-peer-timeout": "1h", "send-buffer-capacity": 4})
    async with trio_wsout.open_output(fields, listeners=[listener], undelivered=lost.sending) as output:
        slow = await listener.connect(buffered=False)
        await output.wait_peers(1)
        slow.stop_reading()
        sent: list[float] = []
        with suppress(trio.Cancelled), trio.move_on_after(35):
            while True:
                await output.send({"n": len(sent)})
                sent.append(trio.current_time())
        assert max(later - earlier for earlier, later in itertools.pairwise(sent)) == 10
        assert {at for at, _ in lost.told} == {10, 20, 30}
        figures = output.statistics().listener
        assert figures is not None
        assert figures.expelled == 0
        slow.resume_reading()
