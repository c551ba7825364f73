"""When to ping, and whether the peer is alive (SPEC 8; RFC 6455 sections 5.5.2 and 5.5.3).

Rules
-----
1. One ping that is to confirm is outstanding at a time; a periodic ping takes its place (rule 2).
2. A periodic ping is due `ping_interval` after the last sign of life: an inbound frame. What this
   side sends puts it off by nothing, for it says nothing about the peer. It may take the place of an
   older ping that was never answered, because frames came instead of its pong. From when it is due
   until it is written nothing else is: what lies before it may take its time.
3. From the moment that a ping is written, some frame must come within `timeout`. Any inbound
   frame is life, not only the pong. A ping behind one that waits for that has no time of its own.
4. A slow line is not a dead one. Where this side's system knows what the peer's has acknowledged,
   it is asked (LOOK) eight times within `timeout`, and at least twice a second, while nothing comes
   after a ping. A look that finds more acknowledged than the one before has the timeout run anew
   from there. The first finds nothing but what to compare with, and one by which the whole ping is
   acknowledged is the last: from there on only the peer can be slow. So where acknowledgements end,
   that is found one look and `timeout` later; and where there were none, `timeout` after the ping.
5. A late look condemns nobody: a timeout that is over is READ first, for the peer's answer may lie
   in the socket. Only when all of that has been read and the timeout is still over it is a miss.
6. A miss is CUT (action ``reconnect``), or WARN, once a miss (action ``log-only``).
7. While this side holds reading back, silence is no evidence: nothing is due until it reads again.
8. A ping that is to confirm carries the configured payload and a number, or the number alone where
   both don't fit in 125 bytes, and a pong answers it only with the same. So a pong that comes twice, or
   late, never confirms what was written later, and nor does one that answers several pings at once.
   A periodic ping that has nothing to confirm, and takes no other's place, carries the configured
   payload exactly. Its pong is life, confirms nothing, and is waited for by nobody (rule 1).
9. With ``heartbeat: none`` nothing is due, ever; confirmation pings are still counted here.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from trio_wsout.config.sections import Heartbeat

from trio_wsout.config.sections import HeartbeatAction

__all__ = ["HeartbeatMonitor", "Progress", "Pulse"]

_MOST = 125
"""Bytes that a control frame carries at most (RFC 6455 section 5.5)."""
_LOOKS = 8
"""Looks within the timeout, at least."""
_RAREST_LOOK = 0.5
"""Seconds between two looks, at most: how much later than by its timeout a dead peer may be found."""


class Pulse(StrEnum):
    """What `HeartbeatMonitor.poll` asks for."""

    PING = "ping"
    """Write a ping (`next_ping`, then `ping_written`)."""
    CUT = "cut"
    """The peer is dead: cut the connection."""
    WARN = "warn"
    """The peer missed a ping and the policy is only to say so."""
    LOOK = "look"
    """Look how far what was written has come, say so (`looked`), and poll again."""
    READ = "read"
    """Read what lies in the socket by now, and poll again, with `all_read`."""


@frozen(kw_only=True)
class Progress:
    """How far what was written has come, in bytes of the transport, counted from any one point."""

    acknowledged: int
    """What the peer's system has acknowledged."""
    awaited: int
    """How much that is when it has the latest ping; more than that, but never less, where nobody can tell exactly."""


