"""The outbox of a link: its delivery window, as the account that its sessions are written from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Self

import trio
from attrs import define, field

from trio_wsout._core.delivery import DeliveryWindow
from trio_wsout._core.disconnection import Disconnection
from trio_wsout._core.message import Accepted, Message, events_in
from trio_wsout._tasks.heartbeat import HeartbeatTask
from trio_wsout._tasks.ledger import Ledger
from trio_wsout._tasks.session import Session
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout._wire.frames import masked_frames

_log = logging.getLogger("trio_wsout")

_BLOB = 64 * 1024
"""Bytes after which a write takes no further message: large enough that the system call costs
next to nothing for each message, small enough that a control frame never waits long."""


@define(eq=False)
class Outbox:
    """Filled by the sender, a `Sink`, and emptied by the session of each connection, whose `Feed` and `Account` it is."""

    window: DeliveryWindow
    timeout: float
    """Seconds after which the oldest message in flight makes a connection stalled."""
    ledger: Ledger
    _opcode: int
    """Whether messages are texts (1) or bytes (2): RFC 6455 section 5.2."""
    confirms_writes: bool
    """Whether a message is confirmed once it is written (level written)."""
    heartbeat_task: HeartbeatTask
    idle: set[Session] = field(factory=set[Session], init=False)
    """The session, if its task waits."""
    complete: bool = field(default=False, init=False)
    idle_timeout: float | None = field(default=None, init=False)
    in_sync: bool = field(default=False, init=False)
    has_all: bool = field(default=False, init=False)
    wanted: Wakeup = field(factory=Wakeup, init=False)
    """Notified when a message waits: a lazy link dials then."""
    _room: Wakeup = field(factory=Wakeup, init=False)
    accept: Callable[[Message], bool] = field(init=False)
    """Takes a message into the window if there is room for it; returns whether it did."""
    on_confirmed: Callable[[Sequence[Message]], object] = field(init=False)
    """Called with messages that are confirmed; if nobody sets it, the ledger takes them."""
    on_failed: Callable[[Sequence[Message]], object] | None = field(default=None, init=False)
    """Called with messages that will not be delivered, before their events are reported."""

    def __attrs_post_init__(self) -> None:
        self.accept = self.window.accept  # called for each event: a method here would be one call more
        self.on_confirmed = self.ledger.confirm

    # -- Sink -------------------------------------------------------------------------------------------

    async def put(self, message: Message) -> None:
        """Take a message into the window, waiting while that is full."""
        while not self.window.accept(message):
            self.notify()
            await self._room.wait()

    def notify(self) -> None:
        """Write messages of the window, or wake the task that writes or has to dial first."""
        for session in tuple(self.idle):
            session.write_now()
        if len(self.window):
            self.wanted.notify()

    # -- Feed -------------------------------------------------------------------------------------------

    def join(self, session: Session) -> Self:
        """Begin with the messages that are unconfirmed."""
        del session
        self.window.connected(trio.current_time())
        return self

    def leave(self, session: Session) -> None:
        """Do nothing: what this session did not confirm goes to the next one."""

    def catch_up(self, session: Session) -> None:
        """Do nothing: nobody is in sync."""

    def take(self, session: Session) -> tuple[bytes, int, int]:
        """Take messages; return their frames, masked, and how many messages and events."""
        del session
        messages = self.window.take(trio.current_time(), _BLOB)
        frames = b"".join(masked_frames([message.payload for message in messages], self._opcode))
        return frames, len(messages), events_in(messages)

    def settle(self) -> None:
        """Do nothing: each confirmation has settled."""

    def became_idle(self, session: Session) -> None:
        """Let the sender write to the session."""
        self.idle.add(session)

    def became_busy(self, session: Session) -> None:
        """Let nobody write to the session but its own task."""
        self.idle.discard(session)

    def on_strange_pong(self) -> None:
        """Take note of a pong that answered no ping."""
        self.window.strange_pong_received()

    def warn(self, text: str) -> None:
        """Log a warning about the link."""
        _log.warning(text)

    # -- Account ----------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether messages can be taken now."""
        return self.window.ready

    @property
    def in_flight(self) -> int:
        """The number of messages that were taken and are not confirmed."""
        return self.window.in_flight

    @property
    def wants_ping(self) -> bool:
        """Whether the answer to a ping written now would prove something."""
        return self.window.wants_ping

    @property
    def pings_now(self) -> bool:
        """The same: a link asks as often as it can."""
        return self.window.wants_ping

    @property
    def deadline(self) -> float | None:
        """The time at which the connection is stalled; None if there is nothing to wait for."""
        return self.window.deadline

    def ping_taken(self) -> None:
        """Note that a ping goes out behind everything taken so far."""
        self.window.ping_taken()

    def written(self) -> None:
        """Note that everything taken was handed to the kernel."""
        self.confirm(self.window.written())

    def pong_received(self, now: float) -> None:
        """Note that the outstanding ping was answered, as was found at `now`."""
        self.confirm(self.window.pong_received(now))

    def acked(self, seq: int) -> None:
        """Note that the peer's application has every event up to `seq`."""
        self.confirm(self.window.acked(seq))

    def events_in_flight(self) -> list[Accepted]:
        """Return the events that an acknowledgement may name, oldest first."""
        return self.window.events_in_flight()

    def reading_paused(self) -> None:
        """Note that this side stopped reading."""
        self.window.reading_paused()

    def reading_resumed(self, now: float) -> None:
        """Note that this side reads again since `now`."""
        self.window.reading_resumed(now)

    # -- the end of a connection --------------------------------------------------------------------------

    def confirm(self, messages: Sequence[Message]) -> None:
        """Confirm messages that have left the window."""
        if messages:
            self.on_confirmed(messages)
            self._room.notify()

    def disconnected(self, disconnection: Disconnection) -> list[tuple[Accepted, str]]:
        """Have everything unconfirmed sent again; return the events that will not be, each with its reason."""
        failed = self.window.disconnected(disconnection)
        if failed and self.on_failed is not None:
            self.on_failed([message for message, _ in failed])
        self._room.notify()
        return [(accepted, reason) for message, reason in failed for accepted in message.events]
