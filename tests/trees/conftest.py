"""A listener in memory, and one whose streams are slow to return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio_wsout.testing import MemoryListener, open_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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
    async with open_listener() as listener:
        yield listener
