"""One log of messages for many peers: who has written what, who is behind, what everybody has (SPEC 2 and 10).

Rules
-----
1. Messages are numbered from 0 in the order in which they are posted; every peer gets them in that
   order, beginning with the first that is posted after it joined, and never one that it posted itself.
2. Frames lie in blocks that all peers share. A peer takes at most one block at a time; peers that
   take the same frames get the same bytes object. A block lives as long as a peer needs it.
3. A peer's queue is what is posted and not taken: at most `capacity` messages. When one has so many
   the log is full: who posts must first let the peers run, and then wait, or have the slow ones leave,
   or call them stuck (policy ``drop-oldest``). A stuck peer makes nobody wait: it loses its oldest
   messages, counted, and hears after which event its gap begins. It is stuck until it takes again.
4. Written and not confirmed, a peer may have `max_unconfirmed` messages and about as many bytes;
   beyond that it takes nothing. While this side does not read from it there is no bound but room on
   its connection: what would confirm lies unread, and to wait for it would be to wait for oneself.
5. Confirmed means, by level: ``written`` handed to the kernel; ``received`` the pong of a ping that
   was written after it; ``acked`` named, or followed, by an acknowledgement.
6. A message is settled when every peer that had joined when it was posted has it confirmed, has
   lost it by rule 3, posted it itself, or has left. Messages settle in their order.
7. A message in flight to a peer longer than `retry.timeout` makes that peer stalled, except for the
   time in which this side held reading back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from attrs import define

from trio_wsout._core.blocks import Block
from trio_wsout._core.watermark import Watermark
from trio_wsout.config.sections import DeliveryLevel

if TYPE_CHECKING:
    from trio_wsout._core.delivery import Accepted, Message
    from trio_wsout.config.sections import Delivery, Retry

__all__ = ["Fanout", "Subscriber"]


@define(eq=False)
class _Write:
    """What one write brought to a peer and is not confirmed."""

    first: int
    last: int
    """The number after the last message."""
    size: int
    at: float
    """When it began."""


class Fanout:
    """The log of one listener. Times are absolute seconds of the caller's clock."""

    end: int
    """The number that the next message gets."""

    dropped: int
    """Messages that slow peers lost, counted for each peer."""

    unheard: int
    """Messages that were posted while no peer had joined."""

    def __init__(self, delivery: Delivery, retry: Retry, *, capacity: int) -> None:
        self.delivery = delivery
        self.timeout = retry.timeout
        self._capacity = capacity
        self._last = Block(0)
        self._pending: deque[Message] = deque()
        self._seqs: deque[int] = deque()
        self._base = 0
        self._base_seq = 0
        self.taken = Watermark[Subscriber]()
        self.confirmed = Watermark[object]()
        self.members: set[Subscriber] = set()
        self.end = 0
        self.dropped = 0
        self.unheard = 0

    # -- the log --------------------------------------------------------------------------------------

    def post(self, message: Message, frame: bytes, source: Subscriber | None = None) -> None:
        """Put a message, framed, at the end; `source` is the peer that sent it, if one did."""
        block = self._last
        if block.is_full:
            block.next = self._last = block = Block(self.end)
        block.append(frame)
        if source is not None and source.joined:
            source.own.append(self.end)
        self._pending.append(message)
        self._seqs.append(message.events[-1].seq)
        self.end += 1
        if not self.members:
            self.unheard += 1
        else:
            self._drop_oldest()

    @property
    def full(self) -> bool:
        """Whether a peer that is not stuck has no room, so that nothing may be posted."""
        low = self.taken.low
        if low is None or self.end - low < self._capacity:
            return False
        return not all(peer.stuck for peer in self.taken.at(low))

    @property
    def slow(self) -> list[Subscriber]:
        """The peers that make the log full."""
        low = self.taken.low
        if low is None or self.end - low < self._capacity:
            return []
        return [peer for peer in self.taken.at(low) if not peer.stuck]

    def settled(self) -> list[Message]:
        """The messages that have settled since the last call, in order."""
        low = self.confirmed.low
        count = max(0, (self.end if low is None else low) - self._base)
        self._base += count
        for _ in range(count):
            self._base_seq = self._seqs.popleft()
        return [self._pending.popleft() for _ in range(count)]

    def drain(self) -> list[Message]:
        """What has not settled, in order; for the end."""
        left = list(self._pending)
        self._pending.clear()
        self._base_seq = self.last_seq
        self._seqs.clear()
        self._base = self.end
        return left

    @property
    def unsettled(self) -> int:
        """How many messages have not settled."""
        return len(self._pending)

    def _drop_oldest(self) -> None:
        first = self.end - self._capacity
        while (low := self.taken.low) is not None and low < first:
            for peer in list(self.taken.at(low)):
                self.dropped += peer.skip_to(first)

    # -- who is there -----------------------------------------------------------------------------------

    def join(self) -> Subscriber:
        """A peer gets everything from here on."""
        peer = Subscriber(self, self._last, self.end)
        self.members.add(peer)
        self.taken.add(peer, self.end)
        self.confirmed.add(peer, self.end)
        return peer

    def leave(self, peer: Subscriber) -> None:
        """A peer is gone; what it did not confirm settles without it. Twice is once."""
        if peer.joined:
            peer.joined = False
            self.members.remove(peer)
            self.taken.remove(peer, peer.next)
            self.confirmed.remove(peer, peer.confirmed)

    def seq_before(self, number: int) -> int:
        """Sequence number of the last event before a message that has not settled; 0: it is the first."""
        return self._seqs[number - 1 - self._base] if number > self._base else self._base_seq

    @property
    def last_seq(self) -> int:
        """Sequence number of the last event posted; 0, or what `start_after` said: there was none."""
        return self.seq_before(self.end)

    def start_after(self, seq: int) -> None:
        """The events before the first message end with this number: a history goes on."""
        self._base_seq = seq

    def number_after(self, seq: int) -> int:
        """The first message that holds an event after `seq`."""
        return self._base + bisect_right(self._seqs, seq)

    def between(self, first: int, last: int) -> list[Accepted]:
        """The events of the messages `first` to before `last`, as far as they have not settled."""
        messages = islice(self._pending, max(0, first - self._base), max(0, last - self._base))
        return [event for message in messages for event in message.events]


