"""Types of fields, which read a value from a document, write it back, and describe it to an editor (SPEC 1).

Each public name in CamelCase annotates a field, as in ``timeout: Duration = 10.0``, and carries a `FieldType`, which
`field_type_of` finds. `loading` reads with it, `dumping` writes with it, and `json_schema` prints it.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, get_args, get_origin

from attrs import Attribute, evolve, field, fields, frozen, has

from trio_wsout.config import addresses, event_paths, quantities
from trio_wsout.config.http_grammar import (
    BEARER_ALLOWED,
    HAS_CONTROL,
    TOKEN,
    has_control,
    is_bearer,
    is_header_value,
    is_reserved_header,
    is_token,
)
from trio_wsout.config.redis_url import REDIS_SCHEME, check_redis_url
from trio_wsout.config.scalars import as_text, parse_unicode
from trio_wsout.config.secret import Secret
from trio_wsout.config.templates import Template, no_value, parse_url_template


@frozen(kw_only=True, eq=False)
class FieldType:
    """The type of a field's value."""

    parse: Callable[[Any], Any]
    """Returns the value for the one in a document; raises ValueError, which names the allowed values."""
    schema: Mapping[str, object]
    """JSON Schema of the values that `parse` accepts."""
    words: str
    """The type in words, for tables of fields."""
    write: Callable[[Any], object] = field(default=lambda value: value)
    """Returns the value in the form that it has in a document."""
    secret: bool = False
    """Whether no error shows the value."""
    templated: bool = False
    """Whether the text is a template of ``${…}``."""
    element: Any = None
    """Annotation of the elements of a list that may stand in place of a value; None if no list may. The value is a tuple
    then, or the only one of them."""
    examples: tuple[object, ...] = ()
    """Values that editors offer."""

    @property
    def is_text(self) -> bool:
        """Whether the value is a text, which a document may also write as a number or boolean."""
        return self.schema.get("type") in ("string", _SCALAR["type"])


# -- texts ----------------------------------------------------------------------------------------------------------

_Check = Callable[[str], object]
"""Raises ValueError where a text is not allowed."""
_SCALAR = {"type": ["string", "number", "boolean"]}
"""A text; a number or boolean that is written without quotes counts as a text with its spelling."""
_STRING = {"type": "string"}


def _text(
    *checks: _Check,
    schema: Mapping[str, object] = _SCALAR,
    parse: Callable[[str], str] = str,
    templated: bool = False,
    secret: bool = False,
    examples: tuple[object, ...] = (),
    words: str = "",
) -> FieldType:
    """Return a type of texts that pass all checks; `parse` makes the value of such a text."""

    def read(value: object) -> str:
        text = as_text(value)
        if text is None:
            raise ValueError("expected a text")
        for check in checks:
            check(text)
        return parse(text)

    return FieldType(
        parse=read,
        schema=schema,
        secret=secret,
        templated=templated,
        examples=examples,
        words=words or ("templated text" if templated else "text"),
    )


def _require(allowed: Callable[[str], bool], message: str) -> _Check:
    """Return a check that refuses with this message."""

    def check(text: str) -> None:
        if not allowed(text):
            raise ValueError(message)

    return check


def _template(allowed: Callable[[str], bool] | None = None, message: str = "") -> _Check:
    """Return a check that a text is a template, and allowed where it always expands to the same."""

    def check(text: str) -> None:
        template = Template.parse(text)
        if allowed is not None and template.is_static and not allowed(template.expand(no_value)):
            raise ValueError(message)

    return check


def _templated(
    name: str, allowed: Callable[[str], bool] | None = None, message: str = "", **schema: object
) -> FieldType:
    """Return a type of templates with a named format. Shown where it is configured, but never in an error."""
    check = _template(allowed, message)
    return _text(check, schema=_format(name, **schema), templated=True, secret=True)


def _parsed(name: str, pattern: str, parse: _Check, words: str, *examples: str) -> FieldType:
    """Return a type of texts that `parse` accepts. A text that `pattern` refuses is refused by `parse` as well."""
    return _text(parse, schema=_format(name, **_STRING, pattern=pattern), words=words, examples=examples)


def _secret(shown: FieldType) -> FieldType:
    """Return the type that reads the same texts and holds each as a `Secret`."""

    def read(value: object) -> Secret:
        # A Config that is made in Python holds a Secret already.
        return Secret(shown.parse(value.reveal() if isinstance(value, Secret) else value))

    return evolve(shown, parse=read, write=Secret.reveal, secret=True)


