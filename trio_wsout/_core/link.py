"""The life of one outgoing link through its reconnects (SPEC 5 and 6).

Rules
-----
1. The states and what moves between them are `TRANSITIONS`, and nothing else does.
2. A failure is an attempt that did not open, or an open connection that ended otherwise than by us.
3. The count of failures in a row returns to 0 when a connection had stayed open for `reset_after`,
   counted from its opening; it is looked at when the connection ends.
4. After a failure: `backoff.delay` for the count, or longer if the server asked for it.
5. Final at once: HTTP 400, 401, 403, 404, 405, 410, 426; a 101 that is not valid; a certificate that
   is not accepted; a callable of the application that is not async; a close code in `give_up_on`; the third close code 1008 in a row without a
   message between. But one 401 is retried with fresh credentials where they can be had; the right
   to that comes back when a connection opens.
6. Once the link has been open, 400, 404, 405 and 426 are retried, too: the request was right before, and
   a proxy says these while the server behind it is replaced.
7. `max_attempts` failures in a row are final.
8. Of the attempts that fail since the link was open, the first is news, one after a second or more is worth a warning,
   and again one a minute later: a server that is absent must be told of, and must not fill a log.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from trio_wsout._core.backoff import delay
from trio_wsout._core.disconnection import Cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_wsout._core.disconnection import Disconnection
    from trio_wsout.config.sections import Reconnect

__all__ = ["TRANSITIONS", "Event", "Link", "State", "diagram"]


class State(StrEnum):
    """Where a link is in its life."""

    IDLE = "idle"
    DIALLING = "dialling"
    OPEN = "open"
    BACKING_OFF = "backing-off"
    CLOSED = "closed"
    GAVE_UP = "gave-up"


class Event(StrEnum):
    """What moves a link from state to state."""

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
"""Every transition there is; what is not here is a fault of the caller."""

_FINAL_STATUSES = frozenset({400, 401, 403, 404, 405, 410, 426})
_FINAL_ONCE_OPEN = frozenset({401, 403, 410})
"""Of them, those that are final after the link has been open as well."""
_UNAUTHORIZED = 401
_FINAL_CAUSES = frozenset({Cause.BAD_HANDSHAKE, Cause.CALLABLE, Cause.CERTIFICATE})
_POLICY_VIOLATION = 1008
_POLICY_VIOLATIONS = 3
_WARN_AFTER = 1.0
"""Seconds of absence that are worth a warning: programs that start together find each other before."""
_WARN_EVERY = 60.0
"""Seconds from one warning that the server is absent to the next."""


def diagram() -> str:
    """The transitions as the text of a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {_node(State.IDLE)}"]
    lines += [f"    {_node(old)} --> {_node(new)}: {event}" for (old, event), new in TRANSITIONS.items()]
    lines += [f"    {_node(state)} --> [*]" for state in (State.CLOSED, State.GAVE_UP)]
    return "\n".join(lines)


def _node(state: State) -> str:
    return state.value.replace("-", "_")


class Link:
    """One link. Times are absolute seconds of the caller's clock."""

    state: State
    """Where the link is now."""
    failures: int
    """Failures in a row."""
    deadline: float | None
    """When the next attempt is due, while backing off."""
    last: Disconnection | None
    """Why the latest attempt or connection ended."""
    verdict: str | None
    """Once given up: why that was final."""
    refresh: bool
    """Whether the next attempt must use fresh credentials."""
    news: bool
    """Whether the latest failure is the first attempt that failed since the link was open."""
    absent: bool
    """Whether the latest failure is worth a warning."""

    def __init__(self, policy: Reconnect, *, refreshable: bool = False) -> None:
        """Make an idle link; `refreshable`: the application can give fresh credentials."""
        self._policy = policy
        self._refreshable = refreshable
        self._opened_at = 0.0
        self._openings = 0
        self._violations = 0
        self.state = State.IDLE
        self.failures = 0
        self.deadline = None
        self.last = None
        self.verdict = None
        self.refresh = False
        self.news = False
        self.absent = False
        self._warn_at: float | None = None

    @property
    def attempt(self) -> int:
        """1-based number of the current or next attempt in this row of failures."""
        return self.failures + 1

    @property
    def reconnects(self) -> int:
        """How often the link opened again after its first opening."""
        return max(0, self._openings - 1)

    def wanted(self) -> None:
        """Somebody needs the link: an idle one dials; any other state stays."""
        if self.state is State.IDLE:
            self._move(Event.WANTED)

    def opened(self, now: float) -> None:
        """The attempt under way opened."""
        self._move(Event.OPENED)
        self._opened_at = now
        self._openings += 1
        self._warn_at = None
        self.refresh = False

    def message_passed(self) -> None:
        """A message came, or one was confirmed: the peer does not refuse everything."""
        self._violations = 0

    def ended(self, disconnection: Disconnection, now: float, draw: float) -> None:
        """The attempt failed, or the open connection ended; `draw` is uniform in [0, 1)."""
        if self.state is State.OPEN and now - self._opened_at >= self._policy.reset_after:
            self.failures = 0
        dialled = self.state is State.DIALLING
        self.last = disconnection
        verdict = self._final(disconnection)
        # A 401 that fresh credentials may mend says nothing of the server.
        failed = dialled and not self.refresh
        self.news = failed and self._warn_at is None
        self.absent = failed and self._warn_at is not None and now >= self._warn_at
        if self.news or self.absent:
            self._warn_at = now + (_WARN_AFTER if self.news else _WARN_EVERY)
        if verdict is not None:
            self._move(Event.FINAL)
            self.failures += 1
            self.verdict = verdict
            return
        self._move(Event.FAILED)
        self.failures += 1
        self.deadline = now + max(delay(self.failures, draw, self._policy), disconnection.retry_after or 0.0)

    def poll(self, now: float) -> bool:
        """Whether the delay is over and the link dials now."""
        if self.state is not State.BACKING_OFF or self.deadline is None or now < self.deadline:
            return False
        self._move(Event.DELAY_OVER)
        self.deadline = None
        return True

    def close(self) -> None:
        """This side is done with the link; an end that came before stays."""
        if self.state not in (State.CLOSED, State.GAVE_UP):
            self._move(Event.CLOSE)
            self.deadline = None

    def _move(self, event: Event) -> None:
        new = TRANSITIONS.get((self.state, event))
        if new is None:
            message = f"a link that is {self.state} can't take the event {event!r}"
            raise RuntimeError(message)
        self.state = new

    def _final(self, disconnection: Disconnection) -> str | None:
        """Why this ending is final; None: it is not."""
        most = self._policy.max_attempts
        if self._refused_for_good(disconnection):
            return f"{disconnection.detail}, which is final"
        if disconnection.cause is Cause.CLOSED and self._closed_for_good(disconnection.code or 0):
            return f"{disconnection.detail}, which is final"
        if most is not None and self.failures + 1 >= most:
            return f"reconnect.max-attempts ({most}) is reached; last: {disconnection.detail}"
        return None

    def _refused_for_good(self, disconnection: Disconnection) -> bool:
        if disconnection.status == _UNAUTHORIZED and self._refreshable and not self.refresh:
            self.refresh = True
            return False
        final = _FINAL_ONCE_OPEN if self._openings else _FINAL_STATUSES
        return disconnection.cause in _FINAL_CAUSES or disconnection.status in final

    def _closed_for_good(self, code: int) -> bool:
        self._violations = self._violations + 1 if code == _POLICY_VIOLATION else 0
        listed = any(first <= code <= last for first, last in self._policy.give_up_on)
        return listed or self._violations >= _POLICY_VIOLATIONS
