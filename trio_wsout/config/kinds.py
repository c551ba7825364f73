"""The kinds of values that fields hold: how each is read, written back and described to an editor.

A field's annotation names its kind: ``timeout: Annotated[float, duration(above=0)]``. `loading`
reads with `Kind.parse`, `dumping` writes with `Kind.write`, `json_schema` prints `Kind.schema`:
so one place says what is allowed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from attrs import field, frozen

from trio_wsout.config import addresses, quantities
from trio_wsout.config.secret import Secret
from trio_wsout.config.templates import Template
from trio_wsout.config.url_template import parse_url_template

__all__ = [
    "BATCH_LINE",
    "BIND",
    "CHARACTERS",
    "CODES",
    "DOTTED",
    "FLAG",
    "HEADER",
    "ORIGIN",
    "PATH",
    "PLACE",
    "POINTER",
    "PROXY",
    "SECRET_TEMPLATE",
    "SECRET_TEXT",
    "TEMPLATE",
    "TEXT",
    "URL",
    "Kind",
    "choice",
    "count",
    "duration",
    "number",
    "size",
]

Parse = Callable[[Any], Any]
_MOST = 2**53
"""What every reader of JSON has exactly; nobody counts further."""


@frozen(kw_only=True, eq=False)
class Kind:
    """One kind of value."""

    parse: Parse
    """From what a document holds to the value; raises ValueError with what is allowed."""
    schema: Mapping[str, object]
    """JSON Schema of what `parse` accepts."""
    write: Callable[[Any], object] = field(default=lambda value: value)
    """From the value to what a document holds."""
    secret: bool = False
    """Whether the value is never shown, not even in an error."""
    templated: bool = False
    """Whether the text is a template of ``${…}``."""


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = "expected a text"
        raise ValueError(message)
    return value


def _characters(value: object) -> str:
    return quantities.parse_characters(_text(value))


def _place(value: object) -> str:
    text = _characters(value)
    if not text:
        message = "is empty; name a place"
        raise ValueError(message)
    if "\0" in text:
        message = "holds a NUL, which no path can"
        raise ValueError(message)
    return text


def _template(value: object) -> str:
    text = _text(value)
    Template.parse(text)
    return text


def _proxy(value: object) -> Secret:
    text = _text(value)
    addresses.parse_proxy(text)
    return Secret(text)


def _batch_line(value: object) -> str:
    text = _characters(value)
    Template.parse(text, of_batch=True)
    return text


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        message = "expected true or false"
        raise ValueError(message)
    return value


_TEMPLATE_SCHEMA = {"type": "string", "format": "trio-wsout-template"}

TEXT = Kind(parse=_text, schema={"type": "string"})
CHARACTERS = Kind(parse=_characters, schema={"type": "string"})
"""A text that bytes can say."""
PLACE = Kind(parse=_place, schema={"type": "string", "minLength": 1, "pattern": r"^[^\u0000]*$"})
TEMPLATE = Kind(parse=_template, schema=_TEMPLATE_SCHEMA, templated=True)
BATCH_LINE = Kind(
    parse=_batch_line, schema={"type": "string", "format": "trio-wsout-batch-template"}, templated=True
)
"""Header or footer of a batch, which knows more sources."""
HEADER = Kind(parse=_template, schema=_TEMPLATE_SCHEMA, templated=True, secret=True)
"""A header's value: shown where it is configured and not sensitive, but never in an error."""
SECRET_TEMPLATE = Kind(
    parse=lambda value: Secret(_template(value)),
    schema=_TEMPLATE_SCHEMA,
    write=lambda value: value.reveal(),
    secret=True,
    templated=True,
)
FLAG = Kind(parse=_flag, schema={"type": "boolean"})


