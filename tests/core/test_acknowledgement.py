"""Acknowledgements: laws of what a peer's message may confirm; examples are beside those of cursors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.acknowledgement import AckReader, Epochs, stamp_of
from trio_wsout._core.cursor import MISSING, CursorReader
from trio_wsout._core.message import Accepted
from trio_wsout.config import Cursor

EPOCH = 7
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
IDS = st.sampled_from(["a", "b", "7-2", "2", 2, 3, 1.5])
OTHERS = st.recursive(
    st.none() | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)
)
VALUES = (
    IDS
    | st.integers(-2, 12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.builds(stamp_of, st.integers(6, 8), st.integers(0, 12))
)


BY_ID = CursorReader(Cursor(value_field="id"))


def flight(events: list[Any], first: int = 1, cursor: CursorReader | None = None) -> list[Accepted]:
    return [
        Accepted(b"", event=event, seq=seq, cursor=None if cursor is None else cursor.value_of(event))
        for seq, event in enumerate(events, first)
    ]


def reader(pointer: str = "/ack") -> AckReader:
    epochs = Epochs()
    epochs.begin(EPOCH, 0)
    return AckReader(pointer, epochs)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=9))
def test_a_stamp_has_the_epoch_in_which_its_number_was_given(steps: list[tuple[int, int]]) -> None:
    epochs, expected, seq, epoch = Epochs(), list[int](), 0, 0
    for more, count in steps:
        epoch += more
        epochs.begin(epoch, seq)
        expected += [epoch] * count
        seq += count
    assert [epochs.of(number) for number in range(1, seq + 1)] == expected
    assert epochs.stamp(seq) == f"{epoch}-{seq}"
    reads = AckReader("/ack", epochs)
    events = flight([{}] * seq)
    assert [reads.seq_of(stamp_of(each, number), events) for number, each in enumerate(expected, 1)] == [
        *range(1, seq + 1)
    ]
    assert reads.seq_of(stamp_of(epoch + 1, seq), events) is None


@given(VALUES, st.integers(1, 8), st.integers(0, 6))
def test_a_number_or_stamp_names_the_event_that_has_it(value: object, first: int, count: int) -> None:
    seqs = range(first, first + count)
    named = [seq for seq in seqs if value == f"{EPOCH}-{seq}" or (type(value) is int and value == seq)]
    assert reader().seq_of(value, iter(flight([{}] * count, first))) == (named[0] if named else None)


@given(VALUES, st.lists(st.none() | IDS, max_size=6))
def test_a_cursor_names_the_oldest_event_that_has_it(value: str | float, ids: list[Any]) -> None:
    told = [{} if each is None else {"id": each} for each in ids]
    having = [seq for seq, each in enumerate(ids, 1) if each is not None and str(each) == str(value)]
    expected = having[0] if having else reader().seq_of(value, flight(told))
    assert reader().seq_of(value, flight(told, cursor=BY_ID)) == expected


@given(OTHERS)
def test_what_is_neither_text_nor_number_names_nothing(value: object) -> None:
    events = flight([{"id": value}, {"id": str(value)}], cursor=BY_ID)
    assert reader().seq_of(value, events) is None


@pytest.mark.parametrize(
    "text", ["7-00000000000000000051", "7-٥", "7-+5", "7- 5", "7-5 ", "07-5", "7-5-5", "-5"]
)
def test_no_other_text_is_a_stamp(text: str) -> None:
    assert reader().seq_of(text, flight([{}] * 9)) is None


@given(VALUES | OTHERS, st.booleans())
def test_what_the_pointer_finds_is_the_acknowledgement(value: object, binary: bool) -> None:
    for pointer, document in (("/ack", {"ack": value, "x": 1}), ("/a/0", {"a": [value]}), ("", value)):
        message = json.dumps(document)
        assert reader(pointer=pointer).value_in(message.encode() if binary else message) == value
    assert reader(pointer="/nack").value_in(json.dumps({"ack": value})) is MISSING


@given(st.text() | st.binary())
def test_no_message_is_beyond_looking_at(message: str | bytes) -> None:
    value = reader().value_in(message)
    assert reader().seq_of(value, []) is None
