"""A shared log: outputs of several processes append to it, and each hands over what it reads from it, so that all see one order (SPEC 11).

Rules
-----
1. The log gives an event its position. Positions are dense within an epoch, and each epoch begins at a higher position than any
   that was given before; so they grow for ever, and each names one event.
2. An epoch is one life of the log on one server process. An output that finds another process than the one at which the
   epoch began, or no log where it has read one, begins the next epoch. A marker in the log says what that begins behind: the
   last event that is still there.
3. An output has read everything up to one position. What comes next is either the event behind it, or the marker of an epoch that
   begins exactly there; anything else is a gap. So events that a failover has lost, and events that somebody removed, are a gap
   for who may have missed them, and a restart that lost nothing is none.
4. An output that has read more than is left begins one more epoch, behind nothing: a gap for all, because the others may not have
   read what was lost.
5. An output appends only in the epoch that it has read up to, and one run after the other. A run has a number of the output, by which
   the log knows it when it is sent again because the answer was lost.
6. A run that was stored, and has not been read when the next epoch begins, is lost, and is appended again before all later
   ones. So each run comes round once, in the order of the appends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from attrs import define, field, frozen

from trio_wsout._core.durable_log import Entry
from trio_wsout._core.run_format import DamageError, Run


@frozen(kw_only=True)
class Found:
    """One entry of the log: a run of events, or the marker of an epoch."""

    last: int
    """Position of its last event; of a marker, the position behind which its epoch begins to count."""
    epoch: int
    count: int
    """Its events; 0 if it is a marker."""
    behind: tuple[int, int] | None
    """Epoch and position of the last event before a marker; None for a run."""
    node: bytes
    """The output that appended it."""
    number: int
    """The number that the output gave it."""
    run: Run | None = field(repr=False)
    """Its events, numbered from 1; None if it is a marker."""

    @property
    def first(self) -> int:
        """Position of its first event."""
        return self.last - self.count + 1

    def entries(self, after: int) -> list[Entry]:
        """Return its events behind position `after`, up to the first damaged one.

        Raises:
            DamageError: It is damaged, or the first of these events.
        """
        return (
            []
            if self.run is None
            else self.run.entries(after, behind=self.last - self.count, epoch=self.epoch)
        )


def read_entry(key: bytes, fields: Sequence[bytes]) -> Found:
    """Return the entry of a stream that has this id, ``position-epoch``, and these fields and values, in turn.

    Raises:
        DamageError: It is none that an output has appended.
    """
    try:
        last, epoch = map(int, key.split(b"-"))
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        count = int(named[b"count"])
        if count == 0:
            before, position = map(int, named[b"behind"].split(b"-"))
            behind, node, number, run = (before, position), b"", 0, None
        else:
            behind, node, number = None, named[b"node"], int(named[b"number"])
            at, checksum = float(named[b"at"]), int(named[b"checksum"])
            run = Run(count, 1, 0, at, named[b"head"], named[b"body"], checksum)
    except (ValueError, KeyError):
        raise DamageError(f"the entry {key.decode(errors='replace')} is damaged") from None
    return Found(last=last, epoch=epoch, count=count, behind=behind, node=node, number=number, run=run)


def adjacent(between: Sequence[Found], position: int, following: int) -> bool:
    """Return whether no event is missing between `position` and `following`, where the log has these entries."""
    for entry in between:
        if entry.behind is not None and entry.behind[1] == position:
            position = entry.last
        elif entry.last > position:
            return False
    return position == following - 1


@frozen(kw_only=True)
class Arrival:
    """A run of events as it comes next in the log; without events, it says that a new epoch has begun."""

    epoch: int
    first: int
    """Position of its first event. If it does not follow the arrival before, positions go on from here."""
    last: int
    """Position of its last event; one less than `first` if it has none."""
    own: bool
    """Whether this output appended it; then it is the oldest of its runs that had not come round."""
    gap: bool
    """Whether events may be missing before it."""
    _found: Found | None = field(default=None, alias="found", repr=False)

    def entries(self) -> list[Entry]:
        """Return its events, up to the first damaged one.

        Raises:
            DamageError: The run is damaged, or its first event.
        """
        return [] if self._found is None else self._found.entries(self.first - 1)


@define(eq=False)
class OwnRun:
    """A run that this output appends."""

    number: int
    """Its number, by which the log knows it when it is sent again."""
    count: int
    """The number of its events."""
    content: Sequence[bytes | str] = field(repr=False)
    """The run as its store sends it."""
    last: int | None = None
    """Position of its last event; None if the log does not have it, as far as this output knows."""


@define(eq=False)
class Follower:
    """The place up to which an output has read a shared log, and its own runs that have not come round."""

    node: bytes
    """The output."""
    epoch: int
    position: int
    """Position of the last event that was read."""
    _own: deque[OwnRun] = field(factory=deque[OwnRun], init=False)
    _numbers: int = field(default=0, init=False)

    def append(self, count: int, content: Sequence[bytes | str]) -> OwnRun:
        """Number a run of `count` events that is to be appended behind all others of this output."""
        run = OwnRun(self._number(), count, content)
        self._own.append(run)
        return run

    def to_send(self) -> OwnRun | None:
        """Return the oldest run that the log does not have; None if it has all that were appended."""
        return next((run for run in self._own if run.last is None), None)

    def stored(self, run: OwnRun, last: int) -> None:
        """Note that the log has a run, whose last event has this position.

        A run that left the log before it was read, while its answer was on the way, is appended anew.
        """
        if last > self.position or run not in self._own:
            run.last = last
        else:
            run.number = self._number()

    def take(self, found: Found) -> list[Arrival]:
        """Move on behind an entry that was read, and return what comes next: the entry, and before it own runs that left unread."""
        if found.last <= self.position and found.epoch == self.epoch:
            return []
        arrivals: list[Arrival] = []
        if found.epoch == self.epoch:
            arrivals += self._left_unread(found.first)
            gap = found.first != self.position + 1
        else:
            gap = found.behind != (self.epoch, self.position)
            for run in self._own:
                run.last = None
        own = found.node == self.node and bool(self._own) and self._own[0].number == found.number
        if own:
            self._own.popleft()
        self.epoch, self.position = found.epoch, found.last
        first, last = found.first, found.last
        arrivals.append(Arrival(epoch=found.epoch, first=first, last=last, own=own, gap=gap, found=found))
        return arrivals

    def _left_unread(self, first: int) -> list[Arrival]:
        """Return own runs that left the log before they were read: those that are stored before position `first`."""
        arrivals: list[Arrival] = []
        while self._own and (last := self._own[0].last) is not None and last < first:
            start = last - self._own.popleft().count + 1
            gap = start != self.position + 1
            arrivals.append(Arrival(epoch=self.epoch, first=start, last=last, own=True, gap=gap))
            self.position = last
        return arrivals

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers
