"""What is written to one peer of a listener, and when: at once where that can be, by a task where it has to wait.

Its history goes first, then what is posted. Mostly others write to it, as soon as something is there (`FanOut.notify`):
then the task waits. It writes where the connection has no room, or can't be written to at once (TLS).
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.heartbeat import HeartbeatMonitor
from trio_wsout._core.look import could_not_write
from trio_wsout._core.packing import PackingError
from trio_wsout._tasks.link_deadlines import beat
from trio_wsout._tasks.look import Suspect
from trio_wsout._tasks.replay import Overtaken
from trio_wsout._tasks.wakeup import Wakeup, earliest
from trio_wsout.errors import HistoryError

if TYPE_CHECKING:
    from trio_wsout._core.log import Subscription
    from trio_wsout._core.received import Peer
    from trio_wsout._tasks.fan_out import FanOut
    from trio_wsout._tasks.replay import Replay
    from trio_wsout._wire.connection import Connection
    from trio_wsout.config.sections import Config

__all__ = ["GOING_AWAY", "Greeting", "PeerFanOut"]

GOING_AWAY = 1001
"""Close code of a listener that ends, and for peers that are idle."""
_INTERNAL_ERROR = 1011
_GONE = 4410
"""Close code for a peer whose cursor leads nowhere (history.on-gap: refuse)."""
_LONGEST_REASON = 123
"""Bytes that the reason of a Close has room for (RFC 6455 section 5.5)."""
_PARTING = 5.0
"""Seconds that a peer may take to read what is on its way, our Close behind it, and answer."""


@frozen(kw_only=True)
class Greeting:
    """How a peer is received."""

    replay: Replay | None = None
    """What it missed; None: it gets what comes from now on."""
    resumed: bool | None = None
    """Whether it misses nothing; None: it did not ask to resume."""
    notice: bytes = b""
    """Frames that it gets before anything else."""
    refusal: str | None = None
    """The first cursor there is, for the Close of a peer whose cursor leads nowhere; None: it is let in."""

    @property
    def joins(self) -> bool:
        """Whether the peer has its place in the log from the start."""
        return self.replay is None and self.refusal is None


class PeerFanOut:
    """A peer as one that is written to. Part of `Member`, `HasDeadline` and `Owner`."""

    __slots__ = (
        "_code",
        "_fan_out",
        "_held",
        "_idle_timeout",
        "_part_by",
        "_part_due",
        "_place",
        "_reason",
        "_wakeup",
        "_write_timeout",
        "_writing",
        "active_at",
        "connection",
        "due",
        "monitor",
        "peer",
        "sent_early",
        "ticket",
    )

    def __init__(self, peer: Peer, fan_out: FanOut, config: Config) -> None:
        """A peer that is about to be let in."""
        assert config.server is not None  # noqa: S101 - the rules see to it
        self.peer = peer
        self.connection: Connection
        self.due = inf
        self.ticket = 0
        self._place: Subscription | None = None
        self.sent_early: set[int] | None = None
        self.monitor = HeartbeatMonitor(config.heartbeat)
        self._wakeup = Wakeup()
        self._fan_out = fan_out
        self._idle_timeout = config.server.idle_timeout
        self._write_timeout = config.retry.timeout
        self.active_at = 0.0
        self._writing = trio.CancelScope()
        self._code: int | None = None
        self._reason = ""
        self._part_by: float | None = None
        self._part_due: float | None = None
        self._held = False

    def begin(self, connection: Connection, greeting: Greeting) -> None:
        """Write to this connection, which is open."""
        self.connection = connection
        if greeting.replay is not None:
            self.sent_early = set()
        self.active_at = now = trio.current_time()
        self.monitor.opened(now, looks=connection.progress() is not None)
        connection.on_control(self.wake)
        connection.on_ping(self.monitor.ping_written)

    # -- its place ------------------------------------------------------------------------------------------

    @property
    def place(self) -> Subscription | None:
        """Its place in the log, the account of it up to date; None until its replay has caught up."""
        self._catch_up()
        return self._place

    def join_log(self) -> None:
        """Have a place in the log, at its end."""
        self._place = self._fan_out.log.join(self)
        if self._held:
            self._place.held()

    def _catch_up(self) -> None:
        if self._place is not None and self._place.in_sync:
            self._fan_out.log.in_sync.catch_up(self._place)

    def wrote(self, size: int, at: float) -> None:
        """So many bytes were written to it at once, the last of them at this time."""
        self.connection.wrote(size)
        self.active_at = max(self.active_at, at)

    def out_of_step(self) -> None:
        """Its fan-out writes for it, when there is something."""
        self._fan_out.idle.add(self)

    # -- the end --------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str = "") -> None:
        """Say Close with `code` once the write under way is done; by force if that takes too long.

        A reason that no Close has room for is left out: a part of a cursor would be another.
        """
        if self._code is None:
            self._code = code
            self._reason = reason if len(reason.encode()) <= _LONGEST_REASON else ""
            self._part_by = trio.current_time() + _PARTING
            self._fan_out.heartbeat_task.no_later_than(self, self._part_by)
            self.give_up_place()
            self.wake()

    def give_up_place(self) -> None:
        """Leave the log: nobody waits for this peer any more."""
        self.leave_log()
        self._fan_out.settle()

    def leave_log(self) -> None:
        """Leave the log, and confirm nothing by that: for the end of the whole tree."""
        if self.place is not None:
            self._fan_out.log.leave(self.place)

    # -- waking ---------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something for the fan-out to do, and nobody else is to write."""
        self._rise()
        self._wakeup.notify()

    def _rise(self) -> None:
        """Have nobody write but the fan-out."""
        if self._place is not None:
            self._fan_out.log.step_out(self._place)
        self._fan_out.idle.discard(self)

    # -- writing at once ------------------------------------------------------------------------------------

    def written(self) -> None:
        """What was taken was written, unless some of it waits."""
        if self.place is not None and not self.connection.has_control:
            self.place.written()

    def write_at_once(self) -> None:
        """Write what there is for it, and a ping if one is wanted; or have the fan-out do so, where only that can.

        The fan-out waits, and it is not in sync.
        """
        place = self.place
        while place is not None and place.ready and not self._over:
            if self.connection.free_number is None:
                self.wake()
                return
            frames = self._take(place)
            if frames:
                self._fan_out.counters.sent_bytes += len(frames)
                self.active_at = trio.current_time()
                self.connection.write_at_once(frames)
                if self._fan_out.confirms_writes:
                    self.written()
        self.ping()
        self._fan_out.heartbeat_task.look_at(self)
        if self in self._fan_out.idle:
            self._fan_out.rest(self)

    def ping(self) -> None:
        """Write the ping that is due or wanted, if one is, behind everything that was taken."""
        if self._over or not self._pinging:
            return
        self.connection.ping_now(self._next_ping())
        self._fan_out.heartbeat_task.look_at(self)

    def _next_ping(self) -> bytes:
        place = self.place
        payload = self.monitor.next_ping(confirms=place is not None and len(place.writes) > 0)
        if place is not None:
            place.ping_taken()
        return payload

    # -- writing --------------------------------------------------------------------------------------------

    async def _write_all(self, greeting: Greeting) -> None:
        if greeting.refusal is not None:
            self.close(_GONE, greeting.refusal)
        try:
            if greeting.notice:
                await self._write(greeting.notice)
            if greeting.replay is not None:
                await self._write_history(greeting.replay)
            await self._write_from_log()
        except trio.BrokenResourceError:
            # The connection is over, and knows why.
            return

    async def _write_history(self, replay: Replay) -> None:
        """Write what the peer missed, until it has a place in the log, with nothing between the two."""
        while not self._over:
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
            self._part_due = trio.current_time() + self._write_timeout
            await self._write(frames)
            self._part_due = None

    async def _write_from_log(self) -> None:
        """Write what waits, all in one go, until there is a reason to close."""
        fan_out = self._fan_out
        while not self._over:
            place = self.place
            ready = place is not None and place.ready
            if not (ready or self._pinging or self.connection.has_control):
                if fan_out.complete and place is not None and place.has_all:
                    self.close(GOING_AWAY)
                    return
                fan_out.rest(self)
                try:
                    await self._wakeup.wait()
                finally:
                    self._rise()  # when cancelled, too: what comes next closes the socket
                continue
            frames = b""
            if ready and place is not None:
                frames = self._take(place)
                fan_out.settle()
            await self._write(frames)
            if place is not None and fan_out.confirms_writes:
                place.written()
                fan_out.settle()

    def _take(self, place: Subscription) -> bytes:
        """The next frames to write, what it has lost before them told first; empty: there are none but its own."""
        fan_out = self._fan_out
        gap_after, before = place.gap_after, place.next
        frames = place.take(trio.current_time())
        fan_out.count(before, place.next)
        if gap_after is not None:
            place.gap_after = None
            frames = fan_out.lost_frame(gap_after, before) + frames
        return frames

    @property
    def _over(self) -> bool:
        """Whether nothing more is to be written here."""
        return self._code is not None or self.connection.disconnection is not None

    @property
    def _pinging(self) -> bool:
        monitor, place = self.monitor, self.place
        return monitor.ping_due or (monitor.free and place is not None and place.pings_now)

    async def _write(self, frames: bytes) -> None:
        ping = None
        if self._pinging:
            ping = self._next_ping()
        if frames or ping is not None or self.connection.has_control:
            self._fan_out.heartbeat_task.no_later_than(self, self._stalls_at)
            count = await self.connection.write_frames(frames, ping)
            self._fan_out.counters.sent_bytes += count
        if frames:
            self.active_at = trio.current_time()
        self._fan_out.heartbeat_task.look_at(self)

    # -- Watched ------------------------------------------------------------------------------------------------

    @property
    def _idle_at(self) -> float | None:
        if self._idle_timeout is None or self._held or self._code is not None:
            return None
        self._catch_up()
        return self.active_at + self._idle_timeout

    @property
    def _stalls_at(self) -> float | None:
        place = self.place
        return self._part_due if place is None else place.deadline if place.joined else None

    @property
    def deadline(self) -> float | None:
        """When `poll` has something to do."""
        if self.connection.disconnection is not None:
            return None
        return earliest(self.monitor.deadline, self._stalls_at, self._idle_at, self._part_by)

    def poll(self) -> Suspect | None:
        """Ping; or return the connection, if the peer is to be warned of, cut, or closed."""
        silent = beat(self.connection, self.monitor, self.ping, warn=self._fan_out.peer_log.warning)
        over = earliest(self._stalls_at, self._idle_at, self._part_by)
        if silent or (over is not None and trio.current_time() >= over):
            return Suspect(self.connection, partial(self._judge, silent=silent))
        return None

    def _judge(self, *, silent: bool, found_room: bool) -> None:
        now = trio.current_time()
        if self._part_by is not None and now >= self._part_by:
            self._part_by = None
            self._writing.cancel()
            return
        idle_at = self._idle_at
        if idle_at is not None and now >= idle_at:
            if found_room:
                self.active_at = now
            else:
                self.close(GOING_AWAY)
        stalls = self._stalls_at
        if stalls is not None and now >= stalls:
            if not (found_room or could_not_write(self.connection.motion, now - stalls, self._write_timeout)):
                self._end_stalled()
                silent = False
            else:
                self._wait_from(now)
        if silent:
            beat(
                self.connection,
                self.monitor,
                self.ping,
                all_read=True,
                warn=self._fan_out.peer_log.warning,
            )
        if self.connection.disconnection is not None:
            self._fan_out.was_cut(self)

    def _wait_from(self, now: float) -> None:
        """The peer made room while this side did not run and could not write: its time begins now."""
        if self.place is None:
            self._part_due = now + self._write_timeout
        else:
            self.place.released(now)

    def _end_stalled(self) -> None:
        what = "a message was not confirmed"
        if self.place is None:
            what = "a part of the history was not written"
        self.connection.end(Disconnection(cause=Cause.STALLED, detail=f"{what} within retry.timeout"))
