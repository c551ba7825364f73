"""The peers of a listener, and the log that they all read: posting, backpressure, slow peers (SPEC 2 and 10)."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Protocol, cast

import trio

from trio_wsout._core.acknowledgement import stamp_of
from trio_wsout._core.disconnection import Cause
from trio_wsout._core.history import gap_message
from trio_wsout._core.log import Log, Owner
from trio_wsout._core.look import could_not_write
from trio_wsout._core.message import BatchMessage
from trio_wsout._tasks.heartbeat import HeartbeatTask
from trio_wsout._tasks.look import look
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout._wire.at_once import write_to_each
from trio_wsout._wire.frames import BINARY, TEXT, plain_frame
from trio_wsout.config.sections import DeliveryLevel, Mode, SlowPeer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout._core.disconnection import Disconnection
    from trio_wsout._core.heartbeat import HeartbeatMonitor
    from trio_wsout._core.log import Subscription, Wave
    from trio_wsout._core.message import Message
    from trio_wsout._core.received import Peer
    from trio_wsout._core.statistics import Counters
    from trio_wsout._tasks.ledger import Ledger
    from trio_wsout._tasks.look import Suspect
    from trio_wsout._tasks.uplink import Uplink
    from trio_wsout._wire.connection import Connection
    from trio_wsout._wire.peer_log import PeerLog
    from trio_wsout.config.sections import Config

__all__ = ["TRY_AGAIN_LATER", "FanOut", "Member", "gap_frame"]

_log = logging.getLogger("trio_wsout")
_coming = logging.getLogger("trio_wsout.peers")
"""Each peer that comes and goes: many lines, so that whoever wants them, or not, says so by this name."""

TRY_AGAIN_LATER = 1013
"""Close code for a peer that is too slow."""
_TURNS = 3
"""Times that the peers' tasks may run before a full queue means that the peer itself is slow."""


class Member(Owner, Protocol):
    """A peer, as far as those have to do with it who share the log."""

    peer: Peer
    """Who it is."""
    connection: Connection
    monitor: HeartbeatMonitor
    sent_early: set[int] | None
    """Numbers of the events that it sent before it had a place, and has not passed in its replay; None: it has none."""
    due: float
    ticket: int

    @property
    def place(self) -> Subscription | None:
        """Its place in the log, the account of it up to date; None until its replay has caught up."""
        ...

    def join_log(self) -> None:
        """Have a place in the log, at its end."""
        ...

    @property
    def deadline(self) -> float | None:
        """When `poll` has something to do."""
        ...

    def poll(self) -> Suspect | None:
        """Ping; or return the connection, if the peer is to be warned of, cut, or closed."""
        ...

    def wake(self) -> None:
        """There is something for its fan-out to do, which a wave and `ping` can't. It is out of step then."""
        ...

    def written(self) -> None:
        """What it took was written, unless some of it waits."""
        ...

    def write_at_once(self) -> None:
        """Write what there is for it, or have its fan-out do so; it waits, and is not in sync."""
        ...

    def ping(self) -> None:
        """Write the ping that is due or wanted, if one is."""
        ...

    def close(self, code: int) -> None:
        """Say Close with `code`, and end."""
        ...


