"""The account of events: what is reported is reported once, in order, whoever reports."""

from __future__ import annotations

import pytest
import trio
import trio_wsout
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio_wsout import Document, Undelivered
from trio_wsout._core.message import Accepted, BatchMessage, Message
from trio_wsout._tasks.ledger import Ledger, Mark, Receipt, SharedFate
from trio_wsout.errors import DeliveryError, OutputError


async def report(ledger: Ledger, *numbers: int) -> None:
    """Have these messages settled as undelivered, and reported."""
    ledger.settle([Accepted(b"", event=number, seq=number) for number in numbers], "why")
    await ledger.report()


async def test_two_who_report_at_a_time_report_each_event_once(autojump_clock: object) -> None:
    sending, taking = trio.open_memory_channel[Undelivered](0)
    ledger, told = Ledger(sending), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report, ledger, 1, 2)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(report, ledger, 3, 4)
        for _ in range(4):
            await trio.sleep(1)
            told.append((await taking.receive()).event)
    assert told == [1, 2, 3, 4]
    assert ledger.undelivered == 4


async def test_who_is_cancelled_while_it_reports_leaves_the_rest_to_the_other(autojump_clock: object) -> None:
    sending, taking = trio.open_memory_channel[Undelivered](0)
    ledger, told = Ledger(sending), list[int]()
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1) as cancelled:
            async with trio.open_nursery() as reporting:
                reporting.start_soon(report, ledger, 1, 2)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(report, ledger, 3)
        assert cancelled.cancelled_caught
        for _ in range(3):
            told.append((await taking.receive()).event)
    assert told == [1, 2, 3]
    assert ledger.undelivered == 3


class Refusing(trio.abc.SendChannel[Undelivered]):
    """Refuses the first, and has no room for the rest."""

    def __init__(self) -> None:
        self.offered = 0

    async def send(self, value: Undelivered) -> None:
        self.offered += 1
        if self.offered == 1:
            raise trio.BrokenResourceError
        await trio.sleep_forever()

    async def aclose(self) -> None: ...


async def test_what_the_channel_refused_is_told_also_where_who_reports_is_cancelled(
    autojump_clock: object,
) -> None:
    ledger = Ledger(Refusing())
    with trio.move_on_after(1):
        await report(ledger, 1, 2)
    assert ledger.broken is not None
    assert [item.event for item in ledger.broken.undelivered] == [1]
    assert ledger.undelivered == 1
    assert [item.event for item in ledger.abandon([], "the end")] == [2]


async def test_two_breaks_in_a_row_keep_both_sets_of_events_and_the_first_cause() -> None:
    ledger = Ledger(None)
    await report(ledger, 1, 2)
    await report(ledger, 3)
    first = ledger.broken
    assert first is not None
    ledger.break_with(trio_wsout.ConnectError("gave up", attempts=1, cause="refused"))
    assert ledger.broken is first
    assert [item.event for item in first.undelivered] == [1, 2, 3]
    assert ledger.undelivered == 3


async def test_a_break_by_something_else_is_told_what_was_undelivered_after_it() -> None:
    ledger = Ledger(None)
    ledger.break_with(trio_wsout.ConnectError("gave up", attempts=1, cause="refused"))
    await report(ledger, 1)
    assert isinstance(ledger.broken, trio_wsout.ConnectError)
    assert [item.event for item in ledger.broken.undelivered] == [1]


# -- marks -----------------------------------------------------------------------------------------------------