def _format(name: str, **more: object) -> dict[str, object]:
    """Return the schema of a text with a named format, which `json_schema.formats` checks."""
    return {**_SCALAR, **more, "format": f"trio-wsout-{name}"}


_FILE_PATH_SCHEMA = {**_SCALAR, "minLength": 1, "pattern": r"^[^\u0000]*$"}
_FILE_PATH_CHECKS = (
    parse_unicode,
    _require(bool, "is empty; write a path"),
    _require(lambda text: "\0" not in text, "holds a NUL, which no path can"),
)
_MOST_PING = 125
_LONGEST_STATE_ID = 200

_any_text = _text()
Text = Annotated[str, _any_text]
SecretText = Annotated[Secret, _secret(_any_text)]
UnicodeText = Annotated[str, _text(parse_unicode)]
"""A text that can be encoded."""
Name = Annotated[str, _text(schema=_STRING)]
"""A key of a table."""
FilePath = Annotated[str, _text(*_FILE_PATH_CHECKS, schema=_FILE_PATH_SCHEMA)]
_batch_line = _text(
    parse_unicode,
    lambda text: Template.parse(text, of_batch=True),
    schema=_format("batch-template"),
    templated=True,
    words="templated text of a batch",
)
BatchLine = Annotated[str, _batch_line]
"""A header or footer of a batch, whose templates know more sources."""
SecretTemplate = Annotated[Secret, _secret(_templated("template"))]
_ping_payload = _text(
    parse_unicode,
    _require(
        lambda text: len(text.encode()) <= _MOST_PING,
        f"has more than {_MOST_PING} bytes, the most of a ping",
    ),
    schema=_format("ping", maxLength=_MOST_PING),
)
PingPayload = Annotated[str, _ping_payload]
_state_id = _text(
    _require(
        lambda text: 0 < len(text) <= _LONGEST_STATE_ID and text.isprintable(),
        f"must have 1 to {_LONGEST_STATE_ID} characters, none of them a control character",
    ),
    schema=_format("state-id", minLength=1, maxLength=_LONGEST_STATE_ID),
)
StateId = Annotated[str, _state_id]
_pointer = _parsed("pointer", "^(/([^~]|~[01])*)?$", event_paths.parse_pointer, "JSON pointer", "/data/id")
JsonPointer = Annotated[str, _pointer]
_dotted_path = _text(
    event_paths.parse_dotted,
    schema={**_SCALAR, "pattern": r"^[^.]+(\.[^.]+)*$"},
    examples=("data.id",),
    words="dotted path",
)
DottedPath = Annotated[str, _dotted_path]

# -- stores ---------------------------------------------------------------------------------------------------------

_sqlite_path = _require(lambda text: text != "sqlite:", "names no file; write sqlite:PATH")


def _store(text: str) -> None:
    if REDIS_SCHEME.match(text) or text.startswith("${"):
        check_redis_url(text, stream=True)
    elif text != "memory:" and not text.startswith("sqlite:"):
        raise ValueError(
            "expected memory:, sqlite:PATH or redis://host:port/db?stream=NAME (rediss://, unix://)"
        )


_history_store = _text(
    *_FILE_PATH_CHECKS,
    _sqlite_path,
    _store,
    schema=_format(
        "history-store", **_STRING, pattern=r"^(memory:|sqlite:[^\u0000]+|(rediss?|unix)://.+|\$\{.+)$"
    ),
    examples=("memory:", "sqlite:history.db", "redis://localhost:6379/0?stream=events"),
    templated=True,
    secret=True,
    words="store",
)
HistoryStore = Annotated[str, _history_store]


def _persist_to(text: str) -> None:
    if REDIS_SCHEME.match(text):
        check_redis_url(text, stream=False)
    elif text.startswith(("redis:", "rediss:")):
        raise ValueError("expected redis://host:port/db; the URL lacks its slashes")


_cursor_store = _text(
    *_FILE_PATH_CHECKS,
    _sqlite_path,
    _persist_to,
    schema={**_FILE_PATH_SCHEMA, "format": "trio-wsout-cursor-store", "pattern": r"^(?!sqlite:$)[^\u0000]+$"},
    templated=True,
    secret=True,
    words="store",
)
CursorStore = Annotated[str, _cursor_store]

# -- handshakes -----------------------------------------------------------------------------------------------------


