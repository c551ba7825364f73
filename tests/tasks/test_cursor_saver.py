"""The persister beside a store that takes its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio_wsout._core.cursor import CursorReader
from trio_wsout._core.message import Accepted
from trio_wsout._core.statistics import Counters
from trio_wsout._tasks.cursor_saver import CursorSaver
from trio_wsout._tasks.ledger import Ledger
from trio_wsout.config import Cursor

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout.stores.cursor import StoredCursor


class SlowAtFirst:
    """A store whose first save takes long, as where a disk wakes up; what is saved last is there."""

    def __init__(self) -> None:
        self.kept: StoredCursor | None = None
        self.saves = 0

    async def load(self) -> StoredCursor | None:
        return None

    async def save(self, cursor: StoredCursor) -> None:
        self.saves += 1
        await trio.sleep(1 if self.saves == 1 else 0)
        self.kept = cursor

    async def aclose(self) -> None: ...


async def test_of_two_saves_the_newer_is_kept(autojump_clock: MockClock) -> None:
    store = SlowAtFirst()
    cursor_saver = CursorSaver(store, Ledger(None), Counters())
    await cursor_saver.load(None, CursorReader(Cursor()))
    async with trio.open_nursery() as nursery:
        cursor_saver.confirmed([Accepted(b"", event={}, cursor="1")])
        nursery.start_soon(cursor_saver.run)
        await trio.sleep(0.5)  # the save of the first is under way
        cursor_saver.confirmed([Accepted(b"", event={}, cursor="2")])
        await cursor_saver.save()
        assert store.kept is not None
        assert store.kept.value == "2"
        nursery.cancel_scope.cancel()
