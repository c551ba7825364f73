"""What an output concludes from the entries of a shared log; the same rules on a real server are in `stores/test_shared_log.py`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.durable_log import Entry, Extent, Kind
from trio_wsout._core.run_format import DamageError, run_of
from trio_wsout._core.shared_log import Arrival, Follower, Found, adjacent, read_entry

NODE = b"me"


def fields_of(*payloads: bytes, node: bytes = NODE, number: int = 1) -> list[bytes]:
    """Return the fields of a run as a stream has them."""
    run = run_of([Entry(9, 9, Kind.BYTES, each, "c", 2.5) for each in payloads], shared=True)
    named = {
        b"count": b"%d" % len(payloads),
        b"at": repr(run.at).encode(),
        b"total": b"77",
        b"head": run.head,
        b"checksum": b"%d" % run.checksum,
        b"node": node,
        b"number": b"%d" % number,
        b"body": run.body,
    }
    return [part for pair in named.items() for part in pair]


def found(last: int, epoch: int = 1, count: int = 1, *, node: bytes = b"other", number: int = 1) -> Found:
    return read_entry(b"%d-%d" % (last, epoch), fields_of(*[b"x"] * count, node=node, number=number))


def marker(last: int, epoch: int, behind: bytes) -> Found:
    return read_entry(b"%d-%d" % (last, epoch), [b"count", b"0", b"behind", behind])


def told(arrivals: list[Arrival]) -> list[tuple[int, int, int, bool, bool]]:
    return [(each.epoch, each.first, each.last, each.own, each.gap) for each in arrivals]


@given(
    st.lists(st.binary(max_size=9), min_size=1, max_size=9), st.integers(1, 1 << 50), st.integers(1, 1 << 50)
)
def test_a_run_is_read_with_the_positions_and_the_epoch_of_its_id(
    payloads: list[bytes], before: int, epoch: int
) -> None:
    last = before + len(payloads)
    run = read_entry(b"%d-%d" % (last, epoch), fields_of(*payloads))
    assert (run.first, run.last, run.epoch, run.node, run.number) == (before + 1, last, epoch, NODE, 1)
    expected = [
        Entry(before + index, epoch, Kind.BYTES, payload, "c", 2.5)
        for index, payload in enumerate(payloads, 1)
    ]
    assert run.entries(0) == expected
    assert run.entries(last - 1) == expected[-1:]


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        (b"x-1", fields_of(b"a")),
        (b"1", fields_of(b"a")),
        (b"1-1", [b"count", b"1"]),
        (b"1-1", [b"count"]),
        (b"1-1", [b"count", b"0"]),
        (b"1-1", [b"count", b"0", b"behind", b"1"]),
        (b"1-1", [b"field", b"value"]),
    ],
)
def test_what_no_output_has_appended_is_damage(key: bytes, fields: list[bytes]) -> None:
    with pytest.raises(DamageError, match=rf"the entry {key.decode()} is damaged"):
        read_entry(key, fields)


def test_a_changed_payload_is_damage_of_its_event() -> None:
    fields = fields_of(b"aa", b"bb")
    fields[-1] = b"aaXb"
    run = read_entry(b"7-1", fields)
    assert [each.payload for each in run.entries(0)] == [b"aa"]
    with pytest.raises(DamageError, match="event 7 is damaged"):
        run.entries(6)
    fields[7] = b"x" + fields[7][1:]
    with pytest.raises(DamageError, match="events 6 to 7 are damaged"):
        read_entry(b"7-1", fields).entries(0)


def test_what_follows_is_no_gap_and_anything_else_is_one() -> None:
    follower = Follower(NODE, 1, 10)
    assert told(follower.take(found(12, count=2))) == [(1, 11, 12, False, False)]
    assert follower.take(found(12, count=2)) == []
    assert told(follower.take(found(14))) == [(1, 14, 14, False, True)]
    (begun,) = follower.take(marker(20, 2, b"1-14"))
    assert told([begun]) == [(2, 21, 20, False, False)]
    assert begun.entries() == []
    assert told(follower.take(found(21, 2))) == [(2, 21, 21, False, False)]
    assert told(follower.take(marker(30, 3, b"2-20"))) == [(3, 31, 30, False, True)]
    assert told(follower.take(found(41, 4))) == [(4, 41, 41, False, True)]
    assert (follower.epoch, follower.position) == (4, 41)


def test_own_runs_come_round_in_order() -> None:
    follower = Follower(NODE, 1, 0)
    one, two = follower.append(1, [b"1"]), follower.append(2, [b"2"])
    assert follower.to_send() is one
    follower.stored(one, 1)
    assert follower.to_send() is two
    assert told(follower.take(found(1, node=NODE, number=1))) == [(1, 1, 1, True, False)]
    assert told(follower.take(found(2, number=2))) == [(1, 2, 2, False, False)]
    # It may come round before its answer is there.
    assert told(follower.take(found(4, count=2, node=NODE, number=2))) == [(1, 3, 4, True, False)]
    follower.stored(two, 4)
    assert follower.to_send() is None
    assert told(follower.take(found(5, node=NODE, number=2))) == [(1, 5, 5, False, False)]


def test_a_run_that_the_end_of_an_epoch_has_lost_is_sent_again_before_later_ones() -> None:
    follower = Follower(NODE, 1, 0)
    lost, later = follower.append(1, [b"1"]), follower.append(1, [b"2"])
    follower.stored(lost, 1)
    assert follower.to_send() is later
    follower.take(marker(50, 2, b"1-0"))
    assert follower.to_send() is lost
    follower.stored(lost, 51)
    assert follower.to_send() is later


def test_own_runs_that_left_unread_are_handed_over_from_memory() -> None:
    follower = Follower(NODE, 1, 0)
    one, two = follower.append(2, []), follower.append(1, [])
    follower.stored(one, 2)
    follower.stored(two, 5)
    arrivals = follower.take(found(9))
    assert told(arrivals) == [(1, 1, 2, True, False), (1, 5, 5, True, True), (1, 9, 9, False, True)]
    assert arrivals[0].entries() == []


def test_a_run_that_left_before_its_answer_came_is_appended_anew() -> None:
    follower = Follower(NODE, 1, 0)
    run = follower.append(1, [])
    follower.take(found(9))
    follower.stored(run, 3)
    assert follower.to_send() is run
    assert run.number == 2


def test_an_extent_does_not_count_positions_that_no_event_has() -> None:
    assert Extent(epoch=2, floor=5, tail=100, size=9, holes=90).events == 5


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(1, 3)), max_size=8), st.data())
def test_two_events_are_adjacent_if_nothing_but_whole_epochs_begin_between_them(
    steps: list[tuple[bool, int, int]], data: st.DataObject
) -> None:
    entries, events, last, epoch, lost = list[Found](), [1], 1, 1, 0
    gaps = set[int]()
    entries.append(found(1))
    for is_marker, missing, count in steps:
        if is_marker:
            epoch += 1
            lost += missing
            base = last + 100
            entries.append(marker(base, epoch, b"%d-%d" % (epoch - 1, last + missing)))
            last = base
        else:
            last += count
            entries.append(found(last, epoch, count))
            if lost:
                gaps.add(last - count + 1)
            lost = 0
            events += range(last - count + 1, last + 1)
    index = data.draw(st.integers(0, len(events) - 1))
    other = data.draw(st.integers(0, len(events) - 1))
    position, following = events[index], events[other]
    between = [each for each in entries if position <= each.last and each.last <= following - 1]
    expected = other == index + 1 and following not in gaps
    assert adjacent(between, position, following) == expected


@pytest.mark.parametrize(("behind", "expected"), [(b"1-1", True), (b"1-2", False)])
def test_events_on_both_sides_of_an_epoch_are_adjacent_if_it_begins_behind_the_first(
    behind: bytes, *, expected: bool
) -> None:
    between = [found(1), marker(101, 2, behind)]
    assert adjacent(between, 1, 102) == expected
