"""Values that people write without quotes and mean as texts: ``state-id: 7``, ``X: 1.10`` (SPEC 1).

A file's number keeps the text that it was written as, so that a field that holds a text takes it as it stands.
"""

from __future__ import annotations

import json
import math
from datetime import date, time
from typing import Any

__all__ = ["BareFloat", "BareInt", "as_text", "bare_float", "bare_int", "read_json_value"]

_MOST_DIGITS = 1000
"""Of a number that was written nowhere, no more are made into a text."""


class BareInt(int):
    """A whole number, and how it was written."""

    written: str


class BareFloat(float):
    """A number, and how it was written."""

    written: str


def bare_int(written: str, value: int | None = None) -> BareInt:
    """Return a whole number that knows its text; `value` where Python reads that text in another way."""
    found = BareInt(written) if value is None else BareInt(value)
    found.written = written
    return found


def bare_float(written: str, value: float | None = None) -> BareFloat:
    """Return a number that knows its text; `value` where Python reads that text in another way."""
    found = BareFloat(written) if value is None else BareFloat(value)
    found.written = written
    return found


def read_json_value(text: str, **options: Any) -> Any:  # noqa: ANN401 - JSON
    """Parse JSON whose numbers know their text; raises as `json.loads` does."""
    return json.loads(text, parse_int=bare_int, parse_float=bare_float, **options)


def as_text(value: object) -> str | None:
    """Return a value as a text field takes it: a text, or what is written without quotes; None if it is neither."""
    match value:
        case str() | BareInt() | BareFloat():
            return value if isinstance(value, str) else value.written
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
