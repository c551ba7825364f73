"""The spool's format: what was written is read back, a cut end is a torn tail, and anything else is damage."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from trio_wsout._core.message import Accepted
from trio_wsout._core.payload import Encoder
from trio_wsout._core.spool_format import (
    EVENT_OVERHEAD,
    HEADER_SIZE,
    RECORD_OVERHEAD,
    DamageError,
    Header,
    decode_event,
    encode_event,
    encode_record,
    events_behind,
    record_size,
    scan,
)
from trio_wsout.config import Payload

if TYPE_CHECKING:
    from collections.abc import Sequence

SALT = bytes(range(100, 116))
HEADER = Header(salt=SALT, epoch=7, first=5)
EVENTS = st.binary(min_size=1, max_size=20)
GROUPS = st.lists(st.tuples(st.lists(EVENTS, max_size=3), st.integers(0, 2**63)), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def segment(groups: Sequence[tuple[Sequence[bytes], int]]) -> tuple[bytes, list[int]]:
    """The bytes of a segment, and where its records end; the header's end first."""
    content, number, ends = HEADER.encode(), HEADER.first, [HEADER_SIZE]
    for events, settled in groups:
        record = encode_record(number, settled, events, SALT)
        assert len(record) == record_size(events)
        content += record
        number += len(events)
        ends.append(len(content))
    return content, ends


def spooled(event: object, payload: Payload) -> bytes:
    return encode_event(Accepted(Encoder(payload, None).event(event), event))


@given(
    JSON.filter(lambda value: not isinstance(value, str)),
    st.sampled_from([Payload.TEXT, Payload.JSON, Payload.BINARY]),
)
def test_a_json_event_comes_back(event: object, payload: Payload) -> None:
    assert decode_event(spooled(event, payload)) == event


@given(st.text())
def test_a_text_comes_back(event: str) -> None:
    for payload in (Payload.TEXT, Payload.JSON, Payload.BINARY):
        assert decode_event(spooled(event, payload)) == event


@pytest.mark.parametrize("made", [bytes, bytearray, memoryview])
def test_bytes_come_back_as_bytes(made: type) -> None:
    assert decode_event(spooled(made(b"\0\xff"), Payload.BINARY)) == b"\0\xff"
    assert decode_event(spooled(made(b""), Payload.BINARY)) == b""


def test_a_text_that_is_no_unicode_comes_back_to_be_reported() -> None:
    assert decode_event(encode_event(Accepted(b"", "a\ud800", None, "no base64"))) == "a\ud800"


@given(GROUPS)
def test_a_segment_comes_back(groups: list[tuple[list[bytes], int]]) -> None:
    content, ends = segment(groups)
    header = Header.decode(content)
    assert header == HEADER
    for newest in (True, False):
        found = scan(content, HEADER, newest=newest)
        assert (found.end, found.torn) == (len(content), False)
        assert [each.end for each in found.records] == ends[1:]
        assert [each.settled for each in found.records] == [settled for _, settled in groups]
    events = [event for each, _ in groups for event in each]
    for behind in range(HEADER.first - 1, HEADER.first + len(events)):
        expected = events[behind - HEADER.first + 1 :]
        assert events_behind(content[HEADER_SIZE:], behind, SALT) == (expected, len(content) - HEADER_SIZE)


@given(GROUPS, st.data())
def test_cut_anywhere_whole_groups_are_left_and_a_torn_end(
    groups: list[tuple[list[bytes], int]], data: st.DataObject
) -> None:
    content, ends = segment(groups)
    at = data.draw(st.integers(HEADER_SIZE, len(content)))
    junk = data.draw(st.sampled_from([b"", bytes(40), b"x" * 40]))
    whole = max(end for end in ends if end <= at)
    lost = content[at : min((end for end in ends if end > at), default=at)]
    assume(not (lost and junk.startswith(lost)))  # that would be the record again
    found = scan(content[:at] + junk, HEADER, newest=True)
    assert found.end == whole
    assert found.torn == (at > whole or bool(junk))
    assert len(found.records) == ends.index(whole)


@given(GROUPS, st.data())
def test_a_changed_byte_before_the_last_group_is_damage_at_its_place(
    groups: list[tuple[list[bytes], int]], data: st.DataObject
) -> None:
    content, ends = segment([*groups, ([b"more"], 0), ([b"last"], 0)])
    at = data.draw(st.integers(HEADER_SIZE, ends[-2] - 1))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamageError) as caught:
        scan(bytes(changed), HEADER, newest=True)
    assert caught.value.offset == max(end for end in ends if end <= at)


@given(GROUPS, st.data())
def test_a_changed_byte_anywhere_in_an_earlier_segment_is_damage(
    groups: list[tuple[list[bytes], int]], data: st.DataObject
) -> None:
    content, _ = segment([*groups, ([b"last"], 0)])
    at = data.draw(st.integers(HEADER_SIZE, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamageError):
        scan(bytes(changed), HEADER, newest=False)


@given(st.integers(0, HEADER_SIZE - 1), st.integers(1, 255))
def test_a_changed_or_cut_header_is_none(at: int, change: int) -> None:
    content = bytearray(HEADER.encode())
    assert Header.decode(bytes(content[:at])) is None
    content[at] ^= change
    assert Header.decode(bytes(content)) is None


def test_a_header_of_another_format_is_none() -> None:
    """Its version stands behind the eight bytes by which a spool is known; the checksum at the end is right here."""
    known = HEADER.encode()
    fields = known[:8] + b"\0\2" + known[10:-8]
    other = fields + hashlib.blake2b(fields, digest_size=8).digest()
    assert len(other) == HEADER_SIZE
    assert Header.decode(other) is None
    fields = known[:-8]
    assert Header.decode(fields + hashlib.blake2b(fields, digest_size=8).digest()) == HEADER


def test_an_event_that_looks_like_a_record_is_none() -> None:
    """Only who knows the salt can make one: of another segment, or guessed, it is no record."""
    forged = encode_record(6, 0, [b"forged"], bytes(16))
    content, ends = segment([([forged], 0)])
    changed = bytearray(content)
    changed[ends[0] + 12] ^= 1
    found = scan(bytes(changed), HEADER, newest=True)
    assert (found.torn, found.end) == (True, HEADER_SIZE)


def test_a_mark_in_what_is_torn_is_no_record() -> None:
    content, _ = segment([])
    assert scan(content + b"x" + SALT[:8] * 3, HEADER, newest=True).torn


def test_a_record_in_the_place_of_another_is_damage() -> None:
    content = HEADER.encode() + encode_record(5, 0, [b"a"], SALT) + encode_record(8, 0, [b"b"], SALT)
    with pytest.raises(DamageError, match="begins with event 8, expected was 6"):
        scan(content, HEADER, newest=True)


def test_the_overheads_are_what_records_have() -> None:
    assert (
        record_size([b"abc"]) == RECORD_OVERHEAD + EVENT_OVERHEAD + 2
    )  # the kind of an event is its first byte
    assert len(HEADER.encode()) == HEADER_SIZE
