"""Hypothesis profiles, and the clock of tests that need no real time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# dev: what a developer waits for; ci: the same examples every time; deep: on demand, for hours of doubt.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("deep", deadline=None, max_examples=2000, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))
