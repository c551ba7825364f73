"""A log of events that peers can cause as often as they like, throttled so that no peer can fill it."""

from __future__ import annotations

import logging
from math import inf

import trio
from attrs import define, field

from trio_wsout._core.throttle import Throttle

_log = logging.getLogger("trio_wsout")


@define(eq=False)
class PeerLog:
    """Writes the first record of each kind immediately, and later ones once a minute with their count.

    Records with the same format string are of one kind. Each output has one log, whose task is `run`.
    """

    _throttle: Throttle = field(factory=Throttle, init=False)
    _latest: dict[str, tuple[int, tuple[object, ...]]] = field(
        factory=dict[str, tuple[int, tuple[object, ...]]], init=False
    )
    """Level and values of the latest record that was counted, by its format string."""
    _counted: trio.Event = field(factory=trio.Event, init=False)

    def warning(self, text: str, *values: object) -> None:
        """Log an event that an operator should know of."""
        self._add(logging.WARNING, text, values)

    def error(self, text: str, *values: object, exc_info: bool = False) -> None:
        """Log a fault of this side; the first record of a kind has the traceback, if `exc_info`."""
        self._add(logging.ERROR, text, values, exc_info=exc_info)

    def _add(self, level: int, text: str, values: tuple[object, ...], *, exc_info: bool = False) -> None:
        if self._throttle.happened(text, trio.current_time()):
            _log.log(level, text, *values, exc_info=exc_info)
            return
        if text not in self._latest:
            self._counted.set()
        self._latest[text] = level, values

    async def run(self) -> None:
        """Log the counts when their time has come, and the remaining ones when cancelled."""
        try:
            while True:
                deadline = self._throttle.deadline
                self._counted = trio.Event()
                with trio.move_on_at(inf if deadline is None else deadline):
                    await self._counted.wait()
                self._write(self._throttle.poll(trio.current_time()))
        finally:
            self._write(self._throttle.rest(trio.current_time()))

    def _write(self, counted: list[tuple[str, int]]) -> None:
        for text, count in counted:
            level, values = self._latest.pop(text)
            if count == 1:
                _log.log(level, text, *values)
            else:
                _log.log(level, f"%d more like this, the latest: {text}", count, *values)
