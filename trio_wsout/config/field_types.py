"""The kinds of values that fields hold: how each is read, written back and described to an editor.

A field's annotation names its kind: ``timeout: Annotated[float, duration(above=0)]``. `loading`
reads with `FieldType.parse`, `dumping` writes with `FieldType.write`, `json_schema` prints `FieldType.schema`:
so one place says what is allowed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from attrs import Factory, field, frozen

from trio_wsout.config import addresses, event_paths, quantities, scalars
from trio_wsout.config.http_grammar import (
    BEARER_ALLOWED,
    HAS_CONTROL,
    has_control,
    is_bearer,
    is_header_value,
    is_reserved_header,
    is_token,
)
from trio_wsout.config.secret import Secret
from trio_wsout.config.templates import Template, no_value, parse_url_template

__all__ = [
    "BATCH_LINE",
    "BEARER",
    "BIND",
    "CHARACTERS",
    "CODES",
    "CURSOR_STORE",
    "DOTTED",
    "FLAG",
    "HEADER",
    "HEADER_NAME",
    "HISTORY_STORE",
    "NAME",
    "ORIGIN",
    "PARAMETER",
    "PATH",
    "PING",
    "PLACE",
    "POINTER",
    "PROXY",
    "SECRET_HEADER",
    "SECRET_TEMPLATE",
    "SECRET_TEXT",
    "SECRET_VALUE",
    "SHOWN_BEARER",
    "SHOWN_PASSWORD",
    "STATE_ID",
    "TEXT",
    "TOKEN",
    "URL",
    "USER",
    "USERNAME",
    "VALUE",
    "FieldType",
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
class FieldType:
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
    examples: tuple[object, ...] = ()
    """For editors."""
    words: str = field(
        default=Factory(lambda self: "templated text" if self.templated else "text", takes_self=True)
    )
    """What it is, for tables of fields."""

    @property
    def is_text(self) -> bool:
        """Whether what it reads is a text, whatever that was written as."""
        return self.schema.get("type") in ("string", _BARE["type"])


def _text(value: object) -> str:
    text = scalars.as_text(value)
    if text is None:
        message = "expected a text"
        raise ValueError(message)
    return text


def _characters(value: object) -> str:
    return scalars.parse_unicode(_text(value))


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
    text = _text(_revealed(value))
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


def _of(allowed: Callable[[str], bool], message: str, parse: Callable[[object], str] = _text) -> Parse:
    """Return a parser of texts that pass a check; it raises ValueError with the message otherwise."""

    def read(value: object) -> str:
        text = parse(value)
        if not allowed(text):
            raise ValueError(message)
        return text

    return read


def _static(allowed: Callable[[str], bool]) -> Callable[[str], bool]:
    """Judge what a template is always expanded to; what differs is judged when it is known."""

    def judged(text: str) -> bool:
        template = Template.parse(text)
        return not template.is_static or allowed(template.expand(no_value))

    return judged


def _header_name(value: object) -> str:
    name = _text(value)
    message = ""
    if not is_token(name):
        message = "is not a valid header name (RFC 9110 section 5.1)"
    elif name.lower() == "sec-websocket-protocol":
        message = "can't be set; subprotocols has its own field"
    elif is_reserved_header(name):
        message = "belongs to the handshake itself and can't be set"
    if message:
        raise ValueError(message)
    return name


def _history_store(value: object) -> str:
    text = _place(value)
    if text == "sqlite:":
        message = "names no place; write sqlite:PATH"
        raise ValueError(message)
    if text != "memory:" and not text.startswith("sqlite:"):
        message = "expected memory: or sqlite:PATH (redis is not available in this version)"
        raise ValueError(message)
    return text


def _cursor_store(value: object) -> str:
    text = _place(value)
    if text == "sqlite:":
        message = "names no place; write sqlite:PATH"
        raise ValueError(message)
    if text.startswith(("redis:", "rediss:")):
        message = "redis is not available in this version; use a path or sqlite:PATH"
        raise ValueError(message)
    return text


_BARE = {"type": ["string", "number", "boolean"]}
"""A text, or what is written without quotes and taken as it stands."""
_TEMPLATE_SCHEMA = {**_BARE, "format": "trio-wsout-template"}
_PLACE_SCHEMA = {**_BARE, "minLength": 1, "pattern": r"^[^\u0000]*$"}
_MOST_PING = 125
_LONGEST_STATE_ID = 200

TEXT = FieldType(parse=_text, schema=_BARE)
CHARACTERS = FieldType(parse=_characters, schema=_BARE)
"""A text that bytes can say."""
PLACE = FieldType(parse=_place, schema=_PLACE_SCHEMA)
BATCH_LINE = FieldType(
    parse=_batch_line,
    schema={**_BARE, "format": "trio-wsout-batch-template"},
    templated=True,
    words="templated text of a batch",
)
"""Header or footer of a batch, which knows more sources."""
_header = _of(_static(is_header_value), HAS_CONTROL, _template)
HEADER = FieldType(
    parse=_header, schema={**_BARE, "format": "trio-wsout-header"}, templated=True, secret=True
)
"""A header's value: shown where it is configured and not sensitive, but never in an error."""


