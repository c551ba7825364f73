"""The part that the trees of all modes share: accepting and encoding events, the account of them, and the end."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress

import trio

from trio_wsout._core.callables import CallableError, plain
from trio_wsout._core.cursor import CursorReader, goes_into_header
from trio_wsout._core.json_line import value_of_event
from trio_wsout._core.message import Accepted, Fate, Refused
from trio_wsout._core.payload import Base64Error, Encoder
from trio_wsout._core.statistics import Counters, Statistics
from trio_wsout._modes.hooks import Hooks
from trio_wsout._tasks.channel import ReceivingEnd, SendingEnd, open_channel
from trio_wsout._tasks.ledger import DocumentEnd, Flush, Item, Ledger
from trio_wsout._tasks.received_channel import Handover
from trio_wsout._tasks.spool_journal import SpoolJournal
from trio_wsout._tasks.text_files import read_text_file
from trio_wsout._wire.peer_log import PeerLog
from trio_wsout.config.scalars import is_unicode
from trio_wsout.config.sections import BatchMode, Config
from trio_wsout.config.templates import TemplateError
from trio_wsout.errors import EventError, Undelivered

__all__ = ["Tree"]

_INTAKE = 256
"""Events that wait between ``send`` and the sender: enough that a task switch serves many."""
_RECEIVED = 64
"""Received messages that wait for the application."""


class Tree(ABC):
    """The tree of one output, with the state that its tasks share with `Output`."""

    def __init__(self, config: Config, hooks: Hooks) -> None:
        """Make the tree; `run` brings it to life."""
        self._config = config
        self._hooks = hooks
        self.encoder = Encoder(config.payload, config.batch, stamp=config.delivery.stamp)
        self._event, self._dict = self.encoder.event, self.encoder.plain_dict
        stamp = config.delivery.stamp
        # A stamp adds a key, two numbers of 64 bits, quotes and a comma.
        stamp_room = 0 if stamp is None else 6 * len(stamp) + 48
        self._most = config.max_message_size - self.encoder.overhead(None, None) - stamp_room
        self._cursor: CursorReader | None = None
        if config.cursor is not None:
            self._cursor = CursorReader(config.cursor, in_header=goes_into_header(config))
        self.ledger = Ledger(hooks.undelivered)
        self.counters = Counters()
        self.peer_log = PeerLog()
        ends: tuple[SendingEnd[Item], ReceivingEnd[Item]] = open_channel(_INTAKE)
        self._intake, self._queue = ends
        self.entry: SendingEnd[Item] | SpoolJournal = self._intake
        """Takes what `Output` accepts; another entry than the intake where there is a spool."""
        self.received = Handover(_RECEIVED)
        self.receives = hooks.receive
        """Whether the application may take messages."""
        self.bounding: Handover | None = None
        """Bounds waits for confirmations while the application has to take messages; None if nothing bounds them."""
        self.accepted = 0
        """Events that were accepted."""
        self.waits_for_disk = False
        """Whether `send` waits until the event is on disk, even if there is room."""
        self.ended = trio.Event()
        self.end_reason = "the output was closed before the event was confirmed"
        """The reason for which events that are left were not confirmed."""
        self.left: list[Undelivered] = []
        """Events that were not confirmed when the tree ended."""
        self.kept = ""
        """A sentence about events that stay in the spool, and why; empty if none do."""
        self._late = False
        """Whether shutdown-timeout went by."""

    def encode(self, event: object, fate: Fate | None = None, *, own: bool = True) -> Accepted:
        """Return an event in the form that the sender takes; `own` is whether the application sends it.

        Raises:
            EventError: It can't be encoded, is too large, or is the application's own and holds a cursor that no
                handshake can carry.
        """
        try:
            kind = type(event)
            # Called as `self._event(event)`, Python would search the class and all its bases for it first.
            encode = self._dict if kind is dict else self._event
            encoded = encode(event)
        except Base64Error as error:
            return Refused(b"", event, fate, reason=str(error))
        if len(encoded) > self._most:
            raise EventError(f"the event has {len(encoded)} bytes, {self._most} fit into max-message-size")
        accepted = Accepted(encoded, event, fate)
        if self._cursor is not None:
            value = value_of_event(event)
            accepted.cursor = self._cursor.value_of(value) if own else self._cursor.value_from(value)
        return accepted

    @abstractmethod
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tree until it was closed by `finish`, broke, or is cancelled."""

    async def begin(self) -> None:
        """Wait until the link is open, if it is eager: `open_output` waits for this once the tree runs."""
        await trio.lowlevel.checkpoint()

    @abstractmethod
    async def finish(self) -> None:
        """End gracefully: everything is confirmed or reported, the peers get a Close, and then `run` returns.

        Nothing may be sent any more. The caller bounds the time. If the output breaks meanwhile, this returns.
        """

    def out_of_time(self) -> None:
        """Set shutdown-timeout and the present situation as the reason for unconfirmed events. Only the first call counts."""
        if self._late:
            return
        self._late = True
        limit = self._config.shutdown_timeout
        self.end_reason = f"not confirmed within shutdown-timeout ({limit:g} s); {self.situation()}"

    @abstractmethod
    def situation(self) -> str:
        """Return the situation in words, for the reason of events that were not confirmed in time."""

    @abstractmethod
    async def wait_peers(self, count: int) -> None:
        """Wait until so many peers are connected at the same time; a lazy link dials for it."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """Return the figures of this moment."""

    def _common_statistics(self, *, pending: int) -> Statistics:
        """Return the figures that every mode has; `pending` events wait in the sender."""
        ledger, counters = self.ledger, self.counters
        # A task that waited in `send` counts its event a moment after the sender may have taken it.
        accepted = max(self.accepted, ledger.taken)
        return Statistics(
            accepted=accepted,
            confirmed=ledger.confirmed,
            undelivered=ledger.undelivered,
            unconfirmed=accepted - ledger.confirmed - ledger.undelivered,
            written=counters.written,
            written_messages=counters.written_messages,
            received=counters.received,
            dropped=counters.dropped,
            queued=accepted - ledger.taken + pending,
            sent_bytes=counters.sent_bytes,
            received_bytes=counters.received_bytes,
            heartbeat_misses=counters.heartbeat_misses,
            unknown_acks=counters.unknown_acks,
            unusable_cursors=0 if self._cursor is None else self._cursor.unusable,
            last_document=ledger.last_document,
        )

    async def flush(self) -> bool:
        """Wait until every event accepted so far is confirmed or reported; return false if the output ended first."""
        flush = await self._mark()
        await flush.done.wait()
        return not flush.abandoned

    async def _end_document(self) -> None:
        """End the document with the output, if there are documents."""
        batch = self._config.batch
        if batch is not None and batch.mode is BatchMode.DOCUMENT:
            with suppress(trio.BrokenResourceError):
                await self.entry.send(DocumentEnd())
        else:
            await trio.lowlevel.checkpoint()

    async def _mark(self) -> Flush:
        """Put a mark behind everything accepted so far, and return it; if the output has ended, it is abandoned."""
        flush = Flush()
        try:
            await self.entry.send(flush)
        except trio.BrokenResourceError:
            flush.abandon()
        return flush

    def _bound_waits(self, nursery: trio.Nursery) -> None:
        """If the application takes messages, have waits for confirmations end when it takes none."""
        if self.receives:
            self.bounding = self.received
            nursery.start_soon(self.received.watch_progress, self._config.retry.timeout)

    def resolve(self, source: str, name: str | None) -> str | None:
        """Return the value of a ``${…}``; None if there is none.

        Raises:
            TemplateError: `secrets` raised or returned no text, a file can't be read, or the value is no Unicode.
                It costs an attempt or a batch.
        """
        if source == "file":
            return read_text_file(name or "")
        if source == "env":
            value: object = os.environ.get(name or "")
        elif source != "secret" or self._hooks.secrets is None:
            return None
        else:
            try:
                value = plain("secrets", self._hooks.secrets(name or ""))
            except CallableError as error:
                raise TemplateError(str(error)) from None
            except Exception as error:
                raise TemplateError(f"the secrets callable raised {type(error).__name__}") from error
        if value is None or (isinstance(value, str) and is_unicode(value)):
            return value
        reason = "is no Unicode" if isinstance(value, str) else f"is {type(value).__name__}, not a text"
        raise TemplateError(f"the value of ${{{source}|{name}}} {reason}")

    def _abandon(self, holding: Iterable[Accepted]) -> None:
        """Count everything that the tasks hold and that waits as undelivered, and put it into `left`."""
        left = self._unconfirmed(holding)
        broken = self.ledger.broken
        self.left = self.ledger.abandon(
            left, self.end_reason if broken is None else f"the output broke: {broken}"
        )
        if broken is not None:
            broken.undelivered += tuple(self.left)

    def _unconfirmed(self, holding: Iterable[Accepted]) -> list[Accepted]:
        """Close the queue of waiting events; return the events that the tasks hold, and those in the queue."""
        left = list(holding)
        with suppress(trio.WouldBlock):
            while True:
                item = self._queue.receive_nowait()
                if isinstance(item, Accepted):
                    self.ledger.taken += 1
                    left.append(item)
                else:
                    item.abandon()
        self._queue.close()
        return left
