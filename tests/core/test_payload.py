"""Payloads: what is encoded comes back, what can't be is refused with its path."""

from __future__ import annotations

import base64
import datetime as dt
import enum
import json
import types
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.json_line import parse_json
from trio_wsout._core.payload import Base64Error, Encoder, MessageError, decode
from trio_wsout.config.sections import Batch, BatchMode, Payload
from trio_wsout.errors import EventError

LINES = Batch(mode=BatchMode.FIXED)
ARRAY = Batch(mode=BatchMode.FIXED, wrap_as_json=True)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)
OBJECTS = st.dictionaries(TEXTS, JSON)


@given(JSON, st.sampled_from([Payload.JSON, Payload.TEXT, Payload.BINARY]))
def test_json_comes_back_by_anybodys_decoder(event: Any, payload: Payload) -> None:
    encoded = Encoder(payload, None).event(event)
    if isinstance(event, str) and payload is not Payload.JSON:
        assert encoded == event.encode()
    else:
        assert json.loads(encoded) == event
        assert b"\n" not in encoded


@given(JSON)
def test_a_json_message_is_decoded_to_what_it_was(event: Any) -> None:
    assert decode(Encoder(Payload.JSON, None).event(event).decode(), Payload.JSON) == event


@given(st.binary())
def test_bytes_go_as_they_are_and_come_back_as_base64(event: bytes) -> None:
    assert Encoder(Payload.BINARY, None).event(event) == event
    assert Encoder(Payload.BINARY, None).event(memoryview(event)) == event
    coded = Encoder(Payload.BINARY_BASE64, None)
    assert coded.event(bytearray(event)) == event
    text = decode(event, Payload.BINARY_BASE64)
    assert isinstance(text, str)
    assert coded.event(text) == event
    assert decode(event, Payload.BINARY) == event


@pytest.mark.parametrize("text", ["a", "a===", "ab c", "é", "\ud800", "YQ", "YQ==\n"])
def test_what_is_not_base64_is_told_apart_from_what_cannot_be_sent(text: str) -> None:
    with pytest.raises(Base64Error):
        Encoder(Payload.BINARY_BASE64, None).event(text)


class Colour(enum.Enum):
    RED = b"red"


