"""One peer's place in the log of a listener: what it has taken, what of that it has, what it lost.

The rules stand in `fanout`, whose other half this is.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from trio_wsout.config.sections import DeliveryLevel

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_wsout._core.blocks import Block
    from trio_wsout._core.message import Accepted
    from trio_wsout._core.watermark import Watermark
    from trio_wsout.config.sections import Delivery

__all__ = ["Subscriber", "Wave", "take_together"]

ASKING = 1.0
"""Seconds after which peers are asked what they have, where nobody waits for that: a ping and its pong
cost more than the message before it, so one of them serves many messages."""


@frozen(eq=False)
class _Write:
    """What one write brought to a peer, or to many, and is not confirmed. Peers share it, so it never changes."""

    first: int
    last: int
    """The number after the last message."""
    size: int
    at: float
    """When it began."""


@frozen(eq=False)
class Wave:
    """Frames that every peer that stands where they begin can be written as they are, in one go."""

    frames: bytes
    write: _Write
    block: Block
    """The block that they lie in."""


class Log(Protocol):
    """What a place needs of its log; `Fanout` says what it is."""

    delivery: Delivery
    timeout: float
    end: int
    wanted: int
    ask_at: float | None
    taken: Watermark[Subscriber]
    confirmed: Watermark[Any]

    def seq_before(self, number: int) -> int:
        """Sequence number of the last event before a message."""
        ...

    def number_after(self, seq: int) -> int:
        """The first message that holds an event after `seq`."""
        ...

    def between(self, first: int, last: int) -> list[Accepted]:
        """The events of the messages `first` to before `last`."""
        ...


def take_together(peers: Collection[Subscriber], wave: Wave) -> bool:
    """All these peers, whom it fits, take a wave; gives whether one of them has half of what may be unconfirmed.

    Written out for all, because it is done for each peer at each event.
    """
    write, block = wave.write, wave.block
    last, count, size = write.last, write.last - write.first, write.size
    much = False
    for peer in peers:
        peer.next = last
        peer.block = block
        peer.stuck = False
        peer.writes.append(write)
        peer.in_flight += count
        peer.in_flight_bytes += size
        peer.since_ping = True
        if peer.in_flight >= peer.much or peer.in_flight_bytes >= peer.much_bytes:  # `has_much`
            much = True
    return much


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

    block: Block
    """The block that the next message lies in, or one before it."""

    writes: deque[_Write]
    """What is in flight, oldest first."""

    in_flight: int
    """Messages of it."""

    in_flight_bytes: int
    """Bytes of it, about."""

    since_ping: bool
    """Whether something was taken since the last ping."""

    gap_after: int | None
    """Number of the last event before those lost since the last `take`; None: nothing was lost."""

    __slots__ = (
        "_before_ping",
        "_held",
        "_held_until",
        "_log",
        "block",
        "confirmed",
        "dropped",
        "gap_after",
        "in_flight",
        "in_flight_bytes",
        "joined",
        "much",
        "much_bytes",
        "next",
        "own",
        "since_ping",
        "stuck",
        "writes",
    )

    def __init__(self, log: Log, block: Block, number: int) -> None:
        self._log = log
        self.much = (log.delivery.max_unconfirmed + 1) // 2
        self.much_bytes = (log.delivery.max_unconfirmed_bytes + 1) // 2
        self.block = block
        self.writes = deque()
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.since_ping = False
        self._before_ping: int | None = None
        self._held = False
        self._held_until = float("-inf")
        self.own: deque[int] | None = None
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
            self.in_flight < delivery.max_unconfirmed
            and self.in_flight_bytes < delivery.max_unconfirmed_bytes
        )

    def take(self, now: float) -> bytes:
        """Take the next frames to write in one go; empty: nothing is there but messages of its own."""
        if not self.ready:
            return b""
        self.stuck = False
        block = self._block_at(self.next)
        first = self.next
        most = self._log.end if self._held else first + self._log.delivery.max_unconfirmed - self.in_flight
        last = min(block.end, most)
        if self._owns(last):
            blob = self._take_others(block, first, last, now)
        else:
            blob = block.joined(first, last)
            self._note(_Write(first, last, len(blob), now))
        self._move_to(last)
        return blob

    def wave(self, now: float) -> Wave:
        """The frames from where this peer stands, one block of them at most, written at `now`; they must be there."""
        block, first = self._block_at(self.next), self.next
        frames = block.joined(first, block.end)
        return Wave(frames, _Write(first, block.end, len(frames), now), block)

    def fits(self, wave: Wave) -> bool:
        """Whether `take` would give just these frames."""
        write, delivery = wave.write, self._log.delivery
        return (
            self.next == write.first
            and self.in_flight + write.last - write.first <= delivery.max_unconfirmed
            and self.in_flight_bytes < delivery.max_unconfirmed_bytes
            and (not self.own or self.own[0] >= write.last)
            and self.gap_after is None
            and self.joined
        )

    def posted(self, number: int) -> None:
        """This message is its own."""
        if self.own is None:  # so it stays for most
            self.own = deque()
        self.own.append(number)

    def _block_at(self, number: int) -> Block:
        """Go on to the block that holds a message, and let go those before it."""
        block = self.block
        while block.end <= number and block.next is not None:
            block = block.next
        self.block = block
        return block

    def _note(self, write: _Write) -> None:
        self.writes.append(write)
        self.in_flight += write.last - write.first
        self.in_flight_bytes += write.size
        self.since_ping = True
        if self._log.ask_at is None:
            self._log.ask_at = write.at + ASKING

    def _owns(self, last: int) -> bool:
        return self.own is not None and len(self.own) > 0 and self.own[0] < last

    def _take_others(self, block: Block, first: int, last: int, now: float) -> bytes:
        """The frames without those of its own messages, which are as good as confirmed."""
        own: set[int] = set()
        while self.own and self.own[0] < last:
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
        return self.since_ping and self._log.delivery.level is DeliveryLevel.RECEIVED

    @property
    def pings_now(self) -> bool:
        """Whether that confirmation is wanted now, by somebody or for the room that it makes."""
        return self.wants_ping and (self.confirmed < self._log.wanted or self.has_much)

    @property
    def has_much(self) -> bool:
        """Whether half of what may be unconfirmed is."""
        return self.in_flight >= self.much or self.in_flight_bytes >= self.much_bytes

    def ping_taken(self) -> None:
        """A ping goes out behind everything taken so far, and takes the place of any before it."""
        self._before_ping = self.next
        self.since_ping = False

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
        writes = self.writes
        while writes and writes[0].last <= number:
            done = writes.popleft()
            self.in_flight -= done.last - done.first
            self.in_flight_bytes -= done.size
        if writes and writes[0].first < number:
            self.in_flight -= number - writes[0].first
            write = writes[0]
            writes[0] = _Write(number, write.last, write.size, write.at)
        self._settle()

    # -- falling behind -------------------------------------------------------------------------------------

    def skip_to(self, number: int) -> int:
        """Lose what waits before `number`; gives how many messages of others that were."""
        lost = number - self.next
        while self.own and self.own[0] < number:
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
        number = self.writes[0].first if self.writes else self.next
        if self.joined:
            self._log.confirmed.move(self, self.confirmed, number)
        self.confirmed = number

    # -- time -------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When the oldest message in flight makes the peer stalled; None: nothing to wait for."""
        if self._held or not self.writes:
            return None
        return max(self.writes[0].at, self._held_until) + self._log.timeout

    def held(self) -> None:
        """This side stopped reading: confirmations can't be seen."""
        self._held = True

    def released(self, now: float) -> None:
        """This side reads again since `now`."""
        self._held = False
        self._held_until = now
