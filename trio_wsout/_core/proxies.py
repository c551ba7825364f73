"""Chooses the proxy of an attempt: the configured one, or that of the environment, as curl and requests do.

Rules (SPEC 5)
--------------
1. If `connect.proxy` is set, it alone counts; ``none`` is no proxy.
2. Otherwise the first variable that is set and not empty counts: for wss ``wss_proxy``, ``https_proxy``, ``all_proxy``, for ws
   ``ws_proxy``, ``http_proxy``, ``all_proxy``. If a name is set in lower case, even to nothing, its upper case is ignored.
   ``HTTP_PROXY`` is not read in a CGI program: there a client can set it, by a header ``Proxy``.
3. A proxy without a scheme is an HTTP one.
4. Hosts that ``no_proxy`` lists, separated by commas or blanks, are reached without a proxy: ``*`` is everything;
   ``example.com`` or ``.example.com`` is that name and every name below it, ``*.example.com`` only those below; an address; a
   block of addresses, ``10.0.0.0/8``. All but a block may end in a port, and then count for that port only. Names are not
   resolved. Entries that make no sense are skipped, for the list belongs to other programs, too.
"""

from collections.abc import Mapping
from ipaddress import ip_network

from trio_wsout.config.addresses import Proxy, parse_address, parse_host, parse_host_and_port, parse_proxy


def choose_proxy(
    configured: str | None, environ: Mapping[str, str], *, secure: bool, host: str, port: int
) -> Proxy | None:
    """Return the proxy through which to reach a host, which is as `parse_host` returns it; None if none is used.

    `configured` is `connect.proxy`. A variable that is no proxy is a ValueError that names it, and holds nothing of its value.
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
    """Return whether a list of the form of ``no_proxy`` covers a host, which is as `parse_host` returns it."""
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
