"""Many bounded queues and one taker: each queue that holds something gets its turn, one item a turn (SPEC 2).

Rules
-----
1. Items of one queue are taken in the order in which they were put.
2. Between two turns of a queue every other queue that holds something has one, so that who puts
   much never keeps others waiting for longer than one turn of each.
   Where a taker names one queue it takes of that; its turn counts as any other.
3. A queue that is full takes nothing; its owner waits, and nobody else does.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

__all__ = ["RoundRobin"]

T = TypeVar("T")


class RoundRobin(Generic[T]):
    """The queues, by any hashable name."""

    def __init__(self) -> None:
        self._queues: dict[object, deque[T]] = {}
        self._order: deque[object] = deque()

    def __len__(self) -> int:
        """How many items wait."""
        return sum(len(queue) for queue in self._queues.values())

    def put(self, name: object, item: T, most: int) -> bool:
        """Put an item into a queue that holds at most `most`; False: it is full."""
        queue = self._queues.get(name)
        if queue is None:
            self._queues[name] = deque((item,))
            self._order.append(name)
            return True
        if len(queue) >= most:
            return False
        queue.append(item)
        return True

    def take(self, only: object = None) -> tuple[object, T] | None:
        """The next item with its queue's name, of the queue `only` if one is named; None: nothing waits."""
        if only is not None:
            if only not in self._queues:
                return None
            self._order.remove(only)
            self._order.appendleft(only)
        if not self._order:
            return None
        name = self._order.popleft()
        queue = self._queues[name]
        item = queue.popleft()
        if queue:
            self._order.append(name)
        else:
            del self._queues[name]
        return name, item
