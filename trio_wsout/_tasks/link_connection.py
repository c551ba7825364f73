"""One open connection of a link, from its opening to its end: writer, heartbeat and reader around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_wsout._tasks.link_deadlines import LinkDeadlines
from trio_wsout._tasks.reader import run_reader
from trio_wsout._tasks.writer import run_writer
from trio_wsout._wire.connection import FAREWELL, Connection

if TYPE_CHECKING:
    from trio_wsout._core.heartbeat import HeartbeatMonitor
    from trio_wsout._core.received import Peer
    from trio_wsout._tasks.heartbeat import HeartbeatTask
    from trio_wsout._tasks.outbox import Outbox
    from trio_wsout._tasks.reader import Inbox

__all__ = ["run_connection"]

_DRAIN = 1.0
"""Seconds that what the peer sent before the end may take to reach a slow application."""


async def run_connection(
    connection: Connection,
    monitor: HeartbeatMonitor,
    outbox: Outbox,
    inbox: Inbox,
    heartbeat_task: HeartbeatTask,
    *,
    peer: Peer,
    closing: trio.Event,
) -> None:
    """Run a connection until it is over, or until `closing` is set: then say Close and hear the answer.

    `heartbeat_task` looks at its deadlines. When it returns, or is cancelled, the connection is cut and its last pongs have
    confirmed what they can.
    """
    deadlines = LinkDeadlines(connection, outbox, monitor, heartbeat_task)
    written = trio.Event()

    def life(now: float) -> None:
        if monitor.frame_received(now):
            deadlines.look_anew()

    def pong(payload: bytes) -> None:
        # Called by who reads: a task that takes them would be switched to for each.
        if monitor.pong_received(payload):
            outbox.answered()
        elif not monitor.answered:
            outbox.window.strange_pong_received()
        deadlines.look_anew()

    connection.on_life(life)
    connection.on_ping(monitor.ping_written)
    connection.on_pong(pong)
    connection.on_control(outbox.to_write.notify)
    outbox.on_released = deadlines.look_anew
    deadlines.look_anew()
    async with connection, trio.open_nursery() as reading:
        reading.start_soon(run_reader, connection, inbox, outbox, monitor, peer)
        async with trio.open_nursery() as writing:
            writing.start_soon(_write, connection, outbox, monitor, deadlines, written)
            writing.start_soon(_cancel_when, closing, writing.cancel_scope)
            await connection.wait_ended()
            # Our answer to a Close may be under way, and should not be torn.
            outbox.to_write.notify()
            with trio.move_on_after(FAREWELL if connection.hears else 0):
                await written.wait()
            writing.cancel_scope.cancel()
        deadlines.forget()
        if connection.disconnection is None:
            await connection.aclose()
        else:
            await connection.farewell()
        await connection.cut()
        reading.cancel_scope.deadline = trio.current_time() + _DRAIN


async def _write(
    connection: Connection,
    outbox: Outbox,
    monitor: HeartbeatMonitor,
    deadlines: LinkDeadlines,
    written: trio.Event,
) -> None:
    """Run the writer, and tell when it has ended."""
    try:
        await run_writer(connection, outbox, monitor, deadlines)
    finally:
        written.set()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
