"""The supervisor: dials, watches one connection at a time, and backs off between them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio
from attrs import evolve

from trio_wsout._core.callables import plain
from trio_wsout._core.disconnection import BY_SILENCE, Cause, Disconnection
from trio_wsout._core.heartbeat import HeartbeatMonitor
from trio_wsout._core.link import LinkChange, State
from trio_wsout._core.received import Peer
from trio_wsout._tasks.heartbeat import HandshakeDeadline, HeartbeatTask
from trio_wsout._tasks.link_connection import LinkConnection
from trio_wsout._wire.dial import AttemptFailed
from trio_wsout.errors import ConnectError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsout._core.link import Link
    from trio_wsout._core.message import Accepted
    from trio_wsout._core.request import Request
    from trio_wsout._tasks.outbox import Outbox
    from trio_wsout._tasks.reader import Inbox
    from trio_wsout._wire.connection import Connection
    from trio_wsout._wire.dial import Dialer
    from trio_wsout.config.sections import Config

__all__ = ["Supervisor"]

_log = logging.getLogger("trio_wsout")
_changes = logging.getLogger("trio_wsout.link")
"""Each change of the link's state; attempts that repeat a failure at level DEBUG."""

_SILENCES = 3
"""Connections that the peer itself ended without ever doing what confirms, until that is told: one may be an accident."""