class HeartbeatMonitor:
    """The pings of one connection. Times are absolute seconds of the caller's clock."""

    misses: int
    """Pings that got no sign of life within the timeout."""

    answered: bool
    """Whether a pong has answered a ping, ever."""

    __slots__ = (
        "_acknowledged",
        "_due",
        "_going",
        "_held",
        "_last_life",
        "_latest",
        "_look_at",
        "_look_every",
        "_number",
        "_outstanding",
        "_policy",
        "_prefix",
        "_silent_since",
        "_timeout",
        "answered",
        "misses",
    )

    def __init__(self, policy: Heartbeat | None) -> None:
        """Make the monitor of a connection that opens with its first `opened`."""
        self._policy = policy
        self._timeout = policy.timeout if policy else inf
        self._look_every = inf
        self._prefix = policy.payload.encode() if policy else b""
        self._number = 0
        self._outstanding: bytes | None = None  # of those that are to confirm
        self._latest: bytes | None = None  # of all pings, while it is not answered
        self._due = False
        self._going = False
        self._silent_since: float | None = None
        self._look_at = inf
        self._acknowledged: int | None = None
        self._last_life = 0.0
        self._held = False
        self.answered = False
        self.misses = 0

    @property
    def free(self) -> bool:
        """Whether no ping that is to confirm is outstanding, so that one may go."""
        return self._outstanding is None

    @property
    def unanswered(self) -> bool:
        """Whether pings were written, and none of them was ever answered."""
        return self._latest is not None and not self.answered

    @property
    def ping_due(self) -> bool:
        """Whether a periodic ping waits to be written."""
        return self._due

    @property
    def deadline(self) -> float | None:
        """When `poll` has something to say; None: not before something else happens."""
        policy = self._policy
        if policy is None or self._held or self._due:
            return None
        if self._silent_since is not None:
            return min(self._look_at, self._silent_since + self._timeout)
        return None if self._going else self._last_life + policy.ping_interval

    def poll(self, now: float, *, all_read: bool = False) -> Pulse | None:
        """Return what is to be done at `now`; None before `deadline`.

        `all_read`: since the caller was asked to READ, everything that lay in the socket then has been read.
        """
        policy = self._policy
        deadline = self.deadline
        if policy is None or deadline is None or now < deadline:
            return None
        if self._silent_since is None:
            self._due = True
            return Pulse.PING
        if now >= self._look_at:
            return Pulse.LOOK
        if not all_read:
            return Pulse.READ
        self.misses += 1
        self._silent_since = None
        self._last_life = now
        return Pulse.CUT if policy.action is HeartbeatAction.RECONNECT else Pulse.WARN

    def opened(self, now: float, *, looks: bool = False) -> None:
        """The connection opened at `now`; `looks` says whether the system knows what was acknowledged."""
        self._last_life = now
        if looks:
            self._look_every = min(self._timeout / _LOOKS, _RAREST_LOOK)

    def frame_received(self, now: float) -> bool:
        """Bytes of a frame came at `now`: life. Gives whether `deadline` may be nearer by that."""
        self._last_life = now
        nearer = self._silent_since is not None and self._policy is not None
        self._silent_since = None
        return nearer

    def next_ping(self, *, confirms: bool) -> bytes:
        """Return the payload of the ping that is about to be written.

        `confirms`: something was written before it of which it is not known whether the peer has it.
        """
        payload = self._prefix
        if confirms or self._outstanding is not None:
            self._number += 1
            number = b"%x" % self._number
            joined = b"%b %b" % (payload, number) if payload else number
            payload = self._outstanding = joined if len(joined) <= _MOST else number
        self._latest = payload
        self._due = False
        self._going = True
        return payload

    def ping_written(self, now: float) -> None:
        """The ping was handed to the kernel at `now`: its timeout starts."""
        self._going = False
        if self._latest is not None and self._silent_since is None:
            self._wait_from(now)

    def looked(self, now: float, progress: Progress | None) -> None:
        """This is what the system told at `now`; None: nothing, so that only the timeout tells."""
        before, since = self._acknowledged, self._silent_since
        self._look_at = inf
        if progress is None or since is None:
            return
        self._acknowledged = progress.acknowledged
        if before is not None and progress.acknowledged > before:
            self._silent_since = since = now
        # The last look is as the timeout is over: then the miss follows.
        if progress.acknowledged < progress.awaited and now < since + self._timeout:
            self._look_at = min(now + self._look_every, since + self._timeout)

    def pong_received(self, payload: bytes) -> bool:
        """Return whether this pong confirms what was written before the outstanding ping.

        Report its bytes to `frame_received` too.
        """
        if payload == self._latest:
            self._latest = self._silent_since = None
            self.answered = True
        if payload != self._outstanding:
            return False
        self._outstanding = None
        return True

    def held(self) -> None:
        """This side stopped reading, because nobody takes what was read."""
        self._held = True

    def released(self, now: float) -> None:
        """This side reads again since `now`."""
        self._held = False
        self._last_life = now
        if self._silent_since is not None:
            self._wait_from(now)

    def _wait_from(self, now: float) -> None:
        """The timeout runs from `now`, and what was found before counts for nothing."""
        self._silent_since = now
        self._acknowledged = None
        self._look_at = now + self._look_every
