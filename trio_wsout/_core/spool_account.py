"""The account of a spool: what is settled, which segments are needed, and whether there is room (SPEC 7).

Rules
-----
1. Events are numbered without a gap. Each is settled once, in any order.
2. A segment may go when every event in it is settled; segments go from the oldest on, so that what is left
   never has a gap. The newest goes only when room is short or the spool is closed.
3. A segment that has its size takes no further event, and the next begins.
4. What is on disk never exceeds `max_bytes`.
"""

from __future__ import annotations

from bisect import bisect_right

from attrs import define, field

__all__ = ["Segment", "Segments", "Settled"]

_LARGEST = 8 << 20
"""Most bytes of a segment, except where one group is larger: so much is read at once as a spool is opened."""
_INDEXED = 64 << 10
"""Bytes between two records whose place is remembered."""


class Settled:
    """The numbers that are settled: all up to `upto`, and stretches behind it."""

    upto: int
    """Every number up to this one is settled."""
    beyond: int
    """How many numbers behind it are settled, too."""

    def __init__(self, upto: int) -> None:
        self.upto = upto
        self.beyond = 0
        self._last_of: dict[int, int] = {}
        self._first_of: dict[int, int] = {}

    def add(self, first: int, last: int) -> None:
        """These numbers are settled now, and none of them was before."""
        self.beyond += last - first + 1
        before = self._first_of.pop(first - 1, None)
        if before is not None:
            del self._last_of[before]
            first = before
        after = self._last_of.pop(last + 1, None)
        if after is not None:
            del self._first_of[after]
            last = after
        if first == self.upto + 1:
            self.beyond -= last - self.upto
            self.upto = last
        else:
            self._last_of[first] = last
            self._first_of[last] = first


@define
class Segment:
    """One segment file."""

    first: int
    """Number of the first event that it has, or will have."""
    last: int
    """Number of its last event; one less than `first` while it has none."""
    salt: bytes
    """That of its header."""
    size: int
    """Bytes in it."""
    index: list[tuple[int, int]] = field(factory=list[tuple[int, int]])
    """Number of the first event, and offset, of a record in each 64 KiB."""


class Segments:
    """The segments of one spool, oldest first."""

    last: int
    """Number of the newest event."""
    size: int
    """Bytes of all segments."""

    def __init__(self, max_bytes: int) -> None:
        """Keep at most `max_bytes` in all."""
        self._most = max_bytes
        self._most_each = min(_LARGEST, max_bytes // 4)
        self._segments: list[Segment] = []
        self.last = 0
        self.size = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._segments)

    @property
    def newest(self) -> Segment | None:
        """The segment that is written to; None: there is none."""
        return self._segments[-1] if self._segments else None

    def begin(self, first: int, salt: bytes, size: int) -> Segment:
        """A new segment, with a header of `size` bytes."""
        segment = Segment(first, first - 1, salt, size)
        self._segments.append(segment)
        self.last = first - 1
        self.size += size
        return segment

    def append(self, count: int, size: int) -> None:
        """A record of `count` events was appended to the newest."""
        segment = self._segments[-1]
        if count and (not segment.index or segment.size - segment.index[-1][1] >= _INDEXED):
            segment.index.append((segment.last + 1, segment.size))
        segment.last += count
        segment.size += size
        self.last = segment.last
        self.size += size

    def wants_new(self, count: int) -> bool:
        """Whether a group of `count` events goes into a new segment; a group without events never needs one."""
        newest = self.newest
        return newest is None or (
            count > 0 and newest.size >= self._most_each and newest.last >= newest.first
        )

    def fits(self, size: int) -> bool:
        """Whether there is room for so many bytes."""
        return self.size + size <= self._most

    def oldest_settled(self, upto: int, *, newest_too: bool = False) -> Segment | None:
        """The oldest segment, if all in it is settled and it is not the newest; None: it has to stay."""
        if not self._segments or (len(self._segments) == 1 and not newest_too):
            return None
        oldest = self._segments[0]
        return oldest if oldest.last <= upto else None

    def remove_oldest(self) -> None:
        """The oldest segment is gone."""
        self.size -= self._segments.pop(0).size

    def place_of(self, number: int) -> tuple[Segment, int]:
        """The segment that holds an event, and the offset of a record not far before it."""
        segment = self._segments[bisect_right(self._segments, number, key=lambda each: each.first) - 1]
        return segment, segment.index[bisect_right(segment.index, number, key=lambda each: each[0]) - 1][1]
