"""The protocol of spools, which keep accepted events until they are settled (SPEC 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

__all__ = ["SpoolFullError", "SpoolStore", "Spooled"]


class SpoolFullError(Exception):
    """A group of events does not fit now, and none of them was stored; the text has the reason."""


@frozen(kw_only=True)
class Spooled:
    """The state of a spool when it is opened."""

    epoch: int
    """Together with its number it identifies an event, also after a restart."""
    settled: int
    """All events up to this number are settled; the ones that are left follow it."""
    last: int
    """Number of the newest event."""
    size: int
    """Bytes on disk."""
    torn: int
    """Number of torn groups that were cut off: a crash came before they were accepted."""


class SpoolStore(Protocol):
    """A log of events. One output uses it at a time.

    An event is bytes here; the output knows what they mean. Events are numbered without a gap in the order in which
    they are appended. Every method raises SpoolError if the spool can't be read or written; the error names the
    spool, the cause and what to do. After that the output only closes it.
    """

    location: str
    """The spool's directory or the like, for people."""

    async def open(self, epoch: int) -> Spooled:
        """Take the spool over. An empty one begins anew, with `epoch` and number 1."""
        ...

    async def append(self, events: Sequence[bytes], settled: int) -> int:
        """Store a group of events, which may be empty, and the number `settled`, up to which all are settled.

        All events are stored, or none. Once this has returned they survive a crash. It is cancelled before anything
        is written, or not at all.

        Returns:
            The bytes on disk.

        Raises:
            SpoolFullError: The group does not fit now. Never raised for an empty group, which is a hint only.
        """
        ...

    async def after(self, number: int, most_bytes: int) -> Sequence[bytes]:
        """Return some of the oldest events after `number`, which is not the newest: about `most_bytes`, but at least one."""
        ...

    async def aclose(self) -> None:
        """Close the spool; unsettled events stay in it. Never fails."""
        ...
