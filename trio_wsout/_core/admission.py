"""An opening handshake to: let in, or refused with status and reason (SPEC 10; RFC 6455 section 4.2).

Rules, in the order in which they are looked at
-----------------------------------------------
0. A plain ``GET /healthz`` is answered 200, so that those who watch over it need no WebSocket.
1. The target must have a path: 400. Where a path is configured, another is 404. Another method than
   GET is 405.
2. No ``Upgrade: websocket`` or no ``Connection: upgrade``: 426. Another version than HTTP/1.1: 400.
   Another version of the protocol than 13: 426 with it.
3. A body, a missing or doubled key, or a key that is not 16 bytes of base64: 400.
4. With allowed origins: exactly one Origin, whose scheme, host and port are on the list, else 403;
   scheme and host are compared without case, a default port is the same as none; ``https://*.HOST`` is every
   host below that one; ``*`` allows all. Where there is no Origin, Sec-WebSocket-Origin stands for it, its name
   before RFC 6455.
5. With `server.auth`: what the peer shows must be known (`credentials`), else 401.
6. Places (`max-connections`) are taken after all that, and before the application is asked: 503.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_to_bytes

from attrs import field, frozen

from trio_wsout._core.credentials import Credentials
from trio_wsout._core.handshake import Handshake
from trio_wsout._core.http_head import Fields
from trio_wsout.config.addresses import Origin, parse_allowed_origin, parse_origin
from trio_wsout.config.http_grammar import is_token
from trio_wsout.config.templates import no_value

if TYPE_CHECKING:
    from trio_wsout.config.sections import Config
    from trio_wsout.config.templates import Resolve

__all__ = ["Admission", "Answer", "Head", "Places"]

_VERSION = "13"
_SCHEMES = {"http", "https", "ws", "wss"}
_KEY_BYTES = 16
_UPGRADE = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", _VERSION))
_UNKNOWN = "show credentials that are known here"
RETRY_AFTER = 1
"""Seconds that a peer is asked to wait when there is no place."""


@frozen(kw_only=True)
class Head(Fields):
    """The head of an HTTP request."""

    method: str
    target: str = field(repr=False)
    """A path and its query, or a whole URL (RFC 9112 section 3.2); it may hold secrets."""
    version: str

    @property
    def path(self) -> str:
        """The path of the target, percent signs as sent; empty: it has none."""
        return self._path_and_query.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the target's question mark."""
        return self._path_and_query.partition("?")[2]

    @property
    def _path_and_query(self) -> str:
        scheme, separator, rest = self.target.partition("://")
        if not separator or scheme.lower() not in _SCHEMES:
            return self.target if self.target.startswith("/") else ""
        authority = rest.partition("/")[0].partition("?")[0]
        rest = rest.removeprefix(authority)
        return rest if rest.startswith("/") else f"/{rest}"


@frozen(kw_only=True)
class Answer:
    """An HTTP answer other than 101."""

    status: int
    body: str
    """One line."""
    headers: Sequence[tuple[str, str]] = field(default=())


