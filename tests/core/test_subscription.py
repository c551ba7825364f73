"""Laws of every subscription, each held by a link and by a peer; and a log with both, as a relay has it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.log import Log
from trio_wsout._core.message import Accepted, BatchMessage, Message
from trio_wsout._core.resend import LinkSubscription
from trio_wsout._core.subscription import PeerSubscription
from trio_wsout.config.sections import Delivery, DeliveryLevel, Retry

WRITTEN, RECEIVED, ACKED = DeliveryLevel.WRITTEN, DeliveryLevel.RECEIVED, DeliveryLevel.ACKED
LOST = Disconnection(cause=Cause.LOST, detail="reset")


class Nobody:
    """The owner of a peer's subscription that is never in sync."""

    def wrote(self, messages: int, size: int, at: float) -> None: ...

    def left_sync(self) -> None: ...


def message(first: int, last: int | None = None) -> Message:
    """A message of one event, or a batch of those from `first` to `last`; its payload tells the last one."""
    payload = b"<%d>" % (last or first)
    events = [Accepted(payload, event=seq, seq=seq) for seq in range(first, (last or first) + 1)]
    return events[0] if last is None else BatchMessage(payload, events)


class Reader:
    """A log with one reader, of either role."""

    def __init__(self, role: str, level: DeliveryLevel = RECEIVED, *, most: int = 100) -> None:
        self.log = Log(
            Delivery(level=level, max_unconfirmed=most),
            30.0,
            capacity=100,
            frame=bytes if role == "peer" else None,
        )
        if role == "link":
            self.link = self.log.join_link(Retry(timeout=30.0))
            self.link.connected(0.0)
        else:
            self.peer = self.log.join(Nobody())
        self.subscription: Any = self.link if role == "link" else self.peer

    def post(self, *messages: Message) -> None:
        for each in messages:
            assert self.log.offer(each)

    def take(self, now: float = 0.0) -> list[int]:
        """Take what there is; return the last event of each message."""
        if isinstance(self.subscription, LinkSubscription):
            return [each.last_seq for each in self.subscription.take(now, 1 << 20)]
        frames = self.subscription.take(now)
        return [int(each) for each in re.findall(rb"<(\d+)>", frames)]

    def pong(self, now: float = 0.0) -> None:
        """Everything taken so far is asked for, and answered."""
        self.subscription.ping_taken()
        self.subscription.pong_received(now)

    def settled(self) -> list[int]:
        """Return what settled since the last call; all of it is confirmed."""
        runs = self.log.settled()
        assert all(reason is None for _, reason in runs)
        return [each.last_seq for messages, _ in runs for each in messages]


