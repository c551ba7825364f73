"""The intake: bounded, in order, and what becomes of who waits for room."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio_wsout._core.message import Accepted
from trio_wsout._tasks.intake import Intake


def event(number: int) -> Accepted:
    return Accepted(b"", number)


def numbers(intake: Intake) -> list[object]:
    return [item.event for item in intake.take(len(intake.waiting)) if isinstance(item, Accepted)]


async def test_it_is_bounded_and_keeps_the_order() -> None:
    intake = Intake(2)
    intake.send_nowait(event(1))
    await intake.send(event(2))
    with pytest.raises(trio.WouldBlock):
        intake.send_nowait(event(3))
    assert numbers(intake) == [1, 2]
    with pytest.raises(trio.WouldBlock):
        intake.receive_nowait()


async def test_who_waits_longest_is_let_in_first_and_nobody_overtakes() -> None:
    intake = Intake(1)
    intake.send_nowait(event(0))
    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            nursery.start_soon(intake.send, event(number))
            await trio.testing.wait_all_tasks_blocked()
        for number in (0, 1, 2):
            assert numbers(intake) == [number]
            with pytest.raises(trio.WouldBlock):
                intake.send_nowait(event(9))
        assert numbers(intake) == [3]


async def test_who_takes_several_lets_in_as_many() -> None:
    intake = Intake(3)
    returned: list[int] = []

    async def send(number: int) -> None:
        await intake.send(event(number))
        returned.append(number)

    for number in (0, 1, 2):
        intake.send_nowait(event(number))
    async with trio.open_nursery() as nursery:
        for number in (3, 4, 5, 6):
            nursery.start_soon(send, number)
            await trio.testing.wait_all_tasks_blocked()
        assert [item.event for item in intake.take(2) if isinstance(item, Accepted)] == [0, 1]
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(returned) == [3, 4]
        assert numbers(intake) == [2, 3, 4]
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(returned) == [3, 4, 5, 6]
    assert numbers(intake) == [5, 6]


async def test_who_waits_and_is_cancelled_has_put_nothing() -> None:
    intake = Intake(1)
    intake.send_nowait(event(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.send, event(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert numbers(intake) == [0]
    assert not intake.waiting


async def test_room_that_comes_in_the_moment_of_a_cancellation_is_for_the_next() -> None:
    intake = Intake(1)
    intake.send_nowait(event(0))
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as sending:
                sending.start_soon(intake.send, event(1))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(intake.send, event(2))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                # Its task has not run yet, and must not be let in any more.
                assert numbers(intake) == [0]
        assert scope.cancelled_caught
    assert numbers(intake) == [2]


async def test_who_was_let_in_and_is_cancelled_then_has_put_it() -> None:
    intake = Intake(1)
    intake.send_nowait(event(0))
    returned = False

    async def send() -> None:
        nonlocal returned
        await intake.send(event(1))
        returned = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert numbers(intake) == [0]
        nursery.cancel_scope.cancel()
    assert returned
    assert numbers(intake) == [1]


async def test_a_cancelled_send_puts_nothing_where_there_is_room() -> None:
    intake = Intake(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await intake.send(event(1))
    assert scope.cancelled_caught
    assert not intake.waiting


async def test_closed_it_takes_nothing_and_turns_away_who_waits() -> None:
    intake = Intake(1)
    intake.send_nowait(event(0))
    async with trio.open_nursery() as nursery:

        async def refused() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await intake.send(event(1))

        nursery.start_soon(refused)
        await trio.testing.wait_all_tasks_blocked()
        intake.close()
    assert numbers(intake) == [0]
    with pytest.raises(trio.BrokenResourceError):
        intake.send_nowait(event(2))


async def test_receiving_waits_for_the_first_and_cancelled_takes_none(autojump_clock: object) -> None:
    intake = Intake(2)
    with trio.move_on_after(1) as scope:
        await intake.receive()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            item = await intake.receive()
            assert isinstance(item, Accepted)
            assert item.event == 1

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        intake.send_nowait(event(1))
