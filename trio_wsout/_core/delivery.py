"""The send account of a link: unsent, in flight and confirmed messages, and those that are sent again (SPEC 7).

Rules
-----
1. Messages are written in the order in which they were accepted. Each connection begins with the unconfirmed ones, oldest
   first.
2. The window (unsent and in flight together) is bounded in messages and in bytes. One message always fits into an empty
   window.
3. Confirmed means, by level: ``written`` handed to the kernel; ``received`` the pong of a ping that was written after it on
   the same connection; ``acked`` named, or followed, by an acknowledgement.
4. A message leaves the window once, as confirmed or as undelivered.
5. A connection is stalled when a message was in flight on it for longer than `retry.timeout`, or when the first ping of rule
   8 was not answered for so long. The time in which this side did not read does not count. Where an answer is found late,
   the messages that it leaves in flight could not be asked for before: their time begins anew.
6. A try of a message is a connection that ended while it was in flight; or while it waited to be written again and the peer
   had not answered the ping of rule 8, which is written in its place. After 1 + `retry.retries` tries it is undelivered. So
   if no ping is ever answered, all that was in flight together is undelivered after 1 + `retry.retries` connections. If
   pings are answered and nothing is confirmed, only the oldest message is tried (rule 8), and then the next. A message that
   was never written has no tries.
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

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from attrs import define

from trio_wsout._core.disconnection import BY_SILENCE, Cause, Disconnection
from trio_wsout._core.message import Accepted, Message
from trio_wsout.config.sections import Delivery, DeliveryLevel, Retry

__all__ = ["DeliveryWindow"]

_TOO_BIG = 1009
_CAUSE_OF_ITS_OWN = frozenset({1001, 1012, 1013})
"""Close codes by which a peer goes away, restarts, or has too much to do (RFC 6455 section 7.4.1, and IANA's list)."""
_BLAMES = 3
_BLAMING = frozenset({Cause.CLOSED, Cause.LOST, Cause.PROTOCOL})


@define(eq=False)
class _Write:
    """Messages that were taken for one write and are not confirmed. So no message needs a time of its own."""

    begun: float
    """The time at which the writing began."""
    count: int
    """Messages."""
    size: int
    """Their bytes."""


@define(eq=False)
class _Tries:
    """The tries of a message on earlier connections. Few messages have one, so it is not part of the message."""

    sends: int = 0
    """Connections that ended while it was in flight."""
    asked: int = 0
    """Connections that ended while it waited behind a first ping that was not answered."""
    blamed: int = 0
    """The number of times in a row that it was to blame (rule 7)."""


class DeliveryWindow:
    """The bounded window of one link, through all of its connections."""

    resent: int
    """Messages whose writing began again, counted each time."""

    def __init__(self, delivery: Delivery, retry: Retry) -> None:
        """Make an empty window without a connection."""
        self._level = delivery.level
        self._ack_pointer = delivery.ack_pointer
        self._most = delivery.max_unconfirmed
        self._most_bytes = delivery.max_unconfirmed_bytes
        self._timeout = retry.timeout
        self._tries_allowed = None if retry.retries is None else retry.retries + 1
        self._unsent: deque[Message] = deque()
        self._in_flight: deque[Message] = deque()
        self._writes: deque[_Write] = deque()
        self._tries: dict[Message, _Tries] = {}
        self._again = 0
        self._bytes = 0
        self._connected = False
        self._opened = 0.0
        self._paused = False
        self._resumed_at = float("-inf")
        # Slow start (rule 8), and the messages that a pong confirms (rule 3).
        self._probing = False
        self._limit = self._most
        self._proved = False
        self._outlived = False
        self._since_ping = 0
        self._before_ping: int | None = None
        # Confirmations that the peer has ever sent (rule 9).
        self._pinged = False
        self._answered = False
        self._acked = False
        self._strange_pongs = False
        self.resent = 0

    # -- the window ------------------------------------------------------------------

    def __len__(self) -> int:
        """Return how many messages are unsent or in flight."""
        return len(self._unsent) + len(self._in_flight)

    @property
    def size(self) -> int:
        """Bytes of all messages in the window."""
        return self._bytes

    @property
    def in_flight(self) -> int:
        """The number of messages that are written on this connection and not confirmed."""
        return len(self._in_flight)

    def accept(self, message: Message) -> bool:
        """Put a message at the end of the window if it has room; return whether it had."""
        count = len(self._unsent) + len(self._in_flight)
        size = self._bytes + len(message.payload)
        if count and (count >= self._most or size > self._most_bytes):
            return False
        self._unsent.append(message)
        self._bytes = size
        return True

    def accept_many(self, messages: Sequence[Message]) -> int:
        """Put messages at the end, in order, as far as there is room; return their number."""
        count = len(self._unsent) + len(self._in_flight) + len(messages)
        size = self._bytes + sum([len(message.payload) for message in messages])
        if count <= self._most and size <= self._most_bytes:  # the common case: one check for all of them
            self._unsent.extend(messages)
            self._bytes = size
            return len(messages)
        return next(
            (index for index, message in enumerate(messages) if not self.accept(message)), len(messages)
        )

    def drain(self) -> list[Message]:
        """Empty the window for good, and return everything that was in it, in order."""
        left = [*self._in_flight, *self._unsent]
        self._in_flight.clear()
        self._unsent.clear()
        self._writes.clear()
        self._tries.clear()
        self._again = 0
        self._bytes = 0
        self._since_ping = 0
        self._before_ping = None  # the connection may still be open, and a pong come
        return left

    # -- one connection after the other -----------------------------------------------------------

    def connected(self, now: float) -> None:
        """Note that a new connection is open since `now`."""
        self._connected = True
        self._opened = now
        self._proved = self._outlived = False
        self._since_ping = 0
        self._before_ping = None

    @property
    def ready(self) -> bool:
        """Whether `take` would return something now."""
        return bool(
            self._unsent and self._connected and not self._probing and len(self._in_flight) < self._limit
        )

    def take(self, now: float, most_bytes: int) -> list[Message]:
        """Take the next messages to write in one go: none unless `ready`, else at least one and about `most_bytes`.

        All messages are taken if they have up to a quarter more: the few that remained would cost a write of their own.
        """
        if not self.ready:
            return []
        unsent = self._unsent
        room = self._limit - len(self._in_flight)
        count, size = len(unsent), self._bytes - sum([write.size for write in self._writes])
        if count <= room and size <= most_bytes + most_bytes // 4:  # the common case: no check of each
            taken = list(unsent)
            unsent.clear()
        else:
            size = count = 0
            for message in islice(unsent, room):
                size += len(message.payload)
                count += 1
                if size >= most_bytes:
                    break
            taken = [unsent.popleft() for _ in range(count)]
        self._in_flight.extend(taken)
        self._outlived = False
        self._writes.append(_Write(now, count, size))
        self._since_ping += count
        again = min(self._again, count)
        self._again -= again
        self.resent += again
        return taken

    def written(self) -> list[Message]:
        """Note that everything taken was handed to the kernel; return the messages that this confirms."""
        if self._level is not DeliveryLevel.WRITTEN:
            return []
        return self._confirm(len(self._in_flight))

    @property
    def wants_ping(self) -> bool:
        """Whether the answer to a ping written now would prove something new."""
        return self._connected and (
            self._probing
            or (
                self._since_ping > 0
                and (
                    self._level is DeliveryLevel.RECEIVED
                    or (self._level is DeliveryLevel.ACKED and len(self._tries) > 0)
                )
            )
        )

    def ping_taken(self) -> None:
        """Note that a ping goes out behind everything taken so far; it replaces any ping before it."""
        self._pinged = True
        self._before_ping = len(self._in_flight)
        self._since_ping = 0

    def pong_received(self, now: float) -> list[Message]:
        """Note that the outstanding ping was answered, as was found at `now`; return the messages that this confirms."""
        count, self._before_ping = self._before_ping, None
        if count is None:
            return []
        self._proved = self._answered = True
        self._probing = False
        if self._level is not DeliveryLevel.RECEIVED:
            self._outlived = 0 < count == len(self._in_flight)
            return []
        confirmed = self._confirm(count)
        deadline = self.deadline
        if deadline is not None and now >= deadline:
            self._resumed_at = now
        return confirmed

    def strange_pong_received(self) -> None:
        """Note that a pong came without the payload of the outstanding ping."""
        self._strange_pongs = True

    def acked(self, seq: int) -> list[Message]:
        """Note that the peer's application has every event up to `seq`; return the messages that this confirms (level acked)."""
        if self._level is not DeliveryLevel.ACKED:
            return []
        self._acked = self._proved = True
        count = 0
        for message in self._in_flight:
            if message.last_seq > seq:
                break
            count += 1
        return self._confirm(count)

    def events_in_flight(self) -> list[Accepted]:
        """Return the events that an acknowledgement may name, oldest first."""
        return [event for message in self._in_flight for event in message.events]

    def disconnected(self, disconnection: Disconnection) -> list[tuple[Message, str]]:
        """Note that the connection ended; return the messages that are undelivered now, each with its reason."""
        alone = len(self._in_flight) == 1
        asked = self._probing
        tried = list(self._in_flight)
        if asked:  # then nothing is in flight
            tried = [self._unsent.popleft() for _ in range(self._again)]
            self._again = 0
        undelivered: list[tuple[Message, str]] = []
        again: list[Message] = []
        for message in tried:
            tries = self._tries.setdefault(message, _Tries())
            blamed = None if asked else self._blamed_by(disconnection, tries, alone=alone)
            tries.asked += asked
            tries.sends += not asked
            reason = blamed or self._exhausted_by(disconnection, tries)
            if reason is None:
                again.append(message)
            else:
                del self._tries[message]
                self._bytes -= len(message.payload)
                undelivered.append((message, reason))
        self._in_flight.clear()
        self._writes.clear()
        self._unsent.extendleft(reversed(again))
        self._again += len(again)
        if tried and self._level is not DeliveryLevel.WRITTEN:
            self._probing = self._again > 0 and (self._answered or not self._acked)
            self._limit = 1 if self._again else self._most
        self._connected = False
        self._proved = False
        self._since_ping = 0
        self._before_ping = None
        return undelivered

    def _blamed_by(self, disconnection: Disconnection, tries: _Tries, *, alone: bool) -> str | None:
        """Return why a message that was in flight is undelivered by rule 7; None if it is not."""
        code = disconnection.code if disconnection.cause is Cause.CLOSED else None
        if alone and code == _TOO_BIG:
            return "the peer closed with 1009: the message is too big for it"
        suspected = alone and self._proved and not self._outlived
        if not suspected or disconnection.cause not in _BLAMING or code in _CAUSE_OF_ITS_OWN:
            tries.blamed = 0
            return None
        tries.blamed += 1
        if tries.blamed < _BLAMES or self._tries_allowed is not None:
            return None
        return f"the message ended the connection {_BLAMES} times in a row ({disconnection.detail})"

    def _exhausted_by(self, disconnection: Disconnection, tries: _Tries) -> str | None:
        """Return why a message may not be tried again; None if it may."""
        if self._tries_allowed is None or tries.sends + tries.asked < self._tries_allowed:
            return None
        asked = f" and waited for on {_connections(tries.asked)} more" if tries.asked else ""
        silence = self.silence if tries.asked or disconnection.cause in BY_SILENCE else None
        why = f"; {silence}" if silence else ""
        if tries.blamed >= _BLAMES:
            why = f"; it alone was in flight when the connection ended, {tries.blamed} times in a row ({disconnection.detail})"
        times = f"{tries.sends} time{'' if tries.sends == 1 else 's'}"
        return f"sent {times}{asked} without a confirmation, retry.retries allows no more{why}"

    @property
    def silence(self) -> str | None:
        """A report of the confirmation that the peer never sent, with advice; None if it sent one or was not asked."""
        if self._level is DeliveryLevel.RECEIVED and self._pinged and not self._answered:
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
        if self._level is DeliveryLevel.ACKED and (self._in_flight or self._tries) and not self._acked:
            return (
                f"nothing was ever acknowledged by this peer (delivery.ack-pointer is {self._ack_pointer!r}); "
                "for servers that acknowledge nothing there is delivery.level: received"
            )
        return None

    # -- time ---------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """The time at which the connection is stalled (rule 5); None if there is nothing to wait for."""
        if self._paused:
            return None
        if self._writes:
            since = self._writes[0].begun
        elif self._probing and self._connected:
            since = self._opened
        else:
            return None
        return max(since, self._resumed_at) + self._timeout

    def reading_paused(self) -> None:
        """Note that this side stopped reading, so that confirmations can't be seen."""
        self._paused = True

    def reading_resumed(self, now: float) -> None:
        """Note that this side reads again, or found that it had not run: time counts from `now`."""
        self._paused = False
        self._resumed_at = now

    # -- shared -------------------------------------------------------------------------------------

    def _confirm(self, count: int) -> list[Message]:
        in_flight = self._in_flight
        if count == len(in_flight):
            confirmed = list(in_flight)
            in_flight.clear()
        else:
            confirmed = [in_flight.popleft() for _ in range(count)]
        if confirmed:
            self._forget(confirmed)
            self._limit = min(self._limit * 2, self._most)
            if self._before_ping is not None:
                self._before_ping = max(0, self._before_ping - count)
        return confirmed

    def _forget(self, confirmed: list[Message]) -> None:
        """Remove confirmed messages from the account: whole writes, and maybe a part of the next one."""
        writes, rest = self._writes, len(confirmed)
        while rest and writes[0].count <= rest:
            write = writes.popleft()
            rest -= write.count
            self._bytes -= write.size
        if rest:
            size = sum([len(message.payload) for message in confirmed[-rest:]])
            writes[0].count -= rest
            writes[0].size -= size
            self._bytes -= size
        if self._tries:
            for message in confirmed:
                self._tries.pop(message, None)


def _connections(count: int) -> str:
    return f"{count} connection{'' if count == 1 else 's'}"
