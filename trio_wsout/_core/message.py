"""Events on their way, and the messages that carry them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_wsout._core.batching import Document

__all__ = ["Accepted", "BatchMessage", "Fate", "Message", "Refused", "all_plain", "events_in"]


class Fate(Protocol):
    """Who wants to know what became of one event."""

    def confirmed(self, document: Document | None) -> None:
        """The event reached the delivery level, in this document if documents are marked."""

    def failed(self, reason: str) -> None:
        """The event will not be delivered."""


@define(eq=False, weakref_slot=False)
class Accepted:
    """One event on its way. Where events go one by one it is its own message, which saves making another.

    There is one for every event, so it holds no more than it must: making it is a part of what an event costs.
    """

    payload: bytes
    """The encoded event; as a message, not yet framed."""
    event: object
    """As the application gave it."""
    fate: Fate | None = None
    """Who waits for it."""
    seq: int = 0
    """Sequence number, 1-based; given when the event leaves the intake."""
    source: Any = field(
        default=None, kw_only=True
    )  # a parameter: `init=False` would look the default up for each
    """Which peer of a relay it came from; None: it did not come from a peer."""
    cursor: str | None = field(default=None, kw_only=True)
    """Its cursor value; None: it has none. Read as it was accepted: the application may change its event later."""

    count: ClassVar[int] = 1
    """Events in it."""
    document: ClassVar[Document | None] = None
    """The document marker: there is none without batches."""

    @property
    def events(self) -> Sequence[Accepted]:
        """Itself."""
        return (self,)

    @property
    def last_seq(self) -> int:
        """Its own number."""
        return self.seq

    @property
    def awaited(self) -> bool:
        """Whether somebody asked for its fate."""
        return self.fate is not None


@define(eq=False, weakref_slot=False)
class Refused(Accepted):
    """An event of which it was known before it was ever written that it can't be delivered."""

    reason: str = field(kw_only=True)
    """Why."""


@define(eq=False, weakref_slot=False)
class BatchMessage:
    """A message of several events."""

    payload: bytes
    """The encoded message, not yet framed."""
    events: Sequence[Accepted]
    """The events, in order, never empty."""
    document: Document | None = None
    """The document marker, if documents are marked."""
    count: int = field(init=False)
    """Events in it."""

    source: ClassVar[None] = None
    """What came from a peer of a relay is not batched."""

    def __attrs_post_init__(self) -> None:
        self.count = len(self.events)

    @property
    def last_seq(self) -> int:
        """Number of its last event."""
        return self.events[-1].seq

    @property
    def awaited(self) -> bool:
        """Whether somebody asked for the fate of one of its events."""
        return any(event.fate is not None for event in self.events)


Message = Accepted | BatchMessage
"""One message of the window, and what it carries."""

_PLAIN = {Accepted}


def all_plain(items: Iterable[object]) -> bool:
    """Whether all of these are events that go as they are, one a message; true where there are none."""
    # This asks many objects for their types at a third of the cost of asking each for anything else.
    return set(map(type, items)) <= _PLAIN


def events_in(messages: Sequence[Message]) -> int:
    """How many events messages carry."""
    return len(messages) if all_plain(messages) else sum([message.count for message in messages])
