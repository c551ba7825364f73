"""A log of events that peers can cause as often as they like, throttled so that no peer can fill it.

Rules
-----
1. The first record of a kind is written immediately. Records with the same format string are of one kind.
2. Those that follow within `EVERY` seconds of a report are counted, and reported together, with the values of the latest,
   when that time is over, or when the output ends. So every event is reported once.
3. The program has the format strings, and no peer, so there are few kinds.
"""

import logging
from math import inf

import trio
from attrs import define, field

_log = logging.getLogger("trio_wsout")

EVERY = 60.0
"""Seconds between two reports of one kind."""


@define
class _Kind:
    reported_at: float
    waiting: int = 0
    latest: tuple[int, tuple[object, ...]] = (logging.WARNING, ())
    """Level and values of the latest record that waits."""


@define(eq=False)
class PeerLog:
    """Throttles the records of one output, whose task is `run`."""

    _kinds: dict[str, _Kind] = field(factory=dict[str, _Kind], init=False)
    _counted: trio.Event = field(factory=trio.Event, init=False)

    def warning(self, text: str, *values: object) -> None:
        """Log an event that an operator should know of."""
        self._add(logging.WARNING, text, values)

    def error(self, text: str, *values: object, exc_info: bool = False) -> None:
        """Log a fault of this side; the first record of a kind has the traceback, if `exc_info`."""
        self._add(logging.ERROR, text, values, exc_info=exc_info)

    def _add(self, level: int, text: str, values: tuple[object, ...], *, exc_info: bool = False) -> None:
        kind, now = self._kinds.get(text), trio.current_time()
        if kind is None or (not kind.waiting and now >= kind.reported_at + EVERY):
            self._kinds[text] = _Kind(now)
            _log.log(level, text, *values, exc_info=exc_info)
            return
        if not kind.waiting:
            self._counted.set()
        kind.waiting += 1
        kind.latest = level, values

    async def run(self) -> None:
        """Log the counts when their time has come, and the remaining ones when cancelled."""
        try:
            while True:
                waiting = (each.reported_at for each in self._kinds.values() if each.waiting)
                self._counted = trio.Event()
                with trio.move_on_at(min(waiting, default=inf) + EVERY):
                    await self._counted.wait()
                self._report(EVERY)
        finally:
            self._report(0.0)

    def _report(self, pause: float) -> None:
        """Log the records that wait, of the kinds whose last report is at least `pause` seconds ago."""
        now = trio.current_time()
        for text, kind in self._kinds.items():
            if not kind.waiting or kind.reported_at + pause > now:
                continue
            (level, values), count = kind.latest, kind.waiting
            kind.reported_at, kind.waiting = now, 0
            if count == 1:
                _log.log(level, text, *values)
            else:
                _log.log(level, f"%d more like this, the latest: {text}", count, *values)
