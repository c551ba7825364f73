"""The packer: numbers in order, stamps where they belong, and nothing that does not fit."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.batching import Document
from trio_wsout._core.durable_log import Entry, Kind
from trio_wsout._core.json_line import JsonLine
from trio_wsout._core.message import Accepted, Message
from trio_wsout._core.packing import Packer, PackingError
from trio_wsout._core.payload import Encoder
from trio_wsout.config import Batch, BatchMode, Config, Delivery, Payload


def packer(values: list[str | None] | None = None, **fields: Any) -> tuple[Packer, Encoder]:
    config = Config(url="ws://h/", payload=Payload.JSON, **fields)
    encoder = Encoder(config.payload, config.batch, stamp=config.delivery.stamp)
    given_values = iter(values or [])
    return Packer(config, encoder, epoch=7, resolve=lambda *_: next(given_values, None)), encoder


def accepted(encoder: Encoder, event: object) -> Accepted:
    return Accepted(encoder.event(event), event)


def kept(payloads: list[bytes]) -> list[Entry]:
    """Events as a history has them."""
    return [Entry(number, 7, Kind.JSON, each, None, 0.0) for number, each in enumerate(payloads, 1)]


def add(made: Packer, item: Accepted, now: float = 0.0, at: float = 0.0) -> list[Message]:
    """Add an event that must be taken."""
    messages, refusal = made.add(item, now, at)
    assert refusal is None
    return list(messages)


def test_events_that_go_alone_are_numbered_and_stamped() -> None:
    made, encoder = packer(delivery=Delivery(stamp="s"))
    assert made.alone
    items = [accepted(encoder, event) for event in ({"a": 1}, [1], {})]
    for item in items[:2]:
        made.number(item)
    assert add(made, items[2]) == [items[2]]
    assert [item.seq for item in items] == [1, 2, 3]
    assert [item.payload for item in items] == [b'{"a":1,"s":"7-1"}', b"[1]", b'{"s":"7-3"}']
    assert (made.deadline, made.pending, made.last_seq) == (None, 0, 3)
    for nothing in (made.poll(9.0), made.flush(), made.end_document()[0]):
        assert nothing == ()


@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_batches_keep_every_event_in_order(events: list[int], size: int) -> None:
    made, encoder = packer(batch=Batch(mode=BatchMode.FIXED, fixed_size=size))
    messages = [message for event in events for message in add(made, accepted(encoder, event % 1000))]
    messages += made.flush()
    assert [item.event for message in messages for item in message.events] == [
        event % 1000 for event in events
    ]
    lines = [line for message in messages for line in message.payload.split(b"\n")]
    assert lines == [str(event % 1000).encode() for event in events]


def test_header_and_footer_are_expanded_for_each_batch_as_it_opens() -> None:
    made, encoder = packer(
        ["a", "b", "c"], batch=Batch(mode=BatchMode.FIXED, fixed_size=2, header="${cursor}")
    )
    messages = [message for number in range(4) for message in add(made, accepted(encoder, number))]
    assert [message.payload for message in messages] == [b"a\n0\n1", b"b\n2\n3"]


def test_half_of_a_surrogate_pair_in_a_value_is_no_count_and_no_crash() -> None:
    made, encoder = packer(
        ["a\ud800\udcff"], batch=Batch(mode=BatchMode.FIXED, header="${secret|k} ${batch|count}")
    )
    assert add(made, accepted(encoder, 1)) == []
    assert [message.payload for message in made.flush()] == [b"a?? 1\n1"]


def test_an_event_that_closes_a_batch_by_not_fitting_opens_one_with_its_own_header() -> None:
    batch = Batch(mode=BatchMode.FIXED, header="${batch|number} ${event|/n} ${secret|k}")
    made, encoder = packer(["first", "2nd"], batch=batch, max_message_size=30)
    items = [accepted(encoder, {"n": number}) for number in range(3)]
    assert add(made, items[0]) == []
    assert add(made, items[1]) == [], "9 and 1 of the header's line, 7 and 1 and 7: 25"
    (first,) = add(made, items[2])
    (second,) = made.flush()
    assert [first.payload, second.payload] == [b'1 0 first\n{"n":0}\n{"n":1}', b'2 2 2nd\n{"n":2}']


def test_an_event_that_closes_a_batch_and_is_refused_itself_keeps_the_batch() -> None:
    made, encoder = packer(
        ["ok", None], batch=Batch(mode=BatchMode.FIXED, footer="${secret|k}"), max_message_size=8
    )
    assert add(made, accepted(encoder, 11111)) == []
    (closed,), refusal = made.add(accepted(encoder, 22222), 0.0, 0.0)
    assert closed.payload == b"11111\nok"
    assert refusal is not None
    assert "secret" in refusal
    assert made.pending == 0


def test_what_fits_into_no_message_is_refused_and_the_next_is_not() -> None:
    batch = Batch(mode=BatchMode.FIXED, fixed_size=1, footer="${secret|k}")
    made, encoder = packer([None, "x" * 100, "ok"], batch=batch, max_message_size=50)
    for words in ("secret", "max-message-size"):
        messages, refusal = made.add(accepted(encoder, 1), 0.0, 0.0)
        assert messages == ()
        assert refusal is not None
        assert words in refusal
    (message,) = add(made, accepted(encoder, 2))
    assert message.payload == b"2\nok"


@pytest.mark.parametrize("value", ["a\nb", "a\n", "\r", "a\r\nb"])
def test_a_value_that_would_be_another_line_is_not_expanded(value: str) -> None:
    made, encoder = packer(
        [value, "ok"], batch=Batch(mode=BatchMode.FIXED, fixed_size=1, header="h ${secret|k}")
    )
    messages, refusal = made.add(accepted(encoder, 1), 0.0, 0.0)
    assert messages == ()
    assert refusal is not None
    assert "line break" in refusal
    (message,) = add(made, accepted(encoder, 2))
    assert message.payload == b"h ok\n2"


@pytest.mark.parametrize(
    ("header", "expanded"),
    [
        ("${batch|number} of ${batch|count}", "1 of 2"),
        ("${stat|_BATCH_NUMBER}", "1"),
        ("${event|/id}, ${id}", "x7, x7"),
        ("${a.b} ${event|/a/b} ${a}", '1.5 1.5 {"b":1.5}'),
        ("${flag} ${none} ${list} ${event|/list/0}", 'true null [1,"é"] 1'),
        ("[${missing}] [${event|/a/x}] ${missing||default}", "[] [] default"),
        ("${text}", "two\\nlines"),
        ("${time|iso} ${time|epoch}", "2001-09-09T01:46:40.125Z 1000000000"),
        ("$${id} @@{id}", "${id} @{id}"),
        ("${batch|count}${batch|count}", "22"),
    ],
)
def test_a_header_knows_its_batch(header: str, expanded: str) -> None:
    made, encoder = packer(batch=Batch(mode=BatchMode.FIXED, fixed_size=2, header=header, footer="end"))
    event = {"id": "x7", "a": {"b": 1.5}, "flag": True, "none": None, "list": [1, "é"], "text": "two\nlines"}
    assert add(made, accepted(encoder, event), at=1_000_000_000.125) == []
    (message,) = add(made, accepted(encoder, {"id": "not this"}), at=2_000_000_000.0)
    assert message.payload.decode().split("\n")[0] == expanded
    (message, *_) = [*add(made, accepted(encoder, event)), *made.flush()]
    assert message.count == 1


@given(st.datetimes(datetime(1970, 1, 1), datetime(2999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 - Hypothesis puts it in
def test_the_time_of_a_batch_is_the_calendars(when: datetime) -> None:
    when = when.replace(microsecond=when.microsecond // 1000 * 1000 + 500)
    made, encoder = packer(
        batch=Batch(mode=BatchMode.FIXED, fixed_size=1, header="${time|iso} ${time|epoch}")
    )
    (message,) = add(made, accepted(encoder, 1), at=when.timestamp())
    expected = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert message.payload.decode() == f"{expected} {int(when.timestamp())}\n1"


def test_a_header_may_hold_a_value_that_is_nested_deeper_than_calls_may() -> None:
    made, encoder = packer(batch=Batch(mode=BatchMode.FIXED, fixed_size=1, header="${event|/a}"))
    deep = "[" * 900 + "]" * 900
    (message,) = add(made, accepted(encoder, JsonLine(f'{{"a": {deep}}}'.encode())))
    assert message.payload.decode() == f'{deep}\n{{"a": {deep}}}'


@pytest.mark.parametrize("event", ["no JSON", "1.5", [1]])
def test_an_event_without_fields_leaves_them_empty(event: object) -> None:
    config = Config(url="ws://h/", batch=Batch(mode=BatchMode.FIXED, header="[${id}]"))
    encoder = Encoder(config.payload, config.batch)
    made = Packer(config, encoder, epoch=7, resolve=lambda *_: None)
    add(made, accepted(encoder, event))
    assert made.flush()[0].payload.startswith(b"[]\n")


@pytest.mark.parametrize(("most", "fits"), [(9, False), (10, True)])
def test_the_count_of_one_is_counted_for_an_event_alone(most: int, fits: bool) -> None:
    batch = Batch(mode=BatchMode.FIXED, fixed_size=1, header="${batch|count}${batch|count}")
    made, encoder = packer(batch=batch, max_message_size=most)
    messages, refusal = made.add(accepted(encoder, 1234567), 0.0, 0.0)
    assert [message.payload for message in messages] == [b"11\n1234567"] * fits
    assert (refusal is None) == fits


def test_batches_are_numbered_without_gaps_whatever_is_refused() -> None:
    batch = Batch(mode=BatchMode.FIXED, fixed_size=1, header="${batch|number}${secret|k}")
    made, encoder = packer(["", "x" * 100, ""], batch=batch, max_message_size=50)
    taken = [made.add(accepted(encoder, 0), 0.0, 0.0)[0] for _ in range(3)]
    assert [message.payload for messages in taken for message in messages] == [b"1\n0", b"2\n0"]


PIECES = st.sampled_from(
    ["${batch|count}", "${batch|number}", "${event|/t}", "${t}", "é", "-", "${time|epoch}"]
)
LINES = st.none() | st.lists(PIECES, max_size=4).map("".join)


@given(
    header=LINES,
    footer=LINES,
    wrapped=st.booleans(),
    most=st.integers(40, 200),
    texts=st.lists(st.text("aé\n", max_size=30), max_size=40),
    stamped=st.booleans(),
)
def test_no_batch_exceeds_max_message_size_and_none_is_closed_without_need(
    header: str | None,
    footer: str | None,
    wrapped: bool,
    most: int,
    texts: list[str],
    stamped: bool,
) -> None:
    batch = Batch(mode=BatchMode.DOCUMENT, header=header, footer=footer, wrap_as_json=wrapped)
    delivery = Delivery(stamp="s" if stamped else None)
    made, encoder = packer(batch=batch, max_message_size=most, delivery=delivery)
    messages: list[Message] = []
    refused = 0
    items = [accepted(encoder, {"t": text}) for text in texts]
    for item in items:
        closed, refusal = made.add(item, 0.0, 1e9)
        messages += closed
        refused += refusal is not None
    messages += made.flush()
    assert all(len(message.payload) <= most for message in messages)
    carried = [item for message in messages for item in message.events]
    assert len(carried) + refused == len(items)
    assert [item.seq for item in carried] == sorted({item.seq for item in carried})
    assert {item.seq for item in items} == set(range(1, len(items) + 1))
    for one, two in itertools.pairwise(messages):
        if two.events[0] is items[items.index(one.events[-1]) + 1]:  # nothing was refused between the two
            again = len(one.payload) + 1 + len(two.events[0].payload)
            digits = ((header or "") + (footer or "")).count("${batch|count}")
            assert again + digits * (len(str(one.count + 1)) - len(str(one.count))) > most


def test_documents_end_where_they_are_ended() -> None:
    made, encoder = packer(batch=Batch(mode=BatchMode.DOCUMENT, timeout=2.0, use_document_marker=True))
    add(made, accepted(encoder, 1))
    assert made.deadline == 2.0
    (message,), marker = made.end_document()
    assert message.document == marker == Document(id=1, first=True, last=True, count=1)
    add(made, accepted(encoder, 1))
    made.poll(2.0)
    assert made.end_document() == ((), Document(id=2, first=False, last=True, count=0))
    assert made.end_document() == ((), None)
    fixed, encoder = packer(batch=Batch(mode=BatchMode.FIXED))
    add(fixed, accepted(encoder, 1))
    assert fixed.end_document() == ((), None), "there are no documents to end"
    assert fixed.poll(0.1) != ()


def test_numbers_go_on_where_a_history_ended() -> None:
    config = Config(url="ws://h/", delivery=Delivery(stamp="s"))
    encoder = Encoder(config.payload, None, stamp="s")
    made = Packer(config, encoder, epoch=7, resolve=lambda *_: None, after=41)
    item = accepted(encoder, {})
    made.number(item)
    assert (item.seq, item.payload) == (42, b'{"s":"7-42"}')


@given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
def test_repacked_events_are_the_messages_that_they_were(numbers: list[int], size: int) -> None:
    batch = Batch(
        mode=BatchMode.FIXED, fixed_size=size, header="${batch|number} ${n} ${batch|count}", footer="f"
    )
    made, encoder = packer(batch=batch)
    items = [accepted(encoder, {"n": number % 1000}) for number in numbers]
    messages = [message.payload for item in items for message in add(made, item)]
    messages += [message.payload for message in made.flush()]
    entries = kept([item.payload for item in items])
    assert made.repack(entries, 0.0) == (len(items), messages)
    alone, _ = packer()
    assert alone.repack(entries, 0.0) == (len(items), [item.payload for item in items])


def test_repacking_needs_header_and_footer() -> None:
    made, _ = packer(batch=Batch(mode=BatchMode.FIXED, header="${env|HEADER}"))
    with pytest.raises(PackingError, match=r"batch\.header"):
        made.repack(kept([b"1"]), 0.0)


def test_an_event_that_was_never_the_first_of_a_batch_is_repacked_all_the_same() -> None:
    made, encoder = packer(batch=Batch(mode=BatchMode.FIXED, header="${t}"), max_message_size=40)
    large = encoder.event({"t": "x" * 20})
    assert made.repack(kept([large, b'{"t":1}']), 0.0) == (2, [b"\n" + large + b'\n{"t":1}'])
    assert made.repack(kept([b"1" * 40, b"2"]), 0.0) == (1, [b"\n2"]), "it never fitted, and was refused"


def test_what_is_repacked_has_the_stamp_of_its_own_epoch_and_position() -> None:
    made, _ = packer(delivery=Delivery(stamp="s"))
    entries = [
        Entry(3, 6, Kind.JSON, b'{"a":1}', None, 0.0),
        Entry(4, 7, Kind.LINE, b' {"a": 1} ', None, 0.0),
        Entry(5, 7, Kind.JSON, b"[1]", None, 0.0),
        Entry(6, 7, Kind.REFUSED, b"{}", None, 0.0),
        Entry(7, 7, Kind.TEXT, b"{}", None, 0.0),
    ]
    assert made.repack(entries, 0.0) == (4, [b'{"a":1,"s":"6-3"}', b'{"a": 1,"s":"7-4"}', b"[1]", b"{}"])


def test_many_are_numbered_as_they_come() -> None:
    made, encoder = packer()
    many = [accepted(encoder, number) for number in range(3)]
    made.number_many(many)
    made.number_many([])
    made.number(last := accepted(encoder, 3))
    assert [each.seq for each in (*many, last)] == [1, 2, 3, 4]
    assert made.last_seq == 4
