"""Events that peers can cause at will are reported immediately, then at most once a minute, and are counted right."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from trio_wsout._core.throttle import EVERY, Throttle

KINDS = st.sampled_from(["a", "b", "c"])


def test_the_first_is_told_at_once_and_the_rest_together_a_minute_later() -> None:
    throttle = Throttle()
    assert throttle.deadline is None
    assert [throttle.happened("a", now) for now in (5.0, 5.0, 64.9)] == [True, False, False]
    assert throttle.happened("b", 30.0)
    assert throttle.deadline == 65.0
    assert throttle.poll(64.9) == []
    assert throttle.poll(65.0) == [("a", 2)]
    assert throttle.deadline is None
    assert not throttle.happened("a", 124.9)
    assert throttle.happened("b", 90.0)
    assert not throttle.happened("b", 91.0)
    assert (throttle.deadline, throttle.rest(92.0), throttle.deadline) == (
        125.0,
        [("a", 1), ("b", 1)],
        None,
    )


def test_after_a_quiet_minute_the_next_is_a_first_again() -> None:
    throttle = Throttle()
    assert throttle.happened("a", 0.0)
    assert throttle.happened("a", EVERY)


def test_one_that_is_overdue_is_told_by_poll_and_never_twice() -> None:
    throttle = Throttle()
    throttle.happened("a", 0.0)
    throttle.happened("a", 1.0)
    assert not throttle.happened("a", 70.0), "poll was late"
    assert throttle.poll(70.0) == [("a", 2)]


class Log(RuleBasedStateMachine):
    """Against a list of everything that happened, and of everything that was told."""

    def __init__(self) -> None:
        super().__init__()
        self.throttle = Throttle()
        self.now = 0.0
        self.happened: Counter[str] = Counter()
        self.told: dict[str, list[tuple[float, int]]] = defaultdict(list)

    @rule(kind=KINDS, times=st.integers(1, 5))
    def happen(self, kind: str, times: int) -> None:
        for _ in range(times):
            self.happened[kind] += 1
            if self.throttle.happened(kind, self.now):
                self.told[kind].append((self.now, 1))

    @rule(seconds=st.sampled_from([0.5, 10.0, 59.0, 60.0, 61.0]), polls=st.booleans())
    def wait(self, seconds: float, polls: bool) -> None:
        self.now += seconds
        if polls:
            for kind, count in self.throttle.poll(self.now):
                self.told[kind].append((self.now, count))

    @rule()
    def wait_for_the_deadline(self) -> None:
        deadline = self.throttle.deadline
        if deadline is not None:
            self.now = max(self.now, deadline)
            due = self.throttle.poll(self.now)
            assert due, "nothing is due at the deadline"
            for kind, count in due:
                self.told[kind].append((self.now, count))

    @invariant()
    def tellings_of_one_kind_lie_a_minute_apart(self) -> None:
        for told in self.told.values():
            times = [at for at, _ in told]
            assert all(after - before >= EVERY for before, after in itertools.pairwise(times))

    @invariant()
    def what_happened_was_told_or_will_be(self) -> None:
        untold = {
            kind: self.happened[kind] - sum(count for _, count in self.told[kind]) for kind in self.happened
        }
        assert all(count >= 0 for count in untold.values())
        assert (self.throttle.deadline is None) == (not any(untold.values()))
        if self.throttle.deadline is not None:
            oldest = min(self.told[kind][-1][0] for kind, count in untold.items() if count)
            assert self.throttle.deadline == oldest + EVERY

    def teardown(self) -> None:
        for kind, count in self.throttle.rest(self.now):
            self.told[kind].append((self.now, count))
        assert {kind: sum(count for _, count in told) for kind, told in self.told.items()} == self.happened


TestLog = Log.TestCase


@given(st.lists(st.tuples(KINDS, st.floats(0, 0.5)), max_size=200))
def test_a_flood_is_a_line_for_each_kind_a_minute(flood: list[tuple[str, float]]) -> None:
    throttle, now, lines = Throttle(), 0.0, 0
    for kind, pause in flood:
        now += pause
        lines += throttle.happened(kind, now) + len(throttle.poll(now))
    assert lines <= 3 * (1 + now / EVERY)
