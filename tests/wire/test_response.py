"""The head of the server's answer, judged before anybody else sees it."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.ending import Cause
from trio_wsout._wire.response import MOST_HEAD, head_is_complete, judge_head

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


def test_a_101_is_left_to_the_protocol_library() -> None:
    assert judge_head(SWITCHING + b"\r\n\x81\x01a", ()) is None


def test_half_a_head_is_waited_for() -> None:
    assert not head_is_complete(SWITCHING)
    assert judge_head(SWITCHING, ()) is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (200, "200 OK"),
        (401, "401 Unauthorized"),
        (302, "redirects are not followed"),
        (799, "799"),
        (100, "100"),
    ],
)
def test_any_other_status_is_a_refusal(status: int, words: str) -> None:
    ending = judge_head(b"HTTP/1.1 %d x\r\nLocation: http://elsewhere/?secret\r\n\r\n" % status, ())
    assert ending is not None
    assert (ending.cause, ending.status) == (Cause.REFUSED, status)
    assert words in ending.detail
    assert "secret" not in ending.detail


@pytest.mark.parametrize("line_end", [b"\n\n", b"\r\n\r\n"])
def test_both_line_ends_end_a_head(line_end: bytes) -> None:
    ending = judge_head(b"HTTP/1.1 404 x" + line_end, ())
    assert ending is not None
    assert ending.status == 404


def test_a_subprotocol_must_have_been_offered() -> None:
    answer = SWITCHING + b"Sec-WebSocket-Protocol: b\r\n\r\n"
    assert judge_head(answer, ("a", "b")) is None
    ending = judge_head(answer, ("a",))
    assert ending is not None
    assert "subprotocol" in ending.detail


def test_a_head_without_end_is_cut_off() -> None:
    ending = judge_head(b"HTTP/1.1 200 OK\r\nX: " + b"x" * MOST_HEAD, ())
    assert ending is not None
    assert "bytes" in ending.detail


def test_too_many_headers() -> None:
    ending = judge_head(SWITCHING + b"".join(b"X-%d: 1\r\n" % n for n in range(101)) + b"\r\n", ())
    assert ending is not None
    assert "headers" in ending.detail


@given(st.binary(max_size=200))
def test_garbage_never_fails(garbage: bytes) -> None:
    ending = judge_head(garbage + b"\r\n\r\n", ())
    assert ending is not None


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
    ],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    for status in (429, 503):
        ending = judge_head(f"HTTP/1.1 {status} x\r\nRetry-After: {value}\r\n\r\n".encode(), ())
        assert ending is not None
        assert ending.retry_after == seconds


def test_retry_after_as_a_date() -> None:
    date = formatdate(time.time() + 100, usegmt=True)
    ending = judge_head(f"HTTP/1.1 503 x\r\nRetry-After: {date}\r\n\r\n".encode(), ())
    assert ending is not None
    assert ending.retry_after == pytest.approx(100, abs=3)
    past = judge_head(b"HTTP/1.1 503 x\r\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n", ())
    assert past is not None
    assert past.retry_after == 0.0


def test_other_statuses_may_not_ask_to_wait() -> None:
    ending = judge_head(b"HTTP/1.1 500 x\r\nRetry-After: 7\r\n\r\n", ())
    assert ending is not None
    assert ending.retry_after is None
