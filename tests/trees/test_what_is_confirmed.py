"""What the sender of a message is told where messages are lost: none that it may count as confirmed, but where the docs say so."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from trio_wsout.testing import Accept, MemoryListener, PeerConnection, Unreachable, open_listener, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

CUT = "a message was not confirmed within retry.timeout"
LOOSE = {"server": {"bind": "127.0.0.1:0"}, "heartbeat": "none"}
NARROW = {"server": {"bind": "127.0.0.1:0", "send-buffer-capacity": 1, "slow-peer-timeout": "1h"}}


def relay(**more: Any) -> dict[str, Any]:
    return {"mode": "relay", **LOOSE, **more}


def server_input(**more: Any) -> dict[str, Any]:
    return {"mode": "server-input", **LOOSE, **more}


def server_output(**more: Any) -> dict[str, Any]:
    return {"mode": "server-output", **LOOSE, **more}


def linked(**more: Any) -> dict[str, Any]:
    reconnect = {"initial-backoff": "10ms", "max-backoff": "10ms", "jitter": 0, **more.pop("reconnect", {})}
    return relay(url="ws://up.test/", connect={"mode": "eager"}, reconnect=reconnect, **more)


async def say(peer: PeerConnection, message: str, ping: bytes) -> None:
    await peer.send(message)
    await peer.ping(ping)
    await trio.testing.wait_all_tasks_blocked()


async def dial(listener: MemoryListener, host: str, port: int) -> trio.abc.Stream:
    """Connect to what listens, as `open_stream` of an output."""
    del host, port
    await trio.lowlevel.checkpoint()
    try:
        return listener.dial()
    except trio.BrokenResourceError:
        raise ConnectionRefusedError from None


@asynccontextmanager
async def open_sender(listener: MemoryListener, **more: Any) -> AsyncIterator[trio_wsout.Output]:
    """Open a client of ours that sends to what listens; what it has not delivered at the end is of no interest."""
    fields = {"url": "ws://this.test/", "reconnect": {"jitter": 0}, "shutdown-timeout": "0s", **more}
    with suppress(trio_wsout.DeliveryError):
        async with trio_wsout.open_output(fields, open_stream=partial(dial, listener)) as output:
            yield output


# -- one by one ---------------------------------------------------------------------------------------------


async def test_a_relay_that_ends_answers_no_ping_behind_what_it_drops(
    listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with (
        open_listener() as others,
        trio_wsout.open_output(server_output(), listeners=[others]) as above,
    ):
        with pytest.raises(trio_wsout.DeliveryError) as caught:
            async with trio_wsout.open_output(
                linked(), listeners=[listener], open_stream=partial(dial, others)
            ) as output:
                talker = await listener.connect()
                talker.pong_after = None
                await say(talker, "early", b"behind early")
                await (await above.submit("from above")).wait()

                async def say_late() -> None:
                    await trio.sleep(1)
                    await say(talker, "late", b"behind late")
                    late = await above.submit("late, too")
                    await trio.sleep(7)
                    assert not late.settled

                nursery.start_soon(say_late)
        assert trio.current_time() == 9, "shutdown-timeout, but for the tenth that is kept for Closes"
        assert [each.event for each in caught.value.undelivered] == ["from above"]
        assert (talker.messages, talker.pongs, talker.close_code) == (["from above"], [b"behind early"], 1001)
        assert output.statistics().dropped == 2


@pytest.mark.parametrize("mode", ["client", "relay", "server-input"])
async def test_an_application_that_closes_received_is_told_of_to_who_sends_only_where_nobody_else_takes(
    mode: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        if mode == "client":
            opening = trio_wsout.open_output(
                {"url": "ws://up.test/", "connect": {"mode": "eager"}, "heartbeat": "none"},
                open_stream=up.open_stream,
                receive=True,
            )
        else:
            opening = trio_wsout.open_output(
                {**relay(), "mode": mode}, listeners=[listener], receive=mode == "relay"
            )
        async with opening as output:
            remote = up.connections[0] if mode == "client" else await listener.connect()
            await say(remote, "taken", b"behind taken")
            await output.received.aclose()
            await say(remote, "dropped", b"behind dropped")
            answered = [b"behind taken", b"behind dropped"]
            assert remote.pongs == answered[: 1 if mode == "server-input" else 2]
            assert output.statistics().dropped == 1
            assert remote.is_open


async def test_a_client_whose_server_takes_no_more_counts_nothing_as_confirmed(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with (
        trio_wsout.open_output(server_input(), listeners=[listener]) as output,
        open_sender(listener, heartbeat="none") as client,
    ):
        await (await client.submit("taken")).wait()
        await output.received.aclose()
        lost = await client.submit("lost")
        await trio.sleep(29.9)
        assert not lost.settled
        await trio.sleep(0.2)
        assert CUT in str(client.statistics().link.last_error)
        await trio.sleep(100)
        assert (client.statistics().confirmed, client.statistics().unconfirmed) == (1, 1)


async def test_a_client_that_ends_answers_no_ping_behind_what_it_drops(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        up.plan(Accept(pong_after=5))
        fields = {"url": "ws://up.test/", "connect": {"mode": "eager"}}
        async with trio_wsout.open_output(fields, open_stream=up.open_stream, receive=True) as output:
            above = up.connections[0]
            await say(above, "early", b"behind early")
            await output.send("confirmed after 5 s")

            async def say_late() -> None:
                await trio.sleep(1)
                await say(above, "late", b"behind late")

            nursery.start_soon(say_late)
        assert trio.current_time() == 5
        assert (above.pongs, above.close_code) == ([b"behind early"], 1000)
        assert (output.statistics().confirmed, output.statistics().dropped) == (1, 1)


@pytest.mark.parametrize("mode", ["relay", "server-input"])
async def test_who_may_not_send_is_answered(
    mode: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async def authenticate(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
        del handshake
        return trio_wsout.Admit(may_send=False)

    async with (
        trio_wsout.open_output(
            {**relay(), "mode": mode}, listeners=[listener], authenticate=authenticate
        ) as output,
        open_sender(listener) as client,
    ):
        await (await client.submit("unheard")).wait()
        assert output.statistics().dropped == 1


async def test_who_sends_what_is_refused_or_cannot_be_read_is_answered(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with (
        trio_wsout.open_output(
            relay(payload="json"), listeners=[listener], on_message=lambda _: None
        ) as output,
        open_sender(listener) as client,
    ):
        for event in ('"refused"', "no JSON"):
            await (await client.submit(event)).wait()
        assert (output.statistics().dropped, output.statistics().accepted) == (2, 0)


async def test_a_ping_that_comes_down_the_link_waits_for_what_came_before_it(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        fields = linked(**NARROW, delivery={"max-unconfirmed": 1})
        async with trio_wsout.open_output(fields, listeners=[listener], open_stream=up.open_stream) as output:
            narrow, above = await listener.connect(buffered=False), up.connections[0]
            narrow.stop_reading()
            above.pong_after = None
            await output.send("up")  # the link has no room for more
            for number in range(60):
                await above.send(f"down:{number}")
            await say(above, "last", b"behind last")
            await above.pong(*above.pings)
            await trio.sleep(5)
            assert (above.pongs, output.statistics().confirmed) == ([], 0)
            above.pong_after = 0
            narrow.resume_reading()
            await narrow.wait_messages(62)
            await trio.testing.wait_all_tasks_blocked()
            assert (above.pongs, above.pong_times) == ([b"behind last"], [5])
            await output.flush()
            assert trio.current_time() == 5, "the pong behind that ping was read"


async def test_a_relay_that_ends_leaves_its_cursor_before_what_it_drops(
    listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        fields = linked(payload="json", cursor={"from": "received", "value-field": "id"})
        async with trio_wsout.open_output(fields, listeners=[listener], open_stream=up.open_stream) as output:
            slow, above = await listener.connect(), up.connections[0]
            slow.pong_after = 5
            await say(above, '{"id":1}', b"behind 1")

            async def say_late() -> None:
                await trio.sleep(1)
                await say(above, '{"id":2}', b"behind 2")

            nursery.start_soon(say_late)
        assert (trio.current_time(), slow.messages, above.pongs) == (5, ['{"id":1}'], [b"behind 1"])
        figures = output.statistics()
        assert (figures.link.cursor, figures.dropped) == ("1", 1)


# -- at any time --------------------------------------------------------------------------------------------


@asynccontextmanager
async def sending(listener: MemoryListener) -> AsyncIterator[trio_wsout.Output]:
    """Open a client of ours that sends numbers until the end of the block, without a pause."""

    async def send_all() -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for number in range(10**6):
                await client.send(str(number))

    async with open_sender(listener) as client, trio.open_nursery() as nursery:
        nursery.start_soon(send_all)
        yield client
        nursery.cancel_scope.cancel()


async def turns(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("mode", ["relay", "server-input"])
async def test_whenever_it_ends_what_a_client_counts_as_confirmed_was_taken(
    mode: str, autojump_clock: MockClock
) -> None:
    confirmed = dropped = 0
    for pause in range(0, 300, 17):
        taken: list[object] = []

        async def take(output: trio_wsout.Output, taken: list[object] = taken) -> None:
            async for item in output.received:
                taken.append(item.event)

        async with (
            open_listener() as listener,
            sending(listener) as client,
            trio.open_nursery() as nursery,
            trio_wsout.open_output({**relay(), "mode": mode}, listeners=[listener], receive=True) as output,
        ):
            nursery.start_soon(take, output)  # noqa: ASYNC111 - it ends with the output
            await output.wait_peers(1)
            await turns(pause)
        count = client.statistics().confirmed
        assert taken[:count] == [str(number) for number in range(count)]
        confirmed += count
        dropped += output.statistics().dropped
    assert confirmed > 1000
    assert dropped > 100


@pytest.mark.parametrize("pause", range(0, 200, 10))
async def test_a_relay_that_breaks_reports_what_a_client_counts_as_confirmed(
    pause: int, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up, sending(listener) as client:
        up.plan(Accept(pong_after=None), then=Unreachable())
        fields = linked(reconnect={"max-attempts": 1})
        with pytest.raises(trio_wsout.ConnectError) as caught:
            async with trio_wsout.open_output(
                fields, listeners=[listener], open_stream=up.open_stream
            ) as output:
                await output.wait_peers(1)
                await turns(pause)
                await up.cut()
                with suppress(trio.BrokenResourceError):
                    await output.flush()
        done = client.statistics().confirmed
    assert [each.event for each in caught.value.undelivered][:done] == [str(number) for number in range(done)]
