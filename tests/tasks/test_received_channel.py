"""The channel of received messages: order, bounds, turns, and what becomes of tasks that wait at either end."""

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


def drained(handover: Handover) -> list[Any]:
    """What can be taken now."""
    taken: list[Any] = []
    try:
        while True:
            taken.append(handover.channel.receive_nowait().event)
    except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
        return taken


async def receive(handover: Handover) -> list[Any]:
    return [(await handover.channel.receive()).event]


async def next_one(handover: Handover) -> list[Any]:
    async for item in handover.channel:
        return [item.event]
    raise trio.EndOfChannel


async def receive_many(handover: Handover) -> list[Any]:
    return events_in(await handover.channel.receive_many())


WAYS: list[Callable[[Handover], Awaitable[list[Any]]]] = [receive, next_one, receive_many]
each_way = pytest.mark.parametrize("way", WAYS)

# -- examples -------------------------------------------------------------------------------------------------


async def test_it_takes_whole_runs_until_it_is_full_and_keeps_the_order() -> None:
    handover = Handover(MOST)
    first, second, third = run_of(1, 2), run_of(3, 4), run_of(5)
    for run in (first, second, third, run_of()):
        handover.put_nowait(run)
    assert (events_in(first), events_in(second), events_in(third)) == ([], [], [5])
    assert handover.channel.receive_nowait().event == 1
    handover.put_nowait(third)
    assert third, "three wait"
    assert handover.channel.receive_nowait().event == 2
    handover.put_nowait(third)
    assert not third
    assert drained(handover) == [3, 4, 5]
    with pytest.raises(trio.WouldBlock):
        handover.channel.receive_nowait()


async def test_connections_that_wait_are_let_in_a_run_each_in_their_order_and_nobody_overtakes(
    nursery: trio.Nursery,
) -> None:
    handover, taken = Handover(1), []
    handover.put_nowait(run_of(0))
    for run in (run_of("a1", "a2", "a3"), run_of("b1"), run_of("c1", "c2")):
        nursery.start_soon(handover.put, run)
        await trio.testing.wait_all_tasks_blocked()
    late = run_of("late")
    for _ in range(7):
        handover.put_nowait(late)
        assert late
        taken.append(handover.channel.receive_nowait().event)
        handover.put_nowait(late)
        assert late or len(taken) == 7
        await trio.testing.wait_all_tasks_blocked()
    assert taken == [0, "a1", "a2", "a3", "b1", "c1", "c2"]


async def test_runs_that_wait_are_taken_at_once_until_there_are_64() -> None:
    handover = Handover(1000)
    for number in range(100):
        handover.put_nowait(run_of(*range(10 * number, 10 * number + 10)))
    assert await receive_many(handover) == [*range(70)]
    assert handover.channel.receive_nowait().event == 70
    assert await receive_many(handover) == [*range(71, 140)]
    assert drained(handover) == [*range(140, 1000)]


