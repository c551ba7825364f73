"""Opening handshakes judged: a table of requests, and laws that hold for every one."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st
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
from trio_wsout._core.received import Peer
from trio_wsout._core.request import build_request
from trio_wsout._wire.accept import Acceptor
from trio_wsout._wire.peer_log import PeerLog
from trio_wsout.config import Config, Cursor, Mode, Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The key of RFC 6455 section 1.3."""
UPGRADE = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
BESIDES: Mapping[int, Mapping[str, str]] = {405: {"Allow": "GET"}, 426: UPGRADE}
"""The headers that an answer has by its status."""
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def head(
    target: str = "/", *, method: str = "GET", version: str = "1.1", **headers: str | list[str] | None
) -> Head:
    """A good handshake but for what is given; None: without that header."""
    named: dict[str, str | list[str] | None] = {
        "host": "example.com",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
    }
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    pairs = [
        (name, each)
        for name, value in named.items()
        if value is not None
        for each in ([value] if isinstance(value, str) else value)
    ]
    return Head(method=method, target=target, version=version, headers=pairs)


def plain(target: str, method: str = "GET", **headers: str) -> Head:
    """A request that asks for no WebSocket."""
    names = ("upgrade", "connection", "sec_websocket_key", "sec_websocket_version")
    absent: dict[str, Any] = dict.fromkeys(names)
    return head(target, method=method, **(absent | headers))


def config(*, subprotocols: tuple[str, ...] = (), cursor: Cursor | None = None, **server: Any) -> Config:
    return Config(
        mode=Mode.SERVER_OUTPUT,
        server=Server(bind="127.0.0.1:0", **server),
        subprotocols=subprotocols,
        cursor=cursor,
    )


def admission(
    *, subprotocols: tuple[str, ...] = (), cursor: Cursor | None = None, **server: Any
) -> Admission:
    return Admission(Server(bind="127.0.0.1:0", **server), cursor, subprotocols)


def judge(request: Head, **fields: Any) -> Handshake | Response:
    return admission(**fields).judge(request, "192.0.2.1:4711")


def status_of(judged: Handshake | Response) -> int:
    return judged.status if isinstance(judged, Response) else 101