class Supervisor:
    """Keeps one link open until it is told to close it, or gives up."""

    connection: Connection | None
    """The open connection; None while there is none."""

    monitor: HeartbeatMonitor | None
    """The monitor of the open connection; None while there is none."""

    def __init__(
        self,
        config: Config,
        link: Link,
        dialer: Dialer,
        outbox: Outbox,
        inbox: Inbox,
        *,
        make_request: Callable[[], Awaitable[Request]],
        draw: Callable[[], float],
        on_state: Callable[[LinkChange], object] | None,
    ) -> None:
        """Dial what `make_request` gives; `draw` is uniform in [0, 1); `on_state` hears of changes."""
        self._config = config
        self._link = link
        self._dialer = dialer
        self._outbox = outbox
        self._inbox = inbox
        self._make_request = make_request
        self._draw = draw
        self._on_state = on_state
        self._closing = trio.Event()
        self._announced: State | None = None
        self._changed = trio.Event()
        self._silences = 0
        self._warned = False
        self.opened = trio.Event()
        self.connection = None
        self.subprotocol: str | None = None
        self._heartbeat_task = HeartbeatTask()
        self.monitor = None
        self.last_error: str | None = None

    # -- from outside -----------------------------------------------------------------------------------

    async def wait_change(self) -> None:
        """Wait for the next change of the link's state, or the end of the tree."""
        await self._changed.wait()

    def wake(self) -> None:
        """Wake who is in `wait_change`."""
        self._changed.set()
        self._changed = trio.Event()

    def close(self) -> None:
        """Have `run` close the connection politely, if one is open, and return."""
        self._closing.set()

    async def run(self) -> None:
        """Serve the link until it is closed by `close` or has given up (which breaks the output)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_waiting, nursery.cancel_scope)
            nursery.start_soon(self._heartbeat_task.run)
            await self._serve()
            nursery.cancel_scope.cancel()
        self._link.close()
        self._announce(None)

    async def _stop_waiting(self, scope: trio.CancelScope) -> None:
        """On `close`, an open connection closes itself; dialling and backing off just stop."""
        await self._closing.wait()
        if self._link.state is not State.OPEN:
            scope.cancel()

    # -- the loop -----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        link = self._link
        if link.state is State.IDLE:
            await self._outbox.wanted.wait()
            link.wanted()
        while True:
            self._announce(None)
            disconnection, undelivered = await self._attempt()
            closing = self._closing.is_set()
            if not closing:
                self._judge(disconnection)
            # Only now: where the channel is full this waits, and nobody is to take the link for open meanwhile.
            await self._outbox.ledger.report(undelivered)
            if closing or self._closing.is_set():
                return
            if link.state is State.GAVE_UP:
                self._give_up(disconnection)
                return
            await trio.sleep_until(link.deadline if link.deadline is not None else trio.current_time())
            link.poll(trio.current_time())

    def _judge(self, disconnection: Disconnection) -> None:
        now = trio.current_time()
        self._link.ended(disconnection, now, self._draw())
        self.last_error = disconnection.detail
        deadline = self._link.deadline
        self._announce(None if deadline is None else deadline - now)

    def _give_up(self, disconnection: Disconnection) -> None:
        link = self._link
        attempts = "one failed attempt" if link.failures == 1 else f"{link.failures} failures in a row"
        message = f"the link gave up after {attempts}: {link.verdict}"
        self._outbox.ledger.break_with(
            ConnectError(message, attempts=link.failures, cause=disconnection.detail)
        )

    def _announce(self, delay: float | None) -> None:
        link = self._link
        if link.state is self._announced:
            return
        was, self._announced = self._announced, link.state
        self._tell(was, delay)
        self.wake()
        if self._on_state is None:
            return
        try:
            change = LinkChange(state=link.state, attempt=link.attempt, disconnection=link.last, delay=delay)
            plain("on_state", self._on_state(change))
        except Exception:  # noqa: BLE001 - the application's fault must not cost the link
            _log.exception("on_state raised")

    def _tell(self, was: State | None, delay: float | None) -> None:
        """Log a change; a server that is absent is warned of once, and again each minute."""
        link, level, why = self._link, logging.INFO, ""
        if delay is not None and link.last is not None:
            attempts = f" ({link.failures} failures in a row)" if link.failures > 1 else ""
            why = f": {link.last.detail}{attempts}; next attempt in {delay:.2g} s"
            if was is not State.OPEN:
                level = (
                    logging.WARNING
                    if link.still_failing
                    else logging.INFO
                    if link.first_failure
                    else logging.DEBUG
                )
        elif link.state is State.DIALLING and link.failures:
            level = logging.DEBUG
        elif link.state is State.GAVE_UP:
            why = f": {link.verdict}"
        _changes.log(level, "link %s%s", link.state.value, why)

    # -- one attempt, one connection ------------------------------------------------------------------------

    async def _attempt(self) -> tuple[Disconnection, list[tuple[Accepted, str]]]:
        """Dial, and use the connection to its end; gives why it ended, and what is undelivered by that."""
        try:
            connection = await self._open()
        except AttemptFailed as failed:
            return failed.disconnection, []
        disconnection = await self._use(connection)
        return disconnection, self._outbox.disconnected(disconnection)

    async def _use(self, connection: Connection) -> Disconnection:
        """Run an open connection to its end; gives why it ended."""
        self.monitor = monitor = HeartbeatMonitor(self._config.heartbeat)
        self._begin(connection, monitor)
        peer = Peer(address=self._dialer.address, subprotocol=connection.subprotocol)
        try:
            running = LinkConnection(connection, monitor, self._outbox, self._heartbeat_task)
            await running.run(self._inbox, peer=peer, closing=self._closing)
        finally:
            self.connection = self.monitor = None
            self._inbox.counters.received_bytes += connection.received_bytes
            self._inbox.counters.heartbeat_misses += monitor.misses
        return self._explained(await connection.wait_ended())

    def _explained(self, disconnection: Disconnection) -> Disconnection:
        """The ending, with what the peer never does, where that can be why; a WARNING says that once."""
        silence = self._outbox.window.silence
        if silence is None or disconnection.cause is Cause.LOCAL:
            return disconnection
        self._silences += 1
        if disconnection.cause not in BY_SILENCE and self._silences < _SILENCES:
            return disconnection
        if not self._warned:
            self._warned = True
            _log.warning("link: %s", silence)
        return evolve(disconnection, detail=f"{disconnection.detail}; {silence}")

    def _begin(self, connection: Connection, monitor: HeartbeatMonitor) -> None:
        now = trio.current_time()
        monitor.opened(now, knows_progress=connection.progress() is not None)
        self.connection = connection
        self._outbox.window.connected(now)
        self._link.opened(now)
        self.subprotocol = connection.subprotocol
        self.opened.set()
        self._announce(None)

    async def _open(self) -> Connection:
        """Everything from credentials to the handshake inside connect.timeout."""
        timeout = self._config.connect.timeout
        deadline = trio.current_time() + timeout
        patience = HandshakeDeadline(self._heartbeat_task, deadline)
        try:
            with patience.scope():
                return await self._dialer.dial(self._make_request, deadline)
        finally:
            patience.end()
        detail = f"connect.timeout ({timeout:g} s) went by without {self._dialer.stage}"
        raise AttemptFailed(Disconnection(cause=Cause.TIMED_OUT, detail=detail))
