"""The reconnect supervisor: dials, serves one connection at a time, and backs off between them."""

import logging
from collections.abc import Awaitable, Callable
from math import inf

import trio
from attrs import define, evolve, field

from trio_wsout._core.callables import plain
from trio_wsout._core.close_codes import NORMAL
from trio_wsout._core.disconnection import BY_SILENCE, Cause, Disconnection
from trio_wsout._core.heartbeat import HeartbeatMonitor
from trio_wsout._core.link import Link, LinkChange, State
from trio_wsout._core.received import Peer
from trio_wsout._core.request import Request
from trio_wsout._core.resend import LinkSubscription
from trio_wsout._tasks.fan_out import FanOut
from trio_wsout._tasks.heartbeat import HandshakeDeadline
from trio_wsout._tasks.inbox import Inbox
from trio_wsout._tasks.session import Session
from trio_wsout._wire.connection import Connection
from trio_wsout._wire.dial import Dialer
from trio_wsout._wire.tcp import AttemptFailed
from trio_wsout.config.sections import Heartbeat
from trio_wsout.errors import ConnectError

_log = logging.getLogger("trio_wsout")
_changes = logging.getLogger("trio_wsout.link")
"""Each change of the link's state; attempts that repeat a failure at level DEBUG."""

_SILENCES = 3
"""Connections that the peer itself ended without ever having confirmed anything, until a warning: one may be an accident."""


