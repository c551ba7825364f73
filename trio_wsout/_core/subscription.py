"""Subscriptions to a log: what every reader of it has, and what a peer of a listener has beside that.

The rules stand in `log`; what only a link has stands in `resend`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Protocol

from attrs import Factory, define, field, frozen

from trio_wsout._core.blocks import Block
from trio_wsout._core.message import Accepted, Message
from trio_wsout._core.watermark import Watermark
from trio_wsout.config.sections import Delivery, DeliveryLevel


@frozen(eq=False)
class Write:
    """Messages that one write brought to a peer, or one broadcast to many, and that are not confirmed.

    Subscriptions share it, so it never changes.
    """

    first: int
    last: int
    """The number after the last message."""
    size: int
    """Bytes."""
    at: float
    """The time at which it began."""
    broadcasts: Sequence[Write] = ()
    """The broadcasts that it sums up, if there were many; the first of them may be confirmed already."""

    def behind(self, number: int) -> Write:
        """Return the rest of the write when the messages before `number`, which is one of its messages, are confirmed.

        A broadcast counts with all its bytes until all of it is confirmed.
        """
        broadcasts = [each for each in self.broadcasts if each.last > number]
        if not broadcasts:
            return Write(number, self.last, self.size, self.at)
        size = sum([each.size for each in broadcasts])
        return Write(number, self.last, size, broadcasts[0].at, broadcasts)


@frozen(eq=False)
class Broadcast:
    """Frames that can be written to every peer in sync as they are, in one go."""

    frames: bytes
    write: Write


def half_full(delivery: Delivery, messages: int, size: int) -> bool:
    """Return whether these messages, of `size` bytes, are half of what may be unconfirmed."""
    return 2 * messages >= delivery.max_unconfirmed or 2 * size >= delivery.max_unconfirmed_bytes


class Owner(Protocol):
    """The owner of a subscription. These calls report what happened to it while it was in sync."""

    def wrote(self, messages: int, size: int, at: float) -> None:
        """So many messages, of `size` bytes together, were written to the peer, the last of them at this time."""
        ...

    def left_sync(self) -> None:
        """The subscription is no longer in sync: it takes its messages by itself again."""
        ...


class LogView(Protocol):
    """The part of a `Log` that a subscription uses."""

    delivery: Delivery
    timeout: float
    end: int
    wanted: int
    taken: int
    left_out: int
    positions: Watermark[PeerSubscription]
    confirmed: Watermark[Subscription]

    def ask_by(self, at: float) -> None:
        """Note that something was written at this time."""
        ...

    def fail(self, number: int, reason: str) -> None:
        """Note why a message will not be delivered."""
        ...

    def seq_before(self, number: int) -> int:
        """Return the sequence number of the last event before a message."""
        ...

    def number_after(self, seq: int) -> int:
        """Return the first message that holds an event after `seq`."""
        ...

    def between(self, first: int, last: int) -> list[Message]:
        """Return the messages `first` to before `last`."""
        ...


@define(eq=False, weakref_slot=False)
class Subscription(ABC):
    """A reader of a log, a peer or a link: its position, its messages in flight, and those that it has confirmed."""

    _log: LogView
    position: int
    """The first message that it has not taken."""
    confirmed: int = field(default=Factory(lambda self: self.position, takes_self=True), init=False)
    """The first message that it has not confirmed."""
    joined: bool = field(default=True, init=False)
    """Whether it belongs to the log; set by the log alone."""
    in_sync: bool = field(default=False, init=False)
    """Whether broadcasts are written to its peer, so that its account may be old; set by `InSync` alone."""
    writes: deque[Write] = field(factory=deque[Write], init=False)
    """The messages in flight, oldest first; each begins with a message of others, and its own between them do not count."""
    in_flight: int = field(default=0, init=False)
    """The number of messages in flight."""
    in_flight_bytes: int = field(default=0, init=False)
    """The number of bytes in flight; for a peer about that many."""
    own: list[int] | None = field(default=None, init=False)
    """The messages from `confirmed` on that it never gets, because they came from its own connection, or (a link) were too old;
    None if there never was one."""
    since_ping: bool = field(default=False, init=False)
    """Whether something was taken since the last ping."""
    _before_ping: int | None = field(default=None, init=False)
    """The first message behind the outstanding ping; None if no ping is out."""
    _strange_pongs: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    _resumed_at: float = field(default=-inf, init=False)

    # -- writing ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether `take` would return something now."""

    @property
    def queued(self) -> int:
        """The number of messages that wait to be taken."""
        return self.others(self.position, self._log.end) if self.joined else 0

    @property
    def has_all(self) -> bool:
        """Whether it has confirmed, or lost, everything that was posted."""
        return self.confirmed == self._log.end

    def posted(self, number: int) -> None:
        """Note that the message `number`, the next one, came from its own connection."""
        if self.own is None:
            self.own = []
        self.own.append(number)

    def own_between(self, first: int, last: int) -> Sequence[int]:
        """Return those of the messages `first` to before `last` that are its own."""
        own = self.own
        return own[bisect_left(own, first) : bisect_left(own, last)] if own else ()

    def others(self, first: int, last: int) -> int:
        """Return how many of the messages `first` to before `last` are not its own."""
        return last - first - len(self.own_between(first, last))

    def _behind_own(self, number: int) -> int:
        """Return the first message from `number` on that is not its own."""
        own = self.own
        if own and own[-1] >= number:
            for each in own[bisect_left(own, number) :]:
                if each != number:
                    break
                number += 1
        return number

    def written(self) -> None:
        """Note that everything taken was handed to the kernel."""
        if self._log.delivery.level is DeliveryLevel.WRITTEN:
            self._confirm_before(self.position)

    def _note(self, write: Write) -> None:
        self.writes.append(write)
        self.in_flight += self.others(write.first, write.last)
        self.in_flight_bytes += write.size
        self.since_ping = True

    # -- confirming ---------------------------------------------------------------------------------------

    @property
    def wants_ping(self) -> bool:
        """Whether a ping written now would confirm something when it is answered."""
        return self.since_ping and self._log.delivery.level is DeliveryLevel.RECEIVED

    @property
    @abstractmethod
    def pings_now(self) -> bool:
        """Whether the answer to a ping is needed now."""

    def ping_taken(self) -> None:
        """Note that a ping goes out behind everything taken so far; it replaces any ping before it."""
        self._before_ping = self.position
        self.since_ping = False

    def pong_received(self, now: float) -> None:
        """Note that the outstanding ping was answered, as was found at `now`."""
        number, self._before_ping = self._before_ping, None
        if number is not None and self._log.delivery.level is DeliveryLevel.RECEIVED:
            self._confirm_before(number)
            deadline = self.deadline
            if deadline is not None and now >= deadline:
                self._resumed_at = now

    def strange_pong_received(self) -> None:
        """Note that a pong came that answers no ping, before any that does."""
        self._strange_pongs = True

    def acked(self, seq: int) -> None:
        """Note that the peer's application has every event up to `seq` (level acked)."""
        if self._log.delivery.level is DeliveryLevel.ACKED:
            self._confirm_before(min(self._log.number_after(seq), self.position))

    def events_in_flight(self) -> list[Accepted]:
        """Return the events that an acknowledgement may name, oldest first."""
        messages = self._log.between(self.confirmed, self.position)
        return [event for message in messages for event in message.events]

    def _confirm_before(self, number: int) -> None:
        writes, number = self.writes, self._behind_own(number)
        while writes and writes[0].last <= number:
            done = writes.popleft()
            self.in_flight -= self.others(done.first, done.last)
            self.in_flight_bytes -= done.size
        if writes and writes[0].first < number:
            write = writes[0]
            rest = writes[0] = self._rest(write, number)
            self.in_flight -= self.others(write.first, number)
            self.in_flight_bytes -= write.size - rest.size
        self._move_confirmed()

    def _rest(self, write: Write, number: int) -> Write:
        """Return a write without the messages before `number`, which are confirmed."""
        return write.behind(number)

    def _move_confirmed(self) -> None:
        """Move `confirmed` to the oldest write in flight; without such a write, to `position`."""
        number = self.writes[0].first if self.writes else self.position
        if self.joined:
            self._log.confirmed.move(self, self.confirmed, number)
        self.confirmed = number
        if self.own and self.own[0] < number:
            del self.own[: bisect_left(self.own, number)]

    # -- time -------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """The time at which the oldest message in flight makes the peer stalled; None if there is nothing to wait for."""
        if self._paused or not self.writes or not self.joined:
            return None
        return max(self.writes[0].at, self._resumed_at) + self._log.timeout

    def reading_paused(self) -> None:
        """Note that this side stopped reading, so that confirmations can't be seen."""
        self._paused = True

    def reading_resumed(self, now: float) -> None:
        """Note that this side reads again, or found that it had not run: time counts from `now`."""
        self._paused = False
        self._resumed_at = now


