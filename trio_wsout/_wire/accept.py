"""From an accepted stream to an admitted connection: TLS, opening handshake, the bound on peers, the application's verdict.

The request is read and judged here (SPEC 10; RFC 6455 section 4.2) before `opening` makes the answer.
"""

import logging
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import trio
from attrs import Factory, define, field, frozen

from trio_wsout._core.admission import (
    RETRY_AFTER,
    Admission,
    Admit,
    Deny,
    Handshake,
    Head,
    Response,
    expires_at,
)
from trio_wsout._core.callables import CallableError, awaitable
from trio_wsout._core.received import Peer
from trio_wsout._wire.connection import Connection
from trio_wsout._wire.decoder import Decoder
from trio_wsout._wire.frames import plain_frame
from trio_wsout._wire.http_request import read_head, refuse
from trio_wsout._wire.opening import accept_opening
from trio_wsout._wire.peer_log import PeerLog
from trio_wsout._wire.tcp import set_user_timeout
from trio_wsout._wire.tls import ServerContext
from trio_wsout.config.sections import Heartbeat, ServerTls
from trio_wsout.config.templates import Resolve
from trio_wsout.errors import ConfigError, Problem

_log = logging.getLogger("trio_wsout")

_LATER = [("Retry-After", str(RETRY_AFTER))]
_NOT_ADMITTED = Deny(status=500, reason="not admitted")
_EXPIRED = Deny(status=401, reason="the time of this admission is over")


@frozen(kw_only=True)
class Guest:
    """A peer whose handshake is accepted and not yet answered."""

    handshake: Handshake
    peer: Peer
    stream: trio.abc.Stream
    """The stream to the peer, with TLS around it if there is TLS."""
    key: str
    """Its Sec-WebSocket-Key."""
    rest: bytes
    """Bytes that came behind its request."""
    expires_at: float | None
    """The time at which its admission ends, on trio's clock; None for never."""


