"""Events that are too old (delivery.max-age), over real sockets: a server that is away and comes back, and a peer that is slow."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import pytest
import trio
import trio_wsout
from processes import free_port
from trio_wsout.testing import PeerConnection

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


async def test_a_slow_peer_is_told_of_what_it_was_not_written_in_time_and_others_miss_nothing() -> None:
    """A server: what the slow peer lost lies between two messages, a gap names both, and the good peer has each."""
    fields = {
        "mode": "server-output",
        "server": {"bind": "127.0.0.1:0"},
        "delivery": {"max-age": "2s", "stamp": "seq"},
        "retry": {"timeout": "1h"},
    }
    sending, stale = trio.open_memory_channel[trio_wsout.Undelivered](10_000)
    pad, numbers = "x" * 100_000, itertools.count(1)
    async with (
        trio_wsout.open_output(fields, undelivered=sending) as output,
        trio.open_nursery() as nursery,
    ):
        port = int(output.statistics().addresses[0].rpartition(":")[2])
        good, slow = [PeerConnection(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(2)]
        slow.stop_reading()
        for peer, path in ((good, "/good"), (slow, "/slow")):
            nursery.start_soon(peer.run)
            await peer.request(path)
        await output.wait_peers(2)

        async def send(**more: object) -> None:
            number = next(numbers)
            await output.send({"n": number, **more})
            await good.wait_messages(number)  # it never waits behind another one

        for _ in range(200):  # more than the socket takes
            await send(pad=pad)
        while (lost := {peer.path: each.lost_by_slow for peer, each in output.peers().items()})["/slow"] == 0:
            await trio.sleep(0.05)
        slow.resume_reading()

        def caught_up() -> bool:
            return any(str(each).startswith(f'{{"n":{len(good.messages)},') for each in slow.messages[-1:])

        while not caught_up():
            await send()
            with trio.move_on_after(0.2):
                await slow.wait_until(caught_up)
        await output.flush()
        newest = len(good.messages)
        sent = {each["n"]: each["seq"] for each in map(json.loads, good.messages)}
        assert list(sent) == list(range(1, newest + 1))
        got = [json.loads(each) for each in slow.messages]
        gaps = [index for index, each in enumerate(got) if "gap" in each]
        missed = set(sent) - {each["n"] for each in got if "n" in each}
        assert len(missed) >= lost["/slow"] > 0 == lost["/good"]
        for at in gaps:
            before, behind = got[at - 1]["n"], got[at + 1]["n"]
            assert got[at] == {"gap": {"asked": sent[before], "first": sent[behind]}}
            missed -= set(range(before + 1, behind))
        assert not missed, "nothing is missing but between the gaps"
        figures = output.statistics()
        assert figures.listener is not None
        assert (figures.confirmed, figures.too_old, figures.listener.expelled) == (newest, 0, 0)
        nursery.cancel_scope.cancel()
    assert stale.statistics().current_buffer_used == 0
