"""The head of an HTTP message: its fields, its bytes, and its end in bytes that come in pieces of any size.

Rules (RFC 9110 section 5, RFC 9112 section 2)
----------------------------------------------
1. A head ends with its first empty line. A line ends with LF; a CR before it is part of the line's end.
2. A limit counts the bytes up to that end, so it does not depend on the pieces.
3. Lists may stand on several lines, their order is kept, and their empty elements are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus

from attrs import define, field, frozen

TLS_RECORDS = (b"\x15", b"\x16")
"""First bytes of a TLS alert and of a TLS handshake (RFC 8446 section 5.1); no HTTP message begins with them."""

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_KEPT = 2
"""Bytes at the end of searched data that may begin an empty line."""


@frozen(kw_only=True)
class Fields:
    """The fields of a head in their order, names in lower case."""

    headers: Sequence[tuple[str, str]] = field(repr=False)

    def values(self, name: str) -> list[str]:
        """Return every value of a header, in order."""
        return [value for each, value in self.headers if each == name]

    def tokens(self, name: str, *, lower: bool = False) -> list[str]:
        """Return the comma-separated elements of a header's values, in lower case if `lower`."""
        parts = (part.strip(" \t") for value in self.values(name) for part in value.split(","))
        return [part.lower() if lower else part for part in parts if part]


def write_head(first_line: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return the bytes of a head, with its empty line."""
    return "\r\n".join([first_line, *(f"{name}: {value}" for name, value in fields), "", ""]).encode()


def reason_phrase(status: int) -> str:
    """Return the words for a status; empty if it is none that is registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


class HeadTooLongError(ValueError):
    """More bytes came than a head may have."""


@define(eq=False)
class HeadReader:
    """Splits heads off incoming bytes, one after the other."""

    _most: int
    """Bytes of all heads together, at most."""
    _data: bytearray = field(factory=bytearray, init=False)
    _searched: int = field(default=0, init=False)
    _taken: int = field(default=0, init=False)
    _skipped: int = field(default=0, init=False)

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._data += data

    def skip_empty_lines(self, most: int) -> None:
        """Drop empty lines before the next head, at most `most` in all (RFC 9112 section 2.2)."""
        while self._skipped < most and (line := _LINE_END.match(self._data)):
            self._take(line.end())
            self._skipped += 1

    @property
    def waiting(self) -> bytes | bytearray:
        """The bytes that came and belong to no head that was returned."""
        return self._data

    def next_head(self) -> bytes | None:
        """Return the next head, with its empty line; None if it is not whole yet.

        Raises:
            HeadTooLongError: It ends beyond the limit, or has not ended there.
        """
        found = _EMPTY_LINE.search(self._data, self._searched)
        end = len(self._data) if found is None else found.end()
        if self._taken + end > self._most:
            raise HeadTooLongError
        if found is None:
            self._searched = max(0, end - _KEPT)
            return None
        return self._take(end)

    def _take(self, end: int) -> bytes:
        taken = bytes(self._data[:end])
        del self._data[:end]
        self._taken += end
        self._searched = 0
        return taken