ONE = ("https://example.com",)
BELOW = ("https://*.example.com",)
TABLE: Mapping[str, tuple[int, Head, Mapping[str, Any]]] = {
    "a handshake as in the RFC": (101, head(), {}),
    "any path where none is set": (101, head("/a/b%20c?d=e"), {}),
    "the path that is set": (101, head("/feed"), {"path": "/feed"}),
    "the path that is set, with a query": (101, head("/feed?x=/y"), {"path": "/feed"}),
    "the path in other percent signs": (101, head("/%66eed"), {"path": "/feed"}),
    "a path of UTF-8": (101, head("/caf%C3%A9"), {"path": "/café"}),
    "a path that is set in percent signs": (101, head("/caf%c3%a9"), {"path": "/caf%C3%A9"}),
    "another path": (404, head("/food"), {"path": "/feed"}),
    "a path below": (404, head("/feed/x"), {"path": "/feed"}),
    "a path with a slash more": (404, head("/feed/"), {"path": "/feed"}),
    "a path in other case": (404, head("/Feed"), {"path": "/feed"}),
    "the path by a detour": (404, head("/x/../feed"), {"path": "/feed"}),
    "the path as a query": (404, head("/?/feed"), {"path": "/feed"}),
    "the query's mark in percent signs": (404, head("/feed%3Fx"), {"path": "/feed"}),
    "another path, and no handshake": (404, plain("/"), {"path": "/feed"}),
    "another path, and no GET": (404, plain("/", "POST"), {"path": "/feed"}),
    "a server as a whole": (400, head("*", method="OPTIONS"), {}),
    "a target without its slash": (400, head("feed"), {}),
    "a proxy's CONNECT": (400, head("example.com:80", method="CONNECT"), {}),
    "a POST": (405, head(method="POST"), {}),
    "a plain POST": (405, plain("/", "POST", content_length="5"), {}),
    "a HEAD": (405, plain("/", "HEAD"), {}),
    "a method in other case": (405, head(method="get"), {}),
    "HTTP/1.0": (400, head(version="1.0"), {}),
    "a page asked for": (426, plain("/"), {}),
    "no Upgrade": (426, head(upgrade=None), {}),
    "no Connection": (426, head(connection=None), {}),
    "an Upgrade to something else": (426, head(upgrade="h2c"), {}),
    "an Upgrade to something like it": (426, head(upgrade="websocket2"), {}),
    "a Connection to something else": (426, head(connection="keep-alive"), {}),
    "a Connection to something like it": (426, head(connection="no-upgrade"), {}),
    "an Upgrade in other case": (101, head(upgrade="WebSocket"), {}),
    "a Connection in other case": (101, head(connection="uPGRADE"), {}),
    "an Upgrade among others": (101, head(upgrade="h2c ,\twebsocket"), {}),
    "a Connection among others": (101, head(connection="keep-alive, Upgrade"), {}),
    "a Connection in two lines": (101, head(connection=["keep-alive", "Upgrade"]), {}),
    "no version": (426, head(sec_websocket_version=None), {}),
    "an old version": (426, head(sec_websocket_version="8"), {}),
    "a version that is none": (426, head(sec_websocket_version="013"), {}),
    "two versions in a line": (426, head(sec_websocket_version="13, 8"), {}),
    "two versions": (426, head(sec_websocket_version=["13", "13"]), {}),
    "no key": (400, head(sec_websocket_key=None), {}),
    "an empty key": (400, head(sec_websocket_key=""), {}),
    "two keys": (400, head(sec_websocket_key=[KEY, KEY]), {}),
    "two keys in a line": (400, head(sec_websocket_key=f"{KEY}, {KEY}"), {}),
    "a key of 15 bytes": (400, head(sec_websocket_key="AAAAAAAAAAAAAAAAAAAA"), {}),
    "a key of 17 bytes": (400, head(sec_websocket_key="AAAAAAAAAAAAAAAAAAAAAAA="), {}),
    "a key without its padding": (400, head(sec_websocket_key=KEY.rstrip("=")), {}),
    "a key with too much padding": (400, head(sec_websocket_key=f"{KEY}=="), {}),
    "a key for URLs": (400, head(sec_websocket_key="-" * 21 + "A=="), {}),
    "a key with a hole": (400, head(sec_websocket_key="dGhlIHNhbXBs ZSBub25jZQ=="), {}),
    "a key beyond ASCII": (400, head(sec_websocket_key="é" * 22 + "=="), {}),
    "a body": (400, head(content_length="5"), {}),
    "a body in chunks": (400, head(transfer_encoding="chunked"), {}),
    "a body of nothing": (101, head(content_length="0"), {}),
    "subprotocols": (101, head(sec_websocket_protocol="a, b"), {"subprotocols": ("b",)}),
    "subprotocols of others": (101, head(sec_websocket_protocol="a"), {"subprotocols": ("b",)}),
    "no subprotocol": (101, head(), {"subprotocols": ("b",)}),
    "a subprotocol that is none": (400, head(sec_websocket_protocol="a, b c"), {}),
    "a subprotocol beyond ASCII": (400, head(sec_websocket_protocol="é"), {}),
    "extensions": (101, head(sec_websocket_extensions="permessage-deflate; x=é"), {}),
    "an origin where none is asked for": (101, head(origin="https://evil.example"), {}),
    "an origin where all are allowed": (101, head(origin="null"), {"allowed_origins": ("*",)}),
    "no origin where all are allowed": (101, head(), {"allowed_origins": (*ONE, "*")}),
    "the origin that is allowed": (101, head(origin="https://example.com"), {"allowed_origins": ONE}),
    "that origin in other case": (101, head(origin="HTTPS://Example.COM"), {"allowed_origins": ONE}),
    "an origin in its own letters": (
        101,
        head(origin="https://xn--bcher-kva.example"),
        {"allowed_origins": ("https://bücher.example",)},
    ),
    "an origin with a letter that older rules took for two": (
        101,
        head(origin="https://xn--strae-oqa.example"),
        {"allowed_origins": ("https://straße.example",)},
    ),
    "an origin that older rules took for that": (
        403,
        head(origin="https://strasse.example"),
        {"allowed_origins": ("https://straße.example",)},
    ),
    "the origin under its older header": (
        101,
        head(sec_websocket_origin="https://example.com"),
        {"allowed_origins": ONE},
    ),
    "another origin under its older header": (
        403,
        head(sec_websocket_origin="https://evil.example"),
        {"allowed_origins": ONE},
    ),
    "two origins under their older header": (
        403,
        head(sec_websocket_origin=[*ONE, *ONE]),
        {"allowed_origins": ONE},
    ),
    "another origin, and the right one under its older header": (
        403,
        head(origin="https://evil.example", sec_websocket_origin="https://example.com"),
        {"allowed_origins": ONE},
    ),
    "an empty origin, and the right one under its older header": (
        403,
        head(origin="", sec_websocket_origin="https://example.com"),
        {"allowed_origins": ONE},
    ),
    "a host below all that are allowed": (
        101,
        head(origin="https://a.b.example.com"),
        {"allowed_origins": BELOW},
    ),
    "the host above all that are allowed": (
        403,
        head(origin="https://example.com"),
        {"allowed_origins": BELOW},
    ),
    "an origin too long to be one": (403, head(origin=f"https://{'a.' * 5000}"), {"allowed_origins": BELOW}),
    "that origin with its port": (101, head(origin="https://example.com:443"), {"allowed_origins": ONE}),
    "another port": (403, head(origin="https://example.com:8443"), {"allowed_origins": ONE}),
    "another scheme": (403, head(origin="http://example.com"), {"allowed_origins": ONE}),
    "another scheme with that port": (403, head(origin="http://example.com:443"), {"allowed_origins": ONE}),
    "a host below": (403, head(origin="https://a.example.com"), {"allowed_origins": ONE}),
    "a host that begins the same": (403, head(origin="https://example.com.evil"), {"allowed_origins": ONE}),
    "a host that ends the same": (403, head(origin="https://evilexample.com"), {"allowed_origins": ONE}),
    "a user of that name": (403, head(origin="https://example.com@evil"), {"allowed_origins": ONE}),
    "an origin with a path": (403, head(origin="https://example.com/"), {"allowed_origins": ONE}),
    "a sandboxed page": (403, head(origin="null"), {"allowed_origins": ONE}),
    "an origin that is none": (403, head(origin="https://[::1"), {"allowed_origins": ONE}),
    "an empty origin": (403, head(origin=""), {"allowed_origins": ONE}),
    "no origin": (403, head(), {"allowed_origins": ONE}),
    "two origins": (403, head(origin=[*ONE, *ONE]), {"allowed_origins": ONE}),
    "an origin where none is allowed": (403, head(origin="https://example.com"), {"allowed_origins": ()}),
    "a bad handshake from a bad origin": (400, head(sec_websocket_key="x"), {"allowed_origins": ONE}),
    "the health": (200, plain("/healthz"), {}),
    "the health beside a path": (200, plain("/healthz"), {"path": "/feed", "allowed_origins": ONE}),
    "the health with a query": (200, plain("/healthz?verbose"), {}),
    "the health's head": (200, plain("/healthz", "HEAD"), {}),
    "the health over HTTP/1.0": (
        200,
        Head(method="GET", target="/healthz", version="1.0", headers=[("host", "x")]),
        {},
    ),
    "the health of a client that could do HTTP/2": (
        200,
        plain("/healthz", upgrade="h2c", connection="Upgrade, HTTP2-Settings", http2_settings="AAMAAABk"),
        {},
    ),
    "the health posted": (405, plain("/healthz", "POST"), {}),
    "the health posted beside a path": (404, plain("/healthz", "POST"), {"path": "/feed"}),
    "more than the health": (404, plain("/healthz/x"), {"path": "/feed"}),
    "a WebSocket at the health's path": (101, head("/healthz"), {}),
    "a WebSocket at the health's path beside a path": (404, head("/healthz"), {"path": "/feed"}),
}


