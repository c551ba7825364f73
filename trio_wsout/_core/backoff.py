"""The delay after the n-th failure in a row (SPEC 6).

The formula, for n ≥ 1 and a draw that is uniform in [0, 1)::

    ceiling(n) = min(max-backoff, initial-backoff · multiplier^(n−1))
    delay(n)   = ceiling(n) · (1 − jitter · draw)

So 0 ≤ delay ≤ max-backoff always; jitter 0 is exact, jitter 1 is full jitter, and two links with
different draws differ at every attempt, at the cap too.
"""

from math import inf, log

from trio_wsout.config.sections import Reconnect


def ceiling(failures: int, policy: Reconnect) -> float:
    """Return the longest delay after this many failures in a row, in seconds; there may be any number of them, from 1."""
    steps = (
        inf
        if policy.multiplier == 1.0
        else log(policy.max_backoff / policy.initial_backoff, policy.multiplier)
    )
    if failures > 2 + steps:  # beyond it the ceiling is the cap for certain, and a power might overflow
        return policy.max_backoff
    return min(policy.max_backoff, policy.initial_backoff * policy.multiplier ** (failures - 1))


def delay(failures: int, draw: float, policy: Reconnect) -> float:
    """Return the delay after this many failures in a row, in seconds; `draw` is uniform in [0, 1)."""
    return ceiling(failures, policy) * (1.0 - policy.jitter * draw)
