"""The heartbeat: when time is up it pings, warns or cuts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.ending import Cause, Ending
from trio_wsout._core.heartbeat import Pulse
from trio_wsout._tasks.waking import earliest

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsout._core.heartbeat import HeartbeatMonitor
    from trio_wsout._tasks.outbox import Outbox
    from trio_wsout._tasks.waking import Alarm
    from trio_wsout._wire.connection import Connection

__all__ = ["beat", "run_heartbeat"]

_log = logging.getLogger("trio_wsout")


async def run_heartbeat(
    connection: Connection, outbox: Outbox, monitor: HeartbeatMonitor, alarm: Alarm
) -> None:
    """Watch one connection until it is over, or until nobody can say that it lives."""
    window = outbox.window
    while True:
        with alarm.until(earliest(monitor.deadline, window.deadline)):
            await trio.sleep_forever()
        if not beat(connection, monitor, window.deadline, outbox.to_write.ring):
            return


def beat(
    connection: Connection, monitor: HeartbeatMonitor, stalls: float | None, ring: Callable[[], object]
) -> bool:
    """Do what is due now: have the writer woken to ping, warn, or end the connection; False: it is ended.

    `stalls` is when a message will have waited too long for its confirmation; None: not soon.
    """
    now = trio.current_time()
    if stalls is not None and now >= stalls:
        connection.end(Ending(cause=Cause.STALLED, detail="a message was not confirmed within retry.timeout"))
        return False
    pulse = monitor.poll(now)
    if pulse is Pulse.LOOK:
        monitor.looked(now, connection.progress())
        pulse = monitor.poll(now)
    match pulse:
        case Pulse.PING:
            ring()
        case Pulse.CUT:
            connection.end(Ending(cause=Cause.UNHEALTHY, detail="no sign of life within heartbeat.timeout"))
            return False
        case Pulse.WARN:
            _log.warning("no sign of life within heartbeat.timeout")
        case Pulse.LOOK | None:
            pass
    return True