@each_way
async def test_a_cancelled_taker_has_taken_none_also_where_something_waits(way: Any) -> None:
    handover = Handover(MOST)
    handover.put_nowait(run_of(1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await way(handover)
    assert scope.cancelled_caught
    assert drained(handover) == [1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(way, handover)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    handover.put_nowait(run_of(2))
    assert drained(handover) == [2]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_cancelled_put_has_put_nothing(waits: bool) -> None:
    handover, run = Handover(1), run_of(1, 2)
    if waits:
        handover.put_nowait(run_of(0))
    async with trio.open_nursery() as nursery:
        if not waits:
            nursery.cancel_scope.cancel()
        nursery.start_soon(handover.put, run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert events_in(run) == [1, 2]
    assert drained(handover) == [0] * waits


@each_way
async def test_more_tasks_that_take_than_runs_all_get_their_items(way: Any) -> None:
    handover, taken = Handover(1), []

    async def take() -> None:
        taken.extend(await way(handover))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await handover.put(run_of(1, 2, 3, 4))
            await trio.testing.wait_all_tasks_blocked()
            if way is receive_many:
                assert taken == [1, 2, 3, 4]
                for number in (5, 6, 7):
                    await handover.put(run_of(number))
                    await trio.testing.wait_all_tasks_blocked()
    assert taken == [1, 2, 3, 4, *([5, 6, 7] if way is receive_many else [])]


async def test_nobody_overtakes_a_task_that_waits_for_an_item() -> None:
    handover, taken = Handover(5), []

    async def take() -> None:
        taken.append((await handover.channel.receive()).event)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        handover.put_nowait(run_of(1))
        handover.put_nowait(run_of(2))
        with pytest.raises(trio.WouldBlock):
            handover.channel.receive_nowait()
    assert taken == [1]
    assert drained(handover) == [2]


async def test_a_connection_that_was_let_in_and_is_cancelled_then_has_put_all() -> None:
    handover, run, returned = Handover(1), run_of(1, 2), False
    handover.put_nowait(run_of(0))

    async def put() -> None:
        nonlocal returned
        await handover.put(run)
        returned = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        await trio.testing.wait_all_tasks_blocked()
        handover.channel.receive_nowait()
        nursery.cancel_scope.cancel()
    assert returned
    assert drained(handover) == [1, 2]


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
async def test_other_tasks_run_at_least_once_in_64_items(way: Any) -> None:
    handover, rows, left = Handover(1000), Rows(), 1000
    for number in range(100):
        handover.put_nowait(run_of(*range(10 * number, 10 * number + 10)))
    trio.lowlevel.add_instrument(rows)
    while left:
        count = len(await way(handover))
        rows.now += count
        left -= count
    await trio.lowlevel.checkpoint()
    assert rows.longest == (70 if way is receive_many else MOST_IN_A_ROW)


async def test_putting_lets_other_tasks_run() -> None:
    handover = Handover(MOST)
    with trio.testing.assert_checkpoints():
        await handover.put(run_of(1))
    with trio.testing.assert_checkpoints():
        await handover.channel.aclose()


@each_way
async def test_after_the_end_what_waits_is_taken_and_then_it_is_over(way: Any) -> None:
    handover, waiting = Handover(MOST), run_of(4, 5)
    handover.put_nowait(run_of(1, 2, 3))
    async with trio.open_nursery() as nursery:

        async def refused() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await handover.put(waiting)

        nursery.start_soon(refused)
        await trio.testing.wait_all_tasks_blocked()
        handover.end()
    assert events_in(waiting) == [4, 5]
    with pytest.raises(trio.ClosedResourceError):
        await handover.put(waiting)
    taken: list[Any] = []
    while len(taken) < 3:
        taken += await way(handover)
    assert taken == [1, 2, 3]
    with pytest.raises(trio.EndOfChannel):
        await way(handover)
    with pytest.raises(trio.EndOfChannel):
        handover.channel.receive_nowait()
    assert [item async for item in handover.channel] == []


@each_way
async def test_closed_by_who_takes_it_gives_nothing_and_takes_nothing(way: Any) -> None:
    handover, waiting = Handover(MOST), run_of(4, 5)
    handover.put_nowait(run_of(1, 2, 3))
    async with trio.open_nursery() as nursery:

        async def refused() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await handover.put(waiting)

        nursery.start_soon(refused)
        await trio.testing.wait_all_tasks_blocked()
        handover.channel.close()
    assert events_in(waiting) == [4, 5]
    with pytest.raises(trio.BrokenResourceError):
        handover.put_nowait(waiting)
    with pytest.raises(trio.ClosedResourceError):
        handover.channel.receive_nowait()
    with pytest.raises(trio.ClosedResourceError):
        await way(handover)


@each_way
@pytest.mark.parametrize(("end", "error"), [("end", trio.EndOfChannel), ("close", trio.ClosedResourceError)])
async def test_who_waits_for_an_item_is_told_of_the_end(way: Any, end: str, error: type[Exception]) -> None:
    handover = Handover(MOST)
    told = 0

    async def wait() -> None:
        nonlocal told
        with pytest.raises(error):
            await way(handover)
        told += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        getattr(handover if end == "end" else handover.channel, end)()
    assert told == 3


# -- laws -----------------------------------------------------------------------------------------------------

SENDERS = 3
LONGEST = 2 * MOST
PUT = st.tuples(st.just("put"), st.integers(0, SENDERS - 1), st.integers(1, LONGEST))
TAKE = st.tuples(st.just("take"), st.integers(0, len(WAYS)), st.just(0))
CANCEL = st.tuples(st.sampled_from(["cancel taker", "cancel sender"]), st.integers(0, 5), st.just(0))
OVER = st.tuples(st.sampled_from(["end", "close"]), st.just(0), st.just(0))
STEPS = st.lists(st.tuples(st.one_of(PUT, PUT, TAKE, TAKE, CANCEL, OVER), st.booleans()), max_size=30)


class Scene:
    """Tasks at both ends of one channel, and what became of them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.handover = Handover(MOST)
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
                self.taken.append(self.handover.channel.receive_nowait().event)  # type: ignore[arg-type] # only such are put
        elif what.startswith("cancel"):
            scopes = self.takers if what == "cancel taker" else list(self.senders.values())
            if scopes:
                scopes[number % len(scopes)].cancel()
        elif what == "end":
            self.handover.end()
        elif what == "close":
            self.handover.channel.close()

    async def _put(self, number: int, run: deque[Received], scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self.handover.put(run)
                assert not run
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass
        finally:
            del self.senders[number]

    async def _take(self, way: Callable[[Handover], Awaitable[list[Any]]], scope: trio.CancelScope) -> None:
        try:
            with scope:
                self.taken += await way(self.handover)
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
                    assert inside < MOST + LONGEST or closed(steps), "bounded"
                    assert not (scene.takers and inside and not closed(steps)), (
                        "who waits has nothing to take"
                    )
                    assert not (scene.senders and inside < MOST and not closed(steps)), (
                        "who waits has no room"
                    )
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        scene.taken += drained(scene.handover)
        left = [event for run in scene.runs for event in events_in(run)]
        everything = [(number, n) for number in range(SENDERS) for n in range(scene.said[number])]
        for number in range(SENDERS):
            numbers = [n for sender, n in scene.taken if sender == number]
            assert numbers == sorted(set(numbers)), "in order, and none twice"
        found = sorted([*scene.taken, *left])
        if closed(steps):
            # What lay there is gone; nothing else is.
            assert len(everything) - MOST - LONGEST < len(found) <= len(everything)
            assert set(found) <= set(everything)
        else:
            assert found == everything

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def closed(steps: list[Any]) -> bool:
    return any(what == "close" for (what, _, _), _ in steps)


class Model:
    """The channel as lists: connections that wait get in one after the other, each with its whole run."""

    def __init__(self) -> None:
        self.inside: list[Any] = []
        self.outside: list[list[Any]] = []

    def put(self, run: list[Any]) -> None:
        self.outside.append(run)
        self._let_in()

    def take(self, count: int) -> list[Any]:
        taken, self.inside = self.inside[:count], self.inside[count:]
        self._let_in()
        return taken

    def _let_in(self) -> None:
        while self.outside and len(self.inside) < MOST:
            self.inside += self.outside.pop(0)


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
                    expected += model.take(at_once)
                scene.do(what, number, count)
                await trio.testing.wait_all_tasks_blocked()
                assert scene.taken == expected
            assert drained(scene.handover) == model.inside
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
