"""Decides when to report events that peers can cause as often as they like, so that no peer can fill a log.

Rules
-----
1. The first event of a kind is reported immediately.
2. Those that follow within `EVERY` seconds of a report are counted, and reported together when that time is over.
3. Every event is reported once; `rest` returns those that still wait for it.
4. The program names the kinds, and no peer does, so there are few.
"""

from __future__ import annotations

from attrs import define, field

EVERY = 60.0
"""Seconds between two reports of one kind."""


@define
class _Kind:
    reported_at: float
    waiting: int = 0


@define(eq=False)
class Throttle:
    """Counts events by kind. Times are absolute seconds of the caller's clock."""

    _kinds: dict[str, _Kind] = field(factory=dict[str, _Kind], init=False)

    def happened(self, kind: str, now: float) -> bool:
        """Count an event; return whether to report it now, by itself."""
        seen = self._kinds.get(kind)
        if seen is not None and (seen.waiting or now < seen.reported_at + EVERY):
            seen.waiting += 1
            return False
        self._kinds[kind] = _Kind(now)
        return True

    @property
    def deadline(self) -> float | None:
        """The time at which waiting events are to be reported; None if none wait."""
        return min((seen.reported_at + EVERY for seen in self._kinds.values() if seen.waiting), default=None)

    def poll(self, now: float) -> list[tuple[str, int]]:
        """Return the kinds to report now, and how many events of each."""
        return self._report(now, EVERY)

    def rest(self, now: float) -> list[tuple[str, int]]:
        """Return the kinds of all events that wait, and how many of each, because no more will happen."""
        return self._report(now, 0.0)

    def _report(self, now: float, pause: float) -> list[tuple[str, int]]:
        """Take out the events that wait, of the kinds whose last report is at least `pause` seconds ago."""
        due = [(kind, seen) for kind, seen in self._kinds.items() if seen.waiting]
        due = [(kind, seen) for kind, seen in due if seen.reported_at + pause <= now]
        reports = [(kind, seen.waiting) for kind, seen in due]
        for _, seen in due:
            seen.reported_at, seen.waiting = now, 0
        return reports
