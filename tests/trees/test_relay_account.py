"""A relay with a link, ended in every way at any time: each event that is not delivered is told once, and once only."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from hypothesis import given
from hypothesis import strategies as st
from tests.trees.disk import Disk
from trio_wsout.testing import Accept, MemoryListener, MemoryPeer, Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock


def linked(**more: Any) -> dict[str, Any]:
    reconnect = {"initial-backoff": "10ms", "max-backoff": "100ms", "jitter": 0, **more.pop("reconnect", {})}
    server = {"bind": "127.0.0.1:0"}
    return {"mode": "relay", "server": server, "url": "ws://up.test/", "reconnect": reconnect, **more}


class Logged(logging.Handler):
    """How many events were not confirmed and are told of in the log alone."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        found = re.match(r"(\d+) accepted events? not confirmed(?:, (\d+) of them)?", text)
        if "in the spool at" in text:
            return
        self.count += int(found.group(1)) - int(found.group(2) or 0) if found else 0


@pytest.fixture
def logged() -> Iterator[Logged]:
    handler = Logged()
    logging.getLogger("trio_wsout").addHandler(handler)
    yield handler
    logging.getLogger("trio_wsout").removeHandler(handler)


def taken(channel: trio.MemoryReceiveChannel[trio_wsout.Undelivered]) -> list[object]:
    events: list[object] = []
    with suppress(trio.WouldBlock):
        while True:
            events.append(channel.receive_nowait().event)
    return events


# -- one by one ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "left"), [(100, 0), (2, 1), (None, 3)])
async def test_a_cancelled_relay_tells_what_its_link_did_not_have(
    room: int | None, left: int, listener: MemoryListener, logged: Logged, autojump_clock: MockClock
) -> None:
    giving, taking = trio.open_memory_channel[trio_wsout.Undelivered](room or 0)
    async with open_peer() as up:
        up.plan(then=Unreachable())
        with trio.CancelScope() as scope:
            async with trio_wsout.open_output(
                linked(),
                listeners=[listener],
                open_stream=up.open_stream,
                undelivered=giving if room else None,
            ) as output:
                for number in range(3):
                    await output.send(number)
                await trio.sleep(1)
                scope.cancel()
                await trio.sleep(1)
    assert taken(taking) == list(range(3 - left))
    figures = output.statistics()
    assert (figures.accepted, figures.confirmed, figures.undelivered) == (3, 0, 3)
    assert logged.count == left


