"""The channel of single items: order, turns, bounds, and what becomes of tasks that wait at either end."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from trio_wsout._tasks.channel import ReceivingEnd, SendingEnd, open_channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

MOST = 3


def ends(most: int) -> tuple[SendingEnd[Any], ReceivingEnd[Any]]:
    return open_channel(most)


def drained(end: ReceivingEnd[Any]) -> list[Any]:
    """Everything that can be taken now, by turns, with what thereby gets in."""
    taken: list[Any] = []
    with suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
        while True:
            taken.append(end.receive_nowait())
    return taken


# -- bounds and order -----------------------------------------------------------------------------------------


async def test_it_is_bounded_and_keeps_the_order() -> None:
    sending, receiving = ends(2)
    sending.send_nowait(1)
    await sending.send(2)
    with pytest.raises(trio.WouldBlock):
        sending.send_nowait(3)
    assert len(sending) == 2
    assert list(receiving.waiting) == receiving.take(2) == [1, 2]
    assert receiving.take(1) == []
    with pytest.raises(trio.WouldBlock):
        receiving.receive_nowait()


async def test_who_waits_longest_is_let_in_first_and_nobody_overtakes(nursery: trio.Nursery) -> None:
    sending, receiving = ends(1)
    sending.send_nowait(0)
    for number in (1, 2, 3):
        nursery.start_soon(sending.send, number)
        await trio.testing.wait_all_tasks_blocked()
    assert sending.statistics().tasks_waiting_send == 3
    for number in (0, 1, 2):
        assert receiving.take(1) == [number]
        with pytest.raises(trio.WouldBlock):
            sending.send_nowait(9)
    assert receiving.take(1) == [3]


async def test_who_takes_several_lets_in_as_many() -> None:
    sending, receiving = ends(3)
    returned: list[int] = []

    async def send(number: int) -> None:
        await sending.send(number)
        returned.append(number)

    for number in (0, 1, 2):
        sending.send_nowait(number)
    async with trio.open_nursery() as nursery:
        for number in (3, 4, 5, 6):
            nursery.start_soon(send, number)
            await trio.testing.wait_all_tasks_blocked()
        assert receiving.take(2) == [0, 1]
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(returned) == [3, 4]
        assert receiving.take(3) == [2, 3, 4]
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(returned) == [3, 4, 5, 6]
    assert receiving.take(2) == [5, 6]


async def test_an_item_may_be_anything() -> None:
    sending, receiving = ends(3)
    for item in (None, False, ""):
        sending.send_nowait(item)
    assert drained(receiving) == [None, False, ""]


async def test_both_ends_are_trios() -> None:
    sending, receiving = ends(MOST)
    assert isinstance(sending, trio.abc.SendChannel)
    assert isinstance(receiving, trio.abc.ReceiveChannel)
    async with sending, receiving:
        with trio.testing.assert_checkpoints():
            await sending.send(1)
        with trio.testing.assert_checkpoints():
            assert await receiving.receive() == 1
    with pytest.raises(trio.ClosedResourceError):
        sending.send_nowait(2)
    with pytest.raises(trio.ClosedResourceError):
        receiving.receive_nowait()


# -- turns ----------------------------------------------------------------------------------------------------


async def test_each_source_has_its_turn() -> None:
    a, receiving = ends(3)
    b, c = a.clone(3), a.clone(3)
    for source, item in [(a, 1), (a, 2), (a, 3), (b, 4), (c, 5), (b, 6)]:
        source.send_nowait(item)
    assert [source.current_buffer_used for source in receiving.statistics().sources] == [3, 2, 1]
    assert drained(receiving) == [1, 4, 5, 2, 6, 3]


async def test_a_source_that_comes_back_at_once_waits_for_the_others() -> None:
    a, receiving = ends(1)
    b = a.clone(1)
    a.send_nowait(1)
    b.send_nowait(2)
    assert receiving.receive_nowait() == 1
    a.send_nowait(3)
    assert drained(receiving) == [2, 3]


async def test_many_taken_at_once_are_one_turn_of_one_source() -> None:
    a, receiving = ends(MOST)
    b = a.clone(MOST)
    for number in range(MOST):
        a.send_nowait(number)
        b.send_nowait(10 + number)
    assert list(receiving.waiting) == [0, 1, 2]
    assert receiving.take(2) == [0, 1]
    assert receiving.take(3) == [10, 11, 12]
    assert receiving.take(1) == [2]


async def test_a_full_source_waits_alone(nursery: trio.Nursery) -> None:
    a, receiving = ends(2)
    b = a.clone(1)
    for number in range(2):
        a.send_nowait(number)
    nursery.start_soon(a.send, 2)
    await trio.testing.wait_all_tasks_blocked()
    await b.send(9)
    assert [source.tasks_waiting_send for source in receiving.statistics().sources] == [1, 0]
    assert drained(receiving) == [0, 9, 1, 2]


async def test_one_source_alone_has_turns_while_that_is_asked_for() -> None:
    a, receiving = ends(2)
    b, restricted = a.clone(2), True
    b.restrict(lambda: restricted)
    for number in range(2):
        a.send_nowait(f"a{number}")
        b.send_nowait(f"b{number}")
    assert receiving.take(1) == ["b0"]
    assert receiving.receive_nowait() == "b1"
    assert receiving.waiting == ()
    with pytest.raises(trio.WouldBlock):
        receiving.receive_nowait()
    async with trio.open_nursery() as nursery:
        taken: list[Any] = []

        async def receive() -> None:
            taken.append(await receiving.receive())

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        a.notify()
        await trio.testing.wait_all_tasks_blocked()
        assert not taken
        restricted = False
        a.notify()
        await trio.testing.wait_all_tasks_blocked()
        assert taken == ["a0"]
    restricted = True
    b.restrict(None)
    assert drained(receiving) == ["a1"]


async def test_what_is_due_has_its_turn_at_its_time_beside_the_source_that_alone_has_turns(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    a, receiving = ends(2)
    b, c, restricted = a.clone(2), a.clone(3), True
    b.restrict(lambda: restricted, float)
    taken: list[tuple[float, Any]] = []

    async def receive() -> None:
        while True:
            item = await receiving.receive()
            taken.append((trio.current_time(), item))

    nursery.start_soon(receive)
    await trio.sleep(1)
    for due in (9, 4):  # 4 stands behind 9
        a.send_nowait(due)
    for due in (5, 6, 30):
        c.send_nowait(due)
    await trio.sleep(1)
    b.send_nowait(100)
    nursery.start_soon(a.send, 12)  # waits for room
    await trio.sleep(11)
    assert taken == [(2, 100), (5, 5), (6, 6), (9, 9), (9, 4), (12, 12)]
    restricted = False
    a.notify()
    await trio.testing.wait_all_tasks_blocked()
    assert taken[6:] == [(13, 30)]


async def test_a_task_can_wait_until_all_of_a_source_was_taken(nursery: trio.Nursery) -> None:
    a, receiving = ends(2)
    b, empty = a.clone(2), 0

    async def wait() -> None:
        nonlocal empty
        await a.wait_empty()
        empty += 1

    with trio.testing.assert_checkpoints():
        await a.wait_empty()
    for number in range(2):
        a.send_nowait(number)
    b.send_nowait(2)
    nursery.start_soon(a.send, 3)
    for _ in range(2):
        nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    assert [receiving.receive_nowait() for _ in range(3)] == [0, 2, 1]
    await trio.testing.wait_all_tasks_blocked()
    assert empty == 0
    assert receiving.receive_nowait() == 3
    await trio.testing.wait_all_tasks_blocked()
    assert empty == 2


# -- cancellation ---------------------------------------------------------------------------------------------


async def test_a_cancelled_send_puts_nothing_where_there_is_room() -> None:
    sending, receiving = ends(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await sending.send(1)
    assert scope.cancelled_caught
    assert not receiving.waiting


async def test_who_waits_and_is_cancelled_has_put_nothing() -> None:
    sending, receiving = ends(1)
    sending.send_nowait(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sending.send, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert drained(receiving) == [0]
    assert sending.statistics().tasks_waiting_send == 0


async def test_room_that_comes_in_the_moment_of_a_cancellation_is_for_the_next(nursery: trio.Nursery) -> None:
    sending, receiving = ends(1)
    sending.send_nowait(0)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as leaving:
            leaving.start_soon(sending.send, 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(sending.send, 2)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            # Its task has not run yet, and must not be let in any more.
            assert receiving.take(1) == [0]
    assert scope.cancelled_caught
    assert drained(receiving) == [2]


@pytest.mark.parametrize("then", ["cancel", "close"])
async def test_who_was_let_in_has_put_it_whatever_comes_then(then: str) -> None:
    sending, receiving = ends(1)
    sending.send_nowait(0)
    returned = False

    async def send() -> None:
        nonlocal returned
        await sending.send(1)
        returned = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert receiving.take(1) == [0]
        if then == "cancel":
            nursery.cancel_scope.cancel()
        else:
            sending.close()
    assert returned
    assert drained(receiving) == [1]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_cancelled_receive_takes_nothing(waits: bool, nursery: trio.Nursery) -> None:
    sending, receiving = ends(2)
    if not waits:
        sending.send_nowait(1)
    async with trio.open_nursery() as leaving:
        if not waits:
            leaving.cancel_scope.cancel()
        leaving.start_soon(receiving.receive)
        await trio.testing.wait_all_tasks_blocked()
        assert receiving.statistics().tasks_waiting_receive == waits
        leaving.cancel_scope.cancel()
        if waits:
            sending.send_nowait(1)  # its task has not run yet
    assert receiving.statistics().tasks_waiting_receive == 0
    assert drained(receiving) == [1]


async def test_a_second_task_may_not_wait_for_an_item(nursery: trio.Nursery) -> None:
    sending, receiving = ends(1)
    nursery.start_soon(receiving.receive)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError):
        await receiving.receive()
    sending.send_nowait(1)


# -- the end --------------------------------------------------------------------------------------------------


async def test_a_closed_receiving_end_turns_away_who_sends(nursery: trio.Nursery) -> None:
    sending, receiving = ends(1)
    other = sending.clone(1)
    sending.send_nowait(0)

    async def refused() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await sending.send(1)

    async def waits() -> None:
        await sending.wait_empty()

    nursery.start_soon(refused)
    nursery.start_soon(waits)
    await trio.testing.wait_all_tasks_blocked()
    await receiving.aclose()
    for source in (sending, other):
        with pytest.raises(trio.BrokenResourceError):
            source.send_nowait(2)
    with pytest.raises(trio.BrokenResourceError):
        other.clone(1)
    with pytest.raises(trio.ClosedResourceError):
        await receiving.receive()
    assert receiving.statistics().current_buffer_used == 0


async def test_a_closed_sending_end_turns_away_who_waits_and_what_was_sent_can_be_received(
    nursery: trio.Nursery,
) -> None:
    sending, receiving = ends(1)
    other = sending.clone(1)
    sending.send_nowait(0)

    async def refused() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await sending.send(1)

    nursery.start_soon(refused)
    await trio.testing.wait_all_tasks_blocked()
    await sending.aclose()
    sending.close()
    with pytest.raises(trio.ClosedResourceError):
        sending.clone(1)
    assert receiving.receive_nowait() == 0
    with pytest.raises(trio.WouldBlock):
        receiving.receive_nowait()
    other.send_nowait(2)
    other.close()
    assert receiving.statistics().open_send_channels == 0
    assert [item async for item in receiving] == [2]
    with pytest.raises(trio.EndOfChannel):
        receiving.receive_nowait()


@pytest.mark.parametrize(("end", "error"), [(0, trio.EndOfChannel), (1, trio.ClosedResourceError)])
async def test_who_waits_for_an_item_is_told_of_the_end(end: int, error: type[Exception]) -> None:
    both = ends(1)

    async def wait() -> None:
        with pytest.raises(error):
            await both[1].receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        both[end].close()


# -- laws -----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 20), max_size=8))
def test_rounds_become_shorter_as_sources_run_dry(sizes: list[int]) -> None:
    first, receiving = ends(1)
    sources = [first.clone(size) for size in sizes]
    for name, source in enumerate(sources):
        for item in range(sizes[name]):
            source.send_nowait((name, item))
    rounds = range(max(sizes, default=0))
    expected = [(name, item) for item in rounds for name, size in enumerate(sizes) if item < size]
    assert drained(receiving) == expected


class ChannelMachine(RuleBasedStateMachine):
    """Lists that hold what waits, and a note of which sources had turns while others waited."""

    @initialize(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5))
    def begin(self, sizes: list[int]) -> None:
        first, self.receiving = ends(sizes[0])
        self.sources = [first, *(first.clone(size) for size in sizes[1:])]
        self.sizes = sizes
        self.waiting: list[list[int]] = [[] for _ in sizes]
        self.passed_by: list[set[int]] = [set() for _ in sizes]
        """For each source where something waits: the sources that had a turn since that began, or since its own turn."""
        self.only: int | None = None
        self.closed: set[int] = set()
        self.over = False
        self.born = 0

    @rule(data=st.data(), many=st.integers(1, 6))
    def send(self, data: st.DataObject, many: int) -> None:
        name = data.draw(st.sampled_from(range(len(self.sizes))))
        for _ in range(many):
            self.born += 1
            with self._expected(name):
                self.sources[name].send_nowait(self.born)
                self.waiting[name].append(self.born)

    def _expected(self, name: int) -> Any:
        if name in self.closed:
            return pytest.raises(trio.ClosedResourceError)
        if self.over:
            return pytest.raises(trio.BrokenResourceError)
        if len(self.waiting[name]) >= self.sizes[name]:
            return pytest.raises(trio.WouldBlock)
        return nullcontext()

    @rule(many=st.integers(1, 6))
    def receive(self, many: int) -> None:
        for _ in range(many):
            if not self._takeable():
                with pytest.raises((trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError)):
                    self.receiving.receive_nowait()
                return
            self._turn([self.receiving.receive_nowait()])

    @rule(most=st.integers(0, 6))
    def take(self, most: int) -> None:
        lying = list(self.receiving.waiting)
        assert bool(lying) == bool(self._takeable())
        taken = self.receiving.take(min(most, len(lying)))
        assert taken == lying[:most]
        if taken:
            self._turn(taken)

    def _takeable(self) -> list[int]:
        return [name for name, items in enumerate(self.waiting) if items and self.only in {None, name}]

    def _turn(self, taken: list[int]) -> None:
        (name,) = [name for name in self._takeable() if self.waiting[name][0] == taken[0]]
        assert [self.waiting[name].pop(0) for _ in taken] == taken
        self.passed_by[name] = set()
        if self.only is not None:
            return
        for other, items in enumerate(self.waiting):
            if items and other != name:
                assert name not in self.passed_by[other], "a second turn while the other waits for its first"
                self.passed_by[other].add(name)
            elif not items:
                self.passed_by[other] = set()

    @rule(data=st.data())
    def restrict(self, data: st.DataObject) -> None:
        only = data.draw(st.sampled_from([None, *range(len(self.sizes))]))
        self.sources[only or 0].restrict(None if only is None else lambda: True)
        self.only = only

    @rule(data=st.data())
    def close_a_source(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(range(len(self.sizes))))
        self.sources[name].close()
        self.closed.add(name)

    @rule(really=st.sampled_from([False] * 9 + [True]))
    def close(self, really: bool) -> None:
        if really:
            self.receiving.close()
            self.over = True
            self.waiting = [[] for _ in self.sizes]

    @invariant()
    def all_that_waits_is_counted(self) -> None:
        if hasattr(self, "waiting"):
            figures = self.receiving.statistics()
            assert figures.current_buffer_used == sum(map(len, self.waiting))
            assert figures.open_send_channels == len(self.sizes) - len(self.closed)
            assert [len(source) for source in self.sources] == [*map(len, self.waiting)]

    def teardown(self) -> None:
        if hasattr(self, "waiting"):
            self.sources[0].restrict(None)
            self.only = None
            self.receive(10**6)
            assert not any(self.waiting)


TestChannelMachine = ChannelMachine.TestCase

SOURCES = 3
PUT = st.tuples(st.just("send"), st.integers(0, SOURCES - 1))
TAKE = st.tuples(st.sampled_from(["receive", "receive", "take"]), st.integers(0, MOST))
CANCEL = st.tuples(st.sampled_from(["cancel a receiver", "cancel a sender"]), st.integers(0, 5))
OVER = st.tuples(st.sampled_from(["close a source"]), st.integers(0, SOURCES - 1))
STEPS = st.lists(st.tuples(st.one_of(PUT, PUT, TAKE, TAKE, CANCEL, OVER), st.booleans()), max_size=40)


class Scene:
    """Tasks at both ends of one channel, and what became of them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        first, self.receiving = ends(MOST)
        self.sources = [first, *(first.clone(MOST) for _ in range(SOURCES - 1))]
        self.said = [0] * SOURCES
        self.unsent: list[tuple[int, int]] = []
        self.taken: list[tuple[int, int]] = []
        self.senders: list[trio.CancelScope] = []
        self.receivers: list[trio.CancelScope] = []

    def do(self, what: str, number: int) -> None:
        match what:
            case "send":
                item = (number, self.said[number])
                self.said[number] += 1
                self._start(self.senders, self._send, item)
            case "receive" if not self.receivers:
                self._start(self.receivers, self._receive)
            case "take" if not self.receivers:
                self.taken += self.receiving.take(min(number, len(self.receiving.waiting)))
            case "close a source":
                self.sources[number].close()
            case "cancel a sender" if self.senders:
                self.senders[number % len(self.senders)].cancel()
            case "cancel a receiver" if self.receivers:
                self.receivers[0].cancel()
            case _:
                pass

    def _start(self, scopes: list[trio.CancelScope], task: Callable[..., Any], *args: object) -> None:
        scope = trio.CancelScope()
        scopes.append(scope)
        self.nursery.start_soon(task, scope, *args)

    async def _send(self, scope: trio.CancelScope, item: tuple[int, int]) -> None:
        sent = False
        try:
            with scope, suppress(trio.ClosedResourceError):
                await self.sources[item[0]].send(item)
                sent = True
        finally:
            self.senders.remove(scope)
            if not sent:
                self.unsent.append(item)

    async def _receive(self, scope: trio.CancelScope) -> None:
        try:
            with scope, suppress(trio.EndOfChannel):
                self.taken.append(await self.receiving.receive())
        finally:
            self.receivers.remove(scope)


