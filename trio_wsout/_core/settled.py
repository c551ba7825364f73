"""The numbers of events that have settled, in whatever order they do (SPEC 7)."""

from attrs import define, field


@define(eq=False)
class Settled:
    """The numbers of events that have settled: all up to `upto`, and ranges behind it. Each settles once, in any order."""

    upto: int
    """Every number up to this one has settled."""
    beyond: int = field(default=0, init=False)
    """The number of events behind it that have settled, too."""
    _last_of: dict[int, int] = field(factory=dict[int, int], init=False)
    """The last number of each range, by its first."""
    _first_of: dict[int, int] = field(factory=dict[int, int], init=False)
    """The first number of each range, by its last."""

    def add(self, first: int, last: int) -> None:
        """Note that these numbers have settled; none of them had before."""
        self.beyond += last - first + 1
        before = self._first_of.pop(first - 1, None)
        if before is not None:
            del self._last_of[before]
            first = before
        after = self._last_of.pop(last + 1, None)
        if after is not None:
            del self._first_of[after]
            last = after
        if first == self.upto + 1:
            self.beyond -= last - self.upto
            self.upto = last
        else:
            self._last_of[first] = last
            self._first_of[last] = first

    def beyond_upto(self, number: int) -> int:
        """Return how many of the events behind `upto` that have settled have this number at most."""
        return sum([max(0, min(last, number) - first + 1) for first, last in self._last_of.items()])
