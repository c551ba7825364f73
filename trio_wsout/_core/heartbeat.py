"""Decides when to ping, and whether the peer is alive (SPEC 8; RFC 6455 sections 5.5.2 and 5.5.3).

Rules
-----
1. At most one ping that is to confirm is outstanding. A periodic ping may replace it (rule 2).
2. A periodic ping is due `ping_interval` after the last sign of life, which is an inbound frame. Writing does not put it
   off, for it says nothing about the peer. A periodic ping may replace an older ping that was never answered, because
   other frames came instead of its pong. From the time when a ping is due until it is written nothing else is due: frames
   before it may take their time.
3. Within `timeout` from when a ping is written some frame must come. Any inbound frame is life, not only the pong. A
   ping that is written while an earlier one waits for that has no timeout of its own.
4. A slow line is not a dead one. Where this side's system knows how much the peer's system has acknowledged, it is asked
   for that PROGRESS eight times within `timeout`, and at least twice a second, while nothing comes after a ping. Where more
   is acknowledged than before, the timeout begins anew. The first answer is only the base of the comparison. Once the whole ping
   is acknowledged nothing more is asked: from then on only the peer can be slow. So when acknowledgements end, that is
   found within the time between two questions and `timeout`; if there were none, within `timeout` after the ping.
5. A verdict that comes late condemns nobody. When the timeout is over, the socket is READ first, for the peer's answer may
   lie in it. If the timeout is still over once all of that was read, it is a miss.
6. A miss is CUT (action ``reconnect``) or, once for each miss, WARN (action ``log-only``).
7. While this side has paused reading, silence proves nothing: no ping is due until it reads again. But nobody would see that
   the peer has LEFT. So the system is asked for that when the pause has lasted for `timeout`, and each `timeout` from then on.
8. A ping that is to confirm carries the configured payload and a number, or the number alone if both don't fit in 125
   bytes, and only a pong with the same payload answers it. So a pong that comes twice, or late, never confirms what was
   written later; nor does one pong that answers several pings. A periodic ping that has nothing to confirm, and
   replaces no other, carries exactly the configured payload. Its pong is life, confirms nothing, and is not waited for.
9. The round trip runs from the moment when the latest ping is written until its own pong is read. It is not measured if this
   side paused reading meanwhile, or if an earlier ping with the same payload is unanswered: its pong would look the same.
10. With ``heartbeat: none`` nothing is ever due; confirmation pings are still counted here.
"""

from enum import StrEnum
from math import inf

from attrs import define, field, frozen

from trio_wsout.config.sections import Heartbeat, HeartbeatAction

_MOST = 125
"""Bytes that a control frame carries at most (RFC 6455 section 5.5)."""
_QUESTIONS = 8
"""Questions for the progress within the timeout, at least."""
_LONGEST_PAUSE = 0.5
"""Seconds between two questions for the progress, at most: how much later than by its timeout a dead peer may be found."""


class Pulse(StrEnum):
    """A step that `HeartbeatMonitor.poll` asks its caller to take."""

    PING = "ping"
    """Write a ping (`next_ping`, then `ping_written`)."""
    CUT = "cut"
    """Cut the connection: the peer is dead."""
    WARN = "warn"
    """Warn that the peer missed a ping; the action is log-only."""
    PROGRESS = "progress"
    """Ask the system for the `Progress`, report it by `progress_found`, and poll again."""
    LEFT = "left"
    """Ask the system whether the peer has left while this side does not read, and end the connection if so."""
    READ = "read"
    """Read everything that lies in the socket now, and poll again, with `all_read`."""


@frozen(kw_only=True)
class Progress:
    """The progress of the written bytes, in bytes of the transport, counted from any one point."""

    acknowledged: int
    """Bytes that the peer's system has acknowledged."""
    awaited: int
    """Value of `acknowledged` once the peer's system has the latest ping; it may be too high where nobody knows exactly, and
    is never too low."""