@given(STEPS)
def test_nothing_is_lost_or_doubled_and_each_sources_order_is_kept(steps: list[Any]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scene = Scene(nursery)
            for (what, number), settle in steps:
                scene.do(what, number)
                if settle:
                    await trio.testing.wait_all_tasks_blocked()
                    inside = [len(source) for source in scene.sources]
                    assert max(inside) <= MOST, "bounded"
                    assert not (scene.receivers and any(inside)), "who waits has nothing to take"
                    waiting = sum(source.statistics().tasks_waiting_send for source in scene.sources)
                    assert waiting == len(scene.senders)
                    assert not waiting or max(inside) == MOST, "who waits has no room"
            await trio.testing.wait_all_tasks_blocked()
            scene.taken += drained(scene.receiving)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        everything = [(source, n) for source in range(SOURCES) for n in range(scene.said[source])]
        assert sorted([*scene.taken, *scene.unsent]) == everything

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@given(STEPS)
def test_one_task_after_the_other_sends_in_order(steps: list[Any]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            scene = Scene(nursery)
            for (what, number), _ in steps:
                scene.do(what, number)
                await trio.testing.wait_all_tasks_blocked()
            scene.taken += drained(scene.receiving)
            for source in range(SOURCES):
                numbers = [n for sender, n in scene.taken if sender == source]
                assert numbers == sorted(set(numbers))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
