"""The cursor saver: puts the cursor into its store, soon, but not for every message (SPEC 9)."""

import logging
from collections.abc import Sequence

import trio
from attrs import define, field

from trio_wsout._core.cursor import CursorReader
from trio_wsout._core.message import Message
from trio_wsout._core.statistics import Counters
from trio_wsout._tasks.ledger import Ledger
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import CursorError
from trio_wsout.stores.cursor import AwayError, CursorStore, StoredCursor

_log = logging.getLogger("trio_wsout")

_COALESCE = 0.1
"""Seconds that a new cursor may wait, so that one write serves many messages."""


@define(eq=False)
class CursorSaver:
    """The cursor of one output; keeps its store up to date, and breaks the output if the store fails."""

    _store: CursorStore
    _ledger: Ledger
    _counters: Counters
    value: str | None = field(default=None, init=False)
    """The cursor; None if there is none yet."""
    _saved: str | None = field(default=None, init=False)
    _epoch: int = field(default=1, init=False)
    _changed: Wakeup = field(factory=Wakeup, init=False)
    _one_saves: trio.Lock = field(factory=trio.Lock, init=False)

    async def load(self, initial: str | None, reader: CursorReader) -> None:
        """Start a new epoch from the stored cursor, or else from `initial`, if `reader` can use them.

        Raises:
            CursorError: The stored cursor can't be read.
        """
        stored = await self._store.load()
        self._epoch = 1 if stored is None else stored.epoch + 1
        kept, stored_fault = reader.adopted(None if stored is None else stored.value, "the stored cursor")
        first, initial_fault = (None, None) if kept else reader.adopted(initial, "cursor.initial-value")
        for fault in (stored_fault, initial_fault):
            if fault is not None:
                _log.warning("%s", fault)
        self.value = self._saved = kept or first

    def confirmed(self, messages: Sequence[Message]) -> None:
        """Take the cursor of the last of these confirmed messages that has one."""
        last = self.value
        for message in messages:
            value = message.events[-1].cursor
            if value is None:
                self._counters.without_cursor += 1
            else:
                last = value
        if last is not None:
            self.moved(last)

    def moved(self, value: str) -> None:
        """Take a new value."""
        if value != self.value:
            self.value = value
            self._changed.notify()

    async def run(self) -> None:
        """Save until cancelled, at most every 100 ms."""
        while True:
            await self._changed.wait()
            await trio.sleep(_COALESCE)
            if not await self.save():
                self._changed.notify()

    async def save(self) -> bool:
        """Save the cursor now, if it is not saved yet; return whether there is nothing left to try."""
        async with self._one_saves:  # of two saves at a time the older could end last
            value = self.value
            if value is None or value == self._saved:
                return True
            try:
                await self._store.save(StoredCursor(value=value, epoch=self._epoch))
            except AwayError as error:
                _log.warning("%s; the cursor %s is not saved yet", error, value)
                return False
            except CursorError as error:
                self._ledger.break_with(error)
                return True
            self._saved = value
            return True
