"""The opening handshake: whatever is put into it, it is one request with exactly that in it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import pytest
import wsproto
import wsproto.events
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.request import Request, RequestError, build_request, files_named
from trio_wsout.config import Auth, Basic, Batch, BatchMode, Config, Cursor, Secret, Tls
from trio_wsout.config.http_grammar import is_token

if TYPE_CHECKING:
    from collections.abc import Mapping

NASTY = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "a\r\nX-Evil: 1",
            "a\nb",
            "\0",
            "x\r",
            "é",
            "\ud800",
            " lead",
            "tab\tin",
            "\x7f",
            "a&b=c#d?e/%41",
            "\u2028",
        ]
    ),
)


def on_the_wire(request: Request) -> tuple[str, list[tuple[str, bytes]]]:
    """What a server reads: target and headers, after wsproto has written them."""
    websocket = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    blob = websocket.send(
        wsproto.events.Request(
            host=request.authority,
            target=request.resource,
            extra_headers=[(name.encode(), value) for name, value in request.headers],
            subprotocols=list(request.subprotocols),
        )
    )
    server = h11.Connection(h11.SERVER)
    server.receive_data(blob)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert isinstance(server.next_event(), h11.EndOfMessage)
    assert server.trailing_data == (b"", False)
    headers = [(name.decode(), value) for name, value in event.headers]
    own = {
        "host",
        "upgrade",
        "connection",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-protocol",
    }
    return event.target.decode(), [each for each in headers if each[0] not in own]


def build(at: str | None = None, *, values: Mapping[str, str] | None = None, **fields: Any) -> Request:
    """The request of a configuration; `values` are those of ${env|…}."""
    extra = {key: fields.pop(key) for key in ("extra", "token") if key in fields}
    config = Config(**{"url": "ws://peer.test/a", **fields})
    return build_request(
        config,
        resolve=lambda _, name: (values or {}).get(name or ""),
        cursor=at,
        headers=extra.get("extra"),
        token=extra.get("token"),
    )


def holds_control(text: str) -> bool:
    return any(ord(each) < 0x20 or each == "\x7f" for each in text)


PLACES: Mapping[str, Any] = {
    "headers.X": {"headers": {"X": "${env|V}"}},
    "auth.headers.X": {"auth": Auth(headers={"X": Secret("${env|V}")})},
    "query.q": {"query": {"q": "${env|V}"}},
    "auth.query.q": {"auth": Auth(query={"q": Secret("a ${env|V}")})},
    "auth.basic.username": {"auth": Auth(basic=Basic(username="${env|V}", password=Secret("p")))},
    "auth.basic.password": {"auth": Auth(basic=Basic(username="u", password=Secret("${env|V}")))},
    "auth.bearer-token": {"auth": Auth(bearer_token=Secret("${env|V}"))},
    "the token callable": {"token": "canary\n"},
    "the headers callable": {"extra": {"X": "canary\n"}},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", ["canary\n", "can\r\nary", "\0canary", "can\x07ary", "canary\x7f"])
def test_no_place_takes_a_control_character(place: str, value: str) -> None:
    with pytest.raises(RequestError) as caught:
        build(values={"V": value}, **PLACES[place])
    said = str(caught.value)
    assert said.startswith(f"{place}: ")
    assert "canary" not in said
    if place not in ("auth.bearer-token", "the token callable", "the headers callable"):
        assert "control character" in said
        assert ("line break at its end" in said) == value.endswith("\n")


def test_a_cursor_never_keeps_a_query_from_being_sent() -> None:
    fields: Mapping[str, Any] = {"query": {"after": "${cursor}", "b": "b${cursor}b"}}
    for cursor in ("1\n2", "", None):
        request = build(cursor, **fields)
        sent = parse_qsl(urlsplit(request.resource).query, keep_blank_values=True)
        assert sent == [("after", cursor or ""), ("b", f"b{cursor or ''}b")]


@given(NASTY)
def test_a_header_is_one_line_with_its_value_or_refused_without_it(value: str) -> None:
    value = f"canary{value}"
    try:
        request = build(headers={"X-V": "${env|V}"}, values={"V": value})
    except RequestError as error:
        assert "canary" not in str(error)
        assert "headers.X-V" in str(error)
    else:
        _, headers = on_the_wire(request)
        assert headers == [("x-v", value.strip(" \t").encode())]


@given(NASTY, NASTY)
def test_a_parameter_is_one_parameter_with_its_value(name: str, value: str) -> None:
    try:
        request = build(url="ws://peer.test/a?own=1", query={name: "${env|V}"}, values={"V": value})
    except RequestError as error:
        assert "surrogate" in str(error) or (holds_control(value) and "query." in str(error))
        return
    assert not holds_control(value)
    target, headers = on_the_wire(request)
    assert parse_qsl(urlsplit(target).query, keep_blank_values=True) == [("own", "1"), (name, value)]
    assert headers == []


@given(NASTY)
def test_a_cursor_goes_as_it_is_in_both_places(value: str) -> None:
    cursor = Cursor(header_name="Last-Event-ID", query_parameter="since")
    try:
        request = build(value, cursor=cursor)
    except RequestError as error:
        assert "surrogate" in str(error) or holds_control(value)
        return
    target, headers = on_the_wire(request)
    assert parse_qsl(urlsplit(target).query, keep_blank_values=True) == [("since", value)] * bool(value)
    assert headers == [("last-event-id", value.strip(" \t").encode())] * bool(value)


@given(NASTY, NASTY)
def test_basic_credentials_are_encoded_whole(username: str, password: str) -> None:
    basic = Basic(username="${env|U}", password=Secret("${env|P}"))
    try:
        request = build(auth=Auth(basic=basic), values={"U": username, "P": password})
    except RequestError as error:
        refused = "surrogate" in str(error) or (":" in username and "colon" in str(error))
        assert refused or (holds_control(username + password) and "auth.basic." in str(error))
        return
    assert not holds_control(username + password)
    ((name, value),) = on_the_wire(request)[1]
    scheme, _, pair = value.decode().partition(" ")
    assert (name, scheme) == ("authorization", "Basic")
    assert base64.b64decode(pair).decode() == f"{username}:{password}"


@given(NASTY)
def test_a_bearer_token_is_a_token_or_refused(token: str) -> None:
    token = f"canary{token}"
    for fields in ({"auth": Auth(bearer_token=Secret("${env|T}"))}, {"token": token}):
        try:
            request = build(values={"T": token}, **fields)
        except RequestError as error:
            assert "bearer" in str(error)
            assert "canary" not in str(error)
        else:
            assert on_the_wire(request)[1] == [("authorization", f"Bearer {token}".encode())]


@given(st.text(max_size=20))
def test_the_applications_headers_are_judged_like_all_others(name: str) -> None:
    own = {"host", "connection", "upgrade", "content-length", "transfer-encoding"}
    reserved = name.lower() in own or name.lower().startswith("sec-websocket-")
    if is_token(name) and not reserved:
        assert build(extra={name: "v"}).headers == ((name, b"v"),)
    else:
        with pytest.raises(RequestError):
            build(extra={name: "v"})


@pytest.mark.parametrize(
    "name", ["Host", "upgrade", "CONNECTION", "Sec-WebSocket-Key", "Content-Length", "a b", ""]
)
def test_reserved_and_invalid_names_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="name"):
        build(extra={name: "v"})


def test_the_later_wins() -> None:
    request = build(
        "7",
        auth=Auth(
            bearer_token=Secret("a"),
            headers={"AUTHORIZATION": Secret("b"), "X": Secret("1"), "L": Secret("0")},
        ),
        headers={"authorization": "c", "x": "2", "Y": "3"},
        token="d",
        extra={"y": "4"},
        cursor=Cursor(header_name="l"),
    )
    assert dict(request.headers) == {"Authorization": b"Bearer d", "x": b"2", "y": b"4", "l": b"7"}
    without = build(auth=Auth(bearer_token=Secret("a"), headers={"Authorization": Secret("b")}))
    assert without.headers == (("Authorization", b"b"),)


def test_a_later_parameter_takes_the_place_of_an_earlier_one() -> None:
    request = build(
        "9",
        auth=Auth(query={"a": Secret("1"), "c": Secret("0")}),
        query={"a": "2"},
        cursor=Cursor(query_parameter="c"),
    )
    assert request.resource == "/a?a=2&c=9"


def test_the_cursors_parameter_takes_the_place_of_that_name_in_query_and_in_the_url_only_where_there_is_a_cursor() -> (
    None
):
    fields: Any = {
        "url": "ws://h/a?c=url&x=1",
        "query": {"c": "configured", "y": "2"},
        "cursor": Cursor(query_parameter="c"),
    }
    assert build("9", **fields).resource == "/a?x=1&c=9&y=2"
    assert build(None, **fields).resource == "/a?c=url&x=1&c=configured&y=2"


def test_no_cursor_sends_none() -> None:
    request = build(cursor=Cursor(header_name="L", query_parameter="c"))
    assert (request.resource, request.headers) == ("/a", ())


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "resource", "secure"),
    [
        ("ws://h", "h", 80, "h", "/", False),
        ("wss://h:443/x", "h", 443, "h", "/x", True),
        ("wss://h:80", "h", 80, "h:80", "/", True),
        ("ws://[::1]:8080/a?b", "::1", 8080, "[::1]:8080", "/a?b", False),
        (
            "ws://bücher.example/straße?q=ü 1",
            "xn--bcher-kva.example",
            80,
            "xn--bcher-kva.example",
            "/stra%C3%9Fe?q=%C3%BC%201",
            False,
        ),
        ("ws://[fe80::1%eth0]:8080/", "fe80::1%eth0", 8080, "[fe80::1]:8080", "/", False),
        ("ws://h/a%20b?c=%41&d", "h", 80, "h", "/a%20b?c=%41&d", False),
    ],
)
def test_urls_become_requests(
    url: str, host: str, port: int, authority: str, resource: str, secure: bool
) -> None:
    request = build(url=url)
    found = (request.host, request.port, request.authority, request.resource, request.secure)
    assert found == (host, port, authority, resource, secure)
    assert on_the_wire(request)[0] == resource


@pytest.mark.parametrize(
    ("url", "host", "server_name", "authority"),
    [
        # A dot at the end is for the resolver and for Host; no certificate has it, nor may SNI (RFC 6066 section 3).
        ("wss://Feed.example.com./", "feed.example.com.", "feed.example.com", "feed.example.com."),
        ("wss://feed.example.com.:8443/", "feed.example.com.", "feed.example.com", "feed.example.com.:8443"),
        ("wss://straße.example/", "xn--strae-oqa.example", "xn--strae-oqa.example", "xn--strae-oqa.example"),
        ("wss://ΣΑΣ.gr/", "xn--mxa9ab.gr", "xn--mxa9ab.gr", "xn--mxa9ab.gr"),
        ("wss://127.1/", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("wss://[FE80::1%25eth0]/", "fe80::1%eth0", "fe80::1", "[fe80::1]"),
    ],
)
def test_who_is_told_which_name(url: str, host: str, server_name: str, authority: str) -> None:
    request = build(url=url)
    assert (request.host, request.server_name, request.authority) == (host, server_name, authority)


def test_subprotocols_are_offered_in_order() -> None:
    assert build(subprotocols=("b", "a")).subprotocols == ("b", "a")


def test_a_missing_value_is_named() -> None:
    with pytest.raises(RequestError, match=r"auth.headers.X: \$\{secret\|k\}"):
        build(auth=Auth(headers={"X": Secret("${secret|k}")}))


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"X": "${env|V}"}},
        {"query": {"q": "${env|V}"}},
        {"auth": Auth(basic=Basic(username="u", password=Secret("${env|V}")))},
    ],
)
def test_a_lone_surrogate_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        build(values={"V": "\ud800"}, **fields)


def test_a_user_name_from_a_template_holds_no_colon() -> None:
    with pytest.raises(RequestError, match="RFC 7617"):
        build(auth=Auth(basic=Basic(username="${env|V}", password=Secret("p"))), values={"V": "a:b"})


def test_nothing_secret_is_shown() -> None:
    request = build(auth=Auth(query={"q": Secret("canary")}, headers={"X": Secret("canary")}))
    assert "canary" not in repr(request)


def test_what_is_secret_in_a_handshake_is_noted() -> None:
    config = Config(
        url="ws://peer.test/",
        headers={"Cookie": "sid=c00kie; theme=x", "X-Trace": "plain", "X-Mixed": "for ${secret|name}"},
        query={"open": "to all"},
        auth=Auth(
            basic=Basic(username="user", password=Secret("pass word")),
            headers={"X-Key": Secret("a key")},
            query={"token": Secret("a+b")},
        ),
    )
    request = build_request(
        config,
        resolve=lambda source, name: f"{source} of {name}",
        cursor=None,
        headers={"X-Fresh": "fresh"},
        token="t0ken",
    )
    expected = {
        "c00kie",
        "sid=c00kie; theme=x",
        "pass word",
        "pass%20word",
        "a key",
        "a+b",
        "a%2Bb",
        "fresh",
        "t0ken",
    }
    assert expected | {"secret of name", base64.b64encode(b"user:pass word").decode()} <= set(request.secrets)
    assert not {"plain", "to all", "user", "Bearer", "Basic", "x"} & set(request.secrets)
    assert "t0ken" not in repr(request)


def test_a_secret_that_is_missing_or_empty_is_none() -> None:
    config = Config(
        url="ws://peer.test/",
        headers={"X-A": "${secret|none||default}", "Authorization": "alone"},
        auth=Auth(query={"t": Secret("")}),
    )
    request = build_request(config, resolve=lambda source, name: None, cursor=None)
    assert set(request.secrets) == {"alone"}


# -- a URL with templates -------------------------------------------------------------------------------------


@given(NASTY, NASTY)
def test_what_a_url_asks_for_is_one_part_of_its_path_and_one_parameter(name: str, value: str) -> None:
    try:
        request = build(
            url="ws://peer.test/a${env|N}b?own=1&t=${env|V}",
            values={"N": name, "V": value},
        )
    except RequestError as error:
        assert "surrogate" in str(error)
        return
    target, _ = on_the_wire(request)
    parts = urlsplit(target)
    assert unquote(parts.path) == f"/a{name}b"
    assert parse_qsl(parts.query, keep_blank_values=True) == [("own", "1"), ("t", value)]
    assert (request.host, request.port) == ("peer.test", 80)


def test_a_url_may_come_as_a_whole() -> None:
    request = build(url="${env|U}", values={"U": "https://Other.test:1/x?y=1"}, query={"z": "2"})
    assert (request.secure, request.authority, request.resource) == (True, "other.test:1", "/x?y=1&z=2")
    with pytest.raises(RequestError, match=r"^url: \$\{env\|U\} has no value"):
        build(url="${env|U}")
    with pytest.raises(RequestError, match=r"^url: user and password") as caught:
        build(url="${env|U}", values={"U": "ws://me:canary@h/"})
    assert "canary" not in str(caught.value)


def test_one_of_several_urls_is_asked_and_a_fault_names_it() -> None:
    config = Config(url=("ws://a.test/x", "wss://b.test/${env|V}"))
    first = build_request(config, resolve=lambda *_: None, cursor=None)
    assert (first.authority, first.secure) == ("a.test", False)
    second = build_request(config, url=config.urls[1], resolve=lambda *_: "y", cursor=None)
    assert (second.authority, second.resource, second.secure) == ("b.test", "/y", True)
    with pytest.raises(RequestError, match=r"^url\[1\]: \$\{env\|V\} has no value"):
        build_request(config, url=config.urls[1], resolve=lambda *_: None, cursor=None)


def test_what_files_and_secrets_in_a_url_hold_is_secret_as_it_is_written_and_sent() -> None:
    request = build_request(
        Config(url="ws://h/${file|/f}?t=${secret|s}&p=${env|e}"),
        resolve=lambda source, _: {"file": "a/b c", "secret": "d/é"}.get(source, "plain"),
        cursor=None,
    )
    assert request.resource == "/a/b%20c?t=d%2F%C3%A9&p=plain"
    assert {"a/b c", "a/b%20c", "d/é", "d%2F%C3%A9"} <= set(request.secrets)
    assert "plain" not in request.secrets


def test_the_password_of_a_client_key_is_expanded_for_each_attempt() -> None:
    tls = Tls(client_certificate="c.pem", client_key="k.pem", client_key_password=Secret("${env|V}"))
    password = build(tls=tls, values={"V": "canary"}).key_password
    assert password == Secret("canary")
    assert build().key_password is None
    with pytest.raises(RequestError, match="tls.client-key-password"):
        build(tls=tls)


def test_the_cursor_of_a_template_is_the_one_that_the_attempt_sends() -> None:
    fields = {"url": "ws://h/${cursor||start}", "headers": {"X": "<${cursor}>"}}
    assert build(at="7", **fields).resource == "/7"
    assert build(at="7", **fields).headers == (("X", b"<7>"),)
    assert build(**fields).resource == "/start"
    assert build(**fields).headers == (("X", b"<>"),)


def test_the_files_that_a_handshake_asks_for_are_known_before() -> None:
    config = Config(
        url="ws://${file|host}/",
        headers={"X": "${file|/h}${file|/h}${secret|no}"},
        query={"q": "${file|/q||none}"},
        auth=Auth(
            headers={"Y": Secret("${file|/ah}")},
            query={"r": Secret("${file|/aq}")},
            basic=Basic(username="${file|/u}", password=Secret("${file|/p}")),
        ),
        batch=Batch(mode=BatchMode.FIXED, header="${file|/batch}"),
    )
    assert set(files_named(config)) == {"host", "/h", "/q", "/ah", "/aq", "/u", "/p"}
    assert files_named(Config(auth=Auth(bearer_token=Secret("${file|/b}")))) == ["/b"]
