"""When to ping, and whether the peer is alive (SPEC 8; RFC 6455 sections 5.5.2 and 5.5.3).

Rules
-----
1. One ping is outstanding at a time; confirmation pings (`delivery`) and periodic pings share it.
2. A periodic ping is due `ping_interval` after the last sign of life: an inbound frame. What this
   side sends puts it off by nothing, for it says nothing about the peer. It may take the place of an
   older ping that was never answered, because frames came instead of its pong.
3. From the moment that a ping is written, some frame must come within `timeout`. Any inbound
   frame is life, not only the pong.
4. A miss is CUT (action ``reconnect``), or WARN, once a miss (action ``log-only``).
5. While this side holds reading back, silence is no evidence: nothing is due until it reads again.
6. A pong answers a ping only by its payload: the configured payload and a number, where both fit
   in 125 bytes. So a pong that comes twice, or late, never answers a later ping.
7. Without a heartbeat section nothing is due, ever; confirmation pings are still counted here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_wsout.config.sections import Heartbeat

from trio_wsout.config.sections import HeartbeatAction

__all__ = ["HeartbeatMonitor", "Pulse"]

_MOST = 125
"""Bytes that a control frame carries at most (RFC 6455 section 5.5)."""


class Pulse(StrEnum):
    """What `HeartbeatMonitor.poll` asks for."""

    PING = "ping"
    """Write a ping (`next_ping`, then `ping_written`)."""
    CUT = "cut"
    """The peer is dead: cut the connection."""
    WARN = "warn"
    """The peer missed a ping and the policy is only to say so."""


class HeartbeatMonitor:
    """The pings of one connection. Times are absolute seconds of the caller's clock."""

    misses: int
    """Pings that got no sign of life within the timeout."""

    def __init__(self, policy: Heartbeat | None) -> None:
        """Make the monitor of a connection that opens with its first `opened`."""
        self._policy = policy
        self._prefix = policy.payload.encode() if policy else b""
        self._number = 0
        self._outstanding: bytes | None = None
        self._due = False
        self._written_at: float | None = None
        self._last_life = 0.0
        self._held = False
        self.misses = 0

    @property
    def free(self) -> bool:
        """Whether no ping is outstanding or due, so that a confirmation ping may go."""
        return self._outstanding is None

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
        if self._written_at is not None:
            return self._written_at + policy.timeout
        return self._last_life + policy.ping_interval

    def poll(self, now: float) -> Pulse | None:
        """What is to be done at `now`; None before `deadline`."""
        policy = self._policy
        deadline = self.deadline
        if policy is None or deadline is None or now < deadline:
            return None
        if self._written_at is None:
            self._due = True
            return Pulse.PING
        self.misses += 1
        self._written_at = None
        self._last_life = now
        return Pulse.CUT if policy.action is HeartbeatAction.RECONNECT else Pulse.WARN

    def opened(self, now: float) -> None:
        """The connection opened at `now`."""
        self._last_life = now

    def frame_received(self, now: float) -> None:
        """Bytes of a frame came at `now`: life."""
        self._last_life = now
        self._written_at = None

    def next_ping(self) -> bytes:
        """Take the payload for a ping that is about to be written; it becomes the outstanding one."""
        self._number += 1
        number = b" %x" % self._number if self._prefix else b"%x" % self._number
        fits = len(self._prefix) + len(number) <= _MOST
        self._outstanding = self._prefix + number if fits else self._prefix
        self._due = False
        return self._outstanding

    def ping_written(self, now: float) -> None:
        """The ping was handed to the kernel at `now`: its timeout starts."""
        if self._outstanding is not None:
            self._written_at = now

    def pong_received(self, payload: bytes) -> bool:
        """Say whether this pong answers the outstanding ping; report its bytes to `frame_received` too."""
        if payload != self._outstanding:
            return False
        self._outstanding = None
        self._written_at = None
        return True

    def held(self) -> None:
        """This side stopped reading, because nobody takes what was read."""
        self._held = True

    def released(self, now: float) -> None:
        """This side reads again since `now`."""
        self._held = False
        self._last_life = now
        if self._written_at is not None:
            self._written_at = now
