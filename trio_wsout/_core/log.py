"""The one log of an output: the order of its messages, and those that all readers have confirmed (SPEC 2, 7 and 10).

Rules
-----
1. Messages are numbered from 0 in the order in which they are posted. Each reader, a peer or the link, has a subscription.
   It gets them in that order, from the first that is posted after it joined, and never one that came from itself.
2. Frames lie in blocks that all peers share; they are made when a peer first takes them. A peer takes at most one block at
   a time; peers that take the same frames get the same bytes object. A block lives as long as a subscription needs it.
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
6. A message is settled when every reader that had joined when it was posted has confirmed it, has lost it by rule 3, sent it
   itself, or has left. Messages settle in their order, each as confirmed, or with the reason for which the link will not
   deliver it (`resend`, rule 4).
7. Peers are asked for a confirmation as soon as somebody waits for it (`want`, or a message whose fate is awaited), when
   half of the messages that may be unconfirmed are, and otherwise only by `ask_at`. While there are few peers, they are asked for each
   message.
8. A peer is stalled when a message was in flight to it for longer than `retry.timeout`. The time in which this side did not
   read does not count, and where an answer is found late, time for messages still in flight begins anew: they
   could not be asked for before.
9. A message is too old when its oldest event was accepted `delivery.max-age` ago. Then no reader is written it for the first
   time: a peer loses it as by rule 3, and the link passes over it. It is undelivered if the link passed over it, or if there is
   no link, a peer lost it, and no peer took it. A message that the link has written is never too old for the link.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import inf
from operator import attrgetter, itemgetter

from attrs import Factory, define, field

from trio_wsout._core.blocks import Block
from trio_wsout._core.in_sync import InSync
from trio_wsout._core.message import Accepted, GapNotice, Message, events_in
from trio_wsout._core.resend import LinkSubscription, bytes_of
from trio_wsout._core.subscription import Broadcast, Owner, PeerSubscription, Subscription
from trio_wsout._core.watermark import Watermark
from trio_wsout.config.sections import Delivery, DeliveryLevel, Retry

KEPT = 256
"""Most messages that may be kept because of a stuck peer, as a multiple of `capacity`."""
KEPT_BYTES = 64 * 1024 * 1024
"""Bytes of messages that may be kept because of a stuck peer."""
MANY = 16
"""From this number of peers on, confirmations are put off while nobody waits for them (rule 7)."""
ASK_AFTER = 1.0
"""Seconds after which peers are asked for confirmations that nobody waits for: a ping and its pong cost more than the
message before them, so one ping serves many messages."""

_REPORTED = ""
"""The reason of messages that were reported as undelivered before they settle (rule 9)."""

Settled = list[tuple[list[Message], str | None]]
"""Messages in order, as runs with the same outcome: None if they are confirmed, or the reason for which they are undelivered."""


@define(eq=False)
class Log:
    """The log of one output. Times are absolute seconds of the caller's clock."""

    delivery: Delivery
    timeout: float
    """Seconds that a message may be in flight (rule 8)."""
    _capacity: int = field(default=0, alias="capacity", kw_only=True)
    """Messages in the queue of a peer, at most."""
    _frame: Callable[[bytes], bytes] | None = field(default=None, alias="frame", kw_only=True)
    """Returns the frame of a message's payload as peers get it; None if no peer can join."""
    end: int = field(default=0, init=False)
    """The number that the next message gets."""
    jumps: bool = field(default=False, init=False)
    """Whether there may be numbers between two events that no event has, and notices of gaps; set where several outputs share a
    log."""
    dropped: int = field(default=0, init=False)
    """Messages that slow peers lost, counted for each peer."""
    unheard: int = field(default=0, init=False)
    """Messages that were posted while no peer had joined."""
    wanted: int = field(default=0, init=False)
    """The messages before this one are to be confirmed as soon as possible."""
    taken: int = field(default=0, init=False)
    """No peer has taken this message, or one behind it."""
    expires_at: float = field(default=inf, init=False)
    """No message that a reader has not taken is too old before this time."""
    left_out: int = field(default=0, init=False)
    """The number of messages that were reported as too old, and wait to settle for those before them."""
    leaves_old_to_another: bool = field(default=False, init=False)
    """Whether the events go up a link, too, by another log, which alone tells of those that are too old."""
    _newest: float = field(default=-inf, init=False)
    """The time at which the newest message was accepted, if its age is noted."""
    ask_at: float | None = field(default=None, init=False)
    """The latest time at which all peers must be asked for confirmations; None if nothing was written since `asked`."""
    link: LinkSubscription | None = field(default=None, init=False)
    """The subscription of the link; None if there is none."""
    members: set[PeerSubscription] = field(factory=set[PeerSubscription], init=False)
    """The subscriptions of peers."""
    in_sync: InSync = field(default=Factory(lambda self: InSync(self.delivery), takes_self=True), init=False)
    """The subscriptions that broadcasts are written to."""
    positions: Watermark[PeerSubscription] = field(factory=Watermark[PeerSubscription], init=False)
    """The subscriptions of peers, each at the first message that it has not taken."""
    confirmed: Watermark[Subscription] = field(factory=Watermark[Subscription], init=False)
    """All subscriptions, each at the first message that it has not confirmed."""
    _last: Block = field(
        default=Factory(lambda self: Block(0, self._frame or bytes), takes_self=True), init=False
    )
    _messages: list[Message] = field(factory=list[Message], init=False)
    """The messages that have not settled, from number `_base` on."""
    _failed: dict[int, str] = field(factory=dict[int, str], init=False)
    """Those of them that will not be delivered, each with the reason."""
    _base: int = field(default=0, init=False)
    _base_seq: int = field(default=0, init=False)
    """The last event before them."""
    _bytes: int = field(default=0, init=False)
    """Their bytes, if peers can join."""

    # -- the log --------------------------------------------------------------------------------------

    def post(self, message: Message, source: Subscription | None = None) -> None:
        """Put a message at the end; `source` is the subscription from whose connection it came, None if it came from none."""
        number, size = self.end, len(message.payload)
        if source is not None and source.joined:
            self.leave_sync(source)
            source.posted(number)
        self._messages.append(message)
        self.end = number + 1
        if self.link is not None and source is not self.link:
            self.link.posted_others(size)
        if self._frame is not None:
            self._post_to_peers(message, size)

    def _post_to_peers(self, message: Message, size: int) -> None:
        block = self._last
        if block.is_full:
            block.next = self._last = block = Block(self.end - 1, block.frame)
        if self.jumps and isinstance(message, GapNotice):
            block.append_framed(message.frame)
        else:
            block.append(message.payload)
        self._bytes += size
        if not self.members:
            self.unheard += 1
            return
        for subscription in self._behind(self.end - self._capacity):
            self.dropped += subscription.skip_to(self.end - self._capacity)
        if len(self.members) < MANY or message.awaited:
            self.wanted = self.end

    def offer(self, message: Message, source: Subscription | None = None) -> bool:
        """Post a message if every peer has room for it; return whether they had.

        Where no peer can join, the link must have room. A link beside peers makes nobody wait here, because what comes down
        it has to go on: see `LinkSubscription.full`.
        """
        if self._frame is None:
            room = self.link is not None and self.link.has_room(1, len(message.payload))
        else:
            room = not self.full
        if room:
            self.post(message, source)
        return room

    def offer_many(self, messages: Sequence[Message]) -> int:
        """Post messages, in order, as far as the link has room for them; return their number."""
        link, count, size = self.link, len(messages), bytes_of(messages)
        if link is None or not link.has_room(count, size):
            return next((index for index, each in enumerate(messages) if not self.offer(each)), count)
        # The common case: one check for all of them.
        self._messages += messages
        self.end += count
        link.posted_others(size)
        return count

    def fail(self, number: int, reason: str) -> None:
        """Note that a message will not be delivered; it settles with this reason once every subscription is past it."""
        self._failed[number] = reason

    def want(self) -> None:
        """Ask for everything posted so far to be confirmed as soon as possible."""
        self.wanted = self.end

    def ask_by(self, at: float) -> None:
        """Set `ask_at`, if it is not set, for a write at the time `at`; it is early enough that no peer stalls before."""
        if self.ask_at is None:
            self.ask_at = at + min(ASK_AFTER, self.timeout / 2)

    def asked(self) -> None:
        """Note that all peers were asked for confirmations."""
        self.ask_at = None

    # -- broadcasts -----------------------------------------------------------------------------------

    def enter_sync(self, subscription: PeerSubscription, number: int) -> bool:
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
        if isinstance(subscription, PeerSubscription) and subscription.in_sync:
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
        self.taken = max(self.taken, write.last)
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
    def slow(self) -> list[PeerSubscription]:
        """The subscriptions that make the log full."""
        low = self.positions.lowest()
        if low is None or self.end - low < self._capacity:
            return []
        return [each for each in self.positions.at(low) if not each.stuck]

    def _behind(self, number: int) -> Iterator[PeerSubscription]:
        """Yield each subscription of a peer that has not taken all messages before `number`; the caller moves it there."""
        while (low := self.positions.lowest()) is not None and low < number:
            for subscription in list(self.positions.at(low)):
                self.leave_sync(subscription)
                yield subscription

    @property
    def keeps_too_much(self) -> bool:
        """Whether more is unsettled than may be kept because of a stuck peer."""
        return len(self._messages) > self._capacity * KEPT or self._bytes > KEPT_BYTES

    @property
    def kept_for(self) -> list[PeerSubscription]:
        """The stuck subscriptions because of which the oldest message is kept."""
        low = self.confirmed.lowest()
        members = () if low is None else self.confirmed.at(low)
        return [each for each in members if isinstance(each, PeerSubscription) and each.stuck]

    # -- messages that are too old --------------------------------------------------------------------

    def expiry(self, message: Message) -> float:
        """Return the time from which a message that was not written must not be written any more (rule 9)."""
        return message.at + (self.delivery.max_age or inf)

    def aged(self, message: Message) -> None:
        """Note that a message was posted that may become too old, before any reader takes it.

        Where sources take turns, it counts as no older than one before it.
        """
        oldest = message.events[0]
        oldest.at = self._newest = max(self._newest, oldest.at)
        self.expires_at = min(self.expires_at, self.expiry(message))

    def expire(self, now: float) -> list[Message]:
        """Have no reader take what is too old; return the messages that are undelivered for it, which `settled` leaves out."""
        if now < self.expires_at:
            return []
        lost = self._lose_old(now)
        if self.link is not None:
            lost = self.link.pass_over(self._young_from(self.link.unwritten, now))
        elif self.leaves_old_to_another:
            lost = []
        self._failed.update(dict.fromkeys(lost, _REPORTED))
        self.left_out += len(lost)
        messages = [self._messages[number - self._base] for number in lost]
        if self._frame is None:
            for number, message in zip(lost, messages, strict=True):
                self._messages[number - self._base] = Accepted(b"", None, seq=message.last_seq)
        waiting = [self.positions.lowest(), None if self.link is None else self.link.unwritten]
        fronts = [number for number in waiting if number is not None and number < self.end]
        self.expires_at = min(
            [self.expiry(self._messages[each - self._base]) for each in fronts], default=inf
        )
        return messages

    def _lose_old(self, now: float) -> list[int]:
        """Have peers lose what is too old; return the messages that no peer has, although one was to get them."""
        lost = set[int]()
        low = self.positions.lowest()
        young = 0 if low is None else self._young_from(low, now)
        for subscription in self._behind(young):
            untaken = range(max(subscription.position, self.taken), young)
            lost.update(set(untaken).difference(subscription.own_between(untaken.start, young)))
            self.dropped += subscription.skip_to(young)
        return sorted(lost)

    def _young_from(self, number: int, now: float) -> int:
        """Return the first message from `number` on that is not too old."""
        while number < self.end and self.expiry(self._messages[number - self._base]) <= now:
            number += 1
        return number

    # -- settled messages -----------------------------------------------------------------------------

    def settled(self) -> Settled:
        """Take out the messages that have settled since the last call."""
        low = self.confirmed.lowest()
        return self._out(max(0, (self.end if low is None else low) - self._base))

    def drain(self) -> Settled:
        """Take out all messages that have not settled, because the log has ended."""
        if self.link is not None:
            self.link.go_on_at(self.end)
        return self._out(len(self._messages))

    def _out(self, count: int) -> Settled:
        """Take out the oldest messages."""
        if not count:
            return []
        base, out = self._base, self._messages[:count]
        del self._messages[:count]
        self._base = base + count
        self._base_seq = out[-1].last_seq
        if self._frame is not None:
            self._bytes -= bytes_of(out)
        if not self._failed:  # nearly always
            return [(out, None)]
        failed = [self._failed.pop(number, None) for number in range(base, base + count)]
        self.left_out -= failed.count(_REPORTED)
        runs = groupby(zip(out, failed, strict=True), itemgetter(1))
        return [([message for message, _ in run], reason) for reason, run in runs if reason != _REPORTED]

    @property
    def unsettled(self) -> int:
        """The number of messages that have not settled."""
        return len(self._messages)

    # -- subscriptions --------------------------------------------------------------------------------

    def join(self, owner: Owner) -> PeerSubscription:
        """Return a new subscription of a peer to all messages that are posted from now on."""
        subscription = PeerSubscription(self, self.end, owner, self._last)
        self.members.add(subscription)
        self.positions.add(subscription, self.end)
        self.confirmed.add(subscription, self.end)
        return subscription

    def join_link(self, retry: Retry) -> LinkSubscription:
        """Return the subscription of the link, to all messages that are posted from now on."""
        self.link = LinkSubscription(self, self.end, retry)
        self.confirmed.add(self.link, self.end)
        return self.link

    def leave(self, subscription: PeerSubscription) -> None:
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
        return self._messages[number - 1 - self._base].last_seq if number > self._base else self._base_seq

    def events_between(self, first: int, last: int) -> int:
        """Return the number of events in the messages `first` to before `last`, which have not settled."""
        if self.jumps:
            return events_in(self.between(first, last))
        return self.seq_before(last) - self.seq_before(first)

    @property
    def last_seq(self) -> int:
        """Sequence number of the last event posted; if there was none, 0 or what `start_after` set."""
        return self.seq_before(self.end)

    def start_after(self, seq: int) -> None:
        """Set the sequence number of the event before the first message: that of the last event in a history."""
        self._base_seq = seq

    def number_after(self, seq: int) -> int:
        """Return the first message that holds an event after `seq`."""
        return self._base + bisect_right(self._messages, seq, key=attrgetter("last_seq"))

    def between(self, first: int, last: int) -> list[Message]:
        """Return the messages `first` to before `last` that have not settled."""
        return self._messages[max(0, first - self._base) : max(0, last - self._base)]
