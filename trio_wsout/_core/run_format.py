"""A run of events as two blobs and a checksum: what one commit makes durable (SPEC 7 and 11).

Rules
-----
1. The head has a checksum and a length for each payload, then its kind, then a length for each cursor and the cursors
   themselves, if one of the events has a cursor. The body is the payloads, joined.
2. The checksum of the run covers the head, the numbers of its first and last event, its epoch and its time. So damage to a
   payload is damage to one event: the others of its run can be read. Damage to anything else is damage to the whole run.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate
from zlib import crc32

from attrs import frozen

from trio_wsout._core.durable_log import Entry, Kind

_NUMBERS = struct.Struct("<qqqd")
_NO_CURSOR = 0xFFFFFFFF
_KINDS = {int(kind): kind for kind in Kind}


class DamageError(ValueError):
    """An event, or a run of them, is damaged; the text names their numbers."""


@frozen
class Run:
    """Events of one commit, without a gap between their positions."""

    last: int
    """Position of the last one."""
    first: int
    epoch: int
    at: float
    """The time at which they were stored, in seconds since 1970."""
    head: bytes
    body: bytes
    """Their payloads."""
    checksum: int

    def entries(self, after: int, *, behind: int = 0, epoch: int | None = None) -> list[Entry]:
        """Return the events whose position is more than `after`, up to the first damaged one.

        Args:
            after: A position.
            behind: A position that is added to the run's own, where a shared log has given the events positions of its own.
            epoch: The epoch that a shared log has given them; None if they keep that of the run.

        Raises:
            DamageError: The run is damaged, or the first of these events.
        """
        count, head, body, start = self.last - self.first + 1, self.head, self.body, self.first + behind
        epoch = self.epoch if epoch is None else epoch
        if self.checksum != _checksum(self.last, self.first, self.epoch, self.at, head):
            raise DamageError(f"events {start} to {start + count - 1} are damaged")
        numbers = struct.unpack_from(f"<{2 * count}I", head)
        ends = tuple(accumulate(numbers[count:], initial=0))
        cursors = _cursors(head, count)
        found: list[Entry] = []
        for index in range(max(0, after + 1 - start), count):
            payload = body[ends[index] : ends[index + 1]]
            if crc32(payload) != numbers[index]:
                if found:
                    break
                raise DamageError(f"event {start + index} is damaged")
            kind = _KINDS[head[8 * count + index]]
            cursor = None if cursors is None else cursors[index]
            found.append(Entry(start + index, epoch, kind, payload, cursor, self.at))
        return found


def run_of(entries: Sequence[Entry], *, shared: bool = False) -> Run:
    """Return the run of these events, at least one, which were stored at the time of the last one.

    In a `shared` log, which gives them positions and an epoch later, they are numbered from 1, in epoch 0.
    """
    payloads = [entry.payload for entry in entries]
    head = struct.pack(f"<{2 * len(payloads)}I", *map(crc32, payloads), *map(len, payloads))
    head += bytes([entry.kind for entry in entries])
    cursors = [entry.cursor for entry in entries]
    if cursors.count(None) < len(cursors):
        texts = [None if each is None else each.encode("utf-8", "surrogatepass") for each in cursors]
        lengths = [_NO_CURSOR if each is None else len(each) for each in texts]
        head += struct.pack(f"<{len(texts)}I", *lengths) + b"".join([each or b"" for each in texts])
    latest = entries[-1]
    first, last, epoch = entries[0].position, latest.position, latest.epoch
    if shared:
        first, last, epoch = 1, len(entries), 0
    checksum = _checksum(last, first, epoch, latest.at, head)
    return Run(last, first, epoch, latest.at, head, b"".join(payloads), checksum)


def sizes_in(head: bytes, count: int) -> tuple[int, ...]:
    """Return the sizes of the payloads of a run of `count` events that has this head.

    Raises:
        DamageError: The head is too short.
    """
    try:
        return struct.unpack_from(f"<{count}I", head, 4 * count)
    except struct.error:
        raise DamageError("the head of a run is cut off") from None


def _cursors(head: bytes, count: int) -> list[str | None] | None:
    """Return the cursors of a run; None if no event in it has one."""
    at = 9 * count
    if len(head) == at:
        return None
    lengths = struct.unpack_from(f"<{count}I", head, at)
    at += 4 * count
    found: list[str | None] = []
    for length in lengths:
        if length == _NO_CURSOR:
            found.append(None)
        else:
            found.append(head[at : at + length].decode("utf-8", "surrogatepass"))
            at += length
    return found


def _checksum(last: int, first: int, epoch: int, at: float, head: bytes) -> int:
    return crc32(head, crc32(_NUMBERS.pack(last, first, epoch, at)))
