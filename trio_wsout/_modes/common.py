"""The objects that every part of one output uses: its configuration and hooks, its encoder, its account of events."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import trio
from attrs import evolve

from trio_wsout._core.acknowledgement import AckReader, Epochs
from trio_wsout._core.callables import CallableError, plain
from trio_wsout._core.cursor import CursorReader, ReceivedCursor, goes_into_header
from trio_wsout._core.durable_log import Entry, Kind, event_of
from trio_wsout._core.json_line import BLANKS, JsonLine, value_of_event
from trio_wsout._core.log import Log
from trio_wsout._core.message import Accepted, Fate, Refused
from trio_wsout._core.packing import Packer
from trio_wsout._core.payload import Base64Error, Encoder
from trio_wsout._core.settled import Settled
from trio_wsout._core.statistics import Counters
from trio_wsout._core.unpacking import Unpacker
from trio_wsout._modes.hooks import Hooks
from trio_wsout._tasks.channel import ReceivingEnd, SendingEnd, open_channel
from trio_wsout._tasks.fan_out import FanOut
from trio_wsout._tasks.heartbeat import HeartbeatTask
from trio_wsout._tasks.inbox import Inbox, RawInbox, Taker
from trio_wsout._tasks.ledger import Item, Ledger
from trio_wsout._tasks.received_channel import Handover
from trio_wsout._tasks.text_files import read_text_file
from trio_wsout._wire.frames import BINARY, TEXT, plain_frame
from trio_wsout._wire.peer_log import PeerLog
from trio_wsout.config.scalars import is_unicode
from trio_wsout.config.sections import Config, CursorFrom, DeliveryLevel, Mode, OnGap, Payload
from trio_wsout.config.templates import TemplateError
from trio_wsout.errors import EventError

_WAITING = 256
"""Events that wait between ``send`` and the sender: enough that a task switch serves many."""
_RECEIVED = 64
"""Received messages that wait for the application."""


class Common:
    """The objects that the parts of one output share."""

    def __init__(self, config: Config, hooks: Hooks, whole: Common | None = None) -> None:
        """Make it for an output of this configuration, or for a part of the output `whole` that has an account of its own."""
        self.config = config
        self.hooks = hooks
        self.encoder = Encoder(config.payload, config.batch, stamp=config.delivery.stamp)
        self._is_json = config.payload is not Payload.BINARY_BASE64
        self._event, self._dict = self.encoder.event, self.encoder.plain_dict
        stamp = config.delivery.stamp
        # A stamp adds a key, two numbers of 64 bits, quotes and a comma.
        stamp_room = 0 if stamp is None else 6 * len(stamp) + 48
        self._most = config.max_message_size - self.encoder.overhead(None, None) - stamp_room
        self.sources: dict[str, Callable[[], str | None]] = {}
        """The values of ``${cursor}`` and ``${attempt}``, where there is a link."""
        self.counters: Counters = Counters() if whole is None else whole.counters
        self.cursor: CursorReader | None = None
        self.follower: ReceivedCursor | None = None
        """Moves the link's cursor by what comes in; None if it moves by what is sent, or there is no cursor."""
        self._sent_cursor: CursorReader | None = None
        """Reads the cursors of events that the application sends; None if these have none."""
        if config.cursor is not None:
            self.cursor = self._sent_cursor = CursorReader(config.cursor, in_header=goes_into_header(config))
            if config.cursor.from_ is CursorFrom.RECEIVED:
                self.follower = ReceivedCursor(self.cursor, self.counters)
                # In a relay they are cursors of its own peers.
                self._sent_cursor = self.cursor if config.mode is Mode.RELAY else None
        self.epoch = time.time_ns() // 1_000_000
        """The epoch of the stamps: milliseconds since 1970, or what an earlier run left (`go_on`)."""
        self.earlier = 0
        """The number of the last event that earlier runs have settled."""
        self.packer = Packer(config, self.encoder, epoch=self.epoch, resolve=self.resolve)
        self.epochs = Epochs()
        """The epochs of the stamps of what was sent so far."""
        self.epochs.begin(self.epoch, 0)
        self.acks: AckReader | None = None
        if config.delivery.level is DeliveryLevel.ACKED:
            self.acks = AckReader(config.delivery.ack_pointer, self.epochs)
        self.ledger: Ledger = Ledger(hooks.undelivered, None if whole is None else whole.ledger)
        self.peer_log: PeerLog = PeerLog() if whole is None else whole.peer_log
        self.heartbeat_task: HeartbeatTask = HeartbeatTask() if whole is None else whole.heartbeat_task
        """Watches the deadlines of all sessions."""
        self.fan_out = self._make_fan_out()
        self.ages = config.delivery.max_age is not None
        """Whether events can be too old, so that the time at which each was accepted is noted."""
        # As a method of the clock it costs half of what `trio.current_time` costs each event.
        self._now = trio.lowlevel.current_clock().current_time if self.ages else trio.current_time
        ends: tuple[SendingEnd[Item], ReceivingEnd[Item]]
        ends = open_channel(_WAITING, accepted_now if self.ages else None)
        self.entry, self.queue = ends
        self.received = Handover(_RECEIVED, self.follower if config.mode is Mode.CLIENT else None)
        self.receives = hooks.receive or config.mode is Mode.SERVER_INPUT
        """Whether the application may take messages."""

    def of_link(self) -> Common:
        """Return what the link of a relay with a spool has for itself: numbers, packer, account and log, as in mode client."""
        up = Common(evolve(self.config, mode=Mode.CLIENT, server=None, history=None), self.hooks, self)
        up.cursor, up.follower = self.cursor, self.follower
        up.fan_out.changed = self.fan_out.changed
        up.fan_out.counts_link = False  # a relay counts what it writes to its peers
        self.fan_out.log.leaves_old_to_another = True
        return up

    def _make_fan_out(self) -> FanOut:
        config, server, frame = self.config, self.config.server, None
        delivery, advice = config.delivery, "heartbeat: none"
        if config.mode is not Mode.SERVER_INPUT and delivery.level is not DeliveryLevel.WRITTEN:
            advice += ", and delivery.level: written"
        if server is not None:
            frame = partial(plain_frame, opcode=self.opcode)
        capacity = 0 if server is None else server.send_buffer_capacity
        return FanOut(
            Log(delivery, config.retry.timeout, capacity=capacity, frame=frame),
            self.ledger,
            self.counters,
            server,
            opcode=self.opcode,
            stamped=delivery.stamp is not None,
            advice=advice,
            peer_log=self.peer_log,
            heartbeat_task=self.heartbeat_task,
            epochs=self.epochs,
            tells_gaps=config.history is None or config.history.on_gap is OnGap.TELL,
        )

    @property
    def opcode(self) -> int:
        """Whether messages are texts (1) or bytes (2): RFC 6455 section 5.2."""
        return TEXT if self.encoder.is_text else BINARY

    def go_on(self, epoch: int, after: int) -> None:
        """Continue where an earlier run ended: stamp with `epoch`, number events from `after` + 1."""
        self.epoch, self.earlier = epoch, after
        self.ledger.settled = Settled(after)
        self.packer.go_on(epoch, after)
        self.epochs.begin(epoch, 0)

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
        cursor = self._sent_cursor
        if cursor is not None:
            value = value_of_event(event)
            accepted.cursor = cursor.value_of(value) if own else cursor.value_from(value)
        return accepted

    def encode_now(self, event: object, fate: Fate | None = None) -> Accepted:
        """Encode an event that is accepted now, if there is room for it; raises as `encode` does."""
        accepted = self.encode(event, fate)
        accepted.at = self._now()
        return accepted

    def revive(self, entry: Entry) -> Accepted:
        """Encode an event of a spool; if this configuration can't send it, it is undelivered."""
        event = event_of(entry)
        try:
            accepted = self.encode(event, own=False)
        except ValueError as error:
            return Refused(b"", event, reason=str(error))
        accepted.at = _since(entry)
        return accepted

    def from_other(self, entry: Entry) -> Accepted:
        """Return an event of another output, which is in no account of this one, as it goes to peers."""
        payload, kind = entry.payload, entry.kind
        if (kind is Kind.JSON or kind is Kind.LINE) and self._is_json and len(payload) <= self._most:
            # Nearly always: it is encoded already.
            accepted = Accepted(payload, JsonLine(payload.strip(BLANKS)))
            if self.ages:
                accepted.at = _since(entry)
        else:
            accepted = self.revive(entry)
        accepted.cursor = entry.cursor
        return accepted

    def inbox(self, taker: Taker | None = None, unpacker: Unpacker | None = None) -> Inbox:
        """Return an inbox that passes messages on to `taker`; if that is None, it counts and drops them.

        Acknowledgements are read in any case. `unpacker` takes batches apart; None if a message is one event.
        """
        kind = RawInbox if self.hooks.raw and taker is not None else Inbox
        return kind(
            self.config.payload,
            taker,
            self.acks,
            self.counters,
            self.peer_log,
            unpacker,
            # Events may still have to go up; mode server-input is of no use without the application.
            optional=self.config.mode is Mode.CLIENT,
        )

    def resolve(self, source: str, name: str | None) -> str | None:
        """Return the value of a ``${…}``; None if there is none.

        Raises:
            TemplateError: `secrets` raised or returned no text, a file can't be read, or the value is no Unicode.
                It costs an attempt or a batch.
        """
        if source in self.sources:
            return self.sources[source]()
        if source == "file":
            return read_text_file(name or "")
        if source == "env":
            value: object = os.environ.get(name or "")
        elif source != "secret" or self.hooks.secrets is None:
            return None
        else:
            try:
                value = plain("secrets", self.hooks.secrets(name or ""))
            except CallableError as error:
                raise TemplateError(str(error)) from None
            except Exception as error:
                raise TemplateError(f"the secrets callable raised {type(error).__name__}") from error
        if value is None or (isinstance(value, str) and is_unicode(value)):
            return value
        reason = "is no Unicode" if isinstance(value, str) else f"is {type(value).__name__}, not a text"
        raise TemplateError(f"the value of ${{{source}|{name}}} {reason}")


def accepted_now(item: Item) -> None:
    """Note that an item is accepted now, after its task waited for room."""
    if isinstance(item, Accepted):
        item.at = trio.current_time()


def _since(entry: Entry) -> float:
    """Return the time on trio's clock at which an event was stored; now for one of the future: the clock of a machine was set back."""
    return trio.current_time() - max(0.0, time.time() - entry.at)
