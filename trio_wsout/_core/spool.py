"""Records of the spool: how accepted events lie on disk, and what a crash may have left of them (SPEC 7).

A segment is a file of records, one behind the other::

    length  4 bytes   of the body
    check   4 bytes   CRC-32 of number and body
    number  8 bytes   growing strictly
    body              the event, as JSON

All numbers are little-endian.

Rules
-----
1. A record counts if it is whole and its check is right.
2. What lies behind the last record that counts is a torn tail, as a crash leaves it, if no record
   that counts lies behind it. It is cut off.
3. If one does, the bytes between are damage: events are lost that were promised to be kept.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING
from zlib import crc32

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HEADER_BYTES", "Scan", "record", "scan"]

_HEADER = Struct("<IIQ")
_NUMBER = Struct("<Q")
HEADER_BYTES = _HEADER.size
"""Bytes of a record beside its body."""
_MOST_SKIPPED = 1 << 32
"""How much greater than the one before a number may be, so that chance makes no record of noise."""


@frozen(kw_only=True)
class Scan:
    """What a segment holds."""

    records: Sequence[tuple[int, bytes]]
    """Number and body of the records that count, up to the torn tail or the damage."""
    end: int
    """Bytes up to the end of the last of them."""
    damaged: bool
    """Whether what lies behind `end` is damage, and no torn tail."""


def record(number: int, body: bytes) -> bytes:
    """An event as it lies on disk."""
    return _HEADER.pack(len(body), crc32(body, crc32(_NUMBER.pack(number))), number) + body


def scan(data: bytes, *, after: int = 0) -> Scan:
    """Read a segment whose records have numbers greater than `after`."""
    records: list[tuple[int, bytes]] = []
    end = 0
    while (found := _record_at(data, end, after)) is not None:
        records.append(found)
        after = found[0]
        end += HEADER_BYTES + len(found[1])
    damaged = any(_record_at(data, start, after) for start in range(end + 1, len(data) - HEADER_BYTES + 1))
    return Scan(records=records, end=end, damaged=damaged)


def _record_at(data: bytes, start: int, after: int) -> tuple[int, bytes] | None:
    """The record that begins there; None: there is none that counts."""
    if len(data) - start < HEADER_BYTES:
        return None
    length, check, number = _HEADER.unpack_from(data, start)
    body = start + HEADER_BYTES
    if not (after < number <= after + _MOST_SKIPPED and body + length <= len(data)):
        return None
    found = data[body : body + length]
    return (number, found) if crc32(found, crc32(_NUMBER.pack(number))) == check else None
