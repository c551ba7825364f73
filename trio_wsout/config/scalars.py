"""Single values of a document: their spelling, their text, and the form in which errors show them (SPEC 1).

A number in a file keeps its spelling, so that a field that holds a text takes ``state-id: 010`` or
``X-Version: 1.10`` as it stands there.
"""

import json
import math
from collections.abc import Mapping
from datetime import date, time
from typing import Any, Self

from trio_wsout.config.secret import REDACTED

_MOST_DIGITS = 1000
"""A whole number made in Python with more digits is not converted into a text."""
_SHOWN = 60
"""Characters of a value that an error shows."""


class SpelledInt(int):
    """A whole number that knows how it was spelled."""

    spelling: str

    def __new__(cls, spelling: str, value: int | None = None) -> Self:
        """Make a number from its spelling; `value` is needed where Python does not read the spelling as meant."""
        number = super().__new__(cls, spelling if value is None else value)
        number.spelling = spelling
        return number


class SpelledFloat(float):
    """A number that knows how it was spelled."""

    spelling: str

    def __new__(cls, spelling: str, value: float | None = None) -> Self:
        """Make a number from its spelling; `value` is needed where Python does not read the spelling as meant."""
        number = super().__new__(cls, spelling if value is None else value)
        number.spelling = spelling
        return number


def read_json_value(text: str, **options: Any) -> Any:  # noqa: ANN401 - JSON
    """Parse JSON whose numbers know their spelling. Raises as `json.loads` does."""
    return json.loads(text, parse_int=SpelledInt, parse_float=SpelledFloat, **options)


def as_text(value: object) -> str | None:
    """Return the text that a scalar stands for: a text itself, or a number, boolean or date as it was written.

    None if the value is no scalar.
    """
    match value:
        case str():
            return value
        case SpelledInt() | SpelledFloat():
            return value.spelling
        case bool():
            return str(value).lower()
        case int() if abs(value) < 10**_MOST_DIGITS:
            return str(value)
        case float() if math.isfinite(value):
            return repr(float(value))
        case date() | time():
            return value.isoformat()
        case _:
            return None


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: half of a surrogate pair can't (RFC 3629 section 3)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_unicode(text: str) -> str:
    """Return a text that can be encoded. Raise ValueError if it holds half of a surrogate pair."""
    if not is_unicode(text):
        raise ValueError("holds half of a surrogate pair, which is no character")
    return text


def shown(value: object, *, secret: bool) -> str:
    """Return a value as an error shows it: cut off, and redacted if it is secret or may hold credentials."""
    if secret:
        return REDACTED
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return type_name(value)
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return f"a number of more than {_SHOWN} digits"
    if isinstance(value, str) and "@" in value:
        return "a text with @ in it"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def type_name(value: object) -> str:
    """Return the type of a document's value in words."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return str(value).lower()
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return type(value).__name__
