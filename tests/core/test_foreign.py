"""The numbers of other outputs' events, against a plain set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.foreign import Foreign

RANGES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=12)


@given(RANGES, st.integers(0, 60), st.integers(0, 60))
def test_it_counts_as_a_set_does(steps: list[tuple[int, int]], forgotten: int, number: int) -> None:
    foreign, model, last = Foreign(), set[int](), 0
    for own, others in steps:
        first = last + own + 1
        last = first + others - 1
        foreign.add(first, last)
        model |= set(range(first, last + 1))
    assert bool(foreign.ranges) == bool(model)
    foreign.forget(forgotten)
    number = max(number, forgotten)
    assert foreign.upto(number) == len([each for each in model if each <= number])
    assert foreign.within(number + 1, number + 5) == len(model & set(range(number + 1, number + 6)))
    assert [each in foreign for each in range(forgotten + 1, last + 3)] == [
        each in model for each in range(forgotten + 1, last + 3)
    ]
