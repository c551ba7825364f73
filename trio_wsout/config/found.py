"""How errors name what was found in a document: short, and never a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trio_wsout.config.secret import MASK

if TYPE_CHECKING:
    from trio_wsout.config.kinds import Kind

__all__ = ["shown", "type_name"]

_SHOWN = 60
"""Characters of a value that an error shows."""


def shown(value: object, kind: Kind) -> str:
    """Return a value as an error shows it: cut off, hidden if its kind is secret or it may hold credentials."""
    if kind.secret:
        return MASK
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return type_name(value)
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return f"a number of more than {_SHOWN} digits"
    text = repr(value)
    if isinstance(value, str) and "@" in value:
        return "a text with @ in it"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def type_name(value: object) -> str:
    """Return in words what kind of value a document holds."""
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
