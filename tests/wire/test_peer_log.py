"""Events that peers can cause at will are reported immediately, then at most once a minute, and are counted right."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock
from trio_wsout._wire.peer_log import EVERY, PeerLog

KINDS = ("a %s", "b %s", "c %s")


class Told(logging.Handler):
    """Takes the records down: of each kind when, how many at once, and the value of the latest."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, list[tuple[float, int, object]]] = defaultdict(list)

    def emit(self, record: logging.LogRecord) -> None:
        more, _, kind = record.msg.rpartition("the latest: ")
        assert isinstance(record.args, tuple)
        count = int(str(record.args[0])) if more else 1
        self.told[kind].append((trio.current_time(), count, record.args[-1]))


def told_of(events: list[tuple[str, float]]) -> dict[str, list[tuple[float, int, object]]]:
    """What is told of events, each with the seconds before it; the value of each is its number."""
    handler, log = Told(), logging.getLogger("trio_wsout")
    log.addHandler(handler)

    async def main() -> None:
        peer_log = PeerLog()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer_log.run)
            for number, (kind, pause) in enumerate(events):
                await trio.sleep(pause)
                peer_log.warning(kind, number)
            nursery.cancel_scope.cancel()

    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        log.removeHandler(handler)
    return handler.told


def test_the_first_is_told_at_once_and_the_rest_together_a_minute_later() -> None:
    a, b, _ = KINDS
    told = told_of([(a, 5), (a, 0), (b, 25), (a, 34.9), (a, 60), (b, 1), (b, 1), (a, 1)])
    assert told == {
        a: [(5.0, 1, 0), (65.0, 2, 3), (125.0, 1, 4), (pytest.approx(127.9), 1, 7)],
        b: [(30.0, 1, 2), (pytest.approx(125.9), 1, 5), (pytest.approx(127.9), 1, 6)],
    }


def test_after_a_quiet_minute_the_next_is_a_first_again() -> None:
    assert told_of([("a %s", 1), ("a %s", EVERY)]) == {"a %s": [(1.0, 1, 0), (1.0 + EVERY, 1, 1)]}


PAUSES = st.sampled_from([0.0, 0.5, 10.0, 59.0, 60.0, 61.0]) | st.floats(0, 0.5)


@given(st.lists(st.tuples(st.sampled_from(KINDS), PAUSES), max_size=60))
def test_tellings_lie_a_minute_apart_and_leave_out_nothing(events: list[tuple[str, float]]) -> None:
    told, end = told_of(events), sum(pause for _, pause in events)
    assert {kind: sum(count for _, count, _ in each) for kind, each in told.items()} == Counter(
        kind for kind, _ in events
    )
    for kind, each in told.items():
        *before, (last, _, latest) = each
        assert all(after - at >= EVERY * (1 - 1e-9) for (at, _, _), (after, _, _) in pairwise(before))
        assert not before or last - before[-1][0] >= EVERY * (1 - 1e-9) or last == pytest.approx(end)
        assert latest == max(number for number, (other, _) in enumerate(events) if other == kind)
    assert sum(map(len, told.values())) <= 3 * (2 + end / EVERY)
