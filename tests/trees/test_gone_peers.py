"""Peers that leave while this side does not read from them: when that is found, and what they leave behind, on exact times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from attrs import define, field
from tests.trees.conftest import ListenerThrough
from trio_wsout.testing import Accept, Unreachable, open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener, PeerConnection


@define(eq=False)
class Watched(trio.abc.Stream):
    """A stream that knows, as a socket does, whether the other side has left; nobody need read it for that."""

    _end: trio.abc.Stream
    left: bool = field(default=False, init=False)
    closed_at: float | None = field(default=None, init=False)

    def peer_left(self) -> bool:
        return self.left

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._end.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._end.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._end.receive_some(max_bytes)

    async def aclose(self) -> None:
        if self.closed_at is None:
            self.closed_at = trio.current_time()
        await self._end.aclose()


BEAT = {"ping-interval": "20s", "timeout": "10s"}
INPUT = {"mode": "server-input", "server": {"bind": "127.0.0.1:0"}, "heartbeat": BEAT}
RELAY = {
    "mode": "relay",
    "server": {"bind": "127.0.0.1:0"},
    "url": "ws://up.test/",
    "reconnect": {"initial-backoff": "1s", "max-backoff": "1s", "jitter": 0},
    "heartbeat": BEAT,
    "delivery": {"max-unconfirmed": 3},
    "shutdown-timeout": "0s",
}


def watched(streams: list[Watched], stream: trio.abc.Stream) -> Watched:
    streams.append(Watched(stream))
    return streams[-1]


async def flood(client: PeerConnection, count: int) -> None:
    for _ in range(count):
        await client.send("x" * 1000)


@pytest.mark.parametrize("leaves_after", [0, 9, 10, 15])
async def test_a_peer_that_left_is_found_each_timeout_of_a_pause(
    leaves_after: int, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    streams: list[Watched] = []
    door = ListenerThrough(listener, lambda stream: watched(streams, stream))
    async with trio_wsout.open_output(INPUT, listeners=[door]) as output:
        client = await listener.connect()
        start = trio.current_time()
        await flood(client, 500)
        await trio.sleep(leaves_after + 0.5)
        streams[0].left = True
        await trio.sleep(60)
        over_at = 10 if leaves_after < 10 else 20
        assert streams[0].closed_at == start + over_at
        assert output.statistics().peers == 0
        taken = 0
        with trio.move_on_after(1):
            async for _ in output.received:
                taken += 1
        figures = output.statistics()
        assert 64 <= taken == figures.received - figures.dropped, "what was taken in stays"


@pytest.mark.parametrize("how", ["stays", "no heartbeat", "is read"])
async def test_no_other_peer_is_ended(how: str, listener: MemoryListener, autojump_clock: MockClock) -> None:
    streams: list[Watched] = []
    door = ListenerThrough(listener, lambda stream: watched(streams, stream))
    fields: dict[str, Any] = INPUT if how != "no heartbeat" else {**INPUT, "heartbeat": "none"}
    async with trio_wsout.open_output(fields, listeners=[door]) as output:
        client = await listener.connect()
        await flood(client, 10 if how == "is read" else 500)
        streams[0].left = how != "stays"
        await trio.sleep(300)
        assert output.statistics().peers == 1


async def test_what_peers_leave_in_a_relay_is_bounded_and_goes_on_in_order_once_there_is_a_link(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    streams: list[Watched] = []
    door = ListenerThrough(listener, lambda stream: watched(streams, stream))
    async with open_peer() as up:
        up.plan(then=Unreachable())
        async with trio_wsout.open_output(RELAY, listeners=[door], open_stream=up.open_stream) as output:
            accepted = [0]
            for number in range(40):
                client = await listener.connect()
                for part in range(60):
                    await client.send(f"{number}:{part}")
                await trio.sleep(1)
                streams[-1].left = True
                await client.cut()
                await trio.sleep(15)
                assert output.statistics().peers == 0
                accepted.append(output.statistics().accepted)
            most = accepted[-1]
            assert 1024 <= most < 1024 + 64 + 3, "nothing of those that came later was taken"
            assert accepted[-10:] == [most] * 10
            late = await listener.connect()
            await late.send("late:0")
            up.plan(then=Accept())
            await up.wait_messages(most + 1)
            told = [str(each).split(":") for each in up.messages]
            assert {name for name, _ in told} == {*map(str, range(18)), "late"}
            for name in {name for name, _ in told}:
                parts = [int(part) for source, part in told if source == name]
                assert parts == list(range(len(parts)))
            assert late.is_open
            await output.flush()
