"""The addresses of an output are those of its listener."""

from __future__ import annotations

from trio_wsout._core.statistics import ListenerStatistics, Statistics


def test_only_an_output_with_a_listener_has_addresses() -> None:
    assert Statistics().addresses == ()
    listener = ListenerStatistics(state="listening", addresses=("127.0.0.1:8080",))
    assert Statistics(listener=listener).addresses == ("127.0.0.1:8080",)
