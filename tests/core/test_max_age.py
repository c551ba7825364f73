"""Messages that are too old (delivery.max-age): a log as a client, a server and a relay have it, against sets."""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.log import Log
from trio_wsout._core.message import Accepted, BatchMessage, Message
from trio_wsout.config.sections import Delivery, Retry

if TYPE_CHECKING:
    from trio_wsout._core.subscription import PeerSubscription

MAX_AGE = 10.0
CUT = Disconnection(cause=Cause.UNHEALTHY, detail="silent")
"""An end that no message is blamed for."""


class Nobody:
    """The owner of a peer's subscription; nothing is asked of it here."""

    def wrote(self, messages: int, size: int, at: float) -> None: ...

    def left_sync(self) -> None: ...


def message(seq: int, at: float, source: object = None) -> Accepted:
    made = Accepted(b"<%d>" % seq, seq, seq=seq, source=source)
    made.at = at
    return made


def new_log(role: str, *, most: int = 4, capacity: int = 6) -> Log:
    delivery = Delivery(max_unconfirmed=most, max_age=MAX_AGE)
    log = Log(delivery, 1000.0, capacity=capacity, frame=None if role == "client" else bytes)
    if role != "server":
        log.join_link(Retry(timeout=1000.0))
    return log


def post(log: Log, each: Message) -> bool:
    posted = log.offer(each)
    if posted:
        log.aged(each)
    return posted


def seqs(messages: list[Message]) -> list[int]:
    return [event.seq for each in messages for event in each.events]


# -- examples -----------------------------------------------------------------------------------------------


def test_what_waits_too_long_is_given_out_once_and_leaves_room() -> None:
    log = new_log("client")
    assert all(post(log, message(seq, at=float(seq))) for seq in range(1, 5))
    assert not post(log, message(5, at=5.0))
    assert log.expires_at == 11.0
    assert log.expire(10.9) == []
    assert seqs(log.expire(12.0)) == [1, 2]
    assert (log.expires_at, log.settled(), log.unsettled) == (13.0, [], 2)
    assert post(log, message(5, at=5.0))
    assert log.link is not None
    assert log.link.size == 9
    log.link.connected(12.0)
    assert seqs(log.link.take(12.0, 100)) == [3, 4, 5]
    assert log.expire(100.0) == []
    assert log.expires_at == inf


def test_what_was_written_once_is_written_again_however_old_it_is() -> None:
    log = new_log("client")
    link = log.link
    assert link is not None
    link.connected(0.0)
    assert all(post(log, message(seq, at=0.0)) for seq in (1, 2))
    assert seqs(link.take(0.0, 100)) == [1, 2]
    assert all(post(log, message(seq, at=1.0)) for seq in (3, 4))
    link.disconnected(CUT)
    assert seqs(log.expire(50.0)) == [3, 4]
    assert (log.settled(), log.unsettled) == ([], 4), "they wait behind those that were written"
    assert not post(log, message(5, at=50.0)), "and so they take room"
    link.connected(60.0)
    written: list[int] = []
    while link.confirmed < log.end:
        link.ping_taken()
        link.pong_received(60.0)
        written += seqs(link.take(60.0, 100))
    assert written == [1, 2]
    assert [(seqs(messages), reason) for messages, reason in log.settled()] == [([1, 2], None)]
    assert (log.unsettled, link.size, link.count) == (0, 0, 0)


def test_a_batch_is_as_old_as_its_oldest_event() -> None:
    log = new_log("client")
    assert post(log, BatchMessage(b"x", [message(1, at=0.0), message(2, at=9.0)]))
    assert seqs(log.expire(10.0)) == [1, 2]


def test_a_peer_that_took_it_in_time_leaves_nothing_undelivered() -> None:
    log = new_log("server")
    quick, slow = log.join(Nobody()), log.join(Nobody())
    assert post(log, message(1, at=0.0))
    assert post(log, message(2, at=0.0))
    assert quick.take(0.0) == b"<1><2>"
    assert post(log, message(3, at=1.0))
    assert seqs(log.expire(11.0)) == [3], "nobody has it"
    assert (log.dropped, slow.gap_after, quick.gap_after) == (4, 0, 2)
    assert post(log, message(4, at=11.0))
    assert (slow.take(11.0), quick.take(11.0)) == (b"<4>", b"<4>")


