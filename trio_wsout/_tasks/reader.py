"""The reader: always drains the connection, and gives messages to who asked for them."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import trio

from trio_wsout._core.cursor import MISSING
from trio_wsout._core.json_line import parse_json
from trio_wsout._core.payload import MessageError, decode
from trio_wsout._core.received import RawReceived, Received
from trio_wsout.config.sections import Payload

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from trio_wsout._core.acknowledgement import AckReader
    from trio_wsout._core.heartbeat import HeartbeatMonitor
    from trio_wsout._core.message import Accepted
    from trio_wsout._core.received import Peer
    from trio_wsout._core.statistics import Counters
    from trio_wsout._core.unpacking import Unpacker
    from trio_wsout._wire.connection import Connection
    from trio_wsout._wire.peer_log import PeerLog

__all__ = ["Inbox", "RawInbox", "Taking", "WritingSide", "run_reader"]


class Taking(Protocol):
    """Who takes what came; a `Handover` does."""

    def put_nowait(self, run: deque[Received]) -> None:
        """Take off the beginning of `run` what there is room for."""
        ...

    async def put(self, run: deque[Received]) -> None:
        """Take all of `run`, waiting for room; what is left in it, cancelled or when it raises, was not taken."""
        ...

    def end(self) -> None:
        """Nothing more will come."""
        ...


class WritingSide(Protocol):
    """The writing side of a connection, as far as the reader has to do with it."""

    def heard(self) -> None:
        """A message came."""
        ...

    def events_in_flight(self) -> list[Accepted]:
        """The events that an acknowledgement may name, oldest first."""
        ...

    def acked(self, seq: int) -> None:
        """The peer's application has every event up to `seq`."""
        ...

    def reading_paused(self) -> None:
        """This side stopped reading."""
        ...

    def reading_resumed(self, now: float) -> None:
        """This side reads again since `now`."""
        ...


class Inbox:
    """Where received messages go: acknowledgements to the window, the rest to the application or nowhere."""

    __slots__ = ("_peer_log", "_unpacker", "acks", "channel", "counters", "payload")

    def __init__(
        self,
        payload: Payload,
        channel: Taking | None,
        acks: AckReader | None,
        *,
        unpacker: Unpacker | None = None,
        counters: Counters,
        peer_log: PeerLog,
    ) -> None:
        """Decode by `payload` for `channel`; None: nobody asked."""
        self.payload = payload
        self._unpacker = unpacker
        self.channel = channel
        self.acks = acks
        self.counters = counters
        self._peer_log = peer_log

    @property
    def batched(self) -> bool:
        """Whether a message holds many events."""
        return self._unpacker is not None

    def stop(self) -> None:
        """Nobody takes messages any more: end the channel, and drop what still comes."""
        if self.channel is not None:
            self.channel.end()
            self.channel = None

    def items(self, messages: Sequence[str | bytes], peer: Peer) -> list[Received]:
        """The events of messages; those that can't be decoded are counted, and logged."""
        unpacker = self._unpacker
        if unpacker is None and self.payload is Payload.JSON:
            with suppress(ValueError):
                # Nearly always this is all that there is to do.
                return [Received(parse_json(message), peer) for message in messages]
        items: list[Received] = []
        for message in messages:
            try:
                if unpacker is None:
                    items.append(Received(decode(message, self.payload), peer))
                else:
                    items += [Received(event, peer) for event in unpacker.events(message)]
            except MessageError as error:
                self.counters.dropped += 1
                self._peer_log.warning("a received message was dropped: %s", error)
        return items

    async def settled_soon(self) -> bool:
        """Whether what was handed over counts as taken, at the latest after the turn of who takes it."""
        await trio.lowlevel.checkpoint()
        return True

    async def wait_settled(self) -> None:
        """Wait until what was handed over counts as taken; only then pings and Closes behind it are answered."""
        await trio.lowlevel.checkpoint()


class RawInbox(Inbox):
    """Keeps the bytes of what it decodes; of a batch, which is many events, it keeps none."""

    def items(self, messages: Sequence[str | bytes], peer: Peer) -> list[Received]:
        """The events of messages, each with the bytes of its message."""
        if self.batched:
            return super().items(messages, peer)
        items: list[Received] = []
        for message in messages:
            raw = message.encode() if isinstance(message, str) else message
            items += [RawReceived(item.event, peer, raw) for item in super().items((message,), peer)]
        return items


class _Reading:
    """One connection's messages, on their way to its inbox. While that takes nothing, the peer has to wait."""

    __slots__ = ("_inbox", "_monitor", "_side")

    def __init__(self, inbox: Inbox, side: WritingSide, monitor: HeartbeatMonitor) -> None:
        self._inbox = inbox
        self._side = side
        self._monitor = monitor

    async def settle(self) -> None:
        """Wait until what was handed over counts as taken."""
        if not await self._inbox.settled_soon():
            with self._paused():
                await self._inbox.wait_settled()

    async def hand_over(self, items: list[Received]) -> None:
        """Hand over, waiting for room where there is none; what nobody takes any more is dropped, and counted."""
        inbox, run = self._inbox, deque(items)
        try:
            if inbox.channel is not None:
                inbox.channel.put_nowait(run)
                if run:
                    with self._paused():
                        await inbox.channel.put(run)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The application closed its end, or `stop` ended ours while we waited.
            pass
        finally:
            # Cancelled, nobody takes what is left either.
            inbox.counters.dropped += len(run)

    @contextmanager
    def _paused(self) -> Generator[None, None, None]:
        """Meanwhile this side does not read, so the peer's silence means nothing."""
        self._monitor.reading_paused()
        self._side.reading_paused()
        try:
            yield
        finally:
            now = trio.current_time()
            self._monitor.reading_resumed(now)
            self._side.reading_resumed(now)


async def run_reader(
    connection: Connection, inbox: Inbox, side: WritingSide, monitor: HeartbeatMonitor, peer: Peer
) -> None:
    """Read until the connection is over, many messages at a time."""
    counters = inbox.counters
    reading = _Reading(inbox, side, monitor)
    connection.before_answer(reading.settle)
    while True:
        try:
            messages = await connection.receive_many()
        except trio.EndOfChannel:
            return
        counters.received += len(messages)
        side.heard()
        if inbox.acks is not None:
            messages = [each for each in messages if not _acknowledges(each, inbox.acks, inbox, side)]
        if inbox.channel is None:
            counters.dropped += len(messages)
            continue
        await reading.hand_over(inbox.items(messages, peer))


def _acknowledges(message: str | bytes, acks: AckReader, inbox: Inbox, side: WritingSide) -> bool:
    value = acks.value_in(message)
    if value is MISSING:
        return False
    seq = acks.seq_of(value, side.events_in_flight())
    if seq is None:
        inbox.counters.unknown_acks += 1
    else:
        side.acked(seq)
    return True
