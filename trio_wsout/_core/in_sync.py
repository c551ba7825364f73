"""The peers that are up to date and take each wave as one, with one account for all of them.

A wave costs nothing here for each of these peers, so that all it costs is the system call that writes it: not even
its memory is looked at, which would be cold for most of thousands, and cost as much again. A peer's own account
stands still meanwhile, and catches up with the waves it has taken when somebody wants to know it.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter
from typing import TYPE_CHECKING

from trio_wsout._core.blocks import Block
from trio_wsout._core.subscription import Wave, Write

if TYPE_CHECKING:
    from trio_wsout._core.subscription import Subscription
    from trio_wsout.config.sections import Delivery

__all__ = ["InSync"]

_MOST_WAVES = 1024
"""Waves after which every account catches up: until then it holds the blocks since it last did."""
_first = attrgetter("first")


class InSync:
    """Peers that have taken the same, to the last message, and have room."""

    members: dict[Subscription, int]
    """Who is in sync, each with the number of the socket that it is written to: the caller's, not used here."""

    next: int
    """The first message that they have not taken."""

    def __init__(self, delivery: Delivery) -> None:
        """Nobody is in sync."""
        self.members = {}
        self.next = 0
        self._block = Block(0)  # with `next` in it, or in one behind it, while somebody is in sync
        self._waves: list[Write] = []
        self._sizes = [0]  # of all of them before each, and then of all
        self._missed: Write | None = None
        self._max_messages = delivery.max_unconfirmed
        self._max_bytes = delivery.max_unconfirmed_bytes
        # Nobody has more than that in flight.
        self._messages = 0
        self._bytes = 0

    def enter(self, peer: Subscription, number: int) -> bool:
        """Have a peer take each wave from now on, if it has taken the same as the others; gives whether it will."""
        if not peer.can_keep_step:
            return False
        if not self.members:
            self.next, self._block = peer.next, peer.block
            self._messages = self._bytes = 0
            self._forget_waves()
        elif peer.next != self.next:
            return False
        self.members[peer] = number
        peer.in_sync = True
        self._weigh(peer)
        return True

    def leave(self, peer: Subscription) -> None:
        """Have a member take for itself again."""
        self.catch_up(peer)
        del self.members[peer]
        peer.in_sync = False
        if not self.members:
            self._block = Block(0)
        peer.owner.out_of_step()

    def catch_up(self, peer: Subscription) -> None:
        """Bring a member's account up to date, and tell its owner."""
        if peer.next == self.next:
            return
        # One entry for all of them, and the same for who caught up at the same time before.
        missed = self._missed
        if missed is None or (missed.first, missed.last) != (peer.next, self.next):
            index = bisect_left(self._waves, peer.next, key=_first)
            waves = self._waves[index:]
            size = self._sizes[-1] - self._sizes[index]
            missed = self._missed = Write(peer.next, self.next, size, waves[0].at, waves)
        peer.took(missed, self._block)
        peer.owner.wrote(missed.size, self._waves[-1].at)

    def _catch_up_all(self) -> None:
        """Bring every account up to date, and find what the most is that one of them has in flight."""
        self._messages = self._bytes = 0
        for peer in self.members:
            self.catch_up(peer)
            self._weigh(peer)
        self._forget_waves()

    def _forget_waves(self) -> None:
        self._waves.clear()
        self._sizes = [0]
        self._missed = None

    def _weigh(self, peer: Subscription) -> None:
        self._messages = max(self._messages, peer.in_flight)
        self._bytes = max(self._bytes, peer.in_flight_bytes)

    def wave(self, now: float) -> Wave | None:
        """The next frames, one block of them at most, which there must be; who has no room for them falls out of step.

        None: nobody is in sync any more.
        """
        while (block := self._block).end <= self.next and block.next is not None:
            self._block = block.next
        first, last = self.next, block.end
        count = last - first
        if not self._has_room(count, self._messages, self._bytes):
            self._catch_up_all()
            for peer in [
                each
                for each in self.members
                if not self._has_room(count, each.in_flight, each.in_flight_bytes)
            ]:
                self.leave(peer)
        if not self.members:
            return None
        frames = block.joined(first, last)
        return Wave(frames, Write(first, last, len(frames), now))

    def _has_room(self, count: int, messages: int, size: int) -> bool:
        return messages + count <= self._max_messages and size < self._max_bytes

    def took(self, wave: Wave) -> bool:
        """All members took this wave; gives whether one of them has half of what may be unconfirmed."""
        write = wave.write
        self.next = write.last
        self._waves.append(write)
        self._sizes.append(self._sizes[-1] + write.size)
        self._messages += write.last - write.first
        self._bytes += write.size
        if len(self._waves) >= _MOST_WAVES or self._has_much:
            self._catch_up_all()
        return self._has_much

    @property
    def _has_much(self) -> bool:
        return 2 * self._messages >= self._max_messages or 2 * self._bytes >= self._max_bytes
