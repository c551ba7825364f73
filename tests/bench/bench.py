"""The benchmarks: this library beside its peers, in one run, as ratios.

python tests/bench/bench.py                  every kind of work, about ten minutes
python tests/bench/bench.py --quick          the same, shorter and rougher, two minutes
python tests/bench/bench.py --all            every size with every number of peers: hours
python tests/bench/bench.py --work burst     some works; `--subject picows` some subjects
python tests/bench/bench.py --write-docs     also the page and the pictures of the documentation
"""

from __future__ import annotations

import argparse
import sys

from measure import Measured, measure
from report import table
from rounds import Stage
from subject import SUBJECTS, roster
from works import BURST, MAIN, PACED, PACED_1000, SECURE, SHAPES, Work, whole_grid


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", action="append", default=[])
    parser.add_argument("--subject", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.6)
    arguments = parser.parse_args()
    found = roster(install=True)
    stage = Stage(found.commands)
    works = (
        [each for each in whole_grid() if any(each.key == name for name in arguments.work)]
        if arguments.work
        else MAIN
    )
    for work in works:
        subjects = [
            each
            for each in found.present(SUBJECTS)
            if each.does(work) and (not arguments.subject or each.name in arguments.subject)
        ]
        print(
            table(measure(stage, work, subjects, rounds=arguments.rounds, seconds=arguments.seconds)),
            flush=True,
        )


if __name__ == "__main__":
    main()
