"""The numbers of settled events against a set of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.settled import Settled


@given(st.integers(0, 5), st.permutations(range(12)), st.data())
def test_numbers_settle_in_any_order(start: int, order: list[int], data: st.DataObject) -> None:
    settled, model = Settled(start), set[int]()
    left = [start + 1 + each for each in order]
    while left:
        first = last = left.pop(0)
        while last + 1 in left and data.draw(st.booleans()):
            last += 1
            left.remove(last)
        settled.add(first, last)
        model.update(range(first, last + 1))
        upto = start
        while upto + 1 in model:
            upto += 1
        assert (settled.upto, settled.beyond) == (upto, len([each for each in model if each > upto]))
        number = data.draw(st.integers(0, 20))
        assert settled.beyond_upto(number) == len([each for each in model if upto < each <= number])
    assert settled.beyond == 0
