"""The channel of what peers send: order, bounds, turns, and what becomes of who waits at either end."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout import Peer, Received
from trio_wsout._tasks.received_channel import MOST_IN_A_ROW, Handover

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PEER = Peer(address="here")
MOST = 3


def run_of(*events: object) -> deque[Received]:
    return deque(Received(event, PEER) for event in events)


def events_in(items: Any) -> list[Any]:
    return [item.event for item in items]


def drained(channel: Handover) -> list[Any]:
    """What can be taken now, with what thereby gets in."""
    taken: list[Any] = []
    try:
        while True:
            taken.append(channel.receive_nowait().event)
    except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
        return taken


async def receive(channel: Handover) -> list[Any]:
    return [(await channel.receive()).event]


async def next_one(channel: Handover) -> list[Any]:
    async for item in channel:
        return [item.event]
    raise trio.EndOfChannel


async def receive_many(channel: Handover) -> list[Any]:
    return events_in(await channel.receive_many())


WAYS: list[Callable[[Handover], Awaitable[list[Any]]]] = [receive, next_one, receive_many]
each_way = pytest.mark.parametrize("way", WAYS)

# -- examples -------------------------------------------------------------------------------------------------


async def test_it_is_bounded_and_keeps_the_order() -> None:
    channel, run = Handover(MOST), run_of(1, 2, 3, 4)
    channel.put_nowait(run)
    assert events_in(run) == [4]
    channel.put_nowait(run)
    assert events_in(run) == [4]
    assert drained(channel) == [1, 2, 3]
    channel.put_nowait(run)
    assert not run
    assert drained(channel) == [4]
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()


async def test_who_waits_to_put_is_let_in_one_item_a_turn_and_nobody_overtakes(nursery: trio.Nursery) -> None:
    channel = Handover(1)
    channel.put_nowait(run_of(0))
    for run in (run_of("a1", "a2", "a3"), run_of("b1"), run_of("c1", "c2")):
        nursery.start_soon(channel.put, run)
        await trio.testing.wait_all_tasks_blocked()
    late = run_of("late")
    channel.put_nowait(late)
    assert late
    assert drained(channel) == [0, "a1", "b1", "c1", "a2", "c2", "a3"]


async def test_all_that_lies_there_is_taken_at_once_and_no_more(nursery: trio.Nursery) -> None:
    channel, run = Handover(MOST), run_of(*range(8))
    nursery.start_soon(channel.put, run)
    await trio.testing.wait_all_tasks_blocked()
    assert await receive_many(channel) == [0, 1, 2]
    assert await receive_many(channel) == [3, 4, 5]
    assert not run
    assert await receive_many(channel) == [6, 7]


@each_way
async def test_a_cancelled_taker_has_taken_none_also_where_something_waits(way: Any) -> None:
    channel = Handover(MOST)
    channel.put_nowait(run_of(1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await way(channel)
    assert scope.cancelled_caught
    assert drained(channel) == [1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(way, channel)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    channel.put_nowait(run_of(2))
    assert drained(channel) == [2]


async def test_a_cancelled_put_leaves_what_was_not_put() -> None:
    channel, run = Handover(MOST), run_of(1, 2, 3, 4, 5)
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.put(run)
    assert scope.cancelled_caught
    assert len(run) == 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.put, run)
        await trio.testing.wait_all_tasks_blocked()
        assert channel.receive_nowait().event == 1
        nursery.cancel_scope.cancel()
    assert events_in(run) == [5]
    assert drained(channel) == [2, 3, 4]


@each_way
async def test_more_takers_than_there_is_room_for_all_get_what_waits_to_be_put(way: Any) -> None:
    channel, taken = Handover(1), []

    async def take() -> None:
        taken.extend(await way(channel))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await channel.put(run_of(1, 2, 3, 4))
    assert taken == [1, 2, 3, 4]


async def test_who_is_cancelled_and_let_in_before_its_task_runs_leaves_nothing_behind() -> None:
    channel, run = Handover(1), run_of(1, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.put, run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        assert channel.receive_nowait().event == 1
    assert not run
    assert drained(channel) == [2]


async def test_who_was_let_in_and_is_cancelled_then_has_put_all() -> None:
    channel, run, returned = Handover(1), run_of(1, 2), False

    async def put() -> None:
        nonlocal returned
        await channel.put(run)
        returned = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        await trio.testing.wait_all_tasks_blocked()
        channel.receive_nowait()
        nursery.cancel_scope.cancel()
    assert returned
    assert drained(channel) == [2]


class Rows(trio.abc.Instrument):
    """Counts what is taken between two steps of tasks."""

    def __init__(self) -> None:
        self.now = 0
        self.longest = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self.longest = max(self.longest, self.now)
        self.now = 0


@each_way
async def test_other_tasks_run_at_least_once_in_64_items(way: Any, nursery: trio.Nursery) -> None:
    channel, rows, left = Handover(10), Rows(), 1000
    trio.lowlevel.add_instrument(rows)
    nursery.start_soon(channel.put, run_of(*range(left)))
    await trio.testing.wait_all_tasks_blocked()
    while left:
        count = len(await way(channel))
        rows.now += count
        left -= count
    await trio.lowlevel.checkpoint()
    assert rows.longest == (10 if way is receive_many else MOST_IN_A_ROW)


async def test_putting_lets_other_tasks_run() -> None:
    channel = Handover(MOST)
    with trio.testing.assert_checkpoints():
        await channel.put(run_of(1))
    with trio.testing.assert_checkpoints():
        await channel.aclose()


@each_way
async def test_after_the_end_what_waits_is_taken_and_then_it_is_over(way: Any) -> None:
    channel, waiting = Handover(MOST), run_of(4, 5)
    channel.put_nowait(run_of(1, 2, 3))
    async with trio.open_nursery() as nursery:

        async def refused() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await channel.put(waiting)

        nursery.start_soon(refused)
        await trio.testing.wait_all_tasks_blocked()
        channel.end()
    assert events_in(waiting) == [4, 5]
    with pytest.raises(trio.ClosedResourceError):
        channel.put_nowait(waiting)
    taken: list[Any] = []
    while len(taken) < 3:
        taken += await way(channel)
    assert taken == [1, 2, 3]
    with pytest.raises(trio.EndOfChannel):
        await way(channel)
    with pytest.raises(trio.EndOfChannel):
        channel.receive_nowait()
    assert [item async for item in channel] == []


@each_way
async def test_closed_by_who_takes_it_gives_nothing_and_takes_nothing(way: Any) -> None:
    channel, waiting = Handover(MOST), run_of(4, 5)
    channel.put_nowait(run_of(1, 2, 3))
    async with trio.open_nursery() as nursery:

        async def refused() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await channel.put(waiting)

        nursery.start_soon(refused)
        await trio.testing.wait_all_tasks_blocked()
        channel.close()
    assert events_in(waiting) == [4, 5]
    with pytest.raises(trio.BrokenResourceError):
        channel.put_nowait(waiting)
    with pytest.raises(trio.ClosedResourceError):
        channel.receive_nowait()
    with pytest.raises(trio.ClosedResourceError):
        await way(channel)


@each_way
@pytest.mark.parametrize(("end", "error"), [("end", trio.EndOfChannel), ("close", trio.ClosedResourceError)])
async def test_who_waits_for_an_item_is_told_of_the_end(way: Any, end: str, error: type[Exception]) -> None:
    channel = Handover(MOST)
    told = 0

    async def wait() -> None:
        nonlocal told
        with pytest.raises(error):
            await way(channel)
        told += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        getattr(channel, end)()
    assert told == 3


async def test_who_was_let_in_as_the_channel_was_closed_is_not_refused() -> None:
    channel = Handover(1)
    channel.put_nowait(run_of(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.put, run_of(1))
        await trio.testing.wait_all_tasks_blocked()
        channel.receive_nowait()
        channel.end()
    assert drained(channel) == [1]


# -- laws -----------------------------------------------------------------------------------------------------

SENDERS = 3
PUT = st.tuples(st.just("put"), st.integers(0, SENDERS - 1), st.integers(0, 2 * MOST))
TAKE = st.tuples(st.just("take"), st.integers(0, len(WAYS)), st.just(0))
CANCEL = st.tuples(st.sampled_from(["cancel taker", "cancel sender"]), st.integers(0, 5), st.just(0))
OVER = st.tuples(st.sampled_from(["end", "close"]), st.just(0), st.just(0))
STEPS = st.lists(st.tuples(st.one_of(PUT, PUT, TAKE, TAKE, CANCEL, OVER), st.booleans()), max_size=30)


class Scene:
    """Tasks at both ends of one channel, and what became of them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.channel = Handover(MOST)
        self.taken: list[tuple[int, int]] = []
        self.said = [0] * SENDERS
        self.runs: list[deque[Received]] = []
        self.senders: dict[int, trio.CancelScope] = {}
        """Those who put now."""
        self.takers: list[trio.CancelScope] = []
        """Those who take now."""

    def do(self, what: str, number: int, count: int) -> None:
        if what == "put" and number not in self.senders:
            first = self.said[number]
            self.said[number] += count
            run = run_of(*((number, n) for n in range(first, first + count)))
            self.runs.append(run)
            scope = self.senders[number] = trio.CancelScope()
            self.nursery.start_soon(self._put, number, run, scope)
        elif what == "take" and number < len(WAYS):
            scope = trio.CancelScope()
            self.takers.append(scope)
            self.nursery.start_soon(self._take, WAYS[number], scope)
        elif what == "take":
            with suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                self.taken.append(self.channel.receive_nowait().event)  # type: ignore[arg-type] # only such are put
        elif what.startswith("cancel"):
            scopes = self.takers if what == "cancel taker" else list(self.senders.values())
            if scopes:
                scopes[number % len(scopes)].cancel()
        elif what in {"end", "close"}:
            getattr(self.channel, what)()

    async def _put(self, number: int, run: deque[Received], scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self.channel.put(run)
                assert not run
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass
        finally:
            del self.senders[number]

    async def _take(self, way: Callable[[Handover], Awaitable[list[Any]]], scope: trio.CancelScope) -> None:
        try:
            with scope:
                self.taken += await way(self.channel)
        except (trio.EndOfChannel, trio.ClosedResourceError):
            pass
        finally:
            self.takers.remove(scope)


@given(STEPS)
def test_nothing_is_lost_or_doubled_and_each_senders_order_is_kept(steps: list[Any]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scene = Scene(nursery)
            for (what, number, count), settle in steps:
                scene.do(what, number, count)
                if settle:
                    await trio.testing.wait_all_tasks_blocked()
                    inside = sum(scene.said) - len(scene.taken) - sum(map(len, scene.runs))
                    assert inside <= MOST or closed(steps), "bounded"
                    assert not (scene.takers and inside and not closed(steps)), (
                        "who waits has nothing to take"
                    )
                    assert not (scene.senders and inside < MOST and not closed(steps)), (
                        "who waits has no room"
                    )
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        scene.taken += drained(scene.channel)
        left = [event for run in scene.runs for event in events_in(run)]
        everything = [(number, n) for number in range(SENDERS) for n in range(scene.said[number])]
        for number in range(SENDERS):
            numbers = [n for sender, n in scene.taken if sender == number]
            assert numbers == sorted(set(numbers)), "in order, and none twice"
        found = sorted([*scene.taken, *left])
        if closed(steps):
            # What lay there is gone; nothing else is.
            assert len(everything) - MOST <= len(found) <= len(everything)
            assert set(found) <= set(everything)
        else:
            assert found == everything

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def closed(steps: list[Any]) -> bool:
    return any(what == "close" for (what, _, _), _ in steps)


class Model:
    """The channel as lists: who waits gets in by turns, an item each."""

    def __init__(self) -> None:
        self.inside: list[Any] = []
        self.outside: list[list[Any]] = []

    def put(self, run: list[Any]) -> None:
        self.outside.append(run)
        while self.outside and self.outside[-1] is run and run and len(self.inside) < MOST:
            self.inside.append(run.pop(0))
        self.outside = [each for each in self.outside if each]

    def take(self) -> Any:
        item = self.inside.pop(0)
        if self.outside:
            run = self.outside.pop(0)
            self.inside.append(run.pop(0))
            if run:
                self.outside.append(run)
        return item


@given(
    st.lists(st.one_of(PUT, st.tuples(st.just("take"), st.integers(0, len(WAYS)), st.just(0))), max_size=40)
)
def test_it_is_as_plain_lists_would_be(steps: list[Any]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scene, model, expected = Scene(nursery), Model(), []
            for what, number, count in steps:
                if what == "put" and number not in scene.senders:
                    first = scene.said[number]
                    model.put([(number, n) for n in range(first, first + count)])
                elif what == "take":
                    if not model.inside:
                        continue
                    at_once = len(model.inside) if WAYS[number : number + 1] == [receive_many] else 1
                    expected += [model.take() for _ in range(at_once)]
                scene.do(what, number, count)
                await trio.testing.wait_all_tasks_blocked()
                assert scene.taken == expected
            assert drained(scene.channel) == [
                model.take() for _ in range(sum(map(len, model.outside)) + len(model.inside))
            ]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