def _header_name(name: str) -> None:
    if not is_token(name):
        raise ValueError("is not a valid header name (RFC 9110 section 5.1)")
    if name.lower() == "sec-websocket-protocol":
        raise ValueError("can't be set; subprotocols has its own field")
    if is_reserved_header(name):
        raise ValueError("belongs to the handshake itself and can't be set")


HeaderName = Annotated[str, _text(_header_name, schema=_format("header-name", pattern=TOKEN))]
_header_value = _templated("header", is_header_value, HAS_CONTROL)
HeaderValue = Annotated[str, _header_value]
SecretHeaderValue = Annotated[Secret, _secret(_header_value)]
_value = _templated("value", lambda text: not has_control(text), HAS_CONTROL)
QueryValue = Annotated[str, _value]
SecretValue = Annotated[Secret, _secret(_value)]
_bearer = _templated("bearer", is_bearer, f"must be {BEARER_ALLOWED}, and not empty")
BearerToken = Annotated[Secret, _secret(_bearer)]
_peer_password = _templated(
    "password",
    lambda text: text != "" and is_header_value(text),
    "must have no control characters, and may not be empty, which would admit anybody",
    minLength=1,
)
PeerPassword = Annotated[Secret, _secret(_peer_password)]
"""A password that a peer must show."""
_username = _templated(
    "username",
    lambda name: ":" not in name and not has_control(name),
    "holds a colon or a control character, which a user name can't (RFC 7617)",
)
Username = Annotated[str, _username]
_user = _text(
    _require(
        lambda name: name != "" and ":" not in name and is_header_value(name),
        "is no user name: it is empty, or holds a colon or a control character",
    ),
    schema=_format("user", **_STRING, minLength=1),
)
User = Annotated[str, _user]
"""The name of a user, as a key of a table."""
_parameter = _require(bool, "is empty; name the parameter, for example since")
Parameter = Annotated[str, _text(_parameter, schema={**_SCALAR, "minLength": 1})]
"""The name of a query parameter."""
_subprotocol = _require(is_token, "is not a valid subprotocol name (RFC 6455 section 4.1)")
Subprotocol = Annotated[str, _text(_subprotocol, schema={**_SCALAR, "pattern": TOKEN})]

# -- addresses ------------------------------------------------------------------------------------------------------

_url = _text(
    parse=parse_url_template,
    schema=_format("url", **_STRING, pattern=r"^[A-Za-z]+://[^\s#]+$|\$\{"),
    examples=("wss://example.com/events",),
    words="URL",
    templated=True,
)
Url = Annotated[str, _url]
Urls = Annotated[str | tuple[str, ...], evolve(_url, element=Url, words="URL, or list of them")]
"""A URL, or several of which each is one to try."""
_proxies = ("http://proxy.example.com:3128", "none")
_proxy = _parsed("proxy", "^none$|://", addresses.parse_proxy, "proxy URL, or `none`", *_proxies)
Proxy = Annotated[Secret, _secret(_proxy)]
_binds = ("0.0.0.0:8080", "unix:/run/app.sock")
Bind = Annotated[str, _parsed("bind", r"^unix:.|:[0-9]+$", addresses.parse_bind, "address", *_binds)]
_origin = _parsed(
    "origin", r"^\*$|://", addresses.parse_allowed_origin, "origin, or `*`", "https://example.com"
)
Origin = Annotated[str, _origin]
UrlPath = Annotated[str, _parsed("path", r"^/[^?#\s]*$", addresses.parse_path, "path", "/events")]

# -- numbers, words, true and false -----------------------------------------------------------------------------------

_MOST = 2**53
"""The largest whole number that every reader of JSON has exactly."""


def _count(least: int) -> FieldType:
    """Return the type of whole numbers from `least` to `_MOST`."""

    def read(value: object) -> int:
        # 5.0 is a whole number in JSON Schema; in YAML and JSON it is another spelling of 5.
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or value < least:  # type: ignore[operator]
            raise ValueError(f"expected a whole number, {least} or more")
        if value > _MOST:  # type: ignore[operator]
            raise ValueError(f"must be {_MOST} or less")
        return int(value)  # type: ignore[call-overload,no-any-return]

    schema = {"type": "integer", "minimum": least, "maximum": _MOST}
    return FieldType(parse=read, schema=schema, words=f"whole number ≥ {least}")


