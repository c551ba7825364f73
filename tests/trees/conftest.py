"""A listener in memory, and clients for it that do as they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from wsproto.events import Event


class Client:
    """A client over a memory stream: notes what comes and when, answers pings and Closes unless told not to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.websocket = WSConnection(ConnectionType.CLIENT)
        self.messages: list[str | bytes] = []
        self.times: list[float] = []
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.subprotocol: str | None = None
        self.pings: list[float] = []
        self.pongs: list[float] = []
        """When pongs came."""
        self.answers: list[bytes] = []
        """Payloads of the pongs."""
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self.closed_at: float | None = None
        """When the close code came."""
        self.ended_at: float | None = None
        """When the transport ended."""
        self.answers_pings = True
        self.answers_close = True
        self._changed = trio.Event()
        self._reading = trio.Event()
        self._reading.set()

    def stall(self) -> None:
        """Read nothing any more."""
        self._reading = trio.Event()

    def go_on(self) -> None:
        self._reading.set()

    async def ask(
        self, target: str = "/", headers: list[tuple[str, str]] | None = None, **more: object
    ) -> None:
        extra = [(name.encode(), value.encode()) for name, value in headers or []]
        await self.send(Request(host="memory", target=target, extra_headers=extra, **more))

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.websocket.send(event))

    async def say(self, message: str | bytes) -> None:
        event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        await self.send(event)

    async def run(self) -> None:
        while True:
            await self._reading.wait()
            try:
                data = await self.stream.receive_some(65536)
                await self._reading.wait()
                if not data:
                    break
                self.websocket.receive_data(bytes(data))
                for event in self.websocket.events():
                    await self._on(event)
            except (trio.BrokenResourceError, trio.ClosedResourceError, LocalProtocolError):
                break
        self.ended_at = trio.current_time()
        self._note()

    async def _on(self, event: Event) -> None:
        match event:
            case AcceptConnection():
                self.status = 101
                self.subprotocol = event.subprotocol
                self.headers = {name.decode().lower(): value.decode() for name, value in event.extra_headers}
            case RejectConnection():
                self.status = event.status_code
                self.headers = {name.decode().lower(): value.decode() for name, value in event.headers}
            case TextMessage() | BytesMessage():
                assert event.message_finished
                self.messages.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
                self.times.append(trio.current_time())
            case Ping():
                self.pings.append(trio.current_time())
                if self.answers_pings:
                    await self.send(Pong(payload=bytes(event.payload)))
            case Pong():
                self.pongs.append(trio.current_time())
                self.answers.append(bytes(event.payload))
            case CloseConnection():
                self.close_code, self.close_reason = event.code, event.reason or ""
                self.closed_at = trio.current_time()
                if self.answers_close:
                    await self.send(event.response())
                    await self.stream.aclose()
            case _:
                pass
        self._note()

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for(self, count: int) -> None:
        """Wait until so many messages have come."""
        while len(self.messages) < count:
            await self._changed.wait()

    async def wait_status(self) -> int:
        while self.status is None and self.ended_at is None:
            await self._changed.wait()
        assert self.status is not None
        return self.status

    async def wait_closed(self) -> None:
        while self.close_code is None and self.ended_at is None:
            await self._changed.wait()

    async def wait_ended(self) -> None:
        while self.ended_at is None:
            await self._changed.wait()


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """Gives the streams whose other ends `connect` gives."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._sending, self._taking = trio.open_memory_channel[trio.abc.Stream](1000)

    async def accept(self) -> trio.abc.Stream:
        return await self._taking.receive()

    async def aclose(self) -> None:
        self._taking.close()
        await trio.lowlevel.checkpoint()

    def dial(self, *, bounded: bool = False) -> trio.abc.Stream:
        """A stream to the listener; bounded: what is written waits until it is read."""
        pair = trio.testing.lockstep_stream_pair if bounded else trio.testing.memory_stream_pair
        ours, theirs = pair()
        self.add(theirs)
        return ours

    def add(self, stream: trio.abc.Stream) -> None:
        """Let the output accept this stream next."""
        self._sending.send_nowait(stream)

    async def connect(
        self,
        target: str = "/",
        headers: list[tuple[str, str]] | None = None,
        *,
        bounded: bool = False,
        **more: object,
    ) -> Client:
        """A client whose handshake was answered."""
        client = await self.ask(target, headers, bounded=bounded, **more)
        await client.wait_status()
        return client

    async def ask(
        self,
        target: str = "/",
        headers: list[tuple[str, str]] | None = None,
        *,
        bounded: bool = False,
        **more: object,
    ) -> Client:
        """A client that has sent its handshake."""
        client = Client(self.dial(bounded=bounded))
        self._nursery.start_soon(client.run)
        await client.ask(target, headers, **more)
        return client


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


class LateListener(MemoryListener):
    """Gives streams whose writes return late."""

    async def accept(self) -> trio.abc.Stream:
        return LateStream(await super().accept())


@pytest.fixture
async def listener() -> AsyncIterator[MemoryListener]:
    async with trio.open_nursery() as nursery:
        yield MemoryListener(nursery)
        nursery.cancel_scope.cancel()
