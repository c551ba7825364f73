"""The account of a spool: which events are settled, which segments are needed, and whether there is room (SPEC 7).

Rules
-----
1. Events are numbered without a gap. Each is settled once, in any order.
2. A segment may be removed when every event in it is settled. Segments are removed from the oldest on, so that the rest never
   has a gap. The newest is removed only when room is short or the spool is closed.
3. A segment that is large enough takes no further event, and the next begins.
4. The files never exceed `max_bytes` together.
"""

from __future__ import annotations

from bisect import bisect_right

from attrs import define, field

__all__ = ["Segment", "Segments"]

_LARGEST = 8 << 20
"""Most bytes of a segment, except where one group is larger: so much is read in one go when a spool is opened."""
_INDEXED = 64 << 10
"""Bytes between two records whose offset is remembered."""


@define
class Segment:
    """One segment file."""

    first: int
    """Number of its first event, or of the first that it will have."""
    last: int
    """Number of its last event; one less than `first` while it has none."""
    salt: bytes
    """The salt of its header."""
    size: int
    """Bytes in it."""
    index: list[tuple[int, int]] = field(factory=list[tuple[int, int]])
    """Number of the first event, and offset, of a record in each 64 KiB."""


@define(eq=False)
class Segments:
    """The segments of one spool, oldest first."""

    _max_bytes: int
    """Bytes of all segments, at most."""
    last: int = field(default=0, init=False)
    """Number of the newest event."""
    size: int = field(default=0, init=False)
    """Bytes of all segments."""
    _segments: list[Segment] = field(factory=list[Segment], init=False)

    def __len__(self) -> int:
        """Return how many segments there are."""
        return len(self._segments)

    @property
    def newest(self) -> Segment | None:
        """The segment that is written to; None if there is none."""
        return self._segments[-1] if self._segments else None

    def begin(self, first: int, salt: bytes, size: int) -> Segment:
        """Add and return a new segment, with a header of `size` bytes."""
        segment = Segment(first, first - 1, salt, size)
        self._segments.append(segment)
        self.last = first - 1
        self.size += size
        return segment

    def append(self, count: int, size: int) -> None:
        """Note that a record of `count` events was appended to the newest segment."""
        segment = self._segments[-1]
        if count and (not segment.index or segment.size - segment.index[-1][1] >= _INDEXED):
            segment.index.append((segment.last + 1, segment.size))
        segment.last += count
        segment.size += size
        self.last = segment.last
        self.size += size

    def wants_new(self, count: int) -> bool:
        """Return whether a group of `count` events goes into a new segment; a group without events needs none if there is one."""
        newest = self.newest
        return newest is None or (
            count > 0 and newest.size >= min(_LARGEST, self._max_bytes // 4) and newest.last >= newest.first
        )

    def fits(self, size: int) -> bool:
        """Return whether there is room for `size` bytes more."""
        return self.size + size <= self._max_bytes

    def oldest_settled(self, upto: int, *, newest_too: bool = False) -> Segment | None:
        """Return the oldest segment if it may be removed, because all events up to `upto` are settled; None if it has to stay.

        The newest segment has to stay unless `newest_too`.
        """
        if not self._segments or (len(self._segments) == 1 and not newest_too):
            return None
        oldest = self._segments[0]
        return oldest if oldest.last <= upto else None

    def remove_oldest(self) -> None:
        """Note that the oldest segment was removed."""
        self.size -= self._segments.pop(0).size

    def locate(self, number: int) -> tuple[Segment, int]:
        """Return the segment that holds an event, and the offset of a record not far before that event."""
        segment = self._segments[bisect_right(self._segments, number, key=lambda each: each.first) - 1]
        return segment, segment.index[bisect_right(segment.index, number, key=lambda each: each[0]) - 1][1]
