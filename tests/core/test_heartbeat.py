"""The heartbeat monitor: examples of its rules, and a machine against a naive model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.heartbeat import HeartbeatMonitor, Pulse
from trio_wsout.config.sections import Heartbeat, HeartbeatAction

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
    monitor.next_ping()
    monitor.ping_written(20.0)
    return monitor


def test_without_a_section_nothing_is_ever_due() -> None:
    monitor = opened(None)
    assert monitor.deadline is None
    assert monitor.poll(1e9) is None
    assert monitor.free
    payload = monitor.next_ping()
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
    monitor.next_ping()
    assert not monitor.ping_due
    monitor.ping_written(24.0)
    assert monitor.deadline == 34.0
    assert monitor.poll(34.0) is Pulse.CUT
    assert monitor.misses == 1


def test_a_pong_is_life_and_frees_the_way() -> None:
    monitor = opened()
    payload = monitor.next_ping()
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
    second = monitor.next_ping()
    monitor.ping_written(45.0)
    assert monitor.deadline == 55.0
    assert monitor.pong_received(second)


def test_log_only_warns_once_a_miss_and_pings_again() -> None:
    monitor = pinged(LOG_ONLY)
    assert monitor.poll(30.0) is Pulse.WARN
    assert monitor.misses == 1
    assert monitor.poll(30.0) is None
    assert monitor.deadline == 50.0
    assert monitor.poll(50.0) is Pulse.PING
    monitor.next_ping()
    monitor.ping_written(50.0)
    assert monitor.poll(60.0) is Pulse.WARN
    assert monitor.misses == 2


def test_a_pong_that_comes_twice_or_late_answers_nothing() -> None:
    monitor = opened()
    first = monitor.next_ping()
    monitor.ping_written(1.0)
    assert not monitor.pong_received(b"unasked")
    assert monitor.pong_received(first)
    assert not monitor.pong_received(first), "twice"
    second = monitor.next_ping()
    assert second != first
    assert not monitor.pong_received(first), "late"
    assert monitor.pong_received(second)


def test_every_ping_carries_the_configured_payload() -> None:
    monitor = opened(Heartbeat(payload="hello"))
    assert [monitor.next_ping() for _ in range(2)] == [b"hello 1", b"hello 2"]


def test_a_payload_without_room_for_a_number_goes_alone() -> None:
    monitor = opened(Heartbeat(payload="x" * 125))
    assert monitor.next_ping() == b"x" * 125


def test_nothing_is_due_while_this_side_does_not_read() -> None:
    monitor = pinged()
    monitor.held()
    assert monitor.deadline is None
    assert monitor.poll(1e6) is None
    monitor.released(100.0)
    assert monitor.deadline == 110.0, "the ping's time starts anew"
    assert monitor.poll(110.0) is Pulse.CUT


def test_holding_back_without_a_ping_out_starts_the_interval_anew() -> None:
    monitor = opened()
    monitor.held()
    monitor.released(100.0)
    assert monitor.deadline == 120.0


def test_a_ping_that_was_answered_while_it_was_written_needs_no_timeout() -> None:
    monitor = opened()
    payload = monitor.next_ping()
    monitor.frame_received(4.0)
    assert monitor.pong_received(payload)
    monitor.ping_written(5.0)
    assert monitor.deadline == 24.0


class MonitorMachine(RuleBasedStateMachine):
    """The monitor against a log of what happened, read anew each time."""

    @initialize(action=st.sampled_from(HeartbeatAction))
    def begin(self, action: HeartbeatAction) -> None:
        self.policy = Heartbeat(ping_interval=8.0, timeout=3.0, action=action)
        self.monitor = HeartbeatMonitor(self.policy)
        self.now = 0.0
        self.monitor.opened(0.0)
        self.last = 0.0
        self.asked = False
        self.writing = False
        self.silent_since: float | None = None
        self.payload: bytes | None = None
        self.seen: list[bytes] = []
        self.holding = False
        self.cut = False
        self.misses = 0

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def poll(self) -> None:
        due = self._due()
        expected = None
        if due is not None and self.now >= due:
            if self.silent_since is None:
                expected = Pulse.PING
                self.asked = True
            else:
                expected = Pulse.CUT if self.policy.action is HeartbeatAction.RECONNECT else Pulse.WARN
                self.silent_since = None
                self.last = self.now
                self.misses += 1
        assert self.monitor.poll(self.now) is expected

    def _due(self) -> float | None:
        if self.holding or self.asked:
            return None
        return self.last + 8.0 if self.silent_since is None else self.silent_since + 3.0

    @precondition(lambda self: not self.holding)
    @rule()
    def frame_in(self) -> None:
        self.monitor.frame_received(self.now)
        self.last = self.now
        self.silent_since = None

    @precondition(lambda self: self.asked or self.payload is None)
    @rule()
    def ping_goes(self) -> None:
        self.payload = self.monitor.next_ping()
        assert self.payload not in self.seen
        self.seen.append(self.payload)
        self.monitor.ping_written(self.now)
        self.asked = False
        self.silent_since = self.now

    @precondition(lambda self: self.seen and not self.holding)
    @rule(index=st.integers(0, 50))
    def pong_comes(self, index: int) -> None:
        payload = self.seen[index % len(self.seen)]
        self.monitor.frame_received(self.now)
        self.last = self.now
        self.silent_since = None
        answers = payload == self.payload
        assert self.monitor.pong_received(payload) == answers
        if answers:
            self.payload = None

    @rule()
    def hold(self) -> None:
        self.monitor.held()
        self.holding = True

    @precondition(lambda self: self.holding)
    @rule()
    def release(self) -> None:
        self.monitor.released(self.now)
        self.holding = False
        self.last = self.now
        if self.silent_since is not None:
            self.silent_since = self.now

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "monitor"):
            assert self.monitor.deadline == self._due()
            assert self.monitor.free == (self.payload is None)
            assert self.monitor.ping_due == self.asked
            assert self.monitor.misses == self.misses


TestMonitorMachine = MonitorMachine.TestCase