class Fates:
    """The outcome of one event or end, which must be told once."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.document: Document | None = None

    def confirmed(self, document: Document | None) -> None:
        self.told.append("confirmed")
        self.document = document

    def failed(self, reason: str) -> None:
        self.told.append(reason)


class LedgerMachine(RuleBasedStateMachine):
    """Events that settle in order or are refused out of it, with marks between; the model keeps a list of what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(None)
        self.events: list[Accepted] = []
        self.messages: list[Message] = []
        """What is on its way, in order."""
        self.open: set[int] = set()
        self.undelivered = 0
        self.marks: list[tuple[int, Mark, Fates]] = []
        self.ledger.on_awaited = self._awaited
        self.asked = 0
        self.number = 1
        """The number of the open document."""
        self.documents: set[int] = set()
        """The documents of which a part is confirmed."""

    def _awaited(self) -> None:
        self.asked += 1

    def _new(self) -> Accepted:
        event = Accepted(b"", None, Fates(), len(self.events) + 1)
        self.events.append(event)
        self.open.add(event.seq)
        return event

    def _told(self, event: Accepted) -> list[str]:
        assert isinstance(event.fate, Fates)
        return event.fate.told

    @rule(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4), refuse=st.booleans())
    def take(self, sizes: list[int], *, refuse: bool) -> None:
        for size in sizes:
            events = [self._new() for _ in range(size)]
            if refuse and size > 2:  # one that turns out to be no base64, in the middle of a batch
                self.ledger.failed(events.pop(1), "refused")
                self.open.remove(events[0].seq + 1)
                self.undelivered += 1
            alone = size == 1
            self.messages.append(
                events[0] if alone else BatchMessage(b"", events, Document(self.number, True, False, size))
            )

    @rule()
    def refuse(self) -> None:
        event = self._new()
        self.ledger.failed(event, "refused")
        self.open.remove(event.seq)
        self.undelivered += 1

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.messages)))
        run, self.messages = self.messages[:count], self.messages[count:]
        self.ledger.confirm(run)
        self.documents |= {message.document.id for message in run if message.document is not None}
        self.open -= {event.seq for message in run for event in message.events}

    @precondition(lambda self: self.messages)
    @rule()
    def fail_the_first(self) -> None:
        for event in self.messages.pop(0).events:
            self.ledger.failed(event, "undelivered")
            self.open.remove(event.seq)
            self.undelivered += 1

    @rule(ends=st.booleans())
    def mark(self, *, ends: bool) -> None:
        asked, fates = self.asked, Fates()
        mark = Mark(fates, ends_document=ends)
        marker = Document(self.number, False, True, 0) if ends else None
        self.number += ends
        self.ledger.passed(mark, len(self.events), marker)
        self.marks.append((len(self.events), mark, fates))
        assert mark.passed.is_set()
        assert self.asked == asked + bool(self.open), "who waits has peers asked"

    @invariant()
    def a_mark_is_reached_when_everything_before_it_has_settled(self) -> None:
        first = min(self.open, default=len(self.events) + 1)
        for seq, mark, fates in self.marks:
            assert mark.done.is_set() == (seq < first)
            assert not mark.abandoned
            assert fates.told == (["confirmed"] if seq < first else [])
            assert fates.document == (mark.marker if seq < first else None)
        assert self.ledger.awaited == any(seq >= first for seq, _, _ in self.marks)

    @invariant()
    def the_counts_add_up(self) -> None:
        ledger = self.ledger
        assert ledger.undelivered == self.undelivered
        assert ledger.confirmed + ledger.undelivered + len(self.open) == len(self.events)
        assert ledger.settled.upto + ledger.settled.beyond == len(self.events) - len(self.open)
        assert all(len(self._told(event)) == (event.seq not in self.open) for event in self.events)

    @invariant()
    def the_last_document_is_the_latest_of_which_a_part_is_confirmed_or_that_ended(self) -> None:
        ended = {
            mark.marker.id: mark.marker for _, mark, _ in self.marks if mark.marker and mark.done.is_set()
        }
        latest, found = max([*self.documents, *ended], default=0), self.ledger.last_document
        assert (0 if found is None else found.id) == latest
        if latest in ended:
            assert found == ended[latest]

    def teardown(self) -> None:
        left = [event for message in self.messages for event in message.events]
        waiting = [(mark, fates) for _, mark, fates in self.marks if not mark.done.is_set()]
        never_taken = Accepted(b"", None, Fates())
        lost = self.ledger.abandon([*left, never_taken], "the end")
        assert len(lost) == len(left) + 1
        assert self._told(never_taken) == ["the end"]
        for mark, fates in waiting:
            assert mark.abandoned
            assert mark.done.is_set()
            assert fates.told == ["the end"]
        assert not self.ledger.awaited


TestLedger = LedgerMachine.TestCase


# -- two ways -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["confirmed", "failed"])
def test_an_event_that_goes_two_ways_is_confirmed_by_both_and_failed_by_the_first(first: str) -> None:
    receipt = Receipt(("x",), None)
    shared = SharedFate(receipt)
    shared.confirmed(None)
    assert not receipt.settled
    if first == "confirmed":
        shared.confirmed(None)
        shared.failed("too late")
        assert receipt.settled
        trio.run(receipt.wait)
        return
    shared.failed("gone")
    shared.failed("again")
    shared.confirmed(None)
    with pytest.raises(DeliveryError) as caught:
        trio.run(receipt.wait)
    assert caught.value.undelivered[0].reason == "gone"


def test_the_ledger_of_a_part_breaks_the_whole() -> None:
    whole = Ledger(None)
    part = Ledger(None, whole)
    error = OutputError("x")
    part.break_with(error)
    assert (part.broken, whole.broken) == (error, error)
    assert whole.broke.is_set()
