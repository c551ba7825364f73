"""Judges the opening handshakes of peers: each is let in, or refused with a status (SPEC 3 and 10; RFC 6455 section 4.2).

Rules, in the order in which they are applied
---------------------------------------------
1. A plain ``GET /healthz`` is answered 200, so that monitoring needs no WebSocket.
2. A target without a path is 400. If a path is configured, any other is 404. A method other than GET is 405.
3. Without ``Upgrade: websocket`` or ``Connection: upgrade`` it is 426. An HTTP version other than 1.1 is 400. A version of
   the protocol other than 13 is 426, with the version that is spoken.
4. A body, a key that is missing, doubled or not 16 bytes of base64, or a malformed list of subprotocols is 400.
5. If origins are listed, there must be exactly one Origin, and its scheme, host and port must be listed, else 403. Scheme and
   host are compared without case, and a default port equals none; ``https://*.HOST`` lists every host below that one, and
   ``*`` lists all. If there is no Origin, Sec-WebSocket-Origin counts, which was its name before RFC 6455.
6. With `server.auth` the peer must show credentials that are known (`credentials`), else 401.
7. After these rules come `max-connections` (503) and the application's `authenticate`; neither is checked here.
8. An admission may end at a time (`Admit.until`). If it is over when it is given, the peer is refused with 401. Else the wall
   clock is read once, then and at each renewal, and what is left of the time counts on the caller's clock: a wall clock that
   is set meanwhile ends no admission earlier or later.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import inf
from urllib.parse import parse_qsl, unquote_to_bytes

from attrs import field, frozen

from trio_wsout._core.credentials import Credentials
from trio_wsout._core.http_head import Fields
from trio_wsout.config.addresses import Origin, parse_allowed_origin, parse_origin
from trio_wsout.config.http_grammar import is_token
from trio_wsout.config.secret import repr_headers
from trio_wsout.config.sections import Cursor, Server
from trio_wsout.config.templates import Resolve, no_value

_VERSION = "13"
_URL = re.compile("(https?|wss?)://[^/?]*", re.IGNORECASE)
_KEY_BYTES = 16
_UPGRADE = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", _VERSION))
_UNKNOWN = "show credentials that are known here"
_FIRST_DENIAL, _LAST_DENIAL = 400, 599
_YEAR_9999 = 253_402_300_800
"""The end of the year 9999 in seconds since 1970; a greater number was meant in another unit."""
RETRY_AFTER = 1
"""Seconds that a peer is asked to wait when `max-connections` is reached."""


@frozen(kw_only=True)
class Handshake:
    """The handshake of a peer, for `authenticate`."""

    address: str
    """``host:port`` of the peer; ``unix`` for a Unix socket."""
    path: str
    """The path asked for, percent signs as sent."""
    query: str = field(default="", repr=False)
    """The query, without the question mark, as sent; it may hold secrets."""
    headers: Mapping[str, str] = field(factory=dict[str, str], repr=repr_headers)
    """Header values by lower-case name; a name that came several times has its values joined by commas."""
    subprotocols: tuple[str, ...] = ()
    """The subprotocols that the peer offers, in its order."""
    cursor: str | None = field(default=None, repr=False)
    """The cursor from which the peer wants to resume; None if it did not ask to resume."""
    identity: str | None = None
    """The peer's identity by `server.auth`; None without that section."""


@frozen(kw_only=True)
class Admit:
    """Let the peer in."""

    identity: str | None = None
    """The peer's identity, shown in `Peer`; None for the identity by `server.auth`, if it has one."""
    may_send: bool = True
    """Whether its messages are passed on or received (modes relay and server-input); if not, they are dropped and counted,
    and its pings are answered all the same."""
    until: float | None = None
    """The time at which the peer is closed with 4401, in seconds since 1970, as in the claim ``exp`` of a token; None for
    never. `Output.renew` changes it. A peer whose time is over already is refused with 401."""

    def __attrs_post_init__(self) -> None:
        check_until(self.until)


def check_until(until: object) -> None:
    """Raise ValueError if `until` is neither a time in seconds since 1970 nor None."""
    if until is None:
        return
    if isinstance(until, bool) or not isinstance(until, int | float):
        raise ValueError(f"until is a number of seconds since 1970, as time.time() returns it, not {until!r}")
    if not abs(until) < _YEAR_9999:
        advice = "; a time in milliseconds has to be divided by 1000" if until > 0 and until != inf else ""
        raise ValueError(
            f"until is a number of seconds since 1970, up to the year 9999, not {until!r}{advice}"
        )


def expires_at(until: float | None, now: float, wall: float) -> float | None:
    """Return when an admission ends, on the clock that shows `now`; None for never (rule 8).

    Args:
        until: The end in seconds since 1970; None for never.
        now: The present time on the caller's clock.
        wall: The present time in seconds since 1970.
    """
    return None if until is None else now + (until - wall)


@frozen(kw_only=True)
class Deny:
    """Refuse the peer."""

    status: int = field(default=401)
    """HTTP status, 400 to 599."""
    reason: str = "not admitted"
    """One line that the peer reads."""

    def __attrs_post_init__(self) -> None:
        if not _FIRST_DENIAL <= self.status <= _LAST_DENIAL:
            raise ValueError(f"status of Deny is 400 to 599, not {self.status}")
        if not self.reason.isprintable():
            raise ValueError("reason of Deny is one printable line")


