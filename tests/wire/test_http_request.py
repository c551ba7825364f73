"""A request's head, read from a stranger: however its bytes are cut, it comes to the same."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st
from trio_wsout._core.admission import Admission, Handshake, Head, Response
from trio_wsout._wire.http_request import read_head
from trio_wsout.config import Server

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 16 * 1024
GOOD = (
    b"GET /feed HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
ADMISSION = Admission(Server(bind="127.0.0.1:0"), subprotocols=("b", "c"))


class Pieces(trio.abc.ReceiveStream):
    """Gives bytes in these pieces, and then hangs up."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = [*(piece for piece in pieces if piece), b""]

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        assert max_bytes is not None
        piece = self._pieces.pop(0)
        if len(piece) > max_bytes:
            self._pieces.insert(0, piece[max_bytes:])
        return piece[:max_bytes]

    async def aclose(self) -> None:
        """Nothing is open."""


def read(pieces: Iterable[bytes]) -> tuple[Head, bytes] | Response | None:
    """What `read_head` gives; of what came behind the head, whatever it had read of it."""

    async def main() -> tuple[Head, bytes] | Response | None:
        return await read_head(Pieces(pieces))  # type: ignore[arg-type] # it only reads

    return trio.run(main)


def status_of(data: bytes) -> int | None:
    came = read([data])
    return came.status if isinstance(came, Response) else None


@pytest.mark.parametrize("lines", [b"", b"\r\n", b"\n", b"\r\n\n"])
@pytest.mark.parametrize("step", [1, 2, 3, 4096])
def test_empty_lines_before_a_request_mean_nothing(lines: bytes, step: int) -> None:
    data = lines + GOOD + b"\r\n"
    came = read(data[at : at + step] for at in range(0, len(data), step))
    assert isinstance(came, tuple)
    head, rest = came
    assert (head.method, head.path, rest) == ("GET", "/feed", b"")


def test_what_follows_the_head_stays_as_it_is() -> None:
    came = read([b"\r\n" + GOOD + b"\r\n\r\n\x81"])
    assert isinstance(came, tuple)
    assert came[1] == b"\r\n\x81"


@pytest.mark.parametrize(
    "lines",
    [
        b"Connection: keep-alive\r\n",
        b"Sec-WebSocket-Extensions:\r\nSec-WebSocket-Extensions: ,\r\n",
        b"Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol:\r\nSec-WebSocket-Protocol: , c,, b\r\n",
        b"Upgrade: h2c\r\n",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_lists_stand_on_any_number_of_lines(lines: bytes, first: bool) -> None:
    request, rest = GOOD.split(b"\r\n", 1)
    data = request + b"\r\n" + lines + rest if first else GOOD + lines
    came = read([data + b"\r\n"])
    assert isinstance(came, tuple)
    handshake = ADMISSION.judge(came[0], "a")
    assert isinstance(handshake, Handshake)
    assert handshake.subprotocols == (("a", "c", "b") if b"Protocol" in lines else ())
    assert ADMISSION.choose_subprotocol(handshake.subprotocols) == ("b" if b"Protocol" in lines else None)


@pytest.mark.parametrize("begun", [b"\x16\x03\x01", b"\x00", b" GET", b"\r\r", b"\r\n\rG", b"\r\n" * 3])
def test_what_begins_no_request_is_refused_at_its_first_byte(begun: bytes) -> None:
    assert status_of(begun) == 400


@pytest.mark.parametrize("begun", [b"", b"\r", b"\r\n", b"\r\n\r", b"\xffGET", GOOD])
def test_what_may_become_a_request_is_waited_for(begun: bytes) -> None:
    assert read([begun]) is None


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n"]
)
def test_what_h11_takes_for_no_request_is_refused(data: bytes) -> None:
    assert status_of(data) == 400


@pytest.mark.parametrize("size", [MOST, MOST + 1])
def test_the_limit_of_a_head_does_not_depend_on_segments(size: int) -> None:
    data = b"\r\n" + GOOD + b"X: "
    data += b"x" * (size - len(data) - 4) + b"\r\n\r\n"
    for step in (1000, MOST - 1, MOST, MOST + 1):
        came = read(data[at : at + step] for at in range(0, size, step))
        if size > MOST:
            assert isinstance(came, Response)
            assert came.status == 431
        else:
            assert isinstance(came, tuple)


def test_too_many_headers() -> None:
    assert status_of(GOOD + b"X: y\r\n" * 96 + b"\r\n") == 431
    assert status_of(GOOD + b"X: y\r\n" * 95 + b"\r\n") is None


PIECES = st.sampled_from(
    [
        GOOD,
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"X: y\r\n",
        b" fold\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b"X: " + b"x" * 9000 + b"\r\n",
    ]
)


@given(st.lists(PIECES | st.binary(max_size=3), max_size=8).map(b"".join), st.lists(st.integers(0, 300)))
@example(b"\r\n" * 9000, [])
@example(b"\x00" * 20_000, [1])
def test_however_a_request_is_cut_it_comes_to_the_same(data: bytes, marks: list[int]) -> None:
    def verdict(pieces: Iterable[bytes]) -> object:
        came = read(pieces)
        return came[0] if isinstance(came, tuple) else came

    cuts = [0, *sorted(min(mark, len(data)) for mark in marks), len(data)]
    whole = verdict([data])
    assert verdict(data[start:stop] for start, stop in pairwise(cuts)) == whole
    assert verdict(data[at : at + 100] for at in range(0, len(data), 100)) == whole