@pytest.mark.parametrize(("status", "request_head", "fields"), TABLE.values(), ids=TABLE)
def test_a_request_gets_its_status(status: int, request_head: Head, fields: Mapping[str, Any]) -> None:
    judged = judge(request_head, **fields)
    assert status_of(judged) == status
    if isinstance(judged, Response):
        assert dict(judged.headers) == BESIDES.get(status, {})
        assert judged.body
        assert judged.body.isprintable()


def test_a_target_may_be_the_whole_url() -> None:
    """RFC 6455 section 4.2.1 and RFC 9112 section 3.2.2: servers must take it."""
    judged = judge(head("http://example.com/feed?x=1"), path="/feed")
    assert isinstance(judged, Handshake)
    assert (judged.path, judged.query) == ("/feed", "x=1")


@pytest.mark.parametrize("listed", ["null", "example.com"])
@pytest.mark.parametrize("origin", ["null", "whatever"])
def test_an_origin_that_names_no_place_is_on_no_list(listed: str, origin: str) -> None:
    """A document can't list such a thing; a Config made in Python can, and must not open the door with it."""
    try:
        judged = judge(head(origin=origin), allowed_origins=(listed,))
    except ValueError:
        return
    assert status_of(judged) == 403


def test_a_handshake_is_what_the_peer_asked_with() -> None:
    judged = judge(
        head("/a%20b?c=d&e", sec_websocket_protocol=["x, y", "z"], cookie=["a=1", "b=2"], x_much="é")
    )
    assert isinstance(judged, Handshake)
    assert judged.address == "192.0.2.1:4711"
    assert (judged.path, judged.query) == ("/a%20b", "c=d&e")
    assert judged.subprotocols == ("x", "y", "z")
    assert judged.headers["cookie"] == "a=1, b=2"
    assert judged.headers["x-much"] == "é"
    assert judged.cursor is None