@define(eq=False, weakref_slot=False)
class PeerSubscription(Subscription):
    """One peer's subscription. While it is in sync, its fields (except `owner`) are as old as its latest `catch_up`."""

    owner: Owner
    block: Block
    """The block that holds the message at `position`, or one before that block."""
    stuck: bool = field(default=False, init=False)
    """Whether it was found too slow, and has taken nothing since."""
    dropped: int = field(default=0, init=False)
    """Messages that it lost by being slow."""
    gap_after: int | None = field(default=None, init=False)
    """The last event before lost messages of which the peer got no notice yet; None if there is no such gap."""

    # -- writing ----------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether `take` would return something now."""
        if self.position >= self._log.end or not self.joined:
            return False
        delivery = self._log.delivery
        return self._paused or (
            self.in_flight < delivery.max_unconfirmed
            and self.in_flight_bytes < delivery.max_unconfirmed_bytes
        )

    def take(self, now: float) -> bytes:
        """Take the next frames to write in one go; empty if there are none but those of its own messages."""
        if not self.ready:
            return b""
        self.stuck = False
        self._log.ask_by(now)
        block = self._block_at(self.position)
        most = self._log.end
        if not self._paused:
            most = self.position + self._log.delivery.max_unconfirmed - self.in_flight
        first, last, frames = self._behind_own(self.position), min(block.end, most), b""
        if first < last:
            frames = block.joined(first, last, self.own_between(first, last))
            self._note(Write(first, last, len(frames), now))
            self._log.taken = max(self._log.taken, last)
        self._move_to(last)
        return frames

    @property
    def can_sync(self) -> bool:
        """Whether it can take each broadcast as it is, until it has no room."""
        return (
            self.joined
            and not (self.stuck or (self.own and self.own[-1] >= self.position))
            and self.gap_after is None
            and not self.is_half_full
        )

    def broadcast_written(self, write: Write, block: Block) -> None:
        """Note a broadcast that began at its position, ended in `block`, and reached its peer, too."""
        self._note(write)
        self.position = write.last
        self.block = block

    def _block_at(self, number: int) -> Block:
        """Go on to the block that holds a message, and drop those before it."""
        block = self.block
        while block.end <= number and block.next is not None:
            block = block.next
        self.block = block
        return block

    # -- confirming ---------------------------------------------------------------------------------------

    @property
    def pings_now(self) -> bool:
        """Whether the confirmation by a ping is needed now: somebody waits for it, or the room that it makes is needed."""
        return self.wants_ping and (self.confirmed < self._log.wanted or self.is_half_full)

    @property
    def is_half_full(self) -> bool:
        """Whether half of the messages that may be unconfirmed are."""
        return half_full(self._log.delivery, self.in_flight, self.in_flight_bytes)

    # -- falling behind -------------------------------------------------------------------------------------

    def mark_stuck(self) -> None:
        """Note that its peer is too slow: nobody waits for it until it takes again."""
        self.stuck = True

    def clear_stuck(self) -> None:
        """Note that it is no longer stuck, because the reason is over."""
        self.stuck = False

    def skip_to(self, number: int) -> int:
        """Lose the messages before `number`; return how many of them others had sent."""
        lost = self.others(self.position, number)
        if lost and self.gap_after is None:
            self.gap_after = self._log.seq_before(self.position)
        self.dropped += lost
        self._block_at(number)
        self._move_to(number)
        return lost

    def gap_reported(self) -> None:
        """Note that the peer got the notice of its gap."""
        self.gap_after = None

    def _move_to(self, number: int) -> None:
        self._log.positions.move(self, self.position, number)
        self.position = number
        self._move_confirmed()
