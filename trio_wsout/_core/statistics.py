"""The figures of an output: the counters of its tasks, and the snapshot that `Output.statistics` returns."""

from collections.abc import Sequence
from typing import Any

from attrs import define, evolve, fields, frozen

from trio_wsout._core.batching import Document


@define(eq=False)
class Counters:
    """The counters of one output. Its tasks and its tree add to them directly, which is the cheapest way."""

    accepted: int = 0
    came_down: int = 0
    """Accepted events that came down the link of a relay."""
    written: int = 0
    written_messages: int = 0
    received: int = 0
    dropped: int = 0
    unknown_acks: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    """Only of connections that have ended; an open one counts its own."""
    heartbeat_misses: int = 0
    """Only of connections that have ended; the monitor of an open one counts its own."""
    without_cursor: int = 0
    gaps: int = 0
    admitted: int = 0
    expelled: int = 0
    replayed: int = 0
    too_old: int = 0


@frozen(kw_only=True)
class PeerStatistics:
    """The figures of one open connection."""

    since: float
    """The time at which it opened, in seconds since 1970."""
    queued: int | None
    """Messages that wait for the peer and are not written; None while it gets a replay, because what it lacks of the history is
    not counted."""
    unconfirmed: int
    """Messages that were written and are not confirmed."""
    round_trip: float | None
    """Seconds from the latest ping that was answered to its pong; None before the first."""
    sent_messages: int
    """Messages handed to the kernel."""
    sent_bytes: int
    """Bytes handed to the kernel, TLS not counted, handshake not counted."""
    received_messages: int
    """Messages that came, acknowledgements included."""
    received_bytes: int
    """Bytes that came, TLS not counted, handshake counted."""
    heartbeat_misses: int
    """Pings that got no sign of life in time (``heartbeat.action: log-only``)."""
    lost_by_slow: int
    """Messages that the peer lost because it was slow (``slow-peer: drop-oldest`` and ``delivery.max-age``)."""


@frozen(kw_only=True)
class LinkStatistics:
    """The figures of a link: of mode client, and of mode relay with a `url`."""

    state: str
    """idle, dialling, open, backing-off, closed or gave-up."""
    url: str = ""
    """The configured url of the connection, or of the current or next attempt, without its query."""
    reconnects: int = 0
    """Times that the link opened again after its first opening."""
    resent: int = 0
    """Messages whose writing began again."""
    window_bytes: int = 0
    """Bytes of the messages in the link's window, unsent and in flight."""
    subprotocol: str | None = None
    """The subprotocol that the server chose at the latest opening; None if it chose none, or the link never opened."""
    cursor: str | None = None
    """The cursor: the value of the last event that was confirmed (with ``cursor.from: received``, of the last message that was
    taken) and has one, or the stored value; None if there is neither."""
    without_cursor: int = 0
    """Confirmed events, last of their message, that hold no cursor value; with ``cursor.from: received``, such messages."""
    gaps: int = 0
    """Gaps that the server reported, with ``cursor.from: received``."""
    last_error: str | None = None
    """The latest trouble, for people; None if there was none."""


@frozen(kw_only=True)
class ListenerStatistics:
    """The figures of a listener: of the modes server-output, server-input and relay."""

    state: str
    """listening or closed."""
    addresses: tuple[str, ...] = ()
    """The addresses that it listens at; port 0 is replaced by the port that the system chose."""
    admitted: int = 0
    """Peers that were admitted."""
    refused: int = 0
    """Handshakes that were answered with an HTTP error."""
    expelled: int = 0
    """Peers that were closed because they did not keep up."""
    lost_by_slow: int = 0
    """Messages that slow peers lost (``slow-peer: drop-oldest`` and ``delivery.max-age``), counted for each peer."""
    unheard: int = 0
    """Messages that were sent while no peer was connected."""


@frozen(kw_only=True)
class SpoolStatistics:
    """The figures of a spool."""

    events: int = 0
    """Events on disk that are not settled."""
    bytes: int = 0
    """Bytes that the events in it take on the disk, at most. Events that have settled leave the disk, and this figure, up
    to 0.1 s later."""
    waits: str | None = None
    """The reason for which ``send``, and in a relay peers that send, wait for the spool: "spool.max-bytes is reached" or "the disk
    is full"; None if nobody waits."""


