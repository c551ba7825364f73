"""The spool's account against a naive one: what is settled, what may go, and where an event is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.settled import Settled
from trio_wsout._core.spool_account import Segments

HEADER = 50


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
    assert settled.beyond == 0


class SegmentsMachine(RuleBasedStateMachine):
    """A log of records, each with its segment, beside the account."""

    @initialize(most=st.sampled_from([800, 4000, 1 << 20]))
    def begin(self, most: int) -> None:
        self.most = most
        self.account = Segments(most)
        self.model: list[tuple[int, list[tuple[int, int, int]]]] = []
        """First number of each segment, and its records: first number, count, size."""
        self.last = 0
        self.upto = 0

    @property
    def sizes(self) -> list[int]:
        return [HEADER + sum(size for _, _, size in records) for _, records in self.model]

    @rule(count=st.integers(0, 3), size=st.sampled_from([60, 130, 300, 70_000]))
    def append(self, count: int, size: int) -> None:
        newest = self.model[-1] if self.model else None
        wants = self.account.wants_new(count)
        if newest is None:
            assert wants, "an event needs a segment"
        elif wants:
            assert count, "a group without events never needs one"
            assert any(each for _, each, _ in newest[1]), "none is left behind without an event"
            assert sum(self.sizes[-1:] * 4) >= self.most, (
                "at most four have their size, so few files are open"
            )
        else:
            full = any(each for _, each, _ in newest[1]) and self.sizes[-1] * 4 >= self.most
            assert not (count and full), "room comes back in quarters of the whole"
        needed = size + HEADER * wants
        assert self.account.fits(needed) == (sum(self.sizes) + needed <= self.most)
        if not self.account.fits(needed):
            return
        if wants:
            segment = self.account.begin(self.last + 1, b"salt", HEADER)
            assert segment is self.account.newest
            self.model.append((self.last + 1, []))
        self.account.append(count, size)
        self.model[-1][1].append((self.last + 1, count, size))
        self.last += count

    @rule(by=st.integers(0, 10))
    def settle(self, by: int) -> None:
        self.upto = min(self.upto + by, self.last)

    @rule(newest_too=st.booleans())
    def release(self, newest_too: bool) -> None:
        while segment := self.account.oldest_settled(self.upto, newest_too=newest_too):
            first, records = self.model.pop(0)
            assert segment.first == first
            assert all(number + count - 1 <= self.upto for number, count, _ in records if count)
            self.account.remove_oldest()
        kept = [number + count - 1 for _, records in self.model[:1] for number, count, _ in records]
        assert len(self.model) <= (not newest_too) or max(kept) > self.upto

    @precondition(lambda self: self.last > self.upto)
    @rule(data=st.data())
    def look_up(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(self.upto + 1, self.last))
        segment, offset = self.account.locate(number)
        ((first, records),) = [each for each in self.model if each[0] == segment.first]
        places, at = {}, HEADER
        for begin, count, size in records:
            places[at] = begin
            if count and begin <= number < begin + count:
                assert offset <= at, "the record is not before the place"
                assert at - offset < 64 * 1024 + 70_000
            at += size
        assert places[offset] <= number
        assert first <= number

    @invariant()
    def is_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        assert len(self.account) == len(self.model)
        assert self.account.last == self.last
        assert self.account.size == sum(self.sizes) <= self.most
        assert (self.account.newest is None) == (not self.model)


TestSegments = SegmentsMachine.TestCase
