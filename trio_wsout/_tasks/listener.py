"""The listener: accepts streams, and serves each in a guarded nursery of its own (SPEC 10).

Whatever happens to one connection, by the network, by what its peer sends, or by an exception of
the application's or of a library, ends that connection only.
"""

from __future__ import annotations

import errno
import logging
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio
from attrs import define, field

from trio_wsout._tasks.fan_out import TRY_AGAIN_LATER
from trio_wsout._tasks.heartbeat import HandshakeDeadline
from trio_wsout._tasks.peer_fan_out import Greeting
from trio_wsout._tasks.served_peer import ServedPeer
from trio_wsout._wire.accept import Acceptor
from trio_wsout._wire.listen import (
    address_of,
    inode_of,
    is_local,
    listening_at,
    open_listeners,
    remove_socket,
)
from trio_wsout._wire.tls import ServerContext
from trio_wsout.config.sections import SlowPeer
from trio_wsout.errors import HistoryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_wsout._core.handshake import Admit, Deny, Handshake
    from trio_wsout._tasks.fan_out import FanOut
    from trio_wsout._tasks.reader import Inbox
    from trio_wsout._wire.accept import Guest
    from trio_wsout._wire.connection import Connection
    from trio_wsout._wire.peer_log import PeerLog
    from trio_wsout.config.sections import Config
    from trio_wsout.config.templates import Resolve

__all__ = ["Host", "Listener"]

_log = logging.getLogger("trio_wsout")

_STATUS = "Resume-Status"
_OVER = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EINVAL, errno.EFAULT})
"""Errors of a listener that will accept nobody any more."""
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Errors of this side, after which it waits: a connection that can't be accepted stays, and is there again at once."""
_MOMENT = 0.1
"""Seconds to wait after such an error, and after a second one of any kind in a row."""


class Host(Protocol):
    """The tree that a listener belongs to."""

    async def greet(self, asked: str | None) -> Greeting:
        """How to receive a peer that asks for what follows a cursor."""
        ...

    def inbox_for(self, peer: ServedPeer) -> Inbox:
        """Where that peer's messages go."""
        ...


