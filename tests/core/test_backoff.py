"""The laws of the backoff (SPEC 6)."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from trio_wsout._core.backoff import ceiling, delay
from trio_wsout.config.sections import Reconnect

FAILURES = st.one_of(st.integers(1, 100), st.integers(1, 10**9))
DRAWS = st.floats(0, 1, exclude_max=True)


@st.composite
def policies(draw: st.DrawFn) -> Reconnect:
    initial = draw(st.floats(1e-6, 1e6))
    return Reconnect(
        initial_backoff=initial,
        max_backoff=draw(st.floats(initial, 3e8)),
        multiplier=draw(st.one_of(st.just(1.0), st.floats(1, 10), st.floats(1, 1e300))),
        jitter=draw(st.floats(0, 1)),
    )


@given(FAILURES, DRAWS, policies())
def test_no_delay_is_negative_or_above_the_maximum(failures: int, draw: float, policy: Reconnect) -> None:
    assert 0 <= delay(failures, draw, policy) <= policy.max_backoff


@given(FAILURES, policies())
def test_the_ceiling_never_falls(failures: int, policy: Reconnect) -> None:
    assert ceiling(failures, policy) <= ceiling(failures + 1, policy)


@given(st.integers(1, 300), policies())
def test_the_ceiling_is_the_formula(failures: int, policy: Reconnect) -> None:
    exact = Fraction(policy.initial_backoff) * Fraction(policy.multiplier) ** (failures - 1)
    expected = float(min(exact, Fraction(policy.max_backoff)))
    assert ceiling(failures, policy) == pytest.approx(expected, rel=1e-9)


@given(FAILURES, DRAWS, policies())
def test_without_jitter_the_delay_is_the_ceiling(failures: int, draw: float, policy: Reconnect) -> None:
    exact = Reconnect(
        initial_backoff=policy.initial_backoff,
        max_backoff=policy.max_backoff,
        multiplier=policy.multiplier,
        jitter=0.0,
    )
    assert delay(failures, draw, exact) == ceiling(failures, exact)


@given(FAILURES, DRAWS, DRAWS, policies())
def test_two_links_differ_at_every_attempt(
    failures: int, one: float, other: float, policy: Reconnect
) -> None:
    assume(abs(one - other) > 1e-6)
    assume(policy.jitter > 1e-6)
    assert delay(failures, one, policy) != delay(failures, other, policy)


@given(FAILURES, policies())
def test_a_draw_of_nothing_is_the_whole_ceiling_and_full_jitter_reaches_down(
    failures: int, policy: Reconnect
) -> None:
    assert delay(failures, 0.0, policy) == ceiling(failures, policy)
    full = Reconnect(initial_backoff=1.0, max_backoff=1.0, jitter=1.0)
    assert delay(failures, 0.999999, full) < 1e-5


def test_the_defaults_are_those_of_the_reference() -> None:
    assert [ceiling(n, Reconnect()) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
