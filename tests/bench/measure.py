"""A work done by all of its subjects: rounds in turn, as long for the quick as for the slow, medians."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field

from rounds import RoundError, Stage, run_round
from subject import Subject
from works import Work


@dataclass
class Measured:
    """All rounds of one work."""

    work: Work
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """By the subject's name."""
    failed: dict[str, str] = field(default_factory=dict)

    def per_cpu(self, name: str) -> float:
        """Frames in a second of own CPU time, the median."""
        return self._median(name, lambda each: each["units"] / each["cpu"])

    def per_second(self, name: str) -> float:
        """Frames in a second of wall time, the median."""
        return self._median(name, lambda each: each["units"] / each["wall"])

    def load(self, name: str) -> float:
        """The part of the time that the load was busy, the median."""
        return self._median(name, lambda each: each["load"] / each["wall"])

    def late(self, name: str, part: str) -> float | None:
        """A percentile of the time from `send` to the peer, in seconds; None: it was not measured."""
        if part not in self.rounds[name][0]:
            return None
        return self._median(name, lambda each: each[part])

    def _median(self, name: str, of) -> float:
        return statistics.median(of(each) for each in self.rounds[name])


def measure(stage: Stage, work: Work, subjects: list[Subject], *, rounds: int, seconds: float) -> Measured:
    """Do all rounds of a work."""
    measured = Measured(work)
    rates = {
        each.name: each.rate / (1 + work.size / 4096) / (4 if work.peers == 1 else 1) for each in subjects
    }
    for number in range(rounds):
        for subject in subjects:
            if subject.name in measured.failed:
                continue
            print(f"{work.key}: round {number + 1}, {subject.name}", file=sys.stderr)
            try:
                figures = run_round(stage, work, subject, work.events(rates[subject.name], seconds))
            except RoundError as error:
                measured.failed[subject.name] = str(error)
                print(f"failed: {error}", file=sys.stderr)
                continue
            measured.rounds.setdefault(subject.name, []).append(figures)
            rates[subject.name] = figures["units"] / max(figures["cpu"], figures["wall"])
    return measured
