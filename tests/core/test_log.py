"""The log with peers: examples of its rules, and a machine against peers that are plain lists.

Rules 5 and 8, which hold for a link as well, are in `test_subscription`.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.log import Log, Settled
from trio_wsout._core.message import Accepted, BatchMessage, Message
from trio_wsout._core.subscription import PeerSubscription
from trio_wsout.config.sections import Delivery, DeliveryLevel

BLOCK = 64 * 1024
WRITTEN, RECEIVED, ACKED = DeliveryLevel.WRITTEN, DeliveryLevel.RECEIVED, DeliveryLevel.ACKED


def message(first: int, last: int | None = None, payload: bytes = b"") -> Message:
    """A message of one event, or a batch of those from `first` to `last`."""
    events = [Accepted(payload, event=seq, seq=seq) for seq in range(first, (last or first) + 1)]
    return events[0] if last is None else BatchMessage(payload, events)


def frame(number: int, size: int = 0) -> bytes:
    """Bytes that tell which message they are."""
    return b"<%d" % number + b"." * size + b">"


def numbers(blob: bytes) -> list[int]:
    """Which messages a write holds; fails on anything but whole frames."""
    assert re.fullmatch(rb"(<\d+\.*>)*", blob)
    return [int(each) for each in re.findall(rb"<(\d+)", blob)]


def seqs(settled: Settled) -> list[int]:
    """The last event of each message that has settled; none has failed."""
    assert all(reason is None for _, reason in settled)
    return [each.events[-1].seq for messages, _ in settled for each in messages]


class Heard:
    """What the owner of a place hears of it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.messages = 0
        self.at = 0.0
        self.fell_out = 0

    def wrote(self, messages: int, size: int, at: float) -> None:
        self.messages += messages
        self.sizes.append(size)
        self.at = at

    def left_sync(self) -> None:
        self.fell_out += 1


class OwnedLog(Log):
    """A log whose places may belong to nobody in particular."""

    def join(self, owner: Heard | None = None) -> PeerSubscription:
        return super().join(owner or Heard())

    def step(self, *peers: PeerSubscription) -> None:
        """Have these in sync."""
        assert all(self.enter_sync(peer, 0) for peer in peers)

    def look(self, peers: list[PeerSubscription]) -> None:
        """Have the accounts of these up to date."""
        for peer in peers:
            if peer.in_sync:
                self.in_sync.catch_up(peer)

    def send(self, at: float = 0.0) -> list[int]:
        """One wave: which messages it held, for all in sync."""
        broadcast = self.next_broadcast(at)
        assert broadcast is not None
        self.broadcast_written(broadcast)
        return numbers(broadcast.frames)


FIRST = frame(0, BLOCK)


def framed(payload: bytes) -> bytes:
    """Return the payload, or for a payload of as many spaces FIRST, of which the log has no other reference then."""
    return FIRST if payload.isspace() else payload


def log(
    level: DeliveryLevel = RECEIVED, *, capacity: int = 4, most: int = 100, most_bytes: int = 10**6
) -> OwnedLog:
    return OwnedLog(
        Delivery(level=level, max_unconfirmed=most, max_unconfirmed_bytes=most_bytes),
        30.0,
        capacity=capacity,
        frame=framed,
    )


def post(made: OwnedLog, count: int = 1, *, source: PeerSubscription | None = None, size: int = 0) -> None:
    """Post messages of one event each; the event of message n is n + 1."""
    for _ in range(count):
        made.post(message(made.end + 1, payload=frame(made.end, size)), source)


def queued(made: Log, peer: PeerSubscription) -> int:
    """How many messages wait for it."""
    return made.end - peer.position


def pong(peer: PeerSubscription) -> None:
    """Everything taken so far is answered for."""
    peer.ping_taken()
    peer.pong_received(0.0)


# -- rule 1: order, and who gets what ------------------------------------------------------------------


def test_a_peer_gets_what_is_posted_after_it_joined() -> None:
    made = log()
    post(made, 2)
    peer = made.join()
    assert not peer.ready
    assert peer.take(0.0) == b""
    post(made, 2)
    assert queued(made, peer) == 2
    assert numbers(peer.take(0.0)) == [2, 3]
    assert queued(made, peer) == 0
    assert not peer.ready


def test_nobody_gets_what_it_posted_itself() -> None:
    made = log(capacity=10)
    one, other = made.join(), made.join()
    post(made)
    post(made, 2, source=one)
    post(made)
    assert numbers(one.take(0.0)) == [0, 3]
    assert numbers(other.take(0.0)) == [0, 1, 2, 3]


def test_only_own_messages_are_taken_without_a_write() -> None:
    made = log()
    peer = made.join()
    post(made, 2, source=peer)
    assert peer.take(0.0) == b""
    assert queued(made, peer) == 0
    assert peer.deadline is None
    assert not peer.wants_ping
    assert seqs(made.settled()) == [1, 2]


def test_what_a_peer_posted_before_it_left_is_as_from_anybody() -> None:
    made = log()
    source, other = made.join(), made.join()
    made.leave(source)
    post(made, source=source)
    assert numbers(other.take(0.0)) == [0]
    assert source.take(0.0) == b""


# -- rule 2: blocks -------------------------------------------------------------------------------------


def test_peers_at_the_same_place_share_the_bytes() -> None:
    made = log()
    one, other = made.join(), made.join()
    post(made, 3)
    assert one.take(0.0) is other.take(0.0)


def test_only_a_few_joined_pieces_are_kept() -> None:
    made = log(capacity=100)
    peers = []
    for _ in range(6):
        peers.append(made.join())
        post(made)
    post(made)
    blob = peers[0].take(0.0)
    kept = sys.getrefcount(blob)
    for peer in peers[1:]:
        peer.take(0.0)
    assert sys.getrefcount(blob) < kept


