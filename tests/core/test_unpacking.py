"""Messages taken apart: what was packed comes back, and what was not is refused in one way only."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.message import Accepted
from trio_wsout._core.packing import Packer
from trio_wsout._core.payload import Encoder, MessageError
from trio_wsout._core.unpacking import Unpacker
from trio_wsout.config.sections import Batch, BatchMode, Config, Payload

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
EDGES = st.sampled_from(
    [
        None,
        "",
        "# head",
        "two\nlines",
        "\n",
        "ends\n",
        "a price of $${5}",
        "at ${env|HOST}",
        "${attempt}\n${cursor||none}\n--",
        "${env|NOBODY||}",
        "${batch|number}: ${batch|count}",
        "${event|/a} ${a} ${time|iso}\n${time|epoch}",
    ]
)


def batch(*, header: str | None = None, footer: str | None = None, wrapped: bool = False) -> Batch:
    return Batch(mode=BatchMode.FIXED, fixed_size=3, header=header, footer=footer, wrap_as_json=wrapped)


def unpacker(
    payload: Payload = Payload.TEXT,
    *,
    header: str | None = None,
    footer: str | None = None,
    wrapped: bool = False,
) -> Unpacker:
    return Unpacker(payload, batch(header=header, footer=footer, wrapped=wrapped))


def packed(payload: Payload, policy: Batch, events: list[Any]) -> list[str | bytes]:
    """The events as messages, the way that an output of ours sends them."""
    encoder = Encoder(payload, policy)
    values: dict[str, dict[str | None, str | None]] = {
        "env": {"HOST": "a${b}c", "NOBODY": None},
        "attempt": {None: "3"},
        "cursor": {None: None},
    }
    packer = Packer(
        Config(payload=payload, batch=policy),
        encoder,
        epoch=1,
        resolve=lambda source, name: values[source][name],
    )
    messages: list[Any] = []
    for event in events:
        accepted = Accepted(encoder.event(event), event)
        messages += packer.add(accepted, 0.0, 0.0)[0]
    messages += packer.flush()
    return [each.payload.decode() if encoder.is_text else each.payload for each in messages]


@given(data=st.data(), header=EDGES, footer=EDGES)
@pytest.mark.parametrize(
    ("payload", "one"),
    [
        (Payload.JSON, JSON),
        (Payload.TEXT, LINES.filter(bool)),
        (Payload.BINARY, st.binary(min_size=1).filter(lambda event: b"\n" not in event)),
        (
            Payload.BINARY_BASE64,
            st.binary(min_size=1)
            .filter(lambda event: b"\n" not in event)
            .map(lambda event: base64.b64encode(event).decode()),
        ),
    ],
    ids=[payload.value for payload in Payload],
)
def test_lines_come_back(
    payload: Payload, one: st.SearchStrategy[Any], data: st.DataObject, header: str | None, footer: str | None
) -> None:
    events = data.draw(st.lists(one, min_size=1, max_size=7))
    policy = batch(header=header, footer=footer)
    messages = packed(payload, policy, events)
    assert len(messages) == -(-len(events) // 3)
    apart = Unpacker(payload, policy)
    assert [event for message in messages for event in apart.events(message)] == events


@given(
    payload=st.sampled_from(Payload),
    events=st.lists(JSON, min_size=1, max_size=7),
    header=EDGES,
    footer=EDGES,
)
def test_arrays_come_back(
    payload: Payload, events: list[Any], header: str | None, footer: str | None
) -> None:
    policy = batch(header=header, footer=footer, wrapped=True)
    apart = Unpacker(payload, policy)
    messages = packed(payload, policy, events)
    assert [event for message in messages for event in apart.events(message)] == events


@given(events=st.lists(JSON), lines=st.booleans())
def test_an_array_may_be_written_over_several_lines_by_others(events: list[Any], lines: bool) -> None:
    message = f"head\n{json.dumps(events, indent=1 if lines else None)}\nfoot"
    assert unpacker(header="head", footer="foot", wrapped=True).events(message) == events


@given(events=st.lists(LINES, min_size=2))
def test_empty_texts_come_back_where_there_are_several(events: list[str]) -> None:
    encoder = Encoder(Payload.TEXT, batch())
    message = encoder.message([encoder.event(event) for event in events], None, None)
    assert unpacker().events(message.decode()) == events


@pytest.mark.parametrize(
    ("event", "came"), [({"a": 1}, '{"a":1}'), ([1], "[1]"), (None, "null"), (7, "7"), ("7", "7")]
)
def test_under_text_what_was_no_text_comes_as_its_json(event: object, came: str) -> None:
    (message,) = packed(Payload.TEXT, batch(), [event])
    assert unpacker().events(message) == [came]


def test_base64_comes_as_base64_of_the_bytes_that_came() -> None:
    apart = unpacker(Payload.BINARY_BASE64)
    assert apart.events(b"\xff\xfe\na") == ["//4=", "YQ=="]
    assert apart.events("no base64\né") == ["no base64", "é"], "a text message is text all the same"


def test_binary_comes_as_bytes_whatever_it_was() -> None:
    (message,) = packed(Payload.BINARY, batch(), ["é", b"\xff", {"a": 1}])
    assert unpacker(Payload.BINARY).events(message) == ["é".encode(), b"\xff", b'{"a":1}']


@pytest.mark.parametrize(
    ("header", "footer", "message", "events"),
    [
        (None, None, "a\nb", ["a", "b"]),
        (None, None, "", []),
        (None, None, "\n", ["", ""]),
        (None, None, "a\n", ["a", ""]),
        ("h", None, "h\na", ["a"]),
        ("h", None, "h\nh", ["h"]),
        ("h", None, "h\n", []),
        ("h", None, "h", []),
        (None, "f", "a\nf", ["a"]),
        (None, "f", "f", []),
        ("h", "f", "h\nf", []),
        ("h", "f", "h\n\nf", []),
        ("h", "f", "h\na\nb\nf", ["a", "b"]),
        ("h\ni", "f", "h\ni\na\nf", ["a"]),
        ("", "", "\na\n", ["a"]),
        ("$${x}", None, "${x}\na", ["a"]),
        ("${attempt}", None, "anything\na", ["a"]),
        ("${attempt}", "${cursor}", "\na\n", ["a"]),
        ("${attempt}\n-", None, "1\n?\na", ["a"]),
    ],
)
def test_header_and_footer_come_off(
    header: str | None, footer: str | None, message: str, events: list[str]
) -> None:
    apart = unpacker(header=header, footer=footer)
    assert apart.events(message) == events
    assert apart.events(message.encode()) == [event.encode() for event in events]


@pytest.mark.parametrize(
    ("header", "footer", "message"),
    [
        ("h", None, ""),
        ("h", None, "a"),
        ("h", None, "H\na"),
        ("h", None, "h \na"),
        ("h", None, "\nh\na"),
        ("h\ni", None, "h"),
        ("h\ni", None, "h\na"),
        (None, "f", "f\na"),
        (None, "f", "a\nf\n"),
        ("h", "f", "h"),
        ("x", "x", "x"),
        ("h", "f", "f\na\nh"),
        ("", None, "a"),
        ("$${x}", None, "$${x}\na"),
        ("${attempt}", "${cursor}", "one line"),
        ("${attempt}\n-", "f", "1\nf"),
        ("h", "${cursor}", "g\na\nf"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_another_header_or_footer_is_refused(
    header: str | None, footer: str | None, message: str, wrapped: bool
) -> None:
    apart = unpacker(header=header, footer=footer, wrapped=wrapped)
    for each in (message, message.encode()):
        with pytest.raises(MessageError, match="header and footer"):
            apart.events(each)


@pytest.mark.parametrize(
    "message", ["", "h", "{}", "null", '"[]"', "[1] [2]", "[1,]", "[NaN]", "1\n2", "[1", "[\ufeff]", "[1e]"]
)
def test_with_wrap_as_json_there_is_an_array_or_nothing(message: str) -> None:
    with pytest.raises(MessageError, match="wrap-as-json"):
        unpacker(wrapped=True).events(message)


def test_an_array_needs_its_line() -> None:
    with pytest.raises(MessageError, match="wrap-as-json"):
        unpacker(header="h", wrapped=True).events("h")


def test_an_empty_array_is_an_empty_batch() -> None:
    assert unpacker(wrapped=True).events(b"[]") == []


@pytest.mark.parametrize("message", ["{}\n", "\n{}", "{}\n{", "{}\r\n{}\n ", b"1\n\xff", "{}\n\n{}"])
def test_under_json_every_line_is_json(message: str | bytes) -> None:
    with pytest.raises(MessageError, match="payload is json"):
        unpacker(Payload.JSON).events(message)


@pytest.mark.parametrize("number", [2**64 - 1, 2**64, 10**40])
def test_no_whole_number_is_read_as_another(number: int) -> None:
    assert unpacker(wrapped=True).events(f"[{number}]") == [number]
    assert unpacker(Payload.JSON).events(f"{number}\n[{number}]") == [number, [number]]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("depth", [100, 1020, 5000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_around_a_long_number_is_decoded_or_refused(
    opening: str, depth: int, wrapped: bool
) -> None:
    closing = "]" if opening == "[" else "}"
    message = f"[{opening * depth}1234567890123456789012345{closing * depth}]"
    try:
        (event,) = unpacker(Payload.JSON, wrapped=wrapped).events(message)
    except MessageError:
        assert depth > 1000
    else:
        assert isinstance(event, list | dict)


def test_what_only_the_exact_parser_finds_too_deep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # How deep that is, and whether orjson goes as deep at all, differs between Pythons.
    def exact(_text: str) -> object:
        raise RecursionError

    monkeypatch.setattr("json.loads", exact)
    with pytest.raises(MessageError, match="payload is json"):
        unpacker(Payload.JSON).events(f"{2**64}")


@pytest.mark.parametrize("digits", [308, 310, 5000, 100_000])
def test_a_number_of_many_digits_is_exact_or_refused(digits: int) -> None:
    message = "[" + "1" * digits + "]"
    for apart, event in (
        (unpacker(wrapped=True), 10**digits // 9),
        (unpacker(Payload.JSON), [10**digits // 9]),
    ):
        try:
            assert apart.events(message) == [event]
        except MessageError:
            assert digits > 308, "a float may be as large"


PIECES = st.sampled_from(
    ["h", "f", "\n", "[", "]", "{", "}", '"', "1", ",", "é", "\0", "12345678901234567890"]
)
MESSAGES = (
    st.text()
    | st.binary()
    | st.lists(PIECES).map("".join)
    | st.lists(PIECES).map(lambda pieces: "".join(pieces).encode())
)


def refused_or_apart(apart: Unpacker, message: str | bytes) -> None:
    try:
        events = apart.events(message)
    except MessageError as error:
        assert str(error)
    else:
        assert len(events) <= len(message) + 1


@given(payload=st.sampled_from(Payload), header=EDGES, footer=EDGES, wrapped=st.booleans(), message=MESSAGES)
def test_whatever_comes_is_taken_apart_or_refused(
    payload: Payload, header: str | None, footer: str | None, wrapped: bool, message: str | bytes
) -> None:
    refused_or_apart(unpacker(payload, header=header, footer=footer, wrapped=wrapped), message)
