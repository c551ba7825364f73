"""Everything that is told while something goes wrong, to look whether it holds what it must not."""

from __future__ import annotations

import logging
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio_wsout

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

__all__ = ["Told", "everything_told"]

LOGGERS = ("trio_wsout", "trio-websocket", "trio_websocket", "wsproto", "h11", "python_socks", "trio")


class Told(logging.Handler):
    """What all loggers say, and what `note` is given: as it is printed, and with all that is behind it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # As a formatter does it, with the traceback.
        self.texts += [self.format(record), repr(vars(record))]

    def note(self, *things: object) -> None:
        for thing in things:
            self.texts += [repr(thing), str(thing)]
            if isinstance(thing, BaseException):
                self._note_error(thing)

    def _note_error(self, error: BaseException) -> None:
        self.texts += traceback.TracebackException.from_exception(error).format()
        todo, seen = [error], set[int]()
        while todo:
            each = todo.pop()
            if id(each) in seen:
                continue
            seen.add(id(each))
            self.texts += [repr(each), str(each), repr(each.args)]
            if isinstance(each, trio_wsout.OutputError):
                self.texts.append(repr(vars(each)))
            todo += [other for other in (each.__cause__, each.__context__) if other is not None]
            todo += each.exceptions if isinstance(each, BaseExceptionGroup) else ()

    def holding(self, forms: Collection[str]) -> list[str]:
        """The texts that hold one of these."""
        return [text for text in self.texts if any(form in text for form in forms)]


@contextmanager
def everything_told() -> Generator[Told, None, None]:
    """Hear what any logger says at DEBUG, for as long as the block lasts."""
    told, root = Told(), logging.getLogger()
    loggers = [root, *map(logging.getLogger, LOGGERS)]
    before = [logger.level for logger in loggers]
    root.addHandler(told)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield told
    finally:
        root.removeHandler(told)
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
