"""An endpoint for demonstrations: it takes messages, and can cut its connections."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketRequest, wrap_server_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["DemoEndpoint", "open_endpoint"]


class DemoEndpoint:
    """Takes messages on a port of this machine; not for strangers, who can end it."""

    messages: list[str]
    """What came, in order, over all connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.messages = []
        self.connections = 0
        self._streams: set[trio.SocketStream] = set()
        self._came = trio.Event()

    async def wait_for(self, count: int) -> None:
        """Wait until so many messages have come."""
        while len(self.messages) < count:
            await self._came.wait()

    async def cut(self) -> None:
        """Cut every connection without a word, as a crash would."""
        for stream in list(self._streams):
            await trio.aclose_forcefully(stream)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it is over."""
        self._streams.add(stream)
        self.connections += 1
        try:
            async with trio.open_nursery() as nursery:
                request: WebSocketRequest = await wrap_server_stream(nursery, stream)
                websocket = await request.accept()
                while True:
                    self.messages.append(str(await websocket.get_message()))
                    self._came.set()
                    self._came = trio.Event()
        except* (ConnectionClosed, HandshakeError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._streams.discard(stream)


@asynccontextmanager
async def open_endpoint() -> AsyncGenerator[DemoEndpoint, None]:
    """Listen on a free port of 127.0.0.1 as long as the block lasts."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    endpoint = DemoEndpoint(listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, endpoint.serve, listeners)
        yield endpoint
        nursery.cancel_scope.cancel()
