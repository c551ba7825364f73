"""Who said it, and what the application makes of a message before it is passed on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st
from trio_wsout._core.callables import CallableError
from trio_wsout._core.edits import Edits
from trio_wsout._core.json_line import parse_json
from trio_wsout._core.received import Peer, RawReceived, Received
from trio_wsout.config import Payload
from trio_wsout.errors import EventError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.just("from"), inner, max_size=3),
    max_leaves=8,
)
ANN = Peer(address="memory", identity="ann")


def edits(on_message: Any = None, *, name: str | None = None, payload: Payload = Payload.JSON) -> Edits:
    return Edits(payload, name, on_message)


def message(raw: str | bytes, peer: Peer = ANN) -> RawReceived:
    given = raw.encode() if isinstance(raw, str) else raw
    return RawReceived(parse_json(given), peer, given)


def raw_of(edited: RawReceived | None) -> bytes:
    assert edited is not None
    return edited.raw


@given(JSON, TEXTS | st.just("from"), st.none() | TEXTS, st.sampled_from([None, 1, "\t"]))
@example({"from": "bob", "big": 2**70}, "from", "ann", None)
@example({}, "from", "ann", 1)
def test_an_object_says_who_sent_it_and_nothing_else_of_it_changes(
    event: Any, name: str, identity: str | None, indent: Any
) -> None:
    peer = Peer(address="memory", identity=identity)
    came = f" {json.dumps(event, indent=indent)}\r\n"
    edited = edits(name=name).edited(message(came, peer), signed=True)
    assert edited is not None
    expected = {**event, name: identity} if isinstance(event, dict) else event
    assert parse_json(edited.raw) == edited.event == expected
    if not isinstance(event, dict):
        assert edited.raw == came.encode()
    elif name not in event:
        assert edited.raw.startswith(came.strip()[:-1].encode())


def test_a_sender_can_not_hide_a_key_of_its_own_behind_an_escape_or_a_double() -> None:
    for came in ('{"fr\\u006fm": "bob"}', '{"from": "bob", "from": "eve"}'):
        raw = raw_of(edits(name="from").edited(message(came), signed=True))
        assert raw == b'{"from":"ann"}'


def test_what_comes_down_a_link_is_not_signed() -> None:
    came = message('{"from": "bob"}')
    assert edits(name="from").edited(came, signed=False) is came


@given(JSON)
@example({"big": 2**70, "f": 1e-7})
def test_what_the_application_lets_pass_goes_on_byte_for_byte(event: Any) -> None:
    came = message(json.dumps(event, indent=1))
    seen: list[Received] = []

    def on_message(item: Received) -> Received:
        seen.append(item)
        return item

    assert raw_of(edits(on_message).edited(came, signed=True)) == came.raw
    assert [item.event for item in seen] == [event]


@pytest.mark.parametrize(
    ("change", "raw"),
    [
        (lambda item: evolve(item, event={"b": 2}), b'{"b":2}'),
        (lambda item: Received({"b": 2}, item.peer), b'{"b":2}'),
        (lambda item: item.event.update(a=True) or item, b'{"a":true}'),
        (lambda item: item.event.update(b=2) or item, b'{"a":1,"b":2}'),
    ],
)
def test_what_the_application_changes_goes_on_changed(change: Any, raw: bytes) -> None:
    edited = edits(change).edited(message('{"a": 1}'), signed=True)
    assert raw_of(edited) == raw
    assert edited is not None
    assert edited.event == json.loads(raw)
    assert edited.peer is ANN


def test_the_application_sees_who_sent_it_and_has_the_last_word() -> None:
    seen: list[Any] = []

    def on_message(item: Received) -> Received:
        seen.append(item.event)
        return evolve(item, event={"from": "nobody"})

    assert raw_of(edits(on_message, name="from").edited(message("{}"), signed=True)) == b'{"from":"nobody"}'
    assert seen == [{"from": "ann"}]


def test_none_refuses() -> None:
    assert edits(lambda _: None).edited(message("1"), signed=True) is None


async def coroutine(item: Received) -> Received:
    return item


@pytest.mark.parametrize(
    ("on_message", "error", "told"),
    [
        (coroutine, CallableError, "the on_message callable must not be async"),
        (lambda _: {"a": 1}, CallableError, r"must return a Received or None \(it returned dict\)"),
        (lambda item: evolve(item, event={"s": {1}}), EventError, r"\$\.s: set is not a JSON value"),
        (lambda item: item.event.update(s={1}) or item, EventError, r"\$\.s: set is not a JSON value"),
        (lambda _: {}["x"], KeyError, "x"),
    ],
)
def test_mistakes_are_told(on_message: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        edits(on_message).edited(message("{}"), signed=True)


def test_without_json_an_event_goes_as_the_payload_says() -> None:
    came = RawReceived("hello", ANN, b"hello")
    edited = edits(lambda item: evolve(item, event="HELLO"), payload=Payload.TEXT).edited(came, signed=True)
    assert edited == RawReceived("HELLO", ANN, b"hello")


def test_nothing_to_do_is_known_before() -> None:
    assert edits().nothing
    assert not edits(name="from").nothing
    assert not edits(lambda item: item).nothing


DEPTH = 900
"""Levels that a message may have (orjson reads 1024), and that Python's recursion limit does not let json write."""


def test_a_message_may_be_nested_deeper_than_calls_may() -> None:
    deep = "[" * DEPTH + "1" + "]" * DEPTH
    came = message(f'{{"from": "bob", "deep": {deep}}}')
    raw = raw_of(edits(lambda item: item, name="from").edited(came, signed=True))
    assert raw == f'{{"from":"ann","deep":{deep}}}'.encode()
    assert raw_of(edits(lambda item: item).edited(came, signed=True)) == came.raw


@pytest.mark.parametrize(
    ("was", "now"), [("0.0", -0.0), ("1", 1.0), ("1", True), ("[1]", [1, 2]), ('{"a":1,"b":2}', None)]
)
def test_a_change_in_place_that_python_calls_equal_is_a_change(was: str, now: object) -> None:
    def on_message(item: Received) -> Received:
        assert isinstance(item.event, dict)
        item.event["v"] = now if now is not None else {"b": 2, "a": 1}
        return item

    edited = edits(on_message).edited(message(f'{{"v":{was}}}'), signed=True)
    assert raw_of(edited) != f'{{"v":{was}}}'.encode()


def test_an_event_that_holds_itself_is_refused() -> None:
    with pytest.raises(EventError, match="nested too deeply"):
        edits(lambda item: item.event.append(item.event) or item).edited(message("[1]"), signed=True)


def test_an_event_that_became_too_deep_to_be_compared_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(EventError, match="nested too deeply"):
        edits(lambda item: item.event.append(deep) or item).edited(message("[1]"), signed=True)
