"""Says of a whole run what became of its events: lost, invented, damaged, out of order, too often. Pure.

Every event carries who it is: its run, its number in that run, and padding that follows from both, with a
checksum over all. Each run has one source, which sends the numbers 0, 1, 2, …
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

__all__ = ["Identity", "Verdict", "check", "event", "identify"]

Identity = tuple[str, int]
"""Run and number."""


def event(run: str, number: int, size: int = 100) -> dict[str, Any]:
    """An event that can be known again, and whose damage shows; `size` letters of padding."""
    mark = f"{run}/{number};"
    pad = (mark * (1 + size // len(mark)))[:size]
    return {"run": run, "n": number, "pad": pad, "sum": _checksum(run, number, pad)}


def identify(message: str | bytes) -> Identity | None:
    """Who a message is; None: it is damaged, or none of ours. What others added to the event is let be."""
    try:
        read = json.loads(message)
        run, number, pad = read["run"], read["n"], read["pad"]
        if read["sum"] == _checksum(run, number, pad) and type(number) is int:
            return run, number
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return None


def _checksum(run: str, number: int, pad: str) -> int:
    return zlib.crc32(f"{run} {number} {pad}".encode())


@frozen(kw_only=True)
class Verdict:
    """What a check found. Events are in the order in which they were sent, or arrived."""

    sent: int
    """How many events were sent."""
    lost: tuple[Identity, ...]
    """Confirmed, and never arrived."""
    forgotten: tuple[Identity, ...]
    """Sent, and neither reported as confirmed nor as undelivered."""
    contradicted: tuple[Identity, ...]
    """Reported as confirmed and as undelivered."""
    invented: tuple[Identity, ...]
    """Arrived, and never sent."""
    damaged: int
    """Messages that are no event of any run."""
    reordered: tuple[Identity, ...]
    """Arrived for the first time behind one of the same run that was sent later."""
    jumped: tuple[Identity, ...]
    """On one connection, of one run: not the next after the one before it that was delivered."""
    duplicates: int
    """Arrivals of events that had arrived before."""
    allowed: float
    """How many of them there may be."""
    missing_faults: Mapping[str, int] = field(factory=dict[str, int])
    """Faults that were to happen and did not, with how many."""

    @property
    def complaints(self) -> list[str]:
        """What is wrong, in words; empty: all is well."""
        found = {
            "lost": self.lost,
            "forgotten": self.forgotten,
            "confirmed and undelivered": self.contradicted,
            "invented": self.invented,
            "reordered": self.reordered,
            "out of turn on a connection": self.jumped,
        }
        words = [f"{len(which)} {what}, first {which[0]}" for what, which in found.items() if which]
        if self.damaged:
            words.append(f"{self.damaged} damaged")
        if self.duplicates > self.allowed:
            words.append(f"{self.duplicates} duplicates, {self.allowed} allowed")
        words += [f"{count} too few {name}" for name, count in self.missing_faults.items()]
        return words


def check(
    sent: Iterable[Identity],
    confirmed: Iterable[Identity],
    undelivered: Iterable[Identity],
    arrived: Sequence[Sequence[Identity | None]],
    *,
    window: float,
    cuts: int,
    direct: bool = True,
    faults: Mapping[str, int] | None = None,
    required: Mapping[str, int] | None = None,
) -> Verdict:
    """Check a run to one receiver.

    Args:
        sent: What was accepted, in order.
        confirmed: What was reported as confirmed.
        undelivered: What was reported as undelivered.
        arrived: What arrived on each connection, in order; None stands for what could not be identified.
        window: How many messages may be unconfirmed at a time.
        cuts: How many connections ended. Each may bring the window once more.
        direct: Whether nobody between source and receiver may repeat an event on one connection.
        faults: How many faults really happened, by name.
        required: How many there must have been.
    """
    sent = list(sent)
    sent_set, confirmed_set, undelivered_set = set(sent), set(confirmed), set(undelivered)
    whole = [one for connection in arrived for one in connection if one is not None]
    first = list(dict.fromkeys(whole))
    first_set = set(first)
    faults = faults or {}
    return Verdict(
        sent=len(sent),
        lost=tuple(one for one in sent if one in confirmed_set and one not in first_set),
        forgotten=tuple(one for one in sent if one not in confirmed_set and one not in undelivered_set),
        contradicted=tuple(one for one in sent if one in confirmed_set and one in undelivered_set),
        invented=tuple(one for one in first if one not in sent_set),
        damaged=sum(one is None for connection in arrived for one in connection),
        reordered=_reordered(first),
        jumped=tuple(one for connection in arrived for one in _jumped(connection, undelivered_set))
        if direct
        else (),
        duplicates=len(whole) - len(first),
        allowed=window * cuts,
        missing_faults={
            name: count - faults.get(name, 0)
            for name, count in (required or {}).items()
            if faults.get(name, 0) < count
        },
    )


def _reordered(first: Iterable[Identity]) -> tuple[Identity, ...]:
    highest: dict[str, int] = {}
    late: list[Identity] = []
    for run, number in first:
        if number < highest.get(run, number):
            late.append((run, number))
        highest[run] = max(number, highest.get(run, number))
    return tuple(late)


def _jumped(connection: Iterable[Identity | None], undelivered: AbstractSet[Identity]) -> Iterable[Identity]:
    """What does not follow the one of its run before it. The first of a connection may be any."""
    turn: dict[str, int] = {}
    for one in connection:
        if one is not None:
            run, number = one
            due = turn.get(run, number)
            while due < number and (run, due) in undelivered:
                due += 1
            if number != due:
                yield one
            turn[run] = number + 1