def _checked(
    parse: Callable[[str], object], name: str, *, keep: bool = True, templated: bool = False
) -> Kind:
    """A text that a parser accepts; the field holds the text itself, or what the parser gives."""

    def read(value: object) -> object:
        text = _text(value)
        parsed = parse(text)
        return text if keep else parsed

    schema = {"type": "string", "format": f"trio-wsout-{name}"}
    return Kind(parse=read, schema=schema, templated=templated)


def choice(enum: type[StrEnum]) -> Kind:
    """One of an enumeration's values."""
    allowed = [member.value for member in enum]

    def read(value: object) -> object:
        if not isinstance(value, str) or value not in allowed:
            message = f"expected one of {', '.join(allowed)}"
            raise ValueError(message)
        return enum(value)

    return Kind(parse=read, schema={"enum": allowed}, write=lambda value: value.value)


def count(at_least: int, at_most: int | None = None) -> Kind:
    """A whole number within bounds; none is more than `_MOST`."""
    most = _MOST if at_most is None else at_most
    bounds = f"{at_least} or more" if at_most is None else f"{at_least} to {at_most}"
    message = f"expected a whole number, {bounds}"
    too_many = f"must be {most} or less" if at_most is None else message

    def read(value: object) -> int:
        # 5.0 is an integer in JSON Schema, and in YAML and JSON a matter of spelling.
        if isinstance(value, bool) or not (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        ):
            raise ValueError(message)
        if value < at_least or value > most:
            raise ValueError(message if value < at_least else too_many)
        return int(value)

    return Kind(parse=read, schema={"type": "integer", "minimum": at_least, "maximum": most})


def number(at_least: float, at_most: float | None = None) -> Kind:
    """A finite number within bounds, fractions allowed."""
    bounds = f"{at_least:g} or more" if at_most is None else f"{at_least:g} to {at_most:g}"
    message = f"expected a number, {bounds}"

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(message)
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not math.isfinite(found) or found < at_least or (at_most is not None and found > at_most):
            raise ValueError(message)
        return found

    schema: dict[str, object] = {"type": "number", "minimum": at_least}
    return Kind(parse=read, schema={**schema, "maximum": sys.float_info.max if at_most is None else at_most})


def duration(*, positive: bool = True) -> Kind:
    """Seconds, written as a text such as 1m30s or as a number."""

    def read(value: object) -> float:
        seconds = quantities.parse_duration(value)
        if positive and seconds == 0:
            message = "must be longer than 0"
            raise ValueError(message)
        return seconds

    name = "trio-wsout-positive-duration" if positive else "trio-wsout-duration"
    schema = {"type": ["string", "number"], "format": name}
    return Kind(parse=read, schema=schema, write=quantities.format_duration)


def size(at_least: int = 1) -> Kind:
    """Bytes, written as a number or as a text such as 64KiB."""

    def read(value: object) -> int:
        found = quantities.parse_size(value)
        if found < at_least:
            message = f"must be {at_least} byte or more"
            raise ValueError(message)
        return found

    schema = {"type": ["string", "integer"], "format": "trio-wsout-size"}
    return Kind(parse=read, schema=schema, write=quantities.format_size)


SECRET_TEXT = Kind(
    parse=lambda value: Secret(_text(value)),
    schema={"type": "string"},
    write=lambda value: value.reveal(),
    secret=True,
)
PROXY = Kind(
    parse=_proxy,
    schema={"type": "string", "format": "trio-wsout-proxy"},
    write=lambda value: value.reveal(),
    secret=True,
)
URL = _checked(parse_url_template, "url", keep=False, templated=True)
BIND = _checked(addresses.parse_bind, "bind")
ORIGIN = _checked(addresses.parse_allowed_origin, "origin")
PATH = _checked(addresses.parse_path, "path")
POINTER = _checked(quantities.parse_pointer, "pointer")
DOTTED = _checked(quantities.parse_dotted, "dotted-path")
CODES = Kind(
    parse=quantities.parse_codes,
    schema={"type": ["string", "integer"], "format": "trio-wsout-close-codes"},
    write=quantities.format_codes,
)
