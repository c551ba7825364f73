"""From a request to an open connection: TCP or proxy, TLS, opening handshake (SPEC 5; RFC 6455 section 4.1)."""

import logging
import os
import ssl
from collections.abc import Awaitable, Callable

import trio
from attrs import define, field

from trio_wsout._core.callables import CallableError, awaitable
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.request import Request
from trio_wsout._wire.connection import Connection
from trio_wsout._wire.decoder import Decoder
from trio_wsout._wire.frames import masked_frame
from trio_wsout._wire.opening import ask_for_opening
from trio_wsout._wire.proxy import open_tunnel, proxy_for
from trio_wsout._wire.tcp import (
    AttemptFailed,
    connect_trouble,
    set_user_timeout,
    system_gave_up,
    transport_trouble,
)
from trio_wsout._wire.tls import client_context, start_tls, tls_error_in
from trio_wsout.config.secret import Secret
from trio_wsout.config.sections import Heartbeat, Tls

_log = logging.getLogger("trio_wsout")

_NO_RECORD = "WRONG_VERSION_NUMBER"
"""OpenSSL's reason if the answer is no TLS record."""


@define(eq=False)
class Dialer:
    """Opens the connections of one link."""

    _tls: Tls
    _proxy: Secret | None
    """`connect.proxy`; None if the environment names it."""
    _heartbeat: Heartbeat | None
    _max_message_size: int
    _open_stream: Callable[[str, int], Awaitable[trio.abc.Stream]] | None
    """The application's own way to open a stream to host and port; None if it has none."""
    address: str = field(default="", init=False)
    """``host:port`` of the latest attempt."""
    stage: str = field(default="", init=False)
    """The step that the attempt under way waits for, in words; the error at the deadline names it."""

    async def dial(self, make_request: Callable[[], Awaitable[Request]], deadline: float) -> Connection:
        """Open a connection, or raise AttemptFailed.

        `make_request` asks the application's callables. The caller bounds the time; `deadline` is when it gives up, unless
        a scope does so earlier.
        """
        self.stage = "credentials from the application"
        request = await make_request()
        self.address = request.authority
        stream = await self._open_transport(request)
        try:
            if request.secure:
                stream = await self._start_tls(stream, request)
            set_user_timeout(stream, self._heartbeat)
            return await self._shake_hands(stream, request, deadline)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    async def _open_transport(self, request: Request) -> trio.abc.Stream:
        host, port = request.host, request.port

        def wait(what: str) -> None:
            self.stage = f"the proxy's tunnel to {host}:{port} ({what})"

        try:
            if self._open_stream is not None:
                self.stage = f"a stream to {host}:{port}"
                return await self._open_custom(self._open_stream, host, port)
            proxy = proxy_for(request, self._proxy)
            if proxy is not None:
                return await open_tunnel(proxy, host, port, self._tls, wait)
            self.stage = f"a TCP connection to {host}:{port}"
            return await trio.open_tcp_stream(host, port)
        except (OSError, trio.BrokenResourceError) as error:
            detail = f"can't connect to {host}:{port}: {connect_trouble(error)}"
            raise AttemptFailed(Cause.UNREACHABLE, detail) from None

    async def _open_custom(
        self, open_stream: Callable[[str, int], Awaitable[trio.abc.Stream]], host: str, port: int
    ) -> trio.abc.Stream:
        try:
            stream = await awaitable("open_stream", open_stream(host, port))
            if all(hasattr(stream, name) for name in ("send_all", "receive_some", "aclose")):
                return stream
            trouble = "returned no stream"
        except CallableError as error:
            raise AttemptFailed(Cause.CALLABLE, str(error)) from None
        except Exception as error:  # noqa: BLE001 - the application's, whatever it is
            code = error.errno if isinstance(error, OSError) else None
            # Errors of names have numbers of their own, below 0.
            told = f" ({os.strerror(code)})" if code and code > 0 else ""
            trouble = f"raised {type(error).__name__}{told}"
        # Raised here, where the application's exception is no context: its text may hold a secret.
        detail = f"can't connect to {host}:{port}: the open_stream callable {trouble}"
        raise AttemptFailed(Cause.UNREACHABLE, detail)

    async def _start_tls(self, stream: trio.abc.Stream, request: Request) -> trio.SSLStream[trio.abc.Stream]:
        self.stage = f"the TLS handshake with {request.host}"
        if self._tls.insecure_skip_verify:
            _log.warning("tls.insecure-skip-verify is on: the server's certificate is not checked")

        def make_context() -> ssl.SSLContext:
            return client_context(self._tls, request.key_password)

        try:
            return await start_tls(
                stream, make_context, request.server_name, peer=request.host, cause=Cause.TLS
            )
        except trio.BrokenResourceError as error:
            raise AttemptFailed(Cause.TLS, _tls_trouble(request, error)) from None

    async def _shake_hands(self, stream: trio.abc.Stream, request: Request, deadline: float) -> Connection:
        self.stage = "the server's answer to the opening handshake"
        deadline = min(deadline, trio.current_effective_deadline())
        outcome = await ask_for_opening(stream, request, deadline)
        if isinstance(outcome, Disconnection):
            raise AttemptFailed(
                outcome.cause, outcome.detail, status=outcome.status, retry_after=outcome.retry_after
            )
        return Connection(
            stream,
            Decoder(masked=False, most=self._max_message_size),
            masked_frame,
            unread=outcome.rest,
            received_bytes=outcome.received,
            subprotocol=outcome.subprotocol,
            secrets=request.secrets,
        )


def _tls_trouble(request: Request, error: BaseException) -> str:
    """Return why the TLS handshake failed, in words."""
    inner, host = tls_error_in(error), request.host
    if inner is not None and inner.reason == _NO_RECORD:
        return f"{host}:{request.port} does not speak TLS: write ws:// in url, or the port that does"
    hung_up = inner is None or isinstance(inner, ssl.SSLEOFError)
    hint = "; if it speaks no TLS, write ws:// in url" if hung_up and not system_gave_up(error) else ""
    return f"the TLS handshake with {host} failed: {transport_trouble(error)}{hint}"
