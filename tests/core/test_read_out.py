"""The look before a verdict: examples of its rules, and laws over sockets and readers of any kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.read_out import Motion, ReadOut, could_not_write


def motion(received: int = 0, *, sent: int = 0, reads: bool = True, writes: bool = False) -> Motion:
    return Motion(received=received, sent=sent, reads=reads, writes=writes)


def turns(look: ReadOut, motions: list[Motion]) -> int:
    """After how many of these turns the look is over."""
    return next(number for number, each in enumerate(motions, 1) if look.turned(each))


def test_a_look_at_a_connection_where_nothing_comes_is_a_few_turns() -> None:
    assert turns(ReadOut(motion(), unread_bytes=0), [motion()] * 100) == 8


def test_what_lay_there_is_waited_for_as_long_as_it_comes() -> None:
    coming = [motion(number) for number in range(1, 1001)]
    assert turns(ReadOut(motion(), unread_bytes=1000), coming + [motion(1000)] * 8) == 1008


def test_who_sends_on_puts_the_verdict_off_by_no_more_than_what_lay_there() -> None:
    endless = [motion(number) for number in range(1, 1001)]
    assert turns(ReadOut(motion(), unread_bytes=100), endless) == 108


def test_a_reader_that_never_waits_for_more_is_not_waited_for_either() -> None:
    endless = [motion(number, reads=False) for number in range(1, 1001)]
    assert turns(ReadOut(motion(), unread_bytes=100), endless) == 100 + 128
    assert turns(ReadOut(motion(), unread_bytes=0), [motion(reads=False)] * 1000) == 128


def test_a_waiting_write_that_got_room_is_found() -> None:
    for after in (motion(sent=10, writes=True), motion(sent=5), motion(sent=10)):
        look = ReadOut(motion(sent=5, writes=True), unread_bytes=0)
        assert not look.found_room
        look.turned(after)
        assert look.found_room


def test_a_write_that_did_not_wait_proves_nothing() -> None:
    look = ReadOut(motion(sent=5), unread_bytes=0)
    look.turned(motion(sent=10))
    assert not look.found_room


def test_only_who_is_late_by_half_the_timeout_may_have_left_a_write_waiting() -> None:
    assert could_not_write(motion(writes=True), 5.0, 10.0)
    assert not could_not_write(motion(writes=True), 4.9, 10.0)
    assert not could_not_write(motion(), 1000.0, 10.0)


@given(
    pieces=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 70_000), st.integers(0, 120)), max_size=20),
    knows=st.booleans(),
    more=st.lists(st.integers(0, 5), max_size=300),
)
def test_nobody_is_judged_before_all_that_lay_there_was_read_and_taken_apart(
    pieces: list[tuple[int, int, int]], knows: bool, more: list[int]
) -> None:
    """A reader takes what lies there in pieces: some turns until it has one, its bytes, some turns to take it apart.

    And the peer goes on sending behind that.
    """
    unread_bytes = sum(size for _, size, _ in pieces)
    look = ReadOut(motion(), unread_bytes=unread_bytes if knows else None)
    received = 0
    for wait, size, work in pieces:
        for _ in range(wait - 1):
            assert not look.turned(motion(received))
        received += size
        for _ in range(work):
            assert not look.turned(motion(received, reads=False))
        assert not look.turned(motion(received))
    behind = [*more, *[0] * 8]
    after = turns(look, [motion(received + sum(behind[: number + 1])) for number in range(len(behind))])
    assert after <= 8 + (0 if knows else len(more))