class FanOut:
    """Takes messages for everybody; a `Sink`. A message is framed once, whatever the number of peers."""

    def __init__(
        self, config: Config, ledger: Ledger, counters: Counters, peer_log: PeerLog, *, text: bool
    ) -> None:
        server = config.server
        assert server is not None  # noqa: S101 - the rules see to it
        self.log = Log(config.delivery, config.retry, capacity=server.send_buffer_capacity)
        self.opcode = TEXT if text else BINARY
        self.peers: set[Member] = set()
        self._ledger = ledger
        self.peer_log = peer_log
        self._policy = server.slow_peer
        self._patience = server.slow_peer_timeout
        self.idle: set[Member] = set()
        """Whose fan-outs wait because nothing is to be done, and who are not in sync: they write for themselves."""
        self.heartbeat_task = HeartbeatTask()
        """Looks at the deadlines of all peers."""
        self._asking = _Asking(self)
        self.confirms_writes = config.delivery.level is DeliveryLevel.WRITTEN
        """Whether a peer has what was written to it."""
        self._level = config.delivery.level
        sends = config.mode is not Mode.SERVER_INPUT and self._level is not DeliveryLevel.WRITTEN
        self._without_pings = "heartbeat: none" + (", and delivery.level: written" if sends else "")
        """What to set for peers that answer no ping and send nothing."""
        self._told_of_silence = False
        self._stamped = config.delivery.stamp is not None
        self.epoch = 0
        self.uplink: Uplink | None = None
        """The link of a relay, which is one more member."""
        self._room = Wakeup()
        self._changed = trio.Event()
        self.complete = False
        """Whether nothing more will be posted: a peer that has everything may go."""
        self.counters = counters

    def count_replayed(self, events: int, messages: int) -> None:
        """Count what a peer gets from the history."""
        self.counters.replayed += events
        self.counters.written += events
        self.counters.written_messages += messages

    # -- posting ----------------------------------------------------------------------------------------

    def accept(self, message: Message) -> bool:
        """Post a message if every peer has room for it, or must do without; gives whether it was posted."""
        if self.log.full:
            return False
        source: Member | Uplink | None = message.source
        place = None
        if source is not None:
            place = source.place
            if place is None and source.sent_early is not None:
                source.sent_early.add(message.last_seq)
        self.log.post(message, plain_frame(message.payload, self.opcode), place)
        if self.uplink is not None:
            self.uplink.offer(message, self.log.end - 1)
        return True

    async def put(self, message: Message) -> None:
        """Post a message; waits while a peer has no room, as `slow-peer` says."""
        while not self.accept(message):
            await self._make_room()

    def notify(self) -> None:
        """Messages were posted: have them written to all peers.

        It is done here and now, and wakes no task, unless a connection has no room or only its fan-out can write.
        For those in sync it costs a system call, of bytes that all share.
        """
        log = self.log
        if log.keeps_much and (kept_for := log.kept_for):
            self._expel(self._members_at(kept_for))
        if self._ledger.awaited:
            log.want()
        while (wave := log.next_wave(trio.current_time())) is not None:
            self._spread(wave)
        for peer in [each for each in self.idle if (place := each.place) is not None and place.ready]:
            peer.write_at_once()
        self.settle()

    def _spread(self, wave: Wave) -> None:
        """Write frames to all in sync; who does not take them whole falls out of it."""
        log, members = self.log, self.log.in_sync.members
        short = write_to_each(members, wave.frames)
        for place, outcome in short.items():
            if not isinstance(outcome, int) or not outcome:
                log.step_out(place)
        self.count(wave.write.first, wave.write.last, len(members))
        self.counters.sent_bytes += len(members) * wave.write.size
        ask = log.took(wave)
        for place, outcome in short.items():
            _member(place).connection.wrote_some(wave.frames, outcome)
        if ask:
            for place in tuple(members):
                _member(place).ping()
        if self.confirms_writes:
            for place in tuple(members):
                _member(place).written()

    def rest(self, peer: Member) -> None:
        """Nothing is to be done for a peer: have it take each wave, if it can, or be woken for what comes."""
        place, number = peer.place, peer.connection.free_number
        self.idle.discard(peer)
        if place is None or number is None or not self.log.step_in(place, number):
            self.idle.add(peer)

    def count(self, first: int, last: int, peers: int = 1) -> None:
        """Count the messages `first` to before `last` as written to so many peers."""
        self.counters.written_messages += peers * (last - first)
        self.counters.written += peers * (self.log.seq_before(last) - self.log.seq_before(first))

    def hurry(self) -> None:
        """Somebody waits: ask all peers what they have."""
        self.log.want()
        self.log.ask_at = None
        for peer in tuple(self.peers):
            peer.ping()
            self.heartbeat_task.look_at(peer)

    def settle(self) -> None:
        """Confirm what every peer has, or can't have any more; see whether there is room, and when to ask for more."""
        if self.uplink is not None:
            self.uplink.advance()
        messages = self.log.settled()
        if messages:
            self._confirm(messages)
        if not self.log.full:
            self._room.notify()
        self.heartbeat_task.look_at(self._asking)

    def _confirm(self, messages: Sequence[Message]) -> None:
        """Every peer has these; what the link will never have has been reported, and is not confirmed."""
        failed = {} if self.uplink is None else self.uplink.failed
        if not failed:
            self._ledger.confirm(messages)
            return
        for message in messages:
            lost = [(event, failed.pop(event.seq)) for event in message.events if event.seq in failed]
            for event, reason in lost:
                self._ledger.failed(event, reason)
            without = {event.seq for event, _ in lost}
            kept = [event for event in message.events if event.seq not in without]
            if kept:
                self._ledger.confirm(
                    [BatchMessage(message.payload, kept, message.document) if lost else message]
                )

    async def _make_room(self) -> None:
        """Wait until nobody makes the log full, or treat those who do."""
        self.notify()
        for _ in range(_TURNS):
            await trio.lowlevel.checkpoint()
            if not self.log.full:
                return
        if self._policy is SlowPeer.WAIT:
            until = trio.current_time() + self._patience
            with trio.move_on_at(until):  # noqa: ASYNC912 - the log is full, so it waits
                while self.log.full:
                    await self._room.wait()
                return
            self._expel(await self._slow_after_a_look(until))
            return
        if self._policy is SlowPeer.DROP_OLDEST:
            for place in self.log.slow:
                place.stuck = True
            return
        self._expel(await self._slow_after_a_look(None))

    async def _slow_after_a_look(self, until: float | None) -> list[Member]:
        """The peers that make the log full also after what lay in their sockets was read, and all written that could be.

        They had until then; None: nobody waits for them. This process may not have run for a while: a peer that took
        some of what waited meanwhile gets its time anew.
        """
        found_room = await look([each.connection for each in self._members_at(self.log.slow)])
        slow = self._members_at(self.log.slow)
        if until is not None:
            late = trio.current_time() - until
            slow = [
                each
                for each in slow
                if each.connection not in found_room
                and not could_not_write(each.connection.motion, late, self._patience)
            ]
        return slow

    def _members_at(self, places: Sequence[Subscription]) -> list[Member]:
        """Those of the peers whose places these are."""
        wanted = set(places)
        return [each for each in self.peers if each.place in wanted]

    def _expel(self, slow: Sequence[Member]) -> None:
        for peer in slow:
            self.peer_log.warning("peer %s does not keep up and is closed with 1013", peer.peer.address)
            self.counters.expelled += 1
            peer.close(TRY_AGAIN_LATER)

    def complete_now(self) -> None:
        """Nothing more will be posted: each peer goes when it has everything, and waits for no other."""
        self.complete = True
        for peer in self.peers:
            peer.wake()

    def was_cut(self, peer: Member) -> None:
        """A peer was cut because nothing came; if it never did what confirms, a WARNING says so, of the first such."""
        disconnection = peer.connection.disconnection
        if self._told_of_silence or disconnection is None:
            return
        stalled = disconnection.cause is Cause.STALLED
        if stalled and self._level is DeliveryLevel.ACKED:
            what = "acknowledged nothing within retry.timeout; for peers that acknowledge nothing"
            instead = "delivery.level: received"
        elif peer.monitor.unanswered:
            what = "answered no ping, ever; for peers that answer none"
            instead = "delivery.level: written" if stalled else self._without_pings
        else:
            return
        self._told_of_silence = True
        _log.warning("peer %s was cut: it %s there is %s", peer.peer.address, what, instead)

    # -- gaps ---------------------------------------------------------------------------------------------

    def lost_frame(self, after: int, number: int) -> bytes:
        """Tells a peer that it lost the events after `after`, up to the message `number`; nothing, without stamps."""
        if not self._stamped:
            return b""
        first = next(iter(self.log.between(number, number + 1)), None)
        return gap_frame(
            stamp_of(self.epoch, after), None if first is None else stamp_of(self.epoch, first.seq)
        )

    # -- who is there -----------------------------------------------------------------------------------

    def enter(self, peer: Member) -> None:
        """A peer is connected."""
        self.peers.add(peer)
        self.counters.admitted += 1
        _coming.info("peer %s came", peer.peer.address)
        self._change()

    def leave(self, peer: Member) -> None:
        """A peer's connection is over."""
        self.peers.discard(peer)
        self.idle.discard(peer)
        self.counters.received_bytes += peer.connection.received_bytes
        _coming.info("peer %s left%s", peer.peer.address, _why(peer.connection.disconnection))
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self) -> None:
        """Wait until a peer comes or goes."""
        await self._changed.wait()


def gap_frame(asked: str | None, first: str | None) -> bytes:
    """Tells a peer that the events between two cursors are missing."""
    return plain_frame(gap_message(asked, first), TEXT)


def _member(place: Subscription) -> Member:
    """Whose place this is."""
    return cast("Member", place.owner)


def _why(disconnection: Disconnection | None) -> str:
    """Why a peer left, if it was not this side that wanted it."""
    return "" if disconnection is None or disconnection.cause is Cause.LOCAL else f": {disconnection.detail}"


class _Asking:
    """Has all peers asked what they have, where nobody waited for it. A `HasDeadline`."""

    due = inf
    ticket = 0

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out

    @property
    def deadline(self) -> float | None:
        return self._fan_out.log.ask_at

    def poll(self) -> None:
        self._fan_out.hurry()