@pytest.mark.parametrize(
    ("cursor", "request_head", "value"),
    [
        (None, head("/?since=1", x_cursor="2"), None),
        (Cursor(header_name="X-Cursor"), head("/?since=1"), None),
        (Cursor(header_name="X-Cursor"), head("/?since=1", x_cursor="2"), "2"),
        (Cursor(header_name="X-Cursor"), head(x_cursor=""), None),
        (Cursor(header_name="X-Cursor", query_parameter="since"), head("/?since=1", x_cursor=""), "1"),
        (Cursor(query_parameter="since"), head("/?since="), None),
        (Cursor(query_parameter="since"), head("/?since&since=&since=2"), "2"),
        (Cursor(header_name="X-Cursor"), head(x_cursor=["2", "3"]), "2, 3"),
        (Cursor(query_parameter="since"), head(x_cursor="2"), None),
        (Cursor(query_parameter="since"), head("/?since=1"), "1"),
        (Cursor(query_parameter="since"), head("/?SINCE=1"), None),
        (Cursor(query_parameter="since"), head("/?a=0&since=1&since=2"), "1"),
        (Cursor(query_parameter="since"), head("/?since=a%26b+c%2B%C3%A9"), "a&b c+é"),
        (Cursor(query_parameter="s&é"), head("/?s%26%C3%A9=1"), "1"),
        (Cursor(header_name="X-Cursor", query_parameter="since"), head("/?since=1", x_cursor="2"), "2"),
        (Cursor(header_name="X-Cursor", query_parameter="since"), head("/?since=1"), "1"),
        (Cursor(header_name="X-Cursor", query_parameter="since"), head(), None),
    ],
)
def test_the_cursor_is_read_from_the_header_or_else_the_query(
    cursor: Cursor | None, request_head: Head, value: str | None
) -> None:
    judged = judge(request_head, cursor=cursor)
    assert isinstance(judged, Handshake)
    assert judged.cursor == value


