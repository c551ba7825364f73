"""What stands in a configuration where a field could not be read, so that every rule that does not need it runs."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

__all__ = ["MISSING", "UNKNOWN", "NeedsUnknownError", "Unknown", "known"]

_Value = TypeVar("_Value")


class NeedsUnknownError(Exception):
    """A rule asked for the value of a field that has none; what it found before still holds."""


class Unknown:
    """The value of a field that could not be read: it is not None, and whoever asks more of it is told to stop."""

    def _stop(self, *_: object) -> NoReturn:
        raise NeedsUnknownError

    # An attribute or method of any value that could stand here.
    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any section's fields
        self._stop()

    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __add__ = __radd__ = _stop
    __bool__ = __iter__ = __len__ = __hash__ = __float__ = _stop


UNKNOWN = Unknown()
"""The field is there, and wrong."""
MISSING = Unknown()
"""The field is not there, and required."""


def known(value: _Value) -> _Value:
    """Return a value that is handed to others, who would not stop at what is unknown.

    Raises:
        NeedsUnknownError: It is unknown.
    """
    if isinstance(value, Unknown):
        raise NeedsUnknownError
    return value
