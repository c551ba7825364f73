"""The account of events: what is reported is reported once, in order, whoever reports."""

from __future__ import annotations

import trio
import trio_wsout
from trio_wsout import Undelivered
from trio_wsout._core.message import Accepted
from trio_wsout._tasks.ledger import Ledger


def failed(*numbers: int) -> list[tuple[Accepted, str]]:
    return [(Accepted(b"", event=number, seq=number), "why") for number in numbers]


async def test_two_who_report_at_a_time_report_each_event_once(autojump_clock: object) -> None:
    sending, taking = trio.open_memory_channel[Undelivered](0)
    ledger, told = Ledger(sending), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.report, failed(1, 2))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ledger.report, failed(3, 4))
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
                reporting.start_soon(ledger.report, failed(1, 2))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(ledger.report, failed(3))
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
        await ledger.report(failed(1, 2))
    assert ledger.broken is not None
    assert [item.event for item in ledger.broken.undelivered] == [1]
    assert ledger.undelivered == 1
    assert [item.event for item in ledger.abandon([], "the end")] == [2]


async def test_two_breaks_in_a_row_keep_both_sets_of_events_and_the_first_cause() -> None:
    ledger = Ledger(None)
    await ledger.report(failed(1, 2))
    await ledger.report(failed(3))
    first = ledger.broken
    assert first is not None
    ledger.break_with(trio_wsout.ConnectError("gave up", attempts=1, cause="refused"))
    assert ledger.broken is first
    assert [item.event for item in first.undelivered] == [1, 2, 3]
    assert ledger.undelivered == 3


async def test_a_break_by_something_else_is_told_what_was_undelivered_after_it() -> None:
    ledger = Ledger(None)
    ledger.break_with(trio_wsout.ConnectError("gave up", attempts=1, cause="refused"))
    await ledger.report(failed(1))
    assert isinstance(ledger.broken, trio_wsout.ConnectError)
    assert [item.event for item in ledger.broken.undelivered] == [1]
