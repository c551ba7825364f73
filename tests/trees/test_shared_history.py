"""Outputs that share a history: one order for the peers of all, whatever happens to the engine; exact times on the mock clock."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from hypothesis import given
from hypothesis import strategies as st
from tests.trees.shared import Engine
from trio_wsout.testing import open_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener, PeerConnection

CURSOR = {"query-parameter": "since"}


def config(**fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}, "cursor": CURSOR}
    return {**base, "history": {}, "delivery": {"stamp": "s"}, **fields}


@asynccontextmanager
async def output_on(engine: Engine, **fields: Any) -> AsyncIterator[tuple[trio_wsout.Output, MemoryListener]]:
    async with (
        open_listener() as listener,
        trio_wsout.open_output(config(**fields), listeners=[listener], history=engine.node()) as output,
    ):
        yield output, listener


def events_of(client: PeerConnection) -> list[Any]:
    return [json.loads(line) for message in client.messages for line in str(message).split("\n")]


def numbers(client: PeerConnection) -> list[int | None]:
    """The numbers of the events that came; None for word of a gap."""
    return [event.get("n") for event in events_of(client)]


async def test_the_peers_of_all_outputs_have_all_events_in_one_order(autojump_clock: MockClock) -> None:
    engine = Engine(takes=0.5)
    async with output_on(engine) as (a, at_a), output_on(engine) as (b, at_b):
        peers = [await at_a.connect(), await at_b.connect()]
        for n in range(4):
            await (a, b)[n % 2].send({"n": n})
        await a.flush()
        await b.flush()
        await trio.sleep(1)
        assert events_of(peers[0]) == events_of(peers[1])
        assert sorted(map(str, numbers(peers[0]))) == list("0123")
        assert [event["s"] for event in events_of(peers[0])] == [f"1-{n}" for n in range(1, 5)]
        for output in (a, b):
            now = output.statistics()
            assert (now.accepted, now.confirmed, now.undelivered, now.queued) == (2, 2, 0, 0)
            assert (now.history.appended, now.history.foreign, now.history.waiting) == (2, 2, None)
            assert now.written == 4


@pytest.mark.parametrize("level", ["written", "received", "acked"])
async def test_a_peer_resumes_at_another_output(level: str, autojump_clock: MockClock) -> None:
    engine = Engine()
    delivery: dict[str, Any] = {"stamp": "s", "level": level}
    if level == "acked":
        delivery["ack-pointer"] = "/ack"
    async with (
        output_on(engine, delivery=delivery) as (a, at_a),
        output_on(engine, delivery=delivery) as (b, at_b),
    ):
        first = await at_a.connect()
        for n in range(3):
            await a.send({"n": n})
        await first.wait_messages(3)
        cursor = events_of(first)[-1]["s"]
        if level == "acked":
            await first.send(json.dumps({"ack": cursor}))
        await first.close()
        for n in range(3, 6):
            await b.send({"n": n})
        second = await at_b.connect(f"/?since={cursor}")
        await second.wait_messages(3)
        if level == "acked":
            await second.send(json.dumps({"ack": events_of(second)[-1]["s"]}))
        assert numbers(second) == [3, 4, 5]


async def test_who_has_more_than_an_output_has_read_waits_for_that(autojump_clock: MockClock) -> None:
    engine = Engine()
    async with output_on(engine) as (a, at_a), output_on(engine) as (_, at_b):
        first = await at_a.connect()
        engine.nodes[1].held = True
        for n in range(3):
            await a.send({"n": n})
        await first.wait_messages(3)
        second = await at_b.connect(f"/?since={events_of(first)[-1]['s']}")
        assert second.headers["resume-status"] == "resumed"
        await trio.sleep(60)
        assert second.is_open
        assert not second.messages
        engine.nodes[1].held = False
        engine.changed.unpark_all()
        await trio.sleep(1)
        await a.send({"n": 3})
        await second.wait_messages(1)
        assert numbers(second) == [3]


async def test_while_the_engine_is_away_peers_stay_and_send_waits(autojump_clock: MockClock) -> None:
    engine = Engine()
    async with output_on(engine) as (a, at_a), output_on(engine) as (_, at_b):
        peers = [await at_a.connect(), await at_b.connect()]
        await a.send({"n": 0})
        await a.flush()
        engine.leaves("the engine is on holiday")
        sent = 1
        with trio.move_on_after(100):
            while True:
                await a.send({"n": sent})
                sent += 1
        assert trio.current_time() == 100
        now = a.statistics()
        assert now.history.waiting == "the engine is on holiday"
        assert (now.confirmed, now.unconfirmed, now.peers) == (1, sent - 1, 1)
        assert 256 <= sent < 3000
        assert [numbers(each) for each in peers] == [[0], [0]]
        with trio.move_on_after(5) as flushing:
            await a.flush()
        assert flushing.cancelled_caught
        engine.comes_back()
        await a.flush()
        await trio.sleep(1)
        assert a.statistics().history.waiting is None
        assert [numbers(each) for each in peers] == [list(range(sent))] * 2


@pytest.mark.parametrize("unanswered", [False, True])
async def test_at_the_end_nobody_knows_of_what_the_engine_did_not_answer(
    unanswered: bool, autojump_clock: MockClock
) -> None:
    engine = Engine()
    with pytest.raises(trio_wsout.DeliveryError) as caught:
        async with output_on(engine, **{"shutdown-timeout": "10s"}) as (a, at_a):
            peer = await at_a.connect()
            await a.send({"n": 0})
            await a.flush()
            engine.leaves("the engine is on holiday")
            engine.nodes[0].unanswered = unanswered
            await a.send({"n": 1})
            await trio.sleep(1)
            await a.send({"n": 2})
            ended = trio.current_time()
    assert trio.current_time() == ended + 9, "a second is kept for the Closes"
    assert peer.close_code == 1001
    unknown, missing = caught.value.undelivered
    assert [unknown.event, missing.event] == [{"n": 1}, {"n": 2}]
    assert "the history waits: the engine is on holiday" in unknown.reason
    assert unknown.reason.endswith("whether the history has the event is not known")
    assert missing.reason.endswith("the history does not have the event")


async def test_a_replay_waits_for_the_engine_and_ends_at_once_with_the_output(
    autojump_clock: MockClock,
) -> None:
    engine = Engine()
    with pytest.raises(trio_wsout.DeliveryError):
        async with output_on(engine, **{"shutdown-timeout": "10s"}) as (a, at_a):
            for n in range(3):
                await a.send({"n": n})
            await a.flush()
            engine.takes = 1
            peer = await at_a.connect("/?since=1-1")
            engine.leaves()
            await trio.sleep(300)
            assert peer.is_open
            engine.comes_back()
            await peer.wait_messages(2)
            assert numbers(peer) == [1, 2]
            late = await at_a.connect("/?since=1-1")
            engine.leaves()
            await a.send({"n": 3})
    assert (peer.close_code, late.close_code) == (1001, 1001)


async def test_a_peer_that_wants_to_resume_is_sent_elsewhere_while_the_engine_is_away(
    autojump_clock: MockClock,
) -> None:
    engine = Engine()
    async with output_on(engine, server={"bind": ":0", "handshake-timeout": "8s"}) as (a, at_a):
        await a.send({"n": 0})
        await a.flush()
        engine.leaves()
        began = trio.current_time()
        refused = await at_a.connect("/?since=1-1")
        assert (refused.status, trio.current_time() - began) == (503, 4)
        fresh = await at_a.connect()
        assert fresh.is_open
        assert a.statistics().peers == 1


@pytest.mark.parametrize("on_gap", ["tell", "refuse"])
@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_a_new_epoch_is_a_gap_only_where_something_is_lost(
    on_gap: str, lost: int, autojump_clock: MockClock
) -> None:
    engine = Engine()
    fields = {"history": {"on-gap": on_gap}}
    async with output_on(engine, **fields) as (a, at_a), output_on(engine, **fields) as (b, at_b):
        peers = [await at_a.connect(), await at_b.connect()]
        for n in range(3):
            await a.send({"n": n})
            await a.flush()
        await trio.sleep(1)
        engine.begins_epoch(lost=lost)
        await trio.sleep(1)
        gap = {"gap": {"asked": "1-3", "first": None}}
        if lost and on_gap == "refuse":
            assert [peer.close_code for peer in peers] == [4410, 4410]
            peers = [await at_a.connect(), await at_b.connect()]
        elif lost:
            assert [events_of(peer)[-1] for peer in peers] == [gap, gap]
        for n in (3, 4):
            await b.send({"n": n})
        await b.flush()
        await trio.sleep(1)
        for peer in peers:
            assert [each["s"] for each in events_of(peer)[-2:]] == ["2-1004", "2-1005"]
        assert numbers(peers[0]).count(None) == (1 if lost and on_gap == "tell" else 0)
        now = b.statistics()
        assert (now.accepted, now.confirmed, now.history.foreign) == (2, 2, 3)
        assert now.written == (2 if lost and on_gap == "refuse" else 5) + (
            3 if lost and on_gap == "refuse" else 0
        )
        late = await at_a.connect("/?since=1-1")
        await trio.sleep(1)
        if not lost:
            assert numbers(late) == [1, 2, 3, 4], "nothing is missing, though positions jump"
        elif on_gap == "refuse":
            assert late.close_code == 4410
        else:
            assert None in numbers(late)
            assert numbers(late)[-2:] == [3, 4]


async def test_what_was_trimmed_while_an_output_could_not_read_is_a_gap(autojump_clock: MockClock) -> None:
    engine = Engine()
    async with output_on(engine) as (a, _), output_on(engine) as (_, at_b):
        peer = await at_b.connect()
        await a.send({"n": 0})
        await peer.wait_messages(1)
        engine.nodes[1].held = True
        for n in range(1, 5):
            await a.send({"n": n})
            await a.flush()
        engine.trims(3)
        engine.nodes[1].held = False
        engine.changed.unpark_all()
        await trio.sleep(1)
        assert numbers(peer) == [0, None, 3, 4]
        assert events_of(peer)[1] == {"gap": {"asked": "1-1", "first": "1-4"}}


async def test_an_engine_that_refuses_breaks_the_output(autojump_clock: MockClock) -> None:
    engine = Engine()
    with pytest.raises(trio_wsout.HistoryError, match="wrong password"):
        async with output_on(engine) as (a, _):
            engine.refuses = "wrong password"
            await a.send({"n": 0})
            await trio.sleep(1)
            with pytest.raises(trio.BrokenResourceError):
                await a.send({"n": 1})


async def test_an_output_ends_though_others_go_on(autojump_clock: MockClock) -> None:
    engine = Engine(takes=0.01)
    async with output_on(engine) as (a, _):
        async with trio.open_nursery() as nursery:

            async def go_on() -> None:
                n = 0
                while True:
                    await a.send({"n": n})
                    n += 1
                    await trio.sleep(0.001)

            nursery.start_soon(go_on)
            async with output_on(engine) as (b, at_b):
                peer = await at_b.connect()
                await trio.sleep(1)
                await b.send({"n": -1})
                ended = trio.current_time()
            assert trio.current_time() < ended + 1
            nursery.cancel_scope.cancel()
    assert -1 in numbers(peer)
    assert peer.close_code == 1001


async def test_a_relay_passes_on_to_the_peers_of_other_outputs(autojump_clock: MockClock) -> None:
    engine = Engine()
    fields = {"mode": "relay", "delivery": {}}
    async with output_on(engine, **fields) as (_, at_a), output_on(engine, **fields) as (_, at_b):
        a1, a2, b1 = await at_a.connect(), await at_a.connect(), await at_b.connect()
        await a1.send('{"n":1}')
        await b1.send('{"n":2}')
        await trio.sleep(1)
        assert [numbers(each) for each in (a1, a2, b1)] == [[2], [1, 2], [1]]


async def test_a_relay_with_a_link_shares_no_history() -> None:
    with pytest.raises(
        trio_wsout.ConfigError, match="url: can't be used together with a history that several"
    ):
        async with trio_wsout.open_output(config(mode="relay", url="ws://x/"), history=Engine().node()):
            pass


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 9)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 20)),
        st.tuples(st.sampled_from(["away", "back", "epoch", "lossy epoch"]), st.just(0), st.just(0)),
        st.tuples(st.sampled_from(["move", "flush"]), st.integers(0, 1), st.just(0)),
    ),
    max_size=25,
)


class Peers:
    """Two outputs over one engine, a peer at each that stays, and one that moves."""

    def __init__(self, engine: Engine, outputs: Any, ways: Any) -> None:
        self.engine, self.outputs, self.ways = engine, outputs, ways
        self.moved: list[list[Any]] = []
        """Events that the moving peer had on its earlier connections."""
        self.sent = 0
        self.lossy = False

    async def begin(self) -> None:
        self.still = [await way.connect() for way in self.ways]
        self.moving = await self.ways[0].connect()

    async def take(self, step: str, where: int, count: int) -> None:
        away = self.engine.away is not None
        match step:
            case "send":
                for _ in range(count):
                    await self.outputs[where].send({"n": self.sent})
                    self.sent += 1
            case "wait":
                await trio.sleep(count / 10)
            case "away":
                self.engine.leaves()
            case "back":
                self.engine.comes_back()
            case "epoch" if not away:
                await trio.sleep(5)
                self.engine.begins_epoch()
            case "lossy epoch" if not away:
                await trio.sleep(5)
                if self.engine.runs and self.engine.runs[-1].events:
                    self.engine.begins_epoch(lost=1)
                    self.lossy = True
            case "flush" if not away:
                await self.outputs[where].flush()
            case "move" if not away:
                await self.move(where)
            case _:
                pass

    async def move(self, where: int) -> None:
        all_of_them = [*(each for events in self.moved for each in events), *events_of(self.moving)]
        stamps = [each["s"] for each in all_of_them if "s" in each]
        if stamps:
            self.moved.append(events_of(self.moving))
            await self.moving.cut()
            self.moving = await self.ways[where].connect(f"/?since={stamps[-1]}")

    def check(self) -> None:
        first, second = (events_of(each) for each in self.still)
        assert first == second
        assert sorted(each["n"] for each in first if "n" in each) == list(range(self.sent))
        whole = [each["n"] for each in first if "n" in each]
        for events in (*self.moved, events_of(self.moving)):
            rest = iter(whole)
            assert all(each["n"] in rest for each in events if "n" in each), "in order, and nothing twice"
        if not self.lossy:  # a cursor that is lost is unknown, and brings the whole history
            moved = [each for events in self.moved for each in events] + events_of(self.moving)
            assert all("n" in each for each in first + moved), "no gap is told where nothing is lost"
            assert [each["n"] for each in moved] == whole


async def _all_in_one_order(steps: list[tuple[str, int, int]], batch: dict[str, Any] | None) -> None:
    engine = Engine(takes=0.2)
    fields: dict[str, Any] = {} if batch is None else {"batch": batch}
    async with output_on(engine, **fields) as (a, at_a), output_on(engine, **fields) as (b, at_b):
        peers = Peers(engine, (a, b), (at_a, at_b))
        await peers.begin()
        for step in steps:
            await peers.take(*step)
        engine.comes_back()
        for output in (a, b):
            await output.flush()
        await trio.sleep(30)
        for now in (a.statistics(), b.statistics()):
            assert (now.accepted, now.undelivered, now.unconfirmed, now.queued) == (now.confirmed, 0, 0, 0)
        assert a.statistics().accepted + b.statistics().accepted == peers.sent
        peers.check()


@pytest.mark.parametrize("batch", [None, {"mode": "fixed", "fixed-size": 3, "timeout": "1s"}])
@given(steps=STEPS)
def test_all_peers_have_all_events_in_one_order(
    batch: dict[str, Any] | None, steps: list[tuple[str, int, int]]
) -> None:
    trio.run(_all_in_one_order, steps, batch, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_acknowledgements_name_events_of_both_epochs(autojump_clock: MockClock) -> None:
    engine = Engine()
    delivery = {"stamp": "s", "level": "acked", "ack-pointer": "/ack"}
    async with output_on(engine, delivery=delivery) as (a, at_a):
        peer = await at_a.connect()
        await a.send({"n": 0})
        await peer.wait_messages(1)
        engine.begins_epoch()
        await trio.sleep(1)
        await a.send({"n": 1})
        await peer.wait_messages(2)
        before, behind = (event["s"] for event in events_of(peer))
        assert (before, behind) == ("1-1", "2-1002")
        for ack, confirmed in (("2-1", 0), (before, 1), ("1-1002", 1), (behind, 2)):
            await peer.send(json.dumps({"ack": ack}))
            await trio.sleep(1)
            assert a.statistics().confirmed == confirmed
        assert a.statistics().unknown_acks == 2


async def test_large_events_are_appended_a_few_at_a_time(autojump_clock: MockClock) -> None:
    engine = Engine()
    async with output_on(engine, payload="binary", delivery={}) as (a, at_a):
        peer = await at_a.connect()
        for size in (600_000, 600_000, 400_000, 300_000, 5, 1_040_000, 1):
            await a.send(bytes(size))
        await a.flush()
        assert [len(run.events) for run in engine.runs] == [1, 2, 2, 2]
        assert [len(each) for each in peer.messages] == [600_000, 600_000, 400_000, 300_000, 5, 1_040_000, 1]


async def test_events_of_others_that_an_output_cannot_send_are_theirs_to_report(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    async with (
        output_on(engine, **{"max-message-size": "1KiB"}) as (a, at_a),
        output_on(engine) as (b, _),
    ):
        peer = await at_a.connect()
        await b.send({"n": 0, "text": "x" * 2000})
        await b.send({"n": 1})
        await b.flush()
        await a.send({"n": 2})
        await a.flush()
        await trio.sleep(1)
        assert numbers(peer) == [1, 2]
        now = a.statistics()
        assert (now.accepted, now.confirmed, now.undelivered) == (1, 1, 0)
    assert "an event of another output is not sent, and maybe more: the event has 2017 bytes" in caplog.text


@pytest.mark.parametrize("kind", ["text", "binary", "binary-base64"])
async def test_events_of_any_kind_go_to_the_peers_of_others_as_they_are(
    kind: str, autojump_clock: MockClock
) -> None:
    events: dict[str, list[Any]] = {
        "text": ["a", {"n": 1}, 5],
        "binary": [b"\x00", "b", {"n": 1}],
        "binary-base64": ["AAE=", b"\xff"],
    }
    engine = Engine()
    fields = {"payload": kind, "delivery": {}}
    async with output_on(engine, **fields) as (a, at_a), output_on(engine, **fields) as (_, at_b):
        peers = [await at_a.connect(), await at_b.connect()]
        for event in events[kind]:
            await a.send(event)
        await trio.sleep(1)
        assert peers[0].messages == peers[1].messages
        assert len(peers[0].messages) == len(events[kind])


async def test_word_of_a_gap_is_a_text_among_binary_messages_and_no_event(autojump_clock: MockClock) -> None:
    engine = Engine()
    async with output_on(engine, payload="binary", delivery={}) as (a, at_a), output_on(engine) as (b, _):
        peer = await at_a.connect()
        await b.send({"n": 0})
        await trio.sleep(1)
        engine.begins_epoch(lost=1)
        await b.send({"n": 1})
        await trio.sleep(1)
        event, gap, behind = peer.messages
        assert (event, behind) == (b'{"n":0}', b'{"n":1}')
        assert gap == '{"gap":{"asked":"1-1","first":null}}'
        assert a.statistics().written == 2
        await trio.sleep(10)
        assert a.statistics().window == 0, "it is confirmed like any message"


async def test_what_is_too_old_is_reported_by_the_output_that_accepted_it(autojump_clock: MockClock) -> None:
    engine = Engine()
    delivery = {"max-age": "2s", "stamp": "s"}
    server = {
        "bind": "127.0.0.1:0",
        "slow-peer-timeout": "1m",
        "slow-peer": "wait",
        "send-buffer-capacity": 1000,
    }
    fields = {"delivery": delivery, "server": server}
    async with output_on(engine, **fields) as (a, at_a), output_on(engine, **fields) as (b, _):
        slow = await at_a.connect(buffered=False)
        for n in range(20):
            await b.send({"n": n, "text": "x" * 100_000})
        await b.flush()
        await trio.sleep(60)
        now, others = a.statistics(), b.statistics()
        assert (now.accepted, now.confirmed, now.undelivered) == (0, 0, 0)
        assert (others.accepted, others.confirmed, others.undelivered) == (20, 20, 0)
        await slow.cut()


async def test_few_commits_are_on_their_way_and_marks_stay_behind_them(autojump_clock: MockClock) -> None:
    engine = Engine()
    async with output_on(engine) as (a, at_a):
        peer = await at_a.connect()
        engine.nodes[0].held = True
        for n in range(20):
            await a.send({"n": n})
            await trio.sleep(1)
            if n == 3:
                with trio.move_on_after(1) as flushing:
                    await a.flush()
                assert flushing.cancelled_caught, "the events before the mark have not come round"
        assert len(engine.runs) == 8
        assert not peer.messages
        engine.nodes[0].held = False
        engine.changed.unpark_all()
        await a.flush()
        assert numbers(peer) == list(range(20))


@pytest.mark.parametrize("sound", [0, 2])
async def test_damaged_events_of_another_output_are_a_gap(
    sound: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    cursor = {**CURSOR, "value-field": "n"}
    async with (
        output_on(engine, cursor=cursor, delivery={}) as (a, at_a),
        output_on(engine, cursor=cursor, delivery={}) as (b, _),
    ):
        peer = await at_a.connect()
        engine.nodes[0].held = True
        await a.send({"n": 0})
        await trio.sleep(1)
        for n in (1, 2, 3):
            b.send_nowait({"n": n})
        await b.flush()
        engine.runs[-1].sound = sound
        engine.nodes[0].held = False
        engine.changed.unpark_all()
        await trio.sleep(1)
        await a.send({"n": 4})
        await a.flush()
        gap = {"gap": {"asked": str(sound), "first": "4"}}
        assert events_of(peer) == [*({"n": n} for n in range(sound + 1)), gap, {"n": 4}]
        now = a.statistics()
        assert (now.accepted, now.confirmed, now.unconfirmed, now.history.foreign) == (2, 2, 0, sound)
    assert ("damaged; peers are told of a gap" in caplog.text) == (sound == 0)
