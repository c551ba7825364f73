"""The end of an output: nobody waits for it in vain, and its figures say that it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.config import History
from trio_wsout.errors import HistoryError
from trio_wsout.stores.log_memory import MemoryLog
from trio_wsout.testing import Accept, Step, Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock
    from trio_wsout._core.durable_log import Entry, Extent
    from trio_wsout.testing import MemoryListener

SERVER = {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}}
CLIENT = {"url": "ws://peer.test/", "reconnect": {"jitter": 0}, "shutdown-timeout": "1s"}
RELAY = {**CLIENT, "mode": "relay", "server": {"bind": "127.0.0.1:0"}}


class Waiter:
    """A task that waits for peers, and notes what it heard and when."""

    def __init__(self) -> None:
        self.heard: tuple[type[Exception], float] | None = None

    async def run(self, output: trio_wsout.Output) -> None:
        try:
            await output.wait_peers(1)
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            self.heard = type(error), trio.current_time()


@pytest.mark.parametrize("fields", [CLIENT, RELAY], ids=["client", "relay"])
async def test_who_waits_for_a_peer_hears_that_time_is_out(
    fields: dict[str, Any], listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    waiter, listeners = Waiter(), [listener] if fields is RELAY else None
    async with open_peer() as up:
        up.plan(then=Unreachable())
        with pytest.raises(trio_wsout.DeliveryError):
            async with trio_wsout.open_output(
                fields, listeners=listeners, open_stream=up.open_stream
            ) as output:
                nursery.start_soon(waiter.run, output)
                await output.send(1)
                await trio.sleep(1)
        await trio.sleep(1)
    # The last tenth of the time is for the Closes of a relay's peers, of which there are none.
    assert waiter.heard == (trio.ClosedResourceError, 1.9 if fields is RELAY else 2)


async def test_nothing_is_queued_once_it_is_over(autojump_clock: MockClock) -> None:
    async with open_peer() as up:
        up.plan(then=Unreachable())
        with pytest.raises(trio_wsout.DeliveryError, match="5 accepted events not confirmed"):
            async with trio_wsout.open_output(
                {**CLIENT, "delivery": {"max-unconfirmed": 2}}, open_stream=up.open_stream
            ) as output:
                for number in range(5):
                    await output.send(number)
                await trio.sleep(1)
                assert output.statistics().queued == 3
    now = output.statistics()
    assert (now.undelivered, now.queued, now.window) == (5, 0, 0)


async def test_who_waits_for_a_peer_hears_that_the_server_was_closed(
    listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    waiter = Waiter()
    async with trio_wsout.open_output(SERVER, listeners=[listener]) as output:
        nursery.start_soon(waiter.run, output)
        await trio.sleep(1)
    await trio.sleep(1)
    assert waiter.heard == (trio.ClosedResourceError, 1)
    with pytest.raises(trio.ClosedResourceError):
        await output.wait_peers(1)


async def test_who_waits_for_a_peer_hears_that_the_link_gave_up(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        up.plan(then=Unreachable())
        fields = {**RELAY, "reconnect": {"max-attempts": 2, "jitter": 0}}
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError) as caught:
            async with trio_wsout.open_output(
                fields, listeners=[listener], open_stream=up.open_stream
            ) as output:
                await output.send(1)
                await output.wait_peers(1)
    assert isinstance(caught.value.__cause__, trio_wsout.ConnectError)
    assert output.statistics().link.state == "gave-up"


class Failing(MemoryLog):
    async def append(self, run: Sequence[Entry], settled: int = 0) -> Extent:
        raise HistoryError("the disk is gone")


async def test_who_waits_for_a_peer_hears_that_the_history_failed(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError) as caught:
        async with trio_wsout.open_output(
            {**SERVER, "history": {}}, listeners=[listener], history=Failing(History())
        ) as output:
            await output.send(1)
            await output.wait_connected()
    assert isinstance(caught.value.__cause__, HistoryError)


@pytest.mark.parametrize("cancelled", [False, True], ids=["out of time", "cancelled"])
@pytest.mark.parametrize(
    "step", [Unreachable(), Accept(after=100), Accept(pong_after=None)], ids=["unreachable", "slow", "mute"]
)
@pytest.mark.parametrize("fields", [CLIENT, RELAY], ids=["client", "relay"])
async def test_a_link_that_has_ended_is_closed(
    fields: dict[str, Any], step: Step, cancelled: bool, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        up.plan(then=step)
        with trio.CancelScope() as scope:
            try:
                async with trio_wsout.open_output(
                    fields,
                    listeners=[listener] if fields is RELAY else None,
                    open_stream=up.open_stream,
                ) as output:
                    await output.send(1)
                    await trio.sleep(1)
                    assert output.statistics().link.state in {"open", "dialling", "backing-off"}
                    if cancelled:
                        scope.cancel()
            except trio_wsout.DeliveryError:
                assert not cancelled
        figures = output.statistics()
        assert (figures.link.state, figures.peers, figures.undelivered) == ("closed", 0, 1)
