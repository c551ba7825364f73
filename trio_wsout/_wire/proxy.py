"""Tunnels through HTTP CONNECT and SOCKS5 proxies, by python-socks (extra ``proxy``; SPEC 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks the second

import trio

if TYPE_CHECKING:
    from trio_wsout._core.request import Request

__all__ = ["ProxyTrouble", "open_tunnel", "proxy_for"]

NO_PROXY = "none"
"""What `connect.proxy` holds to keep the environment's proxies out."""


class ProxyTrouble(Exception):  # noqa: N818 - never leaves the package
    """The tunnel could not be opened; the text is for people and holds no credentials."""


def proxy_for(request: Request, configured: str | None) -> str | None:
    """The proxy URL to use for this request; None: connect directly.

    Without a configured one the environment decides, as for any HTTP client: ``wss_proxy`` or
    ``https_proxy`` for wss, ``ws_proxy`` or ``http_proxy`` for ws, then ``all_proxy``; hosts in
    ``no_proxy`` are reached directly.
    """
    if configured is not None:
        return None if configured == NO_PROXY else configured
    proxies = getproxies_environment()
    names = ("wss", "https", "all") if request.secure else ("ws", "http", "all")
    found = next((proxies[name] for name in names if proxies.get(name)), None)
    if found is None or proxy_bypass_environment(request.host, proxies):
        return None
    return found if "://" in found else f"http://{found}"


async def open_tunnel(proxy: str, host: str, port: int) -> trio.abc.Stream:
    """Open a stream to host:port through the proxy; the caller bounds the time.

    Raises:
        ProxyTrouble: The proxy can't be reached, or refused, or python-socks is not installed.
    """
    try:
        import python_socks  # noqa: PLC0415 - an optional dependency
        from python_socks.async_.trio import Proxy  # noqa: PLC0415
    except ImportError:
        message = "a proxy is set, but python-socks is not installed: pip install 'trio-wsout[proxy]'"
        raise ProxyTrouble(message) from None
    try:
        # The library's own timeout must not cut in before the attempt's deadline.
        socket = await Proxy.from_url(proxy).connect(host, port, timeout=float("inf"))
    except python_socks.ProxyConnectionError:
        message = "the proxy can't be reached"
        raise ProxyTrouble(message) from None
    except python_socks.ProxyError as error:
        code = f" ({error.error_code})" if error.error_code is not None else ""
        message = f"the proxy refused the tunnel{code}"
        raise ProxyTrouble(message) from None
    except (ValueError, OSError, trio.BrokenResourceError):
        message = "the proxy's URL is wrong, or the proxy broke the tunnel"
        raise ProxyTrouble(message) from None
    return trio.SocketStream(socket)