def test_peers_at_other_places_get_their_own() -> None:
    made = log(capacity=100)
    peers = []
    for _ in range(10):
        peers.append(made.join())
        post(made)
    for start, peer in enumerate(peers):
        assert numbers(peer.take(0.0)) == list(range(start, 10))
    late = made.join()
    post(made)
    assert [numbers(peer.take(0.0)) for peer in (*peers, late)] == [[10]] * 11


def test_one_take_is_at_most_one_block() -> None:
    made = log(capacity=10)
    peer = made.join()
    post(made, 2)
    post(made, size=BLOCK)
    post(made, 2)
    assert numbers(peer.take(0.0)) == [0, 1, 2], "the block was not full before the large one"
    assert numbers(peer.take(0.0)) == [3, 4]


def test_a_block_goes_when_every_peer_is_past_it() -> None:
    made = log(capacity=10)
    peers = [made.join(), made.join()]
    held = sys.getrefcount(FIRST)
    made.post(message(1, payload=b" " * len(FIRST)))
    post(made)
    for peer in peers:
        assert numbers(peer.take(0.0)) == [0]
        assert sys.getrefcount(FIRST) > held
    for peer in peers:
        assert numbers(peer.take(0.0)) == [1]
    assert sys.getrefcount(FIRST) == held


def test_a_stuck_peer_needs_no_block_whose_messages_it_lost() -> None:
    made = log(capacity=2)
    peer = made.join()
    held = sys.getrefcount(FIRST)
    quick = made.join()
    made.post(message(1, payload=b" " * len(FIRST)))
    post(made, size=BLOCK)
    assert numbers(quick.take(0.0)) == [0]
    assert sys.getrefcount(FIRST) > held
    made.leave(quick)
    del quick
    peer.mark_stuck()
    post(made, 5, size=BLOCK)
    assert (queued(made, peer), peer.dropped) == (2, 5)
    assert sys.getrefcount(FIRST) == held, "message 0 is lost: nobody will ever take it"


# -- rule 3: full queues ----------------------------------------------------------------------------------


def test_a_log_without_peers_is_never_full() -> None:
    made = log(capacity=1)
    post(made, 5)
    assert not made.full
    assert made.slow == []
    assert made.unheard == 5
    assert seqs(made.settled()) == [1, 2, 3, 4, 5]


def test_the_slowest_makes_the_log_full() -> None:
    made = log(capacity=2)
    slow, quick = made.join(), made.join()
    post(made, 2)
    assert made.full
    assert set(made.slow) == {slow, quick}
    quick.take(0.0)
    assert made.full
    assert made.slow == [slow]
    slow.take(0.0)
    assert not made.full
    assert made.slow == []
    assert made.unheard == 0


def test_without_the_slow_one_there_is_room() -> None:
    made = log(capacity=2)
    slow, quick = made.join(), made.join()
    post(made, 2)
    quick.take(0.0)
    made.leave(slow)
    assert not made.full


def test_a_stuck_peer_loses_its_oldest_and_hears_where_its_gap_begins() -> None:
    made = log(capacity=2)
    peer = made.join()
    post(made)
    peer.take(0.0)
    post(made, 2)
    assert made.full
    peer.mark_stuck()
    assert not made.full
    assert made.slow == []
    assert peer.gap_after is None, "nothing is lost yet"
    post(made, 3)
    assert not made.full
    assert (queued(made, peer), peer.dropped, made.dropped) == (2, 3, 3)
    assert peer.gap_after == 1
    assert peer.position == 4
    assert numbers(peer.take(0.0)) == [4, 5]
    assert not peer.stuck
    post(made, 2)
    assert made.full, "it has taken, and so it may make others wait again"


@pytest.mark.parametrize(("size", "most"), [(0, 2 * 256), (1 << 20, 65)])
def test_what_a_stuck_peer_may_cost_is_bounded_in_messages_and_in_bytes(size: int, most: int) -> None:
    made = log(capacity=2)
    stuck, good = made.join(), made.join()
    made.post(message(1))
    stuck.take(0.0)
    stuck.mark_stuck()
    payload = bytes(size)
    while not made.keeps_too_much:
        good.take(0.0)
        pong(good)
        assert made.settled() == []
        assert made.unsettled <= most
        made.post(Accepted(payload, event=None, seq=made.end + 1))
    assert made.unsettled == most + 1
    assert made.kept_for == [stuck]
    made.leave(stuck)
    assert len(seqs(made.settled())) + made.unsettled == most + 1
    assert made.unsettled == 1, "the good peer has not taken the last"
    assert not made.keeps_too_much
    assert made.kept_for == []


def test_one_whose_reason_to_be_stuck_is_over_makes_the_log_full_again() -> None:
    made = log(capacity=2)
    peer = made.join()
    peer.mark_stuck()
    post(made, 2)
    assert not made.full
    peer.clear_stuck()
    assert made.full
    assert made.slow == [peer]


def test_one_stuck_peer_does_not_hide_another_slow_one() -> None:
    made = log(capacity=2)
    stuck, slow = made.join(), made.join()
    post(made, 2)
    stuck.mark_stuck()
    assert made.full
    assert made.slow == [slow]


def test_one_that_can_take_nothing_stays_stuck() -> None:
    made = log(ACKED, capacity=1, most=1)
    peer = made.join()
    post(made)
    peer.take(0.0)
    post(made)
    peer.mark_stuck()
    assert peer.take(0.0) == b""
    assert peer.stuck


