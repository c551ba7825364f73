"""The fan-out: posts messages to the log that all peers and the link read, and treats slow peers (SPEC 2, 7 and 10)."""

import logging
from collections.abc import Callable, Sequence
from math import inf
from typing import cast

import trio
from attrs import define, field

from trio_wsout._core.acknowledgement import Epochs
from trio_wsout._core.close_codes import GONE, TRY_AGAIN_LATER
from trio_wsout._core.disconnection import BY_SILENCE, Cause, Disconnection
from trio_wsout._core.durable_log import gap_message
from trio_wsout._core.log import Log
from trio_wsout._core.message import Accepted, GapNotice, Message, events_in
from trio_wsout._core.read_out import could_not_write
from trio_wsout._core.resend import LinkSubscription
from trio_wsout._core.statistics import Counters
from trio_wsout._core.subscription import Broadcast, PeerSubscription, Subscription
from trio_wsout._tasks.heartbeat import HeartbeatTask, read_out
from trio_wsout._tasks.ledger import Ledger
from trio_wsout._tasks.session import Session
from trio_wsout._tasks.wakeup import Wakeup, earliest
from trio_wsout._wire.connection import write_to_each
from trio_wsout._wire.frames import TEXT, masked_frames, plain_frame
from trio_wsout._wire.peer_log import PeerLog
from trio_wsout.config.quantities import format_duration
from trio_wsout.config.sections import DeliveryLevel, Server, SlowPeer

_log = logging.getLogger("trio_wsout")
_coming = logging.getLogger("trio_wsout.peers")
"""Logs each peer that comes or goes. These are many lines, so a logger of their own lets users switch them off."""

_TURNS = 3
"""Times that the peers' tasks may run before a full queue means that the peer itself is slow."""
_WRITE = 64 * 1024
"""Bytes after which a write to the link takes no further message: large enough that the system call costs next to nothing
for each message, small enough that a control frame never waits long."""


