"""What peers can cause at will, as often as they like: when it is told, and how often it was (no log fills up by it).

Rules
-----
1. The first of a kind is told at once.
2. Those that follow within `EVERY` seconds of a telling are counted, and told together when that time is over.
3. Nothing is told twice, and nothing is forgotten: `rest` has what is untold.
4. Kinds are named by the program, never by a peer: so there are few.
"""

from __future__ import annotations

from attrs import define

__all__ = ["EVERY", "Recurring"]

EVERY = 60.0
"""Seconds between two tellings of one kind."""


@define
class _Kind:
    told_at: float
    untold: int = 0


class Recurring:
    """Counts by kind. Times are absolute seconds of the caller's clock."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def happened(self, kind: str, now: float) -> bool:
        """Count one; return whether to tell it now, as itself."""
        seen = self._kinds.get(kind)
        if seen is not None and (seen.untold or now < seen.told_at + EVERY):
            seen.untold += 1
            return False
        self._kinds[kind] = _Kind(now)
        return True

    @property
    def deadline(self) -> float | None:
        """When something untold is to be told; None: nothing is."""
        return min((seen.told_at + EVERY for seen in self._kinds.values() if seen.untold), default=None)

    def poll(self, now: float) -> list[tuple[str, int]]:
        """Return the kinds to tell now, and how often each happened since it was told."""
        due = [kind for kind, seen in self._kinds.items() if seen.untold and now >= seen.told_at + EVERY]
        return [(kind, self._tell(kind, now)) for kind in due]

    def rest(self, now: float) -> list[tuple[str, int]]:
        """Return everything that is untold, for nothing more will happen."""
        return [(kind, self._tell(kind, now)) for kind, seen in self._kinds.items() if seen.untold]

    def _tell(self, kind: str, now: float) -> int:
        seen = self._kinds[kind]
        count, seen.untold, seen.told_at = seen.untold, 0, now
        return count
