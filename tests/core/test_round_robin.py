"""Fair turns: order within a queue, a turn for each, and bounds, against plain lists."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.round_robin import RoundRobin


def taken(turns: RoundRobin[Any]) -> list[Any]:
    """Everything that waits, in the order in which it is taken."""
    items = []
    while (each := turns.take()) is not None:
        items.append(each)
    return items


def test_of_nothing_nothing_is_taken() -> None:
    turns = RoundRobin[int]()
    assert turns.take() is None
    assert len(turns) == 0
    turns.put("a", 1, 1)
    assert taken(turns) == [("a", 1)]
    assert turns.take() is None


def test_each_queue_has_its_turn() -> None:
    turns = RoundRobin[int]()
    for name, item in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)]:
        assert turns.put(name, item, 3)
    assert taken(turns) == [("a", 1), ("b", 4), ("c", 5), ("a", 2), ("b", 6), ("a", 3)]


def test_who_comes_back_at_once_waits_for_the_others() -> None:
    turns = RoundRobin[int]()
    turns.put("a", 1, 1)
    turns.put("b", 2, 1)
    assert turns.take() == ("a", 1)
    assert turns.put("a", 3, 1)
    assert taken(turns) == [("b", 2), ("a", 3)]


def test_a_full_queue_takes_nothing_and_costs_nobody_else() -> None:
    turns = RoundRobin[int]()
    assert [turns.put("a", item, 2) for item in range(4)] == [True, True, False, False]
    assert turns.put("b", 9, 1)
    assert not turns.put("b", 9, 1)
    assert len(turns) == 3
    assert turns.take() == ("a", 0)
    assert turns.put("a", 4, 2)
    assert taken(turns) == [("b", 9), ("a", 1), ("a", 4)]


def test_an_item_may_be_anything_and_so_may_a_name() -> None:
    turns = RoundRobin[object]()
    for item in (None, False, ""):
        assert turns.put(None, item, 3)
    assert taken(turns) == [(None, None), (None, False), (None, "")]


@given(st.dictionaries(st.integers(), st.integers(1, 20), max_size=8))
def test_rounds_become_shorter_as_queues_run_dry(sizes: dict[int, int]) -> None:
    turns = RoundRobin[int]()
    for name, size in sizes.items():
        for item in range(size):
            assert turns.put(name, item, size)
    rounds = range(max(sizes.values(), default=0))
    assert taken(turns) == [(name, item) for item in rounds for name, size in sizes.items() if item < size]


def test_one_queue_can_be_named_and_the_others_wait() -> None:
    turns = RoundRobin[str]()
    for name in "abc":
        for number in range(2):
            assert turns.put(name, f"{name}{number}", 2)
    assert [turns.take("b") for _ in range(3)] == [("b", "b0"), ("b", "b1"), None]
    assert turns.take("none") is None
    assert [item for _, item in taken(turns)] == ["a0", "c0", "a1", "c1"]


class TurnsMachine(RuleBasedStateMachine):
    """Lists that hold what waits, and a note of who had turns while others waited."""

    @initialize(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5))
    def begin(self, sizes: list[int]) -> None:
        self.turns = RoundRobin[int]()
        self.sizes = sizes
        self.waiting: list[list[int]] = [[] for _ in sizes]
        self.passed_by: list[list[int]] = [[] for _ in sizes]
        """Of each that waits: whose turn it was since it began to wait, or had its own."""
        self.born = 0

    @rule(data=st.data(), many=st.integers(1, 6))
    def put(self, data: st.DataObject, many: int) -> None:
        name = data.draw(st.sampled_from(range(len(self.sizes))))
        for _ in range(many):
            self.born += 1
            room = len(self.waiting[name]) < self.sizes[name]
            assert self.turns.put(name, self.born, self.sizes[name]) == room
            if room:
                self.waiting[name].append(self.born)

    @precondition(lambda self: hasattr(self, "turns"))
    @rule(many=st.integers(1, 6))
    def take(self, many: int) -> None:
        for _ in range(many):
            self._take()

    def _take(self) -> None:
        came = self.turns.take()
        if came is None:
            assert not any(self.waiting)
            return
        name, item = came
        assert isinstance(name, int)
        assert self.waiting[name].pop(0) == item
        self.passed_by[name] = []
        for other, items in enumerate(self.waiting):
            if items and other != name:
                assert name not in self.passed_by[other], "a second turn while the other waits for its first"
                self.passed_by[other].append(name)

    @invariant()
    def all_that_waits_is_counted(self) -> None:
        if hasattr(self, "turns"):
            assert len(self.turns) == sum(len(items) for items in self.waiting)

    def teardown(self) -> None:
        while any(getattr(self, "waiting", [])):
            self._take()


TestTurnsMachine = TurnsMachine.TestCase
