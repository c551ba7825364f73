"""The reader: always drains the connection, and gives messages to who asked for them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.cursor import MISSING
from trio_wsout._core.payload import MessageError, decode
from trio_wsout._core.received import Peer, Received

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsout._core.acknowledgement import AckReader
    from trio_wsout._core.heartbeat import HeartbeatMonitor
    from trio_wsout._tasks.outbox import Outbox
    from trio_wsout._wire.connection import Connection
    from trio_wsout.config.sections import Payload

__all__ = ["Inbox", "run_reader"]

_log = logging.getLogger("trio_wsout")


class Inbox:
    """Where received messages go: acknowledgements to the window, the rest to the application or nowhere."""

    def __init__(
        self,
        payload: Payload,
        channel: trio.MemorySendChannel[Received] | None,
        acks: AckReader | None,
        on_message: Callable[[], object],
    ) -> None:
        """Decode by `payload` for `channel`; None: nobody asked. `on_message` hears of every message."""
        self.payload = payload
        self.channel = channel
        self.acks = acks
        self.on_message = on_message
        self.received = 0
        self.dropped = 0
        self.unknown_acks = 0
        self._handing_over = trio.CancelScope()

    def stop(self) -> None:
        """Nobody takes messages any more: end the channel, and drop what still comes."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        self._handing_over.cancel()

    async def put(self, item: Received) -> None:
        """Hand one message over, waiting for room; it is dropped, and counted, if nobody takes it any more."""
        delivered = False
        try:
            with self._handing_over:
                if self.channel is not None:
                    await self.channel.send(item)
                    delivered = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The application closed its end, or `stop` closed ours while we waited.
            pass
        finally:
            self.dropped += 0 if delivered else 1
            self._handing_over = trio.CancelScope()


async def run_reader(
    connection: Connection, inbox: Inbox, outbox: Outbox, monitor: HeartbeatMonitor, peer: Peer
) -> None:
    """Read until the connection is over. While the application takes nothing, the peer has to wait."""
    while True:
        try:
            message = await connection.receive()
        except trio.EndOfChannel:
            return
        inbox.received += 1
        inbox.on_message()
        if _acknowledges(message, inbox, outbox):
            continue
        await _hand_over(message, inbox, outbox, monitor, peer)


def _acknowledges(message: str | bytes, inbox: Inbox, outbox: Outbox) -> bool:
    if inbox.acks is None:
        return False
    value = inbox.acks.value_in(message)
    if value is MISSING:
        return False
    seq = inbox.acks.seq_of(value, outbox.window.events_in_flight())
    if seq is None:
        inbox.unknown_acks += 1
    else:
        outbox.confirm(outbox.window.acked(seq))
        outbox.to_write.ring()
    return True


async def _hand_over(
    message: str | bytes, inbox: Inbox, outbox: Outbox, monitor: HeartbeatMonitor, peer: Peer
) -> None:
    if inbox.channel is None:
        inbox.dropped += 1
        return
    try:
        item = Received(event=decode(message, inbox.payload), peer=peer)
    except MessageError as error:
        inbox.dropped += 1
        _log.warning("a received message was dropped: %s", error)
        return
    try:
        inbox.channel.send_nowait(item)
    except trio.WouldBlock:
        await _wait_for_room(item, inbox, outbox, monitor)
    except trio.BrokenResourceError:
        inbox.dropped += 1


async def _wait_for_room(item: Received, inbox: Inbox, outbox: Outbox, monitor: HeartbeatMonitor) -> None:
    """Hand over when there is room. Until then this side does not read, so silence means nothing."""
    monitor.held()
    outbox.window.held()
    try:
        await inbox.put(item)
    finally:
        now = trio.current_time()
        monitor.released(now)
        outbox.window.released(now)