class _Steady(trio.abc.Listener[trio.abc.Stream]):
    """A listener that goes on after an error of one connection or of the network (accept(2))."""

    def __init__(self, listener: trio.abc.Listener[trio.abc.Stream], peer_log: PeerLog) -> None:
        self._listener = listener
        self._peer_log = peer_log

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

    _config: Config
    _host: Host
    _fan_out: FanOut
    _authenticate: Callable[[Handshake], Awaitable[Admit | Deny]] | None
    _text: bool
    _given: Sequence[trio.abc.Listener[trio.abc.Stream]] | None
    _resolve: Resolve
    addresses: tuple[str, ...] = ()
    """Where it listens."""
    acceptor: Acceptor = field(init=False)
    _accepting: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] = field(default=(), init=False)
    _bound: dict[str, tuple[int, int]] = field(factory=dict, init=False)
    _closes_slow: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        server = self._config.server
        assert server is not None  # noqa: S101 - the rules see to it
        self._closes_slow = server.slow_peer is SlowPeer.DISCONNECT
        self.acceptor = Acceptor(
            self._config,
            self._authenticate,
            text=self._text,
            resolve=self._resolve,
            peer_log=self._fan_out.peer_log,
        )

    async def open(self) -> None:
        """Bind, and read the TLS files and the credentials.

        Raises:
            ConfigError: One of them can't be used.
        """
        server = self._config.server
        assert server is not None  # noqa: S101 - the rules see to it
        self.acceptor.check_credentials()
        if server.tls is not None:
            self.acceptor.tls = ServerContext(server.tls, self._resolve)
        self._listeners = self._given if self._given is not None else await open_listeners(server.bind)
        self.addresses = listening_at(self._listeners)
        if self._given is None:
            paths = [each.removeprefix("unix:") for each in self.addresses if each.startswith("unix:")]
            self._bound = {path: inode for path in paths if (inode := inode_of(path)) is not None}
        if server.allowed_origins is None and self._given is None and not all(map(is_local, self.addresses)):
            _log.warning("server.allowed-origins is not set: pages of any origin may connect")
        _log.info("listening at %s", ", ".join(self.addresses) or "the given listeners")

    async def run(self, nursery: trio.Nursery) -> None:
        """Accept until `stop`; who was accepted goes on in `nursery`. The listeners are closed then."""
        nursery.start_soon(self._fan_out.heartbeat_task.run)
        try:
            with self._accepting:  # noqa: ASYNC912 - serving waits
                listeners = [_Steady(each, self._fan_out.peer_log) for each in self._listeners]
                await trio.serve_listeners(self._serve, listeners, handler_nursery=nursery)
        finally:
            await self.aclose()  # noqa: ASYNC102 - by force, which never waits

    def stop(self) -> None:
        """Accept nobody any more."""
        self._accepting.cancel()

    async def aclose(self) -> None:
        """Close the listening sockets; never waits. Of files, those that were bound here are removed, once.

        Whoever listens next at the same path has it from then on.
        """
        bound, self._bound = self._bound, {}
        for path, inode in bound.items():
            remove_socket(path, inode)
        with trio.CancelScope(shield=True):  # noqa: ASYNC912 - by force, which never waits
            for listener in self._listeners:
                await trio.aclose_forcefully(listener)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        """Serve one stream to its end; nothing but a cancellation from outside gets out."""
        try:
            await self._admit(stream)
        except Exception:  # noqa: BLE001 - one connection's trouble is nobody else's
            self._fan_out.peer_log.error("a connection ended by an error of this side", exc_info=True)
            self._fan_out.settle()
        finally:
            await trio.aclose_forcefully(stream)  # noqa: ASYNC102 - by force, which never waits

    async def _admit(self, stream: trio.abc.Stream) -> None:
        server = self._config.server
        assert server is not None  # noqa: S101 - the rules see to it
        patience = HandshakeDeadline(
            self._fan_out.heartbeat_task, trio.current_time() + server.handshake_timeout
        )
        guest: Guest | None = None
        try:
            with patience.scope():
                guest = await self.acceptor.receive(stream, address_of(stream))
            if guest is not None:
                try:
                    await self._welcome(guest, patience)
                finally:
                    self.acceptor.places.free()
        finally:
            patience.end()

    async def _greet(self, guest: Guest) -> Greeting | None:
        try:
            return await self._host.greet(guest.handshake.cursor)
        except HistoryError as error:
            self._fan_out.peer_log.error("a peer that wants to resume was refused with 503: %s", error)
            await self.acceptor.turn_away(guest, "the history can't be read")
            return None

    async def _welcome(self, guest: Guest, patience: HandshakeDeadline) -> None:
        greeting: Greeting | None = None
        with patience.scope():
            greeting = await self._greet(guest)
        if greeting is None:
            return
        peer = ServedPeer(guest.peer, self._fan_out, self._config)
        headers: list[tuple[str, str]] = []
        if greeting.resumed is not None:
            headers.append((_STATUS, "resumed" if greeting.resumed else "gap"))
        if greeting.joins:
            self._join(peer)
        connection: Connection | None = None
        try:
            async with trio.open_nursery() as nursery:
                # A scope for the handshake only: one that lasted as long as the peer stays would cost memory.
                with patience.scope():
                    connection = await self.acceptor.answer(nursery, guest, headers)
                patience.end()
                if connection is not None:
                    self._answered(peer)
                    await peer.run(connection, nursery, self._host.inbox_for(peer), greeting)
                nursery.cancel_scope.cancel()
            if connection is None and trio.current_effective_deadline() > -inf:
                # It has gone before its answer was out. Where all of this is cancelled, nothing is confirmed by that.
                peer.give_up_place()
        finally:
            peer.leave_log()

    def _join(self, peer: ServedPeer) -> None:
        """Have the peer get everything from here on, though its answer is not out yet.

        Nobody can say Close to it before. So where slow peers are closed, it makes nobody wait as yet.
        """
        peer.join_log()
        if self._closes_slow and peer.place is not None:
            peer.place.stuck = True

    def _answered(self, peer: ServedPeer) -> None:
        """Its answer is out: where slow peers are closed, it is if it lost something while it was not."""
        place = peer.place
        if place is None or not self._closes_slow:
            return
        place.stuck = False
        if place.dropped:
            self._fan_out.peer_log.warning(
                "peer %s did not read its answer in time and is closed with 1013", peer.peer.address
            )
            self._fan_out.counters.expelled += 1
            peer.close(TRY_AGAIN_LATER)
