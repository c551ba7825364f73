"""Hosts, URLs, proxies, origins and addresses to listen at (SPEC 1, 5 and 10).

Each parser raises ValueError, which names the allowed forms; no text holds a part of a proxy's user and password. Every host is
read by `parse_host`, wherever a configuration or a handshake names it.
"""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self
from urllib.parse import unquote, urlsplit, urlunsplit

import idna
from attrs import field, frozen

from trio_wsout.config.scalars import is_unicode

# -- hosts and ports ------------------------------------------------------------------------------------------------

_MOST_PORT = 65535
_NO_HOST = "the host is not a valid name or address"
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")
_OUTSIDE = re.compile(r"[^a-z0-9_.-]")
_LONGEST_LABEL, _LONGEST_NAME = 63, 253
"""Characters between dots, and of a name without the dot at its end (RFC 1035 section 2.3.4)."""
_LONGEST_TEXT = 1024
"""Characters of a host as it is written; a longer one is refused before time is spent on it."""
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._~-]+)?", re.ASCII)
_ENCODED_ZONE = re.compile("%25(?=.)")
_ALABEL = "xn--"
_JOINERS = "\u200c\u200d"


def parse_host(text: str) -> str:
    """Return a host in ASCII and lower case; an IPv6 address stands without brackets.

    A name is mapped as browsers do it (IDNA 2008 by UTS 46, nontransitional; WHATWG URL section 3.3), so that each
    spelling means the same host where it is resolved, certified, compared with an origin, or sent in a header. A dot
    at its end is kept. A host that ends in a number must be an IPv4 address. The zone of an IPv6 address follows
    ``%25``, as in URLs (RFC 6874), or ``%``, as everywhere else.
    """
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"{_NO_HOST}: it is too long")
    if ":" in text:
        return _ipv6(text)
    try:
        name = ".".join(map(_label, idna.uts46_remap(text, std3_rules=False).split(".")))
    except UnicodeError:  # idna's errors are such; their texts hold the name
        raise ValueError(f"{_NO_HOST}: a part of it is no name (IDNA)") from None
    outside = _OUTSIDE.search(name)
    if outside is not None:
        raise ValueError(f"{_NO_HOST}: it holds {outside[0]!r}")
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{_NO_HOST}: there is nothing between two of its dots, or before the first")
    if max(map(len, name.split("."))) > _LONGEST_LABEL or len(name.removesuffix(".")) > _LONGEST_NAME:
        raise ValueError(
            f"{_NO_HOST}: it has more than {_LONGEST_NAME} characters, or {_LONGEST_LABEL} between dots"
        )
    return _ipv4(name)


def _label(label: str) -> str:
    """Return a mapped label in ASCII. One that is an A-label already must be that of a valid label (UTS 46 section 4)."""
    if label.isascii() and not label.startswith(_ALABEL):
        return label
    decoded = label
    if label.startswith(_ALABEL):
        decoded = label.removeprefix(_ALABEL).encode("ascii").decode("punycode")
        if decoded.isascii() or idna.uts46_remap(decoded, std3_rules=False) != decoded or "." in decoded:
            raise UnicodeError
    idna.check_initial_combiner(decoded)
    idna.check_bidi(decoded)
    if not all(idna.valid_contextj(decoded, at) for at, each in enumerate(decoded) if each in _JOINERS):
        raise UnicodeError
    encoded = _ALABEL + decoded.encode("punycode").decode("ascii")
    if encoded != label and label.startswith(_ALABEL):
        raise UnicodeError
    return encoded


def _ipv4(name: str) -> str:
    """Return a name; if it ends in a number, the address as resolvers read it: ``127.1`` is ``127.0.0.1``."""
    number = name.removesuffix(".")
    if _NUMBER.fullmatch(number.rpartition(".")[2]) is None:
        return name
    try:
        return socket.inet_ntoa(socket.inet_aton(number))
    except OSError:
        raise ValueError(f"{_NO_HOST}: a host that ends in a number must be an IPv4 address") from None


def _ipv6(text: str) -> str:
    host = _ENCODED_ZONE.sub("%", text)
    try:
        if _ADDRESS.fullmatch(host):
            return str(IPv6Address(host))
    except ValueError:
        pass
    raise ValueError(f"{_NO_HOST}: it holds ':' and is no IPv6 address")


