"""A server's answer, read before anybody else sees it: however its bytes are cut, it comes to the same."""

from __future__ import annotations

import time
from email.utils import formatdate
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import trio
from attrs import frozen
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.opening import Asked
from trio_wsout._wire.http_response import MOST_BODY, MOST_EARLY, MOST_HEAD, Answer, read_response

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
OPEN = SWITCHING + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"


class Pieces(trio.abc.ReceiveStream):
    """Gives bytes in these pieces; then it hangs up, or nothing more comes."""

    def __init__(self, pieces: Iterable[bytes], *, hangs_up: bool) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._hangs_up = hangs_up

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        assert max_bytes
        await trio.lowlevel.checkpoint()
        if not self._pieces:
            return b"" if self._hangs_up else await trio.sleep_forever()
        piece = self._pieces.pop(0)
        if len(piece) > max_bytes:
            self._pieces.insert(0, piece[max_bytes:])
        return piece[:max_bytes]

    async def aclose(self) -> None:
        """Nothing is open."""


@frozen
class Came:
    """What came of an answer, and how many seconds that took."""

    outcome: Answer | Disconnection | None
    """None: nothing, for more is waited for."""
    took: float

    @property
    def opened(self) -> bool:
        return isinstance(self.outcome, Answer)

    @property
    def rest(self) -> bytes:
        assert isinstance(self.outcome, Answer)
        return self.outcome.rest

    @property
    def disconnection(self) -> Disconnection | None:
        return self.outcome if isinstance(self.outcome, Disconnection) else None


def read(pieces: Iterable[bytes], *, end: bool = False, secure: bool = False) -> Came:
    """Read an answer in these pieces; `end`: the server hangs up behind them."""
    asked = Asked(secure=secure, key=KEY, subprotocols=("v1",))

    async def main() -> Came:
        outcome, began = None, trio.current_time()
        with trio.move_on_after(10):
            stream: Any = Pieces(pieces, hangs_up=end)
            outcome = await read_response(stream, asked, deadline=inf)
        return Came(outcome, trio.current_time() - began)

    return trio.run(main, clock=MockClock(autojump_threshold=0))


def ending_of(answer: bytes, *, secure: bool = False) -> Disconnection:
    disconnection = read([answer], secure=secure).disconnection
    assert disconnection is not None
    return disconnection


@pytest.mark.parametrize("early", [b"", EARLY, b"HTTP/1.1 100 Continue\r\n\r\n" * MOST_EARLY])
def test_a_101_opens_also_behind_informational_answers(early: bytes) -> None:
    reader = read([early + OPEN + b"\r\n\x81\x01a"])
    assert (reader.opened, reader.rest, reader.disconnection) == (
        True,
        b"\x81\x01a",
        None,
    )


def test_too_many_informational_answers() -> None:
    disconnection = ending_of(b"HTTP/1.1 100 Continue\r\n\r\n" * (MOST_EARLY + 1) + OPEN + b"\r\n")
    assert (disconnection.cause, "1xx" in disconnection.detail) == (Cause.PROTOCOL, True)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [([], "before the opening"), ([SWITCHING], "in the middle"), ([EARLY], "in the middle")],
)
def test_half_a_head_is_waited_for(pieces: list[bytes], words: str) -> None:
    assert read(pieces).outcome is None
    disconnection = read(pieces, end=True).disconnection
    assert disconnection is not None
    assert (disconnection.cause, words in disconnection.detail) == (Cause.LOST, True)


@pytest.mark.parametrize(
    ("status", "words"), [(200, "200 OK"), (401, "401 Unauthorized"), (302, "not followed"), (799, "799")]
)
def test_any_other_final_status_is_a_refusal(status: int, words: str) -> None:
    disconnection = ending_of(b"HTTP/1.1 %d x\r\nLocation: http://elsewhere/?secret\r\n\r\n" % status)
    assert (disconnection.cause, disconnection.status) == (Cause.REFUSED, status)
    assert words in disconnection.detail
    assert "secret" not in disconnection.detail


@pytest.mark.parametrize("line_end", [b"\n\n", b"\r\n\r\n"])
def test_both_line_ends_end_a_head(line_end: bytes) -> None:
    assert ending_of(b"HTTP/1.1 404 x" + line_end).status == 404


