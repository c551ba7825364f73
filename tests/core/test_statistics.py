"""The addresses of an output are those of its listener; outputs that share a history have figures as one."""

from __future__ import annotations

from attrs import fields_dict
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.statistics import HistoryStatistics, ListenerStatistics, Statistics, total

COUNT = st.integers(0, 9)
HISTORIES = st.builds(HistoryStatistics, events=COUNT, bytes=COUNT, replayed=COUNT)
LISTENERS = st.builds(
    ListenerStatistics, state=st.just("listening"), addresses=st.just(("a:1",)), admitted=COUNT, unheard=COUNT
)
OUTPUTS = st.builds(
    Statistics,
    accepted=COUNT,
    confirmed=COUNT,
    peers=COUNT,
    listener=LISTENERS,
    history=st.none() | HISTORIES,
)


def test_only_an_output_with_a_listener_has_addresses() -> None:
    assert Statistics().addresses == ()
    listener = ListenerStatistics(state="listening", addresses=("127.0.0.1:8080",))
    assert Statistics(listener=listener).addresses == ("127.0.0.1:8080",)


@given(st.lists(OUTPUTS, min_size=1, max_size=4))
def test_figures_are_added_but_for_those_of_the_history_that_is_shared(outputs: list[Statistics]) -> None:
    together = total(outputs)
    for name in fields_dict(Statistics):
        if isinstance(getattr(Statistics(), name), int):
            assert getattr(together, name) == sum(getattr(each, name) for each in outputs)
    assert together.addresses == ("a:1",)
    assert together.listener is not None
    listeners = [each.listener for each in outputs if each.listener is not None]
    assert together.listener.state == "listening"
    assert together.listener.unheard == sum(each.unheard for each in listeners)
    histories = [each.history for each in outputs if each.history is not None]
    assert (together.history is None) is (not histories)
    if together.history is not None:
        assert together.history.events == max(each.events for each in histories)
        assert together.history.bytes == max(each.bytes for each in histories)
        assert together.history.replayed == sum(each.replayed for each in histories)


@given(OUTPUTS)
def test_one_output_alone_keeps_its_figures_and_none_has_zeros(output: Statistics) -> None:
    assert total([output]) == output
    assert total([]) == Statistics()
