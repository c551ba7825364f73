"""The life of one outgoing link through its reconnects (SPEC 5 and 6).

Rules
-----
1. `TRANSITIONS` has every state, and every event that leads from one to another.
2. A failure is an attempt that did not open, or an open connection that ended otherwise than by this side.
3. When a connection ends that had been open for `reset_after` or longer, the count of failures in a row returns to 0
   before this end is counted.
4. After the n-th round in this row of failures the link waits for `backoff.delay(n)`. The end of a connection ends a
   round, and so does the last of as many failed attempts as there are urls. Any other failed attempt is followed by the
   next one immediately: another server is not the one that needs rest, and a failover should last no longer than it
   takes to see that a server is gone. (With one url every failure ends a round.)
5. Each attempt takes the next url in turn. A url whose server asked for a longer wait (`retry_after`) is passed over until
   that time; if all are, the link waits for the first of them.
6. An attempt is refused for good by the HTTP statuses 400, 401, 403, 404, 405, 410 and 426, by a 101 that is not valid,
   and by a certificate that is not accepted. That is final once the latest attempt at every url was refused so, and none
   opened since the first of these: another server may have what this one lacks. One 401 is retried if the application can
   give fresh credentials, and one more after each opening.
7. These are final, whatever the url, since what they are about is the same at all of them: a callable of the application
   that is not async; a close code in `give_up_on`; the third close code 1008 in a row without a message between;
   `max_attempts` failures in a row.
8. Once the link has been open, 400, 404, 405 and 426 are retried, too: the request was right before, and a proxy answers
   so while the server behind it is replaced.
9. Of the attempts that fail after the link was last open, the first is worth a line in the log, one that comes a second or
   more later is worth a warning, and then one each minute: a server that is absent must be reported, and must not fill the
   log.
"""

from collections.abc import Mapping, Sequence
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
_REFUSALS = frozenset({Cause.BAD_HANDSHAKE, Cause.CERTIFICATE})
"""Causes for which an attempt is refused for good, whatever the status."""
_POLICY_VIOLATION = 1008
_POLICY_VIOLATIONS = 3
_WARN_AFTER = 1.0
"""Seconds without a server that are worth a warning: programs that start together find each other earlier."""
_WARN_EVERY = 60.0
"""Seconds from one warning that the server is absent to the next."""


@frozen(kw_only=True)
class LinkChange:
    """One change of a link's state, for `on_state`."""

    state: State
    """The state that was entered."""
    attempt: int
    """1-based number of the current or next attempt in this row of failures."""
    url: str
    """The configured url of the connection, or of the current or next attempt, without its query."""
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
    _urls: Sequence[str] = field(default=("",), alias="urls", repr=False)
    """The urls to try in turn, at least one."""
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
    """Whether the latest failure is the first attempt that failed since the link was open (rule 9)."""
    still_failing: bool = field(default=False, init=False)
    """Whether the latest failure is worth a warning (rule 9)."""
    _turn: int = field(default=0, init=False)
    """The index of the url of the connection, or of the current or next attempt."""
    _rounds: int = field(default=0, init=False)
    """Rounds in this row of failures that are over (rule 4)."""
    _tried: int = field(default=0, init=False)
    """Attempts that failed in this round."""
    _refused: set[int] = field(factory=set[int], init=False)
    """The urls whose latest attempt was refused for good since one opened (rule 6)."""
    _not_before: dict[int, float] = field(factory=dict[int, float], init=False)
    """The times that servers asked to wait for, by url (rule 5)."""
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
    def has_choice(self) -> bool:
        """Whether there are several urls."""
        return len(self._urls) > 1

    @property
    def url(self) -> str:
        """The url of the connection, or of the current or next attempt."""
        return self._urls[self._turn]

    @property
    def shown_url(self) -> str:
        """The url as reports show it: without its query, which may hold what is nobody's business."""
        return self.url.partition("?")[0]

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
        self._refused.clear()

    def message_passed(self) -> None:
        """Note that a message came or was confirmed, so that the peer does not refuse everything (rule 7)."""
        self._policy_violations = 0

    def ended(self, disconnection: Disconnection, now: float, draw: float) -> None:
        """Back off or give up: the attempt failed, or the open connection ended. `draw` is uniform in [0, 1)."""
        if self.state is State.OPEN and now - self._opened_at >= self._policy.reset_after:
            self.failures = self._rounds = 0
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
        self._not_before[self._turn] = now + (disconnection.retry_after or 0.0)
        self._tried = self._tried + 1 if dialled else len(self._urls)
        wait = 0.0
        if self._tried >= len(self._urls):
            self._tried = 0
            self._rounds += 1
            wait = delay(self._rounds, draw, self._policy)
        self._take_turn(now + wait)

    def _take_turn(self, due: float) -> None:
        """Set the url and the time of the next attempt, which is `due` or later (rule 5)."""
        count = len(self._urls)
        turns = [(self._turn + step) % count for step in range(1, count + 1)]
        # `min` returns the first in turn of those that may be tried equally early.
        self._turn = min(turns, key=lambda turn: max(due, self._not_before.get(turn, due)))
        self.deadline = max(due, self._not_before.get(self._turn, due))

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
        refused = self._refused_for_good(disconnection)
        if refused and len(self._refused) == len(self._urls):
            where = f", of the last of {len(self._urls)} urls" if len(self._urls) > 1 else ""
            return f"{disconnection.detail}, which is final{where}"
        closed = disconnection.cause is Cause.CLOSED and self._closed_for_good(disconnection.code or 0)
        if closed or disconnection.cause is Cause.CALLABLE:
            return f"{disconnection.detail}, which is final"
        if most is not None and self.failures + 1 >= most:
            return f"reconnect.max-attempts ({most}) is reached; last: {disconnection.detail}"
        return None

    def _refused_for_good(self, disconnection: Disconnection) -> bool:
        """Take note of an end, and return whether it is an attempt that was refused for good (rule 6)."""
        self._refused.discard(self._turn)
        if disconnection.status == _UNAUTHORIZED and self._refreshable and not self._refreshing:
            self._refreshing = True
            return False
        final = _FINAL_ONCE_OPEN if self._openings else _FINAL_STATUSES
        if disconnection.cause not in _REFUSALS and disconnection.status not in final:
            return False
        self._refused.add(self._turn)
        return True

    def _closed_for_good(self, code: int) -> bool:
        self._policy_violations = self._policy_violations + 1 if code == _POLICY_VIOLATION else 0
        listed = any(first <= code <= last for first, last in self._policy.give_up_on)
        return listed or self._policy_violations >= _POLICY_VIOLATIONS
