"""The retained log's rules: how much is kept, what may follow, and who owns it."""

from __future__ import annotations

import base64
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.durable_log import (
    HISTORY,
    SPOOL,
    Entry,
    Extent,
    Kind,
    Use,
    check_run,
    event_of,
    exceeds,
    kind_of,
    stored_payload,
    taken_over,
)
from trio_wsout._core.json_line import JsonLine
from trio_wsout._core.message import Accepted, Refused
from trio_wsout._core.payload import Base64Error, Encoder
from trio_wsout.config import History, Payload
from trio_wsout.errors import EventError, HistoryError, OutputError


def check(run: list[Entry], *, epoch: int, tail: int) -> None:
    check_run(run, Extent(epoch=epoch, floor=0, tail=tail, size=0), store="here", use=HISTORY)


def entry(position: int, *, epoch: int = 1, payload: bytes = b"x", at: float = 0.0) -> Entry:
    return Entry(position, epoch, Kind.JSON, payload, f"c{position}", at)


@pytest.mark.parametrize(
    ("limits", "figures", "exceeded"),
    [
        (History(), (10**9, 10**12, 1e9), False),
        (History(max_events=3), (3, 10**12, 1e9), False),
        (History(max_events=3), (4, 0, 0.0), True),
        (History(max_bytes=10), (10**9, 10, 1e9), False),
        (History(max_bytes=10), (1, 11, 0.0), True),
        (History(max_age=2.5), (10**9, 10**12, 2.5), False),
        (History(max_age=2.5), (1, 0, 2.5001), True),
        (History(max_age=2.5), (1, 0, -7.0), False),
        (History(max_events=1, max_bytes=1, max_age=1.0), (1, 1, 1.0), False),
    ],
)
def test_a_limit_is_the_most_that_stays(
    limits: History, figures: tuple[int, int, float], exceeded: bool
) -> None:
    events, size, age = figures
    assert exceeds(limits, events=events, size=size, age=age) is exceeded


LIMITS = st.builds(
    History,
    max_events=st.none() | st.integers(1, 8),
    max_age=st.none() | st.sampled_from([0.5, 1.0, 4.0, 30.0]),
    max_bytes=st.none() | st.integers(1, 40),
)


@given(LIMITS, st.integers(0, 12), st.integers(0, 50), st.floats(-5, 50))
def test_more_never_exceeds_less(limits: History, events: int, size: int, age: float) -> None:
    exceeded = exceeds(limits, events=events, size=size, age=age)
    alone = [
        History(max_events=limits.max_events),
        History(max_age=limits.max_age),
        History(max_bytes=limits.max_bytes),
    ]
    assert exceeded == any(exceeds(each, events=events, size=size, age=age) for each in alone)
    if exceeded:
        assert exceeds(limits, events=events + 1, size=size, age=age)
        assert exceeds(limits, events=events, size=size + 1, age=age)
        assert exceeds(limits, events=events, size=size, age=age + 1)


class LimitsMachine(RuleBasedStateMachine):
    """A log that asks `exceeds` before it lets go, against the longest end of all events that fits."""

    @initialize(limits=LIMITS)
    def begin(self, limits: History) -> None:
        self.limits = limits
        self.now = 0.0
        self.all: list[Entry] = []
        self.kept: list[Entry] = []

    @rule(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4))
    def append(self, sizes: list[int]) -> None:
        tail = self.all[-1].position if self.all else 0
        entries = [
            entry(tail + number, payload=b"x" * size, at=self.now) for number, size in enumerate(sizes, 1)
        ]
        check(entries, epoch=1, tail=tail)
        self.all += entries
        self.kept += entries
        self._trim()

    @precondition(lambda self: hasattr(self, "now"))
    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._trim()

    def _trim(self) -> None:
        while self.kept and exceeds(
            self.limits,
            events=len(self.kept),
            size=sum(len(each.payload) for each in self.kept),
            age=self.now - self.kept[0].at,
        ):
            self.kept.pop(0)

    def _fits(self, entries: list[Entry]) -> bool:
        most = self.limits
        return (
            len(entries) <= (most.max_events or len(entries))
            and sum(len(each.payload) for each in entries) <= (most.max_bytes or 10**9)
            and all(self.now - each.at <= (most.max_age or 10**9) for each in entries)
        )

    @invariant()
    def as_much_is_kept_as_fits(self) -> None:
        if hasattr(self, "kept"):
            ends = [self.all[start:] for start in range(len(self.all) + 1)]
            fitting = [end for end in ends if self._fits(end)]
            assert self.kept == fitting[0]


TestLimitsMachine = LimitsMachine.TestCase


