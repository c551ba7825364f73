"""The lowest of many positions, each of which only grows: that of the member furthest behind.

A move costs a few dictionary steps, whatever the number of members.
"""

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


class Watermark(Generic[T]):
    """Hashable members, each at a position."""

    def __init__(self) -> None:
        self._members: dict[int, set[T]] = {}
        self._positions: list[int] = []

    def lowest(self) -> int | None:
        """Return the lowest position, and drop positions that nobody is at; None if there are no members."""
        positions, members = self._positions, self._members
        while positions and positions[0] not in members:
            heappop(positions)
        return positions[0] if positions else None

    def at(self, position: int) -> Collection[T]:
        """Return the members at a position; not a copy."""
        return self._members.get(position, ())

    def add(self, member: T, position: int) -> None:
        """Add a member at `position`."""
        members = self._members.get(position)
        if members is None:
            self._members[position] = {member}
            heappush(self._positions, position)
        else:
            members.add(member)

    def remove(self, member: T, position: int) -> None:
        """Remove a member, which is at `position`."""
        members = self._members[position]
        members.remove(member)
        if not members:
            del self._members[position]

    def move(self, member: T, old: int, new: int) -> None:
        """Move a member from `old` to `new`."""
        if old != new:
            self.remove(member, old)
            self.add(member, new)

    def move_all(self, members: AbstractSet[T], old: int, new: int) -> None:
        """Move many members from `old` to `new`, which is higher; all that are there are moved in one step."""
        moving = self._members.pop(old)
        if len(moving) > len(members):
            staying = self._members[old] = moving - members
            moving -= staying
        there = self._members.get(new)
        if there is None:
            self._members[new] = moving
            heappush(self._positions, new)
        else:
            there |= moving