ENDLESS: list[object] = []
ENDLESS.append(ENDLESS)
DEEP: Any = 1
for _ in range(1000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("event", "path"),
    [
        (float("nan"), "$: NaN"),
        ({"a": [1, float("inf")]}, r"$.a[1]: NaN"),
        ({"a": None, "b": (0, -float("inf"))}, "$.b[1]: NaN"),
        ({"a": {1, 2}}, "$.a: set"),
        ({"a": b"x"}, "$.a: bytes"),
        ({"a": 2**64}, "$.a: an integer of more than 64 bits"),
        ([-(2**63) - 1], "$[0]: an integer"),
        ({1: 2}, "$: a key is int"),
        ({"a": {None: 1}}, "$.a: a key is NoneType"),
        ("\ud800", "$: a lone surrogate"),
        ({"a": ["\udfff"]}, "$.a[0]: a lone surrogate"),
        ({"\ud800": 1}, "$: a key holds a lone surrogate"),
        ({"a": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, "$.a: datetime"),
        ({"a": object()}, "$.a: object"),
        ({"a": Colour.RED}, "$.a: Colour"),
        (ENDLESS, "nested too deeply"),
        (DEEP, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("payload", [Payload.JSON, Payload.TEXT])
def test_what_json_cannot_say_is_refused_with_its_path(event: object, path: str, payload: Payload) -> None:
    with pytest.raises(EventError) as caught:
        Encoder(payload, None).event(event)
    assert path in str(caught.value)


def test_a_null_hides_nothing_and_costs_nothing() -> None:
    encoder = Encoder(Payload.JSON, None)
    assert encoder.event({"a": None, "null": [1.5, None, True]}) == b'{"a":null,"null":[1.5,null,true]}'


def test_a_uuid_is_a_text_as_orjson_has_it() -> None:
    event = uuid.UUID(int=1)
    assert Encoder(Payload.JSON, None).event([event]) == f'["{event}"]'.encode()


@pytest.mark.parametrize("payload", [Payload.TEXT, Payload.JSON])
def test_bytes_need_a_binary_payload(payload: Payload) -> None:
    with pytest.raises(EventError, match="payload: binary"):
        Encoder(payload, None).event(b"x")


@pytest.mark.parametrize("event", [{}, [], 1, None])
def test_base64_takes_texts_and_bytes_only(event: object) -> None:
    with pytest.raises(EventError, match="binary-base64"):
        Encoder(Payload.BINARY_BASE64, None).event(event)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**40, 2**64 - 1, 10**18])
def test_no_whole_number_is_read_as_another(number: int) -> None:
    text = f'{{"a": [{number}, 1.5, "{number}"]}}'
    assert decode(text, Payload.JSON) == {"a": [number, 1.5, str(number)]}
    assert parse_json(text.encode()) == {"a": [number, 1.5, str(number)]}


WHOLE = st.one_of(
    st.sampled_from([2**64, 2**64 - 1, -(2**63) - 1, -(2**63), 10**18]),
    st.integers(),
    st.integers(-(10**40), 10**40),
)
NUMBERS = st.recursive(
    st.one_of(
        WHOLE, WHOLE.map(str), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()
    ),
    lambda inside: st.one_of(
        st.lists(inside, max_size=4), st.dictionaries(st.text("ab1", max_size=3), inside)
    ),
    max_leaves=10,
)


@given(NUMBERS)
def test_numbers_are_read_as_pythons_own_parser_reads_them(value: object) -> None:
    text = json.dumps(value)
    # As texts, for 1 and 1.0 are equal.
    assert repr(parse_json(text)) == repr(parse_json(text.encode())) == repr(json.loads(text))


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(MessageError):
        decode("9" * 5000, Payload.JSON)


def test_text_or_binary_frames() -> None:
    assert [Encoder(payload, None).is_text for payload in Payload] == [True, True, False, False]


@given(OBJECTS, st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_stamp_is_one_entry_more(event: dict[str, Any], name: str) -> None:
    encoder = Encoder(Payload.JSON, None, stamp=name)
    if name in event:
        with pytest.raises(EventError, match=r"delivery\.stamp"):
            encoder.event(event)
    else:
        stamped = encoder.stamped(encoder.event(event), b"7-1")
        assert json.loads(stamped) == {**event, name: "7-1"}
        assert list(json.loads(stamped))[-1] == name
        assert stamped.startswith(encoder.event(event)[:-1])


def test_a_stamp_never_takes_the_place_of_an_entry() -> None:
    with pytest.raises(EventError, match=r"delivery\.stamp"):
        Encoder(Payload.JSON, None, stamp="s").event({"s": 1})


def test_only_plain_dicts_are_objects() -> None:
    with pytest.raises(EventError, match="mappingproxy is not a plain dict"):
        Encoder(Payload.JSON, None).event({"a": types.MappingProxyType({})})


def test_a_stamp_is_looked_for_at_the_top_only() -> None:
    assert Encoder(Payload.JSON, None, stamp="s").event({"a": {"s": 1}}) == b'{"a":{"s":1}}'


LINE = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")).map(str.encode)


@given(st.lists(JSON, min_size=1), LINE, LINE, st.sampled_from([LINES, ARRAY]))
def test_a_batch_can_be_taken_apart_and_is_as_long_as_was_said(
    events: list[Any], header: bytes | None, footer: bytes | None, batch: Batch
) -> None:
    encoder = Encoder(Payload.JSON, batch)
    encoded = [encoder.event(event) for event in events]
    message = encoder.message(encoded, header, footer)
    assert len(message) == encoder.overhead(header, footer) + sum(map(len, encoded)) + len(encoded) - 1
    lines = message.split(b"\n")
    if header is not None:
        assert lines.pop(0) == header
    if footer is not None:
        assert lines.pop() == footer
    found = json.loads(b"\n".join(lines)) if batch is ARRAY else [json.loads(line) for line in lines]
    assert found == events


def test_a_text_with_a_line_break_would_be_two_events_of_a_batch() -> None:
    with pytest.raises(EventError, match="wrap-as-json"):
        Encoder(Payload.TEXT, LINES).event("a\nb")
    assert Encoder(Payload.TEXT, None).event("a\nb") == b"a\nb"
    assert Encoder(Payload.BINARY, LINES).event("a\nb") == b"a\nb"


def test_in_an_array_every_event_is_json() -> None:
    encoder = Encoder(Payload.TEXT, ARRAY)
    assert encoder.event("a\nb") == b'"a\\nb"'
    with pytest.raises(EventError):
        encoder.event(b"x")


@given(st.text() | st.binary())
def test_decoding_never_fails_otherwise_than_it_says(message: str | bytes) -> None:
    for payload in Payload:
        try:
            event = decode(message, payload)
        except MessageError:
            assert payload is Payload.JSON
        else:
            if payload is Payload.BINARY_BASE64 and isinstance(message, bytes):
                assert base64.b64decode(str(event)) == message
            elif payload is not Payload.JSON:
                assert event == message


@given(st.text(alphabet='0123456789 "ab.', max_size=40), st.integers(-(10**40), 10**40), st.booleans())
def test_a_whole_number_is_exact_wherever_it_stands(before: str, number: int, as_bytes: bool) -> None:
    text = json.dumps([before, number])
    assert parse_json(text.encode() if as_bytes else text) == [before, number]
