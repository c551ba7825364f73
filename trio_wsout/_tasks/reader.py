"""The reader: always drains the connection, and passes messages on to the application, the relay or nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import trio
from attrs import define, field

from trio_wsout._core.acknowledgement import AckReader
from trio_wsout._core.cursor import MISSING
from trio_wsout._core.json_line import parse_json
from trio_wsout._core.message import Accepted
from trio_wsout._core.payload import MessageError, decode
from trio_wsout._core.received import Peer, RawReceived, Received
from trio_wsout._core.statistics import Counters
from trio_wsout._core.unpacking import Unpacker
from trio_wsout._wire.connection import Connection
from trio_wsout._wire.peer_log import PeerLog
from trio_wsout.config.sections import Payload

__all__ = ["Inbox", "RawInbox", "Reader", "Taker", "WritingSide"]


class Taker(Protocol):
    """Takes received messages; a `Handover` does."""

    def put_nowait(self, run: deque[Received]) -> None:
        """Take messages off the beginning of `run` for which there is room."""

    async def put(self, run: deque[Received]) -> None:
        """Take all of `run`, waiting for room; if this is cancelled or raises, `run` keeps the messages that it did not take."""


class WritingSide(Protocol):
    """The writing side of a connection, as far as the reader has to do with it."""

    def heard(self) -> object:
        """Take note of a message."""

    def events_in_flight(self) -> list[Accepted]:
        """Return the events that an acknowledgement may name, oldest first."""
        ...

    def acked(self, seq: int) -> None:
        """Take note that the peer's application has every event up to `seq`."""

    def reading_paused(self) -> None:
        """Take note that this side stopped reading."""

    def reading_resumed(self, now: float) -> None:
        """Take note that this side reads again since `now`."""


@define(eq=False, weakref_slot=False)
class Inbox:
    """Decodes received messages. Acknowledgements go to the writing side, the rest to the taker, if there is one."""

    _payload: Payload
    taker: Taker | None
    acks: AckReader | None
    """Reads acknowledgements; None if no message is one (levels written and received)."""
    counters: Counters
    _peer_log: PeerLog
    _unpacker: Unpacker | None = None
    """Takes batches apart; None if a message is one event."""

    def items(self, messages: Sequence[str | bytes], peer: Peer) -> list[Received]:
        """Return the events of messages; a message that can't be decoded is counted, and logged."""
        unpacker = self._unpacker
        if unpacker is None and self._payload is Payload.JSON:
            # Nearly always all of them are JSON, and this is all that there is to do.
            with suppress(ValueError):
                return [Received(parse_json(message), peer) for message in messages]
        items: list[Received] = []
        for message in messages:
            try:
                if unpacker is None:
                    items.append(Received(decode(message, self._payload), peer))
                else:
                    items += [Received(event, peer) for event in unpacker.events(message)]
            except MessageError as error:
                self.counters.dropped += 1
                self._peer_log.warning("a received message was dropped: %s", error)
        return items

    async def passed_on_soon(self) -> bool:
        """Return whether everything that was handed over is passed on, after a few turns of the loop at most."""
        await trio.lowlevel.checkpoint()
        return True

    async def wait_passed_on(self) -> None:
        """Wait until everything that was handed over is passed on; pings and Closes behind it are answered then."""
        await trio.lowlevel.checkpoint()


@define(eq=False, weakref_slot=False)
class RawInbox(Inbox):
    """Keeps the bytes of each message that it decodes, but not those of a batch, which is many events."""

    _edit: Callable[[RawReceived], RawReceived | None] | None = field(
        default=None, alias="edit", kw_only=True
    )
    """Returns a message as it is passed on, or None if it is not; without it, every message is passed on as it came."""

    def items(self, messages: Sequence[str | bytes], peer: Peer) -> list[Received]:
        """Return the events of messages, each with the bytes of its message."""
        if self._unpacker is not None:
            return super().items(messages, peer)
        items: list[Received] = []
        edit = self._edit
        for message in messages:
            raw = message.encode() if isinstance(message, str) else message
            decoded = [RawReceived(item.event, peer, raw) for item in super().items((message,), peer)]
            items += decoded if edit is None else filter(None, map(edit, decoded))
        return items


@define(eq=False, weakref_slot=False)
class Reader:
    """Reads one connection into its inbox. While the inbox takes nothing, the peer has to wait."""

    _connection: Connection
    _inbox: Inbox
    _side: WritingSide
    _peer: Peer

    async def run(self) -> None:
        """Read until the connection is over, many messages at a time."""
        connection, inbox, side = self._connection, self._inbox, self._side
        counters = inbox.counters
        connection.before_answer = self._wait_passed_on
        while True:
            try:
                messages = await connection.receive_many()
            except trio.EndOfChannel:
                return
            counters.received += len(messages)
            side.heard()
            if inbox.acks is not None:
                messages = [each for each in messages if not self._acknowledges(each, inbox.acks)]
            if inbox.taker is None:
                counters.dropped += len(messages)
            else:
                await self._hand_over(inbox.taker, deque(inbox.items(messages, self._peer)))

    async def _wait_passed_on(self) -> None:
        """Wait until everything that was handed over is passed on."""
        if not await self._inbox.passed_on_soon():
            with self._paused():
                await self._inbox.wait_passed_on()

    async def _hand_over(self, taker: Taker, run: deque[Received]) -> None:
        """Pass messages to the taker, waiting for room; those that it does not take are dropped and counted."""
        try:
            taker.put_nowait(run)
            if run:
                with self._paused():
                    await taker.put(run)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The application closed its end, or `stop` ended ours while this waited.
            pass
        finally:  # when cancelled, too
            self._inbox.counters.dropped += len(run)

    @contextmanager
    def _paused(self) -> Generator[None, None, None]:
        """Do not count the peer's silence within this block, because this side does not read."""
        self._side.reading_paused()
        try:
            yield
        finally:
            self._side.reading_resumed(trio.current_time())

    def _acknowledges(self, message: str | bytes, acks: AckReader) -> bool:
        """Pass a message to the writing side if it is an acknowledgement; return whether it is one."""
        value = acks.value_in(message)
        if value is MISSING:
            return False
        seq = acks.seq_of(value, self._side.events_in_flight())
        if seq is None:
            self._inbox.counters.unknown_acks += 1
        else:
            self._side.acked(seq)
        return True
