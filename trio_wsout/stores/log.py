"""The protocol of durable logs: histories, which limits trim (SPEC 11), and spools, which confirmations trim (SPEC 7)."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from trio_wsout._core.durable_log import Entry, Extent, Kind
from trio_wsout._core.shared_log import Arrival

__all__ = ["Arrival", "Entry", "Extent", "Kind", "LogFullError", "LogStore", "SharedLog"]


class LogFullError(Exception):
    """There is no room on the disk now, and nothing was stored; the text has the reason."""


class LogStore(Protocol):
    """A log of events. A history removes the events that exceed the limits with which it was made.

    One output writes to it at a time; any number of tasks read it. Every method raises HistoryError, or SpoolError if it
    is a spool, if the log can't be read or written; the error names the log, the cause and what to do.
    """

    location: str
    """Its file, directory or the like, for people."""

    async def open(self, epoch: int, *, keep_epoch: bool = False) -> Extent:
        """Take the log over with `epoch`, or with one more than the stored epoch if that is higher.

        Args:
            epoch: The epoch that a new log gets.
            keep_epoch: Whether the stored epoch stays, if there is an event in the log: so that events have the same stamps
                after a restart. Nothing but a lock then keeps two outputs from writing.
        """
        ...

    async def append(self, run: Sequence[Entry], settled: int = 0) -> Extent:
        """Append events, which may be none, with one commit; remove those up to position `settled`, and those that exceed the limits.

        All of them are stored, or none. Once this has returned they survive whatever the log survives. It is cancelled
        before anything is written, or not at all.

        Args:
            run: Events with one time. Their positions go on from the tail, without a gap.
            settled: The position up to which all events may leave.

        Raises:
            HistoryError: They can't be written, or an output with a higher epoch has taken over (a spool: SpoolError).
            LogFullError: There is no room for them now.
        """
        ...

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        """Return the oldest events after `position`: at most `most`, and at most `most_bytes` but at least one.

        An error that names a damaged event comes only when that event would be the first: those before it can be read,
        and those behind it, too, by the call with its position.
        """
        ...

    async def find(self, cursor: str) -> int | None:
        """Return the position of the newest event with this cursor; if none has it, that of the event with this stamp.

        The stamp of an event is the text ``epoch-position``. The last event that left counts, too. None if the cursor is
        unknown.
        """
        ...

    async def trim(self, now: float) -> Extent:
        """Remove the events that exceed the limits at `now` (seconds since 1970), and return the new extent."""
        ...

    async def aclose(self) -> None:
        """Close the log, which can't be used any more; events stay in it. Never fails."""
        ...


@runtime_checkable
class SharedLog(LogStore, Protocol):
    """A log to which several outputs append, each of which hands over what it reads from it: so all see one order.

    The log gives positions and epoch: those of the entries that are appended do not count. Positions grow for ever, but a new
    epoch begins at a higher one, and an epoch begins whenever the log may not be what it was; `open` joins the one that is.

    While the log can't be reached, or takes nothing, all methods wait, and go on by themselves: nothing is appended twice. If
    waiting does not help they raise HistoryError, and `open` does so after some seconds.
    """

    extent: Extent
    """The extent as of the latest append, or of a look that is about a second old."""

    @property
    def lag(self) -> int:
        """The number of events between what was read for `follow` and the tail, about a second ago."""
        ...

    @property
    def waiting(self) -> str | None:
        """The reason, in words, for which a call waits now; None if none does."""
        ...

    async def run(self) -> None:
        """Keep the connections, and follow the log, until cancelled: a task of the tree, which starts it behind `open`.

        Everything but `open` waits for it. It raises nothing: an error comes from the calls.
        """
        ...

    async def adjacent(self, position: int, following: int) -> bool:
        """Return whether no event is missing between these two positions, though they do not follow each other: an epoch begins there."""
        ...

    async def follow(self) -> Sequence[Arrival]:
        """Return the next runs of events, at least one, behind those that it returned last; wait for them.

        It begins behind the tail that `open` returned. Each call of `append` of this output comes once, in the order of the
        calls, and maybe before that call has returned. Between two arrivals none is missing, unless the later one says so.
        """
        ...
