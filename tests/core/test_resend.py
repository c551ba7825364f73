"""A link's subscription: examples of its rules, and a machine against a naive model."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.log import Log
from trio_wsout._core.message import Accepted, Message
from trio_wsout.config.sections import Delivery, DeliveryLevel, Retry

LOST = Disconnection(cause=Cause.LOST, detail="reset")
TOO_BIG = Disconnection(cause=Cause.CLOSED, code=1009, detail="too big")
BUSY = Disconnection(cause=Cause.CLOSED, code=1013, detail="try again later")
STALLED = Disconnection(cause=Cause.STALLED, detail="stalled")


def message(seq: int, size: int = 10) -> Message:
    return Accepted(b"x" * size, event=seq, seq=seq)


DOWN = object()
"""The source of messages that came down the link."""


def seqs(messages: Any) -> list[int]:
    return [each.events[-1].seq for each in messages]


class Window:
    """A log with a link as its only reader; each call returns the messages that settled by it."""

    def __init__(self, delivery: Delivery, retry: Retry) -> None:
        self.log = Log(delivery, retry.timeout)
        self.link = self.log.join_link(retry)
        self.came_down: list[int] = []
        """Those that came down the link and have settled."""

    def __len__(self) -> int:
        return self.link.count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)

    def accept(self, message: Message) -> bool:
        return self.log.offer(message)

    def comes_down(self, message: Message) -> None:
        self.log.post(message, self.link)
        assert self._settled() == []

    def _settled(self) -> list[tuple[Message, str | None]]:
        """Return what has settled, but for what came down the link."""
        settled = [(message, reason) for messages, reason in self.log.settled() for message in messages]
        down = [message for message, reason in settled if message.source is DOWN and not reason]
        self.came_down += seqs(down)
        return [each for each in settled if each[0] not in down]

    def _confirmed(self) -> list[Message]:
        settled = self._settled()
        assert all(reason is None for _, reason in settled)
        return [message for message, _ in settled]

    def written(self) -> list[Message]:
        self.link.written()
        return self._confirmed()

    def pong_received(self, now: float) -> list[Message]:
        self.link.pong_received(now)
        return self._confirmed()

    def acked(self, seq: int) -> list[Message]:
        self.link.acked(seq)
        return self._confirmed()

    def disconnected(self, disconnection: Disconnection) -> list[tuple[Message, str]]:
        """Return the messages that failed, each with its reason: the oldest in the window."""
        self.link.disconnected(disconnection)
        failed = self._settled()
        assert all(reason for _, reason in failed)
        return [(message, reason or "") for message, reason in failed]

    def drain(self) -> list[Message]:
        return [message for messages, _ in self.log.drain() for message in messages]


def window(
    level: DeliveryLevel = DeliveryLevel.RECEIVED,
    *,
    most: int = 4,
    most_bytes: int = 100,
    retries: int | None = None,
    filled: int = 0,
) -> Window:
    made = Window(
        Delivery(level=level, max_unconfirmed=most, max_unconfirmed_bytes=most_bytes),
        Retry(timeout=30.0, retries=retries),
    )
    for seq in range(1, filled + 1):
        made.accept(message(seq))
    return made


def prove(made: Window) -> None:
    """Open a connection and have its first ping answered."""
    made.connected(0.0)
    made.ping_taken()
    made.pong_received(0.0)


def test_an_empty_window_takes_one_message_of_any_size() -> None:
    made = window(most=1, most_bytes=1)
    assert made.accept(message(1, size=1000))
    assert not made.accept(message(2, size=0))


def test_the_window_is_bounded_in_messages_and_bytes() -> None:
    made = window(most=3, most_bytes=25)
    assert made.accept(message(1))
    assert made.accept(message(2))
    assert made.size == 20
    assert not made.accept(message(3, size=6))
    assert made.accept(message(3, size=5))
    assert not made.accept(message(4, size=0))
    assert len(made) == 3


def test_nothing_is_ready_without_a_connection() -> None:
    made = window(filled=2)
    assert not made.ready
    assert made.take(0.0, 100) == []
    assert not made.wants_ping
    assert made.deadline is None


def test_a_rest_of_few_goes_along() -> None:
    made = window(most=6, filled=5)
    made.connected(0.0)
    assert seqs(made.take(0.0, 40)) == [1, 2, 3, 4, 5], "50 bytes are a quarter more than 40"
    assert (made.in_flight, made.size, made.ready) == (5, 50, False)
    made = window(most=6, filled=5)
    made.connected(0.0)
    assert seqs(made.take(0.0, 39)) == [1, 2, 3, 4]
    made.accept(message(6))
    assert seqs(made.take(0.0, 39)) == [5, 6], "what is in flight is no part of it"


def test_written_confirms_as_soon_as_the_kernel_has_it_and_starts_no_ping() -> None:
    made = window(DeliveryLevel.WRITTEN, filled=2)
    made.connected(0.0)
    made.take(0.0, 100)
    assert not made.wants_ping
    assert seqs(made.written()) == [1, 2]
    assert made.disconnected(LOST) == []
    made.connected(0.0)
    assert not made.wants_ping, "no slow start: nothing was in flight"


def test_written_goes_again_when_the_write_did_not_end() -> None:
    made = window(DeliveryLevel.WRITTEN, filled=2)
    made.connected(0.0)
    made.take(0.0, 100)
    assert made.disconnected(LOST) == []
    made.connected(0.0)
    assert seqs(made.take(0.0, 100)) == [1, 2]
    assert made.resent == 2


def test_acked_needs_an_acknowledgement_and_a_pong_is_none() -> None:
    made = window(DeliveryLevel.ACKED, filled=3)
    made.connected(0.0)
    made.take(0.0, 100)
    made.ping_taken()
    assert made.pong_received(0.0) == []
    assert seqs(made.acked(2)) == [1, 2]
    assert made.acked(2) == []
    assert [accepted.seq for accepted in made.events_in_flight()] == [3]


def test_an_ack_before_the_pong_of_a_probe_leaves_the_ping_its_count() -> None:
    made = window(DeliveryLevel.ACKED, filled=2)
    made.connected(0.0)
    made.take(0.0, 100)
    made.ping_taken()
    assert seqs(made.acked(1)) == [1]
    assert made.pong_received(0.0) == []
    assert seqs(made.acked(2)) == [2]


def test_after_a_break_a_ping_then_one_then_twice_as_many() -> None:
    made = window(most=8, filled=8)
    made.connected(0.0)
    made.take(0.0, 1000)
    assert made.disconnected(LOST) == []
    made.connected(0.0)
    assert not made.ready, "first the ping"
    assert made.wants_ping
    made.ping_taken()
    assert made.pong_received(0.0) == []
    batches = []
    while len(made):
        batches.append(seqs(made.take(0.0, 1000)))
        made.ping_taken()
        made.pong_received(0.0)
    assert batches == [[1], [2, 3], [4, 5, 6, 7], [8]]
    assert made.resent == 8


def test_a_break_with_nothing_in_flight_starts_at_full_speed() -> None:
    made = window(filled=3)
    made.connected(0.0)
    assert made.disconnected(LOST) == []
    made.connected(0.0)
    assert seqs(made.take(0.0, 1000)) == [1, 2, 3]


def test_a_message_that_alone_ends_three_proved_connections_is_undelivered() -> None:
    made = window(filled=2)
    for expected in (0, 0, 1):
        prove(made)
        assert seqs(made.take(0.0, 5)) == [1]
        failed = made.disconnected(LOST)
        assert len(failed) == expected
    assert [seqs([each])[0] for each, _ in failed] == [1]
    assert "3 times in a row" in failed[0][1]
    prove(made)
    assert seqs(made.take(0.0, 5)) == [2], "the link goes on"


@pytest.mark.parametrize("cause", [Cause.UNHEALTHY, Cause.STALLED, Cause.LOCAL])
def test_our_own_cuts_blame_nobody(cause: Cause) -> None:
    made = window(filled=1)
    for _ in range(5):
        prove(made)
        made.take(0.0, 5)
        assert made.disconnected(Disconnection(cause=cause, detail="")) == []


@pytest.mark.parametrize("cause", [Cause.UNHEALTHY, Cause.STALLED, Cause.LOCAL])
def test_a_cut_of_our_own_ends_the_row_of_blames(cause: Cause) -> None:
    made = window(filled=1)
    told: list[int] = []
    for disconnection in (LOST, LOST, Disconnection(cause=cause, detail=""), LOST, LOST, LOST):
        prove(made)
        assert seqs(made.take(0.0, 5)) == [1]
        told.append(len(made.disconnected(disconnection)))
    assert told == [0, 0, 0, 0, 0, 1]


def test_connections_on_which_a_message_was_not_written_leave_its_row_as_it_is() -> None:
    made = window(filled=1)
    told: list[int] = []
    for cause in (Cause.LOST, Cause.UNHEALTHY, Cause.STALLED, Cause.LOCAL):
        prove(made)
        if cause is Cause.LOST:
            made.take(0.0, 5)
        told.append(len(made.disconnected(Disconnection(cause=cause, detail=""))))
    for _ in range(2):
        prove(made)
        made.take(0.0, 5)
        told.append(len(made.disconnected(LOST)))
    assert told == [0, 0, 0, 0, 0, 1]


@given(faults=st.lists(st.sampled_from([LOST, Disconnection(cause=Cause.STALLED, detail="")]), max_size=20))
def test_only_three_blames_one_after_the_other_make_a_message_undelivered(
    faults: list[Disconnection],
) -> None:
    made = window(filled=1)
    row = 0
    for disconnection in faults:
        row = row + 1 if disconnection is LOST else 0
        prove(made)
        made.take(0.0, 5)
        assert bool(made.disconnected(disconnection)) == (row == 3)
        if row == 3:
            return


def test_without_an_answered_ping_nobody_is_blamed() -> None:
    made = window(filled=1)
    made.connected(0.0)
    assert seqs(made.take(0.0, 5)) == [1]
    assert made.disconnected(LOST) == [], "it may have been the server's own fault"
    for _ in range(5):
        made.connected(0.0)
        assert made.take(0.0, 5) == [], "first the ping"
        assert made.disconnected(LOST) == []
    for expected in (0, 0, 1):
        prove(made)
        assert seqs(made.take(0.0, 5)) == [1]
        assert len(made.disconnected(LOST)) == expected, "three times after an answered ping, and not before"


def silent(made: Window, disconnection: Disconnection = STALLED) -> list[tuple[Message, str]]:
    """Open a connection, write what goes, ask, hear nothing, end."""
    made.connected(0.0)
    made.take(0.0, 1000)
    if made.wants_ping:
        made.ping_taken()
    return made.disconnected(disconnection)


@given(
    level=st.sampled_from([DeliveryLevel.RECEIVED, DeliveryLevel.ACKED]),
    retries=st.integers(0, 50),
    count=st.integers(1, 6),
    disconnections=st.lists(st.sampled_from([STALLED, LOST, BUSY]), min_size=1),
)
def test_what_a_peer_answers_nothing_to_is_undelivered_after_one_connection_and_one_for_each_retry(
    level: DeliveryLevel, retries: int, count: int, disconnections: list[Disconnection]
) -> None:
    made = window(level, most=8, retries=retries, filled=count)
    for number in range(retries):
        assert silent(made, disconnections[number % len(disconnections)]) == []
        assert made.resent == 0, "a ping is written in place of what the peer did not answer before"
    failed = silent(made, disconnections[retries % len(disconnections)])
    assert [seqs([each])[0] for each, _ in failed] == list(range(1, count + 1)), "all of them together"
    assert all("retry.retries allows no more" in reason for _, reason in failed)
    assert (len(made), made.size) == (0, 0)
    made.accept(message(9))
    made.connected(0.0)
    assert seqs(made.take(0.0, 100)) == [9], "what was never written is written, not only asked for"


def test_the_reason_tells_tries_and_that_no_ping_was_ever_answered() -> None:
    made = window(retries=2, filled=1)
    assert silent(made) == silent(made) == []
    ((_, reason),) = silent(made)
    assert reason.startswith(
        "sent 1 time and waited for on 2 connections more without a confirmation, retry.retries allows no more; "
        "no ping was ever answered by this peer; for servers that answer none there is delivery.level: written, and heartbeat: none if they send nothing either"
    )


@pytest.mark.parametrize("retries", [4, 42])
def test_a_peer_that_is_silent_behind_each_message_has_as_many_writings_as_are_allowed(retries: int) -> None:
    made = window(retries=retries, filled=1)
    for number in range(retries + 1):
        prove(made)
        assert seqs(made.take(0.0, 5)) == [1]
        assert len(made.disconnected(STALLED)) == (number == retries)
    assert made.resent == retries


@pytest.mark.parametrize("retries", [3, 42])
def test_retries_that_are_set_are_not_cut_short_by_three_in_a_row(retries: int) -> None:
    made = window(retries=retries, filled=1)
    for number in range(retries + 1):
        prove(made)
        assert seqs(made.take(0.0, 5)) == [1]
        failed = made.disconnected(LOST)
        assert len(failed) == (number == retries)
    assert f"sent {retries + 1} times" in failed[0][1]
    assert f"when the connection ended, {retries + 1} times in a row (reset)" in failed[0][1]


@pytest.mark.parametrize("code", [1001, 1012, 1013])
def test_a_peer_that_says_that_it_goes_or_is_busy_blames_nobody(code: int) -> None:
    made = window(filled=1)
    for _ in range(9):
        prove(made)
        made.take(0.0, 5)
        assert made.disconnected(Disconnection(cause=Cause.CLOSED, code=code, detail="not now")) == []


def test_a_message_that_the_peer_outlived_did_not_end_the_connection() -> None:
    made = window(DeliveryLevel.ACKED, filled=1)
    for number in range(7):
        prove(made)
        assert seqs(made.take(0.0, 5)) == [1]
        assert made.wants_ping == (number > 0), "what is written again is asked for"
        made.ping_taken()
        made.pong_received(0.0)
        assert made.disconnected(LOST) == []


def test_a_pong_of_a_ping_before_the_latest_message_says_nothing_of_it() -> None:
    made = window(DeliveryLevel.ACKED, filled=1)
    for expected in (0, 0, 1):
        prove(made)
        made.ping_taken()
        assert seqs(made.take(0.0, 5)) == [1]
        made.pong_received(0.0)
        assert len(made.disconnected(LOST)) == expected


def test_an_acknowledgement_shows_that_the_peer_lives_so_that_what_ends_it_then_is_to_blame() -> None:
    made = window(DeliveryLevel.ACKED, filled=2)
    made.connected(0.0)
    made.take(0.0, 5)
    assert seqs(made.acked(1)) == [1]
    for expected in (0, 0, 1):
        assert seqs(made.take(0.0, 5)) == [2]
        assert len(made.disconnected(LOST)) == expected
        made.connected(0.0)
        made.acked(1)  # it says again what it has


def test_what_the_peer_outlived_says_nothing_of_the_message_behind_it() -> None:
    made = window(DeliveryLevel.ACKED, filled=2)
    told: list[int] = []
    for first in (True, False, False):
        prove(made)
        if first:
            made.take(0.0, 5)
            made.ping_taken()
            made.pong_received(0.0)
            assert seqs(made.acked(1)) == [1]
        assert seqs(made.take(0.0, 5)) == [2]
        told.append(len(made.disconnected(LOST)))
    assert told == [0, 0, 1]


def test_a_pong_of_a_ping_between_two_messages_says_nothing_of_the_second() -> None:
    made = window(DeliveryLevel.ACKED, filled=2)
    told: list[int] = []
    for first in (True, False, False):
        prove(made)
        if first:
            made.take(0.0, 5)
            made.ping_taken()
            assert seqs(made.take(0.0, 5)) == [2]
            made.pong_received(0.0)
            assert seqs(made.acked(1)) == [1]
        else:
            assert seqs(made.take(0.0, 5)) == [2]
        told.append(len(made.disconnected(LOST)))
    assert told == [0, 0, 1]


def test_a_peer_that_acknowledges_and_answers_no_ping_is_not_asked_first() -> None:
    made = window(DeliveryLevel.ACKED, filled=3)
    made.connected(0.0)
    made.take(0.0, 5)
    made.ping_taken()
    assert seqs(made.acked(1)) == [1]
    made.take(0.0, 100)
    assert made.disconnected(STALLED) == []
    made.connected(0.0)
    assert seqs(made.take(0.0, 100)) == [2], "slowly, and without a ping before"
    assert seqs(made.acked(2)) == [2]
    assert seqs(made.take(0.0, 100)) == [3]
    assert made.silence is None


def test_silence_is_told_once_it_was_asked_and_until_the_peer_speaks() -> None:
    made = window(filled=1)
    assert made.silence is None
    made.connected(0.0)
    made.take(0.0, 5)
    assert made.silence is None, "nobody asked"
    made.ping_taken()
    assert "no ping was ever answered by this peer; for" in (made.silence or "")
    made.strange_pong_received()
    assert "RFC 6455 section 5.5.3" in (made.silence or "")
    made.pong_received(0.0)
    assert made.silence is None
    made = window(DeliveryLevel.ACKED, filled=1)
    made.connected(0.0)
    assert made.silence is None, "nothing was written"
    made.take(0.0, 5)
    assert "nothing was ever acknowledged" in (made.silence or "")
    made.acked(1)
    assert made.silence is None
    made = window(DeliveryLevel.WRITTEN, filled=1)
    made.connected(0.0)
    made.take(0.0, 5)
    made.ping_taken()
    assert made.silence is None


def test_1009_blames_at_once_the_message_that_is_alone() -> None:
    made = window(filled=2)
    made.connected(0.0)
    made.take(0.0, 5)
    ((failed, reason),) = made.disconnected(TOO_BIG)
    assert seqs([failed]) == [1]
    assert "1009" in reason
    assert made.size == 10


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.CLOSED])
def test_a_1009_that_is_ours_and_not_the_peers_blames_no_message(cause: Cause) -> None:
    made = window(filled=1)
    for _ in range(2):
        prove(made)
        made.take(0.0, 5)
        # For example, because the peer sent more than max-message-size.
        assert made.disconnected(Disconnection(cause=cause, code=1009, detail="said by this side")) == []
    assert len(made) == 1


def test_1009_with_many_in_flight_finds_the_one_to_blame() -> None:
    made = window(filled=4, most=8)
    made.connected(0.0)
    made.take(0.0, 1000)
    assert made.disconnected(TOO_BIG) == []
    undelivered: list[int] = []
    for _ in range(10):
        prove(made)
        while made.ready:
            taken = seqs(made.take(0.0, 1000))
            if 3 in taken:
                undelivered += [seqs([each])[0] for each, _ in made.disconnected(TOO_BIG)]
                break
            made.ping_taken()
            made.pong_received(0.0)
    assert undelivered == [3]
    assert len(made) == 0


def test_the_retry_budget_counts_writings_after_the_first() -> None:
    made = window(retries=1, filled=2)
    made.connected(0.0)
    made.take(0.0, 1000)
    assert made.disconnected(LOST) == []
    prove(made)
    assert seqs(made.take(0.0, 1000)) == [1]
    ((failed, reason),) = made.disconnected(LOST)
    assert seqs([failed]) == [1]
    assert "sent 2 times" in reason
    assert len(made) == 1, "2 was not written again, so its budget is whole"


@given(
    asked=st.floats(0, 29),
    answered=st.floats(0, 1) | st.none(),
    late=st.just(0.0) | st.floats(0, 1e6),
)
def test_a_late_look_finds_stalled_whom_one_in_time_would_have(
    asked: float, answered: float | None, late: float
) -> None:
    """A message and its ping, the answer so much later; the deadline is looked at so late, and all is read first."""

    def is_stalled(looked_late: float) -> bool:
        made = window()
        made.connected(0.0)
        made.accept(message(1))
        made.take(0.0, 100)
        made.ping_taken()
        if answered is not None and not looked_late:
            made.pong_received(asked + answered)
        deadline = made.deadline
        if deadline is None:
            return False
        now = deadline + looked_late
        if answered is not None:
            made.pong_received(now)
        deadline = made.deadline
        return deadline is not None and now >= deadline

    assert is_stalled(late) == is_stalled(0.0) == (answered is None)


def test_a_ping_after_a_break_that_is_not_answered_sets_the_deadline() -> None:
    made = window(filled=1)
    made.connected(0.0)
    made.take(0.0, 5)
    made.disconnected(LOST)
    assert made.deadline is None
    made.connected(7.0)
    assert made.deadline == 37.0
    made.ping_taken()
    made.reading_paused()
    assert made.deadline is None
    made.reading_resumed(20.0)
    assert made.deadline == 50.0
    made.pong_received(0.0)
    assert made.deadline is None, "nothing is in flight"


def test_an_ending_reads_as_its_detail() -> None:
    assert str(LOST) == "reset"


def test_drain_gives_everything_in_order() -> None:
    made = window(filled=3)
    made.connected(0.0)
    made.take(0.0, 5)
    assert seqs(made.drain()) == [1, 2, 3]
    assert len(made) == 0
    assert made.size == 0


@given(level=st.sampled_from(DeliveryLevel), sizes=st.lists(st.integers(0, 50), min_size=1))
def test_without_faults_everything_is_confirmed_once_in_order(level: DeliveryLevel, sizes: list[int]) -> None:
    made = window(level, most=3, most_bytes=60)
    made.connected(0.0)
    confirmed: list[int] = []
    waiting = [message(seq, size) for seq, size in enumerate(sizes, 1)]
    while waiting or len(made):
        while waiting and made.accept(waiting[0]):
            del waiting[0]
        taken = made.take(0.0, 64)
        confirmed += seqs(made.written())
        made.ping_taken()
        confirmed += seqs(made.pong_received(0.0))
        if taken:
            confirmed += seqs(made.acked(taken[-1].events[-1].seq))
    assert confirmed == list(range(1, len(sizes) + 1))


@given(
    sizes=st.lists(st.integers(0, 50), max_size=12),
    before=st.lists(st.integers(0, 50), max_size=4),
    most=st.integers(1, 8),
    most_bytes=st.integers(1, 200),
)
def test_many_at_once_are_the_same_as_one_by_one(
    sizes: list[int], before: list[int], most: int, most_bytes: int
) -> None:
    together, singly = window(most=most, most_bytes=most_bytes), window(most=most, most_bytes=most_bytes)
    for made in (together, singly):
        for seq, size in enumerate(before, 101):
            made.accept(message(seq, size))
    many = [message(seq, size) for seq, size in enumerate(sizes, 1)]
    count = 0
    while count < len(many) and singly.accept(many[count]):
        count += 1
    assert together.log.offer_many(many) == count
    assert together.size == singly.size
    assert seqs(together.drain()) == seqs(singly.drain())


def test_an_ack_in_the_middle_of_a_write_leaves_the_rest_its_time_and_its_bytes() -> None:
    made = window(DeliveryLevel.ACKED, filled=4)
    made.connected(0.0)
    assert seqs(made.take(1.0, 30)) == [1, 2, 3]
    assert seqs(made.take(2.0, 30)) == [4]
    assert seqs(made.acked(2)) == [1, 2]
    assert (made.size, made.deadline) == (20, 31.0)
    assert seqs(made.acked(3)) == [3]
    assert (made.size, made.deadline) == (10, 32.0)


class LinkMachine(RuleBasedStateMachine):
    """The window against lists: what is pending, what this connection was given, where its ping stands."""

    @initialize(
        level=st.sampled_from(DeliveryLevel),
        most=st.integers(1, 6),
        retries=st.none() | st.integers(0, 3),
    )
    def begin(self, level: DeliveryLevel, most: int, retries: int | None) -> None:
        self.level = level
        self.most = most
        self.retries = retries
        self.window = window(level, most=most, most_bytes=60, retries=retries)
        self.next_seq = 1
        self.sizes: dict[int, int] = {}
        self.sends: dict[int, int] = {}
        self.blames: dict[int, int] = {}
        self.pending: list[int] = []
        self.down: list[int] = []
        self.flight: list[int] = []
        self.gone: list[int] = []
        self.connected = False
        self.proved = False
        self.outlived = False
        self.answered = False
        self.acked = False
        self.probing = False
        self.limit = most
        self.tries: dict[int, int] = {}
        self.ping: list[int] | None = None
        self.unpinged = False
        self.first_byte: dict[int, float] = {}
        self.late_from = -inf
        self.now = 0.0

    @rule(size=st.integers(0, 40))
    def accept(self, size: int) -> None:
        used = sum(self.sizes[seq] for seq in self.pending)
        room = not self.pending or (len(self.pending) < self.most and used + size <= 60)
        seq = self.next_seq
        assert self.window.accept(message(seq, size)) == room
        if room:
            self.next_seq += 1
            self.sizes[seq] = size
            self.sends[seq] = self.blames[seq] = self.tries[seq] = 0
            self.pending.append(seq)

    @rule(times=st.integers(1, 3), size=st.integers(0, 40))
    def comes_down(self, times: int, size: int) -> None:
        """Messages come down the link: they never go up, need no room, and wait for those before them."""
        for _ in range(times):
            came = Accepted(b"x" * size, event=None, seq=self.next_seq, source=DOWN)
            self.window.comes_down(came)
            self.down.append(self.next_seq)
            self.next_seq += 1

    @precondition(lambda self: not self.connected)
    @rule()
    def connect(self) -> None:
        self.window.connected(self.now)
        self.opened = self.now
        self.connected = True
        self.proved = self.outlived = False
        self.ping = None
        self.unpinged = False

    @precondition(lambda self: self.connected)
    @rule(most_bytes=st.integers(1, 60), seconds=st.floats(0, 5))
    def take(self, most_bytes: int, seconds: float) -> None:
        self.now += seconds
        taken = seqs(self.window.take(self.now, most_bytes))
        unsent = self.pending[len(self.flight) :]
        room = 0 if self.probing else max(0, self.limit - len(self.flight))
        size = sum(self.sizes[each] for each in taken)
        assert taken == unsent[: len(taken)], "in order"
        assert len(taken) <= room
        if taken == unsent:
            last = self.sizes[taken[-1]] if taken else 0
            assert size - last < most_bytes or size <= 1.25 * most_bytes, "the rest goes along if it is small"
        elif len(taken) < room:
            assert size >= most_bytes, "a write is filled"
            assert size - self.sizes[taken[-1]] < most_bytes, "and no more is put in once it is full"
            rest = sum(self.sizes[each] for each in unsent)
            assert len(unsent) > room or rest > 1.25 * most_bytes, "a small rest costs no write of its own"
        self.flight += taken
        for seq in taken:
            self.sends[seq] += 1
            self.first_byte[seq] = self.now
        self.unpinged = self.unpinged or bool(taken)
        self.outlived = self.outlived and not taken

    @precondition(lambda self: self.connected)
    @rule()
    def ping_goes(self) -> None:
        tells = self.level is DeliveryLevel.RECEIVED or (
            self.level is DeliveryLevel.ACKED and any(self.tries[seq] for seq in self.pending)
        )
        wants = self.probing or (tells and self.unpinged)
        assert self.window.wants_ping == wants
        self.window.ping_taken()
        self.ping = list(self.flight)
        self.unpinged = False

    @precondition(lambda self: self.connected)
    @rule(seconds=st.sampled_from([0.0, 1.0, 40.0]))
    def pong_comes(self, seconds: float) -> None:
        self.now += seconds
        confirmed = seqs(self.window.pong_received(self.now))
        expected: list[int] = []
        if self.ping is not None:
            self.proved, self.probing, self.answered = True, False, True
            before = [seq for seq in self.ping if seq in self.flight]
            if self.level is DeliveryLevel.RECEIVED:
                expected = before
            else:
                self.outlived = bool(before) and before == self.flight
        assert confirmed == expected
        self._leave(confirmed)
        if self.ping is not None and self.level is DeliveryLevel.RECEIVED and self._due() <= self.now:
            self.late_from = self.now
        self.ping = None

    @precondition(lambda self: self.connected)
    @rule()
    def kernel_has_it(self) -> None:
        confirmed = seqs(self.window.written())
        assert confirmed == (self.flight if self.level is DeliveryLevel.WRITTEN else [])
        self._leave(confirmed)

    @precondition(lambda self: self.connected)
    @rule(seq=st.integers(0, 20))
    def ack_comes(self, seq: int) -> None:
        confirmed = seqs(self.window.acked(seq))
        acked = self.level is DeliveryLevel.ACKED
        assert confirmed == [each for each in self.flight if acked and each <= seq]
        if acked:
            self.acked = self.proved = True
        self._leave(confirmed)

    def _due(self) -> float:
        if self.flight:
            return max(self.first_byte[self.flight[0]], self.late_from) + 30.0
        return max(self.opened, self.late_from) + 30.0 if self.probing and self.connected else inf

    def _leave(self, confirmed: list[int]) -> None:
        assert self.pending[: len(confirmed)] == confirmed, "in order, oldest first"
        self.pending = self.pending[len(confirmed) :]
        self.flight = self.flight[len(confirmed) :]
        self.gone += confirmed
        if confirmed:
            self.limit = min(self.limit * 2, self.most)

    @precondition(lambda self: self.connected)
    @rule(
        disconnection=st.sampled_from(
            [
                LOST,
                TOO_BIG,
                BUSY,
                *(Disconnection(cause=cause, detail="") for cause in (Cause.STALLED, Cause.PROTOCOL)),
            ]
        )
    )
    def disconnect(self, disconnection: Disconnection) -> None:
        failed = [seqs([each])[0] for each, reason in self.window.disconnected(disconnection) if reason]
        assert failed == self.pending[: len(failed)], "the oldest"
        tried = self._again() if self.probing else list(self.flight)
        expected = [seq for seq in tried if self._is_undelivered(seq, disconnection)]
        assert failed == expected
        self.pending = [seq for seq in self.pending if seq not in failed]
        self.gone += failed
        self.flight = []
        self.connected = False
        if tried and self.level is not DeliveryLevel.WRITTEN:
            self.limit = 1 if self._again() else self.most
            self.probing = bool(self._again()) and (self.answered or not self.acked)

    def _again(self) -> list[int]:
        """What was written, and is to be written again."""
        return [
            seq for seq in self.pending if self.sends[seq] and (not self.connected or seq not in self.flight)
        ]

    def _is_undelivered(self, seq: int, disconnection: Disconnection) -> bool:
        self.tries[seq] += 1
        alone = len(self.flight) == 1
        if alone and disconnection is TOO_BIG:
            return True
        if not self.probing:
            blames = disconnection.cause is not Cause.STALLED and disconnection is not BUSY
            if alone and self.proved and not self.outlived and blames:
                self.blames[seq] += 1
            else:
                self.blames[seq] = 0
        return self.blames[seq] == 3 if self.retries is None else self.tries[seq] > self.retries

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "window"):
            return
        assert len(self.window) == len(self.pending) <= self.most
        assert self.window.size == sum(self.sizes[seq] for seq in self.pending)
        assert self.window.in_flight == len(self.flight)
        assert self.window.queued == len(self.pending) - len(self.flight)
        assert self.window.resent == sum(max(0, count - 1) for count in self.sends.values())
        assert sorted([*self.gone, *self.pending, *self.down]) == list(range(1, self.next_seq))
        oldest = self.pending[0] if self.pending else self.next_seq
        assert self.window.came_down == [seq for seq in self.down if seq < oldest]
        assert self.window.deadline == (None if self._due() == inf else self._due())
        if not self.probing and self.level is DeliveryLevel.RECEIVED:
            assert self.window.ready == (
                self.connected and len(self.flight) < min(self.limit, len(self.pending))
            )


TestLinkMachine = LinkMachine.TestCase
