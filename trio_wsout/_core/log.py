"""One log of messages for many peers: their order, their frames, and the messages that all peers have confirmed (SPEC 2 and 10).

Rules
-----
1. Messages are numbered from 0 in the order in which they are posted. Every peer gets them in that order, from the
   first that is posted after it joined, and never one that it sent itself.
2. Frames lie in blocks that all subscriptions share. A subscription takes at most one block at a time; peers that take the
   same frames get the same bytes object. A block lives as long as a subscription needs it.
3. A peer's queue is the messages that are posted and not taken: at most `capacity`. When a peer has so many, the log is
   full: before it posts, the caller must let the peers take, and then wait, or disconnect the slow ones, or mark them as
   stuck (policy ``drop-oldest``). Nobody waits for a stuck peer: it loses its oldest messages, which are counted, and gets a
   notice of its gap. It is stuck until it takes again. Meanwhile its messages in flight can't settle, and nor can any
   behind them; a stuck peer for which too much is kept has to go (`kept_for`).
4. A peer may have `max_unconfirmed` messages written and not confirmed, and about as many bytes; beyond that it takes
   nothing. While this side does not read from the peer the only bound is the room on its connection: the confirmations lie
   unread, so waiting for them would never end.
5. Confirmed means, by level: ``written`` handed to the kernel; ``received`` the pong of a ping that was written after it;
   ``acked`` named, or followed, by an acknowledgement.
6. A message is settled when every peer that had joined when it was posted has confirmed it, has lost it by rule 3, sent it
   itself, or has left. Messages settle in their order.
7. Peers are asked for a confirmation as soon as somebody waits for it (`want`, or a message whose fate is awaited), when
   half of the messages that may be unconfirmed are, and otherwise only by `ask_at`. While there are few peers, they are asked for each
   message.
8. A peer is stalled when a message was in flight to it for longer than `retry.timeout`. The time in which this side did not
   read does not count, and where an answer is found late, time for messages still in flight begins anew (`delivery`, rule 5).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice

from attrs import Factory, define, field

from trio_wsout._core.blocks import Block
from trio_wsout._core.in_sync import InSync
from trio_wsout._core.message import Accepted, Message
from trio_wsout._core.subscription import Broadcast, Owner, Subscription
from trio_wsout._core.watermark import Watermark
from trio_wsout.config.sections import Delivery, DeliveryLevel

__all__ = ["Broadcast", "Log", "Owner", "Subscription"]

_KEPT = 256
"""Most messages that may be kept because of a stuck peer, as a multiple of `capacity`."""
_KEPT_BYTES = 64 * 1024 * 1024
"""Bytes of frames that may be kept because of a stuck peer."""
_MANY = 16
"""From this number of peers on, confirmations are put off while nobody waits for them (rule 7)."""
_ASK_AFTER = 1.0
"""Seconds after which peers are asked for confirmations that nobody waits for: a ping and its pong cost more than the
message before them, so one ping serves many messages."""


@define(eq=False)
class Log:
    """The log of one listener. Times are absolute seconds of the caller's clock."""

    delivery: Delivery
    timeout: float
    """Seconds that a message may be in flight (rule 8)."""
    _capacity: int = field(alias="capacity", kw_only=True)
    """Messages in the queue of a peer, at most."""
    end: int = field(default=0, init=False)
    """The number that the next message gets."""
    dropped: int = field(default=0, init=False)
    """Messages that slow peers lost, counted for each peer."""
    unheard: int = field(default=0, init=False)
    """Messages that were posted while no peer had joined."""
    wanted: int = field(default=0, init=False)
    """The messages before this one are to be confirmed as soon as possible."""
    ask_at: float | None = field(default=None, init=False)
    """The latest time at which all peers must be asked for confirmations; None if nothing was written since `asked`."""
    members: set[Subscription] = field(factory=set[Subscription], init=False)
    in_sync: InSync = field(default=Factory(lambda self: InSync(self.delivery), takes_self=True), init=False)
    """The subscriptions that broadcasts are written to."""
    positions: Watermark[Subscription] = field(factory=Watermark[Subscription], init=False)
    """The subscriptions, each at the first message that it has not taken."""
    confirmed: Watermark[object] = field(factory=Watermark[object], init=False)
    """The subscriptions, and the link of a relay, each at the first message that it has not confirmed."""
    _last: Block = field(factory=lambda: Block(0), init=False)
    _pending: deque[Message] = field(factory=deque["Message"], init=False)
    """The messages that have not settled, from number `_base` on."""
    _seqs: deque[int] = field(factory=deque[int], init=False)
    """The sequence number of the last event of each message in `_pending`."""
    _base: int = field(default=0, init=False)
    _base_seq: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)
    """Bytes of all messages in `_pending`."""

    # -- the log --------------------------------------------------------------------------------------

    def post(self, message: Message, frame: bytes, source: Subscription | None = None) -> None:
        """Put a message, framed, at the end; `source` is the subscription of the peer that sent it, None if none did."""
        block = self._last
        if block.is_full:
            block.next = self._last = block = Block(self.end)
        block.append(frame)
        if source is not None and source.joined:
            self.leave_sync(source)
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
        """Ask for everything posted so far to be confirmed as soon as possible."""
        self.wanted = self.end

    def ask_by(self, at: float) -> None:
        """Set `ask_at`, if it is not set, for a write at the time `at`; it is early enough that no peer stalls before."""
        if self.ask_at is None:
            self.ask_at = at + min(_ASK_AFTER, self.timeout / 2)

    def asked(self) -> None:
        """Note that all peers were asked for confirmations."""
        self.ask_at = None

    # -- broadcasts -----------------------------------------------------------------------------------

    def enter_sync(self, subscription: Subscription, number: int) -> bool:
        """Include a subscription in each broadcast from now on, if it stands where the others in sync stand.

        Args:
            subscription: It must not be in sync.
            number: A number for the caller, found in `in_sync.members`.

        Returns:
            Whether it is in sync.
        """
        return self.in_sync.enter(subscription, number)

    def leave_sync(self, subscription: Subscription) -> None:
        """Exclude a subscription from broadcasts, if it is in sync."""
        if subscription.in_sync:
            self.in_sync.leave(subscription)

    def next_broadcast(self, now: float) -> Broadcast | None:
        """Return the next frames for all subscriptions in sync, of one block at most; None if there are none.

        Subscriptions that have no room for them leave the others.
        """
        in_sync = self.in_sync
        return in_sync.next_broadcast(now) if in_sync.members and in_sync.position < self.end else None

    def broadcast_written(self, broadcast: Broadcast) -> bool:
        """Note that all subscriptions in sync have taken a broadcast; return whether some of them are to be asked for a confirmation."""
        in_sync, write = self.in_sync, broadcast.write
        if not in_sync.members:
            return False
        self.positions.move_all(in_sync.members.keys(), write.first, write.last)
        self.ask_by(write.at)
        half_full = in_sync.broadcast_written(broadcast)
        return (half_full or self.wanted > write.first) and self.delivery.level is DeliveryLevel.RECEIVED

    # -- room -----------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether a peer that is not stuck has no room, so that nothing may be posted."""
        low = self.positions.lowest()
        if low is None or self.end - low < self._capacity:
            return False
        return not all(each.stuck for each in self.positions.at(low))

    @property
    def slow(self) -> list[Subscription]:
        """The subscriptions that make the log full."""
        low = self.positions.lowest()
        if low is None or self.end - low < self._capacity:
            return []
        return [each for each in self.positions.at(low) if not each.stuck]

    def _drop_oldest(self) -> None:
        first = self.end - self._capacity
        while (low := self.positions.lowest()) is not None and low < first:
            for subscription in list(self.positions.at(low)):
                self.leave_sync(subscription)
                self.dropped += subscription.skip_to(first)

    @property
    def keeps_too_much(self) -> bool:
        """Whether more is unsettled than may be kept because of a stuck peer."""
        return len(self._pending) > self._capacity * _KEPT or self._bytes > _KEPT_BYTES

    @property
    def kept_for(self) -> list[Subscription]:
        """The stuck subscriptions because of which the oldest message is kept."""
        low = self.confirmed.lowest()
        members = () if low is None else self.confirmed.at(low)
        return [each for each in members if isinstance(each, Subscription) and each.stuck]

    # -- settled messages -----------------------------------------------------------------------------

    def settled(self) -> list[Message]:
        """Take out the messages that have settled since the last call, in order."""
        low = self.confirmed.lowest()
        count = max(0, (self.end if low is None else low) - self._base)
        self._base += count
        for _ in range(count):
            self._base_seq = self._seqs.popleft()
        settled = [self._pending.popleft() for _ in range(count)]
        self._bytes -= sum([len(message.payload) for message in settled])
        return settled

    def drain(self) -> list[Message]:
        """Take out all messages that have not settled, in order, because the log has ended."""
        left = list(self._pending)
        self._pending.clear()
        self._bytes = 0
        self._base_seq = self.last_seq
        self._seqs.clear()
        self._base = self.end
        return left

    @property
    def unsettled(self) -> int:
        """The number of messages that have not settled."""
        return len(self._pending)

    # -- subscriptions --------------------------------------------------------------------------------

    def join(self, owner: Owner) -> Subscription:
        """Return a new subscription to all messages that are posted from now on."""
        subscription = Subscription(self, owner, self._last, self.end)
        self.members.add(subscription)
        self.positions.add(subscription, self.end)
        self.confirmed.add(subscription, self.end)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """End a subscription, if it has not ended; messages that it did not confirm settle without it."""
        if subscription.joined:
            self.leave_sync(subscription)
            subscription.joined = False
            self.members.remove(subscription)
            self.positions.remove(subscription, subscription.position)
            self.confirmed.remove(subscription, subscription.confirmed)

    # -- numbers --------------------------------------------------------------------------------------

    def seq_before(self, number: int) -> int:
        """Return the sequence number of the last event before a message that has not settled; 0 if there is none."""
        return self._seqs[number - 1 - self._base] if number > self._base else self._base_seq

    @property
    def last_seq(self) -> int:
        """Sequence number of the last event posted; if there was none, 0 or what `start_after` set."""
        return self.seq_before(self.end)

    def start_after(self, seq: int) -> None:
        """Set the sequence number of the event before the first message: that of the last event in a history."""
        self._base_seq = seq

    def number_after(self, seq: int) -> int:
        """Return the first message that holds an event after `seq`."""
        return self._base + bisect_right(self._seqs, seq)

    def between(self, first: int, last: int) -> list[Accepted]:
        """Return the events of the messages `first` to before `last` that have not settled."""
        messages = islice(self._pending, max(0, first - self._base), max(0, last - self._base))
        return [event for message in messages for event in message.events]
