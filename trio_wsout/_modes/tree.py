"""The tree of one output: the parts that its mode has, their common life, and its figures."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import attrgetter

import trio

from trio_wsout._core.message import Accepted
from trio_wsout._core.received import Peer
from trio_wsout._core.statistics import PeerStatistics, Statistics
from trio_wsout._core.subscription import PeerSubscription
from trio_wsout._modes.accepted import AcceptedSide
from trio_wsout._modes.common import Common
from trio_wsout._modes.dialled import DialledSide
from trio_wsout._modes.exchange import Exchange
from trio_wsout._modes.spooled import Spooled
from trio_wsout._tasks.journal import Journal
from trio_wsout._tasks.ledger import Coming, Mark
from trio_wsout._tasks.received_channel import FollowedChannel
from trio_wsout._tasks.sender import Sender
from trio_wsout._tasks.session import Session
from trio_wsout._tasks.wakeup import cancel_when
from trio_wsout.config.sections import BatchMode, ConnectMode
from trio_wsout.errors import SpoolError, Undelivered
from trio_wsout.errors import count as in_words

_log = logging.getLogger("trio_wsout")

_CLOSING = 1.0
"""Seconds of shutdown-timeout that are kept for Closes to peers, at most; never more than a tenth of it."""


class Tree:
    """The tasks of one output, with the state that they share with `Output`; `modes` chooses its parts."""

    def __init__(
        self,
        common: Common,
        sender: Sender,
        *,
        link: DialledSide | None = None,
        peers: AcceptedSide | None = None,
        exchange: Exchange | None = None,
        history: Journal | None = None,
        spooled: Spooled | None = None,
        encode: Callable[..., Accepted] | None = None,
    ) -> None:
        """Make the tree; `run` brings it to life.

        Args:
            common: What the parts share.
            sender: Empties the queue, or the journal before it.
            link: The side that dials; None if this output does not.
            peers: The side that accepts; None if this output does not.
            exchange: Passes messages on, in a relay.
            history: Stores events before the sender gets them, where there is a history.
            spooled: The way up the link, where there is a spool.
            encode: Encodes an event, in place of `Common.encode`.
        """
        self.common = common
        self.ledger, self.counters, self.received = common.ledger, common.counters, common.received
        self.encode = encode or (common.encode_now if common.ages else common.encode)
        self.resolve = common.resolve
        self.entry = common.entry if spooled is None else spooled.entry
        """Takes what `Output` accepts."""
        self.link = link
        self.peers = peers
        self._sides: Sequence[AcceptedSide | DialledSide] = [
            side for side in (peers, link) if side is not None
        ]
        self._sender = sender
        self._exchange = exchange
        self._history = history
        self._spooled = spooled
        self._second_way = spooled if spooled is not None and spooled.relays else None
        """The way up the link, where events go to peers as well; None where they go one way."""
        self.receives = common.receives
        self.bounding = self.received if common.hooks.receive else None
        """Bounds waits for confirmations while the application has to take messages; None if nothing bounds them."""
        self.waits_for_disk = spooled is not None
        """Whether `send` waits until the event is on disk, even if there is room."""
        self.ended = trio.Event()
        self.end_reason = "the output was closed before the event was confirmed"
        """The reason for which events that are left were not confirmed."""
        self.left: list[Undelivered] = []
        """Events that were not confirmed when the tree ended."""
        self.kept = ""
        """A sentence about events that stay in the spool, and why; empty if none do."""
        self._reserve = 0.0 if peers is None else min(_CLOSING, common.config.shutdown_timeout / 10)
        self.closing = trio.Event()
        """Set when the link and the peers are to be closed, and nothing else is waited for."""
        self._unsettled: list[Accepted] = []
        self._late = False
        """Whether shutdown-timeout went by."""
        if not self.receives:
            self.received.end()

    # -- life -------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tree until it was closed by `finish`, broke, or is cancelled.

        Raises:
            ConfigError: The address or the TLS files can't be used.
            CursorError: The stored cursor can't be read; no event was sent.
            HistoryError: The history can't be used.
            SpoolError: The spool can't be used; no event was sent.
        """
        try:
            await self._open()
            async with trio.open_nursery() as nursery:
                self._start(nursery)
                task_status.started()
                await self.closing.wait()
                await self._close()
                nursery.cancel_scope.cancel()
        finally:
            self._abandon()
            self.received.end()
            self.ended.set()
            self.common.fan_out.changed.unpark_all()
            with trio.CancelScope(shield=True):  # noqa: ASYNC912 - where there is nothing to close, it never waits
                for side in self._sides:
                    await side.aclose()
                for stored in (self._history, self._spooled):
                    if stored is not None:
                        await stored.aclose()

    async def _open(self) -> None:
        for side in self._sides:
            await side.open()
        if self._history is not None:
            extent = await self._history.open(self.common.epoch)
            self.common.go_on(extent.epoch, extent.tail)
        if self._spooled is not None:
            await self._spooled.open()

    def _start(self, nursery: trio.Nursery) -> None:
        """Start the tasks."""
        nursery.start_soon(cancel_when, self.ledger.broke, nursery.cancel_scope, name="guard")
        nursery.start_soon(self.common.peer_log.run, name="peer log")
        nursery.start_soon(self.common.heartbeat_task.run, name="heartbeat")
        if self.bounding is not None:
            timeout = self.common.config.retry.timeout
            nursery.start_soon(self.bounding.watch_progress, timeout, name="progress")
        if self._history is not None:
            self._history.start(nursery)
        if self._spooled is not None:
            self._spooled.start(nursery)
        if self._spooled is None or self._second_way is not None:
            nursery.start_soon(self._sender.run, name="sender")
        for side in self._sides:
            side.start(nursery)
        if self.common.ages or (self.link is not None and self.peers is not None):
            # What is too old, and in a relay what the link will not deliver, settles where no task waits to report it.
            nursery.start_soon(self.ledger.run, name="reporter")

    async def begin(self) -> None:
        """Wait until the link is open, if it is eager: `open_output` waits for this once the tree runs.

        Raises:
            ConnectError: It did not open within ``connect.eager-timeout``, or gave up.
        """
        connect = self.common.config.connect
        if self.link is None or connect.mode is not ConnectMode.EAGER:
            await trio.lowlevel.checkpoint()
            return
        try:
            with trio.move_on_after(connect.eager_timeout):
                await self._wait_sessions(self.link, 1)
                return
        except trio.BrokenResourceError:
            if self.ledger.broken is not None:
                raise self.ledger.broken from None
            raise
        raise self.link.not_opened()

    async def finish(self) -> None:
        """End gracefully: everything is confirmed or reported, the peers get a Close, and then `run` returns.

        Nothing may be sent any more, and no new peer is admitted. The caller bounds the time. A peer that has everything
        goes without waiting for others; the rest go when most of the time is over. If the output breaks meanwhile, this
        returns.
        """
        if self.peers is not None:
            self.peers.listener.stop()
        if self._exchange is not None:
            self._exchange.stopping = True
        if self._history is not None:
            self._history.end()
        if not self.common.hooks.to_the_end():
            self.received.end()
        with trio.move_on_at(trio.current_effective_deadline() - self._reserve):
            await self._end_document()
            mark = await self._post_all()
            if self.peers is not None:
                self.peers.fan_out.complete_now()
            await mark.wait()
            if self.link is not None:
                await self.link.save()
            self.closing.set()
            return
        self.out_of_time()
        # A peer that goes now has not confirmed its last messages, so the account is closed first.
        self._unsettled = self.common.fan_out.drain()
        if self._second_way is not None:
            self._second_way.drain()
        self.closing.set()

    async def _post_all(self) -> Mark:
        """Wait until everything accepted so far, and what waits for its turn, is past the sender; return the mark behind it."""
        while True:
            mark = await self._mark()
            await (mark.twin or mark).passed.wait()
            waiting = self.common.queue.statistics().current_buffer_used
            waiting += sum([len(each) for each in (self._history, self._spooled) if each is not None])
            if mark.abandoned or not waiting:
                return mark

    async def _close(self) -> None:
        """Close the link and all peers, and wait until they are gone."""
        async with trio.open_nursery() as nursery:
            for side in self._sides:
                nursery.start_soon(side.close)
        if self.link is not None and isinstance(self.received.channel, FollowedChannel):
            await self._wait_taken(self.received.channel, self.link)

    async def _wait_taken(self, channel: FollowedChannel, link: DialledSide) -> None:
        """Save the cursor of what came last, after the application has taken it if it goes on to take messages."""
        self.received.end()
        if self.common.hooks.to_the_end():
            await channel.taken_to_the_end.wait()
        await link.save()

    def out_of_time(self) -> None:
        """Set shutdown-timeout and the present situation as the reason for unconfirmed events. Only the first call counts."""
        if self._late:
            return
        self._late = True
        limit = self.common.config.shutdown_timeout
        situation = "; ".join([side.situation() for side in self._sides])
        if self._history is not None and self._history.waiting is not None:
            situation += f"; the history waits: {self._history.waiting}"
        self.end_reason = f"not confirmed within shutdown-timeout ({limit:g} s); {situation}"

    # -- for Output -------------------------------------------------------------------------------------

    async def wait_peers(self, count: int) -> None:
        """Wait until so many peers are connected at the same time; a client has one at most, for which a lazy link dials."""
        if self.peers is None and count > 1:
            raise ValueError("a link has one peer, never more")
        await self._wait_sessions(self._sides[0], count)

    async def _wait_sessions(self, side: AcceptedSide | DialledSide, count: int) -> None:
        fan_out = self.common.fan_out
        fan_out.wanted.notify()
        await trio.lowlevel.checkpoint()
        while len(side.sessions) < count:
            self.ledger.raise_if_broken()
            if self.ended.is_set():
                raise trio.ClosedResourceError
            await fan_out.changed.park()

    async def flush(self) -> bool:
        """Wait until every event accepted so far is confirmed or reported; return false if the output ended first."""
        mark = await self._mark()
        return await mark.wait()

    async def _end_document(self) -> None:
        """End the document with the output, if there are documents."""
        batch = self.common.config.batch
        if batch is not None and batch.mode is BatchMode.DOCUMENT:
            with suppress(trio.BrokenResourceError):
                await self.entry.send(Mark(ends_document=True))
        else:
            await trio.lowlevel.checkpoint()

    async def _mark(self) -> Mark:
        """Put a mark behind everything accepted so far, and return it; if the output has ended, it is abandoned."""
        mark = Mark(twin=None if self._second_way is None else Mark())
        try:
            await self.entry.send(mark)
        except trio.BrokenResourceError:
            mark.abandon()
        return mark

    @property
    def _sessions(self) -> list[Session]:
        return [session for side in self._sides for session in side.sessions]

    def peer_statistics(self) -> dict[Peer, PeerStatistics]:
        """Return the figures of each open connection, in the order in which they opened."""
        sessions = sorted(self._sessions, key=attrgetter("since"))
        return {each.peer: _statistics_of(each) for each in sessions}

    def session_of(self, peer: object) -> Session | None:
        """Return the session of a peer of the listener; None if it is over, or is being closed.

        Raises:
            TypeError: It is no `Peer`.
            ValueError: It is the peer of the link.
        """
        if not isinstance(peer, Peer):
            told = f"a connection is named by its Peer, from peers() or Received.peer, not by {type(peer).__name__}"
            raise TypeError(told)
        if peer.dialled:
            raise ValueError(
                "a link stays open as long as its output; aclose(code, reason) says how it is closed"
            )
        sessions = () if self.peers is None else self.peers.sessions
        return next((each for each in sessions if each.peer is peer and not each.finished), None)

    def statistics(self) -> Statistics:
        """Return the figures of this moment."""
        counters, peers, link, cursor = self.counters, self.peers, self.link, self.common.cursor
        spooled, history = self._spooled, self._history
        accepted, confirmed, undelivered, queued = self._account()
        logs = [self.common.fan_out.log, *(() if spooled is None else (spooled.up.fan_out.log,))]
        sessions = self._sessions
        return Statistics(
            accepted=accepted,
            confirmed=confirmed,
            undelivered=undelivered,
            too_old=counters.too_old,
            unconfirmed=accepted - confirmed - undelivered,
            written=counters.written,
            written_messages=counters.written_messages,
            received=counters.received,
            dropped=counters.dropped,
            queued=min(queued, accepted - confirmed - undelivered),  # what is left at the end is undelivered
            window=max([log.unsettled for log in logs]),
            peers=len(self._sides[0].sessions),
            sent_bytes=counters.sent_bytes + sum(each.sent_bytes for each in sessions),
            received_bytes=counters.received_bytes + sum(each.connection.received_bytes for each in sessions),
            heartbeat_misses=counters.heartbeat_misses + sum(each.monitor.misses for each in sessions),
            unknown_acks=counters.unknown_acks,
            unusable_cursors=0 if cursor is None else cursor.unusable,
            last_document=self.ledger.last_document,
            link=None if link is None else link.statistics(),
            listener=None if peers is None else peers.statistics(closed=self.ended.is_set()),
            spool=None if spooled is None else spooled.statistics(),
            history=None if history is None else history.statistics(counters.replayed),
        )

    def _account(self) -> tuple[int, int, int, int]:
        """Return how many events are accepted, confirmed, undelivered and queued."""
        ledger, spooled = self.ledger, self._second_way
        if spooled is not None:
            accepted, undelivered = spooled.accepted, ledger.undelivered + spooled.up.ledger.undelivered
            confirmed = accepted - undelivered - spooled.open_events
            return accepted, confirmed, undelivered, spooled.queued
        last = self.common.packer.last_seq
        taken = last - self.common.earlier - self.ledger.others(last)
        # A task that waited in `send` counts its event a moment after the sender may have taken it.
        accepted = max(self.counters.accepted, taken)
        return accepted, ledger.confirmed, ledger.undelivered, accepted - taken + self._sender.pending

    # -- the end ----------------------------------------------------------------------------------------

    def _holding(self) -> list[Accepted]:
        """Close the queue; return all events that are accepted and not settled, in order, without those that are on disk only."""
        left = self._unsettled + self.common.fan_out.drain() + self._sender.leftovers()
        items: list[Coming] = []
        if self._history is not None:
            items += self._history.drain()
        with suppress(trio.WouldBlock):
            while True:
                items.append(self.common.queue.receive_nowait())
        self.common.queue.close()
        if self._spooled is not None:
            items += self._spooled.journal.passing
        for item in items:
            if isinstance(item, Accepted):
                self.common.packer.number(item)
                left.append(item)
            elif isinstance(item, Mark):
                item.abandon()
            else:
                self._sender.begin(item)
        return left

    def _abandon(self) -> None:
        """Count every event that is left as undelivered, and put it into `left`; what is in the spool stays there."""
        left, spooled, broken = self._holding(), self._spooled, self.ledger.broken
        reason = self.end_reason if broken is None else f"the output broke: {broken}"
        count, where = 0, ""
        if spooled is not None:
            count, where = spooled.journal.events, f"in the spool at {spooled.journal.location}"
            staying = f"{reason}; the event stays {where} and goes first at the next start"
            left = spooled.keep(left, staying)
        reasons = {} if self._history is None else self._history.reasons(reason)
        self.left = self.ledger.abandon(left, reason, reasons)
        if broken is not None:
            broken.undelivered += tuple(self.left)
        if count:
            self._tell_kept(count, where)

    def _tell_kept(self, count: int, where: str) -> None:
        """Add to the error, or keep for it, that `count` events stay in the spool."""
        events = in_words(count, "accepted event")
        broken = self.ledger.broken
        if broken is None:
            again = f"what was not confirmed stays {where} and goes first at the next start"
            self.kept = f"{events} not confirmed: {self.end_reason}; {again}"
        elif isinstance(broken, SpoolError):
            was = "was" if count == 1 else "were"
            broken.extend_message(f"{events} {was} {where}; what is still there goes first at the next start")
        else:
            stays = "stays" if count == 1 else "stay"
            broken.extend_message(f"{events} {stays} {where}, to go first at the next start")


def _statistics_of(session: Session) -> PeerStatistics:
    """Return the figures of one connection."""
    account = session.catch_up()
    return PeerStatistics(
        since=session.since,
        queued=None if account is None else account.queued,
        unconfirmed=0 if account is None else account.in_flight,
        round_trip=session.monitor.round_trip,
        sent_messages=session.sent_messages,
        sent_bytes=session.sent_bytes,
        received_messages=session.received_messages,
        received_bytes=session.connection.received_bytes,
        heartbeat_misses=session.monitor.misses,
        lost_by_slow=account.dropped if isinstance(account, PeerSubscription) else 0,
    )