def _revealed(value: object) -> object:
    """A Config that is made in Python has a Secret there already."""
    return value.reveal() if isinstance(value, Secret) else value


def _secret(
    parse: Callable[[object], str], schema: Mapping[str, object], *, templated: bool = False
) -> FieldType:
    return FieldType(
        parse=lambda value: Secret(parse(_revealed(value))),
        schema=schema,
        write=lambda value: value.reveal(),
        secret=True,
        templated=templated,
    )


_value = _of(_static(lambda text: not has_control(text)), HAS_CONTROL, _template)
VALUE = FieldType(parse=_value, schema={**_BARE, "format": "trio-wsout-value"}, templated=True, secret=True)
"""A value in a query: shown where it is configured, but never in an error."""
SECRET_TEXT = _secret(_text, _BARE)
SECRET_VALUE = _secret(_value, VALUE.schema, templated=True)
SECRET_TEMPLATE = _secret(_template, _TEMPLATE_SCHEMA, templated=True)
SECRET_HEADER = _secret(_header, HEADER.schema, templated=True)
BEARER = _secret(
    _of(_static(is_bearer), f"must be {BEARER_ALLOWED}", _template),
    {**_BARE, "format": "trio-wsout-bearer"},
    templated=True,
)
SHOWN_BEARER = _secret(
    _of(_static(is_bearer), f"must be {BEARER_ALLOWED}; an empty one would admit anybody", _template),
    BEARER.schema,
    templated=True,
)
"""A token that a peer shows."""
SHOWN_PASSWORD = _secret(
    _of(
        _static(lambda text: text != "" and is_header_value(text)),
        "must have no control characters, and may not be empty, which would admit anybody",
        _template,
    ),
    {**_BARE, "minLength": 1, "format": "trio-wsout-password"},
    templated=True,
)
"""A password that a peer shows."""
USER = FieldType(
    parse=_of(
        lambda name: name != "" and ":" not in name and is_header_value(name),
        "is no user name: it is empty, or holds a colon or a control character",
    ),
    schema={"type": "string", "minLength": 1, "format": "trio-wsout-user"},
)
"""The name of a user, as a key of a table."""
PARAMETER = FieldType(
    parse=_of(lambda name: name != "", "is empty; name the parameter, for example since"),
    schema={**_BARE, "minLength": 1},
)
"""The name of a query parameter."""
USERNAME = FieldType(
    parse=_of(
        _static(lambda name: ":" not in name),
        "holds a colon, which a user name can't (RFC 7617)",
        _value,
    ),
    schema={**_BARE, "format": "trio-wsout-username"},
    templated=True,
    secret=True,
)
"""A user name: shown where it is configured, but never in an error."""
HEADER_NAME = FieldType(
    parse=_header_name,
    schema={**_BARE, "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", "format": "trio-wsout-header-name"},
)
NAME = FieldType(parse=_text, schema={"type": "string"})
"""A key of a table."""
TOKEN = FieldType(
    parse=_of(is_token, "is not a valid subprotocol name (RFC 6455 section 4.1)"),
    schema={**_BARE, "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"},
)
PING = FieldType(
    parse=_of(
        lambda text: len(text.encode()) <= _MOST_PING,
        f"has more than {_MOST_PING} bytes, the most of a ping",
        _characters,
    ),
    schema={**_BARE, "maxLength": _MOST_PING, "format": "trio-wsout-ping"},
)
HISTORY_STORE = FieldType(parse=_history_store, schema={**_BARE, "pattern": r"^(memory:|sqlite:[^\u0000]+)$"})
CURSOR_STORE = FieldType(
    parse=_cursor_store,
    schema={**_PLACE_SCHEMA, "pattern": r"^(?!rediss?:|sqlite:$)[^\u0000]+$"},
)
STATE_ID = FieldType(
    parse=_of(
        lambda text: 0 < len(text) <= _LONGEST_STATE_ID and text.isprintable(),
        f"must have 1 to {_LONGEST_STATE_ID} characters, none of them a control character",
    ),
    schema={**_BARE, "minLength": 1, "maxLength": _LONGEST_STATE_ID, "format": "trio-wsout-state-id"},
)
FLAG = FieldType(parse=_flag, schema={"type": "boolean"}, words="true or false")