def test_a_peer_in_sync_that_was_not_written_to_in_time_loses_it_as_well() -> None:
    log = new_log("server")
    peer = log.join(Nobody())
    assert log.enter_sync(peer, 7)
    assert post(log, message(1, at=0.0))
    assert seqs(log.expire(30.0)) == [1]
    assert (peer.in_sync, log.next_broadcast(30.0)) == (False, None)


def test_without_readers_nothing_is_too_old() -> None:
    log = new_log("server")
    assert post(log, message(1, at=0.0))
    assert log.expire(50.0) == []
    assert [(seqs(messages), reason) for messages, reason in log.settled()] == [([1], None)]


def test_a_message_counts_as_no_older_than_one_before_it() -> None:
    log = new_log("relay")
    assert post(log, message(1, at=5.0))
    assert post(log, message(2, at=3.0))
    assert log.expire(14.0) == []
    assert seqs(log.expire(15.0)) == [1, 2]


# -- the machine --------------------------------------------------------------------------------------------


class MaxAge(RuleBasedStateMachine):
    """Each reader's first writes, and what was given out as too old."""

    @initialize(role=st.sampled_from(["client", "server", "relay"]))
    def begin(self, role: str) -> None:
        self.role, self.log = role, new_log(role)
        self.link = self.log.link
        self.now = 0.0
        self.at: dict[int, float] = {}
        self.source: dict[int, object] = {}
        self.peers: dict[PeerSubscription, list[int]] = {}
        self.joined: dict[PeerSubscription, int] = {}
        self.ever_taken: set[int] = set()
        self.lost: dict[PeerSubscription, set[int]] = {}
        self.up: list[int] = []
        """What the link wrote, each when it was first written."""
        self.connected = False
        self.too_old: list[int] = []
        self.settled: list[int] = []

    # -- what happens --

    @rule(count=st.integers(1, 3), data=st.data())
    def post(self, count: int, data: st.DataObject) -> None:
        sources: list[object] = [None, *self.peers]
        if self.link is not None and self.peers:
            sources.append(self.link)
        for _ in range(count):
            seq = len(self.at) + 1
            source = data.draw(st.sampled_from(sources)) if self.role != "client" else None
            # A full link of a relay stops what does not come from it.
            if self.role == "relay" and self.link is not None and self.link.full and source is not self.link:
                continue
            made = message(seq, self.now, source)
            if self.log.offer(made, source):  # type: ignore[arg-type]
                self.log.aged(made)
                self.at[seq], self.source[seq] = self.now, source
        self.expire()

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.5, 10.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self.log.expires_at <= until:
            assert self.log.expires_at > self.now, "each time it is asked for there is something to do"
            self.now = self.log.expires_at
            self.expire()
        self.now = until

    def expire(self) -> None:
        """What is too old is told in order, and at once."""
        told = seqs(self.log.expire(self.now))
        assert told == sorted(told)
        assert all(self.at[seq] + MAX_AGE <= self.now for seq in told), "nothing that is young"
        self.too_old += told
        for peer, got in self.peers.items():
            passed = {seq for seq in self.for_peer(peer) if seq - 1 < self.position(peer)}
            self.lost[peer] = passed - set(got)
        self.settle()

    def settle(self) -> None:
        for messages, reason in self.log.settled():
            assert reason is None
            self.settled += seqs(messages)

    @precondition(lambda self: self.role != "client" and len(self.peers) < 3)
    @rule()
    def join(self) -> None:
        peer = self.log.join(Nobody())
        self.peers[peer], self.joined[peer], self.lost[peer] = [], len(self.at), set()

    @precondition(lambda self: self.peers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(list(self.peers)))
        self.log.leave(peer)
        del self.peers[peer]
        self.expire()

    @precondition(lambda self: self.peers)
    @rule(data=st.data())
    def peer_takes(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(list(self.peers)))
        if peer.in_sync:
            return
        if peer.gap_after is not None:
            peer.gap_reported()
        self.written(peer, [int(each) for each in re.findall(rb"<(\d+)>", peer.take(self.now))])
        self.log.enter_sync(peer, 1)

    @rule()
    def broadcast(self) -> None:
        while (broadcast := self.log.next_broadcast(self.now)) is not None:
            members = list(self.log.in_sync.members)
            self.log.broadcast_written(broadcast)
            for peer in members:
                self.written(peer, [int(each) for each in re.findall(rb"<(\d+)>", broadcast.frames)])

    def written(self, peer: PeerSubscription, taken: list[int]) -> None:
        assert all(self.at[seq] + MAX_AGE > self.now for seq in taken), "nothing old is written first"
        assert not set(taken) & set(self.peers[peer])
        assert not set(taken) & set(self.too_old) or self.link is not None
        self.peers[peer] += taken
        self.ever_taken |= set(taken)

    @precondition(lambda self: self.peers)
    @rule(data=st.data())
    def peer_answers(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(list(self.peers)))
        self.log.in_sync.catch_up(peer) if peer.in_sync else None
        peer.ping_taken()
        peer.pong_received(self.now)
        self.settle()

    @precondition(lambda self: self.link is not None)
    @rule()
    def link_opens_or_breaks(self) -> None:
        assert self.link is not None
        if self.connected:
            self.link.disconnected(CUT)
        else:
            self.link.connected(self.now)
        self.connected = not self.connected
        self.expire()

    @precondition(lambda self: self.connected)
    @rule(most=st.sampled_from([1, 100]))
    def link_takes(self, most: int) -> None:
        assert self.link is not None
        for seq in seqs(self.link.take(self.now, most)):
            assert self.source[seq] is not self.link
            if seq not in self.up:
                assert self.at[seq] + MAX_AGE > self.now, "nothing old is written first"
                assert seq not in self.too_old
                self.up.append(seq)
        self.settle()

    @precondition(lambda self: self.connected)
    @rule()
    def link_answers(self) -> None:
        assert self.link is not None
        self.link.ping_taken()
        self.link.pong_received(self.now)
        self.settle()

    # -- what holds --

    def for_peer(self, peer: PeerSubscription) -> list[int]:
        """What a peer is meant to get."""
        return [seq for seq in self.at if seq > self.joined[peer] and self.source[seq] is not peer]

    def position(self, peer: PeerSubscription) -> int:
        return self.log.in_sync.position if peer.in_sync else peer.position

    @invariant()
    def the_link_keeps_order_and_nothing_written_is_dropped(self) -> None:
        if not hasattr(self, "log") or self.link is None:
            return
        assert self.up == sorted(self.up)
        assert not set(self.up) & set(self.too_old)
        left = [seq for seq in self.at if seq not in self.up and self.source[seq] is not self.link]
        late = [seq for seq in left if self.at[seq] + MAX_AGE <= self.now]
        if self.log.expires_at > self.now:
            assert late == sorted(self.too_old), "in time, whether there is a connection or not"
        waiting = [seq for seq in [*self.up, *left] if seq - 1 >= self.link.confirmed]
        waiting = [seq for seq in waiting if seq not in self.too_old]
        assert self.link.count == len(waiting)
        assert self.link.size == sum(len(b"<%d>" % seq) for seq in waiting)

    @invariant()
    def peers_get_the_rest_in_order(self) -> None:
        if not hasattr(self, "log"):
            return
        for peer, got in self.peers.items():
            assert got == sorted(got)
            assert not set(got) & self.lost[peer]
        if self.link is None:
            assert not set(self.too_old) & self.ever_taken, "undelivered only if nobody has it"

    @invariant()
    def every_message_has_one_fate(self) -> None:
        if not hasattr(self, "log"):
            return
        assert self.settled == sorted(self.settled)
        assert len(self.too_old) == len(set(self.too_old))
        assert not set(self.settled) & set(self.too_old)
        assert self.log.unsettled == len(self.at) - len(self.settled) - len(self.too_old) + self.log.left_out
        if self.role == "client":
            assert self.log.unsettled <= 4, "what is too old is bounded as well"

    def teardown(self) -> None:
        """When all is drained, every message is confirmed, given out as too old, or left."""
        if hasattr(self, "log"):
            self.settle()
            left = [seq for messages, reason in self.log.drain() for seq in seqs(messages) if reason is None]
            assert sorted([*self.settled, *self.too_old, *left]) == list(self.at)


TestMaxAge = MaxAge.TestCase
