"""Cursor values and acknowledgements."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from trio_wsout._core.acknowledgement import AckReader, Epochs, stamp_of
from trio_wsout._core.cursor import (
    MISSING,
    CursorReader,
    ReceivedCursor,
    default_state_id,
    pointer_value,
    value_text,
)
from trio_wsout._core.durable_log import gap_in, gap_message
from trio_wsout._core.json_line import parse_json
from trio_wsout._core.message import Accepted
from trio_wsout._core.received import Gap, Peer, Received
from trio_wsout._core.request import build_request
from trio_wsout._core.statistics import Counters
from trio_wsout.config import Config, Cursor, CursorFrom
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


def test_a_cursor_of_what_comes_in_is_kept_beside_one_of_what_is_sent() -> None:
    sent, received = (default_state_id("ws://h/", of=each) for each in CursorFrom)
    assert (sent, received) == (
        default_state_id("ws://h/"),
        default_state_id("ws://h", of=CursorFrom.RECEIVED),
    )
    assert sent != received


FROM = Peer(address="h:80")


def following(**fields: Any) -> tuple[ReceivedCursor, Counters, list[str]]:
    counters, moves = Counters(), list[str]()
    cursor = ReceivedCursor(CursorReader(Cursor(from_=CursorFrom.RECEIVED, **fields)), counters)
    cursor.on_moved = moves.append
    return cursor, counters, moves


@pytest.mark.parametrize(
    ("event", "value"),
    [
        ({"id": 7}, "7"),
        ('{"id": 7}', "7"),
        (b'{"id": "a"}', "a"),
        ('{"id": 1}\n{"id": 2}', "2"),
        (b'{"id": 1}\n{"id": 2}', "2"),
        ('{\n"id": 1\n}', "1"),
        ('{"id": 1}\n', "1"),
        ("id", None),
        (b"\xff", None),
        ("7", None),
        ({"id": None}, None),
        ({"gap": 1}, None),
    ],
)
def test_a_message_is_read_as_json_for_its_cursor(event: object, value: str | None) -> None:
    cursor, counters, _ = following(value_field="id")
    assert cursor.value_of(Received(event, FROM)) == value
    assert counters.without_cursor == (value is None)


def test_a_message_may_be_its_cursor_as_a_whole() -> None:
    cursor, _, _ = following(value_pointer="")
    assert cursor.value_of(Received('{"id": 7}', FROM)) == '{"id": 7}'


@given(st.none() | st.text(), st.none() | st.text())
def test_a_gap_is_known_by_the_message_that_reports_it(asked: str | None, first: str | None) -> None:
    try:
        message = gap_message(asked, first)
    except TypeError:  # half of a surrogate pair
        return
    for event in (parse_json(message), message.decode(), message):
        cursor, counters, moves = following(value_field="gap.first")
        gaps: list[Gap] = []
        cursor.on_gap = gaps.append
        found = cursor.hand_out(Received(event, FROM))
        assert gaps == [found] == [Gap(event, FROM, asked, first)]
        cursor.taken()
        assert (counters.gaps, counters.without_cursor, moves) == (1, 0, [])


@pytest.mark.parametrize(
    "value",
    [
        {"gap": {"asked": "a"}},
        {"gap": {"asked": "a", "first": 1}},
        {"gap": {"asked": "a", "first": "b", "x": 1}},
        {"gap": {"asked": "a", "first": "b"}, "x": 1},
        {"gap": None},
        [],
    ],
)
def test_what_reports_no_gap(value: object) -> None:
    assert gap_in(value) is None


class ReceivedCursorMachine(RuleBasedStateMachine):
    """The cursor against a list of all messages and how many of them were taken."""

    def __init__(self) -> None:
        super().__init__()
        self.cursor, self.counters, self.moves = following(value_field="id")
        self.messages: list[object] = []
        self.taken = 0

    @rule(event=st.sampled_from([{"id": 1}, {"id": 2}, {}, {"id": ""}, {"id": "x" * 5000}, '{"id": 3}']))
    def comes(self, event: object) -> None:
        assert self.cursor.hand_out(Received(event, FROM)) == Received(event, FROM)
        self.messages.append(event)

    @rule()
    def gap_comes(self) -> None:
        event = {"gap": {"asked": "1", "first": None}}
        assert isinstance(self.cursor.hand_out(Received(event, FROM)), Gap)
        self.messages.append(event)

    @rule()
    def asks_for_the_next(self) -> None:
        self.cursor.taken()
        self.taken = len(self.messages)

    @invariant()
    def is_that_of_the_last_message_that_was_taken(self) -> None:
        values = [
            "3" if isinstance(each, str) else str(each.get("id", ""))  # type: ignore[attr-defined]
            for each in self.messages
        ]
        usable = [value for value in values[: self.taken] if 0 < len(value) <= 4096]
        assert self.moves[-1:] == usable[-1:]
        gaps = sum("gap" in each for each in self.messages)  # type: ignore[operator]
        assert self.counters.gaps == gaps
        assert self.counters.without_cursor == sum(not 0 < len(value) <= 4096 for value in values) - gaps


TestReceivedCursorMachine = ReceivedCursorMachine.TestCase


def flight(*events: Any, first: int = 1) -> list[Accepted]:
    by_id = CursorReader(Cursor(value_field="id"))
    return [
        Accepted(b"", event=event, seq=seq, cursor=by_id.value_of(event))
        for seq, event in enumerate(events, first)
    ]


def ack_reader(epoch: int) -> AckReader:
    epochs = Epochs()
    epochs.begin(epoch, 0)
    return AckReader("/ack", epochs)


def test_what_is_no_acknowledgement() -> None:
    reader = ack_reader(7)
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
    assert ack_reader(7).seq_of(value, flight({}, {}, {}, first=5)) == seq
    assert ack_reader(7).seq_of(value, []) is None


def test_a_cursor_value_names_the_oldest_event_that_has_it() -> None:
    reader = ack_reader(7)
    events = flight({"id": "a"}, {"id": 9}, {"id": "a"}, {})
    assert reader.seq_of("a", events) == 1
    assert reader.seq_of(9, events) == 2
    assert reader.seq_of(3, events) == 3, "no cursor has it, so it is a sequence number"
    assert reader.seq_of("none", events) is None


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_stamp_is_understood(epoch: int, seq: int) -> None:
    events = flight({}, first=seq)
    assert ack_reader(epoch).seq_of(stamp_of(epoch, seq), events) == seq
    assert ack_reader(epoch + 1).seq_of(stamp_of(epoch, seq), events) is None
