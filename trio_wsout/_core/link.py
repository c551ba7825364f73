"""The life of one outgoing link through its reconnects (SPEC 5 and 6).

Rules
-----
1. `TRANSITIONS` has every state, and every event that leads from one to another.
2. A failure is an attempt that did not open, or an open connection that ended otherwise than by this side.
3. When a connection ends that had been open for `reset_after` or longer, the count of failures in a row returns to 0
   before this end is counted.
4. After a failure the link waits for `backoff.delay` of the count, or longer if the server asked for it.
5. These are always final: the HTTP statuses 400, 401, 403, 404, 405, 410 and 426; a 101 that is not valid; a certificate
   that is not accepted; a callable of the application that is not async; a close code in `give_up_on`; the third close
   code 1008 in a row without a message between. One 401 is retried if the application can give fresh credentials, and
   one more after each opening.
6. Once the link has been open, 400, 404, 405 and 426 are retried, too: the request was right before, and a proxy answers
   so while the server behind it is replaced.
7. `max_attempts` failures in a row are final.
8. Of the attempts that fail after the link was last open, the first is worth a line in the log, one that comes a second or
   more later is worth a warning, and then one each minute: a server that is absent must be reported, and must not fill the
   log.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from attrs import define, field, frozen

from trio_wsout._core.backoff import delay
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout.config.sections import Reconnect


class State(StrEnum):
    """The state of a link."""

    IDLE = "idle"
    DIALLING = "dialling"
    OPEN = "open"
    BACKING_OFF = "backing-off"
    CLOSED = "closed"
    GAVE_UP = "gave-up"


class Event(StrEnum):
    """An event that moves a link from state to state."""

    WANTED = "wanted"
    OPENED = "opened"
    FAILED = "failed"
    FINAL = "failed for good"
    DELAY_OVER = "delay over"
    CLOSE = "close"


TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.IDLE, Event.WANTED): State.DIALLING,
        (State.IDLE, Event.CLOSE): State.CLOSED,
        (State.DIALLING, Event.OPENED): State.OPEN,
        (State.DIALLING, Event.FAILED): State.BACKING_OFF,
        (State.DIALLING, Event.FINAL): State.GAVE_UP,
        (State.DIALLING, Event.CLOSE): State.CLOSED,
        (State.OPEN, Event.FAILED): State.BACKING_OFF,
        (State.OPEN, Event.FINAL): State.GAVE_UP,
        (State.OPEN, Event.CLOSE): State.CLOSED,
        (State.BACKING_OFF, Event.DELAY_OVER): State.DIALLING,
        (State.BACKING_OFF, Event.CLOSE): State.CLOSED,
    }
)
"""Every transition there is. An event in a state that has no entry for it is a fault of the caller."""

_FINAL_STATUSES = frozenset({400, 401, 403, 404, 405, 410, 426})
_FINAL_ONCE_OPEN = frozenset({401, 403, 410})
"""The final statuses that stay final after the link has been open."""
_UNAUTHORIZED = 401
_FINAL_CAUSES = frozenset({Cause.BAD_HANDSHAKE, Cause.CALLABLE, Cause.CERTIFICATE})
_POLICY_VIOLATION = 1008
_POLICY_VIOLATIONS = 3
_WARN_AFTER = 1.0
"""Seconds without a server that are worth a warning: programs that start together find each other earlier."""
_WARN_EVERY = 60.0
"""Seconds from one warning that the server is absent to the next."""


def diagram() -> str:
    """Return the transitions as the text of a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {_node(State.IDLE)}"]
    lines += [f"    {_node(old)} --> {_node(new)}: {event}" for (old, event), new in TRANSITIONS.items()]
    lines += [f"    {_node(state)} --> [*]" for state in (State.CLOSED, State.GAVE_UP)]
    return "\n".join(lines)


def _node(state: State) -> str:
    return state.value.replace("-", "_")


@frozen(kw_only=True)
class LinkChange:
    """One change of a link's state, for `on_state`."""

    state: State
    """The state that was entered."""
    attempt: int
    """1-based number of the current or next attempt in this row of failures."""
    disconnection: Disconnection | None = None
    """The end of the last attempt or connection; None before the first end."""
    delay: float | None = None
    """Seconds until the next attempt, when backing off."""