class Subscriber:
    """One peer's place in the log."""

    next: int
    """The first message that it has not taken."""

    confirmed: int
    """The first message that it has not confirmed."""

    dropped: int
    """Messages that it lost by being slow."""

    stuck: bool
    """Whether it was found too slow, and has taken nothing since."""

    gap_after: int | None
    """Number of the last event before those lost since the last `take`; None: nothing was lost."""

    def __init__(self, log: Fanout, block: Block, number: int) -> None:
        self._log = log
        self._block = block
        self._writes: deque[_Write] = deque()
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._since_ping = False
        self._before_ping: int | None = None
        self._held = False
        self._held_until = float("-inf")
        self.own: deque[int] = deque()
        self.joined = True
        self.next = number
        self.confirmed = number
        self.dropped = 0
        self.stuck = False
        self.gap_after = None

    # -- writing ----------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many messages wait for it."""
        return self._log.end - self.next

    @property
    def has_all(self) -> bool:
        """Whether it has confirmed, or lost, everything that was posted."""
        return self.confirmed == self._log.end

    @property
    def ready(self) -> bool:
        """Whether `take` would give something now."""
        if self.next >= self._log.end or not self.joined:
            return False
        delivery = self._log.delivery
        return self._held or (
            self._in_flight < delivery.max_unconfirmed
            and self._in_flight_bytes < delivery.max_unconfirmed_bytes
        )

    def take(self, now: float) -> bytes:
        """Take the next frames to write in one go; empty: nothing is there but messages of its own."""
        if not self.ready:
            return b""
        self.stuck = False
        block = self._block_at(self.next)
        first = self.next
        most = self._log.end if self._held else first + self._log.delivery.max_unconfirmed - self._in_flight
        last = min(block.end, most)
        if self._owns(last):
            blob = self._take_others(block, first, last, now)
        else:
            blob = block.joined(first, last)
            self._note(_Write(first, last, len(blob), now))
        self._move_to(last)
        return blob

    def _block_at(self, number: int) -> Block:
        """Go on to the block that holds a message, and let go those before it."""
        block = self._block
        while block.end <= number and block.next is not None:
            block = block.next
        self._block = block
        return block

    def _note(self, write: _Write) -> None:
        self._writes.append(write)
        self._in_flight += write.last - write.first
        self._in_flight_bytes += write.size
        self._since_ping = True

    def _owns(self, last: int) -> bool:
        return bool(self.own) and self.own[0] < last

    def _take_others(self, block: Block, first: int, last: int, now: float) -> bytes:
        """The frames without those of its own messages, which are as good as confirmed."""
        own: set[int] = set()
        while self._owns(last):
            own.add(self.own.popleft())
        others = [number for number in range(first, last) if number not in own]
        blob = b"".join(block.frames[number - block.start] for number in others)
        if others:
            self._note(_Write(others[0], others[-1] + 1, len(blob), now))
        return blob

    def written(self) -> None:
        """Everything taken was handed to the kernel."""
        if self._log.delivery.level is DeliveryLevel.WRITTEN:
            self._confirm_before(self.next)

    # -- confirming ---------------------------------------------------------------------------------------

    @property
    def wants_ping(self) -> bool:
        """Whether a ping written now would confirm something when it is answered."""
        return self._since_ping and self._log.delivery.level is DeliveryLevel.RECEIVED

    def ping_taken(self) -> None:
        """A ping goes out behind everything taken so far, and takes the place of any before it."""
        self._before_ping = self.next
        self._since_ping = False

    def pong_received(self) -> None:
        """The outstanding ping was answered."""
        number, self._before_ping = self._before_ping, None
        if number is not None and self._log.delivery.level is DeliveryLevel.RECEIVED:
            self._confirm_before(number)

    def acked(self, seq: int) -> None:
        """The peer's application has every event up to `seq` (level acked)."""
        if self._log.delivery.level is DeliveryLevel.ACKED:
            self._confirm_before(min(self._log.number_after(seq), self.next))

    def events_in_flight(self) -> list[Accepted]:
        """The events that an acknowledgement may name, oldest first."""
        return self._log.between(self.confirmed, self.next)

    def _confirm_before(self, number: int) -> None:
        writes = self._writes
        while writes and writes[0].last <= number:
            done = writes.popleft()
            self._in_flight -= done.last - done.first
            self._in_flight_bytes -= done.size
        if writes and writes[0].first < number:
            self._in_flight -= number - writes[0].first
            writes[0].first = number
        self._settle()

    # -- falling behind -------------------------------------------------------------------------------------

    def skip_to(self, number: int) -> int:
        """Lose what waits before `number`; gives how many messages of others that were."""
        lost = number - self.next
        while self._owns(number):
            self.own.popleft()
            lost -= 1
        if lost and self.gap_after is None:
            self.gap_after = self._log.seq_before(self.next)
        self.dropped += lost
        self._block_at(number)
        self._move_to(number)
        return lost

    def _move_to(self, number: int) -> None:
        self._log.taken.move(self, self.next, number)
        self.next = number
        self._settle()

    def _settle(self) -> None:
        """Confirmed is what lies before the oldest write in flight; without one, everything taken."""
        number = self._writes[0].first if self._writes else self.next
        if self.joined:
            self._log.confirmed.move(self, self.confirmed, number)
        self.confirmed = number

    # -- time -------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When the oldest message in flight makes the peer stalled; None: nothing to wait for."""
        if self._held or not self._writes:
            return None
        return max(self._writes[0].at, self._held_until) + self._log.timeout

    def held(self) -> None:
        """This side stopped reading: confirmations can't be seen."""
        self._held = True

    def released(self, now: float) -> None:
        """This side reads again since `now`."""
        self._held = False
        self._held_until = now