@define(eq=False, kw_only=True)
class Acceptor:
    """Admits the peers of one listener: by the `server` section, and then by the application."""

    _admission: Admission = field(alias="admission")
    _authenticate: Callable[[Handshake], Awaitable[Admit | Deny]] | None = field(
        default=None, alias="authenticate"
    )
    """The application's verdict on each handshake; None if the `server` section decides alone."""
    _max_connections: int | None = field(alias="max_connections")
    """Peers at a time, those included whose handshake is accepted and not yet answered; None if there is no bound."""
    _heartbeat: Heartbeat | None = field(alias="heartbeat")
    _max_message_size: int = field(alias="max_message_size")
    _peer_log: PeerLog = field(alias="peer_log")
    _tls: ServerContext | None = field(default=None, init=False)
    """TLS around every connection; None if there is none."""
    capacity: trio.Semaphore = field(
        default=Factory(lambda self: trio.Semaphore(self._max_connections or sys.maxsize), takes_self=True),
        init=False,
    )
    """Peers that may still be admitted."""
    refused: int = field(default=0, init=False)
    """Handshakes that were answered with an HTTP error."""
    _reported: str | None = field(default=None, init=False)
    """The fault of `server.auth` that was logged last."""

    def open(self, tls: ServerTls | None, resolve: Resolve) -> None:
        """Read the TLS files, if there are any, and expand every entry of `server.auth`, so that faults are found now.

        `resolve` returns the value of a ``${…}``. Raise ConfigError if a file or an entry can't be used; each problem has
        its key path.
        """
        credentials = self._admission.credentials
        problems = () if credentials is None else credentials.problems()
        wrong = [Problem(path=path, reason=f"can't be used: {reason}") for path, reason in problems]
        if wrong:
            raise ConfigError(wrong)
        self._tls = None if tls is None else ServerContext(tls, resolve)

    async def receive(self, stream: trio.abc.Stream, address: str) -> Guest | None:
        """Read and judge a peer's handshake; return None if it was refused, or the peer hung up.

        A guest takes one of `capacity`, which the caller releases. The caller bounds the time.
        """
        try:
            if self._tls is not None:
                stream = trio.SSLStream(
                    stream, await self._tls.get(), server_side=True, https_compatible=True
                )
                await stream.do_handshake()
            request = await read_head(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        if request is None:
            return None
        if isinstance(request, Response):
            await self._refuse(stream, request)
            return None
        head, rest = request
        handshake = self._admission.judge(head, address)
        self._report_faults()
        if isinstance(handshake, Response):
            await self._refuse(stream, handshake, head_only=head.method == "HEAD")
            return None
        try:
            self.capacity.acquire_nowait()
        except trio.WouldBlock:
            await self._refuse(
                stream, Response(status=503, body="the server has as many peers as it may", headers=_LATER)
            )
            return None
        guest: Guest | None = None
        try:
            verdict = await self._ask_application(handshake)
            if isinstance(verdict, Admit):
                guest = self._guest(handshake, verdict, stream, head, rest)
        finally:
            if guest is None:
                self.capacity.release()
        if isinstance(verdict, Deny):
            await self._refuse(stream, Response(status=verdict.status, body=verdict.reason))
        return guest

    async def answer(self, guest: Guest, headers: Sequence[tuple[str, str]]) -> Connection | None:
        """Let the guest in, with `headers` in the answer; return its connection, or None if the guest hung up."""
        set_user_timeout(guest.stream, self._heartbeat)
        try:
            await guest.stream.send_all(await accept_opening(guest.key, guest.peer.subprotocol, headers))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        return Connection(
            guest.stream,
            Decoder(masked=True, most=self._max_message_size),
            plain_frame,
            unread=guest.rest,
            subprotocol=guest.peer.subprotocol,
        )

    async def turn_away(self, guest: Guest, reason: str) -> None:
        """Refuse a guest for a reason of this side, with 503."""
        await self._refuse(guest.stream, Response(status=503, body=reason, headers=_LATER))

    def _report_faults(self) -> None:
        """Log an entry of `server.auth` that can't be used; log it again only after it has changed."""
        credentials = self._admission.credentials
        fault = None if credentials is None else credentials.trouble
        if fault is not None and fault != self._reported:
            _log.error("an entry of server.auth admits nobody: %s", fault)
        self._reported = fault

    async def _refuse(self, stream: trio.abc.Stream, response: Response, *, head_only: bool = False) -> None:
        self.refused += response.status >= 400  # noqa: PLR2004 - where HTTP's errors begin
        await refuse(stream, response, head_only=head_only)

    async def _ask_application(self, handshake: Handshake) -> Admit | Deny:
        """Return the application's verdict; an exception of its callable costs this peer only."""
        if self._authenticate is None:
            await trio.lowlevel.checkpoint()
            return Admit()
        try:
            verdict = cast("object", await awaitable("authenticate", self._authenticate(handshake)))
        except CallableError as error:
            self._peer_log.error("%s; the peer was refused", error)
        except Exception as error:  # noqa: BLE001 - the application's, whatever it is
            # Its text may hold a part of the peer's request, and so a secret.
            where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
            kind = type(error).__name__
            self._peer_log.error(
                "the application's authenticate callable raised %s; the peer was refused\n%s", kind, where
            )
        else:
            if isinstance(verdict, Admit) and verdict.until is not None and verdict.until <= time.time():
                self._peer_log.warning(
                    "authenticate admitted a peer until a time that is over; it was refused with 401"
                )
                return _EXPIRED
            if isinstance(verdict, Admit | Deny):
                return verdict
            kind = type(verdict).__name__
            self._peer_log.error("authenticate returned %s, not Admit or Deny; the peer was refused", kind)
        return _NOT_ADMITTED

    def _guest(
        self, handshake: Handshake, verdict: Admit, stream: trio.abc.Stream, head: Head, rest: bytes
    ) -> Guest:
        peer = Peer(
            address=handshake.address,
            subprotocol=self._admission.choose_subprotocol(handshake.subprotocols),
            path=handshake.path,
            headers=handshake.headers,
            identity=handshake.identity if verdict.identity is None else verdict.identity,
            may_send=verdict.may_send,
        )
        (key,) = head.values("sec-websocket-key")
        return Guest(
            handshake=handshake,
            peer=peer,
            stream=stream,
            key=key,
            rest=rest,
            expires_at=expires_at(verdict.until, trio.current_time(), time.time()),
        )
