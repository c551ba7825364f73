"""The spool on disk: events to the bytes of segment files, and back, also after a crash (SPEC 7).

Rules
-----
1. A segment is a header and then records. The header holds a random salt, the epoch, and the number of
   the segment's first event; it is synced before any record is written.
2. A record is the group of events that one sync makes durable. Its body has the number of its first event, the number up to
   which all events are settled, how many events follow, and each of them with its length before it.
3. Before the body stand a mark, the body's length, and a checksum of the body with the salt as its key. The mark is a part of
   the salt. An event can hold neither a mark nor a record, because no sender knows the salt.
4. A record is written only when the one before it is synced. So a record that is not whole at the end of the newest segment,
   with no whole record behind it, holds no accepted event: it is a torn tail. Anything else that is not whole is
   damage, reported with its offset.
5. Numbers have no gap: each record begins where the one before it ended.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence

import orjson
from attrs import frozen

from trio_wsout._core.json_line import JsonLine
from trio_wsout._core.message import Accepted

__all__ = [
    "EVENT_OVERHEAD",
    "HEADER_SIZE",
    "RECORD_OVERHEAD",
    "SALT_SIZE",
    "DamageError",
    "Header",
    "Record",
    "Scan",
    "decode_event",
    "encode_event",
    "encode_record",
    "events_behind",
    "record_at",
    "record_size",
    "scan",
]

SALT_SIZE = 16
_MAGIC = b"twspool\n"
_FORMAT = 1
_CHECK = 8
_HEADER = struct.Struct(f">8sH{SALT_SIZE}sQQ")
HEADER_SIZE = _HEADER.size + _CHECK
"""Bytes before the first record."""

_MARK = 8
_HEAD = struct.Struct(f">{_MARK}sI{_CHECK}s")
_BODY = struct.Struct(">QQI")
_LENGTH = struct.Struct(">I")
RECORD_OVERHEAD = _HEAD.size + _BODY.size
"""Bytes of a record without its events."""
EVENT_OVERHEAD = _LENGTH.size + 1
"""Bytes that a record and its kind add to an event."""

_JSON, _STR, _BYTES, _LINE = b"j", b"s", b"b", b"l"


class DamageError(ValueError):
    """A segment is damaged; the text describes the damage."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(what)
        self.offset = offset


def encode_event(accepted: Accepted) -> bytes:
    """Return an encoded event, not yet stamped, as it is stored: its kind, then its bytes."""
    event = accepted.event
    if isinstance(event, str):
        # A text that is not base64 may hold half of a surrogate pair; it is reported as undelivered, now or later.
        return _STR + event.encode("utf-8", "surrogatepass")
    if isinstance(event, bytes | bytearray | memoryview):
        return _BYTES + event
    if isinstance(event, JsonLine):
        return _LINE + event.text
    return _JSON + accepted.payload


def decode_event(kept: bytes) -> object:
    """Return a stored event: a JSON value, JSON as it was written, a text or bytes."""
    kind, content = kept[:1], kept[1:]
    if kind == _STR:
        return content.decode("utf-8", "surrogatepass")
    if kind == _LINE:
        return JsonLine(content)
    return content if kind == _BYTES else orjson.loads(content)


@frozen(kw_only=True)
class Header:
    """The header of a segment."""

    salt: bytes
    """`SALT_SIZE` random bytes, different for each segment."""
    epoch: int
    """Epoch and number together name an event, until the spool is empty, also through restarts."""
    first: int
    """Number of the first event in the segment."""

    def encode(self) -> bytes:
        """Return the bytes of the header."""
        fields = _HEADER.pack(_MAGIC, _FORMAT, self.salt, self.epoch, self.first)
        return fields + _checksum(fields, b"")

    @classmethod
    def decode(cls, content: bytes) -> Header | None:
        """Return the header of a segment with this content; None if it has no whole one."""
        fields, check = content[: _HEADER.size], content[_HEADER.size : HEADER_SIZE]
        if len(check) < _CHECK or check != _checksum(fields, b""):
            return None
        magic, version, salt, epoch, first = _HEADER.unpack(fields)
        return cls(salt=salt, epoch=epoch, first=first) if (magic, version) == (_MAGIC, _FORMAT) else None


