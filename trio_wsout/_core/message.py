"""Events that were accepted, and the messages that carry them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, ClassVar, Protocol

from attrs import define, field

from trio_wsout._core.batching import Document


class Fate(Protocol):
    """Takes the outcome of one event."""

    def confirmed(self, document: Document | None) -> None:
        """The event reached the delivery level; `document` is the marker of its batch, None if documents are not marked."""

    def failed(self, reason: str) -> None:
        """The event will not be delivered."""


@define(eq=False, weakref_slot=False)
class Accepted:
    """One accepted event. Where events go one by one it is its own message, which saves a second object.

    One is made for every event, so it has as few fields as it can.
    """

    payload: bytes
    """The encoded event, not framed."""
    event: object
    """The event as the application passed it."""
    fate: Fate | None = None
    """Takes the outcome of the event; None if nobody waits for it."""
    seq: int = 0
    """Sequence number, 1-based; 0 until the event leaves the intake."""
    source: Any = field(
        default=None, kw_only=True
    )  # a parameter: `init=False` would read the default from the class for each
    """The peer of a relay that sent it; None if no peer did."""
    cursor: str | None = field(default=None, kw_only=True)
    """Its cursor value, read as it was accepted because the application may change the event later; None if it has none."""
    at: float = field(init=False)
    """The time at which it was accepted; only set where events can be too old (delivery.max-age)."""

    count: ClassVar[int] = 1
    """Events in it."""
    document: ClassVar[Document | None] = None
    """The document marker: there is none without batches."""

    @property
    def events(self) -> Sequence[Accepted]:
        """The event itself, which is the only one of its message."""
        return (self,)

    @property
    def last_seq(self) -> int:
        """Its sequence number."""
        return self.seq

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for its outcome."""
        return self.fate is not None


@define(eq=False, weakref_slot=False)
class Refused(Accepted):
    """An event that was accepted although it can't be delivered; it is never written."""

    reason: str = field(kw_only=True)
    """The reason for which it can't be delivered."""


@define(eq=False, weakref_slot=False)
class OnDisk(Accepted):
    """An event for the peers of a relay that is in the spool of its link, too."""

    position: int = field(kw_only=True)
    """Its position in the spool."""


@define(eq=False, weakref_slot=False)
class BatchMessage:
    """A message of several events."""

    payload: bytes
    """The encoded message, not framed."""
    events: Sequence[Accepted]
    """The events, in order, never empty."""
    document: Document | None = None
    """The document marker, if documents are marked."""
    count: int = field(init=False)
    """Events in it."""

    source: ClassVar[None] = None
    """No batch comes from a peer of a relay: its messages are not batched."""

    def __attrs_post_init__(self) -> None:
        self.count = len(self.events)

    @property
    def at(self) -> float:
        """The time at which its oldest event was accepted."""
        return self.events[0].at

    @property
    def last_seq(self) -> int:
        """Sequence number of its last event."""
        return self.events[-1].seq

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the outcome of one of its events."""
        return any(event.fate is not None for event in self.events)


@define(eq=False, weakref_slot=False)
class GapNotice:
    """A message that reports to every peer that events are missing between the message before it and the one behind it."""

    payload: bytes
    """The message, not framed."""
    frame: bytes
    """The same in a frame: of a text, whatever other messages are."""
    last_seq: int
    """The number behind which events go on."""

    events: ClassVar[Sequence[Accepted]] = ()
    count: ClassVar[int] = 0
    source: ClassVar[None] = None
    document: ClassVar[Document | None] = None
    awaited: ClassVar[bool] = False
    at: ClassVar[float] = inf
    """It never becomes too old."""


Message = Accepted | BatchMessage | GapNotice
"""One message with its events."""

_PLAIN = {Accepted}


def all_plain(items: Iterable[object]) -> bool:
    """Return whether all items are plain `Accepted` events; true if there are none."""
    # This asks many objects for their types at a third of the cost of asking each for anything else.
    return set(map(type, items)) <= _PLAIN


def events_in(messages: Sequence[Message]) -> int:
    """Return how many events the messages carry."""
    return len(messages) if all_plain(messages) else sum([message.count for message in messages])
