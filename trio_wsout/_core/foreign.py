"""The numbers of events that other outputs have accepted, where several outputs share a log (SPEC 11).

An output sends them to its peers as it sends its own, in one order. They are no part of its account.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field


@define(eq=False)
class Foreign:
    """Ranges of numbers, which grow; those that have settled are forgotten, but counted."""

    ranges: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]], init=False)
    """First and last number of each."""
    _forgotten: int = field(default=0, init=False)

    def __contains__(self, number: int) -> bool:
        """Return whether a number, which was not forgotten, is one of them."""
        return any(first <= number <= last for first, last in self.ranges)

    def add(self, first: int, last: int) -> None:
        """Add the numbers `first` to `last`, all of which are higher than those before."""
        if self.ranges and self.ranges[-1][1] == first - 1:
            first, _ = self.ranges.pop()
        self.ranges.append((first, last))

    def upto(self, number: int) -> int:
        """Return how many of them are not higher than `number`, which was not forgotten."""
        count = self._forgotten
        for first, last in self.ranges:
            if first > number:
                break
            count += min(last, number) - first + 1
        return count

    def within(self, first: int, last: int) -> int:
        """Return how many of the numbers `first` to `last`, none of which was forgotten, are among them."""
        return self.upto(last) - self.upto(first - 1)

    def forget(self, upto: int) -> None:
        """Forget ranges that end at `upto` or before, which nobody will ask for by number."""
        while self.ranges and self.ranges[0][1] <= upto:
            first, last = self.ranges.popleft()
            self._forgotten += last - first + 1
