"""Mode server-output, whose events go to every admitted peer; and the part that all trees with a listener share.

::

    server-output
    ├─ sender          events → batches → messages, framed once → log → all sockets that can be written to
    ├─ history journal where there is a history: messages → history, many with one commit → log
    ├─ heartbeat       the deadlines of all peers: ping, warn, cut
    └─ listener        accept → handshake → admit, each peer guarded
       └─ peer
          ├─ fan-out   history → socket, then log → socket where the sender could not write it
          └─ reader    always drains; pongs confirm
"""

from __future__ import annotations

import time

import trio
from attrs import evolve

from trio_wsout._core.acknowledgement import AckReader
from trio_wsout._core.admission import Admission
from trio_wsout._core.log import Log
from trio_wsout._core.message import Accepted
from trio_wsout._core.packing import Packer
from trio_wsout._core.statistics import HistoryStatistics, ListenerStatistics, Statistics
from trio_wsout._modes.hooks import Hooks
from trio_wsout._modes.tree import Tree
from trio_wsout._tasks.channel import ReceivingEnd
from trio_wsout._tasks.fan_out import FanOut, gap_frame
from trio_wsout._tasks.history_journal import HistoryJournal
from trio_wsout._tasks.ledger import Flush, Item
from trio_wsout._tasks.listener import Listener
from trio_wsout._tasks.reader import Inbox
from trio_wsout._tasks.replay import Replay
from trio_wsout._tasks.sender import FanOutSender, Sender
from trio_wsout._tasks.served_peer import GOING_AWAY, Resumption, ServedPeer
from trio_wsout._tasks.wakeup import cancel_when
from trio_wsout._wire.accept import Acceptor
from trio_wsout._wire.frames import BINARY, TEXT
from trio_wsout.config.sections import Config, DeliveryLevel, Mode, OnGap, Server
from trio_wsout.stores.from_config import open_history_store

__all__ = ["ServerTree"]

_CLOSING = 1.0
"""Seconds of shutdown-timeout that are kept for Closes, at most; never more than a tenth of it."""