@define(eq=False, weakref_slot=False)
class HeartbeatMonitor:
    """The pings of one connection. Times are absolute seconds of the caller's clock."""

    _policy: Heartbeat | None
    misses: int = field(default=0, init=False)
    """Pings that got no sign of life within the timeout."""
    answered: bool = field(default=False, init=False)
    """Whether a pong ever answered a ping."""
    round_trip: float | None = field(default=None, init=False)
    """Seconds from the latest ping that was measured to its pong; None before the first (rule 9)."""
    _number: int = field(default=0, init=False)
    _outstanding: bytes | None = field(default=None, init=False)
    """Payload of the outstanding ping that is to confirm."""
    _latest: bytes | None = field(default=None, init=False)
    """Payload of the latest ping of either kind, until it is answered."""
    ping_due: bool = field(default=False, init=False)
    """Whether a periodic ping waits to be written."""
    _going: bool = field(default=False, init=False)
    """Whether a ping was taken by `next_ping` and is not written yet."""
    _measured: bool = field(default=False, init=False)
    """Whether the round trip of the latest ping is measured."""
    _pinged_at: float | None = field(default=None, init=False)
    """The time at which it was written, if it is measured; None before."""
    _last_life: float = field(default=0.0, init=False)
    _silent_since: float | None = field(default=None, init=False)
    """The time at which the timeout began; None if no frame is awaited."""
    _ask_every: float = field(default=inf, init=False)
    _ask_at: float = field(default=inf, init=False)
    _acknowledged: int | None = field(default=None, init=False)
    _paused_at: float | None = field(default=None, init=False)
    """The time at which this side stopped reading, or was last to ask whether the peer has left; None while it reads."""

    @property
    def _timeout(self) -> float:
        return inf if self._policy is None else self._policy.timeout

    @property
    def free(self) -> bool:
        """Whether a ping that is to confirm may be written: none is outstanding."""
        return self._outstanding is None

    @property
    def unanswered(self) -> bool:
        """Whether pings were written, and none of them was ever answered."""
        return self._latest is not None and not self.answered

    @property
    def deadline(self) -> float | None:
        """The time at which `poll` must be called; None if nothing is due before something else happens."""
        policy = self._policy
        if policy is None:
            return None
        if self._paused_at is not None:
            return self._paused_at + policy.timeout
        if self.ping_due:
            return None
        if self._silent_since is not None:
            return min(self._ask_at, self._silent_since + self._timeout)
        return None if self._going else self._last_life + policy.ping_interval

    def poll(self, now: float, *, all_read: bool = False) -> Pulse | None:
        """Return the step to take at `now`; None before `deadline`.

        After READ, `all_read` is whether everything was read that lay in the socket then.
        """
        policy, deadline = self._policy, self.deadline
        if policy is None or deadline is None or now < deadline:
            return None
        if self._paused_at is not None:
            self._paused_at = now
            return Pulse.LEFT
        if self._silent_since is None:
            self.ping_due = True
            return Pulse.PING
        if now >= self._ask_at:
            return Pulse.PROGRESS
        if not all_read:
            return Pulse.READ
        self.misses += 1
        self._silent_since = None
        self._last_life = now
        return Pulse.CUT if policy.action is HeartbeatAction.RECONNECT else Pulse.WARN

    def opened(self, now: float, *, knows_progress: bool = False) -> None:
        """Note that the connection opened at `now`, and whether the system knows the `Progress`."""
        self._last_life = now
        if knows_progress:
            self._ask_every = min(self._timeout / _QUESTIONS, _LONGEST_PAUSE)

    def frame_received(self, now: float) -> bool:
        """Note that bytes of a frame came at `now`; return whether `deadline` may be nearer now."""
        self._last_life = now
        nearer = self._silent_since is not None and self._policy is not None
        self._silent_since = None
        return nearer

    def next_ping(self, *, confirms: bool) -> bytes:
        """Return the payload of the ping that is about to be written; it `confirms` if something was written before it."""
        payload = b"" if self._policy is None else self._policy.payload.encode()
        if confirms or self._outstanding is not None:
            self._number += 1
            number = b"%x" % self._number
            joined = b"%b %b" % (payload, number) if payload else number
            payload = self._outstanding = joined if len(joined) <= _MOST else number
        self._measured, self._pinged_at = payload != self._latest and self._paused_at is None, None
        self._latest = payload
        self.ping_due = False
        self._going = True
        return payload

    def ping_written(self, now: float) -> None:
        """Note that the ping was handed to the kernel at `now`: its timeout starts."""
        self._going = False
        if self._measured:
            self._pinged_at = now
        if self._latest is not None and self._silent_since is None:
            self._wait_from(now)

    def progress_found(self, now: float, progress: Progress | None) -> None:
        """Take in the progress at `now`; None if the system does not know it, so that only the timeout counts."""
        before, since = self._acknowledged, self._silent_since
        self._ask_at = inf
        if progress is None or since is None:
            return
        self._acknowledged = progress.acknowledged
        if before is not None and progress.acknowledged > before:
            self._silent_since = since = now
        # The last question comes as the timeout ends: then the miss follows.
        if progress.acknowledged < progress.awaited and now < since + self._timeout:
            self._ask_at = min(now + self._ask_every, since + self._timeout)

    def pong_received(self, payload: bytes) -> bool:
        """Return whether this pong confirms the messages that were written before the outstanding ping.

        Report its bytes to `frame_received` too.
        """
        if payload == self._latest:
            self._latest = self._silent_since = None
            self.answered = True
            if self._pinged_at is not None:
                self.round_trip = self._last_life - self._pinged_at
                self._pinged_at = None
        if payload != self._outstanding:
            return False
        self._outstanding = None
        return True

    def reading_paused(self, now: float) -> None:
        """Note that this side stopped reading at `now`, because nobody takes the messages that were read."""
        self._paused_at = now
        self._measured, self._pinged_at = False, None

    def reading_resumed(self, now: float) -> None:
        """Note that this side reads again since `now`."""
        self._paused_at = None
        self._last_life = now
        if self._silent_since is not None:
            self._wait_from(now)

    def _wait_from(self, now: float) -> None:
        """Begin the timeout at `now`, and forget the progress that was found before."""
        self._silent_since = now
        self._acknowledged = None
        self._ask_at = now + self._ask_every
