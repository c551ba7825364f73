"""The figures of an output at one moment, as `Output.statistics` gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from trio_wsout._core.batching import Document

__all__ = ["Statistics"]


@frozen(kw_only=True)
class Statistics:
    """A snapshot; counters only grow. Events, unless a name says messages or bytes.

    ``accepted == confirmed + undelivered + unconfirmed`` holds in every snapshot.
    """

    state: str
    """Of the link: idle, dialling, open, backing-off, closed or gave-up; of a listener: listening or closed."""
    accepted: int
    """Events that ``send`` and its kin took."""
    confirmed: int
    """Events that reached the delivery level."""
    undelivered: int
    """Events that were reported as undelivered."""
    unconfirmed: int
    """Events that were accepted and are neither."""
    written: int
    """Events handed to the kernel; one that was written twice counts twice."""
    written_messages: int
    """Messages handed to the kernel; one that was written twice counts twice."""
    resent: int = 0
    """Messages whose writing began again."""
    received: int
    """Messages that peers sent, acknowledgements included."""
    dropped: int
    """Received messages that nobody asked for, or that could not be decoded or handed over."""
    queued: int
    """Events that wait in the intake and in the open batch."""
    window: int = 0
    """Messages in the window, unsent and in flight."""
    window_bytes: int = 0
    """Bytes of those messages."""
    peers: int
    """Open connections."""
    reconnects: int = 0
    """Times that the link opened again after its first opening."""
    sent_bytes: int
    """Bytes handed to the kernel, TLS not counted, handshakes not counted."""
    received_bytes: int
    """Bytes that came, TLS not counted, handshakes counted."""
    heartbeat_misses: int
    """Pings that got no sign of life in time."""
    unknown_acks: int
    """Acknowledgements that name nothing in flight."""
    without_cursor: int = 0
    """Confirmed events, last of their message, that hold no cursor value."""
    unusable_cursors: int = 0
    """Cursor values that came in, stored, initial or in messages of peers, and that no handshake could carry: they were not adopted."""
    cursor: str | None = None
    """The cursor: value of the last confirmed event that has one, or what was stored."""
    subprotocol: str | None = None
    """What the server chose at the latest opening."""
    last_document: Document | None
    """Marker of the latest confirmed batch, where documents are marked; with `count` 0, of an end behind which nothing
    was open."""
    spooled: int = 0
    """Events in the spool; on disk."""
    spool_bytes: int = 0
    """Bytes of the spool's files."""
    spool_torn: int = 0
    """Groups of events that a crash had torn, and that were cut off as the spool was opened: ``send`` never returned for them."""
    spool_waits: str | None = None
    """Why ``send`` waits for the spool: "spool.max-bytes is reached" or "the disk is full"; None: it does not."""
    last_error: str | None = None
    """The latest trouble, for people; None: there was none."""
    addresses: tuple[str, ...] = ()
    """Where a listener listens, the port that it got in place of port 0."""
    admitted: int = 0
    """Peers that a listener admitted."""
    refused: int = 0
    """Handshakes that were answered with an HTTP error."""
    expelled: int = 0
    """Peers that were closed because they did not keep up."""
    lost_by_slow: int = 0
    """Messages that slow peers lost (slow-peer: drop-oldest), counted for each peer."""
    unheard: int = 0
    """Messages sent while no peer was there."""
    replayed: int = 0
    """Events that peers got from the history; they count as written, too."""
    history_events: int = 0
    """Events in the history."""
    history_bytes: int = 0
    """Bytes of those events."""
