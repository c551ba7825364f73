"""Reading out a connection before its peer is judged: everything that lies in the socket is read first (SPEC 7).

A deadline that is over proves nothing if this process, its loop or its machine stood still: the answer may lie in the
socket. Time is counted in turns of the loop here. In each turn the loop polls every socket once, and then runs the tasks
whose sockets have bytes.

Rules
-----
1. Everything is read when the reader waits for more and nothing has come for `_QUIET` turns. A plain socket needs two: one
   in which the loop finds what is there, and one because the task that judges may run before the reader. TLS, and streams
   with tasks of their own, need a few more.
2. A peer that goes on sending can't put off the verdict: once as many bytes have come as lay in the socket at the start,
   further bytes count for nothing. Then it takes `_QUIET` more turns in which the reader waits, or `_BUSY` in which it does
   not.
3. A write that waited for room at the start and got some proves that the peer reads. A write that still
   waits may prove the same, if the peer is judged so late that there was room and no task ran to use it; not every
   system shows the difference. `could_not_write` covers both.
"""

from attrs import define, field, frozen

_QUIET = 8
_BUSY = 128
"""Turns that a reader may need for the bytes that it has: a run of messages is a turn, and 64 KiB may hold many."""
_MOST = 8 * 1024 * 1024
"""Bytes that are assumed to lie in a stream if their number is not known: more than systems keep for a socket."""


@frozen(kw_only=True)
class Motion:
    """The progress of reading and writing on a connection."""

    received: int
    """Bytes that came."""
    sent: int
    """Bytes that the system took, including those of an unfinished write where that can be known."""
    reads: bool
    """Whether the reader waits for more: it has nothing left to take apart, and nobody has paused it."""
    writes: bool
    """Whether a write waits for room."""


@define(eq=False)
class ReadOut:
    """The reading-out of one connection, from `_first` on."""

    _first: Motion
    _unread_bytes: int | None = field(alias="unread_bytes", kw_only=True)
    """Bytes that lay in the socket at the start; None if that is not known."""
    _before: Motion = field(init=False)
    _quiet: int = field(default=0, init=False)
    _busy: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._before = self._first

    def turned(self, motion: Motion) -> bool:
        """Take in the motion one turn later; return whether everything is read."""
        unread_bytes = _MOST if self._unread_bytes is None else self._unread_bytes
        came = motion.received != self._before.received
        if came and self._before.received - self._first.received < unread_bytes:
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
    """Return whether a waiting write may be this side's fault: its deadline is judged `late` by half its timeout or more."""
    return motion.writes and late >= timeout / 2
