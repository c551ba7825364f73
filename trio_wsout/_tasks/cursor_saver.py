"""The persister: the confirmed cursor goes to its store, soon, but not for every message (SPEC 9)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import CursorError
from trio_wsout.stores.cursor import StoredCursor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout._core.cursor import CursorReader
    from trio_wsout._core.message import Message
    from trio_wsout._core.statistics import Counters
    from trio_wsout._tasks.ledger import Ledger
    from trio_wsout.stores.cursor import CursorStore

__all__ = ["CursorSaver"]

_log = logging.getLogger("trio_wsout")

_COALESCE = 0.1
"""Seconds that a confirmed cursor may wait, so that one write serves many confirmations."""


class CursorSaver:
    """Holds the cursor of one output and keeps its store up to date."""

    value: str | None
    """The cursor now: of the last confirmed event that has one, or what was stored."""

    def __init__(self, store: CursorStore, ledger: Ledger, counters: Counters) -> None:
        """Keep `store` up to date; if it fails, it breaks the output of `ledger`."""
        self._store = store
        self._ledger = ledger
        self._counters = counters
        self._epoch = 1
        self._changed = Wakeup()
        self._one_saves = trio.Lock()
        self._saved: str | None = None
        self.value = None

    async def load(self, initial: str | None, reader: CursorReader) -> None:
        """Start from what is stored, or else from `initial`, as far as `reader` can use them; opens a new epoch.

        Raises:
            CursorError: What is stored can't be read.
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
        """These messages are confirmed: the cursor becomes the value of the last event that has one."""
        before = self.value
        for message in messages:
            value = message.events[-1].cursor
            if value is None:
                self._counters.without_cursor += 1
            else:
                self.value = value
        if self.value != before:
            self._changed.notify()

    async def run(self) -> None:
        """Save until cancelled, at most every 100 ms."""
        while True:
            await self._changed.wait()
            await trio.sleep(_COALESCE)
            await self.settle()

    async def settle(self) -> None:
        """Save now what is not saved yet. One save at a time: of two the older could end last."""
        async with self._one_saves:
            value = self.value
            if value is None or value == self._saved:
                return
            try:
                await self._store.save(StoredCursor(value=value, epoch=self._epoch))
            except CursorError as error:
                self._ledger.break_with(error)
                return
            self._saved = value
