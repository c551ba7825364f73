"""The benchmarks: this library beside its peers, in one run, as ratios.

python tests/bench/bench.py                  every kind of work, about ten minutes
python tests/bench/bench.py --quick          the works of the bars, shorter and rougher, two minutes
python tests/bench/bench.py --all            every size with every number of peers: hours
python tests/bench/bench.py --work burst-100-256 --subject trio_wsout    some of it
python tests/bench/bench.py --write-docs     also the page and the pictures of the documentation
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from idle import measure_idle
from linear import measure_lines
from measure import measure
from page import write_docs
from report import MEANING, bars_table, idle_table, lines_text, table
from results import Results
from rounds import Stage
from subject import OURS, SUBJECTS, Roster, Subject, roster
from works import MAIN, PACED_1000, SECURE, SHAPES, SPOOL, Work, whole_grid

EXTRA = ("idle", "linear")
FEW = (OURS, "trio-websocket", "websockets", "picows", "bun")
"""Who is measured in the shapes."""


def plan(arguments: argparse.Namespace) -> list[tuple[Work, int]]:
    """The works of this run, and how many rounds of each."""
    rounds = arguments.rounds
    if arguments.work:
        everything = {each.key: each for each in (*whole_grid(), *SHAPES, PACED_1000, *SPOOL)}
        unknown = [each for each in arguments.work if each not in everything and each not in EXTRA]
        if unknown:
            sys.exit(f"no work is called {', '.join(unknown)}; there are {', '.join([*everything, *EXTRA])}")
        return [(everything[each], rounds) for each in arguments.work if each in everything]
    if arguments.all:
        return [(each, rounds) for each in whole_grid()]
    chosen = [(each, rounds) for each in MAIN]
    if not arguments.quick:
        chosen += [(each, 1) for each in (PACED_1000, *SHAPES, *SECURE, *SPOOL)]
    return chosen


def perform(arguments: argparse.Namespace, found: Roster) -> Results:
    """Measure; each table is printed as it is done."""
    stage = Stage(found.commands)
    present = found.present(SUBJECTS)
    results = Results(found.versions, found.missing, arguments.rounds, arguments.seconds)
    for work, rounds in plan(arguments):
        few = work in SHAPES and not arguments.subject and not arguments.all
        subjects = [each for each in present if each.does(work) and (not few or each.name in FEW)]
        measured = measure(stage, work, subjects, rounds=rounds, seconds=arguments.seconds)
        results.works[work.key] = measured
        print(table(measured), flush=True)
    if not arguments.work or "idle" in arguments.work:
        idlers = [each for each in present if "idle" in each.works]
        results.idle = measure_idle(stage, idlers, peers=arguments.idle_peers, seconds=arguments.idle_seconds)
        print(idle_table(results), flush=True)
    if not arguments.work or "linear" in arguments.work:
        measure_ours(stage, present, results)
    return results


def measure_ours(stage: Stage, present: list[Subject], results: Results) -> None:
    """The straight lines, of this library only."""
    for subject in present:
        if subject.name == OURS:
            results.lines = measure_lines(stage, subject, results.seconds / 2)
    print("", *lines_text(results), sep="\n", flush=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--work", action="append", default=[], help="one of them; idle and linear are two")
    parser.add_argument("--subject", action="append", default=[], help="one of them")
    parser.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    parser.add_argument("--seconds", type=float, help="about how long a round is: 0.6, or 0.3 with --quick")
    parser.add_argument("--idle-peers", type=int, help="5000, or 1000 with --quick")
    parser.add_argument("--idle-seconds", type=float, help="40, or 20 with --quick")
    parser.add_argument("--json", type=Path, help="where all raw numbers go")
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    usual = {
        "rounds": (3, 1),
        "seconds": (0.6, 0.3),
        "idle_peers": (5000, 1000),
        "idle_seconds": (40.0, 20.0),
    }
    for name, values in usual.items():
        if getattr(given, name) is None:
            setattr(given, name, values[given.quick])
    unknown = set(given.subject) - {each.name for each in SUBJECTS}
    if unknown:
        parser.error(f"no subject is called {', '.join(unknown)}")
    return given


def main() -> None:
    arguments = options()
    found = roster(arguments.subject)
    for name, why in found.missing.items():
        print(f"skipped: {name}: {why}")
    print(MEANING)
    results = perform(arguments, found)
    print(bars_table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results.document(), indent=1), encoding="utf-8")
    if arguments.write_docs:
        write_docs(results)
    if any(each.failed for each in results.works.values()):
        sys.exit("some rounds failed; see above")


if __name__ == "__main__":
    main()