def parse_address(host: str) -> IPv4Address | IPv6Address | None:
    """Return a host's address, without the zone of an IPv6 address. None if the host is a name."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def parse_host_and_port(text: str, *, least: int = 1) -> tuple[str, int | None]:
    """Return the host and the port of ``host``, ``host:port`` or ``[v6]:port``; the port is None if there is none."""
    bracketed, host, port = _host_and_port(text)
    parsed = parse_host(host)
    if bracketed and parse_address(parsed) is None:
        raise ValueError(f"{_NO_HOST}: brackets are for IPv6 addresses")
    if port is None:
        return parsed, None
    if not (port.isascii() and port.isdigit()) or not least <= int(port[:6]) <= _MOST_PORT:
        raise ValueError(f"the port must be {least} to {_MOST_PORT}")
    return parsed, int(port)


def format_host_and_port(host: str, port: int | None) -> str:
    """Return the text of a parsed host and a port as HTTP has it: without a zone (RFC 6874 section 4)."""
    name = host.partition("%")[0]
    bracketed = f"[{name}]" if ":" in name else name
    return bracketed if port is None else f"{bracketed}:{port}"


def _host_and_port(text: str) -> tuple[bool, str, str | None]:
    """Return whether the host stands in brackets, the host, and the port, all as written."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or rest[:1] not in {"", ":"}:
            raise ValueError(f"{_NO_HOST}: its brackets are not closed, or something follows them")
        return True, host, rest[1:] if rest else None
    if text.count(":") > 1:
        raise ValueError(f"{_NO_HOST}: an IPv6 address stands in brackets, as in [::1]:8080")
    host, colon, port = text.partition(":")
    return False, host, port if colon else None


# -- remote endpoints -----------------------------------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def parse_url(text: str) -> str:
    """Return a remote endpoint as ``ws://`` or ``wss://`` (SPEC 1)."""
    if not text:
        raise ValueError(
            "is empty; write where to connect to, such as wss://example.com/events, or leave it out"
        )
    if _CONTROL.search(text):
        raise ValueError("a URL holds no spaces, line breaks or control characters")
    if not is_unicode(text):
        raise ValueError("a URL holds characters, and no halves of surrogate pairs")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("expected a URL such as wss://host:port/path; its host or port is wrong") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError("expected a URL that starts with ws://, wss://, http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("user and password don't belong into the URL; put them into auth.basic")
    if "#" in text:
        raise ValueError("a WebSocket URL has no fragment (#…)")
    if re.fullmatch(r"(?::[0-9]*)?", parts.netloc):
        raise ValueError("the URL has no host")
    parse_host_and_port(parts.netloc)
    return urlunsplit(parts._replace(scheme=_SCHEMES[parts.scheme]))


_PROXY_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_MOST_SOCKS = 255
"""Bytes of a user name, and of a password, in SOCKS5 (RFC 1929 section 2)."""


@frozen(kw_only=True)
class Proxy:
    """A proxy for outgoing connections."""

    scheme: str
    """http, https (TLS to the proxy), socks5 (names are resolved here) or socks5h (by the proxy)."""
    host: str
    """The host as `parse_host` returns it."""
    port: int
    username: str | None = field(repr=False)
    """None if the proxy needs no credentials."""
    password: str = field(repr=False)


def parse_proxy(text: str) -> Proxy | None:
    """Return the proxy that a URL names. None for ``none``, which means no proxy (SPEC 5)."""
    if text == "none":
        return None
    expected = (
        "expected http://host:port, https://host:port, socks5://host:port, socks5h://host:port, or none"
    )
    if _CONTROL.search(text) or not is_unicode(text):
        raise ValueError(expected)
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(expected) from None
    # GNOME's settings and Chrome say socks for SOCKS5 with names that the proxy resolves.
    scheme = "socks5h" if parts.scheme == "socks" else parts.scheme
    if scheme not in _PROXY_PORTS:
        raise ValueError(expected)
    if parts.path not in {"", "/"} or "?" in text or "#" in text:
        raise ValueError("a proxy's URL ends with its port; in a password / is written %2F, ? %3F and # %23")
    credentials, at, address = parts.netloc.rpartition("@")
    if not address:
        raise ValueError(expected)
    host, port = parse_host_and_port(address)
    username, password = _credentials(scheme, credentials) if at else (None, "")
    return Proxy(
        scheme=scheme,
        host=host,
        port=_PROXY_PORTS[scheme] if port is None else port,
        username=username,
        password=password,
    )


def _credentials(scheme: str, text: str) -> tuple[str | None, str]:
    """Return user and password, percent-decoded, of the text before the ``@``; (None, "") if both are empty."""
    try:
        username, password = (unquote(each, errors="strict") for each in text.partition(":")[::2])
    except UnicodeDecodeError:
        raise ValueError("user and password of a proxy, percent signs decoded, must be UTF-8") from None
    if re.search(r"[\x00-\x1f\x7f]", username + password):
        raise ValueError("user and password of a proxy hold no control characters (RFC 7617)")
    if scheme.startswith("socks"):
        if not all(each.isascii() and 0 < len(each) <= _MOST_SOCKS for each in (username, password)):
            raise ValueError(
                f"user and password of a SOCKS proxy need 1 to {_MOST_SOCKS} characters of ASCII each"
            )
    elif ":" in username:
        raise ValueError("the user of an HTTP proxy holds no colon (RFC 7617)")
    return (username, password) if text.strip(":") else (None, "")


# -- listeners ------------------------------------------------------------------------------------------------------


@frozen
class BindAddress:
    """A TCP address to listen on."""

    host: str | None
    """Name or address without brackets; None for all addresses."""
    port: int
    """0 to 65535; 0 for any free port."""


@frozen
class UnixAddress:
    """A Unix socket to listen on."""

    path: str
    """Path of the socket."""


def parse_bind(text: str) -> BindAddress | UnixAddress:
    """Return the address of ``host:port``, ``[v6]:port``, ``:port`` or ``unix:PATH`` (SPEC 10)."""
    expected = "expected host:port, [v6]:port, :port (all addresses) or unix:PATH"
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path and "\0" not in path and is_unicode(path):
            return UnixAddress(path)
        raise ValueError(expected)
    try:
        host, port = parse_host_and_port(f"localhost{text}" if text.startswith(":") else text, least=0)
    except ValueError as error:
        raise ValueError(f"{expected}; {error}") from None
    if port is None:
        raise ValueError(f"{expected}; there is no port")
    return BindAddress(None if text.startswith(":") else host, port)


_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@\\]+)", re.ASCII)
_ORIGIN_PORTS = {"http": 80, "https": 443}
_BELOW = "*."


