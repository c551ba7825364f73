"""Acknowledgements: a peer's message that names the last event which its application took (SPEC 7).

Rules
-----
1. A message is an acknowledgement when it is JSON and `delivery.ack-pointer` finds something in it.
2. Where a cursor is configured, a string or number that equals the cursor value of an event in flight names that event; if
   there are several, the oldest, so that nothing is confirmed too early.
3. Otherwise a whole number is a sequence number, and a text ``epoch-seq`` names the event `seq` if that has this epoch.
4. An acknowledgement that names nothing in flight is counted and changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import orjson
from attrs import define, field

from trio_wsout._core.cursor import MISSING, pointer_value
from trio_wsout._core.message import Accepted
from trio_wsout.config.event_paths import parse_pointer

_DIGITS = 19
"""Most digits of a sequence number: 64 bits."""


def stamp_of(epoch: int, seq: int) -> str:
    """Return the ``epoch-seq`` text of an event."""
    return f"{epoch}-{seq}"


def position_in(stamp: str) -> tuple[int, int] | None:
    """Return epoch and number of a stamp; None if the text is none."""
    epoch, _, seq = stamp.rpartition("-")
    digits = epoch + seq
    if not (epoch and seq and digits.isascii() and digits.isdigit() and max(len(epoch), len(seq)) <= _DIGITS):
        return None
    named = int(epoch), int(seq)
    return named if stamp_of(*named) == stamp else None


@define(eq=False)
class Epochs:
    """The epochs in the stamps of one output: there is one, but where several outputs share a log."""

    _begun: deque[tuple[int, int]] = field(factory=lambda: deque[tuple[int, int]](maxlen=16), init=False)
    """The latest epochs, newest first, each with the number of the last event before it."""

    def begin(self, epoch: int, after: int) -> None:
        """Let all events behind the number `after` have this epoch."""
        while self._begun and self._begun[0][1] >= after:
            self._begun.popleft()
        self._begun.appendleft((epoch, after))

    def of(self, seq: int) -> int:
        """Return the epoch of an event, by its number."""
        return next((epoch for epoch, after in self._begun if seq > after), self._begun[-1][0])

    def stamp(self, seq: int) -> str:
        """Return the stamp of an event, by its number."""
        return stamp_of(self.of(seq), seq)


class AckReader:
    """Reads acknowledgements for one output."""

    def __init__(self, pointer: str, epochs: Epochs) -> None:
        """Read the values that `pointer` (RFC 6901) finds as cursors of events, or as numbers or stamps of these epochs."""
        self._tokens = parse_pointer(pointer)
        self._epochs = epochs

    def value_in(self, message: str | bytes) -> object:
        """Return the value that the pointer finds in a message; MISSING if the message is no acknowledgement."""
        try:
            document: object = orjson.loads(message)
        except orjson.JSONDecodeError:
            return MISSING
        return pointer_value(document, self._tokens)

    def seq_of(self, value: object, in_flight: Iterable[Accepted]) -> int | None:
        """Return the sequence number that `value` names; None if it names nothing in flight."""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        events = list(in_flight)
        named = str(value)
        for accepted in events:
            if accepted.cursor == named:
                return accepted.seq
        seq = self._plain_seq(value)
        known = seq is not None and bool(events) and events[0].seq <= seq <= events[-1].seq
        return seq if known else None

    def _plain_seq(self, value: str | float) -> int | None:
        if isinstance(value, int):
            return value
        epoch, seq = position_in(value) or (None, None) if isinstance(value, str) else (None, None)
        return seq if seq is not None and epoch == self._epochs.of(seq) else None
