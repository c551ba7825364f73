"""One open connection of a link, from its opening to its end.

::

    connection
    ├─ writer   window → socket, all that waits in one write, with a ping behind it when one is wanted
    └─ reader   always drains; → received; pongs confirm

Its deadlines (heartbeat, retry.timeout) are watched by the link's one `HeartbeatTask`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import inf

import trio
from attrs import define, field

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.heartbeat import HeartbeatMonitor
from trio_wsout._core.message import Accepted, Message
from trio_wsout._core.read_out import could_not_write
from trio_wsout._core.received import Peer
from trio_wsout._tasks.heartbeat import HeartbeatTask, Suspect, beat
from trio_wsout._tasks.outbox import Outbox
from trio_wsout._tasks.reader import Inbox, Reader
from trio_wsout._tasks.wakeup import cancel_when, earliest
from trio_wsout._wire.connection import FAREWELL, Connection

__all__ = ["LinkConnection"]

_BLOB = 64 * 1024
"""Bytes after which a write takes no further message: large enough that the system call costs
next to nothing for each message, small enough that a control frame never waits long."""
_DRAIN = 1.0
"""Seconds that messages which came before the end may take to reach a slow application."""


@define(eq=False)
class LinkConnection:
    """One open connection of a link. A `HasDeadline` and a `WritingSide`."""

    _connection: Connection
    _monitor: HeartbeatMonitor
    _outbox: Outbox
    _heartbeat_task: HeartbeatTask
    heard: Callable[[], object]
    """Called for each message from the peer."""
    due: float = field(default=inf, init=False)
    ticket: int = field(default=0, init=False)
    _written: trio.Event = field(factory=trio.Event, init=False)
    """Set when the writer has ended."""

    async def run(self, inbox: Inbox, *, peer: Peer, closing: trio.Event) -> None:
        """Run the connection until it is over, or until `closing` is set: then close it politely.

        When this returns, or is cancelled, the connection is cut, and its last pongs have confirmed all that they can.
        """
        connection, outbox = self._connection, self._outbox
        connection.transport.on_bytes = self._frame_received
        connection.on_ping = self._monitor.ping_written
        connection.on_pong = self._pong_received
        connection.transport.on_queued = outbox.to_write.notify
        self._reschedule()
        async with connection, trio.open_nursery() as reading:
            reading.start_soon(Reader(connection, inbox, self, peer).run)
            async with trio.open_nursery() as writing:
                writing.start_soon(self._write)
                writing.start_soon(cancel_when, closing, writing.cancel_scope)
                await connection.wait_ended()
                # Our answer to a Close may be under way, and should not be torn.
                outbox.to_write.notify()
                with trio.move_on_after(FAREWELL if connection.peer_may_read else 0):
                    await self._written.wait()
                writing.cancel_scope.cancel()
            self._heartbeat_task.forget(self)
            if connection.disconnection is None:
                await connection.aclose()
            else:
                await connection.farewell()
            await connection.cut()
            reading.cancel_scope.deadline = trio.current_time() + _DRAIN

    # -- writing --------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Write until the connection is over. No other task writes to it."""
        try:
            while self._connection.disconnection is None:
                if self._ping_wanted or self._outbox.window.ready or self._connection.transport.has_queued:
                    await self._write_once()
                else:
                    await self._outbox.to_write.wait()
        except trio.BrokenResourceError:
            pass  # the connection is over; its `disconnection` is the cause
        finally:
            self._written.set()

    @property
    def _ping_wanted(self) -> bool:
        return self._monitor.ping_due or (self._monitor.free and self._outbox.window.wants_ping)

    async def _write_once(self) -> None:
        window = self._outbox.window
        messages = window.take(trio.current_time(), _BLOB)
        ping = None
        if self._ping_wanted:
            ping = self._monitor.next_ping(confirms=window.in_flight > 0 or window.wants_ping)
            window.ping_taken()
        self._no_later_than(window.deadline)
        count = await self._connection.write([message.payload for message in messages], ping)
        self._outbox.wrote(messages, count)
        self._reschedule()

    # -- receiving -------------------------------------------------------------------------------------------

    def _frame_received(self, now: float) -> None:
        if self._monitor.frame_received(now):
            self._reschedule()

    def _pong_received(self, payload: bytes) -> None:
        # Called by the reader itself: a task for pongs would cost a task switch for each.
        if self._monitor.pong_received(payload):
            self._confirm(self._outbox.window.pong_received(trio.current_time()))
        elif not self._monitor.answered:
            self._outbox.window.strange_pong_received()
        self._reschedule()

    def events_in_flight(self) -> list[Accepted]:
        """Return the events that an acknowledgement may name, oldest first."""
        return self._outbox.window.events_in_flight()

    def acked(self, seq: int) -> None:
        """Take note that the peer's application has every event up to `seq`."""
        self._confirm(self._outbox.window.acked(seq))

    def _confirm(self, messages: Sequence[Message]) -> None:
        """Confirm messages, and go on: there may be room for more, and another ping may go."""
        self._outbox.confirm(messages)
        self._outbox.to_write.notify()

    def reading_paused(self) -> None:
        """Take note that this side stopped reading, so that neither life nor confirmations can be seen."""
        self._monitor.reading_paused()
        self._outbox.window.reading_paused()

    def reading_resumed(self, now: float) -> None:
        """Take note that this side reads again since `now`."""
        self._monitor.reading_resumed(now)
        self._outbox.window.reading_resumed(now)
        self._reschedule()

    # -- HasDeadline --------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when `poll` has something to do; None once the connection is over."""
        return None if self._connection.disconnection is not None else self._earliest()

    def _earliest(self) -> float | None:
        return earliest(self._monitor.deadline, self._outbox.window.deadline)

    def _no_later_than(self, deadline: float | None) -> None:
        if deadline is not None and deadline < self.due:  # seldom: nearly always a deadline moves away
            self._heartbeat_task.no_later_than(self, deadline)

    def _reschedule(self) -> None:
        self._no_later_than(self._earliest())

    def poll(self) -> Suspect | None:
        """Have a ping written; or return the connection to be judged, if its peer may be dead."""
        silent = beat(self._connection, self._monitor, self._outbox.to_write.notify)
        stalls_at = self._outbox.window.deadline
        if silent or (stalls_at is not None and trio.current_time() >= stalls_at):
            return Suspect(self._connection, partial(self._judge, silent=silent))
        return None

    def _judge(self, *, silent: bool, found_room: bool) -> None:
        window, now = self._outbox.window, trio.current_time()
        stalls_at = window.deadline
        if stalls_at is not None and now >= stalls_at:
            late = now - stalls_at
            if not (found_room or could_not_write(self._connection.motion, late, self._outbox.timeout)):
                detail = "a message was not confirmed within retry.timeout"
                self._connection.end(Disconnection(cause=Cause.STALLED, detail=detail))
                return
            # The peer made room while this side did not run and could not write.
            window.reading_resumed(now)
        if silent:
            beat(self._connection, self._monitor, self._outbox.to_write.notify, all_read=True)
