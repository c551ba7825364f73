"""The history: the retained events, the limits after which they leave, and the event that a cursor names (SPEC 9 and 11).

Rules
-----
1. Every retained event has a position. Positions grow strictly, also through restarts.
2. An epoch is one output's ownership of the history. Epochs grow, and the highest one owns it.
3. Only the oldest events leave: when there are more than `max_events`, more than `max_bytes`, or when they are older than
   `max_age`. The position of the last event that left is the floor.
4. A cursor is known if the event that it names is retained, or was the last to leave: then no event is missing between it and
   the first retained one. For any other cursor there is a gap.
5. A gap has two ends: the last cursor that the peer has (``asked``), and the first cursor behind the gap (``first``). A
   message of its own reports the gap to the peer (JSON in a text frame, whatever the payload and the batches are), or a
   Close does.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from attrs import field, frozen

from trio_wsout.config.sections import History
from trio_wsout.errors import HistoryError

__all__ = [
    "Entry",
    "Extent",
    "check_entries",
    "exceeds",
    "first_cursor",
    "gap_message",
    "taken_over",
]


@frozen(kw_only=True)
class Entry:
    """One retained event."""

    position: int
    """Its position, at least 1."""
    epoch: int
    """Epoch of the output that accepted it."""
    payload: bytes = field(repr=False)
    """The event as it stands in its message."""
    cursor: str | None
    """Its cursor value; None if it has none."""
    at: float
    """The time at which it was accepted, in seconds since 1970."""


@frozen(kw_only=True)
class Extent:
    """The content of a history at one moment."""

    epoch: int
    """The epoch that owns it."""
    floor: int
    """Position of the last event that left; 0 if none ever did."""
    tail: int
    """Position of the newest event, retained or not; 0 if there never was one."""
    events: int
    """Events retained."""
    size: int
    """Bytes of their payloads."""


def exceeds(limits: History, *, events: int, size: int, age: float) -> bool:
    """Return whether the oldest of `events` events, which is `age` seconds old, has to leave a history of `size` bytes."""
    return (
        (limits.max_events is not None and events > limits.max_events)
        or (limits.max_bytes is not None and size > limits.max_bytes)
        or (limits.max_age is not None and age > limits.max_age)
    )


def first_cursor(entries: Sequence[Entry]) -> str | None:
    """Return the first cursor among these events; None if none of them has one."""
    return next((entry.cursor for entry in entries if entry.cursor is not None), None)


def gap_message(asked: str | None, first: str | None) -> bytes:
    """Return the message that reports to a peer that events are missing.

    Args:
        asked: The last cursor that the peer has; None if its last event has none.
        first: The first cursor behind the gap; None if no event behind it has one, or there is none yet.
    """
    return orjson.dumps({"gap": {"asked": asked, "first": first}})


def gap_in(value: object) -> tuple[str | None, str | None] | None:
    """Return ``asked`` and ``first`` of a decoded message that reports a gap; None if it is another message."""
    match value:
        case {
            "gap": {"asked": str() | None as asked, "first": str() | None as first, **more},
            **others,
        } if not (more or others):
            return asked, first
        case _:
            return None


def check_entries(entries: Sequence[Entry], *, store: str, epoch: int, tail: int) -> None:
    """Refuse events that can't follow position `tail` in the history `store`, which `epoch` owns.

    Raises:
        HistoryError: They have an older epoch.
        ValueError: They have a newer epoch, which never opened the history, or their positions don't grow.
    """
    for entry in entries:
        if entry.epoch < epoch:
            raise taken_over(store, owner=epoch, epoch=entry.epoch)
        if entry.epoch > epoch:
            raise ValueError(f"{store}: epoch {entry.epoch} has not opened it")
        if entry.position <= tail:
            raise ValueError(f"{store}: position {entry.position} does not follow {tail}")
        tail = entry.position


def taken_over(store: str, *, owner: int, epoch: int) -> HistoryError:
    """Return the error of an output that does not own the history `store` any more."""
    return HistoryError(
        f"{store}: another process or output has taken the history over (its epoch is {owner}, this one's "
        f"{epoch}); only one may write to it at a time, so stop one of them or give it a history of its own"
    )
