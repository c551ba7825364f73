"""A server's answer to the opening handshake, as it is judged and told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.opening import (
    Asked,
    ResponseHead,
    first_line_of,
    judge_opening,
    opening_head,
    refusal,
)

KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""Those of RFC 6455 section 1.3."""
ASKED = Asked(secure=False, key=KEY, subprotocols=("v1", "v2"), secrets=("s3cret-token",))
GOOD = {"upgrade": ["websocket"], "connection": ["Upgrade"], "sec-websocket-accept": [ACCEPT]}


def head(status: int = 101, **headers: str | list[str]) -> ResponseHead:
    """A head with these headers; a list stands on several lines."""
    lines = [
        (name.replace("_", "-"), each)
        for name, value in headers.items()
        for each in ([value] if isinstance(value, str) else value)
    ]
    return ResponseHead(status=status, headers=lines)


def judged(**headers: str | list[str]) -> Disconnection | str | None:
    good: dict[str, str | list[str]] = {name.replace("-", "_"): list(value) for name, value in GOOD.items()}
    return judge_opening(head(**(good | headers)), ASKED)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"connection": ["Upgrade", "keep-alive"]},
        {"connection": ["keep-alive", "Upgrade"]},
        {"connection": "keep-alive, , UPGRADE"},
        {"upgrade": "WebSocket"},
        {"upgrade": ["websocket", "websocket"]},
        {"sec_websocket_accept": [ACCEPT, ACCEPT]},
        {"sec_websocket_extensions": ""},
        {"sec_websocket_extensions": [",", " , "]},
        {"sec_websocket_protocol": ""},
        {"x_any": "thing"},
    ],
)
def test_what_is_right_by_the_rfcs_opens(headers: dict[str, str | list[str]]) -> None:
    assert judged(**headers) is None
    assert opening_head(KEY, None) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


@pytest.mark.parametrize("value", ["v2", ["v2", "v2"], ["", "v2"], "v2,"])
def test_the_subprotocol_that_was_chosen(value: str | list[str]) -> None:
    assert judged(sec_websocket_protocol=value) == "v2"
    assert opening_head(KEY, "v2").endswith(b"\r\nSec-WebSocket-Protocol: v2\r\n\r\n")


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"upgrade": []}, "Upgrade is missing"),
        ({"upgrade": "h2c"}, "Upgrade is not websocket"),
        ({"upgrade": ["websocket", "h2c"]}, "Upgrade is not websocket"),
        ({"connection": []}, "upgrade is missing in Connection"),
        ({"connection": "close"}, "upgrade is missing in Connection"),
        ({"sec_websocket_accept": []}, "Sec-WebSocket-Accept is missing"),
        ({"sec_websocket_accept": "A" + ACCEPT}, "Sec-WebSocket-Accept is wrong"),
        ({"sec_websocket_accept": [ACCEPT, "A" + ACCEPT]}, "Sec-WebSocket-Accept is wrong"),
        (
            {"sec_websocket_extensions": "permessage-deflate; client_max_window_bits=9, x"},
            "an extension that was not offered: permessage-deflate",
        ),
        ({"sec_websocket_extensions": ["", "x"]}, "an extension that was not offered: x"),
        ({"sec_websocket_extensions": '"?"'}, "an extension that was not offered"),
        ({"sec_websocket_extensions": "s3cret-token"}, "an extension that was not offered: ***"),
    ],
)
def test_what_breaks_the_protocol_is_final_and_told_in_words(
    headers: dict[str, str | list[str]], words: str
) -> None:
    assert judged(**headers) == Disconnection(
        cause=Cause.BAD_HANDSHAKE, detail=f"the server's 101 is not valid: {words}"
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("v3", "the subprotocol v3 was not offered"),
        ("V1", "the subprotocol V1 was not offered"),
        ("v 3", "the subprotocol was not offered"),
        ("s3cret-token", "the subprotocol *** was not offered"),
        ("v1, v2", "Sec-WebSocket-Protocol names several subprotocols"),
        (
            ["v1", "v3"],
            "the subprotocol v3 was not offered; Sec-WebSocket-Protocol names several subprotocols",
        ),
    ],
)
def test_a_subprotocol_that_does_not_fit_fails_the_attempt(value: str | list[str], words: str) -> None:
    disconnection = judged(sec_websocket_protocol=value)
    assert disconnection == Disconnection(
        cause=Cause.PROTOCOL, detail=f"the server's 101 is not valid: {words}"
    )


def test_everything_that_is_wrong_is_told_at_once() -> None:
    disconnection = judge_opening(head(sec_websocket_protocol="c", sec_websocket_extensions="x"), ASKED)
    assert isinstance(disconnection, Disconnection)
    for words in ("Connection", "Upgrade is missing", "Accept is missing", "offered: x", "c was not offered"):
        assert words in disconnection.detail
    assert disconnection.cause is Cause.BAD_HANDSHAKE


