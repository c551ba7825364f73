"""An event that comes alone is taken where nothing waits; what comes behind it waits for the taker."""

from __future__ import annotations

import trio
import trio.testing
from trio_wsout._tasks.intake import DocumentEnd, Intake
from trio_wsout._tasks.waking import Doorbell


async def test_only_what_comes_where_nothing_waits_is_offered_first() -> None:
    intake, takes = Intake(2), [True, False]
    offered: list[object] = []

    def offer(item: object) -> bool:
        offered.append(item)
        return takes.pop(0)

    intake.offer_first = offer
    one, two, three = DocumentEnd(), DocumentEnd(), DocumentEnd()
    for item in (one, two, three):
        intake.send_nowait(item)
    assert offered == [one, two]
    assert [await intake.receive(), await intake.receive()] == [two, three]


async def test_a_bell_keeps_one_ring_and_none_of_who_was_cancelled() -> None:
    bell = Doorbell()
    bell.ring()
    bell.ring()
    await bell.wait()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bell.wait()
    assert scope.cancelled_caught
    bell.ring()
    await bell.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait)
        await trio.testing.wait_all_tasks_blocked()
        bell.ring()
