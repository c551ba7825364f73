"""Graceful restarts under load, over real sockets: what a client counts as confirmed was taken before the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio_wsout

pytestmark = pytest.mark.network

ROUNDS = 8
RECONNECT = {"initial-backoff": "10ms", "max-backoff": "10ms"}


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    with trio.fail_after(300):
        yield


@pytest.mark.parametrize("mode", ["relay", "server-input"])
async def test_of_what_is_sent_while_the_server_ends_and_starts_again_nothing_is_lost(
    mode: str,
) -> None:
    taken: set[int] = set()
    sent = dropped = 0
    over = trio.Event()

    async def take(output: trio_wsout.Output) -> None:
        async for item in output.received:
            taken.add(int(str(item.event)))

    async def send_until_over(client: trio_wsout.Output) -> None:
        nonlocal sent
        while not over.is_set():
            await client.send(str(sent))
            sent += 1
        await client.flush()

    @asynccontextmanager
    async def serve(bind: str) -> AsyncIterator[str]:
        nonlocal dropped
        async with trio.open_nursery() as taking:
            fields = {"mode": mode, "server": {"bind": bind}}
            async with trio_wsout.open_output(fields, receive=True) as output:
                taking.start_soon(take, output)  # noqa: ASYNC111 - it ends with the output
                yield output.statistics().addresses[0]
        dropped += output.statistics().dropped

    async with serve("127.0.0.1:0") as address:
        pass
    async with trio_wsout.open_output({"url": f"ws://{address}/", "reconnect": RECONNECT}) as client:
        async with trio.open_nursery() as sending:
            sending.start_soon(send_until_over, client)
            for number in range(1, ROUNDS + 1):
                async with serve(address):
                    while client.statistics().confirmed < number * 3000:
                        await trio.sleep(0.01)
                    if number == ROUNDS:
                        over.set()
                        await client.flush()
    assert taken == set(range(sent))
    assert dropped > 0
