"""What waits too long is found, what does not is left alone: at exact times, on a mock clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

import pytest
import trio
import trio_wsout
from trio_wsout._tasks.heartbeat import HeartbeatTask
from trio_wsout.config import History
from trio_wsout.stores.log_memory import MemoryLog
from trio_wsout.testing import Accept, open_peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock
    from trio_wsout._core.durable_log import Entry
    from trio_wsout.testing import MemoryListener

SERVER = {"bind": "127.0.0.1:0"}


@pytest.mark.parametrize("timeout", ["100ms", "500ms", "1s", "1100ms"])
async def test_many_peers_are_asked_before_they_count_as_stalled(
    timeout: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    config = {"mode": "server-output", "server": SERVER, "retry": {"timeout": timeout}}
    async with trio_wsout.open_output(config, listeners=[listener]) as output:
        clients = [await listener.connect() for _ in range(20)]
        await output.send("x")
        await trio.sleep(5)
        assert output.statistics().peers == 20
        assert {len(client.pings) for client in clients} == {1}


async def test_a_peer_that_is_silent_after_a_break_costs_the_connection_at_retry_timeout(
    autojump_clock: MockClock,
) -> None:
    config = {
        "url": "ws://peer.test/",
        "reconnect": {"jitter": 0},
        "retry": {"timeout": "30s"},
        "heartbeat": "none",
    }
    async with open_peer() as peer:
        peer.plan(Accept(cut_after=1), Accept(pong_after=None), then=Accept())
        async with trio_wsout.open_output(config, open_stream=peer.open_stream) as output:
            start = trio.current_time()
            await output.send("x")
            await output.flush()
            assert [each.opened_at - start for each in peer.connections] == [0.0, 0.5, 31.0]


class SlowReads(MemoryLog):
    """Takes a second for each read."""

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        await trio.sleep(1)
        return await super().after(position, most=most, most_bytes=most_bytes)


async def test_a_peer_that_is_held_back_since_its_replay_is_not_cut(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    config = {
        "mode": "relay",
        "server": SERVER,
        "history": {},
        "delivery": {"stamp": "s"},
        "cursor": {"query-parameter": "since"},
    }
    async with trio_wsout.open_output(
        config, listeners=[listener], receive=True, history=SlowReads(History())
    ) as output:
        first = await listener.connect()
        await output.send({"n": 0})
        await first.wait_messages(1)
        client = await listener.connect(f"/?since={json.loads(first.messages[0])['s']}")
        for number in range(200):  # more than the application, which takes none, has room for
            await client.send(json.dumps({"x": number}))
        await trio.sleep(5)
        await output.send({"n": 1})
        await trio.sleep(100)
        assert client.ended_at is None
        await output.received.aclose()


async def test_a_peer_that_takes_nothing_is_closed_once_too_much_is_kept_because_of_it(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    most = 3 * 256
    server = SERVER | {"slow-peer": "drop-oldest", "send-buffer-capacity": 3}
    config = {"mode": "server-output", "server": server}
    async with trio_wsout.open_output(config, listeners=[listener]) as output:
        good = await listener.connect()
        slow = await listener.connect(buffered=False)
        await output.wait_peers(2)
        slow.stop_reading()
        highest = 0
        for _ in range(most + 100):
            await output.send("x")
            highest = max(highest, output.statistics().window)
            await trio.lowlevel.checkpoint()
            if output.statistics().listener.expelled:
                break
        assert output.statistics().listener.expelled == 1
        assert most - 3 <= highest <= most + 1
        slow.resume_reading()
        await output.send("the last")
        await output.flush()
        assert good.messages[-1] == "the last"


class Moment(float):
    """A time in seconds; counts how many of its kind are kept anywhere."""

    alive = 0

    def __new__(cls, seconds: float) -> Self:
        cls.alive += 1
        return super().__new__(cls, seconds)

    def __del__(self) -> None:
        Moment.alive -= 1


class Timer:
    """An object whose deadline comes nearer and goes away again."""

    def __init__(self) -> None:
        self.due = float("inf")
        self.ticket = 0
        self.deadline: float | None = None

    def next_deadline(self) -> float | None:
        return self.deadline

    def poll(self) -> None:
        self.deadline = None


async def test_deadlines_that_moved_are_not_kept(autojump_clock: MockClock) -> None:
    heartbeat_task, timers = HeartbeatTask(), [Timer() for _ in range(10)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat_task.run)
        for _ in range(1000):
            for timer in timers:
                for seconds in (1e6, 1.0):
                    timer.deadline = Moment(trio.current_time() + seconds)
                    heartbeat_task.reschedule(timer)
                timer.deadline = Moment(trio.current_time() + 1e6)
            await trio.sleep(2)
            assert Moment.alive <= 1500, (
                "of those that are past or have moved few are kept; trio keeps some, too"
            )
        nursery.cancel_scope.cancel()


async def test_a_link_that_ended_is_not_open_while_its_losses_wait_for_room(
    autojump_clock: MockClock,
) -> None:
    config: dict[str, Any] = {"url": "ws://peer.test/", "reconnect": {"jitter": 0}, "retry": {"retries": 0}}
    losses, lost = trio.open_memory_channel[trio_wsout.Undelivered](0)
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=None, cut_after=1))
        async with trio_wsout.open_output(config, open_stream=peer.open_stream, undelivered=losses) as output:
            await output.send("x")
            await trio.sleep(5)
            figures = output.statistics()
            assert (figures.link.state, figures.peers) == ("backing-off", 0)
            with trio.move_on_after(5) as waiting:
                await output.wait_connected()
            assert waiting.cancelled_caught
            assert (await lost.receive()).event == "x"
            await output.wait_connected()
