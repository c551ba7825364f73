"""Cursor values and acknowledgements."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.acknowledgement import AckReader, stamp_of
from trio_wsout._core.cursor import MISSING, CursorReader, default_state_id, pointer_value, value_text
from trio_wsout._core.message import Accepted
from trio_wsout._core.request import build_request
from trio_wsout.config import Config, Cursor
from trio_wsout.config.event_paths import parse_pointer
from trio_wsout.errors import EventError

RFC = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", RFC),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
        ("/none", MISSING),
        ("/foo/2", MISSING),
        ("/foo/-", MISSING),
        ("/foo/00", MISSING),
        ("/foo/1e0", MISSING),
        ("/foo/-1", MISSING),
        ("/foo/" + "9" * 30, MISSING),
        ("/foo/0/x", MISSING),
        ("//x", MISSING),
    ],
)
def test_pointers_find_what_the_rfc_says(pointer: str, value: object) -> None:
    assert pointer_value(RFC, parse_pointer(pointer)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "x"),
        ("", ""),
        (7, "7"),
        (-1, "-1"),
        (1.5, "1.5"),
        (1e21, "1e+21"),
        (True, None),
        (None, None),
        ([], None),
        (float("nan"), None),
        (float("inf"), None),
    ],
)
def test_texts_and_numbers_are_cursors(value: object, text: str | None) -> None:
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("cursor", "event", "value"),
    [
        (Cursor(value_field="data.id"), {"data": {"id": 7}}, "7"),
        (Cursor(value_field="data.1"), {"data": [1, "b"]}, "b"),
        (Cursor(value_field="id"), {"data": 1}, None),
        (Cursor(value_field="id"), '{"id": 1}', None),
        (Cursor(value_field="id"), b"x", None),
        (Cursor(value_pointer="/a~1b"), {"a/b": "x"}, "x"),
        (Cursor(value_pointer=""), "x", "x"),
        (Cursor(), {"id": 1}, None),
    ],
)
def test_events_have_cursor_values(cursor: Cursor, event: object, value: str | None) -> None:
    assert CursorReader(cursor).value_of(event) == value


@given(
    value=st.text(max_size=20) | st.text(st.sampled_from("a\N{SNOWMAN}"), min_size=1300, max_size=4200),
    in_header=st.booleans(),
)
def test_what_is_adopted_is_what_a_handshake_carries(value: str, in_header: bool) -> None:
    cursor = Cursor(
        header_name="C" if in_header else None, query_parameter="c", value_field="id", initial_value=value
    )
    reader = CursorReader(cursor, in_header=in_header)
    carried = len(value.encode()) <= 4096
    try:
        build_request(Config(url="ws://h", cursor=cursor), resolve=lambda *_: None, cursor=value)
    except ValueError:
        carried = False
    usable, why = reader.adopted(value, "it")
    assert usable == (value if carried and value else None)
    assert (why is None) == carried
    assert reader.unusable == (not carried)
    assert reader.value_from({"id": value}) == usable
    assert reader.unusable == 2 * (not carried)
    if carried:
        assert reader.value_of({"id": value}) == usable
    else:
        with pytest.raises(EventError, match=r"^\$\.id: the cursor h"):
            reader.value_of({"id": value})


def test_the_default_state_id_is_of_the_place_and_not_of_its_secrets() -> None:
    one = default_state_id("ws://Host:80/a?token=1")
    assert one == default_state_id("ws://host:80/a?token=2")
    others = [default_state_id(url) for url in ("ws://host/a", "wss://host:80/a", "ws://host:80/b", "")]
    assert len({one, *others}) == 5
    assert one.isalnum()
    assert default_state_id("ws://h") == default_state_id("ws://h/")
    templated = default_state_id("wss://[${env|V6}]/${secret|a}?token=${secret|b}")
    assert templated == default_state_id("wss://[${env|V6}]/${secret|a}")
    assert templated != default_state_id("wss://[${env|V6}]/${secret|b}")


def flight(*events: Any, first: int = 1) -> list[Accepted]:
    by_id = CursorReader(Cursor(value_field="id"))
    return [
        Accepted(b"", event=event, seq=seq, cursor=by_id.value_of(event))
        for seq, event in enumerate(events, first)
    ]


def test_what_is_no_acknowledgement() -> None:
    reader = AckReader("/ack", 7)
    for message in ("", "no json", "[1]", '{"x": 1}', b"\xff"):
        assert reader.value_in(message) is MISSING
    assert reader.value_in('{"ack": null}') is None


@pytest.mark.parametrize(
    ("value", "seq"),
    [
        (5, 5),
        ("7-6", 6),
        (4, None),
        (8, None),
        ("8-6", None),
        ("6", None),
        ("7-x", None),
        ("7-", None),
        ("7-" + "9" * 400, None),
        (5.0, None),
        (True, None),
        (None, None),
        ([], None),
    ],
)
def test_sequence_numbers_name_what_is_in_flight(value: object, seq: int | None) -> None:
    assert AckReader("/ack", 7).seq_of(value, flight({}, {}, {}, first=5)) == seq
    assert AckReader("/ack", 7).seq_of(value, []) is None


def test_a_cursor_value_names_the_oldest_event_that_has_it() -> None:
    reader = AckReader("/ack", 7)
    events = flight({"id": "a"}, {"id": 9}, {"id": "a"}, {})
    assert reader.seq_of("a", events) == 1
    assert reader.seq_of(9, events) == 2
    assert reader.seq_of(3, events) == 3, "no cursor has it, so it is a sequence number"
    assert reader.seq_of("none", events) is None


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_stamp_is_understood(epoch: int, seq: int) -> None:
    events = flight({}, first=seq)
    assert AckReader("/ack", epoch).seq_of(stamp_of(epoch, seq), events) == seq
    assert AckReader("/ack", epoch + 1).seq_of(stamp_of(epoch, seq), events) is None