@define(eq=False)
class FanOut:
    """The log of an output with the waiting around it, its peers, and its link; a `Feed` and a `HasDeadline`.

    A message is framed once, whatever the number of peers.
    """

    log: Log
    ledger: Ledger
    counters: Counters
    _server: Server | None
    """The section that says how peers are treated; None where there are none, in mode client."""
    opcode: int
    """Whether messages are texts (1) or bytes (2): RFC 6455 section 5.2."""
    _stamped: bool = field(alias="stamped")
    """Whether events carry stamps, with which a gap can be reported to a peer."""
    _advice: str = field(alias="advice")
    """The setting for peers that answer no ping and send nothing; a warning names it."""
    peer_log: PeerLog
    heartbeat_task: HeartbeatTask
    epochs: Epochs
    """The epochs of the stamps."""
    tells_gaps: bool
    """Whether gaps are reported within the stream, and no peer is closed because of one (history.on-gap)."""
    posted: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    """Replays that wait until more is posted park here."""
    wanted: Wakeup = field(factory=Wakeup, init=False)
    """Notified when a message waits for the link: a lazy one dials then."""
    on_settled: Callable[[], object] | None = field(default=None, init=False)
    """Called when there may be room in the link's window."""
    peers: set[Session] = field(factory=set[Session], init=False)
    idle: set[Session] = field(factory=set[Session], init=False)
    """Sessions whose tasks wait, and that are not in sync: each is written to individually."""
    accept: Callable[[Message], bool] = field(init=False)
    """Posts a message if there is room for it; returns whether it was posted, or needs no room because it is too old."""
    complete: bool = field(default=False, init=False)
    """Whether nothing more will be posted, so that a peer that has everything may go."""
    ending: tuple[int | None, str] = field(default=(None, ""), init=False)
    """Code and reason of the Close that tells of the end of the output, as the application named them; no code if it named none."""
    counts_link: bool = field(init=False)
    """Whether what goes up the link counts as written."""
    confirms_writes: bool = field(init=False)
    """Whether a message is confirmed once it is written (level written)."""
    changed: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    """Tasks that wait until a peer comes or goes, the link opens or breaks, or the tree ends, park here."""
    due: float = field(default=inf, init=False)
    ticket: int = field(default=0, init=False)
    _room: Wakeup = field(factory=Wakeup, init=False)
    _warned_of_silence: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.accept = self._post if self.log.delivery.max_age is None else self._post_in_time
        self.counts_link = self._server is None
        self.confirms_writes = self.log.delivery.level is DeliveryLevel.WRITTEN

    # -- posting ----------------------------------------------------------------------------------------

    def _post(self, message: Message) -> bool:
        source: Session | LinkSubscription | None = message.source
        if not isinstance(source, Session):
            # The link of a relay with a spool has a log of its own.
            return self.log.offer(message, None if source is None else self.log.link)
        posted = self.log.offer(message, source.subscription)
        if posted and source.subscription is None and source.sent_early is not None:
            source.sent_early.add(message.last_seq)
        return posted

    def _post_in_time(self, message: Message) -> bool:
        if self.let_go(message):
            return True
        posted = self._post(message)
        if posted and message.count:
            self.log.aged(message)
        return posted

    def let_go(self, message: Message) -> bool:
        """Have a message reported if it is too old for the link; return whether it is.

        Without a link it is posted nevertheless: so the peers find a gap where it was (`Log.expire`).
        """
        log = self.log
        if log.delivery.max_age is None or log.link is None or trio.current_time() < log.expiry(message):
            return False
        self._expire()  # those before it first
        self._too_old([message])
        return True

    async def put(self, message: Message) -> None:
        """Post a message; while there is no room, wait, or treat slow peers according to `slow-peer`.

        A message that becomes too old for the link meanwhile is undelivered.
        """
        while not self.accept(message):
            await self._make_room(inf if self.log.delivery.max_age is None else self.log.expiry(message))

    def jump(self, epoch: int, after: int) -> None:
        """Let the numbers of the events from here on, which have this epoch, go on behind `after`, which is higher than any before."""
        self.epochs.begin(epoch, after)
        self.log.jumps = True

    def gap(self, asked: str | None, first: str | None, after: int) -> Sequence[Message]:
        """Return a message that tells all peers that events are missing between two cursors, up to the number `after`.

        Where that is not told, close the peers instead.
        """
        if self.tells_gaps and self.log.members:
            self.log.jumps = True
            notice = gap_message(asked, first)
            return (GapNotice(notice, plain_frame(notice, TEXT), after),)
        for peer in tuple(self.peers):
            if peer.subscription is not None:  # a replay finds the gap by itself
                peer.close(GONE, first or "")
        return ()

    def notify(self) -> None:
        """Write all posted messages to all peers and the link.

        The caller's task writes it, and wakes no other, except where a socket has no room or only the peer's own task
        can write (TLS).
        """
        log = self.log
        self._expire()
        if log.keeps_too_much and (kept_for := log.kept_for):
            self._expel(self._members_of(kept_for))
        if self.ledger.awaited:
            log.want()
        while (broadcast := log.next_broadcast(trio.current_time())) is not None:
            self._broadcast(broadcast)
        for each in [each for each in self.idle if each.subscription is not None and each.subscription.ready]:
            each.write_now()
        if log.link is not None and log.link.count:
            self.wanted.notify()
        self.settle()
        if self.posted:
            self.posted.unpark_all()

    def _broadcast(self, broadcast: Broadcast) -> None:
        """Write frames to all peers in sync; a peer whose socket does not take all of them is in sync no more."""
        log, members = self.log, self.log.in_sync.members
        # This is the cost of an event for each peer: one system call, and no access to the peer's own memory, which
        # would be cold and cost as much again. So the accounts of those in sync are brought up to date later.
        short = write_to_each(members, broadcast.frames)
        for subscription, outcome in short.items():
            if not isinstance(outcome, int) or not outcome:
                log.leave_sync(subscription)
        write, peers = broadcast.write, len(members)
        self.counters.written_messages += peers * (write.last - write.first)
        self.counters.written += peers * log.events_between(write.first, write.last)
        ask = log.broadcast_written(broadcast)
        for subscription, outcome in short.items():
            _owner(subscription).connection.wrote_part(broadcast.frames, outcome)
        if ask:
            for subscription in tuple(members):
                _owner(subscription).ping()
        if self.confirms_writes:
            for subscription in tuple(members):
                _owner(subscription).written()

    # -- confirmations ----------------------------------------------------------------------------------

    def ask_all(self) -> None:
        """Ask all peers for confirmations now, because somebody waits for them."""
        self.log.want()
        self.log.asked()
        for peer in tuple(self.peers):
            peer.ping()
            self.heartbeat_task.reschedule(peer)

    def next_deadline(self) -> float | None:
        """Return when peers have to be asked for confirmations, even if nobody waits for them, or messages may be too old."""
        ask_at, expires_at = self.log.ask_at, self.log.expires_at
        return ask_at if expires_at == inf else earliest(ask_at, expires_at)

    def poll(self) -> None:
        """Ask all peers for confirmations, and let go what is too old, each if it is time."""
        if self.log.ask_at is not None and self.log.ask_at <= trio.current_time():
            self.ask_all()
        self._expire()
        self.settle()

    def _expire(self) -> None:
        """Let go what is too old (delivery.max-age)."""
        if self.log.expires_at < inf:
            self._too_old(self.log.expire(trio.current_time()))

    def _too_old(self, messages: list[Message]) -> None:
        """Have messages reported that are too old."""
        if messages:
            max_age = format_duration(self.log.delivery.max_age or 0)
            self.counters.too_old += events_in(messages)
            self.ledger.settle(messages, f"older than delivery.max-age ({max_age}) when its turn came")
            self._room.notify()

    def settle(self) -> None:
        """Confirm the messages that have settled, wake the task that waits for room, and see when to ask for confirmations.

        Messages that the link will not deliver wait in the ledger to be reported.
        """
        settled = self.log.settled()
        for messages, reason in settled:
            self.ledger.settle(messages, reason)
        if settled or (self._server is not None and not self.log.full):
            self._room.notify()
        if self.on_settled is not None:
            self.on_settled()
        self.heartbeat_task.reschedule(self)

    def drain(self) -> list[Accepted]:
        """Take out all events that have not settled, in order, because the output has ended.

        Those that the link will not deliver are left to the ledger, with their reasons.
        """
        left: list[Accepted] = []
        for messages, reason in self.log.drain():
            if reason is None:
                left += [event for message in messages for event in message.events]
            else:
                self.ledger.settle(messages, reason)
        return left

    # -- Feed -------------------------------------------------------------------------------------------

    def leave(self, session: Session) -> None:
        """End the subscription of a peer, if there is one; messages that only this peer did not confirm settle without it."""
        subscription = _subscription(session)
        if subscription is not None:
            self.log.leave(subscription)

    def became_idle(self, session: Session) -> None:
        """Add a peer to the broadcasts if it has everything and its socket can be written to; otherwise add it to `idle`."""
        subscription, number = _subscription(session), session.connection.free_fileno
        self.idle.discard(session)
        if subscription is None or number is None or not self.log.enter_sync(subscription, number):
            self.idle.add(session)

    def became_busy(self, session: Session) -> None:
        """Let nobody write to the peer but its own task."""
        subscription = _subscription(session)
        if subscription is not None:
            self.log.leave_sync(subscription)
        self.idle.discard(session)

    def take(self, session: Session) -> tuple[bytes, int, int]:
        """Take the next messages; return their frames, after a notice of a gap if there is one, and how many messages and events."""
        self._expire()
        subscription = _subscription(session)
        if subscription is None:
            return self._take_up(session.subscription)
        gap_after, before, unconfirmed = subscription.gap_after, subscription.position, subscription.in_flight
        frames, after = subscription.take(trio.current_time()), subscription.position
        if gap_after is not None:
            subscription.gap_reported()
            frames = self.lost_frame(gap_after, before) + frames
        messages = subscription.in_flight - unconfirmed
        own = after - before - messages  # each of which is one event
        return frames, messages, self.log.events_between(before, after) - own

    def _take_up(self, link: Subscription | None) -> tuple[bytes, int, int]:
        """Take the next messages for the link; return their frames, and how many messages and events."""
        if not isinstance(link, LinkSubscription):
            return b"", 0, 0
        messages = link.take(trio.current_time(), _WRITE)
        frames = b"".join(masked_frames([message.payload for message in messages], self.opcode))
        return frames, len(messages), events_in(messages)

    def warn(self, session: Session, text: str) -> None:
        """Log a warning about a session."""
        (self.peer_log.warning if session in self.peers else _log.warning)(text)

    # -- slow peers -------------------------------------------------------------------------------------

    async def _make_room(self, until: float) -> None:
        """Wait until there may be room, or treat the peers that make the log full according to `slow-peer`.

        `until` is the time at which what needs the room is too old for the link. For peers there is room before.
        """
        self.notify()
        if self._server is None:
            with trio.move_on_at(until):  # noqa: ASYNC912 - it waits
                await self._room.wait()
            return
        for _ in range(_TURNS):
            await trio.lowlevel.checkpoint()
            if not self.log.full:
                return
        policy, within = self._server.slow_peer, self._server.slow_peer_timeout
        if policy is SlowPeer.WAIT:
            until = trio.current_time() + within
            with trio.move_on_at(until):  # noqa: ASYNC912 - the log is full, so it waits
                while self.log.full:
                    await self._room.wait()
                return
            self._expel(await self._slow_after_reading(until, within))
        elif policy is SlowPeer.DROP_OLDEST:
            for subscription in self.log.slow:
                subscription.mark_stuck()
        else:
            self._expel(await self._slow_after_reading(None, within))

    async def _slow_after_reading(self, until: float | None, within: float) -> list[Session]:
        """Return the peers that make the log full even after everything in their sockets was read.

        The peers had time until `until`, for `within` seconds; None if they had none. This process may not have run for a while: a peer that took
        some of the waiting frames meanwhile gets its time anew.
        """
        found_room = await read_out([each.connection for each in self._members_of(self.log.slow)])
        slow = self._members_of(self.log.slow)
        if until is not None:
            late = trio.current_time() - until
            slow = [
                each
                for each in slow
                if each.connection not in found_room
                and not could_not_write(each.connection.motion, late, within)
            ]
        return slow

    def _members_of(self, subscriptions: Sequence[PeerSubscription]) -> list[Session]:
        """Return the peers that these subscriptions belong to, without those that are gone."""
        wanted = set(subscriptions)
        return [each for each in self.peers if each.subscription in wanted]

    @property
    def _closes_slow(self) -> bool:
        return self._server is not None and self._server.slow_peer is SlowPeer.DISCONNECT

    def _expel(
        self, slow: Sequence[Session], why: str = "peer %s does not keep up and is closed with 1013"
    ) -> None:
        for peer in slow:
            self.peer_log.warning(why, peer.peer.address)
            self.counters.expelled += 1
            peer.close(TRY_AGAIN_LATER)

    def lost_frame(self, after: int, number: int) -> bytes:
        """Return the frame that reports to a peer that it lost the events after `after`, up to the message `number`.

        Without stamps it is empty, because nothing could name the events.
        """
        if not self._stamped:
            return b""
        first = next(
            (event.seq for message in self.log.between(number, number + 1) for event in message.events), None
        )
        return gap_frame(self.epochs.stamp(after), None if first is None else self.epochs.stamp(first))

    # -- peers that come and go -------------------------------------------------------------------------

    def invite(self, session: Session) -> None:
        """Have a peer get everything from here on, although its handshake is not answered yet.

        The peer can't be closed before that answer. Where slow peers are closed, it makes nobody wait until then.
        """
        session.join()
        subscription = _subscription(session)
        if self._closes_slow and subscription is not None:
            subscription.mark_stuck()

    def came(self, peer: Session) -> None:
        """Add a peer that is connected; close it if slow peers are closed and it lost messages before its handshake was answered."""
        self.peers.add(peer)
        self.counters.admitted += 1
        _coming.info("peer %s came", peer.peer.address)
        self.changed.unpark_all()
        subscription = _subscription(peer)
        if self._closes_slow and subscription is not None:
            subscription.clear_stuck()
            if subscription.dropped:
                self._expel([peer], "peer %s did not read its answer in time and is closed with 1013")

    def left(self, peer: Session) -> None:
        """Remove a peer whose connection is over."""
        self.peers.discard(peer)
        self.idle.discard(peer)
        disconnection = peer.connection.disconnection
        if disconnection is not None and disconnection.cause in BY_SILENCE:
            self._warn_of_silence(peer, disconnection)
        _coming.info("peer %s left%s", peer.peer.address, _why(disconnection))
        self.changed.unpark_all()

    def end_with(self, code: int | None, reason: str) -> None:
        """Set the Close that tells of the end of the output; the first call that names a code or a reason counts."""
        if self.ending == (None, ""):
            self.ending = code, reason

    def complete_now(self) -> None:
        """Let each peer go as soon as it has everything: nothing more will be posted."""
        self.complete = True
        for peer in self.peers:
            peer.wake()

    def _warn_of_silence(self, peer: Session, disconnection: Disconnection) -> None:
        """Warn once about a peer that was cut for its silence and never confirmed anything; name the setting for such peers."""
        if self._warned_of_silence:
            return
        stalled = disconnection.cause is Cause.STALLED
        if stalled and self.log.delivery.level is DeliveryLevel.ACKED:
            what = "acknowledged nothing within retry.timeout; for peers that acknowledge nothing"
            instead = "delivery.level: received"
        elif peer.monitor.unanswered:
            what = "answered no ping, ever; for peers that answer none"
            instead = "delivery.level: written" if stalled else self._advice
        else:
            return
        self._warned_of_silence = True
        _log.warning("peer %s was cut: it %s there is %s", peer.peer.address, what, instead)


def gap_frame(asked: str | None, first: str | None) -> bytes:
    """Return the frame that reports to a peer that the events between two cursors are missing."""
    return plain_frame(gap_message(asked, first), TEXT)


def _owner(subscription: PeerSubscription) -> Session:
    return cast("Session", subscription.owner)


def _subscription(session: Session) -> PeerSubscription | None:
    """Return the subscription of a peer; None if it has none yet, or if it is the link."""
    subscription = session.subscription
    return subscription if isinstance(subscription, PeerSubscription) else None


def _why(disconnection: Disconnection | None) -> str:
    """Return why a peer left, for a log line; empty if this side wanted it."""
    return "" if disconnection is None or disconnection.cause is Cause.LOCAL else f": {disconnection.detail}"
