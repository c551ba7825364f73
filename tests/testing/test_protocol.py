"""The test peer without I/O: two of them understand each other, however the bytes are cut."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.testing import PeerProtocol
from trio_wsout.testing.protocol import Close, Ping, Pong, Request, Response

if TYPE_CHECKING:
    from trio_wsout.testing.protocol import PeerEvent

SAID: st.SearchStrategy[list[str | bytes | Ping]] = st.lists(
    st.text(max_size=200) | st.binary(max_size=200) | st.builds(Ping, st.binary(max_size=125))
)


def pair() -> tuple[PeerProtocol, PeerProtocol]:
    """A client and a server whose handshake is done."""
    client, server = PeerProtocol(server=False), PeerProtocol(server=True)
    server.feed(client.request())
    client.feed(server.accept())
    return client, server


def encoded(protocol: PeerProtocol, event: PeerEvent) -> bytes:
    return protocol.ping(event.payload) if isinstance(event, Ping) else protocol.message(event)


@given(SAID, st.integers(1, 50), st.booleans())
def test_what_one_sends_the_other_gets(said: list[str | bytes | Ping], size: int, up: bool) -> None:
    sender, receiver = pair() if up else pair()[::-1]
    data = b"".join([encoded(sender, each) for each in said]) + sender.close(4001, "gone")
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert [event for piece in pieces for event in receiver.feed(piece)] == [*said, Close(4001, "gone")]
    assert receiver.feed(sender.message("late")) == [], "nothing is looked at behind a Close"


@given(st.integers(1, 60))
def test_a_handshake_is_understood_however_it_is_cut(size: int) -> None:
    client, server = PeerProtocol(server=False), PeerProtocol(server=True)
    data = client.request("/a?b=1", [("X-One", "1 "), ("x-two", "2")], host="h.test", subprotocols=["a", "b"])
    data += client.message("at once")
    (request, message) = [
        each for at in range(0, len(data), size) for each in server.feed(data[at : at + size])
    ]
    assert isinstance(request, Request)
    assert (request.path, message) == ("/a?b=1", "at once")
    told = {name: request.headers[name] for name in ("host", "x-one", "x-two", "sec-websocket-protocol")}
    assert told == {"host": "h.test", "x-one": "1", "x-two": "2", "sec-websocket-protocol": "a, b"}
    (response, pong) = client.feed(server.accept(subprotocol="b", headers={"X": "y"}) + server.pong(b"p"))
    assert isinstance(response, Response)
    told = {name: response.headers[name] for name in ("x", "sec-websocket-protocol")}
    assert (response.status, told, pong) == (101, {"x": "y", "sec-websocket-protocol": "b"}, Pong(b"p"))


@pytest.mark.parametrize("status", [404, 999])
def test_a_refusal_has_its_status_and_what_follows_is_its_body(status: int) -> None:
    client, server = PeerProtocol(server=False), PeerProtocol(server=True)
    server.feed(client.request())
    assert client.feed(server.refuse(status, {"Retry-After": "1"}) + b"no ") == [
        Response(status, {"content-length": "0", "retry-after": "1"})
    ]
    assert client.feed(b"entry") == []
    assert client.body == b"no entry"


def test_who_breaks_the_protocol_is_found() -> None:
    client, server = pair()
    with pytest.raises(AssertionError, match="sent a frame without a mask"):
        server.feed(server.message("not masked"))
    client, server = PeerProtocol(server=False), PeerProtocol(server=True)
    server.feed(client.request())
    PeerProtocol.request(client)
    with pytest.raises(AssertionError, match="accept value is wrong"):
        client.feed(server.accept())


def test_a_close_may_have_no_code_and_a_message_any_size() -> None:
    client, server = pair()
    assert server.feed(client.message(large := "x" * (1 << 20))) == [large]
    assert server.feed(client.close(1005)) == [Close(1005, "")]
    assert sys.maxsize > len(large)