@pytest.fixture(params=["link", "peer"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_is_posted_is_taken_once_in_order(role: str) -> None:
    reader = Reader(role)
    assert not reader.subscription.ready
    assert reader.take() == []
    reader.post(message(1), message(2))
    assert reader.subscription.ready
    assert reader.take() == [1, 2]
    reader.post(message(3))
    assert reader.take() == [3]
    assert not reader.subscription.ready


def test_no_more_messages_than_may_be_unconfirmed_are_in_flight(role: str) -> None:
    reader = Reader(role, most=3)
    reader.post(message(1), message(2), message(3))
    assert reader.take() == [1, 2, 3]
    assert reader.subscription.in_flight == 3
    reader.pong()
    assert reader.settled() == [1, 2, 3]
    reader.post(message(4))
    assert reader.take() == [4]


def test_written_confirms_what_the_kernel_has(role: str) -> None:
    reader = Reader(role, WRITTEN)
    reader.post(message(1))
    reader.take()
    assert reader.settled() == []
    assert not reader.subscription.wants_ping
    reader.subscription.written()
    assert reader.settled() == [1]
    assert reader.subscription.deadline is None


def test_a_pong_confirms_what_was_taken_before_its_ping_and_no_more(role: str) -> None:
    reader = Reader(role)
    reader.post(message(1))
    reader.take()
    reader.subscription.written()
    assert reader.settled() == []
    assert reader.subscription.wants_ping
    assert reader.subscription.pings_now, "few are asked at once"
    reader.subscription.ping_taken()
    assert not reader.subscription.wants_ping
    reader.post(message(2))
    reader.take()
    reader.subscription.pong_received(0.0)
    assert reader.settled() == [1]
    assert reader.subscription.wants_ping
    reader.subscription.pong_received(0.0)
    assert reader.settled() == [], "no ping is out"


def test_a_later_ping_takes_the_place_of_an_earlier(role: str) -> None:
    reader = Reader(role)
    reader.post(message(1))
    reader.take()
    reader.subscription.ping_taken()
    reader.post(message(2))
    reader.take()
    reader.pong()
    assert reader.settled() == [1, 2]


def test_one_pong_confirms_several_writes(role: str) -> None:
    reader = Reader(role)
    for seq in (1, 2, 3):
        reader.post(message(seq))
        reader.take(float(seq))
    reader.pong()
    assert reader.subscription.deadline is None
    assert reader.settled() == [1, 2, 3]


@pytest.mark.parametrize("level", [WRITTEN, ACKED])
def test_a_pong_says_nothing_at_other_levels(role: str, level: DeliveryLevel) -> None:
    reader = Reader(role, level)
    reader.post(message(1))
    reader.take()
    assert not reader.subscription.wants_ping
    reader.pong()
    assert reader.settled() == []


@pytest.mark.parametrize("level", [WRITTEN, RECEIVED])
def test_an_acknowledgement_says_nothing_at_other_levels(role: str, level: DeliveryLevel) -> None:
    reader = Reader(role, level)
    reader.post(message(1))
    reader.take()
    reader.subscription.acked(1)
    assert reader.settled() == []


def test_an_acknowledgement_confirms_no_more_than_was_taken(role: str) -> None:
    reader = Reader(role, ACKED)
    reader.post(message(1))
    reader.take()
    reader.post(message(2))
    reader.subscription.acked(99)
    assert reader.settled() == [1]
    reader.take()
    reader.subscription.acked(0)
    assert reader.settled() == []


def test_an_ack_of_the_middle_of_a_batch_does_not_confirm_it(role: str) -> None:
    reader = Reader(role, ACKED)
    reader.post(message(1, 3), message(4, 4))
    reader.take()
    assert [event.seq for event in reader.subscription.events_in_flight()] == [1, 2, 3, 4]
    reader.subscription.acked(2)
    assert reader.settled() == []
    reader.subscription.acked(3)
    assert reader.settled() == [3]
    assert [event.seq for event in reader.subscription.events_in_flight()] == [4]


def test_the_oldest_message_in_flight_sets_the_deadline(role: str) -> None:
    reader = Reader(role, ACKED)
    assert reader.subscription.deadline is None
    reader.post(message(1), message(2))
    assert reader.subscription.deadline is None, "not written is not in flight"
    reader.take(5.0)
    reader.post(message(3))
    reader.take(7.0)
    assert reader.subscription.deadline == 35.0
    reader.subscription.acked(1)
    assert reader.subscription.deadline == 35.0
    reader.subscription.acked(2)
    assert reader.subscription.deadline == 37.0


def test_time_in_which_this_side_does_not_read_is_not_the_peers(role: str) -> None:
    reader = Reader(role)
    reader.post(message(1))
    reader.take(5.0)
    reader.subscription.reading_paused()
    assert reader.subscription.deadline is None
    reader.subscription.reading_resumed(20.0)
    assert reader.subscription.deadline == 50.0
    reader.pong()
    reader.post(message(2))
    reader.take(25.0)
    assert reader.subscription.deadline == 55.0


def test_what_could_be_asked_for_only_late_has_its_time_from_there(role: str) -> None:
    reader = Reader(role)
    reader.post(message(1))
    reader.take(5.0)
    reader.subscription.ping_taken()
    reader.post(message(2))
    reader.take(6.0)
    reader.subscription.pong_received(35.0)
    assert reader.settled() == [1]
    assert reader.subscription.deadline == 36.0, "not late: the ping for the second may go, and be answered"
    reader.subscription.ping_taken()
    reader.post(message(3))
    reader.take(7.0)
    reader.subscription.pong_received(1000.0)
    assert reader.settled() == [2]
    assert reader.subscription.deadline == 1030.0, "nobody could ask for the third before"


def test_who_may_go_when_nothing_more_comes(role: str) -> None:
    reader = Reader(role)
    reader.post(message(1))
    assert not reader.subscription.has_all
    reader.take()
    reader.pong()
    assert reader.subscription.has_all == (role == "peer"), "a link is closed by others"


# -- a link beside peers ----------------------------------------------------------------------------------------


class RelayMachine(RuleBasedStateMachine):
    """A log with peers and a link, from which messages come, too, against sets of those who lack each message."""

    @initialize(most=st.integers(1, 4))
    def begin(self, most: int) -> None:
        self.log = Log(Delivery(level=RECEIVED, max_unconfirmed=most), 30.0, capacity=1000, frame=bytes)
        self.link = self.log.join_link(Retry(timeout=30.0, retries=0))
        self.most = most
        self.connected = False
        self.flight: list[int] = []
        self.peers: list[PeerSubscription] = []
        self.lacking: dict[int, set[Any]] = {}
        self.sources: dict[int, Any] = {}
        self.failed: set[int] = set()
        self.settled: list[int] = []
        self.seq = 0

    @precondition(lambda self: len(self.peers) < 2)
    @rule()
    def a_peer_joins(self) -> None:
        self.peers.append(self.log.join(Nobody()))

    @rule(times=st.integers(1, 3), source=st.none() | st.integers(0, 2))
    def post(self, times: int, source: int | None) -> None:
        """From the application, from the link or from a peer: it goes to all others, however full the link is."""
        everybody = [self.link, *self.peers]
        subscription = None if source is None else everybody[source % len(everybody)]
        for _ in range(times):
            self.seq += 1
            self.sources[self.seq] = subscription
            self.lacking[self.seq] = {each for each in everybody if each is not subscription}
            assert self.log.offer(message(self.seq), subscription)

    def _pending(self) -> list[int]:
        return [seq for seq, those in self.lacking.items() if self.link in those]

    @precondition(lambda self: not self.connected)
    @rule()
    def the_link_opens(self) -> None:
        self.link.connected(0.0)
        self.connected = True

    @precondition(lambda self: self.connected)
    @rule(most_bytes=st.integers(1, 20))
    def the_link_takes(self, most_bytes: int) -> None:
        taken = [each.last_seq for each in self.link.take(0.0, most_bytes)]
        unsent = self._pending()[len(self.flight) :]
        assert taken == unsent[: len(taken)], "in order, and nothing that came down it"
        assert bool(taken) == (bool(unsent) and len(self.flight) < self.most)
        self.flight += taken
        assert len(self.flight) <= self.most

    @precondition(lambda self: self.connected)
    @rule()
    def the_link_confirms(self) -> None:
        self.link.ping_taken()
        self.link.pong_received(0.0)
        self._left(self.flight)

    @precondition(lambda self: self.connected)
    @rule()
    def the_link_breaks(self) -> None:
        """No retry is allowed, so what was in flight fails."""
        self.link.disconnected(LOST)
        self.failed |= set(self.flight)
        self._left(self.flight)
        self.connected = False

    def _left(self, seqs: list[int]) -> None:
        for seq in seqs:
            self.lacking[seq].discard(self.link)
        self.flight = []

    @precondition(lambda self: self.peers)
    @rule(index=st.integers(0, 1), leaves=st.booleans())
    def a_peer_confirms_or_leaves(self, index: int, leaves: bool) -> None:
        peer = self.peers[index % len(self.peers)]
        if leaves:
            self.peers.remove(peer)
            self.log.leave(peer)
        else:
            while peer.ready:
                peer.take(0.0)
                peer.ping_taken()
                peer.pong_received(0.0)
        for those in self.lacking.values():
            those.discard(peer)

    @rule()
    def settle(self) -> None:
        for messages, reason in self.log.settled():
            assert messages
            for each in messages:
                seq = each.last_seq
                assert seq == len(self.settled) + 1, "in order, each once"
                assert not self.lacking.pop(seq), "everybody is past it"
                assert (reason is not None) == (seq in self.failed)
                self.settled.append(seq)
        for seq, those in list(self.lacking.items())[:1]:
            source = self.sources[seq]
            waits = source in self.peers and source.position < seq
            assert those or waits, "somebody lacks the next one, or its source has not come to take"

    @invariant()
    def the_window_agrees(self) -> None:
        if hasattr(self, "log"):
            assert self.link.count == len(self._pending())
            assert self.link.size == sum(len(b"<%d>" % seq) for seq in self._pending())
            assert self.link.full == (len(self._pending()) >= self.most)

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        left = [
            (each.last_seq, reason is not None) for messages, reason in self.log.drain() for each in messages
        ]
        assert left == [(seq, seq in self.failed) for seq in self.lacking if seq > len(self.settled)]
        assert (self.link.count, self.link.size, self.log.unsettled) == (0, 0, 0)


TestRelayMachine = RelayMachine.TestCase
