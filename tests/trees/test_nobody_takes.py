"""Waits for confirmations while nobody takes what came: they end and say so; a slow application is left alone."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import open_peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener

SAID = r"nothing was taken from output\.received for retry\.timeout \(30 s\)"
FULL = 64 + 3
"""Messages that fill `received`, and a few more."""


def config(**fields: Any) -> dict[str, Any]:
    return {"url": "ws://peer.test/", "retry": {"timeout": "30s"}, **fields}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


async def flush(output: trio_wsout.Output) -> None:
    await output.send("x")
    await output.flush()


async def wait(output: trio_wsout.Output) -> None:
    await (await output.submit("x")).wait()


@pytest.mark.parametrize("way", [flush, wait])
async def test_a_wait_ends_when_nobody_has_taken_for_retry_timeout_and_the_block_ends_in_time(
    way: Callable[[trio_wsout.Output], Awaitable[None]],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, receive=True) as output:
            await output.wait_connected()
            for number in range(FULL):
                await peer.send(str(number))
            await trio.sleep(5)
            start = trio.current_time()
            with pytest.raises(trio_wsout.DeliveryError, match=SAID) as caught:
                await way(output)
            assert trio.current_time() - start == 25.0, "from when the first began to wait"
            assert caught.value.undelivered == ()
            with pytest.raises(trio_wsout.DeliveryError, match=SAID):
                await way(output)
            assert trio.current_time() - start == 55.0, "each wait has as long"
            assert [(await output.received.receive()).event for _ in range(FULL)] == [*map(str, range(FULL))]
            await way(output)
            assert output.statistics().unconfirmed == 0
            start = trio.current_time()
        assert trio.current_time() == start
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("takes", [True, False])
async def test_an_application_that_could_not_take_because_nothing_ran_has_as_long_again(
    takes: bool, autojump_clock: MockClock
) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, receive=True) as output:
            await output.wait_connected()
            for number in range(FULL):
                await peer.send(str(number))
            await trio.sleep(5)
            async with trio.open_nursery() as nursery:

                async def wait_for_all() -> None:
                    with nullcontext() if takes else pytest.raises(trio_wsout.DeliveryError, match=SAID):
                        await flush(output)

                nursery.start_soon(wait_for_all)
                await trio.sleep(5)
                start = trio.current_time()
                autojump_clock.jump(60)  # 20 s were left
                if takes:
                    await trio.sleep(39)
                    for _ in range(FULL):
                        await output.received.receive()
            if not takes:
                assert trio.current_time() - start == 60 + 40


@pytest.mark.parametrize("leaves", ["at once", "by the error"])
async def test_leaving_the_block_ends_at_once_with_everything_confirmed_and_what_came_dropped(
    leaves: str, autojump_clock: MockClock
) -> None:
    async with open_peer() as peer:
        output: trio_wsout.Output | None = None
        start = trio.current_time()

        async def use() -> None:
            nonlocal output, start
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream, receive=True) as output:
                await output.wait_connected()
                for number in range(FULL):
                    await peer.send(str(number))
                await trio.sleep(1)
                await output.send("x")
                if leaves == "by the error":
                    try:
                        await output.flush()
                    finally:
                        start = trio.current_time()

        if leaves == "by the error":
            with pytest.raises(trio_wsout.DeliveryError, match=SAID):
                await use()
        else:
            await use()
            start += 1
        assert output is not None
        assert trio.current_time() == start
        figures = output.statistics()
        assert (figures.confirmed, figures.unconfirmed) == (1, 0)
        assert figures.dropped == 3


async def test_a_slow_application_that_takes_now_and_then_is_left_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_peer() as peer, trio.open_nursery() as nursery:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, receive=True) as output:

            async def take() -> None:
                async for _ in output.received:
                    await trio.sleep(29)

            nursery.start_soon(take)
            await output.wait_connected()
            for _ in range(FULL + 9):
                await peer.send("x" * 60_000)  # few of them in one read, so that the pong lies behind several
            await output.send("x")
            start = trio.current_time()
            await output.flush()
            assert trio.current_time() - start > 200
        nursery.cancel_scope.cancel()
    assert warnings(caplog) == []


async def test_what_is_taken_by_receive_many_and_without_waiting_counts_as_well(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_peer() as peer,
        trio_wsout.open_output(config(), open_stream=peer.open_stream, receive=True) as output,
        trio.open_nursery() as nursery,
    ):
        await output.wait_connected()
        for _ in range(3 * FULL):
            await peer.send("x" * 60_000)

        async def take() -> None:
            await trio.sleep(29)
            output.received.receive_nowait()
            await trio.sleep(29)
            await output.received.receive_many()
            await trio.sleep(29)
            await output.received.receive_many()
            await trio.sleep(29)
            await output.received.receive_many()

        nursery.start_soon(take)
        await output.send("x")
        await output.flush()
        assert trio.current_time() == 4 * 29


async def test_send_waits_on_and_is_told_of_by_a_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_peer() as peer:
        narrow = config(delivery={"max-unconfirmed": 1})
        async with trio_wsout.open_output(narrow, open_stream=peer.open_stream, receive=True) as output:
            await output.wait_connected()
            for number in range(FULL):
                await peer.send(str(number))
            with trio.move_on_after(100) as waited:
                while True:
                    await output.send("x")
            assert waited.cancelled_caught
            (warning,) = warnings(caplog)
            assert "nothing was taken from output.received" in warning
            async with trio.open_nursery() as nursery:
                nursery.start_soon(output.flush)
                for _ in range(FULL):
                    await output.received.receive()


async def test_a_cancelled_wait_stays_cancelled(autojump_clock: MockClock) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, receive=True) as output:
            await output.wait_connected()
            for number in range(FULL):
                await peer.send(str(number))
            await output.send("x")
            with trio.move_on_after(7) as waited:
                await output.flush()
            assert waited.cancelled_caught


@pytest.mark.parametrize("linked", [True, False], ids=["with a link", "without"])
async def test_a_relay_whose_application_takes_nothing_says_so_as_well(
    linked: bool, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        relay: dict[str, Any] = {
            "mode": "relay",
            "server": {"bind": "127.0.0.1:0"},
            "retry": {"timeout": "30s"},
        }
        relay |= {"url": "ws://peer.test/"} if linked else {}
        async with trio_wsout.open_output(
            relay, open_stream=up.open_stream if linked else None, listeners=[listener], receive=True
        ) as output:
            client = await listener.connect()
            for number in range(FULL + 100):
                await client.send(str(number))
            await trio.sleep(1)
            await output.send("x")
            with pytest.raises(trio_wsout.DeliveryError, match=SAID):
                await output.flush()
            start = trio.current_time()
        assert trio.current_time() - start <= 10