@given(TEXTS, TEXTS.filter(bool), st.sampled_from(["/", "/feed?since=x", "/?a=%26", "/?%61=1&b=2&a=3"]))
@example("", "a", "/?a=%26")
@example("7", "a", "/?a=%26")
@example("7", "a", "/?%61=1&b=2&a=3")
def test_the_cursor_that_a_client_sends_in_the_query_comes(value: str, name: str, resource: str) -> None:
    cursor = Cursor(query_parameter=name)
    there = Config(url=f"ws://h{resource}", cursor=cursor)
    request = build_request(there, resolve=lambda *_: None, cursor=value)
    judged = judge(head(request.resource), cursor=cursor)
    assert isinstance(judged, Handshake)
    own = parse_qsl(resource.partition("?")[2])
    assert judged.cursor == (value or next((each for key, each in own if key == name), None))
    assert [pair for pair in parse_qsl(judged.query, keep_blank_values=True) if pair[0] != name] == [
        pair for pair in own if pair[0] != name
    ]


@given(
    ours=st.lists(st.sampled_from("abcd"), unique=True),
    lines=st.lists(st.lists(st.sampled_from("abcdef")), max_size=3),
    comma=st.sampled_from([",", ", ", " ,\t", ",,"]),
)
def test_the_subprotocol_is_the_first_of_ours_that_the_client_offers(
    ours: list[str], lines: list[list[str]], comma: str
) -> None:
    judging = admission(subprotocols=tuple(ours))
    judged = judging.judge(head(sec_websocket_protocol=[comma.join(line) for line in lines]), "x")
    assert isinstance(judged, Handshake)
    offered = [name for line in lines for name in line]
    assert list(judged.subprotocols) == offered
    common = [name for name in ours if name in offered]
    assert judging.choose_subprotocol(judged.subprotocols) == (common[0] if common else None)


KEYS = st.sampled_from([KEY, "A" * 21 + "B==", "", "x"]) | st.from_regex(
    r"[A-Za-z0-9+/=é]{20,26}", fullmatch=True
)
VALUES: Mapping[str, st.SearchStrategy[str]] = {
    "upgrade": st.sampled_from(["websocket", "WEBSOCKET", "h2c", "h2c, websocket", "web socket"]),
    "connection": st.sampled_from(["Upgrade", "upgrade", "close", "close,upgrade", ""]),
    "sec-websocket-version": st.sampled_from(["13", "8", "13, 13", ""]),
    "sec-websocket-key": KEYS,
    "sec-websocket-protocol": st.sampled_from(["a", "a, b", "", "a b", "é"]),
    "content-length": st.sampled_from(["0", "1"]),
    "transfer-encoding": st.just("chunked"),
    "origin": st.sampled_from(["null", "http://a.example"]),
    "x-other": TEXTS,
}
GOOD = [pair for pair in head().headers if pair[0] != "host"]
PAIRS = st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), VALUES[name]))
HEADERS = st.builds(
    lambda kept, more: [*kept, *more],
    st.lists(st.sampled_from(GOOD), unique=True, min_size=3) | st.permutations(GOOD),
    st.lists(PAIRS, max_size=3),
)


@given(
    HEADERS,
    st.sampled_from(["GET", "GET", "GET", "HEAD", "POST"]),
    st.sampled_from(["1.1", "1.1", "1.1", "1.0"]),
    st.sampled_from(["/", "/", "/", "*", "/healthz"]),
)
def test_a_handshake_is_admitted_if_it_is_one_and_only_then(
    headers: list[tuple[str, str]], method: str, version: str, target: str
) -> None:
    request = Head(method=method, target=target, version=version, headers=headers)
    judged = judge(request)

    def line(name: str) -> str:
        return ",".join(value for each, value in headers if each == name)

    keys = [value for name, value in headers if name == "sec-websocket-key"]
    is_one = (
        method == "GET"
        and version == "1.1"
        and target.startswith("/")
        and re.search(r"(^|,)\s*websocket\s*(,|$)", line("upgrade"), re.IGNORECASE) is not None
        and re.search(r"(^|,)\s*upgrade\s*(,|$)", line("connection"), re.IGNORECASE) is not None
        and line("sec-websocket-version") == "13"
        and len(keys) == 1
        and re.fullmatch(r"[A-Za-z0-9+/]{22}==", keys[0]) is not None
        and line("content-length") in ("", "0")
        and not line("transfer-encoding")
        and not re.search(r"a b|é", line("sec-websocket-protocol"))
    )
    assert isinstance(judged, Handshake) == is_one


