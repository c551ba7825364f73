"""A session: one open connection, dialled or accepted, from its beginning to its end (SPEC 7, 8 and 10).

::

    session     (what a peer missed, then) log → socket, where the sender of the output could not write it
    └─ reader   always drains; → received, or the relay; pongs and acknowledgements confirm

Mostly the task of the session waits: the sender of the output writes to the socket as soon as there is something
(`Session.write_now`). The task writes what the socket had no room for, what a peer missed before, and everything if the
stream is none that others can write to (TLS). The deadlines of all sessions are watched by the output's one `HeartbeatTask`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from math import inf
from typing import Protocol

import trio
from attrs import define, field, frozen

from trio_wsout._core.acknowledgement import AckReader
from trio_wsout._core.close_codes import EXPIRED, GOING_AWAY, GONE, CloseNow, fits
from trio_wsout._core.cursor import MISSING
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.heartbeat import HeartbeatMonitor, Pulse
from trio_wsout._core.log import Log
from trio_wsout._core.read_out import could_not_write
from trio_wsout._core.received import Peer, Received
from trio_wsout._core.subscription import PeerSubscription, Subscription
from trio_wsout._tasks.heartbeat import HeartbeatTask, Suspect
from trio_wsout._tasks.inbox import Inbox, Taker
from trio_wsout._tasks.wakeup import Wakeup, earliest
from trio_wsout._wire.connection import FAREWELL, Connection

_CLOSING = 5.0
"""Seconds that a peer may take to read the bytes on their way, with our Close behind it, and to answer."""
_PATIENCE = 1.0
"""Seconds that a read of the history may go on while a control frame waits that only the session's task can write."""
_DRAIN = 1.0
"""Seconds that messages which came before the end may take to reach a slow application."""


class Feed(Protocol):
    """The source of the messages that sessions write; `FanOut` is one."""

    log: Log
    heartbeat_task: HeartbeatTask
    idle: set[Session]
    """Sessions whose tasks wait, and that are not in sync: each is written to individually, by the sender of the output."""
    complete: bool
    """Whether nothing more will come, so that a session that has everything may close."""
    confirms_writes: bool
    """Whether a message is confirmed once it is written (level written)."""
    ending: tuple[int | None, str]
    """Code and reason of the Close that tells of the end of the output, as the application named them; no code if it named none."""
    counts_link: bool
    """Whether what goes up the link counts as written; a relay counts what it writes to its peers."""

    def leave(self, session: Session) -> None:
        """End the account, if it is a peer's: messages that only this session did not confirm settle without it."""

    def take(self, session: Session) -> tuple[bytes, int, int]:
        """Take messages from the account; return the frames to write, and the number of messages and of events.

        There are no frames if the session's own peer sent all of the messages.
        """
        ...

    def settle(self) -> None:
        """Act on confirmations, and on room that was made."""

    def became_idle(self, session: Session) -> None:
        """Let the sender write to the session, whose task waits."""

    def became_busy(self, session: Session) -> None:
        """Let nobody write to the session but its own task."""

    def warn(self, session: Session, text: str) -> None:
        """Log a warning about a session."""


@frozen(kw_only=True)
class Resumption:
    """The part of a peer's stream that comes before the messages posted from now on."""

    replay: Callable[[Session], Awaitable[bytes]] | None = None
    """Returns the next frames that it missed, or raises CloseNow; empty once it has caught up and joined. None if it gets none."""
    resumed: bool | None = None
    """Whether it misses nothing; None if it did not ask to resume."""
    notice: bytes = b""
    """Frames that it gets before anything else."""
    refusal: str | None = None
    """The first cursor in the history, for the Close of a peer whose cursor is not known; None if the peer is let in."""


