"""A listener in memory, the session of a link or of a peer with its other end, and streams that are slow."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import MemoryListener, open_listener, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_wsout.testing import PeerConnection

ROLES = ["link", "peer"]
"""Which end of its connection the session under test is: the one that dialled, or the one that accepted."""
SIDES: dict[str, dict[str, Any]] = {
    "link": {"url": "ws://peer.test/", "connect": {"mode": "eager"}, "reconnect": {"jitter": 0}},
    "peer": {"mode": "relay", "server": {"bind": "127.0.0.1:0"}},
}


class LateStream(trio.abc.Stream):
    """A stream whose writes arrive at once and return a second later, as where the task that writes gets no turn."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)
        await trio.sleep(1)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


class ListenerThrough(trio.abc.Listener[trio.abc.Stream]):
    """Gives the streams of another listener, each with something around it."""

    def __init__(
        self, listener: MemoryListener, through: Callable[[trio.abc.Stream], trio.abc.Stream]
    ) -> None:
        self._listener, self._through = listener, through

    async def accept(self) -> trio.abc.Stream:
        return self._through(await self._listener.accept())

    async def aclose(self) -> None:
        await self._listener.aclose()


def as_it_is(stream: trio.abc.Stream) -> trio.abc.Stream:
    return stream


@asynccontextmanager
async def open_session(
    role: str,
    *,
    through: Callable[[trio.abc.Stream], trio.abc.Stream] = as_it_is,
    receive: bool = False,
    buffered: bool = True,
    **fields: Any,
) -> AsyncIterator[tuple[trio_wsout.Output, PeerConnection]]:
    """Open an output with one session, and give its other end, too; `through` is put around the output's stream."""
    config = {**SIDES[role], **fields}
    if role == "link":
        async with open_peer(buffered=buffered) as peer:

            async def dial(host: str, port: int) -> trio.abc.Stream:
                return through(await peer.open_stream(host, port))

            async with trio_wsout.open_output(config, open_stream=dial, receive=receive) as output:
                yield output, peer.connections[0]
    else:
        async with open_listener() as listener:
            wrapped = ListenerThrough(listener, through)
            async with trio_wsout.open_output(config, listeners=[wrapped], receive=receive) as output:
                client = await listener.connect(buffered=buffered)
                await output.wait_peers(1)
                yield output, client


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def listener() -> AsyncIterator[MemoryListener]:
    async with open_listener() as listener:
        yield listener
