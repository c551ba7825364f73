"""The watermark is `min` over a plain dict, at a few steps a move."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio_wsout._core.watermark import Watermark


def test_without_members_there_is_no_lowest() -> None:
    marks = Watermark[str]()
    assert marks.lowest() is None
    marks.add("a", 3)
    marks.remove("a", 3)
    assert marks.lowest() is None
    assert list(marks.at(3)) == []


def test_the_last_of_the_lowest_moves_the_mark() -> None:
    marks = Watermark[str]()
    marks.add("a", 1)
    marks.add("b", 1)
    marks.add("c", 4)
    marks.move("a", 1, 6)
    assert marks.lowest() == 1
    marks.move("b", 1, 5)
    assert marks.lowest() == 4
    marks.move("c", 4, 4)
    assert marks.lowest() == 4
    assert set(marks.at(4)) == {"c"}
    assert list(marks.at(1)) == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3))))
def test_the_low_is_the_lowest_of_all(moves: list[tuple[int, int]]) -> None:
    marks = Watermark[int]()
    model = dict.fromkeys(range(5), 0)
    for member in model:
        marks.add(member, 0)
    for member, step in moves:
        marks.move(member, model[member], model[member] + step)
        model[member] += step
        assert marks.lowest() == min(model.values())


class WatermarkMachine(RuleBasedStateMachine):
    """Members come, go on and leave; the model is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.marks = Watermark[int]()
        self.model: dict[int, int] = {}
        self.born = 0

    @rule(position=st.integers(0, 20))
    def add(self, position: int) -> None:
        self.marks.add(self.born, position)
        self.model[self.born] = position
        self.born += 1

    def _one(self, data: Any) -> int:
        return data.draw(st.sampled_from(sorted(self.model)))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), step=st.integers(0, 5))
    def move(self, data: Any, step: int) -> None:
        member = self._one(data)
        self.marks.move(member, self.model[member], self.model[member] + step)
        self.model[member] += step

    @precondition(lambda self: self.model)
    @rule(data=st.data(), step=st.integers(1, 5))
    def move_all(self, data: Any, step: int) -> None:
        old = self.model[self._one(data)]
        there = [member for member, at in self.model.items() if at == old]
        some = data.draw(st.sets(st.sampled_from(there), min_size=1))
        self.marks.move_all(some, old, old + step)
        self.model.update(dict.fromkeys(some, old + step))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        member = self._one(data)
        self.marks.remove(member, self.model.pop(member))

    @invariant()
    def agrees(self) -> None:
        assert self.marks.lowest() == min(self.model.values(), default=None)
        for position in range(max(self.model.values(), default=0) + 2):
            there = {member for member, at in self.model.items() if at == position}
            assert set(self.marks.at(position)) == there


TestWatermarkMachine = WatermarkMachine.TestCase