@given(
    method=TEXTS,
    target=TEXTS | TEXTS.map(lambda text: f"/{text}"),
    pairs=st.lists(st.tuples(st.sampled_from(sorted(VALUES)), TEXTS)),
    good=st.booleans(),
)
def test_whatever_comes_is_judged_and_never_repeated(
    method: str, target: str, pairs: list[tuple[str, str]], good: bool
) -> None:
    mark = "\u2603"
    request = Head(
        method="GET" if good else method + mark,
        target=target + mark,
        version="1.1",
        headers=[*(GOOD if good else ()), *((name, value + mark) for name, value in pairs)],
    )
    cursor = Cursor(header_name="x-other", query_parameter="since")
    judged = judge(request, allowed_origins=("https://example.com", "http://[::1]:80"), cursor=cursor)
    assert isinstance(judged, Response)
    assert 200 <= judged.status < 500
    assert mark not in repr(judged)


PIECES = st.lists(
    st.sampled_from([b"a", b"A", b"/", b".", b"%", b"+", b"~", b"\xc3\xa9", b"\xff", b"\xfe", b"\0"])
)
PATHS = PIECES.map(lambda pieces: b"/" + b"".join(pieces))


def percent(path: bytes) -> str:
    return "/" + "".join(f"%{byte:02X}" for byte in path[1:])


@given(path=PATHS, data=st.data())
def test_every_spelling_of_a_path_is_that_path(path: bytes, data: st.DataObject) -> None:
    spelled = "/" + "".join(
        data.draw(
            st.sampled_from([f"%{byte:02X}", f"%{byte:02x}", *([chr(byte)] if chr(byte) in "aA/.+~" else [])])
        )
        for byte in path[1:]
    )
    judged = judge(head(f"{spelled}?query"), path=percent(path))
    assert isinstance(judged, Handshake)
    assert judged.path == spelled


@given(path=PATHS, other=PATHS)
@example(path=b"/\xff", other=b"/\xfe")
def test_no_other_path_is_that_path(path: bytes, other: bytes) -> None:
    judged = judge(head(percent(other)), path=percent(path))
    assert status_of(judged) == (101 if path == other else 404)


ORIGINS = st.tuples(
    st.sampled_from(["http", "https"]),
    st.sampled_from(["a.example", "b.example", "127.0.0.1", "[::1]"]),
    st.sampled_from([None, 80, 443, 8080]),
)


def place_of(origin: tuple[str, str, int | None]) -> tuple[str, str, int]:
    scheme, host, port = origin
    return scheme, host, port or {"http": 80, "https": 443}[scheme]


def written(origin: tuple[str, str, int | None]) -> str:
    scheme, host, port = origin
    return f"{scheme}://{host}" + (f":{port}" if port else "")


@given(listed=st.lists(ORIGINS, max_size=4), origin=ORIGINS, capitals=st.booleans())
def test_an_origin_is_allowed_by_scheme_host_and_port(
    listed: list[tuple[str, str, int | None]], origin: tuple[str, str, int | None], capitals: bool
) -> None:
    text = written(origin).upper() if capitals else written(origin)
    judged = judge(head(origin=text), allowed_origins=tuple(written(each) for each in listed))
    allowed = place_of(origin) in [place_of(each) for each in listed]
    assert status_of(judged) == (101 if allowed else 403)


