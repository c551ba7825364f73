"""Events that are too old (delivery.max-age), over real sockets: a server that is away, and one that is cut and comes back."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import trio
import trio_wsout
from processes import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@pytest.fixture(autouse=True)
async def bounded() -> AsyncGenerator[None, None]:
    """No test here may hang."""
    with trio.fail_after(120):
        yield


async def first_to_arrive(
    output: trio_wsout.Output, server: trio_wsout.Output, numbers: itertools.count[int]
) -> int:
    """Send one number after the other until one arrives."""
    while True:
        await output.send(next(numbers))
        with trio.move_on_after(0.2):
            return int((await server.received.receive()).event)  # type: ignore[arg-type]


async def test_a_server_that_comes_back_gets_nothing_that_became_too_old_while_it_was_away() -> None:
    port, numbers = free_port(), itertools.count(1)
    sending, stale = trio.open_memory_channel[trio_wsout.Undelivered](100_000)
    fields = {
        "url": f"ws://127.0.0.1:{port}/",
        "payload": "json",
        "delivery": {"max-age": "300ms"},
        "reconnect": {"initial-backoff": "50ms", "max-backoff": "50ms"},
    }
    serving = {"mode": "server-input", "server": {"bind": f"127.0.0.1:{port}"}, "payload": "json"}
    told: list[int] = []
    got: list[int] = []
    async with trio_wsout.open_output(fields, undelivered=sending) as output:
        for _ in range(2):  # away from the start, and away after the link was open
            old = next(numbers)
            await output.send(old)
            while old not in told:
                item = await stale.receive()
                assert item.reason == "older than delivery.max-age (0.3s) when its turn came"
                told.append(int(item.event))  # type: ignore[call-overload]
            async with trio_wsout.open_output(serving) as server:
                got.append(await first_to_arrive(output, server, numbers))
                await output.flush()
                server_left = server
            got += [int(each.event) async for each in server_left.received]  # type: ignore[arg-type]
    told += [int(stale.receive_nowait().event) for _ in range(stale.statistics().current_buffer_used)]  # type: ignore[call-overload]
    figures = output.statistics()
    assert sorted([*told, *got]) == list(range(1, next(numbers)))
    assert got == sorted(got)
    assert (figures.too_old, figures.confirmed) == (len(told), len(got))
