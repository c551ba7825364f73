"""Whether cost grows in a straight line: with the number of peers, and with the number of events."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from rounds import Stage, run_round
from subject import Subject
from works import BURST

PEERS = (10, 100, 250, 500, 1000)
PARTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Line:
    """The straight line nearest to some points."""

    points: list[tuple[float, float]]
    base: float
    slope: float

    @property
    def off(self) -> float:
        """How far the farthest point lies off the line, as a part of the largest value."""
        return max(abs(y - self.base - self.slope * x) for x, y in self.points) / max(
            y for _, y in self.points
        )


def line(points: list[tuple[float, float]]) -> Line:
    """By least squares."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return Line(points, mean_y - slope * mean_x, slope)


def measure_lines(stage: Stage, subject: Subject, seconds: float) -> dict[str, Line]:
    """CPU seconds for an event against peers, and for all against events."""
    events = BURST.events(subject.rate, seconds)
    against_peers = []
    for peers in PEERS:
        print(f"linear: {peers} peers", file=sys.stderr)
        work = replace(BURST, peers=peers)
        amount = max(64, events * 100 // peers)
        against_peers.append((peers, run_round(stage, work, subject, amount)["cpu"] / amount))
    against_events = []
    for part in PARTS:
        print(f"linear: {events * part} events", file=sys.stderr)
        against_events.append((events * part, run_round(stage, BURST, subject, events * part)["cpu"]))
    return {"peers": line(against_peers), "events": line(against_events)}