@given(st.integers() | st.integers(390, 610))
@example(399)
@example(400)
@example(599)
@example(600)
def test_a_denial_is_an_error_of_http(status: int) -> None:
    if 400 <= status <= 599:
        assert Deny(status=status).status == status
    else:
        with pytest.raises(ValueError, match="400 to 599"):
            Deny(status=status)


@given(TEXTS)
def test_a_denial_gives_its_reason_in_one_line(reason: str) -> None:
    if reason.isprintable():
        assert len(Deny(reason=reason).reason.splitlines()) <= 1
    else:
        with pytest.raises(ValueError, match="one printable line"):
            Deny(reason=reason)


def test_a_denial_says_401_and_an_admission_nothing_where_nothing_is_said() -> None:
    assert (Deny().status, Deny().reason) == (401, "not admitted")
    assert Admit().identity is None


SECRETS = ["authorization", "Authorization", "COOKIE", "cookie", "proxy-authorization"]


@pytest.mark.parametrize("name", SECRETS)
def test_what_holds_a_peers_secrets_does_not_show_them(name: str) -> None:
    secret = "open sesame"
    shown = [
        repr(
            Handshake(address="a", path="/", headers={name: secret}, query=f"token={secret}", cursor=secret)
        ),
        repr(Peer(address="a", headers={name: secret})),
    ]
    for text in shown:
        assert secret not in text
        assert name in text


def test_the_head_of_a_request_does_not_show_its_secrets() -> None:
    request = head("/?token=sesame1", authorization="Bearer sesame2", cookie="id=sesame3")
    assert "sesame" not in repr(request)


def raw(request: Head) -> bytes:
    lines = [f"{request.method} {request.target} HTTP/{request.version}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    return "\r\n".join([*lines, "", ""]).encode()


def acceptor_by(
    config: Config, authenticate: Callable[[Handshake], Awaitable[Admit | Deny]] | None = None
) -> Acceptor:
    assert config.server is not None
    return Acceptor(
        admission=Admission(config.server, config.cursor, config.subprotocols),
        authenticate=authenticate,
        max_connections=config.server.max_connections,
        heartbeat=config.heartbeat,
        max_message_size=config.max_message_size,
        peer_log=PeerLog(),
    )


def read_by_peers(acceptor: Acceptor, requests: Sequence[bytes]) -> list[tuple[int, dict[str, str]]]:
    """Status and headers of the answers that peers get who come one after the other, and stay."""
    answers = []

    async def serve(stream: trio.abc.Stream) -> None:
        guest = await acceptor.receive(stream, "memory")
        if guest is not None:
            await acceptor.answer(guest, [])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for request in requests:
                ours, theirs = trio.testing.memory_stream_pair()
                nursery.start_soon(serve, ours)
                await theirs.send_all(request)
                came = b""
                while b"\r\n\r\n" not in came:
                    chunk = await theirs.receive_some()
                    assert chunk, "no answer"
                    came += chunk
                first, *lines = came.partition(b"\r\n\r\n")[0].decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines)
                answers.append(
                    (int(first.split()[1]), {name.lower(): value for name, value in headers.items()})
                )
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return answers


@pytest.mark.parametrize(("status", "request_head", "fields"), TABLE.values(), ids=TABLE)
def test_a_peer_reads_that_status(status: int, request_head: Head, fields: Mapping[str, Any]) -> None:
    acceptor = acceptor_by(config(max_connections=3, **fields))
    ((came, headers),) = read_by_peers(acceptor, [raw(request_head)])
    assert came == status
    for name, value in BESIDES.get(status, {}).items():
        assert headers[name.lower()] == value
    assert acceptor.refused == (status >= 400)
    assert acceptor.capacity.value == 3 - (status == 101)


@pytest.mark.parametrize(
    ("status", "request_head"),
    [
        (101, head(**{f"x_{number}": "y" for number in range(95)})),
        (431, head(**{f"x_{number}": "y" for number in range(96)})),
        (101, head(x_long="y" * 16_000)),
        (431, head(x_long="y" * 16_384)),
        (431, head("/" + "y" * 16_384)),
    ],
    ids=["100 headers", "101 headers", "nearly 16 KiB", "over 16 KiB", "a target over 16 KiB"],
)
def test_heads_are_bounded(status: int, request_head: Head) -> None:
    ((came, _),) = read_by_peers(acceptor_by(config()), [raw(request_head)])
    assert came == status