@define(eq=False)
class Supervisor:
    """Keeps one link open until `close`, or until it gives up."""

    _connect_timeout: float
    """Seconds for one attempt, from the credentials to the end of the handshake."""
    _heartbeat: Heartbeat | None
    _link: Link
    _dialer: Dialer
    _fan_out: FanOut
    _subscription: LinkSubscription
    _inbox: Inbox
    _make_request: Callable[[], Awaitable[Request]]
    """Makes the opening handshake of an attempt."""
    _draw: Callable[[], float]
    """Uniform in [0, 1), for the jitter."""
    _on_state: Callable[[LinkChange], object] | None
    """Called at every change of the link's state."""
    session: Session | None = field(default=None, init=False)
    """The session of the open connection; None while there is none."""
    subprotocol: str | None = field(default=None, init=False)
    """The subprotocol of the latest connection; None if there was none."""
    last_error: str | None = field(default=None, init=False)
    """The reason for which the latest attempt or connection ended; None if none did."""
    opened: bool = field(default=False, init=False)
    """Whether a connection was ever open."""
    _closing: bool = field(default=False, init=False)
    _waiting: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Bounds the work; cancelled to end it while no connection is open."""
    _announced: State | None = field(default=None, init=False)
    _silences: int = field(default=0, init=False)
    """Connections that ended although the peer had never confirmed anything."""
    _warned_of_silence: bool = field(default=False, init=False)

    # -- for the tree -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Have `run` close the connection politely, if one is open, and return; stop dialling and backing off."""
        self._closing = True
        if self.session is None:
            self._waiting.cancel()
        else:
            self.session.close_with_output(NORMAL, within=inf)

    async def run(self) -> None:
        """Keep the link open until `close`, or until it gives up, which breaks the output."""
        with self._waiting:
            await self._keep_open()
        self._link.close()
        self._announce(None)

    # -- the loop -----------------------------------------------------------------------------------------

    async def _keep_open(self) -> None:
        link = self._link
        if link.state is State.IDLE:
            await self._fan_out.wanted.wait()
            link.wanted()
        while True:
            self._announce(None)
            disconnection = await self._attempt()
            if not self._closing:
                self._link_ended(disconnection)
            # After the change of state: this waits while the channel is full, and nobody must take the link for open then.
            await self._fan_out.ledger.report()
            if self._closing:
                return
            if link.state is State.GAVE_UP:
                self._give_up(disconnection)
                return
            await trio.sleep_until(link.deadline if link.deadline is not None else trio.current_time())
            link.poll(trio.current_time())

    def _link_ended(self, disconnection: Disconnection) -> None:
        now = trio.current_time()
        self._link.ended(disconnection, now, self._draw())
        self.last_error = disconnection.detail
        deadline = self._link.deadline
        self._announce(None if deadline is None else deadline - now)

    def _give_up(self, disconnection: Disconnection) -> None:
        link = self._link
        attempts = "one failed attempt" if link.failures == 1 else f"{link.failures} failures in a row"
        message = f"the link gave up after {attempts}: {link.verdict}"
        self._fan_out.ledger.break_with(
            ConnectError(message, attempts=link.failures, cause=disconnection.detail)
        )

    def _announce(self, delay: float | None) -> None:
        """Report a new state to log and application; `delay` is the seconds to the next attempt, None if none follows."""
        link = self._link
        if link.state is self._announced:
            return
        before, self._announced = self._announced, link.state
        self._log_change(before, delay)
        self._fan_out.changed.unpark_all()
        if self._on_state is None:
            return
        try:
            change = LinkChange(
                state=link.state,
                attempt=link.attempt,
                url=link.shown_url,
                disconnection=link.last,
                delay=delay,
            )
            plain("on_state", self._on_state(change))
        except Exception:  # noqa: BLE001 - the application's fault must not cost the link
            _log.exception("on_state raised")

    def _log_change(self, before: State | None, delay: float | None) -> None:
        """Log a change of state; the absence of a server is a warning once, and again each minute."""
        link, level = self._link, logging.INFO
        why = where = f" ({link.shown_url})" if link.has_choice else ""
        if delay is not None and link.last is not None:
            attempts = f" ({link.failures} failures in a row)" if link.failures > 1 else ""
            why = f": {link.last.detail}{attempts}; next attempt in {delay:.2g} s{where}"
            if before is not State.OPEN:
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

    async def _attempt(self) -> Disconnection:
        """Dial, and serve the connection to its end; return the cause of that."""
        try:
            connection = await self._dial()
        except AttemptFailed as failed:
            return failed.disconnection
        disconnection = await self._serve(connection)
        self._subscription.disconnected(disconnection)
        self._fan_out.settle()
        return disconnection

    async def _dial(self) -> Connection:
        """Open a connection within connect.timeout, from the credentials to the end of the handshake."""
        timeout = self._connect_timeout
        ends_at = trio.current_time() + timeout
        with HandshakeDeadline(self._fan_out.heartbeat_task, ends_at):
            return await self._dialer.dial(self._make_request, ends_at)
        detail = f"connect.timeout ({timeout:g} s) went by without {self._dialer.stage}"
        raise AttemptFailed(Cause.TIMED_OUT, detail)

    async def _serve(self, connection: Connection) -> Disconnection:
        """Serve an open connection to its end, and return why it ended."""
        peer = Peer(address=self._dialer.address, subprotocol=connection.subprotocol, dialled=True)
        self.session = session = Session(peer, HeartbeatMonitor(self._heartbeat), self._fan_out)
        session.opened(connection)
        self._subscription.connected(trio.current_time())
        session.join(self._subscription)
        self._opened(connection)
        try:
            await session.run(self._inbox)
        finally:
            self.session = None
        if session.received_messages or self._subscription.passed:
            self._link.message_passed()
        return self._explained(await connection.wait_ended())

    def _opened(self, connection: Connection) -> None:
        self._link.opened(trio.current_time())
        self.subprotocol = connection.subprotocol
        self.opened = True
        self._announce(None)

    def _explained(self, disconnection: Disconnection) -> Disconnection:
        """Add that the peer never confirmed anything, if that can be the cause of the end; warn about it once."""
        silence = self._subscription.silence
        if silence is None or disconnection.cause is Cause.LOCAL:
            return disconnection
        self._silences += 1
        if disconnection.cause not in BY_SILENCE and self._silences < _SILENCES:
            return disconnection
        if not self._warned_of_silence:
            self._warned_of_silence = True
            _log.warning("link: %s", silence)
        return evolve(disconnection, detail=f"{disconnection.detail}; {silence}")
