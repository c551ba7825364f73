"""The heartbeat and what waits too long: when time is up a peer is pinged, warned of or cut. A `HeartbeatTask` looks at it."""

from __future__ import annotations

import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.heartbeat import Pulse
from trio_wsout._core.look import could_not_write
from trio_wsout._tasks.look import Suspect
from trio_wsout._tasks.wakeup import earliest

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsout._core.heartbeat import HeartbeatMonitor
    from trio_wsout._tasks.heartbeat import HeartbeatTask
    from trio_wsout._tasks.outbox import Outbox
    from trio_wsout._wire.connection import Connection

__all__ = ["LinkDeadlines", "beat"]

_log = logging.getLogger("trio_wsout")


class LinkDeadlines:
    """The deadlines of one connection of a link. A `HasDeadline`."""

    def __init__(
        self, connection: Connection, outbox: Outbox, monitor: HeartbeatMonitor, heartbeat_task: HeartbeatTask
    ) -> None:
        """Have `heartbeat_task` look at an open connection from the first `look_anew` on."""
        self.due = inf
        self.ticket = 0
        self._heartbeat_task = heartbeat_task
        self._connection = connection
        self._outbox = outbox
        self._monitor = monitor

    @property
    def deadline(self) -> float | None:
        """When `poll` has something to do."""
        if self._connection.disconnection is not None:
            return None
        return earliest(self._monitor.deadline, self._outbox.window.deadline)

    def no_later_than(self, at: float | None) -> None:
        """Have it looked at by this time; None: whenever it says."""
        if at is not None and at < self.due:  # seldom: a deadline that moves away is left to the watch
            self._heartbeat_task.no_later_than(self, at)

    def look_anew(self) -> None:
        """Its deadline may be nearer than it was."""
        self.no_later_than(earliest(self._monitor.deadline, self._outbox.window.deadline))

    def forget(self) -> None:
        """Have nothing looked at any more: the connection is over, or about to be."""
        self._heartbeat_task.forget(self)

    def poll(self) -> Suspect | None:
        """Have a ping written; or return the connection, if it may be dead."""
        silent = beat(self._connection, self._monitor, self._outbox.to_write.notify)
        stalls = self._outbox.window.deadline
        if silent or (stalls is not None and trio.current_time() >= stalls):
            return Suspect(self._connection, partial(self._judge, silent=silent))
        return None

    def _judge(self, *, silent: bool, found_room: bool) -> None:
        window, now = self._outbox.window, trio.current_time()
        stalls = window.deadline
        if stalls is not None and now >= stalls:
            late = now - stalls
            if not (found_room or could_not_write(self._connection.motion, late, self._outbox.timeout)):
                detail = "a message was not confirmed within retry.timeout"
                self._connection.end(Disconnection(cause=Cause.STALLED, detail=detail))
                return
            # The peer made room while this side did not run and could not write.
            window.released(now)
        if silent:
            beat(self._connection, self._monitor, self._outbox.to_write.notify, all_read=True)


def beat(
    connection: Connection,
    monitor: HeartbeatMonitor,
    notify: Callable[[], object],
    *,
    all_read: bool = False,
    warn: Callable[[str], object] = _log.warning,
) -> bool:
    """Do what the heartbeat wants now: have `notify` write a ping, look how far what was written has come, warn, or cut.

    Return whether the peer gave no sign of life in time: then this is to be called again with `all_read`, once all
    that lay in the socket was read, and before that it is neither warned of nor cut. A listener, which has many
    peers, has `warn` write no line for each miss.
    """
    now = trio.current_time()
    pulse = monitor.poll(now, all_read=all_read)
    if pulse is Pulse.LOOK:
        monitor.looked(now, connection.progress())
        pulse = monitor.poll(now, all_read=all_read)
    match pulse:
        case Pulse.PING:
            notify()
        case Pulse.CUT:
            connection.end(
                Disconnection(cause=Cause.UNHEALTHY, detail="no sign of life within heartbeat.timeout")
            )
        case Pulse.WARN:
            warn("no sign of life within heartbeat.timeout")
        case _:
            pass
    return pulse is Pulse.READ
