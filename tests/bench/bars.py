"""The bars that this library has set itself, and whether they hold in a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from measure import Measured
from results import Results
from subject import BASE, OURS
from works import BURST, PACED, PUSH, RECEIVE, RELAY

MEMORY, SQLITE = f"{OURS}, history in memory", f"{OURS}, history in SQLite"


@dataclass(frozen=True)
class Bar:
    """One bar: what is compared, the figure of this run, and whether it is on the right side."""

    what: str
    wanted: str
    figure: str
    holds: bool | None
    """None: not measured in this run."""


def bars(results: Results) -> list[Bar]:
    """All bars, in the order of the works."""
    return [
        _at_least(results, BURST.key, "bun", 1.0),
        _at_least(results, BURST.key, BASE, 70.0),
        _at_least(results, PACED.key, "picows", 1.0),
        _at_least(results, PACED.key, BASE, 4.5),
        _at_least(results, PUSH.key, "picows", 2.0),
        _at_least(results, PUSH.key, BASE, 8.0),
        _at_least(results, RECEIVE.key, "websockets", 1.0),
        _at_least(results, RECEIVE.key, BASE, 4.0),
        _at_least(results, RELAY.key, BASE, 10.0),
        _latency(results),
        _idle_memory(results),
        _idle_cpu(results),
        _at_least(results, BURST.key, OURS, 0.85, of=MEMORY),
        _at_least(results, BURST.key, OURS, 0.70, of=SQLITE),
    ]


def _compared(
    results: Results, key: str, names: tuple[str, str], figure: Callable[[Measured, str], float | None]
) -> float | None:
    measured = results.works.get(key)
    if measured is None or any(name not in measured.rounds for name in names):
        return None
    first, second = (figure(measured, name) for name in names)
    return first / second if first is not None and second else None


def _at_least(results: Results, key: str, other: str, least: float, *, of: str = OURS) -> Bar:
    ratio = _compared(results, key, (of, other), Measured.per_cpu)
    work = results.titles.get(key, key)
    what = f"{work}: {of} against {other}, per CPU second"
    return _bar(what, f"at least {least:g} ×", ratio, None if ratio is None else ratio >= least)


def _latency(results: Results) -> Bar:
    ratio = _compared(results, PACED.key, (OURS, "picows"), lambda measured, name: measured.late(name, "p99"))
    what = f"{results.titles.get(PACED.key, PACED.key)}: time to the peer, p99, against picows"
    return _bar(what, "at most 1.5 ×", ratio, None if ratio is None else ratio <= 1.5)


def _idle_memory(results: Results) -> Bar:
    if not {OURS, BASE} <= results.idle.keys():
        return _bar("memory of an idle peer", "at most 1 ×", None, None)
    ratio = results.idle[OURS]["bytes"] / results.idle[BASE]["bytes"]
    return _bar(f"Memory of an idle peer, against {BASE}", "at most 1 ×", ratio, ratio <= 1)


def _idle_cpu(results: Results) -> Bar:
    what, wanted = "5,000 idle peers with heartbeats every 20 s", "under 10 % of a core"
    if OURS not in results.idle:
        return Bar(what, wanted, "not measured", None)
    told = results.idle[OURS]
    part = told["cpu"] * 5000 / told["peers"]
    return Bar(what, wanted, f"{part:.1%}".replace("%", " %"), part < 0.1)


def _bar(what: str, wanted: str, ratio: float | None, holds: bool | None) -> Bar:
    return Bar(what, wanted, "not measured" if ratio is None else f"{ratio:.2f} ×", holds)
