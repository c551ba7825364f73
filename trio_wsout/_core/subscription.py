"""One peer's place in the log of a listener: what it has taken, what of that it has, what it lost.

The rules stand in `log`, whose other half this is.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from trio_wsout.config.sections import DeliveryLevel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout._core.blocks import Block
    from trio_wsout._core.message import Accepted
    from trio_wsout._core.watermark import Watermark
    from trio_wsout.config.sections import Delivery

__all__ = ["ASKING", "Owner", "Subscription", "Wave", "Write"]

ASKING = 1.0
"""Seconds after which peers are asked what they have, where nobody waits for that: a ping and its pong
cost more than the message before it, so one of them serves many messages."""


@frozen(eq=False)
class Write:
    """What one write brought to a peer, or one wave to many, and is not confirmed. Peers share it: it never changes."""

    first: int
    last: int
    """The number after the last message."""
    size: int
    at: float
    """When it began."""
    waves: Sequence[Write] = ()
    """What it stands for, where that is many waves, of which the first need not be in it any more."""

    def behind(self, number: int) -> Write:
        """What is left of it where the messages before `number` are confirmed, which is one inside it.

        A wave counts with all its bytes until all of it is confirmed.
        """
        waves = [wave for wave in self.waves if wave.last > number]
        if not waves:
            return Write(number, self.last, self.size, self.at)
        return Write(number, self.last, sum([wave.size for wave in waves]), waves[0].at, waves)


@frozen(eq=False)
class Wave:
    """Frames that every peer in sync can be written as they are, in one go."""

    frames: bytes
    write: Write


class Owner(Protocol):
    """Whose place it is, and who hears what became of it while it was in sync."""

    def wrote(self, size: int, at: float) -> None:
        """So many bytes were written to it, the last of them at this time."""
        ...

    def out_of_step(self) -> None:
        """It takes for itself again."""
        ...


class LogView(Protocol):
    """What a place needs of its log; `Log` says what it is."""

    delivery: Delivery
    timeout: float
    end: int
    wanted: int
    taken: Watermark[Subscription]
    confirmed: Watermark[Any]

    def ask_by(self, at: float) -> None:
        """Something was written at this time."""
        ...

    def seq_before(self, number: int) -> int:
        """Sequence number of the last event before a message."""
        ...

    def number_after(self, seq: int) -> int:
        """The first message that holds an event after `seq`."""
        ...

    def between(self, first: int, last: int) -> list[Accepted]:
        """The events of the messages `first` to before `last`."""
        ...


class Subscription:
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

    writes: deque[Write]
    """What is in flight, oldest first."""

    in_flight: int
    """Messages of it."""

    in_flight_bytes: int
    """Bytes of it, about."""

    since_ping: bool
    """Whether something was taken since the last ping."""

    gap_after: int | None
    """Number of the last event before those lost since the last `take`; None: nothing was lost."""

    in_sync: bool
    """Whether it is in sync with others. Then all else here is of the moment when it last caught up (`InSync`)."""

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
        "in_sync",
        "joined",
        "much",
        "much_bytes",
        "next",
        "own",
        "owner",
        "since_ping",
        "stuck",
        "writes",
    )

    def __init__(self, log: LogView, owner: Owner, block: Block, number: int) -> None:
        self._log = log
        self.owner = owner
        self.in_sync = False
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
        self._log.ask_by(now)
        block = self._block_at(self.next)
        first = self.next
        most = self._log.end if self._held else first + self._log.delivery.max_unconfirmed - self.in_flight
        last = min(block.end, most)
        if self._owns(last):
            blob = self._take_others(block, first, last, now)
        else:
            blob = block.joined(first, last)
            self._note(Write(first, last, len(blob), now))
        self._move_to(last)
        return blob

    @property
    def can_keep_step(self) -> bool:
        """Whether it can take what others take, as they take it, until it has no room."""
        return (
            self.joined and not self.stuck and not self.own and self.gap_after is None and not self.has_much
        )

    def took(self, write: Write, block: Block) -> None:
        """This write, which begins where it stands and ends in `block`, was to this peer as well."""
        self._note(write)
        self.next = write.last
        self.block = block

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

    def _note(self, write: Write) -> None:
        self.writes.append(write)
        self.in_flight += write.last - write.first
        self.in_flight_bytes += write.size
        self.since_ping = True

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
            self._note(Write(others[0], others[-1] + 1, len(blob), now))
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

    def pong_received(self, now: float) -> None:
        """The outstanding ping was answered, as was found at `now`."""
        number, self._before_ping = self._before_ping, None
        if number is not None and self._log.delivery.level is DeliveryLevel.RECEIVED:
            self._confirm_before(number)
            deadline = self.deadline
            if deadline is not None and now >= deadline:
                self._held_until = now

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
            write = writes[0]
            rest = writes[0] = write.behind(number)
            self.in_flight -= number - write.first
            self.in_flight_bytes -= write.size - rest.size
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
        """This side reads again since `now`, or found then that it had not run: time counts from there."""
        self._held = False
        self._held_until = now