def test_own_messages_are_never_lost_and_make_no_gap() -> None:
    made = log(capacity=1)
    peer = made.join()
    peer.mark_stuck()
    post(made, source=peer)
    post(made)
    assert (peer.dropped, peer.gap_after) == (0, None)
    post(made, source=peer)
    assert (peer.dropped, peer.gap_after) == (1, 1)
    post(made, 2)
    assert (peer.dropped, peer.gap_after, peer.position) == (2, 1, 4), "one gap, as nothing was taken between"
    assert numbers(peer.take(0.0)) == [4]


def test_a_gap_after_settled_messages_knows_their_last_event() -> None:
    made = log(capacity=1)
    peer = made.join()
    post(made, 2)
    peer.gap_reported()
    peer.take(0.0)
    pong(peer)
    assert len(seqs(made.settled())) == 2
    peer.mark_stuck()
    post(made, 2)
    assert peer.gap_after == 2


def test_what_is_lost_settles_behind_what_is_in_flight() -> None:
    made = log(capacity=1)
    peer = made.join()
    post(made)
    peer.take(0.0)
    peer.ping_taken()
    peer.mark_stuck()
    post(made, 3)
    assert (peer.dropped, made.settled()) == (2, [])
    peer.pong_received(0.0)
    assert seqs(made.settled()) == [1, 2, 3]
    assert made.unsettled == 1


# -- rule 4: the unconfirmed --------------------------------------------------------------------------------


def test_no_more_messages_than_may_be_unconfirmed() -> None:
    made = log(capacity=10, most=3)
    peer = made.join()
    post(made, 5)
    assert numbers(peer.take(0.0)) == [0, 1, 2]
    assert not peer.ready
    assert peer.take(0.0) == b""
    pong(peer)
    assert numbers(peer.take(0.0)) == [3, 4]


def test_no_write_begins_beyond_the_unconfirmed_bytes() -> None:
    made = log(capacity=10, most_bytes=6)
    peer = made.join()
    post(made, 2)
    assert numbers(peer.take(0.0)) == [0, 1], "about as many bytes: a write is not cut for it"
    post(made)
    assert not peer.ready
    pong(peer)
    assert peer.ready


def test_every_write_counts_for_what_is_unconfirmed() -> None:
    made = log(capacity=10, most=3)
    peer = made.join()
    post(made, 2)
    assert numbers(peer.take(0.0)) == [0, 1]
    post(made, 3)
    assert numbers(peer.take(0.0)) == [2]
    assert not peer.ready


def test_a_part_of_a_write_that_is_confirmed_makes_room() -> None:
    made = log(ACKED, capacity=10, most=3)
    peer = made.join()
    post(made, 5)
    peer.take(0.0)
    peer.acked(2)
    assert numbers(peer.take(1.0)) == [3, 4]
    assert [event.seq for event in peer.events_in_flight()] == [3, 4, 5]
    peer.acked(5)
    assert seqs(made.settled()) == [1, 2, 3, 4, 5]


# -- rule 6: settled ------------------------------------------------------------------------------------------


def test_a_message_settles_when_the_last_peer_has_it() -> None:
    made = log()
    one, other = made.join(), made.join()
    post(made)
    one.take(0.0)
    other.take(0.0)
    pong(one)
    assert made.settled() == []
    assert made.unsettled == 1
    pong(other)
    assert seqs(made.settled()) == [1]
    assert made.settled() == []
    assert made.unsettled == 0


def test_a_message_does_not_wait_for_who_came_later() -> None:
    made = log()
    one = made.join()
    post(made)
    made.join()
    one.take(0.0)
    pong(one)
    assert seqs(made.settled()) == [1]


def test_who_has_left_is_not_waited_for_and_leaves_once() -> None:
    made = log()
    peer = made.join()
    post(made, 2)
    peer.take(0.0)
    made.leave(peer)
    made.leave(peer)
    assert made.members == set()
    assert not peer.joined
    assert seqs(made.settled()) == [1, 2]


def test_what_comes_for_one_that_has_left_changes_nothing() -> None:
    made = log()
    peer, other = made.join(), made.join()
    post(made, 2)
    peer.take(0.0)
    peer.ping_taken()
    made.leave(peer)
    post(made)
    peer.pong_received(0.0)
    peer.written()
    peer.acked(3)
    assert not peer.ready
    assert peer.take(0.0) == b""
    assert peer.events_in_flight() == []
    assert made.settled() == []
    assert numbers(other.take(0.0)) == [0, 1, 2]


def test_own_messages_behind_others_in_one_write_need_no_acknowledgement() -> None:
    made = log(ACKED)
    peer = made.join()
    post(made)
    post(made, source=peer)
    assert numbers(peer.take(0.0)) == [0]
    peer.acked(1)
    assert peer.deadline is None, "it has acknowledged all that it got, and is not stalled"
    assert seqs(made.settled()) == [1, 2]


def test_own_messages_before_others_in_one_write_have_settled() -> None:
    made = log(ACKED)
    peer = made.join()
    post(made, source=peer)
    post(made)
    assert numbers(peer.take(0.0)) == [1]
    assert seqs(made.settled()) == [1]


def test_a_history_goes_on() -> None:
    made = log()
    assert made.last_seq == 0
    made.start_after(41)
    assert made.last_seq == 41
    peer = made.join()
    made.post(message(42, 43))
    made.post(message(44))
    assert [made.seq_before(number) for number in range(3)] == [41, 43, 44]
    assert [made.number_after(seq) for seq in (41, 42, 43, 44)] == [0, 0, 1, 2]
    assert [each.last_seq for each in made.between(0, 2)] == [43, 44]
    peer.take(0.0)
    pong(peer)
    assert len(seqs(made.settled())) == 2
    assert made.last_seq == 44
    assert made.number_after(44) == 2
    assert made.between(0, 2) == []


