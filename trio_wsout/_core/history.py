"""The retained log: what is kept of each event, how much is kept, and where a cursor points (SPEC 9 and 11).

Rules
-----
1. Every retained event has a position; positions grow strictly, through restarts too.
2. An epoch is one output's ownership of the log; epochs grow. The highest owns it.
3. Events leave at the old end only: when there are more than `max_events`, more than
   `max_bytes`, or when they are older than `max_age`. The last position that left is the floor.
4. A cursor is known when the event that it names is retained, or was the last to leave: then
   nothing is missing between it and the first retained event. Any other cursor meets a gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from trio_wsout.config.sections import History

__all__ = ["Entry", "Extent", "Limits"]


@frozen(kw_only=True)
class Entry:
    """One retained event."""

    position: int
    """Its place in the log, ≥ 1."""
    epoch: int
    """Epoch of the output that accepted it."""
    payload: bytes = field(repr=False)
    """The event as it stands in its message."""
    cursor: str | None
    """Its cursor value; None: it has none."""
    at: float
    """When it was accepted: seconds since 1970."""


@frozen(kw_only=True)
class Extent:
    """What a log holds at one moment."""

    epoch: int
    """The epoch that owns it."""
    floor: int
    """Position of the last event that left; 0: none ever did."""
    tail: int
    """Position of the newest event, retained or not; 0: there was none ever."""
    events: int
    """Events retained."""
    size: int
    """Bytes of their payloads."""


@frozen(kw_only=True)
class Limits:
    """How much is retained; None: no bound."""

    max_events: int | None = None
    """Most events."""
    max_age: float | None = None
    """Seconds that an event stays."""
    max_bytes: int | None = None
    """Most bytes of payloads."""

    @classmethod
    def of(cls, history: History) -> Limits:
        """The limits that a `history` section sets."""
        return cls(max_events=history.max_events, max_age=history.max_age, max_bytes=history.max_bytes)