@frozen(kw_only=True)
class HistoryStatistics:
    """The figures of a history."""

    events: int = 0
    """Events in the history."""
    bytes: int = 0
    """Bytes of those events."""
    replayed: int = 0
    """Events that peers got from the history; they count as written, too."""
    appended: int = 0
    """Events that this output has appended to it."""
    foreign: int = 0
    """Events that came from other outputs, where several share the history; they are in no account of this one."""
    lag: int = 0
    """Events between what this output has read of a shared history and the end of it, about a second ago."""
    waiting: str | None = None
    """The reason for which a shared history makes this output wait: for example that the engine can't be reached; None if it
    does not wait."""


@frozen(kw_only=True)
class Statistics:
    """A snapshot; counters only grow. Figures count events, unless a name has messages or bytes in it.

    ``accepted == confirmed + undelivered + unconfirmed`` holds in every snapshot.
    """

    accepted: int = 0
    """Events that ``send``, and the other calls that send, accepted."""
    confirmed: int = 0
    """Events that reached the delivery level."""
    undelivered: int = 0
    """Events that were reported as undelivered."""
    too_old: int = 0
    """Events that were older than ``delivery.max-age`` when their turn came: they are undelivered, or about to be reported so."""
    unconfirmed: int = 0
    """Events that were accepted and are neither confirmed nor undelivered yet."""
    written: int = 0
    """Events handed to the kernel; one that was written twice counts twice."""
    written_messages: int = 0
    """Messages handed to the kernel; one that was written twice counts twice."""
    received: int = 0
    """Messages that peers sent, acknowledgements included."""
    dropped: int = 0
    """Received messages that nobody asked for, or that could not be decoded or handed over."""
    queued: int = 0
    """Events that wait in the intake and in the open batch; with a spool also those that are on disk only. Of a relay with a
    spool, those that wait for the peers or for the link, whichever are more."""
    window: int = 0
    """Messages that are past the batch and not confirmed, unsent and in flight. Of a relay with a spool, those of the peers or
    of the link, whichever are more."""
    peers: int = 0
    """Open connections."""
    sent_bytes: int = 0
    """Bytes handed to the kernel, TLS not counted, handshakes not counted."""
    received_bytes: int = 0
    """Bytes that came, TLS not counted, handshakes counted."""
    heartbeat_misses: int = 0
    """Pings that got no sign of life in time."""
    unknown_acks: int = 0
    """Acknowledgements that name nothing in flight."""
    unusable_cursors: int = 0
    """Cursor values (stored, initial, or in messages of peers) that were not adopted, because no handshake could carry them."""
    last_document: Document | None = None
    """Marker of the latest confirmed batch; with `count` 0 if no batch was open when the document ended. None if documents
    are not marked, or none is confirmed yet."""
    link: LinkStatistics | None = None
    """The link; None if the output has none."""
    listener: ListenerStatistics | None = None
    """The listener; None in mode client."""
    spool: SpoolStatistics | None = None
    """The spool; None if none is configured."""
    history: HistoryStatistics | None = None
    """The history; None if none is configured."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that the listener listens at; empty if there is no listener."""
        return () if self.listener is None else self.listener.addresses


_PARTS = (Statistics, LinkStatistics, ListenerStatistics, SpoolStatistics, HistoryStatistics)
_SHARED = {"events", "bytes", "lag"}
"""Figures of a history that every output has of the same history, or that are worth knowing of the slowest output only."""


def total(outputs: Sequence[Statistics]) -> Statistics:
    """Return the figures of outputs that share a port and a history as if they were one output; zeros if there are none.

    Numbers are added up, but those of the shared history are the largest; of texts, the first one counts.
    """
    result: Statistics | None = _together(outputs)
    return Statistics() if result is None else result


def _together(values: Sequence[Any], *, shared: bool = False) -> Any:  # noqa: ANN401 - any figure
    there = [each for each in values if each is not None]
    first = there[0] if there else None
    if isinstance(first, _PARTS):
        changes = {
            each.name: _together(
                [getattr(part, each.name) for part in there],
                shared=isinstance(first, HistoryStatistics) and each.name in _SHARED,
            )
            for each in fields(type(first))
        }
        return evolve(first, **changes)
    if isinstance(first, int):
        return max(there) if shared else sum(there)
    return first
