"""The listener: accepts streams, and serves each in a guarded nursery of its own (SPEC 10).

Trouble of one connection ends that connection only, whether the network, its peer, the application or a library
caused it.
"""

import errno
import logging
from collections.abc import Awaitable, Callable, Sequence

import trio
from attrs import define, field

from trio_wsout._core.heartbeat import HeartbeatMonitor
from trio_wsout._tasks.fan_out import FanOut
from trio_wsout._tasks.heartbeat import HandshakeDeadline
from trio_wsout._tasks.inbox import Inbox
from trio_wsout._tasks.session import Resumption, Session
from trio_wsout._wire.accept import Acceptor, Guest
from trio_wsout._wire.connection import Connection
from trio_wsout._wire.listen import (
    address_of,
    inode_of,
    is_local,
    listening_at,
    open_listeners,
    remove_socket,
)
from trio_wsout._wire.peer_log import PeerLog
from trio_wsout.config.sections import Heartbeat, Server
from trio_wsout.config.templates import Resolve
from trio_wsout.errors import HistoryError

_log = logging.getLogger("trio_wsout")

_STATUS = "Resume-Status"
_OVER = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EINVAL, errno.EFAULT})
"""Errors of a listener that will never accept again."""
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Errors of this side, after which it waits: the connection that can't be accepted stays in the queue of the system."""
_MOMENT = 0.1
"""Seconds to wait after such an error, and after a second one of any kind in a row."""


