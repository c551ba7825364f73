"""One peer of a listener, from its admission to its end: replay, fan-out, reading, timers.

::

    peer
    ├─ fan-out  history first, then what could not be written at once → one joined write per wake-up
    └─ reader   always drains; → received, or the relay

Its timers (heartbeat, retry.timeout, idle-timeout) are watched by the listener's one `HeartbeatTask`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_wsout._tasks.peer_fan_out import PeerFanOut
from trio_wsout._tasks.reader import run_reader
from trio_wsout._wire.connection import FAREWELL

if TYPE_CHECKING:
    from trio_wsout._core.message import Accepted
    from trio_wsout._core.received import Peer
    from trio_wsout._tasks.fan_out import FanOut
    from trio_wsout._tasks.peer_fan_out import Greeting
    from trio_wsout._tasks.reader import Inbox
    from trio_wsout._wire.connection import Connection
    from trio_wsout.config.sections import Config

__all__ = ["ServedPeer"]

_DRAIN = 1.0
"""Seconds that what the peer sent before its end may take to reach a slow application."""


class ServedPeer(PeerFanOut):
    """A peer from its admission to its end. Part of `Member`, `HasDeadline` and `WritingSide`."""

    __slots__ = ("_reading",)

    def __init__(self, peer: Peer, fan_out: FanOut, config: Config) -> None:
        """A peer that is about to be let in."""
        super().__init__(peer, fan_out, config)
        self._reading = False

    # -- life -----------------------------------------------------------------------------------------------

    async def run(
        self, connection: Connection, nursery: trio.Nursery, inbox: Inbox, greeting: Greeting
    ) -> None:
        """Serve an open connection until it is over, or `close` was called. Then it is cut.

        It is read in `nursery`, which the caller cancels then: one of its own would be a tenth of a peer's memory.
        """
        self.begin(connection, greeting)
        connection.on_life(self._life)
        connection.on_pong(self._pong)
        self._fan_out.enter(self)
        self._fan_out.heartbeat_task.look_at(self)
        try:
            async with connection:
                self._reading = True
                nursery.start_soon(self._read, inbox)
                with self._writing:
                    connection.on_end(self._ended)
                    await self._write_all(greeting)
                self.give_up_place()
                await self._part()
                with trio.move_on_after(_DRAIN):  # noqa: ASYNC912 - while the reader has not ended, it waits
                    while self._reading:
                        await self._wakeup.wait()
        finally:
            self._fan_out.heartbeat_task.forget(self)
            self.leave_log()
            self._fan_out.leave(self)
            self._fan_out.counters.heartbeat_misses += self.monitor.misses

    async def _read(self, inbox: Inbox) -> None:
        try:
            await run_reader(self.connection, inbox, self, self.monitor, self.peer)
        finally:
            self._reading = False
            self._wakeup.notify()

    def _ended(self) -> None:
        """The connection is over: no more is written, but our answer to a Close may be under way."""
        self._rise()
        if self.connection.hears:
            self._writing.deadline = min(self._writing.deadline, trio.current_time() + FAREWELL)
            self.wake()
        else:
            self._writing.cancel()

    async def _part(self) -> None:
        """Close, and hear the answer, within the time that is left; then cut."""
        connection = self.connection
        connection.on_end(None)
        if connection.disconnection is not None:
            await connection.farewell()
        elif self._code is not None and self._part_by is not None:
            self._writing = trio.CancelScope()
            with self._writing:
                await connection.aclose(self._code, self._reason)
        await connection.cut()

    def _life(self, now: float) -> None:
        if self.monitor.frame_received(now):
            self._fan_out.heartbeat_task.look_at(self)

    def _pong(self, payload: bytes) -> None:
        if self.monitor.pong_received(payload) and self.place is not None:
            self.place.pong_received(trio.current_time())
            self._go_on()

    def _go_on(self) -> None:
        """Something was confirmed: that may make room, or be the last; and more may be to ask for."""
        if self._fan_out.complete:
            self.wake()
        elif self in self._fan_out.idle:
            self.write_at_once()
        else:
            self.ping()
        self._fan_out.settle()

    # -- WritingSide: what the reader has to do with ------------------------------------------------------------

    def heard(self) -> None:
        """A message came."""
        self.active_at = trio.current_time()

    def events_in_flight(self) -> list[Accepted]:
        """The events that an acknowledgement may name, oldest first."""
        return [] if self.place is None else self.place.events_in_flight()

    def acked(self, seq: int) -> None:
        """The peer's application has every event up to `seq`."""
        if self.place is not None:
            self.place.acked(seq)
            self._go_on()

    def held(self) -> None:
        """This side stopped reading, because nobody takes what was read."""
        self._held = True
        if self.place is not None:
            self.place.held()
            self.wake()

    def released(self, now: float) -> None:
        """This side reads again since `now`."""
        self._held = False
        self.active_at = now
        if self.place is not None:
            self.place.released(now)
        self._fan_out.heartbeat_task.look_at(self)