@frozen(kw_only=True)
class Head(Fields):
    """The head of an HTTP request."""

    method: str
    target: str = field(repr=False)
    """A path and its query, or a whole URL (RFC 9112 section 3.2); it may hold secrets."""
    version: str

    @property
    def path(self) -> str:
        """The path of the target, percent signs as sent; empty if it has none."""
        return self._path_and_query.partition("?")[0]

    @property
    def query(self) -> str:
        """The query of the target, without the question mark; empty if it has none."""
        return self._path_and_query.partition("?")[2]

    @property
    def wants_websocket(self) -> bool:
        """Whether ``Upgrade`` has ``websocket`` in its list."""
        return "websocket" in self.tokens("upgrade", lower=True)

    @property
    def _path_and_query(self) -> str:
        url = _URL.match(self.target)
        rest = self.target[url.end() :] if url else self.target
        return f"/{rest}" if url and not rest.startswith("/") else rest if rest.startswith("/") else ""


@frozen(kw_only=True)
class Response:
    """An HTTP response other than 101."""

    status: int
    body: str
    """One line."""
    headers: Sequence[tuple[str, str]] = field(default=())


class Admission:
    """Judges the handshakes of one listener."""

    def __init__(
        self,
        server: Server,
        cursor: Cursor | None = None,
        subprotocols: Sequence[str] = (),
        *,
        resolve: Resolve | None = None,
    ) -> None:
        """Judge by the `server` section, and read the cursors that `cursor` names (None if no peer can resume).

        The `subprotocols` are those that are spoken, the best first. `resolve` returns the value of a ``${…}`` of `server.auth`.
        """
        self._path = None if server.path is None else unquote_to_bytes(server.path)
        listed = ("*",) if server.allowed_origins is None else server.allowed_origins
        allowed = [parse_allowed_origin(each) for each in listed]
        self._origins = None if None in allowed else [each for each in allowed if each is not None]
        self.credentials = None if server.auth is None else Credentials(server.auth, resolve or no_value)
        """The credentials that peers must show; None if they need none."""
        self._subprotocols = subprotocols
        self._header = cursor.header_name if cursor else None
        self._parameter = cursor.query_parameter if cursor else None

    def judge(self, head: Head, address: str) -> Handshake | Response:
        """Return the handshake of a request by rules 1 to 6, or the response that ends it."""
        if head.path == "/healthz" and head.method in ("GET", "HEAD") and not head.wants_websocket:
            return Response(status=200, body="ok")
        if refusal := self._misdirected(head) or self._malformed(head) or self._foreign(head):
            return refusal
        identity: str | None = None
        if self.credentials is not None:
            identity = self.credentials.identity_of(head.values("authorization"), head.query)
            if identity is None:
                return Response(status=401, body=_UNKNOWN, headers=self.credentials.challenges)
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

    def choose_subprotocol(self, offered: Sequence[str]) -> str | None:
        """Return the first subprotocol spoken here that the peer offers; None if there is none."""
        return next((name for name in self._subprotocols if name in offered), None)

    def _misdirected(self, head: Head) -> Response | None:
        if not head.path:
            return Response(status=400, body="the request's target must be a path or a URL")
        if self._path is not None and unquote_to_bytes(head.path) != self._path:
            return Response(status=404, body="nothing is served at this path")
        if head.method != "GET":
            return Response(status=405, body="a WebSocket handshake is a GET", headers=[("Allow", "GET")])
        return None

    def _malformed(self, head: Head) -> Response | None:
        if not (head.wants_websocket and "upgrade" in head.tokens("connection", lower=True)):
            return Response(status=426, body="this is a WebSocket endpoint", headers=_UPGRADE)
        if head.version != "1.1":
            return Response(status=400, body="a WebSocket handshake needs HTTP/1.1")
        if head.values("sec-websocket-version") != [_VERSION]:
            return Response(status=426, body="only version 13 is spoken here", headers=_UPGRADE)
        if head.values("content-length") not in ([], ["0"]) or head.values("transfer-encoding"):
            return Response(status=400, body="a WebSocket handshake has no body")
        if not _is_key(head.values("sec-websocket-key")):
            return Response(status=400, body="Sec-WebSocket-Key must be there once, 16 bytes in base64")
        if not all(is_token(name) for name in head.tokens("sec-websocket-protocol")):
            return Response(status=400, body="Sec-WebSocket-Protocol is malformed")
        return None

    def _foreign(self, head: Head) -> Response | None:
        if self._origins is None:
            return None
        given = head.values("origin") or head.values("sec-websocket-origin")
        origin = _origin(given[0]) if len(given) == 1 else None
        if origin is not None and any(each.admits(origin) for each in self._origins):
            return None
        return Response(status=403, body="this origin is not allowed")

    def _cursor(self, headers: Mapping[str, str], query: str) -> str | None:
        """Return the cursor from which the peer wants to resume; None if it names none, or an empty one."""
        named = headers.get(self._header.lower()) if self._header is not None else None
        if named or self._parameter is None:
            return named or None
        return next((value for name, value in parse_qsl(query) if name == self._parameter), None)


def _is_key(values: Sequence[str]) -> bool:
    with suppress(ValueError):
        return len(values) == 1 and len(base64.b64decode(values[0], validate=True)) == _KEY_BYTES
    return False


def _origin(text: str) -> Origin | None:
    """Return the origin that a peer names; None if it names none, as ``null`` does."""
    with suppress(ValueError):
        return parse_origin(text.strip())
    return None
