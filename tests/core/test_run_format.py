"""Runs of events as blobs: what went in comes out; damage costs one event where it can, and is never silent."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.durable_log import Entry, Kind
from trio_wsout._core.run_format import DamageError, Run, run_of, sizes_in

PARTS = st.tuples(
    st.sampled_from(Kind), st.binary(max_size=20), st.none() | st.text(st.characters(), max_size=4)
)
RUNS = st.builds(
    lambda first, epoch, at, parts: [Entry(first + at_, epoch, *part, at) for at_, part in enumerate(parts)],
    st.integers(1, 2**40),
    st.integers(1, 2**50),
    st.floats(0, 2e9),
    st.lists(PARTS, min_size=1, max_size=6),
)


@given(RUNS, st.data())
def test_what_goes_in_comes_out_from_any_position_on(run: list[Entry], data: st.DataObject) -> None:
    made = run_of(run)
    assert (made.first, made.last) == (run[0].position, run[-1].position)
    assert made.body == b"".join(entry.payload for entry in run)
    after = data.draw(st.integers(0, made.last))
    assert made.entries(after) == [entry for entry in run if entry.position > after]
    assert sizes_in(made.head, len(run)) == tuple(len(entry.payload) for entry in run)


@given(RUNS, st.integers(0), st.integers(1, 255))
def test_a_changed_payload_costs_its_own_event_and_is_named(run: list[Entry], where: int, flip: int) -> None:
    made = run_of(run)
    if not made.body:
        return
    body = bytearray(made.body)
    body[where % len(body)] ^= flip
    damaged, left = evolve(made, body=bytes(body)), where % len(body)
    victim = next(
        entry for at, entry in enumerate(run) if left < sum(len(each.payload) for each in run[: at + 1])
    )
    before = [entry for entry in run if entry.position < victim.position]
    if before:
        assert damaged.entries(0) == before
    with pytest.raises(DamageError, match=f"^event {victim.position} is damaged$"):
        damaged.entries(victim.position - 1)
    if victim is not run[-1]:
        assert damaged.entries(victim.position) == [each for each in run if each.position > victim.position]


@given(
    RUNS,
    st.sampled_from(["first", "last", "epoch", "at", "head", "cut"]),
    st.integers(0),
    st.integers(1, 255),
)
def test_any_other_change_is_damage_to_the_run(run: list[Entry], what: str, where: int, flip: int) -> None:
    made = run_of(run)
    head = bytearray(made.head)
    head[where % len(head)] ^= flip
    changed = {
        "first": lambda: evolve(made, first=made.first - 1),
        "last": lambda: evolve(made, last=made.last + 1),
        "epoch": lambda: evolve(made, epoch=made.epoch + 1),
        "at": lambda: evolve(made, at=made.at + 1.5),
        "head": lambda: evolve(made, head=bytes(head)),
        "cut": lambda: evolve(made, head=made.head[:-1]),
    }[what]()
    with pytest.raises(DamageError, match=f"^events {changed.first} to {changed.last} are damaged$"):
        changed.entries(0)


def test_a_head_that_is_cut_off_has_no_sizes() -> None:
    with pytest.raises(DamageError, match="cut off"):
        sizes_in(b"\0" * 15, 2)


def test_a_body_that_is_cut_off_is_damage() -> None:
    made = run_of([Entry(1, 1, Kind.TEXT, b"abc", None, 0.0)])
    with pytest.raises(DamageError, match="event 1 is damaged"):
        Run(1, 1, 1, 0.0, made.head, b"ab", made.checksum).entries(0)
