"""The look at a connection before its peer is judged: what lies in the socket is read first (SPEC 7).

A deadline that has passed says nothing while this process, its loop or its machine stood still: the answer
may lie in the socket. Time is counted in turns of the loop here. In each, the sockets are asked once what they have,
and every task runs for which they have something.

Rules
-----
1. All is read when the reader waits for more, and for `_QUIET` turns nothing has come. A plain socket needs two: one in
   which the loop hears of what is there, and the task that judges may run before the reader. TLS, and streams with
   tasks of their own, need a few more.
2. Who goes on sending can't put off the verdict: once as much has come as lay there when the look began, further
   bytes count for nothing. So the look ends `_QUIET` turns in which the reader waited, or `_BUSY` in which it did
   not, later.
3. A write that waited for room when the look began, and got some, shows that the peer takes what it is sent. So may
   one that waits still, where the look is so late that there was room and nobody to use it: which of the two the system
   does not tell everywhere. `could_not_write` is for both.
"""

from __future__ import annotations

from attrs import frozen

__all__ = ["Look", "Motion", "could_not_write"]

_QUIET = 8
_BUSY = 128
"""Turns that a reader may need for what it has: a run of messages is a turn, and 64 KiB may hold many."""
_MOST = 8 * 1024 * 1024
"""Bytes that lie in a stream at most, where nobody can tell: more than systems keep for a socket."""


@frozen(kw_only=True)
class Motion:
    """How far a connection has come."""

    received: int
    """Bytes that came."""
    sent: int
    """Bytes that the system took, of a write that is not done as well where it can be known."""
    reads: bool
    """Whether the reader waits for more: it has nothing left to take apart, and nobody holds it back."""
    writes: bool
    """Whether a write waits for room."""


class Look:
    """One look at one connection."""

    __slots__ = ("_before", "_busy", "_first", "_lying", "_quiet")

    def __init__(self, motion: Motion, *, lying: int | None) -> None:
        """Begin with what is known now; `lying` bytes are in the socket: None if nobody can tell."""
        self._first = self._before = motion
        self._lying = _MOST if lying is None else lying
        self._quiet = 0
        self._busy = 0

    def turned(self, motion: Motion) -> bool:
        """Take in how far the connection is, one turn later; return whether the look is over."""
        came = motion.received != self._before.received
        if came and self._before.received - self._first.received < self._lying:
            self._quiet = self._busy = 0
        elif motion.reads:
            self._quiet += 1
        else:
            self._busy += 1
        self._before = motion
        return self._quiet >= _QUIET or self._busy >= _BUSY

    @property
    def found_room(self) -> bool:
        """Whether the system took some of a write that had waited for room."""
        first, last = self._first, self._before
        return first.writes and (not last.writes or last.sent != first.sent)


def could_not_write(motion: Motion, late: float, timeout: float) -> bool:
    """Return whether a write waits that this side may have left waiting: its deadline is judged late by half its timeout."""
    return motion.writes and late >= timeout / 2
