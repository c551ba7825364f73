"""The packer: numbers in order, stamps where they belong, and nothing that does not fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.message import Accepted
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


def test_events_that_go_alone_are_numbered_and_stamped() -> None:
    made, encoder = packer(delivery=Delivery(stamp="s"))
    assert made.alone
    items = [accepted(encoder, event) for event in ({"a": 1}, [1], {})]
    for item in items:
        made.number(item)
    assert [item.seq for item in items] == [1, 2, 3]
    assert [item.payload for item in items] == [b'{"a":1,"s":"7-1"}', b"[1]", b'{"s":"7-3"}']
    assert made.add(items[0], 0.0) == (items[0],)
    assert (made.deadline, made.pending, made.taken) == (None, 0, 3)
    for nothing in (made.poll(9.0), made.flush(), made.end_document()):
        assert nothing == ()


@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_batches_keep_every_event_in_order(events: list[int], size: int) -> None:
    made, encoder = packer(batch=Batch(mode=BatchMode.FIXED, fixed_size=size))
    messages = [message for event in events for message in made.add(accepted(encoder, event % 1000), 0.0)]
    messages += made.flush()
    assert [item.event for message in messages for item in message.events] == [
        event % 1000 for event in events
    ]
    lines = [line for message in messages for line in message.payload.split(b"\n")]
    assert lines == [str(event % 1000).encode() for event in events]


def test_header_and_footer_are_expanded_as_a_batch_opens() -> None:
    made, encoder = packer(
        ["a", "b", "c"], batch=Batch(mode=BatchMode.FIXED, fixed_size=2, header="${cursor}")
    )
    messages = [message for number in range(4) for message in made.add(accepted(encoder, number), 0.0)]
    assert [message.payload for message in messages] == [b"a\n0\n1", b"b\n2\n3"]


def test_what_fits_into_no_message_is_refused_and_the_next_is_not() -> None:
    batch = Batch(mode=BatchMode.FIXED, fixed_size=1, footer="${secret|k}")
    made, encoder = packer([None, "x" * 100, "ok"], batch=batch, max_message_size=50)
    for words in ("secret", "max-message-size"):
        with pytest.raises(PackingError, match=words):
            made.add(accepted(encoder, 1), 0.0)
    (message,) = made.add(accepted(encoder, 2), 0.0)
    assert message.payload == b"2\nok"


@pytest.mark.parametrize("value", ["a\nb", "a\n", "\r", "a\r\nb"])
def test_a_value_that_would_be_another_line_is_not_expanded(value: str) -> None:
    made, encoder = packer(
        [value, "ok"], batch=Batch(mode=BatchMode.FIXED, fixed_size=1, header="h ${secret|k}")
    )
    with pytest.raises(PackingError, match="line break"):
        made.add(accepted(encoder, 1), 0.0)
    (message,) = made.add(accepted(encoder, 2), 0.0)
    assert message.payload == b"h ok\n2"


def test_documents_end_where_they_are_ended() -> None:
    made, encoder = packer(batch=Batch(mode=BatchMode.DOCUMENT, timeout=2.0, use_document_marker=True))
    made.add(accepted(encoder, 1), 0.0)
    assert made.deadline == 2.0
    (message,) = made.end_document()
    assert message.document is not None
    assert message.document.last
    fixed, encoder = packer(batch=Batch(mode=BatchMode.FIXED))
    fixed.add(accepted(encoder, 1), 0.0)
    assert fixed.end_document() == (), "there are no documents to end"
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
    batch = Batch(mode=BatchMode.FIXED, fixed_size=size, header="h")
    made, encoder = packer(batch=batch)
    items = [accepted(encoder, {"n": number % 1000}) for number in numbers]
    messages = [message.payload for item in items for message in made.add(item, 0.0)]
    messages += [message.payload for message in made.flush()]
    assert made.repack([item.payload for item in items]) == messages
    alone, _ = packer()
    assert alone.repack([item.payload for item in items]) == [item.payload for item in items]


def test_repacking_needs_header_and_footer() -> None:
    made, _ = packer(batch=Batch(mode=BatchMode.FIXED, header="${env|HEADER}"))
    with pytest.raises(PackingError, match=r"batch\.header"):
        made.repack([b"1"])


def test_many_are_numbered_as_they_come() -> None:
    made, encoder = packer()
    many = [accepted(encoder, number) for number in range(3)]
    made.number_many(many)
    made.number_many([])
    made.number(last := accepted(encoder, 3))
    assert [each.seq for each in (*many, last)] == [1, 2, 3, 4]
    assert made.taken == 4