@given(st.lists(st.tuples(st.sampled_from([*GOOD, "sec-websocket-protocol", "x"]), st.text(max_size=20))))
def test_the_order_of_lines_of_different_names_does_not_matter(lines: list[tuple[str, str]]) -> None:
    lines += [(name, value) for name, values in GOOD.items() for value in values]
    by_name = sorted(lines, key=lambda line: line[0])
    first, second = (
        judge_opening(ResponseHead(status=101, headers=each), ASKED) for each in (lines, by_name)
    )
    assert first == second


# -- refusals -------------------------------------------------------------------------------------------


def told(status: int, body: bytes = b"", *, secure: bool = False, **headers: str) -> str:
    asked = Asked(secure=secure, key=KEY, subprotocols=(), secrets=("s3cret-token", "pw"))
    disconnection = refusal(head(status, **headers), body, asked, wall=0.0)
    assert (disconnection.cause, disconnection.status) == (Cause.REFUSED, status)
    return disconnection.detail.removeprefix("the server answered ")


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"token expired\nand more", "text/plain", "token expired"),
        (b"\r\n  \r\n a\tb\x00c\x1b[1m \r\nd", "", "a b c [1m"),
        (b'{\n  "message": "no such\\nkey"\n}', "application/json", '{ "message": "no such\\nkey" }'),
        (b"[\n1\n]", "", "[ 1 ]"),
        (
            (
                b"<html>\r\n<head><style>p {}\n</style><title>400 The plain HTTP request was sent to HTTPS port"
                b"</title></head><body>x"
            ),
            "text/html",
            "400 The plain HTTP request was sent to HTTPS port",
        ),
        (b"<!doctype html><!-- a\nb --><p>Who&#39;s there &amp; why</p>", "", "Who's there & why"),
        (b"no <tags> in \xc3\xa9", "text/html; charset=utf-8", "no"),
        (b"caf\xe9", "text/plain", "caf\N{REPLACEMENT CHARACTER}"),
        (b"is s3cret-token known?", "text/plain", "is *** known?"),
        (b"the pw", "text/plain", "***"),
        (b"<b>", "text/html", ""),
        (b"", "", ""),
        (b"x" * 300, "text/plain", "x" * 200 + "…"),
        (b"y" * 195 + b"s3cret-token", "", "y" * 195 + "***"),
    ],
)
def test_the_first_line_of_a_body_is_told(body: bytes, kind: str, said: str) -> None:
    assert first_line_of(body, kind, ("s3cret-token", "pw")) == said


@given(st.binary(max_size=400), st.sampled_from(["", "text/html", "application/json"]))
def test_whatever_a_body_holds_one_printable_line_is_told(body: bytes, kind: str) -> None:
    said = first_line_of(body, kind, ())
    assert said.isprintable() or not said
    assert len(said) <= 201


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        (told(403, b"token expired"), "403 Forbidden and said 'token expired'"),
        (told(404, b"404 Not Found"), "404 Not Found"),
        (told(404, b"not found\n"), "404 Not Found"),
        (told(799), "799"),
        (told(200), "200 OK: there is no WebSocket at this path"),
        (told(200, b"Hi"), "200 OK and said 'Hi': there is no WebSocket at this path"),
        (told(204), "204 No Content: there is no WebSocket at this path"),
        (
            told(400, b"<title>The plain HTTP request was sent to HTTPS port", content_type="text/html"),
            (
                "400 Bad Request and said 'The plain HTTP request was sent to HTTPS port';"
                " to speak TLS, write wss:// in url"
            ),
        ),
        (told(400, b"https, please", secure=True), "400 Bad Request and said 'https, please'"),
        (told(302), "302 Found; redirects are not followed: put the final address into url"),
        (
            told(301, location="https://me:pw@h.test:8/a;sid=1/b?token=x#y"),
            (
                "301 Moved Permanently and points to https://h.test:8/a/b;"
                " redirects are not followed: put the final address into url"
            ),
        ),
        (
            told(307, location="/login/s3cret-token"),
            (
                "307 Temporary Redirect and points to /login/***;"
                " redirects are not followed: put the final address into url"
            ),
        ),
        (told(302, location="?x"), told(302)),
        (told(302, location="//[x/"), told(302)),
        (told(302, location="https:/\x1b[0m" + "a" * 300), told(302, location="https:/ [0m" + "a" * 300)),
    ],
)
def test_a_refusal_says_what_to_do(detail: str, shown: str) -> None:
    assert detail == shown


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("99999999999999", 3600.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("1.5", None),
        ("²", None),
        ("１２", None),
        ("4²", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("Thu, 01 Jan 2970 00:00:10 GMT", 3600.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503, 500])
def test_who_is_too_busy_may_ask_to_wait(status: int, value: str, seconds: float | None) -> None:
    disconnection = refusal(head(status, retry_after=value), b"", ASKED, wall=40.0)
    assert disconnection.retry_after == (None if status == 500 else seconds)


def test_no_retry_after() -> None:
    assert refusal(head(503), b"", ASKED, wall=0.0).retry_after is None
