"""Many bounded queues and one taker, which takes one item of each queue in turn (SPEC 2).

Rules
-----
1. Items of one queue are taken in the order in which they were put.
2. Between two turns of a queue every other queue that is not empty has one, so a queue that is never empty keeps no other
   waiting for longer than one turn of each. If the taker names one queue, it takes from that; this counts as its turn.
3. A full queue takes nothing: its owner waits, and no other.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

__all__ = ["RoundRobin"]

T = TypeVar("T")


class RoundRobin(Generic[T]):
    """The queues, each under a hashable name."""

    def __init__(self) -> None:
        self._queues: dict[object, deque[T]] = {}
        self._order: deque[object] = deque()

    def __len__(self) -> int:
        """Return how many items wait."""
        return sum(len(queue) for queue in self._queues.values())

    def put(self, name: object, item: T, most: int) -> bool:
        """Put an item into a queue of at most `most` items; return whether it had room."""
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
        """Take the next item, of the queue `only` if it is given; return it with its queue's name, None if nothing waits."""
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