def test_what_follows_is_taken() -> None:
    check([], epoch=1, tail=5)
    check([entry(6)], epoch=1, tail=5)
    check([entry(6), entry(7), entry(8)], epoch=1, tail=5)


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        ([5], "position 5 does not follow 5"),
        ([4], "position 4 does not follow 5"),
        ([7], "position 7 does not follow 5"),
        ([6, 6], "position 6 does not follow 6"),
        ([6, 7, 9], "position 9 does not follow 7"),
    ],
)
def test_positions_have_no_gap(positions: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=f"^here: {words}$"):
        check([entry(each) for each in positions], epoch=1, tail=5)


def test_an_older_epoch_has_lost_the_log() -> None:
    with pytest.raises(HistoryError, match="taken the history over"):
        check([entry(6, epoch=3), entry(7, epoch=2)], epoch=3, tail=5)


def test_a_newer_epoch_has_not_opened_the_log() -> None:
    with pytest.raises(ValueError, match="^here: epoch 4 has not opened it$"):
        check([entry(6, epoch=3), entry(7, epoch=4)], epoch=3, tail=5)


@given(
    st.lists(st.tuples(st.sampled_from([3, 3, 3, 3, 2, 4]), st.integers(1, 12)), max_size=6)
    | st.integers(0, 9).map(lambda count: [(3, 6 + each) for each in range(count)]),
    st.integers(0, 5),
)
def test_entries_are_refused_for_the_first_that_can_not_follow(
    pairs: list[tuple[int, int]], tail: int
) -> None:
    entries = [entry(position, epoch=epoch) for epoch, position in pairs]
    kind: type[Exception] | None = None
    for before, (epoch, position) in zip([tail, *(position for _, position in pairs)], pairs, strict=False):
        if epoch != 3 or position != before + 1:
            kind = HistoryError if epoch < 3 else ValueError
            break
    if kind is None:
        check(entries, epoch=3, tail=tail)
    else:
        with pytest.raises(kind):
            check(entries, epoch=3, tail=tail)


@given(st.integers(1), st.integers(1), st.sampled_from([HISTORY, SPOOL]))
def test_who_lost_the_log_is_told_to_whom_and_what_to_do(owner: int, epoch: int, use: Use) -> None:
    error = taken_over("the log", use=use, owner=owner, epoch=epoch)
    assert isinstance(error, use.error)
    assert isinstance(error, OutputError)
    assert str(error).startswith(f"the log: another process or output has taken the {use.name} over")
    assert f"its epoch is {owner}, this one's {epoch}" in str(error)
    assert "stop one of them" in str(error)


# -- events and their kinds -------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(Payload),
    JSON | st.binary() | st.binary().map(lambda each: base64.b64encode(each).decode()),
    st.booleans(),
)
def test_an_event_can_be_had_back_from_what_is_stored_of_it(
    payload: Payload, event: object, written: bool
) -> None:
    encoder = Encoder(payload, None, stamp=None)
    sent = JsonLine.read(orjson.dumps(event)) if written and not isinstance(event, bytes) else event
    try:
        accepted = Accepted(encoder.event(sent), sent)
    except Base64Error as error:
        accepted = Refused(b"", sent, reason=str(error))
    except EventError:
        return
    kind = kind_of(accepted, payload)
    assert (kind is Kind.REFUSED) == isinstance(accepted, Refused)
    back = event_of(Entry(1, 1, kind, stored_payload(accepted), None, 0.0))
    assert (back.value() if isinstance(back, JsonLine) else back) == event
    if not isinstance(accepted, Refused):
        assert stored_payload(accepted) == accepted.payload == encoder.event(back)


def test_half_of_a_surrogate_pair_that_was_refused_can_be_had_back() -> None:
    accepted = Refused(b"", "\ud800", reason="it is no base64")
    assert kind_of(accepted, Payload.BINARY_BASE64) is Kind.REFUSED
    assert event_of(Entry(1, 1, Kind.REFUSED, stored_payload(accepted), None, 0.0)) == "\ud800"


def test_an_event_does_not_show_what_it_holds() -> None:
    shown = repr(entry(7, payload=b"open sesame"))
    assert "sesame" not in shown
    assert "position=7" in shown


@pytest.mark.parametrize(
    "value",
    [entry(1), Extent(epoch=1, floor=0, tail=0, size=0)],
    ids=lambda it: type(it).__name__,
)
def test_what_is_told_of_a_log_stays_as_it_was(value: Any) -> None:
    name = attrs.fields(type(value))[0].name
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, name, 9)
    assert value == attrs.evolve(value)
    assert value != attrs.evolve(value, **{name: 9})
