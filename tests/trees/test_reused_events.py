"""An event is read when it is sent: what the application does to its dict later changes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import Accept, Unreachable, open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener

SERVER = {"bind": "127.0.0.1:0"}


async def test_the_cursor_of_a_client_is_that_of_the_confirmed_event(autojump_clock: MockClock) -> None:
    config = {
        "url": "ws://peer.test/",
        "cursor": {"value-field": "id", "header-name": "Last-Event-ID"},
        "delivery": {"max-unconfirmed": 1},
        "shutdown-timeout": "1s",
    }
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=1.0), then=Unreachable())
        with pytest.raises(trio_wsout.DeliveryError):
            async with trio_wsout.open_output(config, open_stream=peer.open_stream) as output:
                event: dict[str, Any] = {}
                for number in (1, 2, 3):
                    event["id"] = number
                    await output.send(event)
                await trio.sleep(1.5)
                await peer.cut()
                figures = output.statistics()
                assert (figures.confirmed, figures.link.cursor) == (1, "1")


async def test_an_acknowledgement_names_the_event_as_it_was_sent(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    config = {"mode": "server-output", "server": SERVER, "delivery": {"level": "acked"}}
    cursor = {"value-field": "id", "query-parameter": "since"}
    async with trio_wsout.open_output(config | {"cursor": cursor}, listeners=[listener]) as output:
        client = await listener.connect()
        event: dict[str, Any] = {}
        for name in "abc":
            event["id"] = name
            await output.send(event)
        await client.wait_messages(3)
        for name, confirmed in (("b", 2), ("c", 3)):
            await client.send(json.dumps({"ack": name}))
            await trio.sleep(1)
            assert output.statistics().confirmed == confirmed


async def test_a_history_keeps_the_cursor_that_was_sent(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    cursor = {"value-field": "id", "query-parameter": "since"}
    config = {"mode": "server-output", "server": SERVER, "history": {}, "cursor": cursor}
    async with trio_wsout.open_output(config, listeners=[listener]) as output:
        event: dict[str, Any] = {}
        for number in (1, 2, 3):
            event["id"] = number
            await output.send(event)
        await output.flush()
        client = await listener.connect("/?since=1")
        await client.wait_messages(2)
        assert client.headers["resume-status"] == "resumed"
        assert client.messages == ['{"id":2}', '{"id":3}']


@pytest.mark.parametrize("stamp", [None, "s"])
async def test_the_link_of_a_relay_gets_what_the_peers_get(
    stamp: str | None, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    config = {"mode": "relay", "server": SERVER, "url": "ws://up.test/", "delivery": {"stamp": stamp}}
    async with open_peer() as up:
        async with trio_wsout.open_output(config, open_stream=up.open_stream, listeners=[listener]) as output:
            client = await listener.connect()
            event: dict[str, Any] = {}
            for number in range(3):
                event["n"] = number
                await output.send(event)
            event["n"] = float("nan")
            await output.send("a text")
            await output.send({})
            await output.flush()
            event = {}
        for messages in (client.messages, up.messages):
            found = [json.loads(each) for each in messages if each.startswith("{")]
            assert [each.get("n") for each in found] == [0, 1, 2, None]
            assert all(set(each) - {"n"} == ({stamp} if stamp else set()) for each in found)
            assert messages[3] == "a text"
