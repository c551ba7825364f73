"""The cursor value of an event, and the key under which a cursor is kept (SPEC 9; RFC 6901)."""

# An event holds anything; what is inside of it has no type until it is looked at.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from attrs import frozen

from trio_wsout.config.quantities import parse_dotted, parse_pointer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout.config.sections import Cursor

__all__ = ["MISSING", "CursorReader", "default_state_id", "pointer_value", "value_text"]


@frozen
class _Missing:
    """What `pointer_value` gives where there is nothing; unlike None, which JSON has."""


MISSING: Final = _Missing()


def pointer_value(document: object, tokens: Sequence[str]) -> object:
    """What a parsed JSON pointer finds in a document; MISSING: nothing (RFC 6901 section 4)."""
    value = document
    for token in tokens:
        if isinstance(value, Mapping):
            value = value.get(token, MISSING)
        elif isinstance(value, list | tuple):
            value = _element(value, token)
        else:
            return MISSING
    return value


def _element(values: Sequence[object], token: str) -> object:
    """An array's element; its index is written without leading zeros."""
    index = token.isascii() and token.isdigit() and (token == "0" or token[0] != "0") and len(token) <= 18  # noqa: PLR2004, S105 - longer than any list
    return values[int(token)] if index and int(token) < len(values) else MISSING


def value_text(value: object) -> str | None:
    """A str or a number as cursor text; None: anything else, NaN and booleans among it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return repr(value) if not isinstance(value, float) or math.isfinite(value) else None


class CursorReader:
    """Reads the cursor value of events, by `value-field` or `value-pointer`.

    Both look into the event as the application gave it: an event that is str or bytes has no
    fields, also where it holds JSON.
    """

    def __init__(self, cursor: Cursor) -> None:
        """Read by what `cursor` configures; with neither field nor pointer no event has a value."""
        self._tokens: tuple[str, ...] | None = None
        if cursor.value_field is not None:
            self._tokens = parse_dotted(cursor.value_field)
        elif cursor.value_pointer is not None:
            self._tokens = parse_pointer(cursor.value_pointer)

    def value_of(self, event: object) -> str | None:
        """The event's cursor value; None: it has none."""
        if self._tokens is None:
            return None
        return value_text(pointer_value(event, self._tokens))


def default_state_id(url: str) -> str:
    """The key of a cursor without `state-id`: a hash of the URL up to its path, without the query."""
    parts = urlsplit(url)
    place = f"{parts.scheme}://{parts.netloc.lower()}{parts.path or '/'}"
    return hashlib.sha256(place.encode("utf-8", "surrogatepass")).hexdigest()[:32]
