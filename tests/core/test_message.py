"""Messages counted many at a time."""

from __future__ import annotations

import pytest
from trio_wsout._core.message import Accepted, BatchMessage, Refused, all_plain, events_in

ALONE = Accepted(b"1", event=1)
REFUSED = Refused(b"", event=2, reason="too odd")
BATCH = BatchMessage(b"1\n2", [ALONE, Accepted(b"2", event=2)])


@pytest.mark.parametrize(
    ("items", "plain"),
    [([], True), ([ALONE, ALONE], True), ([ALONE, REFUSED], False), ([BATCH], False), ([ALONE, None], False)],
)
def test_plain_is_an_event_that_goes_as_it_is(items: list[object], *, plain: bool) -> None:
    assert all_plain(items) is plain


def test_events_of_all_messages_are_counted() -> None:
    assert events_in([]) == 0
    assert events_in([ALONE, ALONE]) == 2
    assert events_in([ALONE, BATCH, REFUSED, BATCH]) == 6
