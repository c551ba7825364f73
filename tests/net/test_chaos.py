"""The proxy does what its plan says, and the checker finds what is wrong, before anything is proved by them."""

from __future__ import annotations

import json
import random
import ssl
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
from chaos import Chaos, Fault, Follower, Kind, Place, Way, fault_plan, open_chaos
from history_check import Identity, check, event, identify
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import trustme

pytestmark = [pytest.mark.faults, pytest.mark.network]

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
FRAMES = [b"\x81\x05hello", b"\x82\x7e\x01\x00" + bytes(256), b"\x81\x85abcdhello", b"\x89\x00"]
CLOSE = b"\x88\x02\x03\xe8"


class Target:
    """A server that keeps what comes on each connection and how it ended, and answers the first bytes."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.pieces: list[int] = []
        self.ends: list[str] = []

    async def serve(self, stream: trio.abc.Stream) -> None:
        number = len(self.received)
        self.received.append(b"")
        try:
            while chunk := await stream.receive_some():
                if not self.received[number]:
                    await stream.send_all(ANSWER + FRAMES[0])
                self.received[number] += chunk
                self.pieces.append(len(chunk))
            self.ends.append("FIN")
        except trio.BrokenResourceError:
            self.ends.append("RST")
        finally:
            await trio.aclose_forcefully(stream)

    async def wait_end(self) -> str:
        while not self.ends:
            await trio.sleep(0.001)
        return self.ends[0]


@asynccontextmanager
async def through(
    plan: Sequence[Fault | None] = (), tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Target, Chaos]]:
    """A target and the proxy before it, not for long."""
    target = Target()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve(stream: trio.abc.Stream) -> None:
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        await target.serve(stream)

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, listeners)
            async with open_chaos(listeners[0].socket.getsockname()[1], plan) as chaos:
                yield target, chaos
            nursery.cancel_scope.cancel()


async def read_to_the_end(stream: trio.abc.Stream) -> tuple[bytes, str]:
    """All that comes, and how it ends."""
    received = b""
    try:
        while chunk := await stream.receive_some():
            received += chunk
    except trio.BrokenResourceError:
        return received, "RST"
    finally:
        await trio.aclose_forcefully(stream)
    return received, "FIN"


async def test_without_a_fault_everything_passes_both_ways_and_so_does_the_end() -> None:
    async with through() as (target, chaos):
        stream = await trio.open_tcp_stream("127.0.0.1", chaos.port)
        await stream.send_all(HEAD + b"".join(FRAMES))
        await stream.send_eof()
        assert await read_to_the_end(stream) == (ANSWER + FRAMES[0], "FIN")
        assert target.received == [HEAD + b"".join(FRAMES)]
        assert target.ends == ["FIN"]
        assert chaos.cuts == []


@pytest.mark.parametrize("kind", [Kind.FIN, Kind.RST, Kind.HOLD])
@pytest.mark.parametrize(
    ("place", "after", "passes", "found"),
    [
        (Place.HANDSHAKE, 0, 0, Place.HANDSHAKE),
        (Place.HANDSHAKE, 10, 10, Place.HANDSHAKE),
        (Place.HANDSHAKE, 10_000, len(HEAD) - 1, Place.HANDSHAKE),
        (Place.FRAME, 1, len(HEAD) + 1, Place.FRAME),
        (Place.FRAME, 7, len(HEAD) + 7, Place.BETWEEN),
        (Place.FRAME, 8, len(HEAD) + 8, Place.FRAME),
        (Place.FRAME, 100, len(HEAD) + 100, Place.FRAME),
        (Place.CLOSE, 0, len(HEAD) + sum(map(len, FRAMES)), Place.CLOSE),
        (Place.CLOSE, 3, len(HEAD) + sum(map(len, FRAMES)) + 3, Place.CLOSE),
        (Place.CLOSE, 9, len(HEAD) + sum(map(len, FRAMES)) + 4, Place.CLOSE),
    ],
)
async def test_a_cut_is_at_its_byte_and_is_told_by_its_place(
    kind: Kind, place: Place, after: int, passes: int, found: Place
) -> None:
    whole = HEAD + b"".join(FRAMES) + CLOSE + b"\x81\x05never"
    async with through([Fault(kind=kind, place=place, after=after)]) as (target, chaos):
        stream = await trio.open_tcp_stream("127.0.0.1", chaos.port)
        await stream.send_all(HEAD)
        if place is not Place.HANDSHAKE:
            # The answer has passed, so that the place is that of what is sent now.
            answer = b""
            while len(answer) < len(ANSWER + FRAMES[0]):
                answer += await stream.receive_some(1)
        await stream.send_all(whole[len(HEAD) :])
        _, end = await read_to_the_end(stream)
        await target.wait_end()
        # A reset takes with it what the other side has not read.
        assert whole[:passes].startswith(target.received[0])
        if kind is not Kind.RST:
            assert target.received == [whole[:passes]]
        assert [(cut.kind, cut.place) for cut in chaos.cuts] == [(kind, found)]
        assert {end, *target.ends} == {"FIN" if kind is Kind.FIN else "RST"}
        assert chaos.kinds == {kind: 1, found: 1}


async def test_a_cut_may_count_the_bytes_that_come_back() -> None:
    fault = Fault(kind=Kind.FIN, way=Way.DOWN, place=Place.FRAME, after=3)
    async with through([fault]) as (_, chaos):
        stream = await trio.open_tcp_stream("127.0.0.1", chaos.port)
        await stream.send_all(HEAD)
        assert await read_to_the_end(stream) == (ANSWER + FRAMES[0][:3], "FIN")
        assert [(cut.kind, cut.place) for cut in chaos.cuts] == [(Kind.FIN, Place.FRAME)]
        again = await trio.open_tcp_stream("127.0.0.1", chaos.port)
        await again.send_all(HEAD)
        await again.send_eof()
        assert await read_to_the_end(again) == (ANSWER + FRAMES[0], "FIN")


async def test_slices_are_of_one_byte_and_an_answer_comes_late() -> None:
    fault = Fault(kind=Kind.RST, place=Place.CLOSE, slices=20, late=0.2)
    async with through([fault]) as (target, chaos):
        stream = await trio.open_tcp_stream("127.0.0.1", chaos.port)
        start = trio.current_time()
        await stream.send_all(HEAD)
        await stream.receive_some(1)
        assert trio.current_time() - start >= 0.2
        await stream.send_all(CLOSE)
        await read_to_the_end(stream)
        await target.wait_end()
        assert len(target.pieces) > 5
        assert chaos.counts == {"slices": 1, "late": 1}


async def test_it_refuses_for_a_while_and_then_no_more() -> None:
    fault = Fault(kind=Kind.RST, place=Place.HANDSHAKE, refuse=1.0)
    async with through([fault]) as (_, chaos):
        stream = await trio.open_tcp_stream("127.0.0.1", chaos.port)
        await stream.send_all(HEAD)
        await read_to_the_end(stream)
        refused = 0
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", chaos.port)
            except OSError:
                refused += 1
                await trio.sleep(0.02)
            else:
                break
        assert refused > 0
        assert chaos.counts == {"refusing": 1}
        await stream.send_all(HEAD)
        await stream.send_eof()
        assert await read_to_the_end(stream) == (ANSWER + FRAMES[0], "FIN")


async def test_in_a_black_hole_nothing_comes_and_nobody_is_told_until_one_side_leaves() -> None:
    async with through() as (target, chaos):
        stream = await trio.open_tcp_stream("127.0.0.1", chaos.port)
        await stream.send_all(HEAD)
        await stream.receive_some(1)
        chaos.go_dark()
        await stream.send_all(b"x" * 100_000)
        late = await trio.open_tcp_stream("127.0.0.1", chaos.port)
        await late.send_all(HEAD)
        with trio.move_on_after(0.2) as waiting:
            await late.receive_some()
        assert waiting.cancelled_caught
        assert target.received[0] == HEAD
        assert target.ends == []
        assert chaos.given_up == []
        await trio.aclose_forcefully(stream)
        assert await target.wait_end() == "RST"
        assert len(chaos.given_up) == 1
        chaos.heal()
        assert await read_to_the_end(late) == (b"", "RST")
        again = await trio.open_tcp_stream("127.0.0.1", chaos.port)
        await again.send_all(HEAD)
        await again.send_eof()
        assert await read_to_the_end(again) == (ANSWER + FRAMES[0], "FIN")


async def test_a_throttled_line_is_as_slow_as_it_says() -> None:
    async with through() as (target, chaos):
        chaos.rate = 100_000
        stream = await trio.open_tcp_stream("127.0.0.1", chaos.port)
        start = trio.current_time()
        await stream.send_all(bytes(50_000))
        await stream.send_eof()
        await read_to_the_end(stream)
        assert trio.current_time() - start >= 0.45
        assert target.received == [bytes(50_000)]


async def test_tls_goes_through_and_a_cut_in_its_handshake_is_told(ca: trustme.CA) -> None:
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("127.0.0.1").configure_cert(theirs)
    ca.configure_trust(ours)

    async def dial(port: int) -> trio.SSLStream[trio.SocketStream]:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        return trio.SSLStream(stream, ours, server_hostname="127.0.0.1", https_compatible=True)

    plan = [
        Fault(kind=Kind.RST, place=Place.HANDSHAKE, after=300),
        Fault(kind=Kind.FIN, way=Way.DOWN, place=Place.HANDSHAKE, after=300),
        Fault(kind=Kind.FIN, place=Place.FRAME, after=10),
        None,
    ]
    async with through(plan, theirs) as (target, chaos):
        for _ in range(2):
            stream = await dial(chaos.port)
            with pytest.raises(trio.BrokenResourceError):
                await stream.do_handshake()
            await trio.aclose_forcefully(stream)
        for _ in range(2):
            stream = await dial(chaos.port)
            await stream.send_all(HEAD)
            await stream.receive_some()
            await stream.send_all(FRAMES[0])
            await stream.send_all(FRAMES[1])
            await stream.aclose()
        while len(target.ends) < 4:
            await trio.sleep(0.001)
        assert target.received[2:] == [HEAD, HEAD + FRAMES[0] + FRAMES[1]]
        assert [(cut.kind, cut.place) for cut in chaos.cuts] == [
            (Kind.RST, Place.HANDSHAKE),
            (Kind.FIN, Place.HANDSHAKE),
            (Kind.FIN, Place.FRAME),
        ]


@given(st.lists(st.integers(1, 40)), st.lists(st.sampled_from([*FRAMES, CLOSE])))
def test_the_follower_finds_every_frame_however_the_bytes_come(sizes: list[int], frames: list[bytes]) -> None:
    data, starts = HEAD + b"".join(frames), [len(HEAD)]
    for frame in frames:
        starts.append(starts[-1] + len(frame))
    closes = [start for start, frame in zip(starts, frames, strict=False) if frame == CLOSE]
    follower, at = Follower(Way.UP), 0
    for size in [*sizes, len(data)]:
        chunk = data[at : at + size]
        follower.feed(chunk)
        for position in range(at + 1, at + len(chunk) + 1):
            if position < len(HEAD):
                due = Place.HANDSHAKE
            elif closes and position > closes[0]:
                due = Place.CLOSE
            else:
                due = Place.BETWEEN if position in starts else Place.FRAME
            if position not in closes:  # a Close may have begun there, or not yet
                assert follower.place_of(position) is due, position
        at += len(chunk)


def test_a_plan_has_every_kind_in_every_place_and_follows_from_its_seed() -> None:
    plan = fault_plan(random.Random(1), 2, head=100, up=1000, down=10)
    assert plan == fault_plan(random.Random(1), 2, head=100, up=1000, down=10)
    assert plan != fault_plan(random.Random(2), 2, head=100, up=1000, down=10)
    assert len(plan) == 50
    kinds = (Kind.FIN, Kind.RST, Kind.HOLD)
    places = (Place.HANDSHAKE, Place.FRAME, Place.CLOSE)
    assert {(fault.kind, fault.way, fault.place) for fault in plan} >= {
        (kind, way, place) for kind in kinds for way in Way for place in places
    }


IDENTITIES = st.tuples(st.sampled_from("ab"), st.integers(0, 6))
CONNECTIONS = st.lists(st.lists(st.none() | IDENTITIES, max_size=8), max_size=4)


@st.composite
def runs(draw: st.DrawFn) -> list[Identity]:
    """What was sent: for each run the numbers from 0 on, in any mixture."""
    numbers = {"a": 0, "b": 0}
    sent = []
    for run in draw(st.lists(st.sampled_from("ab"), max_size=12)):
        sent.append((run, numbers[run]))
        numbers[run] += 1
    return sent


@given(runs(), st.sets(IDENTITIES), st.sets(IDENTITIES), CONNECTIONS, st.integers(0, 3), st.integers(0, 3))
def test_the_checker_says_what_naive_definitions_say(
    sent: list[Identity],
    confirmed: set[Identity],
    undelivered: set[Identity],
    arrived: list[list[Identity | None]],
    window: int,
    cuts: int,
) -> None:
    verdict = check(sent, confirmed, undelivered, arrived, window=window, cuts=cuts)
    flat = [one for connection in arrived for one in connection]
    whole = [one for one in flat if one is not None]
    first = [one for at, one in enumerate(whole) if one not in whole[:at]]
    assert verdict.sent == len(sent)
    assert set(verdict.lost) == {one for one in sent if one in confirmed and one not in whole}
    assert set(verdict.forgotten) == {one for one in sent if one not in confirmed and one not in undelivered}
    assert set(verdict.contradicted) == {one for one in sent if one in confirmed and one in undelivered}
    assert set(verdict.invented) == {one for one in whole if one not in sent}
    assert verdict.damaged == flat.count(None)
    assert list(verdict.reordered) == [
        (run, number)
        for at, (run, number) in enumerate(first)
        if any(before == run and higher > number for before, higher in first[:at])
    ]
    assert verdict.duplicates == sum(whole.count(one) - 1 for one in set(whole))
    assert verdict.allowed == window * cuts
    jumps = []
    for connection in arrived:
        for run in "ab":
            numbers = [one[1] for one in connection if one is not None and one[0] == run]
            for before, number in pairwise(numbers):
                between = range(before + 1, number)
                if number <= before or any((run, each) not in undelivered for each in between):
                    jumps.append((run, number))
    assert sorted(verdict.jumped) == sorted(jumps)
    assert bool(verdict.complaints) == bool(
        verdict.lost
        or verdict.forgotten
        or verdict.contradicted
        or verdict.invented
        or verdict.damaged
        or verdict.reordered
        or verdict.jumped
        or verdict.duplicates > verdict.allowed
    )


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 5))
def test_at_least_once_in_order_within_the_window_is_well(cuts: list[int], window: int) -> None:
    """Each connection begins again with what may have been in flight, and goes further than that."""
    sent = [("a", number) for number in range(40)]
    arrived, reached = [], 0
    for further in cuts:
        begin = max(0, reached - window)
        reached = min(40, reached + further)
        arrived.append(sent[begin:reached])
    arrived.append(sent[max(0, reached - window) :])
    verdict = check(sent, sent, [], arrived, window=window, cuts=len(cuts))
    assert verdict.complaints == []


@pytest.mark.parametrize(
    ("confirmed", "undelivered", "arrived", "words"),
    [
        ([0, 1, 2], [], [[0, 1]], "1 lost, first ('a', 2)"),
        ([0, 1], [], [[0, 1, 2]], "1 forgotten, first ('a', 2)"),
        ([0, 1, 2], [2], [[0, 1, 2]], "1 confirmed and undelivered, first ('a', 2)"),
        ([0, 1, 2], [], [[0, 1, 2, 3]], "1 invented, first ('a', 3)"),
        ([0, 1, 2], [], [[0, 1], [2, None]], "1 damaged"),
        ([0, 1, 2], [], [[0, 2], [1]], "1 reordered, first ('a', 1)"),
        ([0, 1, 2], [], [[0, 1, 0, 1, 2]], "1 out of turn on a connection, first ('a', 0)"),
        ([0, 1, 2], [], [[0, 1, 2], [0, 1, 2], [0, 1, 2]], "6 duplicates, 4 allowed"),
    ],
)
def test_a_complaint_says_what_is_wrong(
    confirmed: list[int], undelivered: list[int], arrived: list[list[int | None]], words: str
) -> None:
    def identities(numbers: Sequence[int]) -> list[Identity]:
        return [("a", number) for number in numbers]

    verdict = check(
        identities([0, 1, 2]),
        identities(confirmed),
        identities(undelivered),
        [[None if number is None else ("a", number) for number in line] for line in arrived],
        window=2,
        cuts=2,
    )
    assert words in verdict.complaints


def test_too_few_faults_are_a_complaint() -> None:
    faults, required = {"cuts": 3, "FIN": 3}, {"cuts": 3, "FIN": 1, "RST": 2}
    verdict = check([], [], [], [], window=1, cuts=1, faults=faults, required=required)
    assert verdict.complaints == ["2 too few RST"]


def test_what_was_undelivered_may_be_left_out_of_a_connection() -> None:
    sent = [("a", number) for number in range(4)]
    arrived = [[sent[0], sent[3]]]
    assert check(sent, [sent[0], sent[3]], sent[1:3], arrived, window=1, cuts=1).complaints == []
    assert check(sent, [sent[0], sent[2], sent[3]], [sent[1]], arrived, window=1, cuts=1).complaints != []


def test_between_relays_an_event_may_come_again_on_one_connection() -> None:
    sent = [("a", number) for number in range(3)]
    arrived = [[*sent[:2], *sent]]
    assert check(sent, sent, [], arrived, window=2, cuts=1, direct=False).complaints == []
    assert check(sent, sent, [], arrived, window=2, cuts=1).complaints != []


@given(st.text(max_size=10), st.integers(0, 10**6), st.integers(0, 2000))
def test_an_event_says_who_it_is(run: str, number: int, size: int) -> None:
    made = json.dumps(event(run, number, size))
    assert identify(made) == (run, number)
    assert identify(json.dumps({**event(run, number, size), "seq": "1-2"})) == (run, number)
    assert size == len(event(run, number, size)["pad"])


@given(st.integers(0, 200), st.data())
def test_damage_to_what_says_who_an_event_is_shows(number: int, data: st.DataObject) -> None:
    made = json.dumps(event("run", number))
    at = data.draw(st.integers(0, len(made) - 1))
    letter = data.draw(st.sampled_from([each for each in '0123456789;/"{}:, runpad' if each != made[at]]))
    assert identify(made[:at] + letter + made[at + 1 :]) in (None, ("run", number))
    assert identify(made[:at]) is None
    assert identify(made.replace(";", ":")) is None


@pytest.mark.parametrize(
    "message", ["", "{}", "[]", "null", "7", '{"run": 1}', "\ud800", b"\xff", "[" * 10_000]
)
def test_what_is_no_event_is_nobody(message: str | bytes) -> None:
    assert identify(message) is None
