"""The opening handshake by trio_websocket: both sides agree, and nothing of it stays."""

from __future__ import annotations

import gc
from math import inf

import pytest
import trio
import trio.lowlevel
import wsproto
from attrs import evolve
from trio.testing import memory_stream_pair
from trio_websocket import WebSocketConnection
from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.request import Request
from trio_wsout._wire.http_request import read_head
from trio_wsout._wire.opening import accept_opening, ask_for_opening

REQUEST = Request(
    secure=False,
    host="peer",
    server_name="peer",
    port=80,
    authority="peer",
    resource="/feed?a=b",
    headers=(("X-One", b"1"),),
    subprotocols=("v2", "v1"),
)


async def serve(stream: trio.abc.Stream, behind: bytes = b"") -> None:
    """Answer one handshake, with these bytes behind the answer."""
    request = await read_head(stream)
    assert isinstance(request, tuple)
    head, rest = request
    assert (head.target, head.values("x-one"), rest) == ("/feed?a=b", ["1"], b"")
    assert head.tokens("sec-websocket-protocol") == ["v2", "v1"]
    answer = await accept_opening(head.values("sec-websocket-key")[0], "v1", [("X-Two", "zwei €")])
    assert b"x-two: zwei \xe2\x82\xac\r\n" in answer
    await stream.send_all(answer + behind)


async def test_both_sides_agree_and_nothing_of_trio_websocket_stays() -> None:
    ours, theirs = memory_stream_pair()
    before = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, b"\x81\x02hi")
        outcome = await ask_for_opening(ours, REQUEST, inf)
    assert not isinstance(outcome, Disconnection)
    assert outcome.subprotocol == "v1"
    assert outcome.rest == b"\x81\x02hi"
    assert outcome.received > 4
    assert trio.lowlevel.current_statistics().tasks_living == before
    gc.collect()
    kept = (WebSocketConnection, wsproto.WSConnection)
    assert [each for each in gc.get_objects() if type(each) in kept] == []
    await theirs.send_all(b"more")
    assert await ours.receive_some(9) == b"more", "nobody else reads the stream"


@pytest.mark.parametrize(
    "request_",
    [evolve(REQUEST, authority=f"{'x' * 70}.example"), evolve(REQUEST, headers=(("X-One", b"a\nb"),))],
    ids=["a host that IDNA refuses", "a header that h11 refuses"],
)
async def test_what_trio_websocket_raises_is_a_failed_attempt(request_: Request) -> None:
    outcome = await ask_for_opening(memory_stream_pair()[0], request_, inf)
    assert isinstance(outcome, Disconnection)
    assert outcome.cause is Cause.BAD_HANDSHAKE
    assert "the handshake can't be made" in outcome.detail
    assert "\n" not in outcome.detail


async def test_an_attempt_that_is_cancelled_leaves_no_task(autojump_clock: object) -> None:
    ours, _theirs = memory_stream_pair()
    before = trio.lowlevel.current_statistics().tasks_living
    with trio.move_on_after(5) as scope:
        await ask_for_opening(ours, REQUEST, inf)
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert trio.lowlevel.current_statistics().tasks_living == before