@pytest.mark.parametrize("size", [17_000, MOST_HEAD - len(OPEN) - 7, MOST_HEAD - len(OPEN) - 6, 10**6])
@pytest.mark.parametrize("early", [b"", EARLY])
def test_the_limit_of_a_head_does_not_depend_on_segments(size: int, early: bytes) -> None:
    size -= len(early)
    answer = early + OPEN + b"X: " + b"x" * size + b"\r\n\r\n"
    opens = len(answer) <= MOST_HEAD
    for cuts in ([], [16_900], [16_384], [MOST_HEAD - 1], [MOST_HEAD], range(1, len(answer), 999)):
        marks = [0, *(cut for cut in cuts if cut < len(answer)), len(answer)]
        reader = read(answer[start:stop] for start, stop in pairwise(marks))
        assert reader.opened == opens
        if not opens:
            assert reader.disconnection is not None
            assert f"{MOST_HEAD} bytes" in reader.disconnection.detail


def test_a_head_without_end_is_cut_off() -> None:
    assert "bytes" in ending_of(b"HTTP/1.1 200 OK\r\nX: " + b"x" * MOST_HEAD).detail


def test_too_many_headers() -> None:
    disconnection = ending_of(OPEN + b"".join(b"X-%d: 1\r\n" % n for n in range(101)) + b"\r\n")
    assert "headers" in disconnection.detail


@pytest.mark.parametrize(
    "garbage", [b"S", b"SSH-2.0-OpenSSH_9.2", b"HTTP/2.0 101 x\r\n\r\n", b"HTTP/1.1 x\r\n\r\n"]
)
def test_what_is_no_http_is_found_out_at_its_first_byte(garbage: bytes) -> None:
    assert ending_of(garbage).detail == "the server's answer is not HTTP/1.1"


@pytest.mark.parametrize("record", [b"\x15", b"\x15\x03\x01\x00\x02\x02\x46", b"\x16\x03"])
def test_a_server_that_speaks_tls_is_known_by_its_first_byte(record: bytes) -> None:
    assert "wss://" in ending_of(record).detail
    assert ending_of(record, secure=True).detail == "the server's answer is not HTTP/1.1"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 7\r\n\r\n", b"expired and not this"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nexpi\r\n3\r\nred\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"7\r\nexpired\r\nand no chunk"),
        (b"\r\n", b"expired"),
    ],
)
def test_what_a_refusal_says_is_read_as_it_is_framed(framing: bytes, body: bytes) -> None:
    reader = read([b"HTTP/1.1 403 Forbidden\r\n" + framing, body], end=True)
    assert reader.took == 0
    assert reader.disconnection is not None
    assert reader.disconnection.detail == "the server answered 403 Forbidden and said 'expired'"


def test_a_refusal_without_a_body_is_not_waited_for() -> None:
    assert read([b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"]).took == 0
    assert read([b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1\r\n\r\n"]).took == 0.25


def test_a_body_without_end_is_read_so_far() -> None:
    reader = read([b"HTTP/1.1 403 x\r\n\r\n", b"\n" * (MOST_BODY - 1), b"a", b"b"])
    assert reader.took == 0
    assert reader.disconnection is not None
    assert reader.disconnection.detail.endswith(" and said 'a'")


LONG = b"{40 kB}"
"""Stands for that much in an answer, so that Hypothesis can say in a few words what it drew."""
PIECES = st.sampled_from(
    [
        OPEN + b"\r\n",
        OPEN,
        EARLY,
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 ",
        b"hello",
        b"\r\n",
        b"\r",
        b"\n",
        b"\x15",
        b"Sec-WebSocket-Protocol: v1\r\n",
        b"X: " + LONG + b"\r\n",
    ]
)


@example(OPEN + b"\r\nX: " + LONG, [1])
@given(st.lists(PIECES | st.binary(max_size=5), max_size=8).map(b"".join), st.lists(st.integers(0, 300)))
def test_however_an_answer_is_cut_it_comes_to_the_same(answer: bytes, marks: list[int]) -> None:
    answer = answer.replace(LONG, b"x" * 40_000)
    cuts = [0, *sorted(min(mark, len(answer)) for mark in marks), len(answer)]
    pieces = [answer[start:stop] for start, stop in pairwise(cuts) if start < stop]
    cut, whole = read(pieces, end=True), read([answer] if answer else [], end=True)
    assert (cut.opened, cut.disconnection) == (whole.opened, whole.disconnection)
    ends: set[int] = set()  # of heads
    for each in (cut.outcome, whole.outcome):
        if isinstance(each, Answer):
            end = each.received - len(each.rest)
            ends.add(end)
            assert each.rest == answer[end : each.received]
    assert len(ends) == whole.opened


@given(st.binary(max_size=200))
def test_garbage_never_fails(garbage: bytes) -> None:
    assert read([garbage + b"\r\n\r\n"]).outcome is not None


def test_retry_after_as_a_date() -> None:
    date = formatdate(time.time() + 100, usegmt=True)
    disconnection = ending_of(f"HTTP/1.1 503 x\r\nRetry-After: {date}\r\n\r\n".encode())
    assert disconnection.retry_after == pytest.approx(100, abs=3)
