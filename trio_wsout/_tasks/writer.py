"""The writer: everything that waits becomes one write, with a ping behind it when one is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_wsout._core.heartbeat import HeartbeatMonitor
    from trio_wsout._tasks.link_deadlines import LinkDeadlines
    from trio_wsout._tasks.outbox import Outbox
    from trio_wsout._wire.connection import Connection

__all__ = ["run_writer"]

_BLOB = 64 * 1024
"""Bytes after which a write takes no further message: large enough that the system call costs
nothing a message, small enough that a control frame never waits long."""


async def run_writer(
    connection: Connection, outbox: Outbox, monitor: HeartbeatMonitor, deadlines: LinkDeadlines
) -> None:
    """Write until the connection is over. It is the only task that writes to it."""
    window = outbox.window
    while connection.disconnection is None:
        pinging = monitor.ping_due or (monitor.free and window.wants_ping)
        if not (pinging or window.ready or connection.has_control):
            await outbox.to_write.wait()
            continue
        now = trio.current_time()
        messages = window.take(now, _BLOB)
        ping = None
        if monitor.ping_due or (monitor.free and window.wants_ping):
            ping = monitor.next_ping(confirms=window.in_flight > 0 or window.wants_ping)
            window.ping_taken()
        deadlines.no_later_than(window.deadline)
        try:
            count = await connection.write([message.payload for message in messages], ping)
        except trio.BrokenResourceError:
            return
        outbox.wrote(messages, count)
        deadlines.look_anew()
