"""Batches: examples of the rules, laws, and a machine against a naive model."""

from __future__ import annotations

import itertools

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


def test_a_fixed_batch_closes_at_its_size() -> None:
    batcher = fixed(2)
    assert batcher.add(1, 5, 0.0) == []
    assert batcher.pending == 1
    assert batcher.add(2, 5, 0.0) == [ClosedBatch((1, 2), None)]
    assert batcher.deadline is None
    assert batcher.flush() is None


def test_a_fixed_batch_has_a_hundred_events_where_nothing_is_said() -> None:
    batcher = fixed()
    closed = [batch for number in range(250) for batch in batcher.add(number, 1, 0.0)]
    assert [len(batch.items) for batch in closed] == [100, 100]


def test_a_fixed_batch_closes_at_the_timeout_after_its_first_event() -> None:
    batcher = fixed(10)
    batcher.add(1, 5, 0.0)
    batcher.add(2, 5, 1.5)
    assert batcher.deadline == 2.0
    assert batcher.poll(1.99) is None
    assert batcher.poll(2.0) == ClosedBatch((1, 2), None)
    assert batcher.poll(9.0) is None


def test_a_batch_closes_early_rather_than_grow_too_large() -> None:
    batcher = fixed(10, max_bytes=10)
    assert batcher.add(1, 4, 0.0) == []
    assert batcher.add(2, 5, 0.0) == [], "4 + separator + 5 is exactly 10"
    assert batcher.add(3, 0, 0.0) == [ClosedBatch((1, 2), None)]


def test_the_overhead_counts_once_a_batch() -> None:
    batcher = fixed(10, max_bytes=10)
    assert batcher.add(1, 2, 0.0, overhead=4) == []
    assert batcher.add(2, 3, 0.0, overhead=4) == []
    assert batcher.add(3, 1, 0.0, overhead=4) == [ClosedBatch((1, 2), None)]


def test_one_event_may_close_two_batches() -> None:
    batcher = fixed(2, max_bytes=10)
    batcher.add(1, 6, 0.0)
    one = Batcher[int](Batch(mode=BatchMode.FIXED, fixed_size=1), max_bytes=10)
    assert one.add(1, 6, 0.0) == [ClosedBatch((1,), None)]
    two = Batcher[int](Batch(mode=BatchMode.DOCUMENT, fixed_size=2, use_document_marker=True), max_bytes=10)
    two.add(1, 6, 0.0)
    assert two.add(2, 6, 0.0) == [ClosedBatch((1,), Document(id=1, first=True, last=False, count=1))]


def test_a_document_closes_at_its_end_only() -> None:
    batcher = documents()
    for number in range(500):
        assert batcher.add(number, 1, 0.0) == []
    closed = batcher.end_document()
    assert closed is not None
    assert closed.document == Document(id=1, first=True, last=True, count=500)
    assert batcher.end_document() is None


def test_a_document_that_went_quiet_has_ended() -> None:
    batcher = documents()
    batcher.add(1, 1, 0.0)
    batcher.add(2, 1, 1.5)
    assert batcher.deadline == 3.5
    assert batcher.poll(3.5) == ClosedBatch((1, 2), Document(id=1, first=True, last=True, count=2))
    batcher.add(3, 1, 4.0)
    assert batcher.end_document() == ClosedBatch((3,), Document(id=2, first=True, last=True, count=1))


def test_a_document_in_several_batches_keeps_its_number() -> None:
    batcher = documents(2)
    closed = [batch for number in range(5) for batch in batcher.add(number, 1, 0.0)]
    last = batcher.end_document()
    assert [batch.document for batch in [*closed, last] if batch] == [
        Document(id=1, first=True, last=False, count=2),
        Document(id=1, first=False, last=False, count=2),
        Document(id=1, first=False, last=True, count=1),
    ]


def test_a_document_whose_end_finds_nothing_open_ends_all_the_same() -> None:
    batcher = documents(1)
    (first,) = batcher.add(1, 1, 0.0)
    assert batcher.end_document() is None
    (second,) = batcher.add(2, 1, 0.0)
    assert [first.document, second.document] == [
        Document(id=1, first=True, last=False, count=1),
        Document(id=2, first=True, last=False, count=1),
    ]


def test_a_flush_ends_the_batch_and_not_the_document() -> None:
    batcher = documents()
    batcher.add(1, 1, 0.0)
    assert batcher.flush() == ClosedBatch((1,), Document(id=1, first=True, last=False, count=1))
    batcher.add(2, 1, 0.0)
    assert batcher.end_document() == ClosedBatch((2,), Document(id=1, first=False, last=True, count=1))


def test_fixed_batches_may_be_marked_and_have_no_documents() -> None:
    batcher = fixed(1, marked=True)
    (closed,) = batcher.add(1, 1, 0.0)
    assert closed.document == Document(id=1, first=True, last=False, count=1)
    with pytest.raises(RuntimeError):
        batcher.end_document()


class BatcherMachine(RuleBasedStateMachine):
    """Whatever comes, in whatever order: nothing is lost, reordered, too large or too late."""

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

    def _closed(self, *batches: ClosedBatch[int] | None) -> None:
        for batch in batches:
            if batch is not None:
                assert batch.items
                assert self.most is None or len(batch.items) <= self.most
                size = sum(self.sizes[item] for item in batch.items) + len(batch.items) - 1 + 3
                assert size <= 20
                assert batch.document is not None
                assert batch.document.count == len(batch.items)
                self.out.append(batch)

    @rule(size=st.integers(0, 17), seconds=st.sampled_from([0.0, 0.5, 2.0]))
    def add(self, size: int, seconds: float) -> None:
        self.now += seconds
        item = len(self.sizes)
        self.sizes.append(size)
        self.entered[item] = self.now
        self._closed(*self.batcher.add(item, size, self.now, overhead=3))

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.0]))
    def poll(self, seconds: float) -> None:
        self.now += seconds
        self._closed(self.batcher.poll(self.now))
        assert self.batcher.deadline is None or self.batcher.deadline > self.now

    @rule()
    def flush(self) -> None:
        self._closed(self.batcher.flush())
        assert self.batcher.pending == 0

    @precondition(lambda self: getattr(self, "mode", None) is BatchMode.DOCUMENT)
    @rule()
    def end(self) -> None:
        closed = self.batcher.end_document()
        self._closed(closed)
        assert closed is None or (closed.document is not None and closed.document.last)

    @invariant()
    def nothing_is_lost_or_reordered(self) -> None:
        if not hasattr(self, "batcher"):
            return
        items = [item for batch in self.out for item in batch.items]
        assert items == list(range(len(items)))
        assert len(items) + self.batcher.pending == len(self.sizes)
        assert (self.batcher.deadline is None) == (self.batcher.pending == 0)
        if self.batcher.pending:
            open_items = range(len(items), len(self.sizes))
            since = open_items[0] if self.mode is BatchMode.FIXED else open_items[-1]
            assert self.batcher.deadline == self.entered[since] + 2.0

    @invariant()
    def documents_are_marked_in_runs(self) -> None:
        markers = [batch.document for batch in getattr(self, "out", []) if batch.document]
        for earlier, later in itertools.pairwise(markers):
            if later.id == earlier.id:
                assert not later.first
                assert not earlier.last
            else:
                assert later.first
                assert later.id > earlier.id


TestBatcherMachine = BatcherMachine.TestCase
