"""A link's subscription to the log, through all of its connections: what only a link has (SPEC 7).

Rules
-----
1. Messages are written in the order of the log, without those that came down the link. Each connection begins with the first
   unconfirmed one: after a break the position moves back.
2. The window (unsent and in flight together) is bounded in messages and in bytes. One message always fits into an empty
   window. Messages that came down the link do not count.
3. Confirmed means what it means for every subscription (`log`, rule 5), on the connection of the moment.
4. A message leaves the window once, as confirmed or as undelivered. Undelivered are always the oldest in the window, for an
   older message has at least as many tries as a younger one. The log marks them as failed, with the reason.
5. A connection is stalled by `log`, rule 8, and also when the first ping of rule 8 was not answered within `retry.timeout`.
6. A try of a message is a connection that ended while it was in flight; or while it waited to be written again and the peer
   had not answered the ping of rule 8, which is written in its place. After 1 + `retry.retries` tries it is undelivered. So
   if no ping is ever answered, all that was in flight together is undelivered after 1 + `retry.retries` connections. If
   pings are answered and nothing is confirmed, only the oldest message is tried (rule 8), and then the next. A message that
   was never written has no tries; only such a message can be too old (`log`, rule 9).
7. A message is to blame for a break only if nothing else can be: it was alone in flight, after a ping that was answered; no
   ping behind it was answered; and the peer did not give a cause of its own (close codes 1001, 1012, 1013). A message that
   was alone when close code 1009 came is undelivered immediately. Where `retry.retries` is not set, so that nothing else would
   end it, a message is undelivered when it was to blame three times in a row. The row ends with a connection that ends while
   the message is in flight and is not to blame: for example, if this side cut it because the peer was silent. A connection on
   which the message was never written does not count.
8. To find the message to blame, a connection that follows a break with messages in flight starts slowly: with a ping, then one
   message, and twice as many after each confirmation, for as long as one of these messages is in the window. The ping is left
   out if the peer has acknowledged something and never answered a ping. At level ``acked`` a ping goes behind the messages
   that are written again; its pong shows that the peer outlived them. (At level ``written`` nothing stays in flight, so there is
   neither blame nor slow start.)
9. If the peer never sent the confirmation that the level needs, `silence` reports that, with advice.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from attrs import Factory, define, field

from trio_wsout._core.disconnection import BY_SILENCE, Cause, Disconnection
from trio_wsout._core.message import Message
from trio_wsout._core.subscription import Subscription, Write
from trio_wsout.config.sections import DeliveryLevel, Retry

TOO_BIG = 1009
CAUSE_OF_ITS_OWN = frozenset({1001, 1012, 1013})
"""Close codes by which a peer goes away, restarts, or has too much to do (RFC 6455 section 7.4.1, and IANA's list)."""
BLAMES = 3
BLAMING = frozenset({Cause.CLOSED, Cause.LOST, Cause.PROTOCOL})


@define(eq=False)
class Tries:
    """The tries of a message on earlier connections. Few messages have one, so it is not part of the message."""

    sends: int = 0
    """Connections that ended while it was in flight."""
    asked: int = 0
    """Connections that ended while it waited behind a first ping that was not answered."""
    blamed: int = 0
    """The number of times in a row that it was to blame (rule 7)."""


@define(eq=False, weakref_slot=False)
class LinkSubscription(Subscription):
    """The subscription of a link. `position` never stands on a message that came down the link."""

    _retry: Retry
    resent: int = field(default=0, init=False)
    """Messages whose writing began again, counted each time."""
    passed: bool = field(default=False, init=False)
    """Whether a message was confirmed on the latest connection."""
    _unsent_bytes: int = field(default=0, init=False)
    _connected: bool = field(default=False, init=False)
    _opened: float = field(default=0.0, init=False)
    _tries: dict[int, Tries] = field(factory=dict[int, Tries], init=False)
    """The tries of messages from `confirmed` on, by number."""
    _sent_before: int = field(default=0, init=False)
    """Every message before this one was written on an earlier connection."""
    # Slow start (rule 8), and blame (rule 7).
    _probing: bool = field(default=False, init=False)
    _limit: int = field(
        default=Factory(lambda self: self._log.delivery.max_unconfirmed, takes_self=True), init=False
    )
    _proved: bool = field(default=False, init=False)
    _outlived: bool = field(default=False, init=False)
    # Confirmations that the peer has ever sent (rule 9).
    _pinged: bool = field(default=False, init=False)
    _answered: bool = field(default=False, init=False)
    _acked: bool = field(default=False, init=False)

    # -- the window ------------------------------------------------------------------

    @property
    def count(self) -> int:
        """The number of messages that are unsent or in flight."""
        return self._log.end - self.confirmed - (len(self.own) if self.own else 0)

    @property
    def size(self) -> int:
        """Bytes of these messages."""
        return self._unsent_bytes + self.in_flight_bytes

    @property
    def full(self) -> bool:
        """Whether the window has no room for a message, unless that is empty."""
        delivery, count = self._log.delivery, self.count + self._log.left_out
        return count > 0 and (
            count >= delivery.max_unconfirmed or self.size >= delivery.max_unconfirmed_bytes
        )

    def has_room(self, count: int, size: int) -> bool:
        """Return whether the window has room for `count` more messages of `size` bytes together."""
        # Those that it passed over wait for those before them, so they need to be bounded as well.
        delivery, waiting = self._log.delivery, self.count + self._log.left_out
        return (not waiting and count == 1) or (
            waiting + count <= delivery.max_unconfirmed and self.size + size <= delivery.max_unconfirmed_bytes
        )

    @property
    def has_all(self) -> bool:
        """False: a link is closed by its caller, and never because nothing more comes."""
        return False

    def posted_others(self, size: int) -> None:
        """Note that messages of `size` bytes were posted that did not come down the link."""
        self._unsent_bytes += size

    def posted(self, number: int) -> None:
        """Note that the message `number`, the next one, came down the link."""
        super().posted(number)
        if self.position == number:
            self.position = number + 1
            self._move_confirmed()

    @property
    def unwritten(self) -> int:
        """The first message that was never written."""
        return self._behind_own(max(self.position, self._sent_before))

    def pass_over(self, number: int) -> list[int]:
        """Never write those messages before `number` that were not written yet; return them."""
        lost = list(self._numbered_others(self.unwritten, number))
        self.own = sorted([*(self.own or ()), *[each for each, _ in lost]])
        self._unsent_bytes -= bytes_of([message for _, message in lost])
        self.position = self._behind_own(self.position)
        self._move_confirmed()
        return [each for each, _ in lost]

    # -- one connection after the other -----------------------------------------------------------

    def connected(self, now: float) -> None:
        """Note that a new connection is open since `now`."""
        self._connected, self.passed = True, False
        self._opened = now

    @property
    def ready(self) -> bool:
        """Whether `take` would return something now."""
        return (
            self.position < self._log.end
            and self._connected
            and not self._probing
            and self.in_flight < self._limit
        )

    def take(self, now: float, most_bytes: int) -> list[Message]:
        """Take the next messages to write in one go: none unless `ready`, else at least one and about `most_bytes`.

        All messages are taken if they have up to a quarter more: the few that remained would cost a write of their own.
        """
        if not self.ready:
            return []
        first, last, size = self.position, self._log.end, self._unsent_bytes
        if self.count > self._limit or size > most_bytes + most_bytes // 4:
            last, size = self._next_write(most_bytes)
        taken = self._log.between(first, last)
        if self.own:
            taken = [message for _, message in self._numbered_others(first, last)]
        self._note(Write(first, last, size, now))
        self._unsent_bytes -= size
        self.resent += self.others(first, max(first, min(last, self._sent_before)))
        self._outlived = False
        self.position = self._behind_own(last)
        return taken

    def _next_write(self, most_bytes: int) -> tuple[int, int]:
        """Return the end of a write that is filled with about `most_bytes`, and its bytes."""
        last, size = self.position, 0
        ahead = self._numbered_others(last, self._log.end)
        for last, message in islice(ahead, self._limit - self.in_flight):  # noqa: B007 - read behind it
            size += len(message.payload)
            if size >= most_bytes:
                break
        return last + 1, size

    def _numbered_others(self, first: int, last: int) -> Iterator[tuple[int, Message]]:
        """Return the messages `first` to before `last` that did not come down the link, each with its number."""
        own = frozenset(self.own_between(first, last))
        return (each for each in enumerate(self._log.between(first, last), first) if each[0] not in own)

    @property
    def wants_ping(self) -> bool:
        """Whether the answer to a ping written now would prove something new."""
        return self._connected and (
            self._probing
            or super().wants_ping
            or (self.since_ping and len(self._tries) > 0 and self._log.delivery.level is DeliveryLevel.ACKED)
        )

    @property
    def pings_now(self) -> bool:
        """Whether the answer to a ping is needed now, as it always is on a link."""
        return self.wants_ping

    def ping_taken(self) -> None:
        """Note that a ping goes out behind everything taken so far; it replaces any ping before it."""
        super().ping_taken()
        self._pinged = True

    def pong_received(self, now: float) -> None:
        """Note that the outstanding ping was answered, as was found at `now`."""
        if self._before_ping is not None:
            self._proved = self._answered = True
            self._probing = False
            self._outlived = self.in_flight > 0 and not self.since_ping
            super().pong_received(now)

    def acked(self, seq: int) -> None:
        """Note that the peer's application has every event up to `seq` (level acked)."""
        if self._log.delivery.level is DeliveryLevel.ACKED:
            self._acked = self._proved = True
        super().acked(seq)

    def _confirm_before(self, number: int) -> None:
        before = self.in_flight
        super()._confirm_before(number)
        if self.in_flight < before:
            self.passed = True
            self._limit = min(self._limit * 2, self._log.delivery.max_unconfirmed)

    def _rest(self, write: Write, number: int) -> Write:
        rest = [message for _, message in self._numbered_others(number, write.last)]
        return Write(number, write.last, bytes_of(rest), write.at)

    def _move_confirmed(self) -> None:
        super()._move_confirmed()
        while self._tries and (oldest := next(iter(self._tries))) < self.confirmed:
            del self._tries[oldest]

    # -- a connection ended -------------------------------------------------------------------------

    def disconnected(self, disconnection: Disconnection) -> None:
        """Note that the connection ended: the position moves back, and the log gets the messages that are undelivered now."""
        asked, alone = self._probing, self.in_flight == 1
        behind = self._sent_before if asked else self.position
        tried = [number for number, _ in self._numbered_others(self.confirmed, behind)]
        failed = 0
        for number in tried:
            tries = self._tries.setdefault(number, Tries())
            blamed = None if asked else self._blamed_by(disconnection, tries, alone=alone)
            tries.asked += asked
            tries.sends += not asked
            reason = blamed or self._exhausted_by(disconnection, tries)
            if reason is not None:
                failed += 1
                self._log.fail(number, reason)
        self._sent_before = max(self._sent_before, self.position)
        self.go_on_at(tried[failed] if failed < len(tried) else behind)
        if tried and self._log.delivery.level is not DeliveryLevel.WRITTEN:
            again = self.position < self._sent_before
            self._probing = again and (self._answered or not self._acked)
            self._limit = 1 if again else self._log.delivery.max_unconfirmed
        self._connected = self._proved = self._outlived = False

    def go_on_at(self, number: int) -> None:
        """Move the position to the message `number`: those before it have left the window, and nothing is in flight any more."""
        left = bytes_of([message for _, message in self._numbered_others(self.confirmed, number)])
        self._unsent_bytes += self.in_flight_bytes - left
        self.writes.clear()
        self.in_flight = self.in_flight_bytes = 0
        self.since_ping, self._before_ping = False, None
        self.position = self._behind_own(number)
        self._move_confirmed()

    def _blamed_by(self, disconnection: Disconnection, tries: Tries, *, alone: bool) -> str | None:
        """Return why a message that was in flight is undelivered by rule 7; None if it is not."""
        code = disconnection.code if disconnection.cause is Cause.CLOSED else None
        if alone and code == TOO_BIG:
            return "the peer closed with 1009: the message is too big for it"
        suspected = alone and self._proved and not self._outlived
        if not suspected or disconnection.cause not in BLAMING or code in CAUSE_OF_ITS_OWN:
            tries.blamed = 0
            return None
        tries.blamed += 1
        if tries.blamed < BLAMES or self._retry.retries is not None:
            return None
        return f"the message ended the connection {BLAMES} times in a row ({disconnection.detail})"

    def _exhausted_by(self, disconnection: Disconnection, tries: Tries) -> str | None:
        """Return why a message may not be tried again; None if it may."""
        retries = self._retry.retries
        if retries is None or tries.sends + tries.asked <= retries:
            return None
        asked = f" and waited for on {connections(tries.asked)} more" if tries.asked else ""
        silence = self.silence if tries.asked or disconnection.cause in BY_SILENCE else None
        why = f"; {silence}" if silence else ""
        if tries.blamed >= BLAMES:
            why = f"; it alone was in flight when the connection ended, {tries.blamed} times in a row ({disconnection.detail})"
        times = f"{tries.sends} time{'' if tries.sends == 1 else 's'}"
        return f"sent {times}{asked} without a confirmation, retry.retries allows no more{why}"

    @property
    def silence(self) -> str | None:
        """A report of the confirmation that the peer never sent, with advice; None if it sent one or was not asked."""
        delivery = self._log.delivery
        if delivery.level is DeliveryLevel.RECEIVED and self._pinged and not self._answered:
            strange = (
                " (pongs came, but empty or otherwise without the ping's payload: RFC 6455 section 5.5.3)"
                if self._strange_pongs
                else ""
            )
            return (
                f"no ping was ever answered by this peer{strange}; "
                "for servers that answer none there is delivery.level: written, "
                "and heartbeat: none if they send nothing either"
            )
        if delivery.level is DeliveryLevel.ACKED and (self.in_flight or self._tries) and not self._acked:
            return (
                f"nothing was ever acknowledged by this peer (delivery.ack-pointer is {delivery.ack_pointer!r}); "
                "for servers that acknowledge nothing there is delivery.level: received"
            )
        return None

    # -- time ---------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """The time at which the connection is stalled (rule 5); None if there is nothing to wait for."""
        if self._probing and self._connected and not self._paused:
            return max(self._opened, self._resumed_at) + self._log.timeout
        return super().deadline


def bytes_of(messages: Sequence[Message]) -> int:
    """Return the bytes of the messages' payloads."""
    return sum([len(message.payload) for message in messages])


def connections(count: int) -> str:
    """Return the words for so many connections."""
    return f"{count} connection{'' if count == 1 else 's'}"
