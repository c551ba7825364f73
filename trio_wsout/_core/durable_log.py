"""A durable log: its events, what leaves it, who owns it, and the event that a cursor names (SPEC 7, 9 and 11).

It is used as a history, which limits trim, or as a spool, which confirmations trim.

Rules
-----
1. Each event has a position, one more than the event before it, also through restarts. The first one has position 1.
2. Only the oldest events leave. The position of the last event that left is the floor: events leave a history when there are
   more than `max_events`, more than `max_bytes`, or when they are older than `max_age`; they leave a spool once they and all
   events before them have settled.
3. An epoch is one output's ownership of the log. Epochs grow, and the highest one owns it.
4. An event is kept as it was encoded, without a stamp, and with its kind, so that the event can be had back from it.
5. A cursor is known if the event that it names is in the log, or was the last to leave: then no event is missing between it
   and the first one. For any other cursor there is a gap.
6. A gap has two ends: the last cursor that the peer has (``asked``), and the first cursor behind the gap (``first``). A
   message of its own reports the gap to the peer (JSON in a text frame, whatever the payload and the batches are), or a
   Close does.
"""

# A decoded message may be anything.
# pyright: reportUnknownVariableType=false

import base64
from collections.abc import Sequence
from enum import IntEnum

import orjson
from attrs import field, frozen

from trio_wsout._core.json_line import JsonLine
from trio_wsout._core.message import Accepted, Refused
from trio_wsout.config.sections import History, Payload
from trio_wsout.errors import HistoryError, OutputError, SpoolError


class Kind(IntEnum):
    """The form of an event, by which the event can be had back from its payload."""

    JSON = 0
    """A JSON value."""
    LINE = 1
    """JSON as it was written."""
    TEXT = 2
    """A text; the payload is its UTF-8."""
    BYTES = 3
    """Bytes."""
    BASE64 = 4
    """A text that is base64; the payload is what it encodes."""
    REFUSED = 5
    """A text that was accepted and can't be delivered; the payload is its UTF-8, and goes into no message."""


@frozen
class Entry:
    """One event of a durable log."""

    position: int
    """Its position, at least 1."""
    epoch: int
    """Epoch of the output that accepted it."""
    kind: Kind
    """The form of the event."""
    payload: bytes = field(repr=False)
    """The event as it was encoded, without a stamp."""
    cursor: str | None
    """Its own cursor value; None if it has none, so that only its stamp names it."""
    at: float
    """The time at which it was stored, in seconds since 1970."""


@frozen(kw_only=True)
class Extent:
    """The content of a durable log at one moment."""

    epoch: int
    """The epoch that owns it."""
    floor: int
    """Position of the last event that left; 0 if none ever did."""
    tail: int
    """Position of the newest event, whether it is in the log or has left; 0 if there never was one."""
    size: int
    """Bytes of the payloads in the log."""
    holes: int = 0
    """Positions between floor and tail that no event has: each epoch of a shared log begins at a higher one."""

    @property
    def events(self) -> int:
        """Events in the log."""
        return self.tail - self.floor - self.holes


@frozen(kw_only=True)
class Use:
    """The use of a durable log: as a history, or as a spool."""

    name: str
    """The word for it in errors."""
    error: type[OutputError]
    """The errors of its store."""
    setting: str
    """The path of the configuration's field that names it."""


HISTORY = Use(name="history", error=HistoryError, setting="history.store")
SPOOL = Use(name="spool", error=SpoolError, setting="spool.path")


# -- events --------------------------------------------------------------------------------------------------


def kind_of(accepted: Accepted, payload: Payload) -> Kind:
    """Return the kind of an event that was encoded by `payload`."""
    event = accepted.event
    if accepted.source is not None and payload is Payload.JSON:
        return Kind.LINE  # a message of a relay's peer, as it came
    if type(event) is dict:
        return Kind.JSON
    if isinstance(accepted, Refused):
        return Kind.REFUSED
    if isinstance(event, bytes | bytearray | memoryview):
        return Kind.BYTES
    if isinstance(event, JsonLine) and (payload is Payload.JSON or not event.is_text):
        return Kind.LINE
    if not isinstance(event, str | JsonLine) or payload is Payload.JSON:
        return Kind.JSON
    return Kind.BASE64 if payload is Payload.BINARY_BASE64 else Kind.TEXT


def stored_payload(accepted: Accepted) -> bytes:
    """Return the bytes that are stored of an event: its payload, or the text that has none."""
    if isinstance(accepted, Refused):
        event = accepted.event
        text = event.value() if isinstance(event, JsonLine) else event
        return str(text).encode("utf-8", "surrogatepass")
    return accepted.payload


def event_of(entry: Entry) -> object:
    """Return the event of an entry: a JSON value, JSON as it was written, a text or bytes."""
    match entry.kind:
        case Kind.JSON:
            return orjson.loads(entry.payload)
        case Kind.LINE:
            return JsonLine(entry.payload)
        case Kind.BYTES:
            return entry.payload
        case Kind.BASE64:
            return base64.b64encode(entry.payload).decode()
        case _:  # a text, refused or not
            return entry.payload.decode("utf-8", "surrogatepass")


# -- what leaves, and who owns the log -----------------------------------------------------------------------


def exceeds(limits: History, *, events: int, size: int, age: float) -> bool:
    """Return whether the oldest of `events` events, which is `age` seconds old, has to leave a history of `size` bytes."""
    return (
        (limits.max_events is not None and events > limits.max_events)
        or (limits.max_bytes is not None and size > limits.max_bytes)
        or (limits.max_age is not None and age > limits.max_age)
    )


def check_run(run: Sequence[Entry], extent: Extent, *, store: str, use: Use) -> None:
    """Refuse a run of events that can't be appended to the log `store` of this extent.

    Raises:
        OutputError: They have an older epoch: the error of `use`.
        ValueError: They have a newer epoch, which never opened the log, or a position is not one more than the one before.
    """
    tail, epoch = extent.tail, extent.epoch
    for entry in run:
        if entry.epoch < epoch:
            raise taken_over(store, use=use, owner=epoch, epoch=entry.epoch)
        if entry.epoch > epoch:
            raise ValueError(f"{store}: epoch {entry.epoch} has not opened it")
        tail += 1
        if entry.position != tail:
            raise ValueError(f"{store}: position {entry.position} does not follow {tail - 1}")


def taken_over(store: str, *, use: Use, owner: int, epoch: int) -> OutputError:
    """Return the error of an output that does not own the log `store` any more."""
    return use.error(
        f"{store}: another process or output has taken the {use.name} over (its epoch is {owner}, this one's "
        f"{epoch}); only one may write to it at a time, so stop one of them or give it a {use.name} of its own"
    )


# -- gaps ----------------------------------------------------------------------------------------------------


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
