"""One bad peer can't fill a log: each kind of line comes at once, and then once a minute with its count."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import MemoryListener, open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout import Handshake


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    """The records with these words from WARNING on; of each the first line."""
    found = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    return [text.partition("\n")[0] for text in found if words in text]


def config(mode: str = "server-input", **fields: Any) -> dict[str, Any]:
    return {"mode": mode, "server": {"bind": "127.0.0.1:0", **fields.pop("server", {})}, **fields}


async def test_messages_that_nobody_can_read_are_told_once_a_minute(
    listener: MemoryListener, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio_wsout.open_output(config(payload="json"), listeners=[listener]) as output:
        first, second = await listener.connect(), await listener.connect()
        for number in range(100):
            for client in (first, second):
                await client.send("{")
            await trio.sleep(0.9)
            told = lines(caplog, "a received message was dropped")
            assert len(told) == (1 if 0.9 * (number + 1) < 60 else 2)
        assert told[0].startswith("a received message was dropped: ")
        assert told[1] == f"133 more like this, the latest: {told[0]}"
        assert output.statistics().dropped == 200
    assert lines(caplog, "a received message was dropped")[2:] == [
        f"66 more like this, the latest: {told[0]}"
    ], "the rest is told at the end"


async def test_a_link_tells_of_a_server_likewise(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    document = {"url": "ws://h/", "payload": "json", "connect": {"mode": "eager"}}
    async with open_peer() as peer:
        async with trio_wsout.open_output(document, open_stream=peer.open_stream, receive=True):
            for _ in range(50):
                await peer.send("{")
            await trio.sleep(61)
            told = lines(caplog, "dropped")
            assert told[1:] == [f"49 more like this, the latest: {told[0]}"]


async def test_what_an_application_raises_for_each_handshake_is_told_once_a_minute(
    listener: MemoryListener, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def authenticate(_: Handshake) -> trio_wsout.Admit:
        raise ValueError

    async with trio_wsout.open_output(config(), listeners=[listener], authenticate=authenticate):
        for _ in range(30):
            assert (await listener.connect()).status == 500
        assert len(lines(caplog, "authenticate callable raised ValueError")) == 1
        assert "Traceback" not in caplog.text
        await trio.sleep(61)
        assert len(lines(caplog, "authenticate callable raised ValueError")) == 2


async def test_what_a_relay_can_not_pass_on_is_told_once_a_minute(
    listener: MemoryListener, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    fields = config("relay", payload="json", delivery={"stamp": "s"})
    async with trio_wsout.open_output(fields, listeners=[listener]):
        client = await listener.connect()
        for _ in range(7):
            await client.send('{"s": 1}')
        await trio.sleep(1)
        assert len(lines(caplog, "was not passed on")) == 1


async def test_no_output_hides_what_another_has_to_tell(
    listener: MemoryListener,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = MemoryListener(nursery)
    async with (
        trio_wsout.open_output(config(payload="json"), listeners=[listener]),
        trio_wsout.open_output(config(payload="json"), listeners=[other]),
    ):
        for each in (listener, other):
            client = await each.connect()
            await client.send("{")
            await client.send("[")
        await trio.sleep(1)
        assert len(lines(caplog, "dropped")) == 2


async def test_peers_that_are_missed_are_told_once_a_minute(
    listener: MemoryListener, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    heartbeat = {"ping-interval": "2s", "timeout": "1s", "action": "log-only"}
    async with trio_wsout.open_output(config(heartbeat=heartbeat), listeners=[listener]) as output:
        for _ in range(5):
            (await listener.connect()).pong_after = None
        await trio.sleep(10)
        assert output.statistics().heartbeat_misses >= 5
        assert len(lines(caplog, "no sign of life")) == 1
        await trio.sleep(60)
        assert len(lines(caplog, "no sign of life")) == 2
