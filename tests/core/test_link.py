"""The link: its table, its rules, and a machine against a naive model."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.link import TRANSITIONS, Event, Link, State
from trio_wsout.config.sections import Reconnect

LOST = Disconnection(cause=Cause.LOST, detail="reset")
EXACT = Reconnect(jitter=0.0)


def refused(status: int, retry_after: float | None = None) -> Disconnection:
    return Disconnection(
        cause=Cause.REFUSED, status=status, retry_after=retry_after, detail=f"answered {status}"
    )


def closed(code: int) -> Disconnection:
    return Disconnection(cause=Cause.CLOSED, code=code, detail=f"closed with {code}")


def dialling(policy: Reconnect = EXACT, *, refreshable: bool = False, urls: tuple[str, ...] = ("",)) -> Link:
    link = Link(policy, refreshable=refreshable, urls=urls)
    link.wanted()
    return link


def again(link: Link) -> None:
    """Let the delay pass."""
    assert link.deadline is not None
    assert link.poll(link.deadline)


def drive(state: State) -> Link:
    link = Link(EXACT)
    if state is State.IDLE:
        return link
    if state is State.CLOSED:
        link.close()
        return link
    link.wanted()
    if state is State.OPEN:
        link.opened(0.0)
    elif state is State.BACKING_OFF:
        link.ended(LOST, 0.0, 0.0)
    elif state is State.GAVE_UP:
        link.ended(refused(403), 0.0, 0.0)
    assert link.state is state
    return link


@pytest.mark.parametrize("state", State)
def test_what_is_not_in_the_table_is_a_fault_of_the_caller(state: State) -> None:
    if (state, Event.OPENED) not in TRANSITIONS:
        with pytest.raises(RuntimeError, match="can't take"):
            drive(state).opened(0.0)
    if (state, Event.FAILED) not in TRANSITIONS:
        with pytest.raises(RuntimeError, match="can't take"):
            drive(state).ended(LOST, 0.0, 0.0)


@pytest.mark.parametrize("state", State)
def test_closing_is_always_possible_and_keeps_an_end(state: State) -> None:
    link = drive(state)
    link.close()
    assert link.state is (State.GAVE_UP if state is State.GAVE_UP else State.CLOSED)
    assert link.deadline is None


def test_only_an_idle_link_starts_to_dial() -> None:
    link = drive(State.OPEN)
    link.wanted()
    assert link.state is State.OPEN


def test_a_delay_is_over_at_its_deadline_and_not_before() -> None:
    link = dialling()
    link.ended(LOST, 10.0, 0.0)
    assert link.deadline == 10.5
    assert not link.poll(10.499)
    assert link.poll(10.5)
    assert link.state is State.DIALLING
    assert link.attempt == 2
    assert not link.poll(99.0)


@pytest.mark.parametrize(("lasted", "failures"), [(10.0, 1), (9.999, 3), (1e6, 1)])
def test_a_connection_that_lasted_resets_the_count(lasted: float, failures: int) -> None:
    link = dialling()
    for _ in range(2):
        link.ended(LOST, 0.0, 0.0)
        again(link)
    link.opened(100.0)
    assert link.failures == 2, "opening alone resets nothing"
    link.ended(LOST, 100.0 + lasted, 0.0)
    assert link.failures == failures


@pytest.mark.parametrize("most", [1, 2, 5])
def test_max_attempts_gives_up_at_exactly_that_many(most: int) -> None:
    link = dialling(Reconnect(jitter=0.0, max_attempts=most))
    for number in range(1, most + 1):
        assert link.state is State.DIALLING
        link.ended(LOST, 0.0, 0.0)
        assert link.failures == number
        if number < most:
            again(link)
    assert link.state is State.GAVE_UP
    assert "max-attempts" in (link.verdict or "")


def test_a_connection_that_lasted_is_forgiven_what_was_before_it_also_where_the_next_failure_would_be_final() -> (
    None
):
    link = dialling(Reconnect(jitter=0.0, max_attempts=3, reset_after=10.0))
    for _ in range(2):
        link.ended(LOST, 0.0, 0.0)
        again(link)
    link.opened(100.0)
    link.ended(LOST, 110.0, 0.0)
    assert (link.state, link.failures, link.deadline) == (State.BACKING_OFF, 1, 110.5)


def test_a_connection_that_did_not_last_is_one_more_failure_and_final_with_the_last() -> None:
    link = dialling(Reconnect(jitter=0.0, max_attempts=3, reset_after=10.0))
    for _ in range(2):
        link.ended(LOST, 0.0, 0.0)
        again(link)
    link.opened(100.0)
    link.ended(LOST, 109.9, 0.0)
    assert (link.state, link.failures) == (State.GAVE_UP, 3)


def test_the_server_may_ask_for_a_longer_delay_but_not_for_a_shorter_one() -> None:
    link = dialling()
    link.ended(refused(503, retry_after=100.0), 0.0, 0.0)
    assert link.deadline == 100.0
    link = dialling()
    link.ended(refused(429, retry_after=0.1), 0.0, 0.0)
    assert link.deadline == 0.5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 426])
def test_final_statuses(status: int) -> None:
    link = dialling()
    link.ended(refused(status), 0.0, 0.0)
    assert link.state is State.GAVE_UP
    assert str(status) in (link.verdict or "")


@pytest.mark.parametrize(
    ("status", "final"),
    [(400, False), (401, True), (403, True), (404, False), (405, False), (410, True), (426, False)],
)
def test_what_a_proxy_says_while_the_server_is_replaced_is_retried_once_the_link_has_been_open(
    status: int, final: bool
) -> None:
    link = drive(State.OPEN)
    link.ended(LOST, 1.0, 0.0)
    for attempts in range(2, 7):
        again(link)
        link.ended(refused(status), 1.0, 0.0)
        if final:
            break
        assert link.state is State.BACKING_OFF
        assert link.failures == attempts
    assert (link.state is State.GAVE_UP) == final


def test_max_attempts_ends_a_link_that_is_refused_after_it_has_been_open() -> None:
    link = dialling(Reconnect(jitter=0.0, max_attempts=3))
    link.opened(0.0)
    link.ended(LOST, 1.0, 0.0)
    for _ in range(2):
        again(link)
        link.ended(refused(404), 1.0, 0.0)
    assert link.state is State.GAVE_UP
    assert "max-attempts (3)" in (link.verdict or "")


@pytest.mark.parametrize("status", [301, 402, 408, 429, 500, 502, 503])
def test_other_statuses_are_retried(status: int) -> None:
    link = dialling()
    link.ended(refused(status), 0.0, 0.0)
    assert link.state is State.BACKING_OFF


@pytest.mark.parametrize("cause", Cause)
def test_final_causes(cause: Cause) -> None:
    link = dialling()
    link.ended(Disconnection(cause=cause, detail=""), 0.0, 0.0)
    assert (link.state is State.GAVE_UP) == (
        cause in (Cause.BAD_HANDSHAKE, Cause.CALLABLE, Cause.CERTIFICATE)
    )


@pytest.mark.parametrize(
    ("code", "final"),
    [
        (1000, False),
        (1001, False),
        (3499, False),
        (3500, True),
        (3999, True),
        (4000, False),
        (4500, True),
        (4999, True),
    ],
)
def test_close_codes_that_are_final(code: int, final: bool) -> None:
    link = drive(State.OPEN)
    link.ended(closed(code), 1.0, 0.0)
    assert (link.state is State.GAVE_UP) == final


def test_the_third_policy_violation_in_a_row_is_final_unless_a_message_passed() -> None:
    link = dialling()
    for message_between in (False, False, True, False, False):
        link.opened(0.0)
        if message_between:
            link.message_passed()
        link.ended(closed(1008), 0.0, 0.0)
        if link.state is State.GAVE_UP:
            break
        again(link)
    assert link.state is State.GAVE_UP
    assert link.failures == 5


def test_another_close_code_ends_the_row_of_policy_violations() -> None:
    link = dialling()
    for code in (1008, 1008, 1001, 1008, 1008):
        link.opened(0.0)
        link.ended(closed(code), 0.0, 0.0)
        again(link)
    assert link.state is State.DIALLING


def test_one_401_is_retried_where_credentials_can_be_renewed() -> None:
    link = dialling(refreshable=True)
    link.ended(refused(401), 0.0, 0.0)
    assert link.state is State.BACKING_OFF
    again(link)
    link.ended(refused(401), 0.0, 0.0)
    assert link.state is State.GAVE_UP


def test_an_opening_gives_the_right_to_renew_back() -> None:
    link = dialling(refreshable=True)
    for _ in range(3):
        link.ended(refused(401), 0.0, 0.0)
        again(link)
        link.opened(0.0)
        link.ended(LOST, 0.0, 0.0)
        again(link)
    assert link.reconnects == 2


TWO = ("ws://a/?token=1", "ws://b/")


def attempts(link: Link, *ends: Disconnection) -> list[tuple[str, float]]:
    """Have attempts end so; return the url and the time of each attempt, and of the next one."""
    made, now = [(link.url, 0.0)], 0.0
    for end in ends:
        link.ended(end, now, 0.0)
        if link.deadline is None:
            break
        now = link.deadline
        again(link)
        made.append((link.url, now))
    return made


def test_the_urls_are_tried_in_turn_each_at_once_and_a_round_is_followed_by_a_delay() -> None:
    a, b, c = "abc"
    assert attempts(dialling(urls=(a, b, c)), *[LOST] * 7) == [
        (a, 0.0),
        (b, 0.0),
        (c, 0.0),
        (a, 0.5),
        (b, 0.5),
        (c, 0.5),
        (a, 1.5),
        (b, 1.5),
    ]


def test_a_connection_that_ends_is_followed_by_a_delay_and_the_next_url() -> None:
    link = dialling(urls=TWO)
    link.opened(0.0)
    assert (link.url, link.shown_url) == ("ws://a/?token=1", "ws://a/")
    link.ended(LOST, 20.0, 0.0)
    assert (link.url, link.deadline) == ("ws://b/", 20.5)
    again(link)
    link.ended(LOST, 20.5, 0.0)
    assert (link.shown_url, link.deadline, link.attempt) == ("ws://a/", 20.5, 3)


def test_a_server_that_asks_to_wait_is_passed_over_and_the_others_are_not() -> None:
    a, b = TWO
    busy = refused(503, retry_after=2.0)
    assert attempts(dialling(urls=TWO), busy, LOST, LOST, LOST) == [
        (a, 0.0),
        (b, 0.0),
        (b, 0.5),
        (b, 0.5),
        (b, 1.5),
    ]
    assert attempts(dialling(urls=TWO), busy, refused(429, retry_after=1.0)) == [(a, 0.0), (b, 0.0), (b, 1.0)]


@pytest.mark.parametrize(
    "end",
    [
        refused(404),
        Disconnection(cause=Cause.CERTIFICATE, detail="expired"),
        Disconnection(cause=Cause.BAD_HANDSHAKE, detail="no key"),
    ],
)
def test_a_refusal_is_final_once_every_url_gave_one(end: Disconnection) -> None:
    link = dialling(urls=TWO)
    attempts(link, end, LOST, LOST)
    assert link.state is State.DIALLING, "the other url was only lost, and the first one since, too"
    link.ended(end, 9.0, 0.0)
    assert link.state is State.BACKING_OFF
    again(link)
    link.ended(end, 9.0, 0.0)
    assert link.state is State.GAVE_UP
    assert link.verdict == f"{end.detail}, which is final, of the last of 2 urls"


def test_an_opening_forgets_what_other_urls_refused() -> None:
    link = dialling(urls=TWO)
    attempts(link, refused(403))
    link.opened(0.0)
    attempts(link, LOST, LOST)
    assert link.url == "ws://b/"
    link.ended(refused(403), 9.0, 0.0)
    assert link.state is State.BACKING_OFF


@pytest.mark.parametrize(
    "end", [closed(3500), Disconnection(cause=Cause.CALLABLE, detail="token is not async")]
)
def test_what_is_the_same_at_every_url_is_final_at_the_first(end: Disconnection) -> None:
    link = dialling(urls=TWO)
    if end.code:
        link.opened(0.0)
    link.ended(end, 0.0, 0.0)
    assert link.state is State.GAVE_UP


def test_attempts_at_all_urls_count_as_attempts() -> None:
    link = dialling(Reconnect(jitter=0.0, max_attempts=3), urls=TWO)
    assert len(attempts(link, *[LOST] * 9)) == 3
    assert link.state is State.GAVE_UP


def test_a_401_is_tried_again_with_fresh_credentials_at_the_next_url() -> None:
    link = dialling(refreshable=True, urls=TWO)
    a, b = TWO
    assert attempts(link, *[refused(401)] * 9) == [(a, 0.0), (b, 0.0), (a, 0.5)]
    assert link.state is State.GAVE_UP


class LinkMachine(RuleBasedStateMachine):
    """The link against a history of what happened."""

    @initialize(most=st.none() | st.integers(1, 9), refreshable=st.booleans(), urls=st.integers(1, 3))
    def begin(self, most: int | None, refreshable: bool, urls: int) -> None:
        self.policy = Reconnect(jitter=0.5, max_attempts=most, reset_after=5.0)
        self.urls = [f"ws://{number}/" for number in range(urls)]
        self.link = Link(self.policy, refreshable=refreshable, urls=tuple(self.urls))
        self.most = most
        self.now = 0.0
        self.row = 0
        self.rounds = 0
        self.failed_in_round = 0
        self.asked_until = dict.fromkeys(self.urls, 0.0)
        self.refused = dict.fromkeys(self.urls, False)
        self.turn = list(self.urls)
        """The urls, the one whose turn it is first."""
        self.openings = 0
        self.opened_at = 0.0
        self.due: float | None = None
        self.state = State.IDLE

    @rule(seconds=st.sampled_from([0.0, 0.4, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        dials = self.state is State.BACKING_OFF and self.due is not None and self.now >= self.due
        assert self.link.poll(self.now) == dials
        if dials:
            self.state, self.due = State.DIALLING, None

    @rule()
    def wanted(self) -> None:
        self.link.wanted()
        self.state = State.DIALLING if self.state is State.IDLE else self.state

    @precondition(lambda self: self.state is State.DIALLING)
    @rule()
    def opens(self) -> None:
        self.link.opened(self.now)
        self.state, self.opened_at = State.OPEN, self.now
        self.openings += 1
        self.refused = dict.fromkeys(self.urls, False)

    @precondition(lambda self: self.state in (State.DIALLING, State.OPEN))
    @rule(draw=st.floats(0, 1, exclude_max=True), asked=st.none() | st.floats(0, 20))
    def fails(self, draw: float, asked: float | None) -> None:
        self.ends(refused(503, asked), draw, asked or 0.0)

    @precondition(lambda self: self.state is State.DIALLING)
    @rule(draw=st.floats(0, 1, exclude_max=True))
    def is_refused(self, draw: float) -> None:
        self.ends(refused(403), draw, 0.0, refused=True)

    def ends(self, end: Disconnection, draw: float, asked: float, *, refused: bool = False) -> None:
        if self.state is State.OPEN and self.now - self.opened_at >= 5.0:
            self.row = self.rounds = 0
        self.row += 1
        self.refused[self.turn[0]] = refused
        self.link.ended(end, self.now, draw)
        if all(self.refused.values()) or (self.most is not None and self.row >= self.most):
            self.state = State.GAVE_UP
            return
        self.failed_in_round += 1
        due = self.now
        if self.state is State.OPEN or self.failed_in_round == len(self.urls):
            self.rounds, self.failed_in_round = self.rounds + 1, 0
            due += min(30.0, 0.5 * 2 ** (self.rounds - 1)) * (1 - 0.5 * draw)
        self.state = State.BACKING_OFF
        self.asked_until[self.turn[0]] = self.now + asked
        self.next_turn(due)

    def next_turn(self, due: float) -> None:
        """Turn until a url comes that may be tried when it is due, or the one that may be tried first."""
        at = max(due, min(self.asked_until.values()))
        while True:
            self.turn.append(self.turn.pop(0))
            if self.asked_until[self.turn[0]] <= at:
                break
        self.due = max(due, self.asked_until[self.turn[0]])

    @precondition(lambda self: self.state not in (State.CLOSED, State.GAVE_UP))
    @rule()
    def close(self) -> None:
        self.link.close()
        self.state, self.due = State.CLOSED, None

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "link"):
            assert self.link.state is self.state
            assert self.link.url == self.turn[0]
            assert self.link.failures == self.row
            assert self.link.attempt == self.row + 1
            assert self.link.deadline == self.due
            assert self.link.reconnects == max(0, self.openings - 1)


TestLinkMachine = LinkMachine.TestCase


def test_an_absence_is_news_once_and_worth_a_warning_after_a_second_and_each_minute() -> None:
    link = dialling(Reconnect(jitter=0.0, initial_backoff=0.5, max_backoff=0.5))
    first_failure, warned = [], []
    for number in range(260):
        now = number * 0.5
        link.ended(LOST, now, 0.0)
        first_failure += [now] if link.first_failure else []
        warned += [now] if link.still_failing else []
        again(link)
    assert (first_failure, warned) == ([0.0], [1.0, 61.0, 121.0])
    # What was open and ended is no absence; the next attempt that fails is news again.
    link.opened(200.0)
    link.ended(LOST, 201.0, 0.0)
    assert (link.first_failure, link.still_failing) == (False, False)
    again(link)
    link.ended(LOST, 202.0, 0.0)
    assert (link.first_failure, link.still_failing) == (True, False)


def test_credentials_that_are_refreshed_are_no_absence() -> None:
    link = dialling(refreshable=True)
    link.ended(refused(401), 0.0, 0.0)
    assert (link.first_failure, link.still_failing) == (False, False)