@frozen
class Record:
    """A whole record: its offsets, and the fields of its body."""

    offset: int
    end: int
    first: int
    """Number of its first event, or of the next event if it has none."""
    settled: int
    """All events up to this number are settled."""
    count: int
    """Events in it."""

    @property
    def last(self) -> int:
        """Number of its last event; one less than `first` if it has none."""
        return self.first + self.count - 1


@frozen(kw_only=True)
class Scan:
    """The content of a segment."""

    records: Sequence[Record]
    end: int
    """Offset of the end of its last whole record."""
    torn: bool
    """Whether a torn tail follows."""


def record_size(events: Sequence[bytes]) -> int:
    """Return the bytes of the record of these events."""
    return RECORD_OVERHEAD + _LENGTH.size * len(events) + sum([len(event) for event in events])


def encode_record(first: int, settled: int, events: Sequence[bytes], salt: bytes) -> bytes:
    """Return the record of events, as `encode_event` returns them, the first of which has the number `first`."""
    parts = [_BODY.pack(first, settled, len(events))]
    length = _LENGTH.pack
    for event in events:
        parts += (length(len(event)), event)
    body = b"".join(parts)
    return _HEAD.pack(salt[:_MARK], len(body), _checksum(body, salt)) + body


def record_at(content: bytes, offset: int, salt: bytes) -> Record | None:
    """Return the record at an offset; None if there is no whole one."""
    begin = offset + _HEAD.size
    if begin > len(content):
        return None
    mark, length, check = _HEAD.unpack_from(content, offset)
    end = begin + length
    if mark != salt[:_MARK] or length < _BODY.size or end > len(content):
        return None
    if check != _checksum(memoryview(content)[begin:end], salt):
        return None
    return Record(offset, end, *_BODY.unpack_from(content, begin))


def events_behind(content: bytes, number: int, salt: bytes) -> tuple[list[bytes], int]:
    """Return the events above `number` in the whole records at the beginning of `content`, and the offset of their end."""
    found: list[bytes] = []
    at = 0
    while (record := record_at(content, at, salt)) is not None:
        if record.last > number:
            found += list(_events_of(content, record))[max(0, number + 1 - record.first) :]
        at = record.end
    return found, at


def _events_of(content: bytes, record: Record) -> Iterator[bytes]:
    at = record.offset + RECORD_OVERHEAD
    for _ in range(record.count):
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        yield content[at : at + length]
        at += length


def scan(content: bytes, header: Header, *, newest: bool) -> Scan:
    """Return the records of a segment with this header; only the newest segment may have a torn tail.

    Raises:
        DamageError: It is damaged.
    """
    records: list[Record] = []
    at, number = HEADER_SIZE, header.first
    while at < len(content):
        record = record_at(content, at, header.salt)
        if record is None:
            if newest and not _whole_behind(content, at, header.salt):
                return Scan(records=records, end=at, torn=True)
            raise DamageError("a record is not whole", at)
        if record.first != number:
            raise DamageError(f"a record begins with event {record.first}, expected was {number}", at)
        records.append(record)
        at, number = record.end, record.last + 1
    return Scan(records=records, end=at, torn=False)


def _whole_behind(content: bytes, offset: int, salt: bytes) -> bool:
    """Return whether a whole record stands behind the offset."""
    mark = salt[:_MARK]
    at = content.find(mark, offset + 1)
    while at >= 0:
        if record_at(content, at, salt) is not None:
            return True
        at = content.find(mark, at + 1)
    return False


def _checksum(content: bytes | memoryview, key: bytes) -> bytes:
    return hashlib.blake2b(content, key=key, digest_size=_CHECK).digest()