def test_drain_gives_what_has_not_settled() -> None:
    made = log()
    made.join()
    post(made, 3)
    assert seqs(made.drain()) == [1, 2, 3]
    assert made.unsettled == 0
    assert made.last_seq == 3
    assert made.drain() == []


def test_after_drain_nothing_settles_any_more() -> None:
    made = log()
    peer = made.join()
    post(made, 3)
    made.drain()
    assert made.settled() == []
    made.leave(peer)
    assert made.settled() == []


# -- rule 7: who is asked, and when -----------------------------------------------------------------------------


def crowd(made: OwnedLog, count: int = 20) -> list[PeerSubscription]:
    return [made.join() for _ in range(count)]


def test_few_peers_are_asked_at_once() -> None:
    made = log(capacity=10)
    peer = made.join()
    post(made)
    peer.take(0.0)
    assert peer.pings_now


def test_many_peers_are_asked_once_a_second_where_nobody_waits() -> None:
    made = log(capacity=10)
    peers = crowd(made)
    assert made.ask_at is None
    post(made)
    for peer in peers:
        peer.take(3.0)
        assert peer.wants_ping
        assert not peer.pings_now
    post(made)
    peers[0].take(3.5)
    assert made.ask_at == 4.0
    made.want()
    made.asked()
    assert all(peer.pings_now for peer in peers)
    pong(peers[0])
    assert not peers[0].pings_now
    post(made)
    peers[0].take(4.0)
    assert not peers[0].pings_now, "that is wanted again in a second"
    assert made.ask_at == 5.0


@pytest.mark.parametrize("batch", [False, True])
def test_many_peers_are_asked_at_once_for_a_message_whose_fate_is_asked_for(batch: bool) -> None:
    made = log(capacity=10)
    peers = crowd(made)
    events = [Accepted(b"", event=seq, seq=seq) for seq in (1, 2)]
    events[1 if batch else 0].fate = Told()
    made.post(BatchMessage(b"", events) if batch else events[0])
    peers[0].take(0.0)
    assert peers[0].pings_now


class Told:
    """Somebody who asks."""

    def confirmed(self, document: Any) -> None: ...

    def failed(self, reason: str) -> None: ...


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 10**6), (100, 10)])
def test_many_peers_are_asked_at_once_when_half_of_the_room_is_used(most: int, most_bytes: int) -> None:
    made = log(capacity=10, most=most, most_bytes=most_bytes)
    peers = crowd(made)
    post(made)
    for peer in peers:
        peer.take(0.0)
        assert not peer.pings_now
    post(made)
    peers[0].take(0.0)
    assert peers[0].pings_now


# -- waves --------------------------------------------------------------------------------------------------------


def test_a_wave_goes_to_all_in_step_and_to_nobody_else() -> None:
    made = log(capacity=10)
    peers = crowd(made)
    made.step(*peers[:15])
    post(made, 2)
    broadcast = made.next_broadcast(1.0)
    assert broadcast is not None
    assert numbers(broadcast.frames) == [0, 1]
    assert not made.broadcast_written(broadcast), "many are asked later"
    assert made.ask_at == 2.0
    made.look(peers)
    assert [queued(made, peer) for peer in peers] == [0] * 15 + [2] * 5
    assert [peer.deadline for peer in peers[13:17]] == [31.0, 31.0, None, None]
    assert made.next_broadcast(1.0) is None
    assert peers[15].take(1.0) is broadcast.frames, "who comes for it later shares it"
    post(made)
    made.leave_sync(peers[0])
    assert made.send() == [2]
    assert numbers(peers[0].take(2.0)) == [2]
    made.step(peers[0])
    post(made)
    assert made.send() == [3]


def test_without_anybody_in_step_there_are_no_waves() -> None:
    made = log(capacity=10)
    (peer,) = crowd(made, 1)
    post(made)
    assert made.next_broadcast(0.0) is None
    peer.take(0.0)
    made.step(peer)
    post(made)
    broadcast = made.next_broadcast(0.0)
    assert broadcast is not None
    made.leave(peer)
    assert made.broadcast_written(broadcast) is False, "nobody has taken it in the end"


def test_a_wave_is_one_block_at_most() -> None:
    made = log(capacity=10)
    made.step(*crowd(made, 2))
    post(made, 3, size=BLOCK)
    assert [made.send(), made.send(), made.send()] == [[0], [1], [2]]
    assert made.next_broadcast(0.0) is None


def test_who_cannot_keep_step() -> None:
    made = log(capacity=2, most=4)
    names = ("own", "left", "behind", "lost", "much", "fine")
    peers = dict(zip(names, crowd(made, len(names)), strict=True))
    post(made, 2)
    for name, peer in peers.items():
        if name not in ("behind", "lost"):
            peer.take(0.0)
        if name not in ("behind", "lost", "much"):
            pong(peer)
    made.leave(peers["left"])
    made.step(peers["fine"])
    peers["behind"].mark_stuck()
    peers["lost"].mark_stuck()
    peers["lost"].skip_to(2)
    peers["own"].posted(2)
    assert [name for name, peer in peers.items() if not peer.in_sync and made.enter_sync(peer, 0)] == []
    peers["lost"].gap_reported()
    assert not made.enter_sync(peers["lost"], 0), "it has taken nothing since it was found slow"
    pong(peers["much"])
    made.step(peers["much"])


def test_a_peer_that_stands_elsewhere_than_those_in_sync_stays_out() -> None:
    made = log()
    ahead, behind = crowd(made, 2)
    post(made)
    ahead.take(0.0)
    made.step(ahead)
    assert not made.enter_sync(behind, 0)
    behind.take(0.0)
    assert made.enter_sync(behind, 0)