@define(eq=False)
class _SteadyListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener that goes on after an error of one connection or of the network (accept(2))."""

    _listener: trio.abc.Listener[trio.abc.Stream]
    _peer_log: PeerLog

    async def accept(self) -> trio.abc.Stream:
        again = False
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                if error.errno in _OVER:
                    raise
                self._peer_log.warning("a connection was not accepted: %s", error)
                again = again or error.errno in _FULL
            if again:
                await trio.sleep(_MOMENT)
            again = True

    async def aclose(self) -> None:
        await self._listener.aclose()


@define(eq=False)
class Listener:
    """Accepts the peers of one output."""

    _server: Server
    _heartbeat: Heartbeat | None
    _find_resumption: Callable[[str | None], Awaitable[Resumption]]
    """Returns the start of a peer's stream by the cursor that it wants to resume after; None if it does not ask to resume."""
    _inbox_for: Callable[[Session], Inbox]
    """Returns the inbox that takes the messages of a peer."""
    _fan_out: FanOut
    acceptor: Acceptor
    _given: Sequence[trio.abc.Listener[trio.abc.Stream]] | None
    """The application's listeners, to be used instead of `server.bind`; None if it passed none."""
    _resolve: Resolve
    addresses: tuple[str, ...] = field(default=(), init=False)
    """The addresses that it listens at."""
    _accepting: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] = field(default=(), init=False)
    _bound: dict[str, tuple[int, int]] = field(factory=dict[str, tuple[int, int]], init=False)
    """Socket files that were bound here, with their inodes."""

    async def open(self) -> None:
        """Bind, and read the TLS files and the credentials.

        Raises:
            ConfigError: One of them can't be used.
        """
        server = self._server
        self.acceptor.open(server.tls, self._resolve)
        self._listeners = (
            self._given
            if self._given is not None
            else await open_listeners(server.bind, reuse_port=server.reuse_port)
        )
        self.addresses = listening_at(self._listeners)
        if self._given is None:
            paths = [each.removeprefix("unix:") for each in self.addresses if each.startswith("unix:")]
            self._bound = {path: inode for path in paths if (inode := inode_of(path)) is not None}
        if server.allowed_origins is None and self._given is None and not all(map(is_local, self.addresses)):
            _log.warning("server.allowed-origins is not set: pages of any origin may connect")
        _log.info("listening at %s", ", ".join(self.addresses) or "the given listeners")

    async def run(self) -> None:
        """Accept until `stop`, then close the listening sockets; return when the last peer is gone."""
        async with trio.open_nursery() as sessions:
            try:
                with self._accepting:  # noqa: ASYNC912 - serving waits
                    listeners = [_SteadyListener(each, self._fan_out.peer_log) for each in self._listeners]
                    await trio.serve_listeners(self._serve, listeners, handler_nursery=sessions)
            finally:
                await self.aclose()  # noqa: ASYNC102 - by force, which never waits

    def stop(self) -> None:
        """Accept no more peers."""
        self._accepting.cancel()

    async def aclose(self) -> None:
        """Close the listening sockets; never waits.

        Socket files that were bound here are removed, once: a listener that binds the same path later keeps its file.
        """
        bound, self._bound = self._bound, {}
        for path, inode in bound.items():
            remove_socket(path, inode)
        with trio.CancelScope(shield=True):  # noqa: ASYNC912 - by force, which never waits
            for listener in self._listeners:
                await trio.aclose_forcefully(listener)

    # -- one stream -------------------------------------------------------------------------------------

    async def _serve(self, stream: trio.abc.Stream) -> None:
        """Serve one stream to its end; nothing but a cancellation from outside gets out."""
        trio.lowlevel.current_task().name = "session"
        admitted: tuple[Session, Resumption] | None = None
        try:
            # The objects of the handshake are dropped before the peer is served: they are a tenth of a peer's memory.
            admitted = await self._admit(stream)
            if admitted is not None:
                session, resumption = admitted
                self._fan_out.came(session)
                await session.run(self._inbox_for(session), resumption)
        except Exception:  # noqa: BLE001 - one connection's trouble is nobody else's
            self._fan_out.peer_log.error("a connection ended by an error of this side", exc_info=True)
            self._fan_out.settle()
        finally:
            if admitted is not None:
                self._fan_out.left(admitted[0])
                self.acceptor.capacity.release()
            await trio.aclose_forcefully(stream)  # noqa: ASYNC102 - by force, which never waits

    async def _admit(self, stream: trio.abc.Stream) -> tuple[Session, Resumption] | None:
        """Return the session of the admitted peer, whose capacity the caller releases; None if it was refused, or left."""
        ends_at = trio.current_time() + self._server.handshake_timeout
        guest: Guest | None = None
        admitted: tuple[Session, Resumption] | None = None
        try:
            with HandshakeDeadline(self._fan_out.heartbeat_task, ends_at):
                guest = await self.acceptor.receive(stream, address_of(stream))
                if guest is not None:
                    admitted = await self._welcome(guest)
        finally:
            if guest is not None and admitted is None:
                self.acceptor.capacity.release()
        if admitted is None:
            # A peer that left before its handshake was answered. If this task is cancelled, that settles nothing.
            self._fan_out.settle()
        return admitted

    async def _resumption(self, guest: Guest) -> Resumption | None:
        reason = "no answer in time"
        try:
            # The rest of the time is for the answer, which sends the peer elsewhere.
            with trio.move_on_after(self._server.handshake_timeout / 2):
                return await self._find_resumption(guest.handshake.cursor)
        except HistoryError as error:
            reason = str(error)
        self._fan_out.peer_log.error("a peer that wants to resume was refused with 503: %s", reason)
        await self.acceptor.turn_away(guest, "the history can't be read")
        return None

    async def _welcome(self, guest: Guest) -> tuple[Session, Resumption] | None:
        resumption = await self._resumption(guest)
        if resumption is None:
            return None
        session = Session(
            guest.peer,
            HeartbeatMonitor(self._heartbeat),
            self._fan_out,
            self._server.idle_timeout,
            guest.expires_at,
        )
        headers: list[tuple[str, str]] = []
        if resumption.resumed is not None:
            headers.append((_STATUS, "resumed" if resumption.resumed else "gap"))
        if resumption.replay is None and resumption.refusal is None:
            self._fan_out.invite(session)
        connection: Connection | None = None
        try:
            connection = await self.acceptor.answer(guest, headers)
        finally:
            if connection is None:
                self._fan_out.leave(session)
        if connection is None:
            return None
        session.opened(connection)
        return session, resumption
