"""From an accepted stream to an admitted connection: TLS, opening handshake, places, the application's word.

The request is read and judged here (SPEC 10; RFC 6455 section 4.2), before `opening` writes the answer.
"""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, cast

import trio
from attrs import frozen

from trio_wsout._core.admission import RETRY_AFTER, Admission, Answer, Places
from trio_wsout._core.callables import CallableError, awaitable
from trio_wsout._core.handshake import Admit, Deny
from trio_wsout._core.received import Peer
from trio_wsout._wire.connection import Connection
from trio_wsout._wire.http_request import read_head, refuse
from trio_wsout._wire.opening import accept_opening
from trio_wsout._wire.peer_log import PeerLog
from trio_wsout._wire.tcp import set_user_timeout
from trio_wsout._wire.transport import Transport
from trio_wsout.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_wsout._core.admission import Head
    from trio_wsout._core.handshake import Handshake
    from trio_wsout._wire.tls import ServerContext
    from trio_wsout.config.sections import Config
    from trio_wsout.config.templates import Resolve

__all__ = ["Acceptor", "Guest"]

_log = logging.getLogger("trio_wsout")

_LATER = [("Retry-After", str(RETRY_AFTER))]


@frozen(kw_only=True)
class Guest:
    """A peer that may come in: its handshake is judged and not yet answered."""

    handshake: Handshake
    peer: Peer
    stream: trio.abc.Stream
    """The stream to talk to it by, TLS around it."""
    key: str
    """Its Sec-WebSocket-Key."""
    rest: bytes
    """Bytes that came behind its handshake."""


class Acceptor:
    """Admits the peers of one listener."""

    tls: ServerContext | None
    """TLS around every connection; None: plain."""

    refused: int
    """Handshakes that were answered with an HTTP error."""

    def __init__(
        self,
        config: Config,
        authenticate: Callable[[Handshake], Awaitable[Admit | Deny]] | None = None,
        *,
        text: bool = True,
        resolve: Resolve | None = None,
        peer_log: PeerLog | None = None,
    ) -> None:
        """Admit by the `server` section, and then by `authenticate`.

        Args:
            config: Its `server` must be set.
            authenticate: The application's word on each handshake; None if it leaves that to the section.
            text: Whether messages are text; else they are binary.
            resolve: Returns the value of a ``${…}`` of `server.auth`.
            peer_log: Where it is told what peers can cause at will; None for one of its own.
        """
        assert config.server is not None  # noqa: S101 - the rules see to it
        self._config = config
        self._authenticate = authenticate
        self._text = text
        self._admission = Admission(config, resolve)
        self._told: str | None = None
        self._peer_log = peer_log or PeerLog()
        self.places = Places(config.server.max_connections)
        self.tls = None
        self.refused = 0

    async def receive(self, stream: trio.abc.Stream, address: str) -> Guest | None:
        """Read and judge a peer's handshake; None: it was refused, or has gone. The caller bounds the time.

        For a guest a place is taken; who calls gives it back when the guest is gone.
        """
        try:
            if self.tls is not None:
                stream = trio.SSLStream(stream, await self.tls.get(), server_side=True, https_compatible=True)
                await stream.do_handshake()
            came = await read_head(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        if came is None:
            return None
        if isinstance(came, Answer):
            await self._refuse(stream, came)
            return None
        head, rest = came
        judged = self._admission.judge(head, address)
        self._tell_trouble()
        if isinstance(judged, Answer):
            await self._refuse(stream, judged, head_only=head.method == "HEAD")
            return None
        if not self.places.take():
            await self._refuse(stream, Answer(status=503, body="there is no place left", headers=_LATER))
            return None
        guest: Guest | None = None
        try:
            verdict = await self._ask(judged)
            if isinstance(verdict, Admit):
                guest = self._guest(judged, verdict, stream, head, rest)
        finally:
            if guest is None:
                self.places.free()
        if isinstance(verdict, Deny):
            await self._refuse(stream, Answer(status=verdict.status, body=verdict.reason))
        return guest

    async def answer(self, guest: Guest, headers: Sequence[tuple[str, str]]) -> Connection | None:
        """Let the guest in, with `headers` in the answer; return its connection, or None if it has gone."""
        set_user_timeout(guest.stream, self._config.heartbeat)
        try:
            await guest.stream.send_all(await accept_opening(guest.key, guest.peer.subprotocol, headers))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        return Connection(
            Transport(guest.stream, unread=guest.rest),
            is_client=False,
            text=self._text,
            most=self._config.max_message_size,
            subprotocol=guest.peer.subprotocol,
        )

    def check_credentials(self) -> None:
        """Expand every entry of `server.auth` once, so that one that can't be used is found at the start.

        Raises:
            ConfigError: Entries that can't be used, each with its key path.
        """
        credentials = self._admission.credentials
        problems = () if credentials is None else credentials.problems()
        wrong = [Problem(path=path, reason=f"can't be used: {reason}") for path, reason in problems]
        if wrong:
            raise ConfigError(wrong)

    def _tell_trouble(self) -> None:
        """Log an entry of `server.auth` that can't be used; again only when that has changed."""
        credentials = self._admission.credentials
        trouble = None if credentials is None else credentials.trouble
        if trouble is not None and trouble != self._told:
            _log.error("an entry of server.auth admits nobody: %s", trouble)
        self._told = trouble

    async def turn_away(self, guest: Guest, reason: str) -> None:
        """Refuse a guest for a reason of this side, with 503."""
        await self._refuse(guest.stream, Answer(status=503, body=reason, headers=_LATER))

    async def _refuse(self, stream: trio.abc.Stream, answer: Answer, *, head_only: bool = False) -> None:
        self.refused += answer.status >= 400  # noqa: PLR2004 - where HTTP's errors begin
        await refuse(stream, answer, head_only=head_only)

    async def _ask(self, handshake: Handshake) -> Admit | Deny:
        """The application's word; an exception of its own costs this peer only."""
        if self._authenticate is None:
            await trio.lowlevel.checkpoint()
            return Admit()
        try:
            verdict = cast("object", await awaitable("authenticate", self._authenticate(handshake)))
        except CallableError as error:
            self._peer_log.error("%s; the peer was refused", error)
            return Deny(status=500, reason="not admitted")
        except Exception as error:  # noqa: BLE001 - the application's, whatever it is
            # Its text may hold what the peer asked with, and so a secret.
            where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
            kind = type(error).__name__
            self._peer_log.error(
                "the application's authenticate callable raised %s; the peer was refused\n%s", kind, where
            )
            return Deny(status=500, reason="not admitted")
        if not isinstance(verdict, Admit) and not isinstance(verdict, Deny):
            self._peer_log.error(
                "authenticate gave %s, not Admit or Deny; the peer was refused", type(verdict).__name__
            )
            return Deny(status=500, reason="not admitted")
        return verdict

    def _guest(
        self, handshake: Handshake, verdict: Admit, stream: trio.abc.Stream, head: Head, rest: bytes
    ) -> Guest:
        peer = Peer(
            address=handshake.address,
            subprotocol=self._admission.choose(handshake.subprotocols),
            path=handshake.path,
            headers=handshake.headers,
            identity=handshake.identity if verdict.identity is None else verdict.identity,
            may_send=verdict.may_send,
        )
        (key,) = head.values("sec-websocket-key")
        return Guest(handshake=handshake, peer=peer, stream=stream, key=key, rest=rest)
