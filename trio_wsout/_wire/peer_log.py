"""The log of what peers can cause at will: no peer can fill it (`_core.throttle`)."""

from __future__ import annotations

import logging
from math import inf

import trio

from trio_wsout._core.throttle import Throttle

__all__ = ["PeerLog"]

_log = logging.getLogger("trio_wsout")


class PeerLog:
    """Writes the first record of each kind at once, and of those that follow one a minute, with their count.

    A kind is a format string. One for each output; `run` tells what was counted.
    """

    def __init__(self) -> None:
        self._throttle = Throttle()
        self._latest: dict[str, tuple[int, tuple[object, ...]]] = {}
        self._counted = trio.Event()

    def warning(self, text: str, *values: object) -> None:
        """Tell what an operator should look at."""
        self._add(logging.WARNING, text, values)

    def error(self, text: str, *values: object, exc_info: bool = False) -> None:
        """Tell what is wrong on this side; the first time with the traceback, if `exc_info`."""
        self._add(logging.ERROR, text, values, exc_info=exc_info)

    def _add(self, level: int, text: str, values: tuple[object, ...], *, exc_info: bool = False) -> None:
        if self._throttle.happened(text, trio.current_time()):
            _log.log(level, text, *values, exc_info=exc_info)
            return
        if text not in self._latest:
            self._counted.set()
        self._latest[text] = level, values

    async def run(self) -> None:
        """Tell what was counted when its time comes, until cancelled; then at once."""
        try:
            while True:
                deadline = self._throttle.deadline
                self._counted = trio.Event()
                with trio.move_on_at(inf if deadline is None else deadline):
                    await self._counted.wait()
                self._tell(self._throttle.poll(trio.current_time()))
        finally:
            self._tell(self._throttle.rest(trio.current_time()))

    def _tell(self, counted: list[tuple[str, int]]) -> None:
        for text, count in counted:
            level, values = self._latest.pop(text)
            if count == 1:
                _log.log(level, text, *values)
            else:
                _log.log(level, f"%d more like this, the latest: {text}", count, *values)
