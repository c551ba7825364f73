"""A value as JSON on one line, however deep it is and however large its numbers are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import orjson

from trio_wsout._core.json_line import JsonLine

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["to_json"]

_slow = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Knows whole numbers of any size, and goes as deep as Python itself."""


def to_json(value: object) -> bytes:
    """JSON of a value that was read from JSON; bytes become hexadecimal text.

    Raises:
        TypeError: It holds something that JSON has not.
        ValueError: It holds a whole number of thousands of digits.
    """
    if isinstance(value, JsonLine):
        # A carriage return is a blank there, but some readers would end the line at it.
        return value.text.replace(b"\r", b" ")
    if isinstance(value, bytes):
        value = value.hex()
    try:
        return orjson.dumps(value)
    except TypeError:  # more than 254 levels, or a whole number of more than 64 bits
        pass
    try:
        return _slow(value).encode()
    except RecursionError:
        return b"".join(_pieces(value))


def _pieces(value: object) -> Iterator[bytes]:
    """What it is written as, without recursion: who sends it says how deep it is."""
    left: list[Any] = [value]  # the next one last; bytes are written already
    while left:
        item = left.pop()
        if isinstance(item, bytes):
            yield item
        elif isinstance(item, dict):
            pairs = cast("dict[object, object]", item).items()
            inner = [part for key, each in pairs for part in (b",", _scalar(key), b":", each)]
            left += [b"}", *reversed(inner[1:]), b"{"]
        elif isinstance(item, list):
            inner = [part for each in cast("list[object]", item) for part in (b",", each)]
            left += [b"]", *reversed(inner[1:]), b"["]
        else:
            yield _scalar(item)


def _scalar(value: object) -> bytes:
    return _slow(value).encode()
