"""The Autobahn cases against the client and against a server, over sockets of this machine.

Sections 12 and 13 are about compression (RFC 7692), which this library does not offer: they are left
out. Section 9, about large messages and many of them, runs where the Hypothesis profile is `deep`.
"""

from __future__ import annotations

import os
from collections import Counter
from math import inf
from statistics import median
from typing import TYPE_CHECKING

import pytest
from trio_wsout._wire.connection import FAREWELL

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Report

pytestmark = [pytest.mark.network, pytest.mark.heavy]

CASES = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}
"""How many there are in each section."""
LIMITS = ("9",)
BASIC = tuple(section for section in CASES if section not in LIMITS)
DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"

deep_only = pytest.mark.skipif(not DEEP, reason="section 9 runs in the session `deep`")
each_section = pytest.mark.parametrize(
    "section",
    [pytest.param(each, id=f"section {each}", marks=deep_only if each in LIMITS else ()) for each in CASES],
)
each_run = pytest.mark.parametrize(
    "sections",
    [pytest.param(BASIC, id="all but limits"), pytest.param(LIMITS, id="limits", marks=deep_only)],
)
each_role = pytest.mark.parametrize("role", ["server", "client"])

GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
GOOD_END = {"OK", "INFORMATIONAL"}


@each_role
@each_section
def test_every_case_of_a_section_passes(
    autobahn: Callable[..., Report],
    record_property: Callable[[str, object], None],
    role: str,
    section: str,
) -> None:
    results = autobahn(role, LIMITS if section in LIMITS else BASIC).of_section(section)
    for verdict, count in Counter(each.behavior for each in results).items():
        record_property(verdict, count)
    assert len(results) == CASES[section]
    assert [x for x in results if x.behavior not in GOOD or x.behavior_close not in GOOD_END] == []


@each_role
@each_run
def test_every_case_was_run_once_and_no_connection_outlived_it(
    autobahn: Callable[..., Report], role: str, sections: tuple[str, ...]
) -> None:
    """Our end closes by itself, and at once, although it is not told that the other end has closed."""
    report = autobahn(role, sections)
    unfinished = set(report.offered) - set(report.lingering)
    assert report.finished, f"time was up, with these under way or not begun: {sorted(unfinished)}"
    assert len(report.offered) == sum(CASES[section] for section in sections)
    assert [each.case_id for each in report.results] == report.offered
    assert {case_id: len(each) for case_id, each in report.lingering.items()} == dict.fromkeys(
        report.offered, 1
    )
    assert [case_id for case_id, each in report.lingering.items() if max(each) == inf] == []
    # One of them may meet a moment in which the machine has no time for it. Most do not.
    assert median(max(each) for each in report.lingering.values()) < FAREWELL / 2
