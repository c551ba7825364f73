"""JSON as it was written: what goes out is the line, whatever is put around it."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trio_wsout._core.durable_log import Entry, event_of, kind_of, stored_payload
from trio_wsout._core.json_line import JsonLine, is_object, parse_json, value_of_event, write_json
from trio_wsout._core.message import Accepted
from trio_wsout._core.packing import Packer
from trio_wsout._core.payload import Encoder, EventError
from trio_wsout.config import load_config
from trio_wsout.config.sections import Batch, BatchMode, Payload

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
BLANKS = st.text(" \t\r", max_size=2)
NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?",
    fullmatch=True,
    alphabet="-0123456789.eE+",
)
ESCAPES = st.sampled_from(["\\n", "\\u0000", "\\ud83d\\ude00", "\\ud800", "\\/", '\\"', "\\\\"])
STRINGS = st.lists(
    st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"], exclude_characters='"\\')) | ESCAPES,
    max_size=3,
).map(lambda parts: f'"{"".join(parts)}"')
SCALARS = NUMBERS | STRINGS | st.sampled_from(["true", "false", "null"])


def _spread(blank: str, parts: list[str], ends: str) -> str:
    return f"{ends[0]}{blank}{f'{blank},{blank}'.join(parts)}{blank}{ends[1]}"


def _arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda blank, parts: _spread(blank, parts, "[]"), BLANKS, st.lists(inner, max_size=3))


def _objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    # Keys may stand twice.
    pairs = st.lists(st.tuples(st.sampled_from(['"a"', '"b"', '""']) | STRINGS, inner), max_size=3)
    return st.builds(
        lambda blank, found: _spread(blank, [f"{key}{blank}:{blank}{value}" for key, value in found], "{}"),
        BLANKS, pairs,
    )  # fmt: skip


TEXTS = st.recursive(SCALARS, lambda inner: _arrays(inner) | _objects(inner), max_leaves=12)
LINES = st.builds(lambda before, text, after: f"{before}{text}{after}".encode(), BLANKS, TEXTS, BLANKS)
STAMP = "s"


@given(LINES)
@example(b'{"a":1,"a":2}')
@example(b"12345678.123456789012345")
@example(b"18446744073709551616")
@example(b"1e999")
@example(b"-0")
@example(b"9" * 5000)
@example(b'"\\ud800"')
@example(b"[" * 900 + b"]" * 900)
def test_what_the_peer_gets_is_the_line_without_the_white_space_at_its_ends(line: bytes) -> None:
    event = JsonLine.read(line)
    assert event.text == line.strip()
    for payload in (Payload.JSON, Payload.TEXT, Payload.BINARY):
        if payload is Payload.JSON or not event.is_text:
            assert Encoder(payload, None).event(event) == line.strip()
    wrapped = Encoder(Payload.BINARY, Batch(mode=BatchMode.FIXED, wrap_as_json=True))
    assert wrapped.event(event) == line.strip()
    assert b"\n" not in event.text


@given(LINES)
def test_a_line_says_what_anybodys_decoder_says(line: bytes) -> None:
    event = JsonLine.read(line)
    value = event.value()
    assert repr(value) == repr(json.loads(line))
    assert (type(value) is str, type(value) is dict) == (event.is_text, event.is_object)
    assert is_object(event) is is_object(value) is event.is_object
    assert repr(value_of_event(event)) == repr(value_of_event(value))


@given(st.binary(max_size=12) | LINES.map(lambda line: line[:-1]) | LINES.map(lambda line: line + b"]"))
@example(b"")
@example(b"NaN")
@example(b'["\\ud800", NaN]')
@example(b"\x0b1")
@example(b"\xef\xbb\xbf1")
def test_what_is_no_json_is_refused(line: bytes) -> None:
    try:
        expected: Any = json.JSONDecoder(parse_constant=lambda _: 1 / 0).decode(line.decode())
    except (ValueError, ZeroDivisionError):
        with pytest.raises(ValueError, match="not JSON"):
            JsonLine.read(line)
    else:
        assert repr(JsonLine.read(line).value()) == repr(expected)


def test_endless_brackets_are_refused() -> None:
    for many in (2000, 200_000):
        with pytest.raises(ValueError, match="limit"):
            JsonLine.read(b"[" * many + b"]" * many)
    # What orjson takes and Python does not can be sent, and has no value.
    deep = JsonLine(b'["\\ud800",' * 3000 + b"1" + b"]" * 3000)
    with pytest.raises(ValueError, match="nested too deeply"):
        deep.value()


@given(STRINGS)
def test_a_line_that_is_a_text_goes_as_that_text(line: str) -> None:
    event, text = JsonLine(line.encode()), json.loads(line)
    for payload in (Payload.TEXT, Payload.BINARY):
        encoder = Encoder(payload, None)
        if text.encode("utf-8", "replace").decode() == text:
            assert encoder.event(event) == text.encode()
        else:
            with pytest.raises(EventError, match="surrogate"):
                encoder.event(event)


def test_base64_is_decoded_and_nothing_else_is_base64() -> None:
    encoder = Encoder(Payload.BINARY_BASE64, None)
    assert encoder.event(JsonLine(b'"AAE\\u003d"')) == b"\x00\x01"
    with pytest.raises(EventError, match="base64"):
        encoder.event(JsonLine(b"{}"))


@given(LINES.filter(lambda line: line.strip().startswith(b"{")), st.integers(1, 2**63))
@example(b"{}", 1)
@example(b"{ \t }", 1)
@example(b'{"a":1 }', 1)
@example(b'{"a":"{"}', 1)
def test_a_stamp_is_put_in_and_touches_nothing_else(line: bytes, epoch: int) -> None:
    config = load_config({"url": "ws://h/", "delivery": {"stamp": STAMP}})
    encoder = Encoder(config.payload, None, stamp=STAMP)
    event = JsonLine.read(line)
    held: Any = event.value()
    if STAMP in held:
        with pytest.raises(EventError, match="already"):
            encoder.event(event)
        return
    accepted = Accepted(encoder.event(event), event)
    packer = Packer(config, encoder, epoch=epoch, resolve=lambda *_: None)
    packer.number(accepted)
    assert accepted.payload.startswith(event.text[:-1])
    pairs = json.loads(accepted.payload, object_pairs_hook=list)
    assert pairs[-1] == (STAMP, f"{epoch}-1")
    assert repr(pairs[:-1]) == repr(json.loads(line, object_pairs_hook=list))


@given(LINES)
def test_a_spool_keeps_the_line(line: bytes) -> None:
    event = JsonLine.read(line)
    accepted = Accepted(event.text, event)
    kind = kind_of(accepted, Payload.JSON)
    back = event_of(Entry(1, 1, kind, stored_payload(accepted), None, 0.0))
    assert isinstance(back, JsonLine)
    assert back == event
    assert hash(back) == hash(event)


@given(TEXTS, st.sampled_from(["\n", "\r\n", " \n\n"]))
def test_json_on_several_lines_is_joined_token_by_token(text: str, ends: str) -> None:
    spread = f"[{ends}{text},{ends}1{ends}]{ends}".encode()
    joined = JsonLine.joined(spread).text
    assert b"\n" not in joined
    assert joined == spread.strip().replace(b"\n", b" ")
    assert repr(json.loads(joined)) == repr(json.loads(spread))
    assert JsonLine.joined(text.encode()).text == text.encode()


def test_a_line_shows_nothing_of_itself() -> None:
    assert repr(JsonLine(b'"canary"')) == "JsonLine(text=<8 bytes>)"
    assert JsonLine(b"1") != orjson.Fragment(b"1")


DEPTH = 900
"""Levels that orjson reads, and that neither it nor Python's own encoder writes."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | UNICODE,
    lambda inner: st.lists(inner) | st.dictionaries(UNICODE, inner),
    max_leaves=9,
)


@given(VALUES)
@example({"large": 2**64, "b": [[], {}, [None, True], {"é\n": -1.5}]})
def test_a_value_is_written_as_it_reads(value: Any) -> None:
    for each in (value, [value, 2**64]):
        written = write_json(each)
        assert repr(json.loads(written)) == repr(each)
        assert b"\n" not in written


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}"), ('[1,{"b":', ',"c":2}]')])
def test_brackets_are_written_to_any_depth(opened: str, closed: str) -> None:
    text = f"{opened * (DEPTH // 2)}0{closed * (DEPTH // 2)}"
    assert write_json(parse_json(text)) == text.encode()


@pytest.mark.parametrize(
    ("value", "error"), [("\ud800", ValueError), ({"\ud800": 1}, ValueError), ([{1}], TypeError)]
)
def test_what_json_can_not_say_is_not_written(value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        write_json(value)


def test_a_number_over_64_bits_in_very_many_brackets_is_exact_or_refused() -> None:
    text = f"{'[' * 1020}{2**64}{']' * 1020}"
    try:
        value: Any = parse_json(text)
    except ValueError as error:
        assert "too many brackets" in str(error), "Python reads to a depth that differs by version"
    else:
        for _ in range(1020):
            (value,) = value
        assert value == 2**64