def _checked(
    parse: Callable[[str], object],
    name: str,
    pattern: str,
    *examples: str,
    words: str,
    keep: bool = True,
    templated: bool = False,
) -> FieldType:
    """A text that a parser accepts; the field holds the text itself, or what the parser gives.

    What `pattern` refuses, the parser refuses; the parser alone knows the rest.
    """

    def read(value: object) -> object:
        text = _text(value)
        parsed = parse(text)
        return text if keep else parsed

    schema = {"type": "string", "format": f"trio-wsout-{name}", "pattern": pattern}
    return FieldType(parse=read, schema=schema, examples=examples, words=words, templated=templated)


def choice(enum: type[StrEnum]) -> FieldType:
    """One of an enumeration's values."""
    allowed = [member.value for member in enum]

    def read(value: object) -> object:
        if not isinstance(value, str) or value not in allowed:
            message = f"expected one of {', '.join(allowed)}"
            raise ValueError(message)
        return enum(value)

    words = " · ".join(f"`{each}`" for each in allowed)
    return FieldType(parse=read, schema={"enum": allowed}, write=lambda value: value.value, words=words)


def count(at_least: int, at_most: int | None = None) -> FieldType:
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

    schema = {"type": "integer", "minimum": at_least, "maximum": most}
    return FieldType(parse=read, schema=schema, words=f"whole number{_range(at_least, at_most)}")


def _range(at_least: float, at_most: float | None) -> str:
    return f" ≥ {at_least:g}" if at_most is None else f", {at_least:g} to {at_most:g}"


def number(at_least: float, at_most: float | None = None) -> FieldType:
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
    return FieldType(
        parse=read,
        schema={**schema, "maximum": sys.float_info.max if at_most is None else at_most},
        words=f"number{_range(at_least, at_most)}",
    )


def duration(*, positive: bool = True) -> FieldType:
    """Seconds, written as a text such as 1m30s or as a number."""

    def read(value: object) -> float:
        seconds = quantities.parse_duration(value)
        if positive and seconds == 0:
            message = "must be longer than 0"
            raise ValueError(message)
        return seconds

    name = "trio-wsout-positive-duration" if positive else "trio-wsout-duration"
    schema = {"type": ["string", "number"], "minimum": 0, "pattern": quantities.DURATION, "format": name}
    if positive:
        schema = {**schema, "exclusiveMinimum": 0}
    return FieldType(
        parse=read,
        schema=schema,
        write=quantities.format_duration,
        examples=("500ms", "1m 30s", "2 hours"),
        words=f"duration{' > 0' if positive else ''}",
    )


def size(at_least: int = 1) -> FieldType:
    """Bytes, written as a number or as a text such as 64KiB."""

    def read(value: object) -> int:
        found = quantities.parse_size(value)
        if found < at_least:
            message = f"must be {at_least} byte or more"
            raise ValueError(message)
        return found

    schema = {
        "type": ["string", "integer"],
        "minimum": at_least,
        "pattern": quantities.SIZE,
        "format": "trio-wsout-size",
    }
    return FieldType(
        parse=read, schema=schema, write=quantities.format_size, examples=("64KiB", "8MiB"), words="size"
    )


PROXY = FieldType(
    parse=_proxy,
    schema={"type": "string", "pattern": "^none$|://", "format": "trio-wsout-proxy"},
    write=lambda value: value.reveal(),
    secret=True,
    examples=("http://proxy.example.com:3128", "none"),
    words="proxy URL, or `none`",
)
URL = _checked(
    parse_url_template,
    "url",
    r"^[A-Za-z]+://[^\s#]+$|\$\{",
    "wss://example.com/events",
    words="URL",
    keep=False,
    templated=True,
)
BIND = _checked(
    addresses.parse_bind, "bind", r"^unix:.|:[0-9]+$", "0.0.0.0:8080", "unix:/run/app.sock", words="address"
)
ORIGIN = _checked(
    addresses.parse_allowed_origin, "origin", r"^\*$|://", "https://example.com", words="origin, or `*`"
)
PATH = _checked(addresses.parse_path, "path", r"^/[^?#\s]*$", "/events", words="path")
POINTER = _checked(
    event_paths.parse_pointer, "pointer", "^(/([^~]|~[01])*)?$", "/data/id", words="JSON pointer"
)
DOTTED = FieldType(
    parse=_of(lambda text: bool(event_paths.parse_dotted(text)), ""),
    schema={**_BARE, "pattern": r"^[^.]+(\.[^.]+)*$"},
    examples=("data.id",),
    words="dotted path",
)
CODES = FieldType(
    parse=quantities.parse_codes,
    schema={
        "type": ["string", "integer"],
        "minimum": 1000,
        "maximum": 4999,
        "pattern": "^[1-4][0-9]{3}(-[1-4][0-9]{3})?$",
        "format": "trio-wsout-close-codes",
    },
    write=quantities.format_codes,
    examples=(4001, "4500-4999"),
    words="close code or range",
)
