"""Peers that never do what confirms: an end after so many connections, and the cause in words, on exact times."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import Accept, open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener

NO_PINGS = "no ping was ever answered by this peer; for servers that answer none there is delivery.level: written, and heartbeat: none if they send nothing either"
STALLED = "a message was not confirmed within retry.timeout"
RARELY = {"ping-interval": "1h", "timeout": "1h"}
MUTE = Accept(pong_after=None)


def config(**fields: Any) -> dict[str, Any]:
    return {
        "url": "ws://peer.test/",
        "reconnect": {"jitter": 0, "initial-backoff": "1s", "reset-after": 0},
        "retry": {"timeout": "30s"},
        "heartbeat": RARELY,
        **fields,
    }


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


@pytest.mark.parametrize("retries", [0, 5, 42])
async def test_who_answers_no_ping_has_one_connection_and_one_for_each_retry(
    retries: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_peer() as peer:
        peer.plan(then=MUTE)
        start = trio.current_time()
        with pytest.raises(trio_wsout.DeliveryError, match="3 events not delivered") as caught:
            async with trio_wsout.open_output(
                config(retry={"timeout": "30s", "retries": retries}), open_stream=peer.open_stream
            ) as output:
                for number in range(3):
                    await output.send(number)
                with pytest.raises(trio.BrokenResourceError):
                    await output.flush()
        assert [each.opened_at - start for each in peer.connections] == [31.0 * n for n in range(retries + 1)]
        assert peer.messages == ["0", "1", "2"]
    assert [each.event for each in caught.value.undelivered] == [0, 1, 2]
    assert str(caught.value).endswith(f"retry.retries allows no more; {NO_PINGS}")
    assert warnings(caplog) == [f"link: {NO_PINGS}"], "once"


async def test_without_retries_the_link_goes_on_and_everything_names_the_cause(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    changes: list[trio_wsout.LinkChange] = []
    async with open_peer() as peer:
        peer.plan(then=MUTE)
        with pytest.raises(trio_wsout.DeliveryError) as caught:
            async with trio_wsout.open_output(
                config(), open_stream=peer.open_stream, on_state=changes.append
            ) as output:
                await output.send("x")
                await trio.sleep(100)
                assert output.statistics().link.last_error == f"{STALLED}; {NO_PINGS}"
        assert len(peer.connections) == 4
    assert str(caught.value).count(NO_PINGS) == 1
    assert f"{STALLED}; {NO_PINGS}" in {str(change.disconnection) for change in changes}
    assert warnings(caplog) == [f"link: {NO_PINGS}"]


async def test_who_gives_up_on_a_mute_peer_says_why(autojump_clock: MockClock) -> None:
    reconnect = {"jitter": 0, "max-attempts": 2, "reset-after": "1h"}
    async with open_peer() as peer:
        peer.plan(then=MUTE)
        with pytest.raises(trio_wsout.ConnectError, match="max-attempts") as caught:
            async with trio_wsout.open_output(
                config(reconnect=reconnect), open_stream=peer.open_stream
            ) as output:
                await output.send("x")
                with pytest.raises(trio.BrokenResourceError):
                    await output.flush()
    assert caught.value.cause == f"{STALLED}; {NO_PINGS}"


async def test_a_block_that_is_left_before_anything_stalled_names_the_cause(
    autojump_clock: MockClock,
) -> None:
    async with open_peer() as peer:
        peer.plan(then=MUTE)
        with pytest.raises(trio_wsout.DeliveryError, match=r"the link is open; no ping was ever answered"):
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
                await output.send("x")


async def test_pongs_without_the_payload_of_the_ping_are_told(autojump_clock: MockClock) -> None:
    async with open_peer() as peer:
        peer.plan(then=MUTE)
        with pytest.raises(
            trio_wsout.DeliveryError, match=r"pongs came, but empty .* RFC 6455 section 5\.5\.3"
        ):
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
                await output.send("x")
                await peer.wait_messages(1)
                await peer.connections[-1].send_raw(b"\x8a\x00")


async def test_one_early_cut_accuses_nobody_and_the_third_does(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=None, cut_after=1), *[MUTE] * 2, then=Accept())
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
            await output.send("x")
            await peer.wait_messages(1)
            for told in (0, 0, 1):
                await trio.sleep(0.5)
                assert ("no ping" in (output.statistics().link.last_error or "")) == told
                assert len(warnings(caplog)) == told
                if not told:
                    await trio.sleep(1)
                    await peer.cut()
            await output.flush()
            assert output.statistics().confirmed == 1


async def test_who_acknowledges_nothing_is_told_and_each_message_has_its_tries(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    send, receive = trio.open_memory_channel[trio_wsout.Undelivered](10)
    async with open_peer() as peer:
        acked = config(retry={"timeout": "30s", "retries": 2}, delivery={"level": "acked"})
        async with trio_wsout.open_output(acked, open_stream=peer.open_stream, undelivered=send) as output:
            for number in range(3):
                await output.send(number)
            start = trio.current_time()
            for number, connections in enumerate([3, 5, 7]):
                lost = await receive.receive()
                assert lost.event == number
                assert "sent 3 times" in lost.reason
                assert "delivery.ack-pointer is '/ack'" in lost.reason
                assert trio.current_time() - start == 31.0 * connections - 1
    assert len(warnings(caplog)) == 1
    assert "nothing was ever acknowledged by this peer" in warnings(caplog)[0]


async def test_the_link_of_a_relay_ends_and_tells_as_a_client_does(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as peer:
        peer.plan(then=MUTE)
        relay = config(mode="relay", server={"bind": "127.0.0.1:0"}, retry={"timeout": "30s", "retries": 5})
        with pytest.raises(trio_wsout.DeliveryError, match=f"retry.retries allows no more; {NO_PINGS}"):
            async with trio_wsout.open_output(
                relay, open_stream=peer.open_stream, listeners=[listener]
            ) as output:
                receipt = await output.submit("x")
                with pytest.raises(trio_wsout.DeliveryError, match=NO_PINGS):
                    await receipt.wait()
        assert len(peer.connections) == 6


@pytest.mark.parametrize(
    ("level", "heartbeat", "told"),
    [
        (
            "received",
            RARELY,
            "answered no ping, ever; for peers that answer none there is delivery.level: written",
        ),
        (
            "received",
            {},
            "answered no ping, ever; for peers that answer none there is heartbeat: none, and delivery.level: written",
        ),
        (
            "acked",
            RARELY,
            "acknowledged nothing within retry.timeout; for peers that acknowledge nothing there is delivery.level: received",
        ),
    ],
)
async def test_peers_of_a_listener_that_never_do_what_confirms_are_told_of_once(
    level: str,
    heartbeat: dict[str, str],
    told: str,
    listener: MemoryListener,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    serving = {
        "mode": "server-output",
        "server": {"bind": "127.0.0.1:0"},
        "delivery": {"level": level},
        "heartbeat": heartbeat,
    }
    async with trio_wsout.open_output(serving, listeners=[listener]) as output:
        clients = [await listener.connect() for _ in range(3)]
        for client in clients:
            client.pong_after = 0 if level == "acked" else None
        await output.send("x")
        await output.flush()
        await trio.sleep(1)
        assert output.statistics().peers == 0
    (warning,) = warnings(caplog)
    assert warning.partition(" was cut: it ")[2] == told


async def test_a_peer_of_a_listener_that_answered_once_is_not_accused(
    listener: MemoryListener, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    serving = {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}}
    async with trio_wsout.open_output(serving, listeners=[listener]) as output:
        client = await listener.connect()
        await output.send("x")
        await output.flush()
        assert output.statistics().peers == 1
        client.pong_after = None
        await output.send("y")
        await output.flush()
        await trio.sleep(1)
        assert output.statistics().peers == 0
    assert warnings(caplog) == []


class Breaking(trio.abc.Stream):
    """A stream whose reading breaks with an error of the system once `error` is set."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.error: int | None = None
        self.waiting = trio.CancelScope()

    def break_with(self, error: int) -> None:
        self.error = error
        self.waiting.cancel()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        with trio.CancelScope() as self.waiting:
            return await self.stream.receive_some(max_bytes)
        assert self.error is not None
        raise trio.BrokenResourceError from OSError(self.error, os.strerror(self.error))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (errno.ETIMEDOUT, "unhealthy"),
        (errno.EHOSTUNREACH, "unhealthy"),
        (errno.ENETDOWN, "unhealthy"),
        (errno.ECONNRESET, "lost"),
    ],
)
async def test_a_connection_that_the_system_gave_up_was_ended_by_no_message(
    error: int, cause: str, autojump_clock: MockClock
) -> None:
    streams: list[Breaking] = []
    changes: list[trio_wsout.LinkChange] = []
    async with open_peer() as peer:

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            streams.append(Breaking(await peer.open_stream(host, port)))
            return streams[-1]

        async with trio_wsout.open_output(
            config(connect={"mode": "eager"}), open_stream=open_stream, on_state=changes.append
        ) as output:
            await trio.sleep(1)
            streams[0].break_with(error)
            await trio.sleep(0.5)
            assert changes[-1].disconnection is not None
            assert changes[-1].disconnection.cause == cause
            assert os.strerror(error) in (output.statistics().link.last_error or "")
