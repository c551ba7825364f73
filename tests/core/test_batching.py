"""Batches: examples of the rules, and a machine against a naive model of documents in parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.batching import Batcher, ClosedBatch, Document
from trio_wsout.config.sections import Batch, BatchMode


def fixed(size: int | None = None, *, max_bytes: int = 1000, marked: bool = False) -> Batcher[int]:
    policy = Batch(mode=BatchMode.FIXED, fixed_size=size, timeout=2.0, use_document_marker=marked)
    return Batcher(policy, max_bytes=max_bytes)


def documents(size: int | None = None, *, max_bytes: int = 1000) -> Batcher[int]:
    policy = Batch(mode=BatchMode.DOCUMENT, fixed_size=size, timeout=2.0, use_document_marker=True)
    return Batcher(policy, max_bytes=max_bytes)


def put(
    batcher: Batcher[int], item: int, size: int = 1, now: float = 0.0, *, overhead: int = 0, counted: int = 0
) -> list[ClosedBatch[int]]:
    """Add an event as the packer does; return what that closes."""
    closed = [batcher.make_room(size), batcher.add(item, size, now, overhead, counted)]
    return [batch for batch in closed if batch is not None]


def test_a_fixed_batch_closes_at_its_size() -> None:
    batcher = fixed(2)
    assert put(batcher, 1) == []
    assert batcher.pending == 1
    assert put(batcher, 2) == [ClosedBatch((1, 2), None)]
    assert batcher.deadline is None
    assert batcher.flush() is None


def test_a_fixed_batch_has_a_hundred_events_where_nothing_is_said() -> None:
    batcher = fixed()
    closed = [batch for number in range(250) for batch in put(batcher, number)]
    assert [len(batch.items) for batch in closed] == [100, 100]


@pytest.mark.parametrize("make", [fixed, documents])
def test_a_batch_closes_at_the_timeout_after_its_first_event(make: Callable[[int], Batcher[int]]) -> None:
    batcher = make(10)
    put(batcher, 1, now=0.0)
    put(batcher, 2, now=1.5)
    assert batcher.deadline == 2.0
    assert batcher.poll(1.99) is None
    closed = batcher.poll(2.0)
    assert closed is not None
    assert closed.items == (1, 2)
    assert batcher.poll(9.0) is None


def test_a_batch_closes_early_rather_than_grow_too_large() -> None:
    batcher = fixed(10, max_bytes=10)
    assert put(batcher, 1, 4) == []
    assert put(batcher, 2, 5) == [], "4 + separator + 5 is exactly 10"
    assert put(batcher, 3, 0) == [ClosedBatch((1, 2), None)]


def test_the_overhead_is_that_of_the_batch_and_not_of_the_one_before() -> None:
    batcher = fixed(10, max_bytes=10)
    assert put(batcher, 1, 2, overhead=4) == []
    assert put(batcher, 2, 3, overhead=4) == []
    assert put(batcher, 3, 1, overhead=8) == [ClosedBatch((1, 2), None)]
    assert put(batcher, 4, 1, overhead=0) == [ClosedBatch((3,), None)]
    assert put(batcher, 5, 8, overhead=0) == []


def test_the_digits_of_the_count_are_counted() -> None:
    batcher = fixed(20, max_bytes=24)
    for number in range(9):
        assert put(batcher, number, 1, overhead=2, counted=2) == []
    assert put(batcher, 9, 1, overhead=2, counted=2) == [ClosedBatch(tuple(range(9)), None)], (
        "2 for the rest, 2 digits for two counts of 9, 9 events and 8 separators are 21, and 10 events are 25"
    )


def test_one_event_may_close_two_batches() -> None:
    batcher = fixed(1, max_bytes=10, marked=True)
    (alone,) = put(batcher, 1, 6)
    assert alone == ClosedBatch((1,), Document(id=1, first=True, last=True, count=1))


def test_a_document_closes_at_its_end() -> None:
    batcher = documents()
    for number in range(500):
        assert put(batcher, number) == []
    closed = batcher.end_document()
    assert closed is not None
    assert closed.document == Document(id=1, first=True, last=True, count=500)
    assert batcher.end_document() is None


def test_a_document_that_is_quiet_goes_on() -> None:
    batcher = documents()
    put(batcher, 1, now=0.0)
    assert batcher.poll(2.0) == ClosedBatch((1,), Document(id=1, first=True, last=False, count=1))
    put(batcher, 2, now=1000.0)
    assert batcher.end_document() == ClosedBatch((2,), Document(id=1, first=False, last=True, count=1))
    put(batcher, 3, now=1000.0)
    assert batcher.end_document() == ClosedBatch((3,), Document(id=2, first=True, last=True, count=1))


def test_a_document_in_several_parts_keeps_its_number() -> None:
    batcher = documents(2)
    closed = [batch for number in range(5) for batch in put(batcher, number)]
    last = batcher.end_document()
    assert [batch.document for batch in [*closed, last] if batch] == [
        Document(id=1, first=True, last=False, count=2),
        Document(id=1, first=False, last=False, count=2),
        Document(id=1, first=False, last=True, count=1),
    ]


def test_a_document_whose_end_finds_nothing_open_has_an_empty_last_part() -> None:
    batcher = documents(1)
    (first,) = put(batcher, 1)
    ended = batcher.end_document()
    assert batcher.end_document() is None, "once, and a document without events is none"
    (second,) = put(batcher, 2)
    assert [first.document, ended and ended.document, second.document] == [
        Document(id=1, first=True, last=False, count=1),
        Document(id=1, first=False, last=True, count=0),
        Document(id=2, first=True, last=False, count=1),
    ]


def test_a_flush_ends_the_batch_and_not_the_document() -> None:
    batcher = documents()
    put(batcher, 1)
    assert batcher.flush() == ClosedBatch((1,), Document(id=1, first=True, last=False, count=1))
    put(batcher, 2)
    assert batcher.end_document() == ClosedBatch((2,), Document(id=1, first=False, last=True, count=1))


def test_a_fixed_batch_that_is_marked_is_a_document_of_its_own() -> None:
    batcher = fixed(1, marked=True)
    closed = [batch.document for number in range(2) for batch in put(batcher, number)]
    assert closed == [Document(id=number, first=True, last=True, count=1) for number in (1, 2)]
    assert batcher.end_document() is None
    open_batch = fixed(2)
    put(open_batch, 1)
    assert open_batch.end_document() is None
    assert open_batch.pending == 1


@attrs.define
class _Doc:
    """What the model knows of one document: the events of each of its parts, and whether it has ended."""

    parts: list[tuple[int, ...]] = attrs.field(factory=list[tuple[int, ...]])
    ended: bool = False


class BatcherMachine(RuleBasedStateMachine):
    """Whatever comes, in whatever order: nothing is lost, reordered, too large or too late; each end is told once.

    The model has documents as lists of parts, and learns of an end only from the rule that ends one.
    """

    @initialize(mode=st.sampled_from(BatchMode), most=st.none() | st.integers(1, 4))
    def begin(self, mode: BatchMode, most: int | None) -> None:
        self.mode = mode
        self.most = most
        policy = Batch(mode=mode, fixed_size=most, timeout=2.0, use_document_marker=True)
        self.batcher: Batcher[int] = Batcher(policy, max_bytes=20)
        self.now = 0.0
        self.sizes: list[int] = []
        self.out: list[ClosedBatch[int]] = []
        self.entered: dict[int, float] = {}
        self.open: list[int] = []
        self.overhead = 0
        self.counted = 0
        self.docs: list[_Doc] = []

    def _part(self, closed: ClosedBatch[int] | None, *, ends: bool) -> None:
        """What was open is a part; compare what came with it."""
        assert closed is not None
        assert closed.items == tuple(self.open)
        assert self.most is None or len(closed.items) <= self.most
        if closed.items:
            size = sum(self.sizes[item] for item in closed.items) + len(closed.items) - 1
            assert size + self.overhead + self.counted * len(str(len(closed.items))) <= 20
        if not self.docs or self.docs[-1].ended:
            self.docs.append(_Doc())
        self.docs[-1].parts.append(closed.items)
        self.docs[-1].ended = ends or self.mode is BatchMode.FIXED
        self.open = []
        self.out.append(closed)

    @rule(
        size=st.integers(0, 13),
        seconds=st.sampled_from([0.0, 0.5, 2.0]),
        overhead=st.integers(0, 5),
        counted=st.integers(0, 2),
    )
    def add(self, size: int, seconds: float, overhead: int, counted: int) -> None:
        self.now += seconds
        item = len(self.sizes)
        self.sizes.append(size)
        self.entered[item] = self.now
        count = len(self.open) + 1
        whole = sum(self.sizes[each] for each in self.open) + size + len(self.open)
        fits = whole + self.overhead + self.counted * len(str(count)) <= 20
        made = self.batcher.make_room(size)
        if self.open and not fits:
            self._part(made, ends=False)
        else:
            assert made is None
        if not self.open:
            self.overhead, self.counted = overhead, counted
        self.open.append(item)
        closed = self.batcher.add(item, size, self.now, overhead, counted)
        if len(self.open) == (self.most or (100 if self.mode is BatchMode.FIXED else None)):
            self._part(closed, ends=False)
        else:
            assert closed is None

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.0]))
    def poll(self, seconds: float) -> None:
        self.now += seconds
        closed = self.batcher.poll(self.now)
        if self.open and self.now >= self.entered[self.open[0]] + 2.0:
            self._part(closed, ends=False)
        else:
            assert closed is None

    @rule()
    def flush(self) -> None:
        closed = self.batcher.flush()
        if self.open:
            self._part(closed, ends=False)
        else:
            assert closed is None

    @precondition(lambda self: getattr(self, "mode", None) is BatchMode.DOCUMENT)
    @rule()
    def end(self) -> None:
        closed = self.batcher.end_document()
        if self.open or (self.docs and not self.docs[-1].ended):
            self._part(closed, ends=True)
        else:
            assert closed is None, "a document without events is none"

    @invariant()
    def nothing_is_lost_or_reordered(self) -> None:
        if not hasattr(self, "batcher"):
            return
        items = [item for batch in self.out for item in batch.items]
        assert items + self.open == list(range(len(self.sizes)))
        assert self.batcher.pending == len(self.open)
        assert self.batcher.deadline == (self.entered[self.open[0]] + 2.0 if self.open else None)

    @invariant()
    def markers_say_what_happened(self) -> None:
        told = [batch.document for batch in getattr(self, "out", [])]
        expected = [
            Document(
                id=number,
                first=index == 0,
                last=doc.ended and index == len(doc.parts) - 1,
                count=len(part),
            )
            for number, doc in enumerate(getattr(self, "docs", []), 1)
            for index, part in enumerate(doc.parts)
        ]
        assert told == expected

    @invariant()
    def each_end_is_told_exactly_once(self) -> None:
        lasts = [
            batch.document for batch in getattr(self, "out", []) if batch.document and batch.document.last
        ]
        assert [marker.id for marker in lasts] == [
            number for number, doc in enumerate(getattr(self, "docs", []), 1) if doc.ended
        ]
        for earlier, later in itertools.pairwise([batch.document for batch in getattr(self, "out", [])]):
            assert earlier is not None
            assert later is not None
            assert later.id == earlier.id + earlier.last, "ids have no gaps, and grow behind an end only"


TestBatcherMachine = BatcherMachine.TestCase
