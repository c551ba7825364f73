"""One peer of a listener, from its admission to its end: its messages in both directions, and its deadlines.

::

    peer
    ├─ fan-out  history → socket, then log → socket where the sender of the output could not write it
    └─ reader   always drains; → received, or the relay

Mostly the fan-out task waits: the sender of the output writes to the socket as soon as there is something
(`FanOut.notify`). The task writes the history, what the socket had no room for, and everything if the stream is none
that others can write to (TLS). The peer's deadlines (heartbeat, retry.timeout, idle-timeout) are watched by the
listener's one `HeartbeatTask`.
"""

from __future__ import annotations

from functools import partial
from math import inf

import trio
from attrs import define, field, frozen

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.heartbeat import HeartbeatMonitor
from trio_wsout._core.log import Subscription
from trio_wsout._core.message import Accepted
from trio_wsout._core.packing import PackingError
from trio_wsout._core.read_out import could_not_write
from trio_wsout._core.received import Peer
from trio_wsout._tasks.fan_out import FanOut
from trio_wsout._tasks.heartbeat import Suspect, beat
from trio_wsout._tasks.reader import Inbox, Reader
from trio_wsout._tasks.replay import Overtaken, Replay
from trio_wsout._tasks.wakeup import Wakeup, earliest
from trio_wsout._wire.connection import FAREWELL, Connection
from trio_wsout.errors import HistoryError

__all__ = ["GOING_AWAY", "Resumption", "ServedPeer"]

GOING_AWAY = 1001
"""Close code of a listener that ends, and for peers that are idle."""
_INTERNAL_ERROR = 1011
_GONE = 4410
"""Close code for a peer whose cursor is not known (history.on-gap: refuse)."""
_LONGEST_REASON = 123
"""Bytes that the reason of a Close has room for (RFC 6455 section 5.5)."""
_CLOSING = 5.0
"""Seconds that a peer may take to read the bytes on their way, with our Close behind it, and to answer."""
_DRAIN = 1.0
"""Seconds that messages which came before the end may take to reach a slow application."""


@frozen(kw_only=True)
class Resumption:
    """The part of a peer's stream that comes before the messages posted from now on."""

    replay: Replay | None = None
    """Reads the events that it missed; None if it gets none of them."""
    resumed: bool | None = None
    """Whether it misses nothing; None if it did not ask to resume."""
    notice: bytes = b""
    """Frames that it gets before anything else."""
    refusal: str | None = None
    """The first cursor in the history, for the Close of a peer whose cursor is not known; None if the peer is let in."""


