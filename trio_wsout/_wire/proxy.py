"""Tunnels through proxies: HTTP CONNECT by h11 (RFC 9110 section 9.3.6), SOCKS5 by python-socks (extra ``proxy``)."""

import os
from base64 import b64encode
from collections.abc import Callable
from http import HTTPStatus
from importlib.util import find_spec
from math import inf
from urllib.parse import urlsplit

import h11
import trio

from trio_wsout._core.disconnection import Cause
from trio_wsout._core.http_head import TLS_RECORDS, reason_phrase
from trio_wsout._core.proxies import choose_proxy
from trio_wsout._core.request import Request
from trio_wsout._wire.tcp import AttemptFailed, connect_trouble, transport_trouble
from trio_wsout._wire.tls import proxy_context, start_tls, tls_error_in
from trio_wsout.config.addresses import Proxy, format_host_and_port, parse_host_and_port
from trio_wsout.config.secret import Secret
from trio_wsout.config.sections import Config, Tls
from trio_wsout.errors import ConfigError, Problem

_MOST_HEAD = 16 * 1024
"""Bytes of a proxy's answer up to the end of its head at most, informational answers included."""
_CHUNK = 4096
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
"""OpenSSL's reasons if the answer is no TLS record."""
_NO_SOCKS = "python-socks, which speaks SOCKS, is not installed: pip install 'trio-wsout[proxy]'"


def check_proxy(config: Config) -> None:
    """Check that the proxy of a link can be used, so that a fault is found before the first attempt.

    If the host of `url` is known only at each attempt, nothing but a configured proxy can be checked. Raise
    ConfigError if the environment names a proxy that is none, or python-socks is missing.
    """
    for url in config.urls:
        _check_proxy_for(url, config)


def _check_proxy_for(url: str, config: Config) -> None:
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    wrong = ""
    try:
        host, port = parse_host_and_port(parts.netloc)
    except ValueError:
        if config.connect.proxy is None:
            return
        host, port = "", None
    try:
        proxy = _choose(config.connect.proxy, secure=secure, host=host, port=port or (443 if secure else 80))
        if proxy is not None and _is_socks(proxy) and find_spec("python_socks") is None:
            where = "the environment names" if config.connect.proxy is None else "is"
            wrong = f"{where} a SOCKS proxy, and {_NO_SOCKS}"
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise ConfigError([Problem(path="connect.proxy", reason=f"{wrong}; none keeps proxies out")])


def proxy_for(request: Request, configured: Secret | None) -> Proxy | None:
    """Return the proxy to use for this request; None if it needs none.

    Raise AttemptFailed if the proxy that the environment names can't be used.
    """
    try:
        return _choose(configured, secure=request.secure, host=request.host, port=request.port)
    except ValueError as error:
        raise _failed(str(error)) from None


def _choose(configured: Secret | None, *, secure: bool, host: str, port: int) -> Proxy | None:
    text = None if configured is None else configured.reveal()
    return choose_proxy(text, os.environ, secure=secure, host=host, port=port)


async def open_tunnel(
    proxy: Proxy, host: str, port: int, tls: Tls, wait: Callable[[str], object]
) -> trio.abc.Stream:
    """Open a stream to host and port through the proxy, or raise AttemptFailed; the caller bounds the time.

    The CA of `tls` may also certify an https proxy; `wait` is called before each step with its name.
    """
    if _is_socks(proxy):
        wait(f"SOCKS5 of {_address(proxy)}")
        return await _open_socks(proxy, host, port)
    wait(f"TCP to {_address(proxy)}")
    try:
        stream: trio.abc.Stream = await trio.open_tcp_stream(proxy.host, proxy.port)
    except (OSError, trio.BrokenResourceError) as error:
        raise _unreachable(proxy, connect_trouble(error)) from None
    try:
        if proxy.scheme == "https":
            wait(f"TLS with {_address(proxy)}")
            stream = await _start_tls(stream, proxy, tls)
        wait(f"the answer of {_address(proxy)} to CONNECT")
        await _connect(stream, proxy, host, port)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        await trio.aclose_forcefully(stream)
        raise _failed(f"the proxy broke off before it answered: {transport_trouble(error)}") from None
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _failed(detail: str) -> AttemptFailed:
    return AttemptFailed(Cause.PROXY, detail)


def _is_socks(proxy: Proxy) -> bool:
    return proxy.scheme.startswith("socks")


def _address(proxy: Proxy) -> str:
    return format_host_and_port(proxy.host, proxy.port)


def _unreachable(proxy: Proxy, why: str) -> AttemptFailed:
    return _failed(f"the proxy can't be reached at {_address(proxy)}: {why}")


# -- HTTP -----------------------------------------------------------------------------------------------------------


