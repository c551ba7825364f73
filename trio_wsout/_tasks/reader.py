"""The reader: always drains the connection, and gives messages to who asked for them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import trio
from attrs import define

from trio_wsout._core.cursor import MISSING
from trio_wsout._core.payload import MessageError, decode
from trio_wsout._core.received import Received

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout._core.acknowledgement import AckReader
    from trio_wsout._core.delivery import Accepted
    from trio_wsout._core.heartbeat import HeartbeatMonitor
    from trio_wsout._core.received import Peer
    from trio_wsout._core.unpacking import Unpacker
    from trio_wsout._wire.connection import Connection
    from trio_wsout.config.sections import Payload

__all__ = ["Counts", "Inbox", "Taking", "WritingSide", "run_reader"]

_log = logging.getLogger("trio_wsout")


class Taking(Protocol):
    """Who takes what came; a memory channel does."""

    def send_nowait(self, value: Received) -> None:
        """Take it; raises trio.WouldBlock where there is no room."""
        ...

    async def send(self, value: Received) -> None:
        """Take it; waits for room."""
        ...

    def close(self) -> None:
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

    def held(self) -> None:
        """This side stopped reading."""
        ...

    def released(self, now: float) -> None:
        """This side reads again since `now`."""
        ...


@define(eq=False)
class Counts:
    """What came in, over all connections."""

    received: int = 0
    """Messages."""
    dropped: int = 0
    """Of them, and of the events in them: what nobody took, or nobody could read."""
    unknown_acks: int = 0
    """Acknowledgements that name nothing in flight."""


class Inbox:
    """Where received messages go: acknowledgements to the window, the rest to the application or nowhere."""

    def __init__(
        self,
        payload: Payload,
        channel: Taking | None,
        acks: AckReader | None,
        *,
        unpacker: Unpacker | None = None,
        counts: Counts | None = None,
    ) -> None:
        """Decode by `payload` for `channel`; None: nobody asked."""
        self.payload = payload
        self._unpacker = unpacker
        self.channel = channel
        self.acks = acks
        self.counts = counts if counts is not None else Counts()

    def stop(self) -> None:
        """Nobody takes messages any more: end the channel, and drop what still comes."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def items(self, message: str | bytes, peer: Peer) -> Sequence[Received]:
        """The events of a message; none, counted and logged, if it can't be decoded."""
        try:
            if self._unpacker is None:
                return (Received(event=decode(message, self.payload), peer=peer),)
            return [Received(event=event, peer=peer) for event in self._unpacker.events(message)]
        except MessageError as error:
            self.counts.dropped += 1
            _log.warning("a received message was dropped: %s", error)
            return ()

    async def put(self, item: Received) -> None:
        """Hand one event over, waiting for room; it is dropped, and counted, if nobody takes it any more."""
        delivered = False
        try:
            if self.channel is not None:
                await self.channel.send(item)
                delivered = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The application closed its end, or `stop` closed ours while we waited.
            pass
        finally:
            self.counts.dropped += 0 if delivered else 1


async def run_reader(
    connection: Connection, inbox: Inbox, side: WritingSide, monitor: HeartbeatMonitor, peer: Peer
) -> None:
    """Read until the connection is over. While the application takes nothing, the peer has to wait."""
    while True:
        try:
            message = await connection.receive()
        except trio.EndOfChannel:
            return
        inbox.counts.received += 1
        side.heard()
        if _acknowledges(message, inbox, side):
            continue
        if inbox.channel is None:
            inbox.counts.dropped += 1
            continue
        for item in inbox.items(message, peer):
            await _hand_over(item, inbox, side, monitor)


def _acknowledges(message: str | bytes, inbox: Inbox, side: WritingSide) -> bool:
    if inbox.acks is None:
        return False
    value = inbox.acks.value_in(message)
    if value is MISSING:
        return False
    seq = inbox.acks.seq_of(value, side.events_in_flight())
    if seq is None:
        inbox.counts.unknown_acks += 1
    else:
        side.acked(seq)
    return True


async def _hand_over(item: Received, inbox: Inbox, side: WritingSide, monitor: HeartbeatMonitor) -> None:
    """Hand over when there is room. Until then this side does not read, so silence means nothing."""
    try:
        if inbox.channel is not None:
            inbox.channel.send_nowait(item)
            return
    except trio.WouldBlock:
        pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        inbox.counts.dropped += 1
        return
    monitor.held()
    side.held()
    try:
        await inbox.put(item)
    finally:
        now = trio.current_time()
        monitor.released(now)
        side.released(now)