@pytest.mark.parametrize("limit", ["0s", "1s"])
async def test_what_the_link_does_not_have_in_time_is_in_the_error(
    limit: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        up.plan(then=Unreachable())
        with pytest.raises(trio_wsout.DeliveryError) as caught:
            async with trio_wsout.open_output(
                linked(**{"shutdown-timeout": limit}), listeners=[listener], open_stream=up.open_stream
            ) as output:
                await output.send("one")
        assert [each.event for each in caught.value.undelivered] == ["one"]
        assert limit.removesuffix("s") in caught.value.undelivered[0].reason
        assert output.statistics().undelivered == 1


async def test_a_link_that_gives_up_tells_what_peers_hold_as_well_once(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        up.plan(then=Unreachable())
        with pytest.raises(trio_wsout.ConnectError) as caught:
            async with trio_wsout.open_output(
                linked(reconnect={"max-attempts": 2}), listeners=[listener], open_stream=up.open_stream
            ) as output:
                client = await listener.connect()
                client.pong_after = None
                await output.wait_peers(1)
                for number in range(3):
                    await output.send(number)
                await trio.sleep(5)
        assert [each.event for each in caught.value.undelivered] == [0, 1, 2]
        figures = output.statistics()
        assert (figures.accepted, figures.confirmed, figures.undelivered) == (3, 0, 3)


async def test_what_the_link_told_of_is_not_told_again_when_a_peer_still_holds_it(
    listener: MemoryListener, logged: Logged, autojump_clock: MockClock
) -> None:
    giving, taking = trio.open_memory_channel[trio_wsout.Undelivered](10)
    async with open_peer() as up:
        up.plan(Accept(pong_after=None, cut_after=1))
        with trio.move_on_after(5):
            async with trio_wsout.open_output(
                linked(retry={"retries": 0}),
                listeners=[listener],
                open_stream=up.open_stream,
                undelivered=giving,
            ) as output:
                client = await listener.connect()
                client.pong_after = None
                await output.wait_peers(1)
                await output.send("refused")
                await trio.sleep(1)
                assert output.statistics().unconfirmed == 1, "the peer may still have it"
                await output.send("later")
                await trio.sleep_forever()
    assert taken(taking) == ["refused", "later"]
    figures = output.statistics()
    assert (figures.accepted, figures.confirmed, figures.undelivered) == (2, 0, 2)
    assert logged.count == 0


async def test_a_broken_output_that_is_cancelled_before_anybody_heard_logs_all_of_it(
    listener: MemoryListener, logged: Logged, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        up.plan(Accept(pong_after=None, cut_after=1))
        with trio.move_on_after(5):
            async with trio_wsout.open_output(
                linked(retry={"retries": 0}), listeners=[listener], open_stream=up.open_stream
            ) as output:
                await output.send("refused")
                await trio.sleep_forever()
    assert logged.count == output.statistics().undelivered == 1


# -- at any time --------------------------------------------------------------------------------------------


class EndAtStep(trio.abc.Instrument):
    """Has the block end before a given step of any task."""

    def __init__(self, step: int, do: Any) -> None:
        self.left = step
        self.do = do

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.do()


class Account:
    """One run, and what was told of it."""

    def __init__(
        self, fields: dict[str, Any], how: str, room: int | None, plan: list[Any], peers: int
    ) -> None:
        self.fields = fields
        self.how = how
        self.room = room
        self.plan = plan
        self.peers = peers
        self.disk = Disk(takes=0) if "spool" in fields else None
        self.output: trio_wsout.Output | None = None
        self.error: BaseException | None = None
        self.told: list[object] = []

    async def talk(self, output: trio_wsout.Output, listener: MemoryListener, up: MemoryPeer) -> None:
        clients = [await listener.knock() for _ in range(self.peers)]
        for client in clients[1:]:
            client.pong_after = None
        await trio.sleep(0.01)
        for number in range(6):
            await output.send(f"application:{number}")
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                for client in clients[:1]:
                    await client.send(f"peer:{number}")
            with suppress(trio.ClosedResourceError, RuntimeError):
                if up.connected:
                    await up.send(f"down:{number}")
            await trio.sleep(0.07)

    async def run(self, step: int) -> None:
        giving, taking = trio.open_memory_channel[trio_wsout.Undelivered](self.room or 0)
        talking, scope = trio.CancelScope(deadline=trio.current_time() + 30), trio.CancelScope()
        end = EndAtStep(step, (scope if self.how == "cancel" else talking).cancel)
        async with open_peer() as up, trio.open_nursery() as nursery:
            up.plan(*self.plan)
            listener = MemoryListener(nursery)
            undelivered = giving if self.room is not None else None
            trio.lowlevel.add_instrument(end)
            with scope:
                try:
                    async with trio_wsout.open_output(
                        self.fields,
                        listeners=[listener],
                        open_stream=up.open_stream,
                        undelivered=undelivered,
                        spool=self.disk,
                    ) as self.output:
                        with talking:
                            await self.talk(self.output, listener, up)
                            await trio.sleep_forever()
                        if self.how == "raise":
                            raise LookupError  # noqa: TRY301 - as a block of the application does
                except Exception as error:
                    self.error = error
            trio.lowlevel.remove_instrument(end)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        self.told = taken(taking)

    def check(self, logged: int) -> None:
        if self.output is None:
            return
        error = self.error
        if isinstance(error, trio.BrokenResourceError):
            error = error.__cause__
        if isinstance(error, trio_wsout.OutputError):
            self.told += [each.event for each in error.undelivered]
            logged = 0  # it is in both, where the block raises what broke the output
        elif error is not None:
            assert isinstance(error, LookupError)
        assert len(set(self.told)) == len(self.told), "an event was told twice"
        figures = self.output.statistics()
        kept = [] if self.disk is None else self.disk.events
        assert not {*kept} & {*self.told}, "an event stays, and was told to be lost"
        assert figures.unconfirmed == len(kept)
        assert figures.accepted == figures.confirmed + figures.undelivered + figures.unconfirmed
        assert figures.undelivered == len(self.told) + logged


FIELDS = st.fixed_dictionaries(
    {
        "shutdown-timeout": st.sampled_from(["0s", "200ms", "3s"]),
        "retry": st.sampled_from([{}, {"retries": 0}]),
        "reconnect": st.sampled_from([{}, {"max-attempts": 2}]),
        "heartbeat": st.just({"ping-interval": "1s", "timeout": "1s"}),
    },
    optional={
        "history": st.just({"store": "memory:"}),
        "batch": st.just({"mode": "fixed", "fixed-size": 2, "timeout": "100ms"}),
        "delivery": st.just({"max-unconfirmed": 2}),
        "spool": st.just({"path": "/spool"}),
    },
).filter(lambda fields: not {"batch", "spool"} <= {*fields})
PLANS = st.lists(
    st.sampled_from(
        [
            Accept(),
            Unreachable(),
            Accept(after=0.2, pong_after=0.1),
            Accept(pong_after=0.1, cut_after=1),
            Accept(pong_after=None, cut_after=2),
            Accept(pong_after=None),
        ]
    ),
    max_size=4,
)


@given(
    FIELDS,
    st.sampled_from(["cancel", "leave", "raise"]),
    st.sampled_from([None, 0, 2, 100]),
    PLANS,
    st.integers(0, 2),
    st.integers(1, 1500),
)
def test_each_event_that_is_undelivered_is_told_once(
    fields: dict[str, Any], how: str, room: int | None, plan: list[Any], peers: int, step: int
) -> None:
    account = Account(linked(**fields), how, room, plan, peers)
    handler = Logged()
    logging.getLogger("trio_wsout").addHandler(handler)
    try:
        trio.run(account.run, step, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logging.getLogger("trio_wsout").removeHandler(handler)
    account.check(handler.count)
