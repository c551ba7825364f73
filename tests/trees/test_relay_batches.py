"""Batches of a relay: they are the program's own, and what peers and the link send ends them, and goes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from tests.trees.test_relay import config, linked
from trio_wsout.testing import open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener, PeerConnection

BATCH = {"mode": "fixed", "fixed-size": 2, "timeout": "1s"}


async def say(speaker: PeerConnection, text: str) -> None:
    """Say something, and have it passed on."""
    await speaker.send(text)
    await trio.sleep(0.01)


@pytest.mark.parametrize("more", [{}, {"history": {"store": "memory:"}}], ids=["live", "history"])
async def test_what_is_passed_on_goes_at_once_behind_what_came_before_it(
    listener: MemoryListener, autojump_clock: MockClock, more: dict[str, Any]
) -> None:
    fields = linked(batch=BATCH, delivery={"stamp": "at"}, payload="json", **more)
    async with (
        open_peer() as up,
        trio_wsout.open_output(fields, listeners=[listener], open_stream=up.open_stream) as output,
    ):
        speaker, hearer = await listener.connect(), await listener.connect()
        start = trio.current_time()
        receipt = await output.submit({"own": "x"})
        await say(speaker, '{"peer":"p"}')
        await hearer.wait_messages(2)
        assert hearer.message_times[:2] == [start, start]
        await output.send({"own": "y"})
        await output.send({"own": "z"})
        await say(speaker, '{"peer":"q"}')
        await up.send('{"down":1}')
        await hearer.wait_messages(5)
        epoch = hearer.messages[0].split('"')[-2].split("-")[0]
        expected = [
            f'{{"own":"x","at":"{epoch}-1"}}',
            f'{{"peer":"p","at":"{epoch}-2"}}',
            f'{{"own":"y","at":"{epoch}-3"}}\n{{"own":"z","at":"{epoch}-4"}}',
            f'{{"peer":"q","at":"{epoch}-5"}}',
            f'{{"down":1,"at":"{epoch}-6"}}',
        ]
        assert hearer.messages == expected
        assert speaker.messages == [expected[0], expected[2], expected[4]]
        await output.flush()
        await receipt.wait()
        (link,) = up.connections
        assert link.messages == expected[:4], "it sent the fifth itself"
        figures = output.statistics()
        assert (figures.accepted, figures.confirmed, figures.unconfirmed) == (6, 6, 0)


async def test_the_link_sends_the_batches_that_the_peers_get_and_no_later(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = linked(batch={"mode": "document", "timeout": "1s", "header": "h"})
    async with (
        open_peer() as up,
        trio_wsout.open_output(fields, listeners=[listener], open_stream=up.open_stream) as output,
    ):
        hearer = await listener.connect()
        start = trio.current_time()
        for number in range(150):
            await output.send(number)
        await hearer.wait_messages(1)
        await up.wait_messages(1)
        assert trio.current_time() == start + 1.0, "a batch waits once, not once here and once for the link"
        await output.send("after")
        await output.end_document()
        await up.wait_messages(2)
        assert trio.current_time() == start + 1.0
        assert up.messages == hearer.messages
        assert [len(message.split("\n")) for message in up.messages] == [151, 2]


async def test_an_open_batch_is_part_of_what_a_flush_waits_for_and_of_what_is_left(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(batch={**BATCH, "fixed-size": 10}, **{"shutdown-timeout": "0s"})
    with pytest.raises(trio_wsout.DeliveryError) as caught:
        async with trio_wsout.open_output(fields, listeners=[listener]) as output:
            speaker, hearer = await listener.connect(), await listener.connect()
            await output.send("x")
            await say(speaker, "p")
            await output.send("y")
            await output.flush()
            assert hearer.messages == ["x", "p", "y"]
            figures = output.statistics()
            assert (figures.accepted, figures.confirmed, figures.queued) == (3, 3, 0)
            hearer.pong_after = None
            await say(speaker, "q")
            await output.send("z")
            await say(speaker, "r")
    assert sorted(each.event for each in caught.value.undelivered) == ["q", "r", "z"]
    figures = output.statistics()
    assert (figures.accepted, figures.confirmed, figures.undelivered) == (6, 3, 3)


async def test_who_resumes_between_gets_each_event_once(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(
        batch={**BATCH, "fixed-size": 2},
        delivery={"stamp": "at"},
        payload="json",
        history={"store": "memory:"},
        cursor={"query-parameter": "after"},
    )
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        speaker, hearer = await listener.connect(), await listener.connect()
        for number in range(9):
            await output.send({"own": number})
            await say(speaker, f'{{"peer":{number}}}')
        await output.flush()
        lines = [line for message in hearer.messages for line in message.split("\n")]
        numbers = [int(line.split("-")[1].split('"')[0]) for line in lines]
        assert numbers == list(range(1, 19))
        for number, line in enumerate(lines, 1):
            again = await listener.connect(f"/?after={line.split(chr(34))[-2]}")
            await trio.sleep(0.1)
            got = [each for message in again.messages for each in message.split("\n")]
            assert got == lines[number:]
            await again.cut()