@given(st.binary(min_size=16, max_size=16))
def test_the_accept_value_is_the_rfcs(nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    ((status, headers),) = read_by_peers(acceptor_by(config()), [raw(head(sec_websocket_key=key))])
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    assert (status, headers["sec-websocket-accept"]) == (101, base64.b64encode(digest).decode())


def test_the_accept_value_of_the_rfcs_example() -> None:
    ((_, headers),) = read_by_peers(acceptor_by(config()), [raw(head())])
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (headers["upgrade"].lower(), headers["connection"].lower()) == ("websocket", "upgrade")
    assert not {"sec-websocket-protocol", "sec-websocket-extensions"} & headers.keys()


def test_who_finds_no_place_is_asked_to_come_again() -> None:
    acceptor = acceptor_by(config(max_connections=2))
    peers = [raw(head()), raw(head(upgrade=None)), raw(head()), raw(head()), raw(head(upgrade=None))]
    answers = read_by_peers(acceptor, peers)
    assert [status for status, _ in answers] == [101, 426, 101, 503, 426]
    assert answers[3][1]["retry-after"] == str(RETRY_AFTER)
    assert (acceptor.capacity.value, acceptor.refused) == (0, 3)


@given(st.lists(st.sampled_from([101, 400, 401, 403, 429, 500, 599]), max_size=8), st.integers(1, 3))
def test_who_is_denied_gives_the_place_back(verdicts: list[int], most: int) -> None:
    coming = iter(verdicts)

    async def authenticate(handshake: Handshake) -> Admit | Deny:
        await trio.lowlevel.checkpoint()
        status = next(coming)
        return Admit() if status == 101 else Deny(status=status)

    acceptor = acceptor_by(config(max_connections=most), authenticate)
    came = [status for status, _ in read_by_peers(acceptor, [raw(head())] * len(verdicts))]
    asked = iter(verdicts)
    inside = 0
    for status in came:
        expected = 503 if inside == most else next(asked)
        assert status == expected
        inside += status == 101
    assert acceptor.capacity.value == most - inside


# -- for how long ------------------------------------------------------------------------------------------

TIMES = st.floats(0, 2e9)


@given(until=TIMES, now=st.floats(0, 1e6), wall=TIMES)
def test_an_admission_has_the_time_left_that_the_wall_clock_shows_when_it_is_given(
    until: float, now: float, wall: float
) -> None:
    ends = expires_at(until, now, wall)
    assert ends is not None
    assert ends - now == pytest.approx(until - wall, abs=1e-5)


def test_an_admission_without_a_time_never_ends() -> None:
    assert Admit().until is None
    assert expires_at(None, 5.0, 1e9) is None


@given(st.none() | st.integers() | st.floats() | st.integers(-(2**33), 2**33))
@example(253_402_300_799)
@example(253_402_300_800)
def test_an_admission_lasts_until_a_time_up_to_the_year_9999(until: float | None) -> None:
    if until is None or abs(until) < 253_402_300_800:
        assert Admit(until=until).until == until
    else:
        with pytest.raises(ValueError, match="up to the year 9999"):
            Admit(until=until)


def test_a_time_in_milliseconds_is_refused_with_advice() -> None:
    with pytest.raises(
        ValueError, match=r"not 1700000000000; a time in milliseconds has to be divided by 1000$"
    ):
        Admit(until=1_700_000_000_000)


@pytest.mark.parametrize("until", ["1700000000", True, datetime.now(UTC)], ids=["text", "flag", "datetime"])
def test_what_is_no_number_is_no_time(until: Any) -> None:
    with pytest.raises(ValueError, match="is a number of seconds since 1970, as time.time"):
        Admit(until=until)