@frozen
class Origin:
    """An origin (RFC 6454), or all origins with hosts below one."""

    scheme: str
    """In lower case."""
    host: str
    """The host as `parse_host` returns it."""
    port: int | None
    """None if it is neither written nor known from the scheme."""
    below: bool = False
    """Whether the origin stands for every host below its own, at any depth, but not for its own."""

    def admits(self, other: Self) -> bool:
        """Whether this origin stands for another, which names one host."""
        if not self.below:
            return self == other
        same = (self.scheme, self.port) == (other.scheme, other.port)
        return same and other.host.endswith(f".{self.host}")


def parse_origin(text: str) -> Origin:
    """Return an origin such as ``https://example.com``, with the scheme's own port if none is written."""
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError(
            "expected an origin such as https://example.com or http://localhost:8080, without a path"
        )
    scheme = match[1].lower()
    host, port = parse_host_and_port(match[2])
    return Origin(scheme, host, _ORIGIN_PORTS.get(scheme) if port is None else port)


def parse_allowed_origin(text: str) -> Origin | None:
    """Return the origins that an entry of ``allowed-origins`` admits (SPEC 10). None for ``*``, which admits all."""
    if text == "*":
        return None
    if text.lower() == "null":
        raise ValueError(
            "expected an origin such as https://example.com; any page can make itself null, so write * to admit it"
        )
    before, below, after = text.partition(f"://{_BELOW}")
    origin = parse_origin(f"{before}://{after}" if below else text)
    if origin.scheme in {"ws", "wss"}:
        raise ValueError("expected an origin, which is that of a page: it starts with http:// or https://")
    if below and (origin.scheme not in _ORIGIN_PORTS or parse_address(origin.host) is not None):
        raise ValueError("expected an origin; there are hosts below names only, as in https://*.example.com")
    return Origin(origin.scheme, origin.host, origin.port, below=bool(below))


def parse_path(text: str) -> str:
    """Return a path for a listener to serve (SPEC 10)."""
    if not text.startswith("/") or "?" in text or "#" in text or _CONTROL.search(text):
        raise ValueError("expected a path that starts with /, without ?, # and spaces")
    return text
