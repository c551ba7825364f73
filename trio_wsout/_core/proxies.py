"""Which proxy an attempt goes through: the configured one, or what the environment says, as for curl and requests.

Rules (SPEC 5)
--------------
1. What is configured counts alone; ``none`` is no proxy.
2. Else the first variable that is there and not empty: for wss ``wss_proxy``, ``https_proxy``, ``all_proxy``, for ws
   ``ws_proxy``, ``http_proxy``, ``all_proxy``. A name in lower case wins over the one in upper case, also by being
   empty. ``HTTP_PROXY`` is not read in a CGI program: there a client sets it, by a header ``Proxy``.
3. A proxy without a scheme is an HTTP one.
4. No proxy for what ``no_proxy`` lists, between commas or blanks: ``*`` for everything; ``example.com`` or
   ``.example.com`` for that name and every one below it, ``*.example.com`` without the name itself; an address; a block
   of addresses, ``10.0.0.0/8``; each but the block may end in a port, and is then about that port. Names are not
   resolved. What makes no sense is passed over, for the list belongs to other programs, too.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from trio_wsout.config.addresses import parse_address, parse_host, parse_host_and_port, parse_proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_wsout.config.addresses import Proxy

__all__ = ["choose_proxy", "needs_no_proxy"]


def choose_proxy(
    configured: str | None, environ: Mapping[str, str], *, secure: bool, host: str, port: int
) -> Proxy | None:
    """Return the proxy to reach a host through; None: connect directly.

    Args:
        configured: `connect.proxy`; None: it is not set.
        environ: Variables by name.
        secure: Whether TLS is spoken with the host.
        host: As `parse_host` returns it.
        port: Of the host.

    Raises:
        ValueError: The variable is no proxy; the text names it, and holds nothing of its value.
    """
    if configured is not None:
        return parse_proxy(configured)
    schemes = ("wss", "https", "all") if secure else ("ws", "http", "all")
    found = ((name, _variable(environ, name)) for name in (f"{scheme}_proxy" for scheme in schemes))
    name, text = next(((name, text) for name, text in found if text), ("", ""))
    if not text or needs_no_proxy(host, port, _variable(environ, "no_proxy")):
        return None
    try:
        return parse_proxy(text if "://" in text else f"http://{text}")
    except ValueError as error:
        raise ValueError(f"the environment variable {name} is no proxy: {error}") from None


def _variable(environ: Mapping[str, str], name: str) -> str:
    upper = name.upper()
    names = (name,) if name == "http_proxy" and "REQUEST_METHOD" in environ else (name, upper)
    return next((environ[each].strip() for each in names if each in environ), "")


def needs_no_proxy(host: str, port: int, listed: str) -> bool:
    """Return whether a list of exceptions, as ``no_proxy`` holds it, has a host, as `parse_host` returns it."""
    return any(each == "*" or _covers(each, host, port) for each in listed.replace(",", " ").split())


def _covers(entry: str, host: str, port: int) -> bool:
    address = parse_address(host)
    try:
        if "/" in entry:
            return address is not None and address in ip_network(entry.translate(_NO_BRACKETS), strict=False)
        if entry.count(":") > 1 and not entry.startswith("["):
            name, only = parse_host(entry), None
        else:
            name, only = parse_host_and_port(entry.removeprefix("*.").removeprefix("."))
    except ValueError:
        return False
    if only not in {None, port}:
        return False
    if address is not None:
        return parse_address(name) == address
    name, host = name.removesuffix("."), host.removesuffix(".")
    return host.endswith(f".{name}") or (host == name and not entry.startswith("*."))


_NO_BRACKETS = str.maketrans("", "", "[]")
