"""An event that comes alone is taken where nothing waits; what comes behind it waits for the taker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from trio_wsout._tasks.channel import ReceivingEnd, SendingEnd, open_channel
from trio_wsout._tasks.wakeup import Wakeup

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener

SERVER: dict[str, Any] = {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}}


async def test_only_what_comes_while_the_receiver_waits_is_offered_first() -> None:
    ends: tuple[SendingEnd[object], ReceivingEnd[object]] = open_channel(3)
    sending, receiving = ends
    other, takes, offered = sending.clone(3), [True, False], list[object]()

    def offer(item: object) -> bool:
        offered.append(item)
        return takes.pop(0)

    sending.offer_first = offer
    sending.send_nowait("nobody waits")
    assert await receiving.receive() == "nobody waits"
    taken: list[object] = []

    async def receive() -> None:
        taken.append(await receiving.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        for item in ("one", "two", "three"):
            sending.send_nowait(item)
        assert offered == ["one", "two"]
    assert [*taken, receiving.receive_nowait()] == ["two", "three"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        other.send_nowait("another's")
        sending.send_nowait("four")
    assert offered == ["one", "two"], "it is no longer waiting"
    assert taken[-1] == "another's"


async def test_a_bell_keeps_one_ring_and_none_of_who_was_cancelled() -> None:
    wakeup = Wakeup()
    wakeup.notify()
    wakeup.notify()
    await wakeup.wait()
    with trio.CancelScope() as scope:
        scope.cancel()
        await wakeup.wait()
    assert scope.cancelled_caught
    wakeup.notify()
    await wakeup.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeup.wait)
        await trio.testing.wait_all_tasks_blocked()
        wakeup.notify()


async def test_an_event_that_comes_alone_is_posted_by_who_sends_it_and_one_right_behind_it_waits(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(SERVER, listeners=[listener]) as output:
        client = await listener.connect()
        await trio.sleep(1)
        output.send_nowait("alone")
        assert (output.statistics().queued, output.statistics().window) == (0, 1)
        output.send_nowait("right behind")
        assert (output.statistics().queued, output.statistics().window) == (1, 1)
        await output.flush()
        await trio.sleep(0.002)
        await trio.testing.wait_all_tasks_blocked()
        output.send_nowait("alone again")
        assert output.statistics().queued == 0
        await output.flush()
    assert client.messages == ["alone", "right behind", "alone again"]


async def test_an_event_that_comes_alone_waits_where_the_log_is_full(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = {
        **SERVER,
        "server": {**SERVER["server"], "send-buffer-capacity": 1},
        "delivery": {"max-unconfirmed": 1},
    }
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        client = await listener.connect()
        client.pong_after = None
        for number in range(3):  # one in flight, one in the log, one in the queue
            await trio.sleep(0.01)
            output.send_nowait(str(number))
            await trio.testing.wait_all_tasks_blocked()
        assert output.statistics().window == 2
        assert output.statistics().unconfirmed == 3
        await client.stream.aclose()
        await output.flush()
        assert output.statistics().confirmed == 3


@pytest.mark.parametrize(
    "more", [{"batch": {"mode": "fixed", "fixed-size": 2}}, {"history": {"store": "memory:"}}]
)
async def test_where_something_stands_between_an_event_takes_its_turn(
    more: dict[str, Any], listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output({**SERVER, **more}, listeners=[listener]) as output:
        client = await listener.connect()
        await trio.sleep(1)
        output.send_nowait("a")
        assert output.statistics().window == 0
        output.send_nowait("b")
        await output.flush()
    assert "\n".join(client.messages) == "a\nb"
