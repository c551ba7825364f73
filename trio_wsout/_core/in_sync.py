"""The subscriptions that stand at the end of the log and are written to together, with one account for all of them.

A broadcast touches nothing of each subscription, so all that it costs is the system call that writes it. Not even their
memory is read: with thousands of peers it is cold, and that would cost as much again. Meanwhile the account of
each subscription stands still; `catch_up` brings it up to date, with all broadcasts since, when somebody needs it.
"""

from bisect import bisect_left
from operator import attrgetter

from attrs import define, field

from trio_wsout._core.blocks import Block
from trio_wsout._core.subscription import Broadcast, PeerSubscription, Write, half_full
from trio_wsout.config.sections import Delivery

_MOST_BROADCASTS = 1024
"""Broadcasts after which every account catches up: until then the blocks since it last did are kept."""
_first = attrgetter("first")


@define(eq=False)
class InSync:
    """Subscriptions that have taken the same messages, to the last one, and have room for more."""

    _delivery: Delivery
    members: dict[PeerSubscription, int] = field(factory=dict["PeerSubscription", int], init=False)
    """Each with the number of the socket that it is written to, which only the caller uses."""
    position: int = field(default=0, init=False)
    """The first message that they have not taken."""
    _block: Block = field(factory=lambda: Block(0, bytes), init=False)
    """The block that `position` is in, or one before it; an empty one while there are no members."""
    _writes: list[Write] = field(factory=list[Write], init=False)
    """The broadcasts since all accounts last caught up."""
    _sizes: list[int] = field(factory=lambda: [0], init=False)
    """Bytes of all broadcasts before each of them, and at the end the bytes of all."""
    _missed: Write | None = field(default=None, init=False)
    """The latest entry that a catching-up account got: others that missed the same get the same object."""
    _messages: int = field(default=0, init=False)
    """No member has more messages than this in flight."""
    _bytes: int = field(default=0, init=False)
    """No member has more bytes than this in flight."""

    def enter(self, subscription: PeerSubscription, number: int) -> bool:
        """Include a subscription in each broadcast from now on, if it stands where the members stand.

        Returns:
            Whether it is included.
        """
        if not subscription.can_sync:
            return False
        if not self.members:
            self.position, self._block = subscription.position, subscription.block
            self._messages = self._bytes = 0
            self._forget_broadcasts()
        elif subscription.position != self.position:
            return False
        self.members[subscription] = number
        subscription.in_sync = True
        self._weigh(subscription)
        return True

    def leave(self, subscription: PeerSubscription) -> None:
        """Exclude a member from further broadcasts: it takes its messages by itself again."""
        self.catch_up(subscription)
        del self.members[subscription]
        subscription.in_sync = False
        if not self.members:
            self._block = Block(0, bytes)
        subscription.owner.left_sync()

    def catch_up(self, subscription: PeerSubscription) -> None:
        """Bring a member's account up to date, and report that to its owner."""
        if subscription.position == self.position:
            return
        # One entry for all broadcasts, and the same entry for all members that catch up from the same position.
        missed = self._missed
        if missed is None or (missed.first, missed.last) != (subscription.position, self.position):
            index = bisect_left(self._writes, subscription.position, key=_first)
            writes = self._writes[index:]
            size = self._sizes[-1] - self._sizes[index]
            missed = self._missed = Write(subscription.position, self.position, size, writes[0].at, writes)
        subscription.broadcast_written(missed, self._block)
        subscription.owner.wrote(missed.last - missed.first, missed.size, self._writes[-1].at)

    def _catch_up_all(self) -> None:
        """Bring every account up to date, and find the most that one of them has in flight."""
        self._messages = self._bytes = 0
        for subscription in self.members:
            self.catch_up(subscription)
            self._weigh(subscription)
        self._forget_broadcasts()

    def _forget_broadcasts(self) -> None:
        self._writes.clear()
        self._sizes = [0]
        self._missed = None

    def _weigh(self, subscription: PeerSubscription) -> None:
        self._messages = max(self._messages, subscription.in_flight)
        self._bytes = max(self._bytes, subscription.in_flight_bytes)

    def next_broadcast(self, now: float) -> Broadcast | None:
        """Return the next frames, of one block at most; there must be some. Members without room for them leave.

        It returns None if no member is left.
        """
        while (block := self._block).end <= self.position and block.next is not None:
            self._block = block.next
        first, last = self.position, block.end
        count = last - first
        if not self._has_room(count, self._messages, self._bytes):
            self._catch_up_all()
            for subscription in [
                each
                for each in self.members
                if not self._has_room(count, each.in_flight, each.in_flight_bytes)
            ]:
                self.leave(subscription)
        if not self.members:
            return None
        frames = block.joined(first, last)
        return Broadcast(frames, Write(first, last, len(frames), now))

    def _has_room(self, count: int, messages: int, size: int) -> bool:
        delivery = self._delivery
        return messages + count <= delivery.max_unconfirmed and size < delivery.max_unconfirmed_bytes

    def broadcast_written(self, broadcast: Broadcast) -> bool:
        """Note that all members took a broadcast; return whether one of them has half of the messages that may be unconfirmed."""
        write = broadcast.write
        self.position = write.last
        self._writes.append(write)
        self._sizes.append(self._sizes[-1] + write.size)
        self._messages += write.last - write.first
        self._bytes += write.size
        if len(self._writes) >= _MOST_BROADCASTS or self._is_half_full:
            self._catch_up_all()
        return self._is_half_full

    @property
    def _is_half_full(self) -> bool:
        return half_full(self._delivery, self._messages, self._bytes)