def test_who_has_no_room_for_a_wave_falls_out_of_step_and_the_others_do_not() -> None:
    made = log(ACKED, capacity=10, most=4)
    heard = Heard()
    slow, quick = made.join(heard), made.join()
    made.step(slow, quick)
    post(made)
    assert made.send() == [0]
    made.look([quick])
    quick.acked(1)
    post(made, 3)
    assert made.send() == [1, 2, 3]
    made.look([quick])
    quick.acked(4)
    assert heard.fell_out == 0
    post(made)
    assert made.send() == [4]
    assert (slow.in_sync, quick.in_sync, heard.fell_out) == (False, True, 1)
    assert (slow.in_flight, queued(made, slow)) == (4, 1)
    assert not slow.ready
    slow.acked(4)
    assert numbers(slow.take(0.0)) == [4]


def test_what_a_peer_posts_it_does_not_get_by_a_wave() -> None:
    made = log(capacity=10)
    heard = Heard()
    source, other = made.join(heard), made.join()
    made.step(source, other)
    post(made, source=source)
    assert heard.fell_out == 1
    assert made.send() == [0]
    assert source.take(0.0) == b""
    made.step(source)


@pytest.mark.parametrize("level", DeliveryLevel)
def test_those_in_step_are_asked_where_somebody_waits(level: DeliveryLevel) -> None:
    made = log(level, capacity=10)
    peers = crowd(made)
    made.step(*peers)
    post(made)
    made.want()
    broadcast = made.next_broadcast(0.0)
    assert broadcast is not None
    assert made.broadcast_written(broadcast) == (level is RECEIVED)


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 10**6), (100, 10)])
def test_those_in_step_are_asked_when_one_has_used_half_of_its_room(most: int, most_bytes: int) -> None:
    made = log(capacity=10, most=most, most_bytes=most_bytes)
    peers = crowd(made)
    made.step(*peers)
    asked = []
    for _ in range(4):
        post(made)
        broadcast = made.next_broadcast(0.0)
        assert broadcast is not None
        asked.append(made.broadcast_written(broadcast))
        made.look(peers[1:])
        for peer in peers[1:]:
            pong(peer)
        if asked[-1]:
            made.look(peers[:1])
            assert peers[0].pings_now
            pong(peers[0])
    assert asked == [False, True, False, True]


def test_an_account_that_catches_up_tells_what_was_written_and_when() -> None:
    made = log(ACKED, capacity=10)
    heard = Heard()
    peer, other = made.join(heard), made.join()
    made.step(peer, other)
    for at in (1.0, 2.0, 5.0):
        post(made)
        made.send(at)
    assert heard.sizes == []
    assert (peer.position, peer.in_flight) == (0, 0), "nothing of it is touched by a wave"
    made.look([peer])
    assert (heard.sizes, heard.at) == ([9], 5.0)
    assert (peer.position, peer.in_flight, peer.in_flight_bytes) == (3, 3, 9)
    made.look([peer])
    assert heard.sizes == [9]
    assert peer.deadline == 31.0
    peer.acked(1)
    assert (peer.deadline, peer.in_flight, peer.in_flight_bytes) == (32.0, 2, 6)
    peer.acked(2)
    assert peer.deadline == 35.0


def test_accounts_catch_up_each_from_where_it_stands() -> None:
    made = log(capacity=10)
    owners = [Heard(), Heard()]
    early, late = peers = [made.join(owner) for owner in owners]
    made.step(*peers)
    for looked in (early, late, early):
        post(made)
        made.send()
        made.look([looked])
    made.look(peers)
    assert [owner.sizes for owner in owners] == [[3, 6], [6, 3]]
    assert [peer.in_flight_bytes for peer in peers] == [9, 9]


def test_whoever_steps_in_first_says_where_the_next_wave_begins() -> None:
    made = log(capacity=10)
    owner = Heard()
    quick, slow = made.join(), made.join(owner)
    made.step(quick)
    for _ in range(2):
        post(made)
        made.send()
    made.leave_sync(quick)
    made.step(slow)
    post(made)
    assert made.send() == [0, 1, 2]
    made.look([slow])
    assert owner.sizes == [9]


def test_what_a_peer_has_in_flight_when_it_steps_in_counts() -> None:
    made = log(ACKED, capacity=10, most=4)
    one, other = made.join(), made.join()
    post(made)
    one.take(0.0)
    other.take(0.0)
    other.acked(1)
    made.step(one, other)
    post(made, 4)
    assert made.send() == [1, 2, 3, 4]
    assert (one.in_sync, one.in_flight) == (False, 1)


def test_accounts_catch_up_before_they_hold_too_much() -> None:
    made = log(capacity=10, most=10**6, most_bytes=10**9)
    heard = Heard()
    made.step(made.join(heard), made.join())
    held = sys.getrefcount(FIRST)
    made.post(message(1, payload=b" " * len(FIRST)))
    for _ in range(1024):
        made.send()
        post(made)
    assert len(heard.sizes) == 1
    assert sys.getrefcount(FIRST) == held


def test_what_is_written_is_asked_for_before_it_makes_a_peer_stalled() -> None:
    made = OwnedLog(Delivery(level=RECEIVED), 0.25, capacity=10, frame=bytes)
    crowd(made)
    post(made)
    made.step(made.join())
    post(made)
    made.send(1.0)
    assert made.ask_at is not None
    assert 1.0 < made.ask_at < 1.25


# -- the machine ------------------------------------------------------------------------------------------------


class Write:
    """What one take brought: numbers in order, with those of the peer's own that lie between others."""

    def __init__(self, entries: list[int], size: int, at: float) -> None:
        self.entries = entries
        self.size = size
        self.at = at


