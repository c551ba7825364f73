"""The heartbeat monitor: examples of its rules, and a machine against a naive model."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.heartbeat import HeartbeatMonitor, Progress, Pulse
from trio_wsout.config.sections import Heartbeat, HeartbeatAction

if TYPE_CHECKING:
    from collections.abc import Callable

POLICY = Heartbeat(ping_interval=20.0, timeout=10.0)
LOG_ONLY = Heartbeat(ping_interval=20.0, timeout=10.0, action=HeartbeatAction.LOG_ONLY)


def opened(policy: Heartbeat | None = POLICY) -> HeartbeatMonitor:
    monitor = HeartbeatMonitor(policy)
    monitor.opened(0.0)
    return monitor


def pinged(policy: Heartbeat = POLICY) -> HeartbeatMonitor:
    """A monitor whose first periodic ping was written at 20."""
    monitor = opened(policy)
    assert monitor.poll(20.0) is Pulse.PING
    monitor.next_ping(confirms=True)
    monitor.ping_written(20.0)
    return monitor


def over(monitor: HeartbeatMonitor, now: float) -> Pulse | None:
    """What a timeout that is over comes to, where nothing lies in the socket."""
    assert monitor.poll(now) is Pulse.READ
    return monitor.poll(now, all_read=True)


def test_without_a_section_nothing_is_ever_due() -> None:
    monitor = opened(None)
    assert monitor.deadline is None
    assert monitor.poll(1e9) is None
    assert monitor.free
    payload = monitor.next_ping(confirms=True)
    monitor.ping_written(1.0)
    assert not monitor.free
    assert monitor.deadline is None
    assert monitor.pong_received(payload)
    assert monitor.free


def test_a_ping_is_due_after_an_interval_without_life() -> None:
    monitor = opened()
    assert monitor.deadline == 20.0
    monitor.frame_received(7.0)
    assert monitor.deadline == 27.0
    assert monitor.poll(26.9) is None
    assert monitor.poll(27.0) is Pulse.PING
    assert monitor.ping_due
    assert monitor.deadline is None, "it is the writer's turn"
    assert monitor.poll(99.0) is None


def test_the_timeout_runs_from_the_writing_of_the_ping() -> None:
    monitor = opened()
    monitor.poll(20.0)
    monitor.next_ping(confirms=True)
    assert not monitor.ping_due
    monitor.ping_written(24.0)
    assert monitor.deadline == 34.0
    assert over(monitor, 34.0) is Pulse.CUT
    assert monitor.misses == 1


def test_a_pong_is_life_and_frees_the_way() -> None:
    monitor = opened()
    payload = monitor.next_ping(confirms=True)
    monitor.ping_written(1.0)
    monitor.frame_received(2.0)
    assert monitor.pong_received(payload)
    assert monitor.free
    assert monitor.deadline == 22.0
    assert monitor.misses == 0


def test_any_frame_is_life_but_the_ping_stays_out_until_it_is_replaced() -> None:
    monitor = pinged()
    monitor.frame_received(25.0)
    assert not monitor.free
    assert monitor.deadline == 45.0
    assert monitor.poll(45.0) is Pulse.PING
    second = monitor.next_ping(confirms=True)
    monitor.ping_written(45.0)
    assert monitor.deadline == 55.0
    assert monitor.pong_received(second)


def test_log_only_warns_once_a_miss_and_pings_again() -> None:
    monitor = pinged(LOG_ONLY)
    assert over(monitor, 30.0) is Pulse.WARN
    assert monitor.misses == 1
    assert monitor.poll(30.0) is None
    assert monitor.deadline == 50.0
    assert monitor.poll(50.0) is Pulse.PING
    monitor.next_ping(confirms=True)
    monitor.ping_written(50.0)
    assert over(monitor, 60.0) is Pulse.WARN
    assert monitor.misses == 2


def test_a_pong_that_comes_twice_or_late_answers_nothing() -> None:
    monitor = opened()
    first = monitor.next_ping(confirms=True)
    monitor.ping_written(1.0)
    assert not monitor.pong_received(b"unasked")
    assert monitor.pong_received(first)
    assert not monitor.pong_received(first), "twice"
    second = monitor.next_ping(confirms=True)
    assert second != first
    assert not monitor.pong_received(first), "late"
    assert monitor.pong_received(second)


def test_a_periodic_ping_carries_the_configured_payload_and_nothing_else() -> None:
    for payload in ("", "hello", "x" * 125):
        monitor = opened(Heartbeat(payload=payload))
        for _ in range(2):
            assert monitor.next_ping(confirms=False) == payload.encode()
            monitor.ping_written(1.0)
            assert monitor.free, "it confirms nothing, and so nobody waits for its pong"


def test_a_ping_that_is_to_confirm_carries_a_number_as_well() -> None:
    monitor = opened(Heartbeat(payload="hello"))
    assert [monitor.next_ping(confirms=True) for _ in range(2)] == [b"hello 1", b"hello 2"]
    assert monitor.next_ping(confirms=False) == b"hello 3", "it takes the place of one that has no answer"
    assert monitor.pong_received(b"hello 3")
    assert monitor.next_ping(confirms=False) == b"hello"


def test_a_number_goes_alone_where_there_is_no_room_for_the_payload_too() -> None:
    assert opened(Heartbeat(payload="x" * 123)).next_ping(confirms=True) == b"x" * 123 + b" 1"
    assert opened(Heartbeat(payload="x" * 124)).next_ping(confirms=True) == b"1"


def test_the_pong_of_a_periodic_ping_is_life_and_confirms_nothing() -> None:
    monitor = opened(Heartbeat(payload="hb", ping_interval=20.0, timeout=10.0))
    monitor.poll(20.0)
    beat = monitor.next_ping(confirms=False)
    monitor.ping_written(20.0)
    assert monitor.deadline == 30.0
    confirming = monitor.next_ping(confirms=True)
    monitor.ping_written(21.0)
    monitor.frame_received(22.0)
    assert not monitor.pong_received(beat)
    assert not monitor.free
    assert monitor.deadline == 42.0
    assert monitor.pong_received(confirming)


@given(
    payload=st.text(max_size=125).filter(lambda text: len(text.encode()) <= 125),
    steps=st.lists(st.tuples(st.booleans(), st.booleans(), st.lists(st.integers(0, 30), max_size=3))),
)
def test_no_pong_confirms_more_than_its_ping_could(
    payload: str, steps: list[tuple[bool, bool, list[int]]]
) -> None:
    """Whichever pings a peer answers, in whatever order and how often, also where it answers only some."""
    monitor = opened(Heartbeat(payload=payload))
    written = confirmed = 0
    out: list[tuple[bytes, int]] = []
    for writes, pings, answers in steps:
        written += writes
        if pings:
            sent = monitor.next_ping(confirms=written > confirmed)
            monitor.ping_written(0.0)
            out.append((sent, written))
            assert len(sent) <= 125
            if written == confirmed:
                assert sent == payload.encode(), "as configured"
        for answer in answers if out else []:
            sent, before = out[-1 - answer % len(out)]
            if monitor.pong_received(sent):
                assert before == out[-1][1], "only the latest ping confirms"
                confirmed = before


def test_a_ping_behind_one_without_an_answer_gives_the_peer_no_more_time() -> None:
    monitor = opened()
    monitor.poll(20.0)
    monitor.next_ping(confirms=False)
    monitor.ping_written(20.0)
    monitor.next_ping(confirms=True)
    assert monitor.deadline == 30.0, "also while it is being written"
    monitor.ping_written(29.0)
    assert over(monitor, 30.0) is Pulse.CUT


def test_who_answered_a_ping_of_either_kind_answers_pings() -> None:
    for confirms in (False, True):
        monitor = opened()
        assert not monitor.unanswered, "none was written"
        payload = monitor.next_ping(confirms=confirms)
        assert monitor.unanswered
        monitor.pong_received(payload)
        monitor.next_ping(confirms=True)
        assert not monitor.unanswered


def test_a_timeout_that_is_over_is_no_miss_before_all_was_read() -> None:
    monitor = pinged()
    assert monitor.poll(1000.0) is Pulse.READ
    assert monitor.poll(1000.0) is Pulse.READ, "asked again, nothing has changed"
    assert monitor.misses == 0
    monitor.frame_received(1000.0)
    assert monitor.poll(1000.0, all_read=True) is None
    assert monitor.deadline == 1020.0, "it runs on from there"


@given(
    rounds=st.lists(
        st.tuples(st.floats(0.001, 9.999) | st.none(), st.just(0.0) | st.floats(0, 1e6)), max_size=8
    )
)
def test_a_late_poll_gives_what_one_in_time_would_have_given(
    rounds: list[tuple[float | None, float]],
) -> None:
    """Each ping is answered so many seconds later, or not; the timeout of each is looked at so late."""
    in_time, late = opened(LOG_ONLY), opened(LOG_ONLY)
    for monitor, is_late in ((in_time, False), (late, True)):
        for answered, lateness in rounds:
            ping_at = monitor.deadline
            assert ping_at is not None
            assert monitor.poll(ping_at) is Pulse.PING
            monitor.next_ping(confirms=False)
            monitor.ping_written(ping_at)
            over_at = monitor.deadline
            assert over_at is not None
            if not is_late and answered is not None:
                monitor.frame_received(ping_at + answered)
                continue
            now = over_at + lateness if is_late else over_at
            assert monitor.poll(now) is Pulse.READ
            if answered is not None:
                monitor.frame_received(now)
            expected = Pulse.WARN if answered is None else None
            assert monitor.poll(now, all_read=True) is expected
    assert late.misses == in_time.misses == sum(answered is None for answered, _ in rounds)


def test_while_this_side_does_not_read_no_ping_is_due_and_each_timeout_it_is_asked_whether_the_peer_has_left() -> (
    None
):
    monitor = pinged()
    monitor.reading_paused(50.0)
    assert (monitor.deadline, monitor.poll(59.5)) == (60.0, None)
    assert monitor.poll(60.0) is Pulse.LEFT
    assert (monitor.deadline, monitor.poll(60.0)) == (70.0, None)
    assert monitor.poll(75.0) is Pulse.LEFT, "late"
    assert monitor.deadline == 85.0
    monitor.reading_resumed(100.0)
    assert monitor.deadline == 110.0, "the ping's time starts anew"
    assert over(monitor, 110.0) is Pulse.CUT


def test_without_a_heartbeat_nobody_asks_whether_a_peer_has_left() -> None:
    monitor = HeartbeatMonitor(None)
    monitor.opened(0.0)
    monitor.reading_paused(1.0)
    assert (monitor.deadline, monitor.poll(1e6)) == (None, None)


def test_holding_back_without_a_ping_out_starts_the_interval_anew() -> None:
    monitor = opened()
    monitor.reading_paused(50.0)
    monitor.reading_resumed(100.0)
    assert monitor.deadline == 120.0


def test_a_ping_that_was_answered_while_it_was_written_needs_no_timeout() -> None:
    monitor = opened()
    payload = monitor.next_ping(confirms=True)
    monitor.frame_received(4.0)
    assert monitor.pong_received(payload)
    monitor.ping_written(5.0)
    assert monitor.deadline == 24.0


def test_nothing_is_due_while_a_ping_is_being_written() -> None:
    monitor = opened()
    monitor.next_ping(confirms=True)
    assert monitor.deadline is None
    assert monitor.poll(1e6) is None
    monitor.ping_written(100.0)
    assert monitor.deadline == 110.0


def line(acknowledged: int, awaited: int = 100) -> Progress:
    return Progress(acknowledged=acknowledged, awaited=awaited)


def watched(policy: Heartbeat = POLICY) -> HeartbeatMonitor:
    """A monitor that can look; a ping was written at 0."""
    monitor = HeartbeatMonitor(policy)
    monitor.opened(0.0, knows_progress=True)
    monitor.next_ping(confirms=True)
    monitor.ping_written(0.0)
    return monitor


def test_looks_are_eight_within_the_timeout_and_two_a_second() -> None:
    assert watched(Heartbeat(timeout=2.0)).deadline == 0.25
    assert watched(Heartbeat(timeout=60.0)).deadline == 0.5


def test_a_ping_that_is_answered_soon_costs_no_look() -> None:
    monitor = watched()
    assert monitor.poll(0.4) is None
    monitor.frame_received(0.4)
    assert monitor.deadline == 20.4
    assert monitor.poll(0.5) is None


def test_while_more_is_acknowledged_the_timeout_runs_anew() -> None:
    monitor = watched()
    for number in range(200):
        now = (number + 1) / 2
        assert monitor.deadline == now
        assert monitor.poll(now) is Pulse.PROGRESS
        monitor.progress_found(now, line(number, awaited=1000))
        assert monitor.poll(now) is None
    assert monitor.poll(100.5) is Pulse.PROGRESS
    monitor.progress_found(100.5, line(199, awaited=1000))
    assert monitor.deadline == 101.0
    for now in (101.0, 105.0, 109.9):
        assert monitor.poll(now) is Pulse.PROGRESS
        monitor.progress_found(now, line(199, awaited=1000))
    assert monitor.deadline == 110.0, "ten seconds after the last look that found more"
    assert monitor.poll(110.0) is Pulse.PROGRESS
    monitor.progress_found(110.0, line(199, awaited=1000))
    assert over(monitor, 110.0) is Pulse.CUT
    assert monitor.misses == 1


def test_what_the_last_look_finds_still_counts() -> None:
    monitor = watched()
    monitor.progress_found(0.5, line(5))
    assert monitor.poll(10.0) is Pulse.PROGRESS
    monitor.progress_found(10.0, line(6))
    assert monitor.poll(10.0) is None
    assert monitor.deadline == 10.5


def test_without_progress_since_the_first_look_the_timeout_runs_from_the_ping() -> None:
    monitor = watched()
    for now in (0.5, 5.0, 10.0):
        assert monitor.poll(now) is Pulse.PROGRESS
        monitor.progress_found(now, line(50))
    assert over(monitor, 10.0) is Pulse.CUT


def test_a_ping_that_is_acknowledged_at_once_needs_no_more_looks() -> None:
    monitor = watched()
    monitor.progress_found(0.5, line(100))
    assert monitor.deadline == 10.0
    assert over(monitor, 10.0) is Pulse.CUT


def test_from_when_all_is_acknowledged_only_the_timeout_counts() -> None:
    monitor = watched()
    monitor.progress_found(0.5, line(10))
    monitor.progress_found(1.0, line(100))
    assert monitor.deadline == 11.0
    assert over(monitor, 11.0) is Pulse.CUT


def test_a_system_that_stops_telling_leaves_the_timeout_as_it_is() -> None:
    monitor = watched()
    monitor.progress_found(0.5, line(10))
    monitor.progress_found(1.0, line(20))
    monitor.progress_found(1.5, None)
    assert monitor.deadline == 11.0


def test_what_is_looked_at_when_no_ping_waits_changes_nothing() -> None:
    monitor = watched()
    monitor.frame_received(0.4)
    monitor.progress_found(0.5, line(10))
    assert monitor.deadline == 20.4


def test_each_ping_and_each_release_begins_to_look_anew() -> None:
    monitor = watched(LOG_ONLY)
    monitor.progress_found(0.5, line(10))
    assert monitor.poll(10.0) is Pulse.PROGRESS
    monitor.progress_found(10.0, line(10))
    assert over(monitor, 10.0) is Pulse.WARN
    assert monitor.poll(30.0) is Pulse.PING
    monitor.next_ping(confirms=True)
    monitor.ping_written(30.0)
    monitor.progress_found(30.5, line(20, awaited=200))
    assert monitor.deadline == 31.0
    monitor.progress_found(39.0, line(20, awaited=200))
    assert monitor.deadline == 39.5
    monitor.reading_paused(50.0)
    assert monitor.deadline == 60.0
    monitor.reading_resumed(50.0)
    monitor.progress_found(50.5, line(60, awaited=200))
    for now in (55.0, 60.0):
        monitor.progress_found(now, line(60, awaited=200))
    assert over(monitor, 60.0) is Pulse.WARN


def test_without_a_section_nobody_looks() -> None:
    monitor = HeartbeatMonitor(None)
    monitor.opened(0.0, knows_progress=True)
    monitor.next_ping(confirms=True)
    monitor.ping_written(0.0)
    assert monitor.deadline is None


def cut_at(monitor: HeartbeatMonitor, told: Callable[[float], Progress]) -> float:
    """Drive a monitor without a sign of life, each look at its time; gives when it cuts."""
    while True:
        now = monitor.deadline
        assert now is not None
        pulse = monitor.poll(now)
        if pulse is Pulse.PROGRESS:
            monitor.progress_found(now, told(now))
            pulse = monitor.poll(now)
        if pulse is Pulse.READ:
            assert monitor.poll(now, all_read=True) is Pulse.CUT
            return now
        assert pulse is None
        assert monitor.deadline is not None
        assert monitor.deadline > now, "it goes on"


@given(
    timeout=st.floats(0.001, 100),
    steps=st.lists(st.tuples(st.floats(0, 1000), st.integers(0, 50)), max_size=30),
    awaited=st.integers(0, 300),
)
def test_a_line_is_cut_when_it_was_still_for_the_timeout_and_not_much_later(
    timeout: float, steps: list[tuple[float, int]], awaited: int
) -> None:
    """Whatever is acknowledged when: cut neither before `timeout` without progress, nor more than a look after."""
    steps = sorted(steps)
    moves = [at for at, size in steps if size]

    def acknowledged(now: float) -> int:
        return sum(size for at, size in steps if at <= now)

    end = cut_at(watched(Heartbeat(timeout=timeout)), lambda now: line(acknowledged(now), awaited))
    look = min(timeout / 8, 0.5)
    reached = next((at for at in [0.0, *moves] if acknowledged(at) >= awaited), inf)
    # The first look can't know what came before it, and none looks behind what is awaited.
    known = [at for at in moves if look < at <= min(reached, end)]
    last = max(known, default=0.0)
    assert end >= last + timeout * (1 - 1e-9)
    assert end <= last + look + timeout * (1 + 1e-9)
    still = [later - at for at, later in zip([0.0, *known], known, strict=False)]
    assert all(gap <= timeout + look for gap in still), "or it would have been cut there"


@given(timeout=st.floats(0.001, 100), acknowledged=st.integers(0, 200))
def test_a_dead_line_is_cut_exactly_at_its_time(timeout: float, acknowledged: int) -> None:
    end = cut_at(watched(Heartbeat(timeout=timeout)), lambda _: line(acknowledged))
    assert end == timeout


class MonitorMachine(RuleBasedStateMachine):
    """The monitor against a log of what happened, read anew each time."""

    @initialize(action=st.sampled_from(HeartbeatAction), looks=st.sampled_from([True, True, False]))
    def begin(self, action: HeartbeatAction, looks: bool) -> None:
        self.policy = Heartbeat(ping_interval=8.0, timeout=3.0, action=action)
        self.monitor = HeartbeatMonitor(self.policy)
        self.now = 0.0
        self.monitor.opened(0.0, knows_progress=looks)
        self.looks = looks
        self.last = 0.0
        self.asked = False
        self.writing = False
        self.waits_from: float | None = None
        self.told: list[tuple[float, Progress | None]] = []
        self.acknowledged = 0
        self.awaited = 0
        self.payload: bytes | None = None
        self.waiting: bytes | None = None
        self.seen: list[bytes] = []
        self.holding = False
        self.cut = False
        self.held_at = 0.0
        self.misses = 0
        self.story: list[tuple[str, float, bytes]] = []
        """All pings, when they were taken and when written; all pongs; and when this side paused."""

    @rule(seconds=st.sampled_from([0.0, 0.375, 0.5, 1.0, 3.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(life=st.booleans())
    def poll(self, life: bool) -> None:
        """Poll, maybe late; `life`: where that might be a miss, something is found in the socket."""
        due = self._due()
        expected = None
        if due is not None and self.now >= due:
            if self.holding:
                expected = Pulse.LEFT
                self.held_at = self.now
            elif self.waits_from is None:
                expected = Pulse.PING
                self.asked = True
            elif self.now >= self._look_at():
                expected = Pulse.PROGRESS
            else:
                assert self.monitor.poll(self.now) is Pulse.READ
                if life:
                    self.monitor.frame_received(self.now)
                else:
                    expected = Pulse.CUT if self.policy.action is HeartbeatAction.RECONNECT else Pulse.WARN
                    self.misses += 1
                self.waits_from = None
                self.last = self.now
        assert self.monitor.poll(self.now, all_read=True) is expected

    def _due(self) -> float | None:
        if self.holding:
            return self.held_at + 3.0
        if self.asked:
            return None
        if self.waits_from is not None:
            return min(self._look_at(), self._over_at())
        return None if self.writing else self.last + 8.0

    def _over_at(self) -> float:
        """When the timeout is over, by all looks since the ping."""
        assert self.waits_from is not None
        since = self.waits_from
        for (_, before), (at, after) in pairwise(self.told):
            if before is not None and after is not None and after.acknowledged > before.acknowledged:
                since = at
        return since + 3.0

    def _look_at(self) -> float:
        if not self.looks:
            return inf
        if not self.told:
            assert self.waits_from is not None
            return self.waits_from + 0.375
        at, progress = self.told[-1]
        if progress is None or progress.acknowledged >= progress.awaited or at >= self._over_at():
            return inf
        return min(at + 0.375, self._over_at())

    @precondition(lambda self: self.waits_from is not None and not self.holding)
    @rule(
        steps=st.lists(
            st.tuples(st.sampled_from([0.0, 0.1, 3.0]), st.sampled_from([0, 0, 1, 2, 3, None])),
            min_size=1,
            max_size=12,
        )
    )
    def looked(self, steps: list[tuple[float, int | None]]) -> None:
        """Look as often as that is asked for, each time so much late; so much more is acknowledged then."""
        for late, more in steps:
            if self._look_at() == inf:
                return
            self.now = max(self.now, self._look_at()) + late
            assert self.monitor.poll(self.now) is Pulse.PROGRESS
            self.acknowledged += more or 0
            known = Progress(acknowledged=self.acknowledged, awaited=self.awaited)
            progress = None if more is None else known
            self.monitor.progress_found(self.now, progress)
            self.told.append((self.now, progress))
            assert self.monitor.deadline == self._due()

    @precondition(lambda self: not self.holding)
    @rule()
    def frame_in(self) -> None:
        self.monitor.frame_received(self.now)
        self.last = self.now
        self.waits_from = None

    @precondition(lambda self: (self.asked or self.payload is None) and not self.writing)
    @rule(confirms=st.booleans())
    def ping_is_taken(self, confirms: bool) -> None:
        numbered = confirms or self.payload is not None
        self.waiting = self.monitor.next_ping(confirms=confirms)
        if numbered:
            assert self.waiting not in self.seen
            self.payload = self.waiting
        else:
            assert self.waiting == b""
        self.seen.append(self.waiting)
        self.story.append(("taken", self.now, self.waiting))
        self.asked = False
        self.writing = True

    @precondition(lambda self: (self.asked or self.payload is None) and not self.writing)
    @rule(behind=st.sampled_from([0, 5, 1000]), confirms=st.booleans())
    def ping_goes(self, behind: int, confirms: bool) -> None:
        self.ping_is_taken(confirms)
        self.ping_is_written(behind)

    @precondition(lambda self: self.writing)
    @rule(behind=st.integers(0, 9))
    def ping_is_written(self, behind: int) -> None:
        self.monitor.ping_written(self.now)
        self.story.append(("written", self.now, self.seen[-1]))
        self.writing = False
        if self.waiting is not None:
            if self.waits_from is None:
                self._wait()
            self.awaited = self.acknowledged + behind

    def _wait(self) -> None:
        self.waits_from = self.now
        self.told.clear()

    @precondition(lambda self: self.seen and not self.holding)
    @rule(index=st.integers(0, 50))
    def pong_comes(self, index: int) -> None:
        payload = self.seen[-1 - index % len(self.seen)]
        self.story.append(("pong", self.now, payload))
        self.monitor.frame_received(self.now)
        self.last = self.now
        self.waits_from = None
        answers = payload == self.payload
        assert self.monitor.pong_received(payload) == answers
        if answers:
            self.payload = None
        if payload == self.waiting:
            self.waiting = None

    @rule()
    def hold(self) -> None:
        self.monitor.reading_paused(self.now)
        self.held_at = self.now
        self.story.append(("paused", self.now, b""))
        self.holding = True

    @precondition(lambda self: self.holding)
    @rule()
    def release(self) -> None:
        self.monitor.reading_resumed(self.now)
        self.story.append(("released", self.now, b""))
        self.holding = False
        self.last = self.now
        if self.waits_from is not None:
            self._wait()

    def _round_trip(self, begin: int, rest: list[tuple[str, float, bytes]]) -> float | None:
        """What the ping took that was taken at `begin`, before `rest` happened; None where that is not known for certain."""
        payload = self.story[begin][2]
        whats = [what for what, *_ in rest]
        pongs = [index for index, (what, _, sent) in enumerate(rest) if (what, sent) == ("pong", payload)]
        if not pongs or "written" not in whats[: pongs[0]] or "paused" in whats[: pongs[0]]:
            return None
        holds = [what for what, *_ in self.story[:begin] if what in ("paused", "released")]
        if holds[-1:] == ["paused"] or self._is_out(begin, payload):
            return None
        return rest[pongs[0]][1] - rest[whats.index("written")][1]

    def _is_out(self, begin: int, payload: bytes) -> bool:
        """Whether the ping before that one had this payload, too, and no pong."""
        before = self.story[:begin]
        taken = [index for index, (what, *_) in enumerate(before) if what == "taken"]
        if not taken or before[taken[-1]][2] != payload:
            return False
        return not any((what, sent) == ("pong", payload) for what, _, sent in before[taken[-1] :])

    def _round_trips(self) -> list[float]:
        begins = [index for index, (what, *_) in enumerate(self.story) if what == "taken"]
        found = [
            self._round_trip(begin, self.story[begin + 1 : end])
            for begin, end in pairwise([*begins, len(self.story)])
        ]
        return [each for each in found if each is not None]

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "monitor"):
            assert self.monitor.deadline == self._due()
            assert self.monitor.free == (self.payload is None)
            assert self.monitor.ping_due == self.asked
            assert self.monitor.misses == self.misses
            assert self.monitor.round_trip == (self._round_trips() or [None])[-1]


TestMonitorMachine = MonitorMachine.TestCase