def _number(least: float, most: float = sys.float_info.max) -> FieldType:
    """Return the type of finite numbers within bounds, fractions allowed."""
    bounded = most < sys.float_info.max
    bounds = f"{least:g} to {most:g}" if bounded else f"{least:g} or more"

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError(f"expected a number, {bounds}")
        return float(value)

    words = f"number, {bounds}" if bounded else f"number ≥ {least:g}"
    return FieldType(parse=read, schema={"type": "number", "minimum": least, "maximum": most}, words=words)


def _duration(*, zero: bool) -> FieldType:
    """Return the type of durations, which are seconds; `zero` is whether 0 is one of them."""

    def read(value: object) -> float:
        seconds = quantities.parse_duration(value)
        if not (seconds or zero):
            raise ValueError("must be longer than 0")
        return seconds

    schema = {"type": ["string", "number"], "minimum": 0, "pattern": quantities.DURATION}
    return FieldType(
        parse=read,
        schema={**schema, "format": "trio-wsout-duration"}
        if zero
        else {**schema, "format": "trio-wsout-positive-duration", "exclusiveMinimum": 0},
        write=quantities.format_duration,
        examples=("500ms", "1m 30s", "2 hours"),
        words="duration" if zero else "duration > 0",
    )


def _size(value: object) -> int:
    size = quantities.parse_size(value)
    if size == 0:
        raise ValueError("must be 1 byte or more")
    return size


def _choice(enum: type[StrEnum]) -> FieldType:
    """Return the type of an enumeration's values."""
    allowed = [member.value for member in enum]

    def read(value: object) -> object:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return enum(value)

    words = " · ".join(f"`{each}`" for each in allowed)
    return FieldType(parse=read, schema={"enum": allowed}, write=lambda value: value.value, words=words)


def _true_or_false(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


_FLAG = FieldType(parse=_true_or_false, schema={"type": "boolean"}, words="true or false")
Count = Annotated[int, _count(1)]
CountOrZero = Annotated[int, _count(0)]
Multiplier = Annotated[float, _number(1)]
Share = Annotated[float, _number(0, 1)]
Duration = Annotated[float, _duration(zero=False)]
"""Seconds, written as a text such as 1m30s or as a number."""
DurationOrZero = Annotated[float, _duration(zero=True)]
_bytes = FieldType(
    parse=_size,
    schema={
        "type": ["string", "integer"],
        "minimum": 1,
        "pattern": quantities.SIZE,
        "format": "trio-wsout-size",
    },
    write=quantities.format_size,
    examples=("64KiB", "8MiB"),
    words="size",
)
Size = Annotated[int, _bytes]
"""Bytes, written as a number or as a text such as 64KiB; one or more."""
_codes = FieldType(
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
CloseCodes = Annotated[tuple[int, int], _codes]
"""A range of close codes: its first and its last."""

# -- the fields of a section ------------------------------------------------------------------------------------------


def field_type_of(annotation: Any) -> FieldType | None:  # noqa: ANN401 - any annotation
    """Return the type that an annotation names; None if it is a section, a table, a list, or optional."""
    if get_origin(annotation) is Annotated:
        return next(each for each in get_args(annotation) if isinstance(each, FieldType))
    if annotation is bool:
        return _FLAG
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return _choice(annotation)
    return None


def without_none(annotation: Any) -> Any:  # noqa: ANN401 - any annotation
    """Return the annotation of an optional field's value; of any other field its own."""
    inside = get_args(annotation)
    return inside[0] if inside and inside[-1] is type(None) else annotation


def section_of(annotation: Any) -> Any:  # noqa: ANN401 - a class that attrs made
    """Return the section that a field with this annotation holds; None if it holds values."""
    inner = without_none(annotation)
    return inner if isinstance(inner, type) and has(inner) else None


def walk(section: Any, above: str = "") -> "Iterator[tuple[str, Any, Attribute[Any]]]":  # noqa: ANN401 - a class that attrs made
    """Yield each field of a section, and of those in it: its names joined by dots, its own section, and itself."""
    for each in fields(section):
        yield f"{above}{each.name}", section, each
        if (inner := section_of(each.type)) is not None:
            yield from walk(inner, f"{above}{each.name}.")


def kebab(name: object) -> str:
    """Return the name of a field, in either spelling, as documents have it: ``max-backoff`` for `max_backoff`, ``from`` for `from_`."""
    return str(name).removesuffix("_").replace("_", "-")