@define(eq=False, weakref_slot=False)
class ServedPeer:
    """A peer from its admission to its end. A `Member`, `HasDeadline`, `Owner` and `WritingSide`."""

    peer: Peer
    monitor: HeartbeatMonitor
    _fan_out: FanOut
    _write_timeout: float = field(alias="write_timeout")
    """Seconds that a part of the history may take to be written."""
    _idle_timeout: float | None = field(alias="idle_timeout")
    """Seconds without a message in either direction before Close 1001; None if it may be idle for ever."""
    connection: Connection = field(init=False)
    due: float = field(default=inf, init=False)
    ticket: int = field(default=0, init=False)
    active_at: float = field(default=0.0, init=False)
    """The time of the latest message in either direction."""
    subscription: Subscription | None = field(default=None, init=False)
    """Its subscription to the log; while in sync, its account may be old (`catch_up`). None until its replay has
    caught up."""
    sent_early: set[int] | None = field(default=None, init=False)
    """Numbers of the events that it sent before it had a subscription, and that its replay has not passed; None if it
    has no replay."""
    _wakeup: Wakeup = field(factory=Wakeup, init=False)
    """Wakes the fan-out task; at the end, it waits for the reader by this, too."""
    _reading: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    """Whether this side does not read now, because the application takes nothing."""
    _writing: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Bounds the write that is under way, or the closing handshake."""
    _close_code: int | None = field(default=None, init=False)
    _close_reason: str = field(default="", init=False)
    _close_by: float | None = field(default=None, init=False)
    """The time at which the closing handshake under way is given up; None if there is none."""
    _replay_due: float | None = field(default=None, init=False)
    """The time at which the part of the history being written makes the peer stalled; None if none is being written."""

    # -- life -----------------------------------------------------------------------------------------------

    async def run(self, connection: Connection, inbox: Inbox, resumption: Resumption) -> None:
        """Serve an open connection until it is over, or `close` was called. Then it is cut."""
        self.connection = connection
        if resumption.replay is not None:
            self.sent_early = set()
        self.active_at = now = trio.current_time()
        self.monitor.opened(now, knows_progress=connection.progress() is not None)
        connection.transport.on_queued = self.wake
        connection.on_ping = self.monitor.ping_written
        connection.transport.on_bytes = self._frame_received
        connection.on_pong = self._pong_received
        self._fan_out.enter(self)
        self._reschedule()
        try:
            async with connection, trio.open_nursery() as nursery:
                self._reading = True
                nursery.start_soon(self._read, inbox)
                with self._writing:
                    connection.transport.on_end(self._connection_over)
                    await self._write_all(resumption)
                self.leave_log_and_settle()
                await self._close_connection()
                with trio.move_on_after(_DRAIN):  # noqa: ASYNC912 - while the reader has not ended, it waits
                    while self._reading:
                        await self._wakeup.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._fan_out.heartbeat_task.forget(self)
            self.leave_log()
            self._fan_out.leave(self)
            self._fan_out.counters.heartbeat_misses += self.monitor.misses

    async def _read(self, inbox: Inbox) -> None:
        try:
            await Reader(self.connection, inbox, self, self.peer).run()
        finally:
            self._reading = False
            self._wakeup.notify()

    def _connection_over(self) -> None:
        """Stop writing; but our answer to a Close may be under way, and gets a moment."""
        self._claim_socket()
        if self.connection.peer_may_read:
            self._writing.deadline = min(self._writing.deadline, trio.current_time() + FAREWELL)
            self.wake()
        else:
            self._writing.cancel()

    def close(self, code: int, reason: str = "") -> None:
        """Have the connection closed with `code` once the write under way is done; cut it if that takes too long.

        A reason for which no Close has room is left out: a part of a cursor would be another cursor.
        """
        if self._close_code is None:
            self._close_code = code
            self._close_reason = reason if len(reason.encode()) <= _LONGEST_REASON else ""
            self._close_by = trio.current_time() + _CLOSING
            self._fan_out.heartbeat_task.no_later_than(self, self._close_by)
            self.leave_log_and_settle()
            self.wake()

    async def _close_connection(self) -> None:
        """Close politely within the time that is left; then cut."""
        connection = self.connection
        connection.transport.on_end(None)
        if connection.disconnection is not None:
            await connection.farewell()
        elif self._close_code is not None and self._close_by is not None:
            self._writing = trio.CancelScope()
            with self._writing:
                await connection.aclose(self._close_code, self._close_reason)
        await connection.cut()

    # -- subscription ---------------------------------------------------------------------------------------

    def join_log(self) -> None:
        """Subscribe to the messages that are posted from now on."""
        self.subscription = self._fan_out.log.join(self)
        if self._paused:
            self.subscription.reading_paused()

    def leave_log_and_settle(self) -> None:
        """Leave the log, and settle the messages that only this peer had not confirmed."""
        self.leave_log()
        self._fan_out.settle()

    def leave_log(self) -> None:
        """Leave the log without settling anything by that: for the end of the whole tree."""
        if self.subscription is not None:
            self._fan_out.log.leave(self.subscription)

    def catch_up(self) -> Subscription | None:
        """Return the subscription with its account up to date; None until its replay has caught up."""
        if self.subscription is not None and self.subscription.in_sync:
            self._fan_out.log.in_sync.catch_up(self.subscription)
        return self.subscription

    def wrote(self, size: int, at: float) -> None:
        """Count `size` bytes that broadcasts wrote to the peer, the last of them at the time `at`."""
        self.connection.transport.wrote(size)
        self.active_at = max(self.active_at, at)

    def left_sync(self) -> None:
        """Be written to individually: broadcasts leave this peer out from now on."""
        self._fan_out.idle.add(self)

    def wake(self) -> None:
        """Wake the fan-out task, which alone writes from now on."""
        self._claim_socket()
        self._wakeup.notify()

    def _claim_socket(self) -> None:
        """Let nobody but the fan-out task write."""
        if self.subscription is not None:
            self._fan_out.log.leave_sync(self.subscription)
        self._fan_out.idle.discard(self)

    # -- writing without the task -----------------------------------------------------------------------------

    def written(self) -> None:
        """At level written, confirm the messages taken from the log, unless some of them wait for room in the socket."""
        subscription = self.catch_up()
        if subscription is not None and not self.connection.transport.has_queued:
            subscription.written()

    def write_now(self) -> None:
        """Write the frames that wait for this peer, and a ping if one is wanted; wake the fan-out task if only that can write.

        The fan-out task waits, and the peer is not in sync.
        """
        subscription = self.subscription
        while subscription is not None and subscription.ready and not self._finished:
            if self.connection.transport.free_fileno is None:
                self.wake()
                return
            frames = self._take(subscription)
            if frames:
                self._fan_out.counters.sent_bytes += len(frames)
                self.active_at = trio.current_time()
                self.connection.write_nowait(frames)
                if self._fan_out.confirms_writes:
                    self.written()
        self.ping()
        self._reschedule()
        if self in self._fan_out.idle:
            self._fan_out.became_idle(self)

    def ping(self) -> None:
        """Write the ping that is due or wanted, if one is, behind everything that was taken."""
        if self._finished or not self._ping_wanted():
            return
        self.connection.ping_nowait(self._next_ping())
        self._reschedule()

    def _ping_wanted(self) -> bool:
        monitor, subscription = self.monitor, self.catch_up()
        return monitor.ping_due or (monitor.free and subscription is not None and subscription.pings_now)

    def _next_ping(self) -> bytes:
        subscription = self.catch_up()
        confirms = subscription is not None and len(subscription.writes) > 0
        payload = self.monitor.next_ping(confirms=confirms)
        if subscription is not None:
            subscription.ping_taken()
        return payload

    # -- the fan-out task -------------------------------------------------------------------------------------

    async def _write_all(self, resumption: Resumption) -> None:
        if resumption.refusal is not None:
            self.close(_GONE, resumption.refusal)
        try:
            if resumption.notice:
                await self._write(resumption.notice)
            if resumption.replay is not None:
                await self._write_history(resumption.replay)
            await self._write_from_log()
        except trio.BrokenResourceError:
            # The connection is over; its `disconnection` is the cause.
            return

    async def _write_history(self, replay: Replay) -> None:
        """Write the events that the peer missed, until it has a subscription that follows without a gap."""
        while not self._finished:
            try:
                frames = await replay.next_frames(self)
            except Overtaken as gap:
                self.close(_GONE, gap.first or "")
                return
            except (HistoryError, PackingError) as error:
                self._fan_out.peer_log.error("a peer's replay was broken off: %s", error)
                self.close(_INTERNAL_ERROR)
                return
            if not frames:
                return
            self._replay_due = trio.current_time() + self._write_timeout
            await self._write(frames)
            self._replay_due = None

    async def _write_from_log(self) -> None:
        """Write everything that waits in one go, again and again, until there is a reason to close."""
        fan_out = self._fan_out
        while not self._finished:
            subscription = self.catch_up()
            ready = subscription is not None and subscription.ready
            if not (ready or self._ping_wanted() or self.connection.transport.has_queued):
                if fan_out.complete and subscription is not None and subscription.has_all:
                    self.close(GOING_AWAY)
                    return
                fan_out.became_idle(self)
                try:
                    await self._wakeup.wait()
                finally:
                    self._claim_socket()  # when cancelled, too: what comes next closes the socket
                continue
            frames = b""
            if ready and subscription is not None:
                frames = self._take(subscription)
                fan_out.settle()
            await self._write(frames)
            if subscription is not None and fan_out.confirms_writes:
                subscription.written()
                fan_out.settle()

    def _take(self, subscription: Subscription) -> bytes:
        """Return the next frames to write, after a notice of a gap if there is one; empty if only the peer's own messages wait."""
        fan_out = self._fan_out
        gap_after, before = subscription.gap_after, subscription.position
        frames = subscription.take(trio.current_time())
        fan_out.count(before, subscription.position)
        if gap_after is not None:
            subscription.gap_reported()
            frames = fan_out.lost_frame(gap_after, before) + frames
        return frames

    @property
    def _finished(self) -> bool:
        """Whether nothing more is to be written here but a Close."""
        return self._close_code is not None or self.connection.disconnection is not None

    async def _write(self, frames: bytes) -> None:
        ping = self._next_ping() if self._ping_wanted() else None
        if frames or ping is not None or self.connection.transport.has_queued:
            self._fan_out.heartbeat_task.no_later_than(self, self._stalls_at())
            count = await self.connection.write_frames(frames, ping)
            self._fan_out.counters.sent_bytes += count
        if frames:
            self.active_at = trio.current_time()
        self._reschedule()

    # -- receiving -------------------------------------------------------------------------------------------

    def _frame_received(self, now: float) -> None:
        if self.monitor.frame_received(now):
            self._reschedule()

    def _pong_received(self, payload: bytes) -> None:
        if self.monitor.pong_received(payload) and (subscription := self.catch_up()) is not None:
            subscription.pong_received(trio.current_time())
            self._confirmed()

    def _confirmed(self) -> None:
        """Go on after a confirmation: it may have made room, or been the last, and more may have to be asked for."""
        if self._fan_out.complete:
            self.wake()
        elif self in self._fan_out.idle:
            self.write_now()
        else:
            self.ping()
        self._fan_out.settle()

    def heard(self) -> None:
        """Take note of a message from the peer."""
        self.active_at = trio.current_time()

    def events_in_flight(self) -> list[Accepted]:
        """Return the events that an acknowledgement may name, oldest first."""
        subscription = self.catch_up()
        return [] if subscription is None else subscription.events_in_flight()

    def acked(self, seq: int) -> None:
        """Take note that the peer's application has every event up to `seq`."""
        subscription = self.catch_up()
        if subscription is not None:
            subscription.acked(seq)
            self._confirmed()

    def reading_paused(self) -> None:
        """Take note that this side stopped reading, because the application takes nothing."""
        self.monitor.reading_paused()
        self._paused = True
        if self.subscription is not None:
            self.subscription.reading_paused()
            self.wake()

    def reading_resumed(self, now: float) -> None:
        """Take note that this side reads again since `now`."""
        self.monitor.reading_resumed(now)
        self._paused = False
        self.active_at = now
        if self.subscription is not None:
            self.subscription.reading_resumed(now)
        self._reschedule()

    # -- HasDeadline --------------------------------------------------------------------------------------------

    def _idle_at(self) -> float | None:
        if self._idle_timeout is None or self._paused or self._close_code is not None:
            return None
        self.catch_up()
        return self.active_at + self._idle_timeout

    def _stalls_at(self) -> float | None:
        subscription = self.catch_up()
        if subscription is None:
            return self._replay_due
        return subscription.deadline if subscription.joined else None

    def next_deadline(self) -> float | None:
        """Return when `poll` has something to do; None once the connection is over."""
        if self.connection.disconnection is not None:
            return None
        return earliest(self.monitor.deadline, self._stalls_at(), self._idle_at(), self._close_by)

    def _reschedule(self) -> None:
        self._fan_out.heartbeat_task.reschedule(self)

    def poll(self) -> Suspect | None:
        """Ping; or return the peer to be judged, if it may have to be warned of, cut, or closed."""
        silent = self._beat()
        over = earliest(self._stalls_at(), self._idle_at(), self._close_by)
        if silent or (over is not None and trio.current_time() >= over):
            return Suspect(self.connection, partial(self._judge, silent=silent))
        return None

    def _beat(self, *, all_read: bool = False) -> bool:
        warn = self._fan_out.peer_log.warning
        return beat(self.connection, self.monitor, self.ping, all_read=all_read, warn=warn)

    def _judge(self, *, silent: bool, found_room: bool) -> None:
        now = trio.current_time()
        if self._close_by is not None and now >= self._close_by:
            self._close_by = None
            self._writing.cancel()
            return
        idle_at = self._idle_at()
        if idle_at is not None and now >= idle_at:
            if found_room:
                self.active_at = now
            else:
                self.close(GOING_AWAY)
        stalls_at = self._stalls_at()
        if stalls_at is not None and now >= stalls_at:
            late = now - stalls_at
            if found_room or could_not_write(self.connection.motion, late, self._write_timeout):
                self._stall_later(now)
            else:
                self._end_stalled()
                silent = False
        if silent:
            self._beat(all_read=True)
        if self.connection.disconnection is not None:
            self._fan_out.was_cut(self)

    def _stall_later(self, now: float) -> None:
        """Count the peer's time from now: it made room while this side did not run and could not write."""
        if self.subscription is None:
            self._replay_due = now + self._write_timeout
        else:
            self.subscription.reading_resumed(now)

    def _end_stalled(self) -> None:
        what = "a message was not confirmed"
        if self.subscription is None:
            what = "a part of the history was not written"
        self.connection.end(Disconnection(cause=Cause.STALLED, detail=f"{what} within retry.timeout"))
