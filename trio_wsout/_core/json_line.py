"""JSON as it was written: a line that goes on byte for byte, and is read only where its value is needed (SPEC 13).

A value that was read from JSON is not what was written: numbers are rounded to 64 bits, a key that stands twice is
there once, and blanks are gone. So an event of the command is a `JsonLine`, and so is what a relay stamps.
"""

# What JSON holds has no type until it is looked at.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["JsonLine", "is_object", "parse_json", "value_of_event", "with_entry", "write_json"]

BLANKS = b" \t\r\n"
"""White space between the tokens of JSON (RFC 8259 section 2)."""

_BEFORE_NOTHING = b"{ \t\r\n"
"""What stands before the end of an object that holds nothing."""
_loads = orjson.loads
_SIXTH = slice(5, None, 6)
"""Of 19 characters in a row it takes three at least, next to each other: most texts need no closer look."""
_DIGIT_OR_NOT = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))  # noqa: PLR2004 - "0" to "9", and a space
_FROM = 2**63
"""Floats from here on may have been written as integers over 64 bits."""
_DEEPEST = 500
"""Levels of brackets that are read by Python's own parser, where orjson refuses a text: fewer than its limits, which
differ by version."""
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_MOST_DIGITS = 4000
"""Digits of a whole number that Python reads; it refuses more than 4300."""


class JsonLine:
    """One JSON value as it was written, on one line."""

    __slots__ = ("text",)

    text: bytes
    """The JSON, without white space at its ends and without a line feed."""

    def __init__(self, text: bytes) -> None:
        """Take a JSON text of one line, already checked; `read` checks it."""
        self.text = text

    @classmethod
    def read(cls, line: bytes) -> JsonLine:
        """Check that a line is JSON, and take the white space off its ends.

        Raises:
            ValueError: It is not JSON, or its brackets are nested too deeply; the text says where.
        """
        text = line.strip(BLANKS)
        try:
            _loads(text)
        except orjson.JSONDecodeError as error:
            # orjson refuses numbers beyond a float's range and lone surrogates, which JSON allows.
            if not _is_json(text):
                raise ValueError(f"not JSON ({error.msg})") from None
        return cls(text)

    @classmethod
    def joined(cls, text: bytes) -> JsonLine:
        """A JSON text that may stand on several lines, already checked, as one line; tokens stay as they are."""
        text = text.strip(BLANKS)
        return cls(text.replace(b"\n", b" ") if b"\n" in text else text)

    @property
    def is_text(self) -> bool:
        """Whether it is a JSON string."""
        return self.text.startswith(b'"')

    @property
    def is_object(self) -> bool:
        """Whether it is a JSON object."""
        return self.text.startswith(b"{")

    def value(self) -> object:
        """What it says, read anew at each call.

        Raises:
            ValueError: It holds what no value in Python can be.
        """
        try:
            return parse_json(self.text)
        except orjson.JSONDecodeError:
            pass
        if _is_too_deep(self.text):
            raise ValueError("it is nested too deeply")
        return json.loads(self.text, parse_int=_whole)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same text."""
        return isinstance(other, JsonLine) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        """Without the text, which may be secret."""
        return f"<JsonLine of {len(self.text)} bytes>"


def with_entry(text: bytes, key: bytes, value: bytes) -> bytes:
    """Return a JSON object with one more entry at its end; the rest stays as it was written.

    Args:
        text: The object, without white space at its ends.
        key: The key, as JSON; the object must not have it.
        value: The value, as JSON.
    """
    comma = b"" if text[-2:-1] in _BEFORE_NOTHING and not text[1:-1].strip() else b","
    return b"".join((text[:-1], comma, key, b":", value, b"}"))


def write_json(value: object) -> bytes:
    """Return a value that was parsed from JSON as compact JSON again, at any depth and with whole numbers of any size.

    Raises:
        TypeError: It holds something that JSON has not.
        ValueError: It holds a whole number of thousands of digits, or half of a surrogate pair.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # among others: a whole number over 64 bits, or more than 254 levels
        return b"".join(_pieces(value))


def _pieces(value: object) -> Iterator[bytes]:
    """Yield the JSON of a value piece by piece, without recursion: JSON may be nested deeper than calls may."""
    left: list[Any] = [value]  # a stack: the next item stands last; bytes are JSON already
    while left:
        item = left.pop()
        if isinstance(item, bytes):
            yield item
        elif isinstance(item, dict):
            inner = [part for key, each in item.items() for part in (b",", _scalar(key), b":", each)]
            left += [b"}", *reversed(inner[1:]), b"{"]
        elif isinstance(item, list):
            inner = [part for each in item for part in (b",", each)]
            left += [b"]", *reversed(inner[1:]), b"["]
        else:
            yield _scalar(item)


def _scalar(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def is_object(event: object) -> bool:
    """Whether an event is a JSON object, as a dict or as it was written."""
    return type(event) is dict or (type(event) is JsonLine and event.is_object)


def value_of_event(event: object) -> object:
    """The event as a value, also one that is there as it was written.

    Raises:
        ValueError: It holds what no value in Python can be.
    """
    return event.value() if type(event) is JsonLine else event


def parse_json(text: str | bytes) -> object:
    """A JSON text as a value, whole numbers exact at any size.

    Raises:
        ValueError: It is not JSON (as `orjson.JSONDecodeError`, which tells where), or holds a number
            of thousands of digits, or one over 64 bits in too many brackets.
    """
    value: object = _loads(text)
    # orjson makes floats of integers over 64 bits: only where there are that many digits can one be.
    # Written out, for a search in all of the text costs more than the parser.
    sixth = text[_SIXTH]
    digits = (sixth.encode() if isinstance(sixth, str) else sixth).translate(_DIGIT_OR_NOT)
    if digits.find(b"000") < 0 or not _may_be_rounded(value):
        return value
    try:
        return json.loads(text)
    except RecursionError:
        message = "it holds a number over 64 bits, and too many brackets around it or elsewhere"
        raise ValueError(message) from None


def _may_be_rounded(value: object) -> bool:
    """Whether a float in a value may have been written as an integer over 64 bits."""
    containers: list[Any] = [(value,)]
    for each in containers:  # it grows meanwhile
        for item in each.values() if type(each) is dict else each:
            kind = type(item)
            if kind is float:
                if abs(item) >= _FROM:
                    return True
            elif kind is dict or kind is list:
                containers.append(item)
    return False


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _refuse(constant: str) -> NoReturn:
    message = f"{constant} is not JSON"
    raise ValueError(message)


def _is_too_deep(text: bytes) -> bool:
    """Whether brackets are nested too deeply for Python's own parser."""
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        if depth > _DEEPEST:
            return True
    return False


_checker = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_refuse)
"""Reads numbers of any size, for it does not convert them."""


def _is_json(text: bytes) -> bool:
    """Whether a text is JSON that orjson refuses; brackets that are nested too deeply are not."""
    if _is_too_deep(text):
        return False
    try:
        _checker.decode(text.decode())
    except (ValueError, RecursionError):
        return False
    return True