class ServerTree(Tree):
    """The tree of an output with a listener; that of mode server-output."""

    def __init__(self, config: Config, server: Server, hooks: Hooks) -> None:
        """Make the tree; `run` brings it to life."""
        super().__init__(config, hooks)
        self._epoch = time.time_ns() // 1_000_000
        self.fan_out = self._make_fan_out(config, server)
        self.ledger.on_awaited = self.fan_out.ask_all
        self.listener = Listener(
            server,
            config.heartbeat,
            config.retry,
            self.resumption,
            self.inbox_for,
            self.fan_out,
            Acceptor(
                admission=Admission(server, config.cursor, config.subprotocols, resolve=self.resolve),
                authenticate=hooks.authenticate,
                max_connections=server.max_connections,
                heartbeat=config.heartbeat,
                max_message_size=config.max_message_size,
                peer_log=self.peer_log,
            ),
            hooks.listeners,
            self.resolve,
        )
        self._history_journal: HistoryJournal | None = None
        self._tells_gaps = config.history is None or config.history.on_gap is OnGap.TELL
        self._packer: Packer | None = None
        self._sender: Sender[ReceivingEnd[Item]] | None = None
        self._acks: AckReader | None = None
        self._closing = trio.Event()
        self._unsettled: list[Accepted] = []
        self._reserve = min(_CLOSING, config.shutdown_timeout / 10)

    def _make_fan_out(self, config: Config, server: Server) -> FanOut:
        delivery, advice = config.delivery, "heartbeat: none"
        if config.mode is not Mode.SERVER_INPUT and delivery.level is not DeliveryLevel.WRITTEN:
            advice += ", and delivery.level: written"
        return FanOut(
            server,
            delivery.level,
            self.ledger,
            self.counters,
            Log(delivery, config.retry.timeout, capacity=server.send_buffer_capacity),
            opcode=TEXT if self.encoder.is_text else BINARY,
            stamped=delivery.stamp is not None,
            advice=advice,
            peer_log=self.peer_log,
        )

    # -- life -------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tree until it was closed by `finish`, broke, or is cancelled.

        Raises:
            ConfigError: The address or the TLS files can't be used.
            HistoryError: The history can't be used.
        """
        try:
            await self.listener.open()
            await self._open_history()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_when, self.ledger.broke, nursery.cancel_scope)
                nursery.start_soon(self.peer_log.run)
                await self._start_tasks(nursery)
                nursery.start_soon(self.listener.run, nursery)
                task_status.started()
                await self._closing.wait()
                await self._close_peers()
                nursery.cancel_scope.cancel()
        finally:
            self._abandon(self._holding())
            self.received.end()
            self.ended.set()
            self.fan_out.changed.unpark_all()
            with trio.CancelScope(shield=True):
                await self.listener.aclose()
                if self._history_journal is not None:
                    await self._history_journal.aclose()

    async def _start_tasks(self, nursery: trio.Nursery) -> None:
        """Start the tasks that this mode has beside the listener."""
        await trio.lowlevel.checkpoint()
        if self._history_journal is not None:
            nursery.start_soon(self._history_journal.run)
        if self._sender is not None:
            nursery.start_soon(self._sender.run)

    async def _open_history(self) -> None:
        """Open the history, if there is one, and make the parts that depend on its epoch: the packer and the sender."""
        config, after = self._config, 0
        if config.history is not None:
            cursor = config.cursor
            self._history_journal = HistoryJournal(
                self._hooks.history or open_history_store(config.history),
                self.fan_out,
                self.ledger,
                max_age=config.history.max_age,
                by_stamp=cursor is None or (cursor.value_field or cursor.value_pointer) is None,
            )
            extent = await self._history_journal.open(self._epoch)
            self._epoch, after = extent.epoch, extent.tail
        self.fan_out.epoch = self._epoch
        if config.delivery.level is DeliveryLevel.ACKED:
            self._acks = AckReader(config.delivery.ack_pointer, self._epoch)
        self._packer = Packer(config, self.encoder, epoch=self._epoch, resolve=self.resolve, after=after)
        queue = self._queue
        if self._history_journal is not None:
            self._sender = Sender(self._packer, queue, self._history_journal, self.ledger)
        else:
            sender = FanOutSender(self._packer, queue, self.fan_out, self.ledger, self.fan_out.log)
            if self.fan_out.uplink is None:
                self._intake.offer_first = sender.take_alone
            self._sender = sender

    async def finish(self) -> None:
        """End gracefully: no new peers, everything is confirmed, every peer gets Close 1001; then `run` returns.

        A peer that has everything goes without waiting for others; the rest go when most of the time is over.
        """
        self.listener.stop()
        if not self._hooks.to_the_end():
            self.received.end()
        with trio.move_on_at(trio.current_effective_deadline() - self._reserve):
            await self._end_document()
            flush = await self._post_all()
            self.fan_out.complete_now()
            await flush.done.wait()
            self._closing.set()
            return
        self.out_of_time()
        # A peer that goes now has not confirmed its last messages, so the account is closed first.
        self._unsettled = [event for message in self.fan_out.log.drain() for event in message.events]
        self._closing.set()

    async def _post_all(self) -> Flush:
        """Wait until everything accepted so far is posted to the peers; return the mark behind it."""
        flush = await self._mark()
        await flush.passed.wait()
        if self._history_journal is not None:
            await self._history_journal.wait_posted()
        return flush

    async def _close_peers(self) -> None:
        """Close every peer, those that are admitted meanwhile, too, and wait until they are gone."""
        while self.fan_out.peers:
            for peer in list(self.fan_out.peers):
                peer.close(GOING_AWAY)
            await self.fan_out.changed.park()

    def situation(self) -> str:
        """Return how many peers there are, and how much they lack."""
        count = len(self.fan_out.peers)
        return (
            f"{count} peer{'' if count == 1 else 's'} connected, {self.fan_out.log.unsettled} messages open"
        )

    def _holding(self) -> list[Accepted]:
        """Return the events that left the intake and are not confirmed, in order."""
        left = [
            *self._unsettled,
            *[event for message in self.fan_out.log.drain() for event in message.events],
        ]
        if self._history_journal is not None:
            left += self._history_journal.leftovers()
        if self._sender is not None:
            left += self._sender.leftovers()
        return left

    # -- for the listener --------------------------------------------------------------------------------

    async def resumption(self, asked: str | None) -> Resumption:
        """Return the start of a peer's stream; `asked` is the cursor behind which it wants to go on, None if it named none."""
        if asked is None:
            await trio.lowlevel.checkpoint()
            return Resumption()
        if self._history_journal is None or self._packer is None:
            await trio.lowlevel.checkpoint()
            return Resumption(resumed=False, notice=gap_frame(asked, None))
        start = await self._history_journal.locate(asked)
        if start.gap and not self._tells_gaps:
            return Resumption(resumed=False, refusal=start.first or "")
        replay = Replay(
            self._history_journal,
            self.fan_out,
            self._packer,
            start.position,
            asked,
            notice=gap_frame(asked, start.first) if start.gap else b"",
            tells=self._tells_gaps,
        )
        return Resumption(replay=replay, resumed=not start.gap)

    def inbox_for(self, peer: ServedPeer) -> Inbox:
        """Return an inbox that counts and drops the peer's messages, except acknowledgements."""
        del peer
        return self._dropping_inbox()

    def _dropping_inbox(self) -> Inbox:
        return Inbox(self._config.payload, None, self._acks, self.counters, self.peer_log)

    # -- for Output -----------------------------------------------------------------------------------------

    async def wait_peers(self, count: int) -> None:
        """Wait until so many peers are connected at the same time."""
        await trio.lowlevel.checkpoint()
        while len(self.fan_out.peers) < count:
            if self.ended.is_set():
                self.ledger.raise_if_broken()
                raise trio.ClosedResourceError
            await self.fan_out.changed.park()

    def statistics(self) -> Statistics:
        """Return the figures of this moment."""
        fan_out, journal, counters = self.fan_out, self._history_journal, self.counters
        figures = self._common_statistics(pending=0 if self._sender is None else self._sender.pending)
        received = sum(peer.connection.transport.received_bytes for peer in fan_out.peers)
        misses = sum(peer.monitor.misses for peer in fan_out.peers)
        return evolve(
            figures,
            window=fan_out.log.unsettled,
            peers=len(fan_out.peers),
            received_bytes=figures.received_bytes + received,
            heartbeat_misses=figures.heartbeat_misses + misses,
            listener=ListenerStatistics(
                state="closed" if self.ended.is_set() else "listening",
                addresses=self.listener.addresses,
                admitted=counters.admitted,
                refused=self.listener.acceptor.refused,
                expelled=counters.expelled,
                lost_by_slow=fan_out.log.dropped,
                unheard=fan_out.log.unheard,
            ),
            history=None
            if journal is None
            else HistoryStatistics(
                events=journal.extent.events, bytes=journal.extent.size, replayed=counters.replayed
            ),
        )
