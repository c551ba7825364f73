"""Whether a peer left, asked of the system: over real sockets, with bytes unread, below TLS too."""

from __future__ import annotations

import socket
import ssl
import sys

import pytest
import trio
import trio.testing
from trio_wsout._wire.tcp import peer_left, set_user_timeout
from trio_wsout.config.sections import Heartbeat

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a half that is closed")


async def pair(kind: str) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Both ends of a connection, this side's first."""
    if kind == "unix":
        ours, theirs = trio.socket.socketpair()
        return trio.SocketStream(ours), trio.SocketStream(theirs)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        theirs = await trio.testing.open_stream_to_socket_listener(listener)
        return await listener.accept(), theirs


def seen_through(stream: trio.SocketStream, layer: str) -> trio.abc.Stream:
    return trio.SSLStream(stream, ssl.create_default_context()) if layer == "TLS" else stream


async def found(stream: trio.abc.Stream) -> bool:
    """Whether it is found to have left, within the time that a packet may take."""
    with trio.move_on_after(5):
        while not peer_left(stream):
            await trio.sleep(0.01)
        return True
    return False


@pytest.mark.parametrize("layer", ["plain", "TLS"])
@pytest.mark.parametrize("how", ["closes", "closes its half", "resets"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_peer_that_leaves_is_seen_behind_bytes_that_nobody_reads(
    kind: str, how: str, layer: str
) -> None:
    ours, theirs = await pair(kind)
    stream = seen_through(ours, layer)
    async with ours, theirs:
        await theirs.send_all(b"unread" * 1000)
        assert not peer_left(stream)
        match how:
            case "closes":
                await theirs.aclose()
            case "closes its half":
                await theirs.send_eof()
            case _:
                await ours.send_all(b"unread, too")  # so that the system resets the connection
                theirs.socket.shutdown(socket.SHUT_RD)
                await theirs.aclose()
        assert await found(stream)
    assert peer_left(stream), "it is closed here"


async def test_a_stream_in_memory_is_not_known_to_be_left() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    assert not peer_left(ours)


@pytest.mark.parametrize(
    ("interval", "timeout", "options"),
    [(20.0, 10.0, (1, 30, 10)), (0.1, 0.2, (1, 1, 1)), (1e6, 1e6, (1, 32767, 32767))],
)
async def test_the_system_asks_for_a_peer_that_is_silent_as_long_as_the_heartbeat_bears(
    interval: float, timeout: float, options: tuple[int, int, int]
) -> None:
    ours, theirs = await pair("tcp")
    async with ours, theirs:
        set_user_timeout(ours, Heartbeat(ping_interval=interval, timeout=timeout))
        set_user_timeout(theirs, None)
        names = (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        )
        assert tuple(ours.getsockopt(*each) for each in names) == options
        assert theirs.getsockopt(*names[0]) == 0
