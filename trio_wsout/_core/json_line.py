"""JSON as it was written: a line that goes on byte for byte, and is parsed only if its value is needed (SPEC 13).

A parsed value differs from the written text: numbers are rounded to 64 bits, a key that stands twice is there once, and blanks are
gone. So an event of the command is a `JsonLine`, and so is a message that a relay stamps.
"""

# The content of JSON has no type before it is checked.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Any, NoReturn, Self

import orjson
from attrs import define, field

BLANKS = b" \t\r\n"
"""White space between the tokens of JSON (RFC 8259 section 2)."""
_BEFORE_NOTHING = b"{ \t\r\n"
"""The bytes that may stand before the end of an empty object."""
_loads = orjson.loads
_SIXTH = slice(5, None, 6)
"""Picks at least three of 19 digits in a row: a text without three adjacent digits in its pick has no integer over 64 bits."""
_DIGIT_OR_NOT = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))  # noqa: PLR2004 - "0" to "9", and a space
_FROM = 2**63
"""Floats of this size or more may have been written as integers over 64 bits."""
_DEEPEST = 500
"""Levels of brackets that Python's own parser is given, if orjson refuses a text: fewer than its limits, which differ by
version."""
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_MOST_DIGITS = 4000
"""Digits of a whole number that are read as an integer; Python refuses more than 4300."""


@define(unsafe_hash=True, weakref_slot=False)
class JsonLine:
    """One JSON value as it was written, on one line; `read` makes one of an unchecked text."""

    text: bytes = field(repr=lambda text: f"<{len(text)} bytes>")
    """The JSON, without white space at its ends and without a line feed; it may be secret."""

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Check that a line is JSON, and take the white space off its ends; raise ValueError, which says where it is not."""
        text = line.strip(BLANKS)
        try:
            _loads(text)
        except orjson.JSONDecodeError as error:
            try:
                _parse_by_python(text, str, str)
            except (ValueError, RecursionError):
                raise ValueError(f"not JSON ({error.msg})") from None
        return cls(text)

    @classmethod
    def joined(cls, text: bytes) -> Self:
        """Return a checked JSON text, which may have several lines, as one line; its tokens stay as they are."""
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
        """Return its value, parsed anew at each call; raise ValueError if no value in Python can represent it."""
        with suppress(orjson.JSONDecodeError):
            return parse_json(self.text)
        return _parse_by_python(self.text, _whole, float)


def with_entry(text: bytes, key: bytes, value: bytes) -> bytes:
    """Return a JSON object, without white space at its ends, with one more entry of which it has not the key; all are JSON."""
    comma = b"" if text[-2:-1] in _BEFORE_NOTHING and not text[1:-1].strip() else b","
    return b"".join((text[:-1], comma, key, b":", value, b"}"))


def write_json(value: object) -> bytes:
    """Return a value that was parsed from JSON as compact JSON again, at any depth and with whole numbers of any size.

    It raises TypeError for what JSON has not, ValueError for thousands of digits and for half of a surrogate pair.
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
    """Return whether an event is a JSON object, as a dict or as it was written."""
    return type(event) is dict or (type(event) is JsonLine and event.is_object)


def value_of_event(event: object) -> object:
    """Return the value of an event, which is parsed if it is a `JsonLine` (and may raise as that does)."""
    return event.value() if type(event) is JsonLine else event


def parse_json(text: str | bytes) -> object:
    """Return the value of a JSON text, whole numbers exact at any size.

    It raises ValueError: for what is not JSON (as `orjson.JSONDecodeError`, which says where), for a number of thousands of
    digits, and for one over 64 bits in too many brackets.
    """
    value: object = _loads(text)
    # orjson makes floats of integers over 64 bits: only a text with that many digits in a row can hold one.
    # Every sixth byte is searched, because a search in all of the text would cost more than the parser.
    sixth = text[_SIXTH]
    digits = (sixth.encode() if isinstance(sixth, str) else sixth).translate(_DIGIT_OR_NOT)
    if digits.find(b"000") < 0 or not _may_be_rounded(value):
        return value
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it holds a number over 64 bits, and too many brackets") from None


def _may_be_rounded(value: object) -> bool:
    """Return whether a float in a value may have been written as an integer over 64 bits."""
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


def _parse_by_python(
    text: bytes, parse_int: Callable[[str], object], parse_float: Callable[[str], object]
) -> object:
    """Return the value of a text that orjson refuses although JSON allows it: numbers beyond a float's range, lone surrogates."""
    brackets = _BRACKETS.findall(_STRINGS.sub(b"", text))
    if max(accumulate(1 if each in b"[{" else -1 for each in brackets), default=0) > _DEEPEST:
        raise ValueError("it is nested too deeply")
    return json.loads(text.decode(), parse_int=parse_int, parse_float=parse_float, parse_constant=_refuse)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
