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
   What it has in flight can't settle meanwhile, and nor can what is behind it; one for whom too much
   is kept so has to leave (`kept_for`).
4. Written and not confirmed, a peer may have `max_unconfirmed` messages and about as many bytes;
   beyond that it takes nothing. While this side does not read from it there is no bound but room on
   its connection: what would confirm lies unread, and to wait for it would be to wait for oneself.
5. Confirmed means, by level: ``written`` handed to the kernel; ``received`` the pong of a ping that
   was written after it; ``acked`` named, or followed, by an acknowledgement.
6. A message is settled when every peer that had joined when it was posted has it confirmed, has
   lost it by rule 3, posted it itself, or has left. Messages settle in their order.
7. Where there are many peers, they are asked for a confirmation when somebody waits for it (`want`,
   or a message whose fate is asked for), when half of what may be unconfirmed is, and otherwise
   only so often (`ask_at`).
8. A message in flight to a peer longer than `retry.timeout` makes that peer stalled, except for the
   time in which this side held reading back, and for what an answer that was found late leaves in flight
   (`delivery`, rule 5).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from trio_wsout._core.blocks import Block
from trio_wsout._core.in_sync import InSync
from trio_wsout._core.subscription import ASKING, Owner, Subscription, Wave
from trio_wsout._core.watermark import Watermark
from trio_wsout.config.sections import DeliveryLevel

if TYPE_CHECKING:
    from trio_wsout._core.message import Accepted, Message
    from trio_wsout.config.sections import Delivery, Retry

__all__ = ["Log", "Owner", "Subscription", "Wave"]


_KEPT = 256
"""Times the capacity: how many messages are kept because of a stuck peer."""
_KEPT_BYTES = 64 * 1024 * 1024
"""Bytes of frames that are kept because of a stuck peer."""
_MANY = 16
"""Peers from which on confirmations are put off where nobody waits for them (rule 7)."""


class Log:
    """The log of one listener. Times are absolute seconds of the caller's clock."""

    end: int
    """The number that the next message gets."""

    dropped: int
    """Messages that slow peers lost, counted for each peer."""

    unheard: int
    """Messages that were posted while no peer had joined."""

    wanted: int
    """The messages before this one are to be confirmed as soon as may be."""

    ask_at: float | None
    """When all peers are to be asked what they have, at the latest; None: nothing was written since the caller took
    it back, having asked."""

    def __init__(self, delivery: Delivery, retry: Retry, *, capacity: int) -> None:
        self.delivery = delivery
        self.timeout = retry.timeout
        self._capacity = capacity
        self._last = Block(0)
        self.in_sync = InSync(delivery)
        self._pending: deque[Message] = deque()
        self._seqs: deque[int] = deque()
        self._base = 0
        self._base_seq = 0
        self._bytes = 0
        self.taken = Watermark[Subscription]()
        self.confirmed = Watermark[object]()
        self.members: set[Subscription] = set()
        self.end = 0
        self.dropped = 0
        self.unheard = 0
        self.wanted = 0
        self.ask_at = None

    # -- the log --------------------------------------------------------------------------------------

    def post(self, message: Message, frame: bytes, source: Subscription | None = None) -> None:
        """Put a message, framed, at the end; `source` is the peer that sent it, if one did."""
        block = self._last
        if block.is_full:
            block.next = self._last = block = Block(self.end)
        block.append(frame)
        if source is not None and source.joined:
            self.step_out(source)
            source.posted(self.end)
        self._pending.append(message)
        self._bytes += len(message.payload)
        self._seqs.append(message.last_seq)
        self.end += 1
        if not self.members:
            self.unheard += 1
            return
        self._drop_oldest()
        if len(self.members) < _MANY or message.awaited:
            self.wanted = self.end

    def want(self) -> None:
        """Have everything posted so far confirmed as soon as may be."""
        self.wanted = self.end

    # -- waves ----------------------------------------------------------------------------------------

    def step_in(self, peer: Subscription, number: int) -> bool:
        """Have a peer take each wave from now on, if it stands where the others do; gives whether it will.

        `number` is the caller's, and stands in `in_sync.members` for who writes the waves.
        """
        return self.in_sync.enter(peer, number)

    def step_out(self, peer: Subscription) -> None:
        """Have a peer take for itself again, if it is in sync."""
        if peer.in_sync:
            self.in_sync.leave(peer)

    def next_wave(self, now: float) -> Wave | None:
        """The next frames for all in sync, one block of them at most; None: nothing is there for them.

        Who has no room for it falls out of step.
        """
        step = self.in_sync
        return step.wave(now) if step.members and step.next < self.end else None

    def took(self, wave: Wave) -> bool:
        """All in sync have taken a wave; gives whether there are some among them to be asked now."""
        step, write = self.in_sync, wave.write
        if not step.members:
            return False
        self.taken.move_all(step.members.keys(), write.first, write.last)
        self.ask_by(write.at)
        much = step.took(wave)
        return (much or self.wanted > write.first) and self.delivery.level is DeliveryLevel.RECEIVED

    def ask_by(self, at: float) -> None:
        """Something was written at this time: it is asked for in time, and before it makes a peer stalled."""
        if self.ask_at is None:
            self.ask_at = at + min(ASKING, self.timeout / 2)

    @property
    def full(self) -> bool:
        """Whether a peer that is not stuck has no room, so that nothing may be posted."""
        low = self.taken.low
        if low is None or self.end - low < self._capacity:
            return False
        return not all(peer.stuck for peer in self.taken.at(low))

    @property
    def slow(self) -> list[Subscription]:
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
        settled = [self._pending.popleft() for _ in range(count)]
        self._bytes -= sum([len(message.payload) for message in settled])
        return settled

    def drain(self) -> list[Message]:
        """What has not settled, in order; for the end."""
        left = list(self._pending)
        self._pending.clear()
        self._bytes = 0
        self._base_seq = self.last_seq
        self._seqs.clear()
        self._base = self.end
        return left

    @property
    def unsettled(self) -> int:
        """How many messages have not settled."""
        return len(self._pending)

    @property
    def keeps_much(self) -> bool:
        """Whether more has not settled than a stuck peer may cost."""
        return len(self._pending) > self._capacity * _KEPT or self._bytes > _KEPT_BYTES

    @property
    def kept_for(self) -> list[Subscription]:
        """The stuck peers for whom the oldest message is kept."""
        low = self.confirmed.low
        members = () if low is None else self.confirmed.at(low)
        return [peer for peer in members if isinstance(peer, Subscription) and peer.stuck]

    def _drop_oldest(self) -> None:
        first = self.end - self._capacity
        while (low := self.taken.low) is not None and low < first:
            for peer in list(self.taken.at(low)):
                self.step_out(peer)
                self.dropped += peer.skip_to(first)

    # -- who is there -----------------------------------------------------------------------------------

    def join(self, owner: Owner) -> Subscription:
        """A peer gets everything from here on."""
        peer = Subscription(self, owner, self._last, self.end)
        self.members.add(peer)
        self.taken.add(peer, self.end)
        self.confirmed.add(peer, self.end)
        return peer

    def leave(self, peer: Subscription) -> None:
        """A peer is gone; what it did not confirm settles without it. Twice is once."""
        if peer.joined:
            self.step_out(peer)
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