@define(eq=False)
class Link:
    """One link. Times are absolute seconds of the caller's clock."""

    _policy: Reconnect
    _refreshable: bool = field(default=False, alias="refreshable")
    """Whether the application can give fresh credentials."""
    state: State = field(default=State.IDLE, init=False)
    """The state that the link is in now."""
    failures: int = field(default=0, init=False)
    """Failures in a row."""
    deadline: float | None = field(default=None, init=False)
    """The time at which the next attempt is due; None if the link is not backing off."""
    last: Disconnection | None = field(default=None, init=False)
    """The end of the latest attempt or connection; None before the first end."""
    verdict: str | None = field(default=None, init=False)
    """The reason for which the link gave up; None if it has not given up."""
    first_failure: bool = field(default=False, init=False)
    """Whether the latest failure is the first attempt that failed since the link was open (rule 8)."""
    still_failing: bool = field(default=False, init=False)
    """Whether the latest failure is worth a warning (rule 8)."""
    _refreshing: bool = field(default=False, init=False)
    """Whether this attempt follows a 401 and is the one with fresh credentials."""
    _opened_at: float = field(default=0.0, init=False)
    _openings: int = field(default=0, init=False)
    _policy_violations: int = field(default=0, init=False)
    _warn_at: float | None = field(default=None, init=False)

    @property
    def attempt(self) -> int:
        """1-based number of the current or next attempt in this row of failures."""
        return self.failures + 1

    @property
    def reconnects(self) -> int:
        """The number of times that the link opened after its first opening."""
        return max(0, self._openings - 1)

    def wanted(self) -> None:
        """Begin to dial, if the link is idle: it is needed now."""
        if self.state is State.IDLE:
            self._move(Event.WANTED)

    def opened(self, now: float) -> None:
        """Note that the attempt under way opened."""
        self._move(Event.OPENED)
        self._opened_at = now
        self._openings += 1
        self._warn_at = None
        self._refreshing = False

    def message_passed(self) -> None:
        """Note that a message came or was confirmed, so that the peer does not refuse everything (rule 5)."""
        self._policy_violations = 0

    def ended(self, disconnection: Disconnection, now: float, draw: float) -> None:
        """Back off or give up: the attempt failed, or the open connection ended. `draw` is uniform in [0, 1)."""
        if self.state is State.OPEN and now - self._opened_at >= self._policy.reset_after:
            self.failures = 0
        dialled = self.state is State.DIALLING
        self.last = disconnection
        verdict = self._final(disconnection)
        # A 401 that fresh credentials may mend does not mean that the server is absent.
        failed = dialled and not self._refreshing
        self.first_failure = failed and self._warn_at is None
        self.still_failing = failed and self._warn_at is not None and now >= self._warn_at
        if self.first_failure or self.still_failing:
            self._warn_at = now + (_WARN_AFTER if self.first_failure else _WARN_EVERY)
        if verdict is not None:
            self._move(Event.FINAL)
            self.failures += 1
            self.verdict = verdict
            return
        self._move(Event.FAILED)
        self.failures += 1
        self.deadline = now + max(delay(self.failures, draw, self._policy), disconnection.retry_after or 0.0)

    def poll(self, now: float) -> bool:
        """Begin to dial if the delay is over; return whether it is."""
        if self.state is not State.BACKING_OFF or self.deadline is None or now < self.deadline:
            return False
        self._move(Event.DELAY_OVER)
        self.deadline = None
        return True

    def close(self) -> None:
        """Close the link, unless it was closed or has given up already."""
        if self.state not in (State.CLOSED, State.GAVE_UP):
            self._move(Event.CLOSE)
            self.deadline = None

    def _move(self, event: Event) -> None:
        new = TRANSITIONS.get((self.state, event))
        if new is None:
            raise RuntimeError(f"a link that is {self.state} can't take the event {event!r}")
        self.state = new

    def _final(self, disconnection: Disconnection) -> str | None:
        """Return why this end is final; None if it is not."""
        most = self._policy.max_attempts
        if self._refused_for_good(disconnection):
            return f"{disconnection.detail}, which is final"
        if disconnection.cause is Cause.CLOSED and self._closed_for_good(disconnection.code or 0):
            return f"{disconnection.detail}, which is final"
        if most is not None and self.failures + 1 >= most:
            return f"reconnect.max-attempts ({most}) is reached; last: {disconnection.detail}"
        return None

    def _refused_for_good(self, disconnection: Disconnection) -> bool:
        if disconnection.status == _UNAUTHORIZED and self._refreshable and not self._refreshing:
            self._refreshing = True
            return False
        final = _FINAL_ONCE_OPEN if self._openings else _FINAL_STATUSES
        return disconnection.cause in _FINAL_CAUSES or disconnection.status in final

    def _closed_for_good(self, code: int) -> bool:
        self._policy_violations = self._policy_violations + 1 if code == _POLICY_VIOLATION else 0
        listed = any(first <= code <= last for first, last in self._policy.give_up_on)
        return listed or self._policy_violations >= _POLICY_VIOLATIONS