class Peer:
    """One peer as plain lists."""

    def __init__(self, made: OwnedLog) -> None:
        self.heard = Heard()
        self.place = made.join(self.heard)
        self.since = made.end
        self.own: set[int] = set()
        self.waiting: list[int] = []
        self.got: list[int] = []
        self.writes: list[Write] = []
        self.lost: list[int] = []
        self.gap: list[int] = []
        self.ping: int | None = None
        self.unpinged = False
        self.held = False
        self.held_until = float("-inf")
        self.told = 0
        self.told_messages = 0

    def others(self, entries: list[int]) -> list[int]:
        return [number for number in entries if number not in self.own]

    @property
    def flight(self) -> list[int]:
        return [number for write in self.writes for number in write.entries]

    def confirm(self, before: int) -> None:
        for write in self.writes:
            write.entries = [number for number in write.entries if number >= before]
        self.writes = [write for write in self.writes if write.entries]

    def open_writes(self) -> list[Write]:
        """The writes in which a message of others is unconfirmed."""
        return [write for write in self.writes if self.others(write.entries)]


class FanoutMachine(RuleBasedStateMachine):
    """The log against lists.

    Rule 6 wants no confirmation of a peer's own messages, and no law here asks for one. The log may
    wait for one that lies between others of the same write, or that its source has not come to take.
    """

    @initialize(
        level=st.sampled_from(DeliveryLevel),
        capacity=st.integers(1, 6),
        most=st.integers(1, 8),
        most_bytes=st.sampled_from([10**6, 10**6, 12, 1]),
        after=st.sampled_from([0, 7]),
    )
    def begin(self, level: DeliveryLevel, capacity: int, most: int, most_bytes: int, after: int) -> None:
        self.log = log(level, capacity=capacity, most=most, most_bytes=most_bytes)
        self.log.start_after(after)
        self.level, self.capacity, self.most, self.most_bytes = level, capacity, most, most_bytes
        self.lasts: list[int] = []
        self.after = after
        self.sizes: list[int] = []
        self.peers: list[Peer] = []
        self.gone: list[Peer] = []
        self.settled: list[int] = []
        self.unheard = 0
        self.now = 0.0

    # who there is

    def _one(self, index: int) -> Peer:
        """One of those who are there, its account up to date, as for whoever has to do with it."""
        peer = self.peers[index % len(self.peers)]
        self.log.look([peer.place])
        return peer

    @precondition(lambda self: len(self.peers) < 3)
    @rule()
    def join(self) -> None:
        self.peers.append(Peer(self.log))

    @precondition(lambda self: self.peers)
    @rule(index=st.integers(0, 4), wants=st.integers(0, 3))
    def leave(self, index: int, wants: int) -> None:
        if not wants:
            self._leave(self._one(index))
            self.log.leave(self.gone[-1].place)

    def _leave(self, peer: Peer) -> None:
        self.log.leave(peer.place)
        self.peers.remove(peer)
        self.gone.append(peer)

    # posting

    @precondition(lambda self: not self.log.full)
    @rule(
        times=st.integers(1, 3),
        count=st.integers(1, 3),
        size=st.sampled_from([0, 0, 5, BLOCK]),
        source=st.none() | st.integers(0, 4),
    )
    def post(self, times: int, count: int, size: int, source: int | None) -> None:
        for _ in range(times):
            if not self.log.full:
                self._post(count, size, source)

    def _post(self, count: int, size: int, source: int | None) -> None:
        number, last = len(self.lasts), (self.lasts or [self.after])[-1]
        poster = None
        if source is not None and (self.peers or self.gone):
            everybody = [*self.peers, *self.gone]
            poster = everybody[source % len(everybody)]
        payload = frame(number, size)
        posted = message(last + 1, None if count == 1 else last + count, payload)
        self.log.post(posted, None if poster is None else poster.place)
        self.lasts.append(last + count)
        self.sizes.append(len(frame(number, size)))
        if not self.peers:
            self.unheard += 1
        for peer in self.peers:
            if peer is poster:
                peer.own.add(number)
            peer.waiting.append(number)
            if len(peer.waiting) > self.capacity:
                assert peer.place.stuck, "only who was found slow loses anything"
                oldest = peer.waiting.pop(0)
                if oldest not in peer.own:
                    peer.lost.append(oldest)
                    peer.gap.append(oldest)

    @precondition(lambda self: self.log.full)
    @rule(expel=st.booleans())
    def treat_the_slow(self, expel: bool) -> None:
        places = self.log.slow
        for peer in [each for each in self.peers if each.place in places]:
            if expel:
                self._leave(peer)
            else:
                peer.place.mark_stuck()
        assert not self.log.full

    # writing

    @precondition(lambda self: self.peers)
    @rule(index=st.integers(0, 4), seconds=st.sampled_from([0.0, 0.5]), late=st.booleans())
    def take(self, index: int, seconds: float, late: bool) -> None:
        self.now += seconds
        self._take(self._one(index))
        if late and not self.log.full:
            self._post(1, 0, None)
            self._take(self._one(index))

    def _take(self, peer: Peer) -> bytes:
        place = peer.place
        self.log.leave_sync(place)
        ready, before = place.ready, queued(self.log, place)
        assert before == len(peer.waiting)
        self._check_gap(peer)
        blob = place.take(self.now)
        taken, peer.waiting = (
            peer.waiting[: before - queued(self.log, place)],
            peer.waiting[before - queued(self.log, place) :],
        )
        assert bool(taken) == ready
        if ready:
            assert not place.stuck
            place.gap_reported()
            peer.gap = []
        assert numbers(blob) == peer.others(taken)
        assert len(blob) == sum(self.sizes[number] for number in peer.others(taken))
        if blob:
            assert sum(self.sizes[number] for number in taken[:-1]) < BLOCK, "one block at most"
            peer.got += peer.others(taken)
            span = taken[taken.index(peer.others(taken)[0]) :]
            while span[-1] in peer.own:
                span.pop()
            peer.writes.append(Write(span, len(blob), self.now))
            peer.unpinged = True
            assert len(peer.others(peer.flight)) <= self.most or peer.held
        return blob

    @precondition(lambda self: len(self.peers) > 1)
    @rule(index=st.integers(0, 4), other=st.integers(1, 4))
    def take_together(self, index: int, other: int) -> None:
        one, two = self._one(index), self._one(index + other)
        if one is two or one.place.position != two.place.position:
            return
        first, last = one.place.position, self.log.end
        blobs = [self._take(one), self._take(two)]
        if one.place.position == two.place.position and not any(
            number in peer.own for peer in (one, two) for number in range(first, last)
        ):
            assert blobs[0] is blobs[1]

    @precondition(lambda self: self.peers)
    @rule(index=st.integers(0, 4), whole=st.booleans())
    def get_in_step(self, index: int, whole: bool) -> None:
        """One gets in sync if it stands where the others do, and nothing is in its way."""
        peer = self._one(index)
        if peer.place.in_sync:
            return
        if whole:
            self._catch_up(peer)
        others = [each.place for each in self.peers if each.place.in_sync]
        self.log.look(others)
        flight = sum(write.size for write in peer.writes)
        free = not (peer.place.stuck or peer.gap or any(number >= peer.place.position for number in peer.own))
        half = 2 * len(peer.flight) >= self.most or 2 * flight >= self.most_bytes
        fits = free and not half and (not others or others[0].position == peer.place.position)
        assert self.log.enter_sync(peer.place, 7) == fits

    @precondition(lambda self: self.peers)
    @rule(index=st.integers(0, 4))
    def get_out_of_step(self, index: int) -> None:
        self.log.leave_sync(self._one(index).place)

    @rule(times=st.integers(1, 4), count=st.integers(0, 2), source=st.none() | st.integers(0, 4))
    def broadcasts(self, times: int, count: int, source: int | None) -> None:
        """All in sync take the next frames together, as each alone would; nobody looks at them meanwhile."""
        for _ in range(times):
            for _ in range(count):
                if not self.log.full:
                    self._post(1, 0, source)
            self._wave()

    def _wave(self) -> None:
        self.now += 0.5
        before = [peer for peer in self.peers if peer.place.in_sync]
        broadcast = self.log.next_broadcast(self.now)
        took = [peer for peer in self.peers if peer.place.in_sync]
        assert {peer.place for peer in took} == self.log.in_sync.members.keys()
        if broadcast is None:
            assert not any(peer.waiting for peer in took)
            assert all(peer.waiting for peer in before if peer not in took)
            return
        there = numbers(broadcast.frames)
        for peer in before:
            assert (peer in took) == self._has_room(peer, len(there)), (
                "who has room keeps step, and nobody else"
            )
        much = self.log.broadcast_written(broadcast)
        for peer in took:
            taken, peer.waiting = peer.waiting[: len(there)], peer.waiting[len(there) :]
            assert taken == peer.others(taken) == there
            peer.got += taken
            peer.writes.append(Write(taken, len(broadcast.frames), self.now))
            peer.unpinged = True
            peer.told += len(broadcast.frames)
            peer.told_messages += len(there)
            assert len(peer.flight) <= self.most
        asks = self.level is RECEIVED and any(
            self._is_half(peer) or peer.writes[0].entries[0] < self.log.wanted for peer in took
        )
        assert much or not asks, "who is to be asked now is not forgotten"

    def _has_room(self, peer: Peer, count: int) -> bool:
        size = sum(write.size for write in peer.writes)
        return len(peer.flight) + count <= self.most and size < self.most_bytes

    def _is_half(self, peer: Peer) -> bool:
        size = sum(write.size for write in peer.writes)
        return 2 * len(peer.flight) >= self.most or 2 * size >= self.most_bytes

    @precondition(lambda self: self.peers)
    @rule(index=st.integers(0, 4))
    def kernel_has_it(self, index: int) -> None:
        peer = self._one(index)
        peer.place.written()
        if self.level is WRITTEN:
            peer.confirm(self.log.end)

    @precondition(lambda self: self.peers)
    @rule(index=st.integers(0, 4))
    def ping_goes(self, index: int) -> None:
        peer = self._one(index)
        assert peer.place.wants_ping == (peer.unpinged and self.level is RECEIVED)
        peer.place.ping_taken()
        peer.ping = peer.place.position
        peer.unpinged = False

    @precondition(lambda self: self.peers)
    @rule(index=st.integers(0, 4), seconds=st.sampled_from([0.0, 1.0, 100.0]))
    def pong_comes(self, index: int, seconds: float) -> None:
        self.now += seconds
        peer = self._one(index)
        peer.place.pong_received(self.now)
        if self.level is RECEIVED and peer.ping is not None:
            peer.confirm(peer.ping)
            due = self._due(peer)
            if due is not None and due <= self.now:
                peer.held_until = self.now
        peer.ping = None

    @precondition(lambda self: self.peers)
    @rule(index=st.integers(0, 4), back=st.integers(-1, 6))
    def ack_comes(self, index: int, back: int) -> None:
        """Up to any event, posted or not, from the last one backwards."""
        peer = self._one(index)
        seq = max(0, (self.lasts or [self.after])[-1] - back)
        peer.place.acked(seq)
        if self.level is ACKED:
            peer.confirm(sum(last <= seq for last in self.lasts))

    @precondition(lambda self: self.peers)
    @rule(index=st.integers(0, 4), held=st.booleans(), seconds=st.sampled_from([0.0, 3.0]))
    def hold(self, index: int, held: bool, seconds: float) -> None:
        """This side reads, or does not."""
        self.now += seconds
        peer = self._one(index)
        if held:
            peer.place.reading_paused()
        else:
            peer.place.reading_resumed(self.now)
            peer.held_until = self.now
        peer.held = held

    @precondition(lambda self: self.gone)
    @rule(index=st.integers(0, 4))
    def what_comes_late_is_for_nobody(self, index: int) -> None:
        place = self.gone[index % len(self.gone)].place
        assert not place.ready
        assert place.take(self.now) == b""
        place.written()
        place.ping_taken()
        place.pong_received(0.0)
        place.acked(self.log.last_seq)
        assert place.events_in_flight() == []

    @rule()
    def settle(self) -> None:
        self._settle()

    def _settle(self) -> None:
        for seq in seqs(self.log.settled()):
            number = len(self.settled)
            assert seq == self.lasts[number], "in order, each once"
            for peer in self.peers:
                assert number not in peer.others([*peer.waiting, *peer.flight])
            self.settled.append(number)
        left = len(self.settled)
        if left < len(self.lasts):
            assert any(left in (*peer.waiting, *peer.flight) for peer in self.peers), "nobody lacks it"

    # laws

    def _check_gap(self, peer: Peer) -> None:
        gap = peer.place.gap_after
        if not peer.gap:
            assert gap is None
            return
        assert gap == self._seq_before(peer.gap[0])
        assert peer.gap[-1] < peer.place.position
        between = range(peer.gap[0], peer.place.position)
        assert [number for number in between if number not in peer.own] == peer.gap

    def _seq_before(self, number: int) -> int:
        return [self.after, *self.lasts][number]

    @invariant()
    def the_log_agrees(self) -> None:
        if not hasattr(self, "log"):
            return
        made = self.log
        assert made.end == len(self.lasts)
        assert made.unheard == self.unheard
        assert made.unsettled == len(self.lasts) - len(self.settled)
        assert made.dropped == sum(len(peer.lost) for peer in (*self.peers, *self.gone))
        assert made.members == {peer.place for peer in self.peers}
        slow = {
            peer.place for peer in self.peers if len(peer.waiting) >= self.capacity and not peer.place.stuck
        }
        assert set(made.slow) == slow
        assert made.full == bool(slow)
        assert made.last_seq == self._seq_before(made.end)
        for number in range(len(self.settled), made.end + 1):
            assert made.seq_before(number) == self._seq_before(number)
        for number in range(len(self.settled), made.end):
            assert made.number_after(self._seq_before(number)) == number
            assert made.number_after(self.lasts[number] - 1) == number

    @invariant()
    def the_peers_agree(self) -> None:
        for peer in getattr(self, "peers", []):
            place = peer.place
            if place.in_sync and place.position != self.log.in_sync.position:
                continue  # nobody has looked at it since
            assert (sum(peer.heard.sizes), peer.heard.messages) == (peer.told, peer.told_messages)
            assert place.queued == len(peer.others(peer.waiting))
            assert queued(self.log, place) == len(peer.waiting) <= self.capacity
            assert place.has_all == (not peer.waiting and not peer.writes)
            assert place.dropped == len(peer.lost)
            everything = [number for number in range(peer.since, self.log.end) if number not in peer.own]
            assert sorted([*peer.got, *peer.lost, *peer.others(peer.waiting)]) == everything
            assert peer.got == sorted(peer.got)
            self._check_gap(peer)
            self._check_room(peer)
            self._check_deadline(peer)
            named = {event.seq for event in place.events_in_flight()}
            assert {self.lasts[number] for number in peer.others(peer.flight)} <= named

    def _check_room(self, peer: Peer) -> None:
        strict = sum(write.size for write in peer.open_writes()) < self.most_bytes
        strict = strict and len(peer.others(peer.flight)) < self.most and bool(peer.waiting)
        loose = sum(write.size for write in peer.writes) < self.most_bytes
        loose = loose and len(peer.flight) < self.most and bool(peer.waiting)
        if peer.held:
            assert peer.place.ready == bool(peer.waiting), (
                "what would confirm lies unread, so nothing waits for it"
            )
            return
        assert peer.place.ready or not loose
        assert strict or not peer.place.ready

    def _check_deadline(self, peer: Peer) -> None:
        assert peer.place.deadline == self._due(peer)

    def _due(self, peer: Peer) -> float | None:
        writes = peer.writes
        return None if peer.held or not writes else max(writes[0].at, peer.held_until) + 30.0

    def _confirm_all(self, peer: Peer) -> None:
        self.log.look([peer.place])
        peer.place.written()
        pong(peer.place)
        peer.place.acked(self.log.last_seq)
        peer.confirm(self.log.end)
        peer.unpinged, peer.ping = False, None

    def _catch_up(self, peer: Peer) -> None:
        self._confirm_all(peer)
        while peer.waiting:
            assert peer.place.ready, "nothing is unconfirmed"
            self._take(peer)
            self._confirm_all(peer)

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        for peer in self.peers:
            self._catch_up(peer)
            assert peer.place.deadline is None
        self._settle()
        if self.peers:
            assert len(self.settled) == len(self.lasts), "everybody has everything"
        for peer in list(self.peers):
            self._leave(peer)
        self._settle()
        assert self.settled == list(range(len(self.lasts))), "with everybody gone everything settles"


TestFanoutMachine = FanoutMachine.TestCase
