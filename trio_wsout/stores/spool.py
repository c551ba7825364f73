"""Where accepted events are kept until they are settled: the protocol that every spool follows (SPEC 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SpoolFullError", "SpoolStore", "Spooled"]


class SpoolFullError(Exception):
    """There is no room for a group of events now, and nothing of it was kept; the text says why."""


@frozen(kw_only=True)
class Spooled:
    """What a spool holds as it is opened."""

    epoch: int
    """With its number it names an event, also in a later life."""
    settled: int
    """All events up to this number are settled; what is left begins behind it."""
    last: int
    """Number of the newest event."""
    size: int
    """Bytes on disk."""
    torn: int
    """Torn groups that were cut off: a crash came before they were accepted."""


class SpoolStore(Protocol):
    """Keeps one log of events. One output uses it at a time.

    Events are bytes here; what is in them is the output's matter. They are numbered without a gap in the
    order in which they are appended. Every method raises SpoolError when the spool can't be read or
    written, naming the place, the cause and what to do; it is not used any more then, but closed.
    """

    place: str
    """Where it is, for people."""

    async def open(self, epoch: int) -> Spooled:
        """Take the spool over; one that holds nothing begins anew, with `epoch` and number 1."""
        ...

    async def append(self, events: Sequence[bytes], settled: int) -> int:
        """Keep a group of events, perhaps none, and that all up to number `settled` are settled; gives the bytes on disk.

        When it returns they survive a crash. All or none are kept. A cancellation comes before anything
        is written, or not at all.

        Raises:
            SpoolFullError: There is no room now. (Never for a group without events: that is a hint.)
        """
        ...

    async def after(self, number: int, most_bytes: int) -> Sequence[bytes]:
        """Some of the oldest events behind `number`, which is not the newest: about `most_bytes`, but at least one."""
        ...

    async def aclose(self) -> None:
        """Close the spool; what is not settled stays. Never fails."""
        ...