class Places:
    """Counts who is in: at most `most` (None: no bound) at a time."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self.taken = 0

    def take(self) -> bool:
        """Take a place; False: there is none."""
        if self._most is not None and self.taken >= self._most:
            return False
        self.taken += 1
        return True

    def free(self) -> None:
        """Give a place back."""
        self.taken -= 1


class Admission:
    """Judges the handshakes of one listener."""

    credentials: Credentials | None
    """What peers must show; None if anybody may come in."""

    def __init__(self, config: Config, resolve: Resolve | None = None) -> None:
        """Judge by the `server` section, and by the names of `cursor` where there is one.

        Args:
            config: Its `server` must be set.
            resolve: Returns the value of a ``${…}`` of `server.auth`; None if no template has one.
        """
        server = config.server
        assert server is not None  # noqa: S101 - the rules see to it
        self._path = None if server.path is None else unquote_to_bytes(server.path)
        written = ("*",) if server.allowed_origins is None else server.allowed_origins
        allowed = [parse_allowed_origin(each) for each in written]
        self._origins = None if None in allowed else [each for each in allowed if each is not None]
        self.credentials = None if server.auth is None else Credentials(server.auth, resolve or no_value)
        self._ours = config.subprotocols
        self._header = config.cursor.header_name if config.cursor else None
        self._parameter = config.cursor.query_parameter if config.cursor else None

    def judge(self, head: Head, address: str) -> Handshake | Answer:
        """What becomes of a request, places and the application aside."""
        if head.path == "/healthz" and head.method in ("GET", "HEAD") and not _wants_websocket(head):
            return Answer(status=200, body="ok")
        refusal = self._misdirected(head) or self._malformed(head) or self._foreign(head)
        if refusal is not None:
            return refusal
        identity: str | None = None
        if self.credentials is not None:
            identity = self.credentials.identity_of(head.values("authorization"), head.query)
            if identity is None:
                return Answer(status=401, body=_UNKNOWN, headers=self.credentials.challenges)
        headers: dict[str, str] = {}
        for name, value in head.headers:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Handshake(
            address=address,
            path=head.path,
            query=head.query,
            headers=headers,
            subprotocols=tuple(head.tokens("sec-websocket-protocol")),
            cursor=self._cursor(headers, head.query),
            identity=identity,
        )

    def choose(self, offered: Sequence[str]) -> str | None:
        """The first of our subprotocols that the peer offers; None: none."""
        return next((name for name in self._ours if name in offered), None)

    def _misdirected(self, head: Head) -> Answer | None:
        if not head.path:
            return Answer(status=400, body="the request's target must be a path or a URL")
        if self._path is not None and unquote_to_bytes(head.path) != self._path:
            return Answer(status=404, body="nothing is served at this path")
        if head.method != "GET":
            return Answer(status=405, body="a WebSocket handshake is a GET", headers=[("Allow", "GET")])
        return None

    def _malformed(self, head: Head) -> Answer | None:
        if not (_wants_websocket(head) and "upgrade" in _lower(head.tokens("connection"))):
            return Answer(status=426, body="this is a WebSocket endpoint", headers=_UPGRADE)
        if head.version != "1.1":
            return Answer(status=400, body="a WebSocket handshake needs HTTP/1.1")
        if head.values("sec-websocket-version") != [_VERSION]:
            return Answer(status=426, body="only version 13 is spoken here", headers=_UPGRADE)
        if head.values("content-length") not in ([], ["0"]) or head.values("transfer-encoding"):
            return Answer(status=400, body="a WebSocket handshake has no body")
        if not _is_key(head.values("sec-websocket-key")):
            return Answer(status=400, body="Sec-WebSocket-Key must be there once, 16 bytes in base64")
        if not all(is_token(name) for name in head.tokens("sec-websocket-protocol")):
            return Answer(status=400, body="Sec-WebSocket-Protocol is malformed")
        return None

    def _foreign(self, head: Head) -> Answer | None:
        if self._origins is None:
            return None
        given = head.values("origin") or head.values("sec-websocket-origin")
        origin = _origin(given[0]) if len(given) == 1 else None
        if origin is not None and any(each.admits(origin) for each in self._origins):
            return None
        return Answer(status=403, body="this origin is not allowed")

    def _cursor(self, headers: Mapping[str, str], query: str) -> str | None:
        """Where the peer wants to resume; an empty cursor is none."""
        named = headers.get(self._header.lower()) if self._header is not None else None
        if named or self._parameter is None:
            return named or None
        return next((value for name, value in parse_qsl(query) if name == self._parameter), None)


def _wants_websocket(head: Head) -> bool:
    return "websocket" in _lower(head.tokens("upgrade"))


def _lower(texts: Iterable[str]) -> list[str]:
    return [text.lower() for text in texts]


def _is_key(values: Sequence[str]) -> bool:
    if len(values) != 1:
        return False
    try:
        return len(base64.b64decode(values[0], validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def _origin(text: str) -> Origin | None:
    """The origin that a peer names; None: it names none, as ``null`` does."""
    try:
        return parse_origin(text.strip())
    except ValueError:
        return None
