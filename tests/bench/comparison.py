"""What the benchmarks share: the event, rounds of every contestant in turn, and the table of medians and ratios."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

EVENT = {"symbol": "ABC", "price": 101.25, "size": 300, "venue": "XNAS", "pad": "x" * 184}
TEXT = json.dumps(EVENT, separators=(",", ":"))


def module_of(name: str) -> str:
    """The module that a contestant is made of."""
    return name.removesuffix("_history")


def compare(
    names: Iterable[str],
    run: Callable[[str], dict[str, float]],
    *,
    rounds: int,
    amount: int,
    unit: str,
    other: str,
    what: str,
) -> None:
    """Run each contestant that is installed so many rounds, in turn; print the table.

    Args:
        names: The contestants; the first is what the others are compared with.
        run: Runs one round of one; gives ``cpu``, ``wall`` (seconds), ``peak`` (KiB) and ``other`` (CPU seconds).
        rounds: How many rounds.
        amount: What is done in a round, in units.
        unit: What is counted.
        other: Who is at the other end.
        what: One line that says what is measured.
    """
    present = [name for name in names if importlib.util.find_spec(module_of(name)) is not None]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in present}
    for _ in range(rounds):
        for name in present:
            results[name].append(run(name))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {len(TEXT)}-byte events, {what};")
    print(f"medians of {rounds} rounds")
    print(
        f"{'':28}{f'{unit}/CPU s':>14}{'ratio':>8}{f'{unit}/s':>12}{'ratio':>8}{'peak MiB':>10}{f'{other} CPU s':>13}"
    )
    base: dict[str, float] = {}
    for name in present:
        median = {key: statistics.median(each[key] for each in results[name]) for key in results[name][0]}
        cpu, wall = amount / median["cpu"], amount / median["wall"]
        base = base or {"cpu": cpu, "wall": wall}
        label = f"{name} {version(module_of(name).replace('trio_', 'trio-'))}"
        print(
            f"{label:28}{cpu:14,.0f}{cpu / base['cpu']:8.1f}{wall:12,.0f}{wall / base['wall']:8.1f}"
            f"{median['peak'] / 1024:10.0f}{median['other']:13.2f}"
        )