@define(eq=False, weakref_slot=False)
class Session:
    """One session. A `HasDeadline`, a `Suspect`, and the `Owner` of its subscription."""

    peer: Peer
    monitor: HeartbeatMonitor
    _feed: Feed
    _idle_timeout: float | None = None
    """Seconds without a message in either direction before Close 1001; None if the session may be idle for ever."""
    _expires_at: float | None = None
    """The time at which the peer's admission ends; None for never."""
    connection: Connection = field(init=False)
    due: float = field(default=inf, init=False)
    ticket: int = field(default=0, init=False)
    active_at: float = field(default=0.0, init=False)
    """The time of the latest message in either direction."""
    since: float = field(default=0.0, init=False)
    """The time at which it opened, in seconds since 1970."""
    sent_messages: int = field(default=0, init=False)
    """Messages handed to the kernel; while in sync, it may be old (`catch_up`)."""
    received_messages: int = field(default=0, init=False)
    """Messages that came."""
    subscription: Subscription | None = field(default=None, init=False)
    """Its account; while in sync, it may be old (`catch_up`). None until its replay has caught up."""
    sent_early: set[int] | None = field(default=None, init=False)
    """Numbers of the events that its peer sent before it had a subscription, and that its replay has not passed; None if
    it has no replay."""
    _inbox: Inbox = field(init=False)
    _wakeup: Wakeup = field(factory=Wakeup, init=False)
    """Wakes the task."""
    _paused: bool = field(default=False, init=False)
    """Whether this side does not read now, because the application takes nothing."""
    _refuses: bool = field(default=False, init=False)
    """Whether messages of the peer were lost here, so that no ping behind them is answered."""
    dismissed: bool = field(default=False, init=False)
    """Whether messages that come from now on are dropped, because the peer is sent away."""
    _writing: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Bounds the write that is under way, or the closing handshake."""
    _close_code: int | None = field(default=None, init=False)
    _close_reason: str = field(default="", init=False)
    _close_by: float | None = field(default=None, init=False)
    """The time at which the closing handshake under way is given up; None if there is none."""
    _reading: trio.CancelScope | None = field(default=None, init=False)
    """Bounds the read of the history that is under way; None once the replay is over."""
    _replay_due: float | None = field(default=None, init=False)
    """The time at which the part of the replay being written makes the peer stalled; None if none is being written."""

    # -- life -----------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Take an open connection; `run` serves it."""
        self.connection = connection
        self.active_at = now = trio.current_time()
        self.since = time.time()
        self.monitor.opened(now, knows_progress=connection.progress() is not None)
        connection.on_queued = self.wake
        connection.on_bytes = self._frame_received
        connection.on_ping = self.monitor.ping_written
        connection.on_pong = self._pong_received
        connection.before_answer = self._confirms
        self._reschedule()

    async def run(self, inbox: Inbox, resumption: Resumption | None = None) -> None:
        """Serve the connection until it is over, or `close` was called. Then it is cut.

        The last pongs and acknowledgements that came confirm all that they can.
        """
        self._inbox = inbox
        if resumption is not None and resumption.replay is not None:
            self.sent_early = set()
        connection = self.connection
        try:
            async with connection, trio.open_nursery() as nursery:
                nursery.start_soon(self._read, name="reader")
                with self._writing:
                    connection.on_end(self._connection_over)
                    await self._write_all(resumption)
                self._leave()
                await self._close_connection()
                nursery.cancel_scope.deadline = trio.current_time() + _DRAIN
        finally:
            self._feed.heartbeat_task.forget(self)
            self._feed.leave(self)
            inbox.left()
            counters = inbox.counters
            counters.sent_bytes += self.sent_bytes
            counters.received_bytes += self.connection.received_bytes
            counters.heartbeat_misses += self.monitor.misses

    @property
    def sent_bytes(self) -> int:
        """Bytes handed to the kernel, TLS not counted."""
        self.catch_up()
        return self.connection.written_bytes

    def _connection_over(self) -> None:
        """Stop writing; but our answer to a Close may be under way, and gets a moment."""
        self._feed.became_busy(self)
        if self.connection.peer_may_read:
            self._writing.deadline = min(self._writing.deadline, trio.current_time() + FAREWELL)
            self.wake()
        else:
            self._writing.cancel()

    def close(self, code: int, reason: str = "", *, within: float = _CLOSING) -> None:
        """Have the connection closed with `code` once the write under way is done; cut it if that takes longer than `within` seconds.

        A reason for which no Close has room is left out: a part of a cursor would be another cursor.
        """
        if self._close_code is None:
            self._close_code, self._expires_at = code, None
            self._close_reason = reason if fits(reason) else ""
            self._close_by = trio.current_time() + within
            self._feed.heartbeat_task.no_later_than(self, self._close_by)
            self._leave()
            self.wake()

    def dismiss(self, code: int, reason: str) -> None:
        """Close as `close` does, and drop messages that are read from now on; no ping behind them is answered."""
        self.dismissed = True
        self.close(code, reason)

    def close_with_output(self, code: int, *, within: float = _CLOSING) -> None:
        """Close as `close` does, because the output ends; `code` counts if the application named none."""
        named, reason = self._feed.ending
        self.close(code if named is None else named, reason, within=within)

    def renew(self, expires_at: float | None) -> None:
        """Close the connection with 4401 at the time `expires_at`, and not at the one before; None for never."""
        self._expires_at = expires_at
        self._feed.heartbeat_task.no_later_than(self, expires_at)

    async def _close_connection(self) -> None:
        """Close politely within the time that is left; then cut."""
        connection = self.connection
        connection.on_end(None)
        if connection.disconnection is not None:
            await connection.farewell()
        elif self._close_code is not None and self._close_by is not None:
            with trio.CancelScope() as self._writing:
                await connection.aclose(self._close_code, self._close_reason)
        await connection.cut()

    # -- account --------------------------------------------------------------------------------------------

    def join(self, subscription: Subscription | None = None) -> None:
        """Get the messages that `subscription` has; without one, those that are posted from now on."""
        self.subscription = subscription or self._feed.log.join(self)
        if self._paused:
            self.subscription.reading_paused()

    def _leave(self) -> None:
        self._feed.leave(self)
        self._feed.settle()

    def catch_up(self) -> Subscription | None:
        """Return the account, up to date; None until the replay has caught up."""
        account = self.subscription
        if account is not None and account.in_sync and isinstance(account, PeerSubscription):
            self._feed.log.in_sync.catch_up(account)
        return account

    def wrote(self, messages: int, size: int, at: float) -> None:
        """Count messages of `size` bytes that broadcasts wrote to the peer, the last of them at the time `at`."""
        self.sent_messages += messages
        self.connection.wrote(size)
        self.active_at = max(self.active_at, at)

    def left_sync(self) -> None:
        """Be written to individually: broadcasts leave this session out from now on."""
        self._feed.idle.add(self)

    def wake(self) -> None:
        """Wake the task, which alone writes from now on."""
        self._feed.became_busy(self)
        self._wakeup.notify()
        if self._reading is not None:
            by = trio.current_time() + (0 if self.finished else _PATIENCE)
            self._reading.deadline = min(self._reading.deadline, by)

    # -- writing without the task -----------------------------------------------------------------------------

    def _wrote(self, messages: int, events: int) -> None:
        self.sent_messages += messages
        if self._feed.counts_link or not self.peer.dialled:
            self._inbox.counters.written_messages += messages
            self._inbox.counters.written += events
        if self._feed.confirms_writes:
            self.written()

    def replayed(self, messages: int, events: int) -> None:
        """Count messages of the replay that are written now."""
        self._wrote(messages, events)
        self._inbox.counters.replayed += events

    def written(self) -> None:
        """At level written, confirm the messages that were taken, unless some of them wait for room in the socket."""
        account = self.catch_up()
        if account is not None and not self.connection.has_queued:
            account.written()

    def write_now(self) -> None:
        """Write the frames that wait, and a ping if one is wanted; wake the task if only that can write.

        The task waits, and the session is not in sync.
        """
        feed, account = self._feed, self.subscription
        while account is not None and account.ready and not self.finished:
            if self.connection.free_fileno is None:
                self.wake()
                return
            frames, messages, events = feed.take(self)
            if frames:
                self.active_at = trio.current_time()
                self.connection.write_nowait(frames, self._wanted_ping())
            self._wrote(messages, events)
        self.ping()
        self._reschedule()
        if self in feed.idle:
            feed.became_idle(self)

    def ping(self) -> None:
        """Write the ping that is due or wanted, if one is, behind everything that was taken."""
        if not self.finished and (ping := self._wanted_ping()) is not None:
            self.connection.ping_nowait(ping)
            self._reschedule()

    def _wants_ping(self) -> bool:
        monitor, account = self.monitor, self.catch_up()
        return monitor.ping_due or (monitor.free and account is not None and account.pings_now)

    def _wanted_ping(self) -> bytes | None:
        """Return the payload of the ping that is to be written now; None if none is."""
        if not self._wants_ping():
            return None
        account = self.subscription
        if account is None:
            return self.monitor.next_ping(confirms=False)
        ping = self.monitor.next_ping(confirms=account.in_flight > 0 or account.wants_ping)
        account.ping_taken()
        return ping

    # -- writing --------------------------------------------------------------------------------------------

    async def _write_all(self, resumption: Resumption | None) -> None:
        try:
            if resumption is not None:
                await self._write_missed(resumption)
            await self._write_from_log()
        except CloseNow as verdict:
            self.close(verdict.code, verdict.reason)
        except trio.BrokenResourceError:
            # The connection is over; its `disconnection` is the cause.
            return

    async def _write_missed(self, resumption: Resumption) -> None:
        """Write the events that the peer missed, until it has a subscription that follows without a gap."""
        if resumption.refusal is not None:
            self.close(GONE, resumption.refusal)
        if resumption.notice:
            await self._write(resumption.notice)
        replay = resumption.replay
        while replay is not None and not self.finished:
            frames: bytes | None = None
            with trio.CancelScope() as self._reading:
                frames = await replay(self)
            self._replay_due = trio.current_time() + self._feed.log.timeout if frames else None
            await self._write(frames or b"")
            self._replay_due = None
            if frames == b"":
                replay = self._reading = None

    async def _write_from_log(self) -> None:
        """Write everything that waits in one go, again and again, until there is a reason to close."""
        feed = self._feed
        while not self.finished:
            account = self.catch_up()
            ready = account is not None and account.ready
            if ready or self._wants_ping() or self.connection.has_queued:
                frames, messages, events = feed.take(self) if ready else (b"", 0, 0)
                feed.settle()  # what was taken made room
                await self._write(frames)
                self._wrote(messages, events)
                if feed.confirms_writes:
                    feed.settle()
            elif feed.complete and account is not None and account.has_all:
                self.close_with_output(GOING_AWAY)
            else:
                feed.became_idle(self)
                try:
                    await self._wakeup.wait()
                finally:
                    feed.became_busy(self)  # when cancelled, too: what comes next closes the socket

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be written here but a Close."""
        return self._close_code is not None or self.connection.disconnection is not None

    async def _write(self, frames: bytes) -> None:
        ping = self._wanted_ping()
        if frames or ping is not None or self.connection.has_queued:
            self._feed.heartbeat_task.no_later_than(self, self._stalls_at())
            await self.connection.write(frames, ping)
        if frames:
            self.active_at = trio.current_time()
        self._reschedule()

    # -- reading ----------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read until the connection is over, many messages at a time. While the inbox takes nothing, the peer has to wait."""
        inbox, counters, acks = self._inbox, self._inbox.counters, self._inbox.acks
        while True:
            try:
                messages = await self.connection.receive_many()
            except trio.EndOfChannel:
                return
            counters.received += len(messages)
            self.received_messages += len(messages)
            self.active_at = trio.current_time()
            if acks is not None:
                messages = [each for each in messages if not self._acknowledges(each, acks)]
            if inbox.taker is None or self.dismissed:
                counters.dropped += len(messages)
            else:
                await self._hand_over(inbox.taker, deque(inbox.items(messages, self.peer)))

    async def _confirms(self) -> bool:
        """Wait until everything that was handed over is passed on; return whether that is all that came.

        The answer to a ping then tells the peer no more than is true.
        """
        if not await self._inbox.passed_on_soon():
            with self._pause():
                await self._inbox.wait_passed_on()
        return not (self._refuses or self.dismissed)

    async def _hand_over(self, taker: Taker, run: deque[Received]) -> None:
        """Pass messages to the taker, waiting for room; those that it does not take are dropped and counted.

        The peer must not count these as confirmed. So it sends them again, or reports them.
        """
        try:
            taker.put_nowait(run)
            if run:
                with self._pause():
                    await taker.put(run)
        except trio.ClosedResourceError:
            self._refuses = True  # this output ends
        except trio.BrokenResourceError:  # the application closed its end
            self._refuses = self._refuses or not self._inbox.optional
        finally:  # when cancelled, too
            self._inbox.counters.dropped += len(run)

    @contextmanager
    def _pause(self) -> Generator[None, None, None]:
        """Do not count the peer's silence within this block, because this side does not read."""
        self._paused = True
        self.monitor.reading_paused(trio.current_time())
        self._feed.heartbeat_task.no_later_than(self, self.monitor.deadline)
        if self.subscription is not None:
            self.subscription.reading_paused()
            self.wake()
        try:
            yield
        finally:
            self._paused = False
            self.active_at = now = trio.current_time()
            self.monitor.reading_resumed(now)
            if self.subscription is not None:
                self.subscription.reading_resumed(now)
            self._reschedule()

    def _acknowledges(self, message: str | bytes, acks: AckReader) -> bool:
        """Confirm what a message acknowledges; return whether it is an acknowledgement."""
        value = acks.value_in(message)
        if value is MISSING:
            return False
        account = self.catch_up()
        seq = None if account is None else acks.seq_of(value, account.events_in_flight())
        if account is None or seq is None:
            self._inbox.counters.unknown_acks += 1
        else:
            account.acked(seq)
            self._confirmed()
        return True

    def _frame_received(self, now: float) -> None:
        if self.monitor.frame_received(now):
            self._reschedule()

    def _pong_received(self, payload: bytes) -> None:
        # Called by the reader itself: a task for pongs would cost a task switch for each.
        confirms = self.monitor.pong_received(payload)
        account = self.catch_up()
        if account is not None and confirms:
            account.pong_received(trio.current_time())
            self._confirmed()
        elif account is not None and not self.monitor.answered:
            account.strange_pong_received()

    def _confirmed(self) -> None:
        """Go on after a confirmation: it may have made room, or been the last, and more may have to be asked for."""
        if self._feed.complete:
            self.wake()
        elif self in self._feed.idle:
            self.write_now()
        else:
            self.ping()
        self._feed.settle()

    # -- deadlines ----------------------------------------------------------------------------------------------

    def _idle_at(self) -> float | None:
        timeout = self._idle_timeout
        if timeout is None or self._paused or self._close_code is not None:
            return None
        self.catch_up()
        return self.active_at + timeout

    def _stalls_at(self) -> float | None:
        account = self.catch_up()
        return self._replay_due if account is None else account.deadline

    def next_deadline(self) -> float | None:
        """Return when `poll` has something to do; None once the connection is over."""
        if self.connection.disconnection is not None:
            return None
        return earliest(
            self.monitor.deadline, self._stalls_at(), self._idle_at(), self._expires_at, self._close_by
        )

    def _reschedule(self) -> None:
        self._feed.heartbeat_task.reschedule(self)

    def poll(self) -> Suspect | None:
        """Ping, or close; or return the session to be judged, if its peer may have to be warned of, cut, or closed."""
        if self._expires_at is not None and trio.current_time() >= self._expires_at:
            self.dismiss(EXPIRED, "expired")
        over = earliest(self._stalls_at(), self._idle_at(), self._close_by)
        return self if self._beat() or (over is not None and trio.current_time() >= over) else None

    def _beat(self, *, all_read: bool = False) -> bool:
        """Do what the heartbeat asks for now: ping, ask the system for progress or a peer that left, warn, or cut.

        Args:
            all_read: Whether everything that lay in the socket has been read since this function returned true.

        Returns:
            Whether the peer gave no sign of life in time. Nothing was done about that yet: call again, with `all_read`.
        """
        monitor, now = self.monitor, trio.current_time()
        pulse = monitor.poll(now, all_read=all_read)
        if pulse is Pulse.PROGRESS:
            monitor.progress_found(now, self.connection.progress())
            pulse = monitor.poll(now, all_read=all_read)
        detail = "no sign of life within heartbeat.timeout"
        if pulse is Pulse.PING:
            self.ping()
        elif pulse is Pulse.CUT:
            self.connection.end(Disconnection(cause=Cause.UNHEALTHY, detail=detail))
        elif pulse is Pulse.LEFT and not self.peer.dialled and self.connection.peer_left:
            # A link is one connection: it does no harm that what its other end sent last is read first.
            self.connection.end(Disconnection(cause=Cause.LOST, detail="the peer left while it was not read"))
        elif pulse is Pulse.WARN:
            self._feed.warn(self, detail)
        return pulse is Pulse.READ

    def judge(self, *, found_room: bool) -> None:
        """Act on each deadline that is over still, now that everything in the socket has been read."""
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
            if not (found_room or could_not_write(self.connection.motion, late, self._feed.log.timeout)):
                self._end_stalled()
                return
            # The peer made room while this side did not run and could not write: its time counts from now.
            if self.subscription is None:
                self._replay_due = now + self._feed.log.timeout
            else:
                self.subscription.reading_resumed(now)
        self._beat(all_read=True)

    def _end_stalled(self) -> None:
        what = "a message was not confirmed"
        if self.subscription is None:
            what = "a part of the history was not written"
        self.connection.end(Disconnection(cause=Cause.STALLED, detail=f"{what} within retry.timeout"))