async def _start_tls(stream: trio.abc.Stream, proxy: Proxy, tls: Tls) -> trio.SSLStream[trio.abc.Stream]:
    server_name = proxy.host.partition("%")[0].removesuffix(".")
    peer = f"the proxy {_address(proxy)}"
    try:
        return await start_tls(stream, lambda: proxy_context(tls), server_name, peer=peer, cause=Cause.PROXY)
    except trio.BrokenResourceError as error:
        inner = tls_error_in(error)
        plain = inner is not None and inner.reason in _NO_TLS
        hint = "; if it speaks no TLS, write http:// for it" if plain else ""
        raise _failed(f"the TLS handshake with {peer} failed: {transport_trouble(error)}{hint}") from None


async def _connect(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Ask for the tunnel; read the answer to that and nothing behind it, however it is cut."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD)
    target = format_host_and_port(host, port)
    headers = [("Host", target)]
    if proxy.username is not None:
        pair = b64encode(f"{proxy.username}:{proxy.password}".encode()).decode("ascii")
        headers.append(("Proxy-Authorization", f"Basic {pair}"))
    asked = parser.send(h11.Request(method="CONNECT", target=target, headers=headers))
    await stream.send_all((asked or b"") + (parser.send(h11.EndOfMessage()) or b""))
    came, first = 0, b""
    while chunk := bytes(await stream.receive_some(min(_CHUNK, _MOST_HEAD - came))):
        came += len(chunk)
        first = first or chunk[:1]
        try:
            parser.receive_data(chunk)
            while isinstance(event := parser.next_event(), h11.InformationalResponse):
                pass  # RFC 9110 section 15.2: any number of them may come first
        except h11.RemoteProtocolError:
            hint = "; if it speaks TLS, write https:// for it" if first in TLS_RECORDS else ""
            raise _failed(f"the proxy's answer is not HTTP/1.1{hint}") from None
        if isinstance(event, h11.Response):
            _judge(event.status_code, bytes(parser.trailing_data[0]), proxy)
            return
        if came == _MOST_HEAD:
            raise _failed(f"the proxy's answer has a head of more than {_MOST_HEAD} bytes")
    raise _failed(f"the proxy hung up {'in the middle of its' if came else 'without an'} answer")


def _judge(status: int, rest: bytes, proxy: Proxy) -> None:
    if status // 100 != HTTPStatus.OK // 100:
        answer = f"{status} {reason_phrase(status)}".rstrip()
        advice = ""
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            known = proxy.username is not None
            advice = (
                "; it does not know this user and password"
                if known
                else "; write http://user:password@host:port"
            )
        raise _failed(f"the proxy refused the tunnel: {answer}{advice}")
    if rest:
        # In TLS and in HTTP the server speaks second. So this is a web page, or another kind of server.
        raise _failed(
            f"the proxy answered {status} and went on by itself with {len(rest)} bytes: it opened no tunnel to a WebSocket"
        )


# -- SOCKS ----------------------------------------------------------------------------------------------------------


async def _open_socks(proxy: Proxy, host: str, port: int) -> trio.abc.Stream:
    try:
        import python_socks  # noqa: PLC0415 - an optional dependency
        from python_socks.async_.trio import Proxy as Socks  # noqa: PLC0415
    except ImportError:
        raise _failed(_NO_SOCKS) from None
    if proxy.scheme == "socks5":
        host = await _resolved(host, port)
    socks = Socks(
        python_socks.ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        username=proxy.username,
        password=proxy.password or None,
        rdns=True,
    )
    try:
        # The library's own timeout must not cut in before the attempt's deadline.
        return trio.SocketStream(await socks.connect(host, port, timeout=inf))
    except python_socks.ProxyConnectionError as error:
        known = error.errno is not None and error.errno > 0  # errors of names have numbers of their own
        why = os.strerror(error.errno or 0) if known else "its name can't be resolved"
        trouble = _unreachable(proxy, why)
    except python_socks.ProxyError as error:
        wrong = "SOCKS version" in str(error)
        detail = (
            "it does not speak SOCKS5; if it is an HTTP proxy, write http:// for it" if wrong else str(error)
        )
        trouble = _failed(f"the proxy refused the tunnel: {detail}")
    except Exception as error:  # noqa: BLE001 - hostile bytes make python-socks raise anything
        trouble = _failed(f"the proxy broke off before it answered: {transport_trouble(error)}")
    raise trouble


async def _resolved(host: str, port: int) -> str:
    """Return the first address of a host, for ``socks5``; with ``socks5h`` the proxy resolves names."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except OSError as error:
        why = connect_trouble(error)
        raise _failed(f"{host}: {why}; with socks5h:// the proxy resolves names") from None
    return str(found[0][4][0])
