"""What a server's answer to the opening handshake costs a link in time, to the second."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import memory_stream_pair
from trio_wsout import ConnectError, open_output

if TYPE_CHECKING:
    from trio.testing import MockClock

BODY = 0.25
"""Seconds that a refusal is kept back for its body, as the documentation says."""


async def fail(pieces: list[bytes | None], *, within: float = 10.0) -> tuple[str, float]:
    """Dial a server that answers by these pieces, a second after each other; None: it hangs up.

    Returns:
        The cause of the error, and when it was there.
    """

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.receive_some()
        for index, piece in enumerate(pieces):
            if index:
                await trio.sleep(1)
            if piece is None:
                await stream.send_eof()
            else:
                await stream.send_all(piece)

    async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        nursery.start_soon(serve, theirs)
        return ours

    config = {
        "url": "ws://h/",
        "connect": {"mode": "eager", "timeout": within},
        "reconnect": {"max-attempts": 1},
        "headers": {"Authorization": "Bearer s3cret-token"},
    }
    async with trio.open_nursery() as nursery:
        begun = trio.current_time()
        with pytest.raises(ConnectError) as caught:
            async with open_output(config, open_stream=open_stream):
                pytest.fail("it must not open")
        took = trio.current_time() - begun
        nursery.cancel_scope.cancel()
    return caught.value.cause, took


@pytest.mark.parametrize(
    ("pieces", "cause", "took"),
    [
        ([b"HTTP/1.1 403 x\r\nContent-Length: 4\r\n\r\ngone"], "403 Forbidden and said 'gone'", 0),
        ([b"HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n"], "403 Forbidden", 0),
        ([b"HTTP/1.1 403 x\r\nContent-Length: 4\r\n\r\n", b"gone"], "403 Forbidden", BODY),
        ([b"HTTP/1.1 403 x\r\n\r\nno end"], "403 Forbidden and said 'no end'", BODY),
        ([b"HTTP/1.1 403 x\r\n\r\nBearer s3cret-token"], "403 Forbidden and said 'Bearer ***'", BODY),
        ([b"HTTP/1.1 103 x\r\n\r\n", b"HTTP/1.1 103 x\r\n\r\n", b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"],
         "404 Not Found", 2),
        ([b"SSH-2.0-x"], "the server's answer is not HTTP/1.1", 0),
        ([b"\x15\x03\x03"], "the server speaks TLS here: write wss:// in url", 0),
    ],
)  # fmt: skip
async def test_a_refusal_is_told_at_once_or_a_quarter_of_a_second_later(
    pieces: list[bytes | None], cause: str, took: float, autojump_clock: MockClock
) -> None:
    told, waited = await fail(pieces)
    assert re.search(f"(^|the server answered ){re.escape(cause)}(, which is final)?$", told), told
    assert waited == pytest.approx(took)


async def test_a_refusal_is_told_though_the_attempt_is_out_of_time(autojump_clock: MockClock) -> None:
    told, waited = await fail([b"", b"HTTP/1.1 403 x\r\n\r\n"], within=1.1)
    assert "403" in told
    assert waited == pytest.approx(1.05), "half of the time that was left"


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([None], "before the opening handshake was answered; if it speaks TLS, write wss:// in url"),
        ([b"HTTP/1.1 101 S", None], "in the middle of the answer to the opening handshake"),
        ([b"HTTP/1.1 103 x\r\n\r\n", None], "in the middle of the answer to the opening handshake"),
    ],
)
async def test_a_server_that_hangs_up_is_told_as_that(
    pieces: list[bytes | None], words: str, autojump_clock: MockClock
) -> None:
    told, _ = await fail(pieces)
    assert told == f"the peer closed the connection without a Close frame, {words}"
