"""Every exception that leaves this library, and the records that they carry (SPEC 12)."""

from collections.abc import Sequence
from typing import Any

from attrs import field, frozen

__all__ = [
    "ConfigError",
    "ConnectError",
    "CursorError",
    "DeliveryError",
    "EventError",
    "HistoryError",
    "OutputError",
    "Problem",
    "SpoolError",
    "Undelivered",
]

_LISTED = 5
"""Most reasons that a message spells out; it only counts the rest."""


def count(number: int, thing: str) -> str:
    """Return a number of things in words: "1 line", "2 lines"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


@frozen(kw_only=True)
class Problem:
    """One problem of a configuration."""

    path: str
    """The user's own key path, for example ``batch.fixed-size``; empty for the document as a whole."""
    reason: str
    """The fault, and the allowed values. Never holds a secret."""
    line: int | None = None
    """Line in the file, from 1. None if it is not known."""
    column: int | None = None
    """Column in the file, from 1. None if it is not known."""

    def __str__(self) -> str:
        position = "" if self.line is None else f"line {self.line}, column {self.column or 1}: "
        return f"{position}{self.path}: {self.reason}" if self.path else f"{position}{self.reason}"


@frozen(kw_only=True)
class Undelivered:
    """An accepted event that did not reach its delivery level."""

    event: Any = field(repr=False)
    """The event as it was passed to ``send``."""
    reason: str
    """The reason for which it was not delivered, in one sentence."""


class OutputError(Exception):
    """The base of all exceptions of this library, except `EventError`."""

    undelivered: tuple[Undelivered, ...]
    """The accepted events that were not confirmed, in order; often empty."""

    def __init__(self, message: str, *, undelivered: Sequence[Undelivered] = ()) -> None:
        super().__init__(message)
        self.undelivered = tuple(undelivered)

    def extend_message(self, more: str) -> None:
        """Append a fact that became known after the error was made. Only this library calls it."""
        self.args = (f"{self}; {more}",)


class ConfigError(OutputError, ValueError):
    """A configuration that can't be used; it has all of its problems."""

    problems: tuple[Problem, ...]
    """Every problem, in the order of the document."""

    def __init__(self, problems: Sequence[Problem], *, source: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        where = f"{source}: " if source else ""
        heading = f"{where}{count(len(self.problems), 'problem')} in the configuration"
        super().__init__("\n".join([heading, *(f"  {problem}" for problem in self.problems)]))


class ConnectError(OutputError):
    """The link could not be opened, or gave up."""

    attempts: int
    """The number of attempts in a row that failed."""
    cause: str
    """The reason for which the last attempt failed, in words."""

    def __init__(
        self, message: str, *, attempts: int, cause: str = "", undelivered: Sequence[Undelivered] = ()
    ) -> None:
        super().__init__(message, undelivered=undelivered)
        self.attempts = attempts
        self.cause = cause


class DeliveryError(OutputError):
    """Accepted events did not reach the configured delivery level; ``undelivered`` has them."""

    def __init__(self, message: str, *, undelivered: Sequence[Undelivered]) -> None:
        reasons = list(dict.fromkeys(item.reason for item in undelivered))
        more = f"; and {len(reasons) - _LISTED} other reasons" if len(reasons) > _LISTED else ""
        detail = f": {'; '.join(reasons[:_LISTED])}{more}" if reasons else ""
        super().__init__(f"{message}{detail}", undelivered=undelivered)


class CursorError(OutputError):
    """The stored cursor can't be read or written; the message names its store and what to do."""


class EventError(ValueError):
    """An event that ``send``, or another call that sends, refuses; the message names the path in the event, never a value of it.

    It is no `OutputError`: nothing is wrong with the output, which continues.
    """


class HistoryError(OutputError):
    """The history can't be read or written; the message names its store and what to do."""


class SpoolError(OutputError):
    """The spool can't be read or written, or is damaged; the message names it and what to do."""
