"""What becomes of events that are not delivered: lines of a file, on disk, or at least a count."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.json_line import JsonLine
from trio_wsout.cli.descriptors import write_all
from trio_wsout.cli.json_text import to_json
from trio_wsout.cli.printing import say, waiting
from trio_wsout.errors import Undelivered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Keeper", "as_undelivered"]


class Keeper:
    """Appends undelivered events to a file, if there is one, and counts them."""

    count: int
    """Accepted events that were not delivered."""

    def __init__(self, path: Path | None) -> None:
        """Open the file, so that a place that can't be written to is known before the first event.

        Raises:
            OSError: It can't be written to.
        """
        self.count = 0
        self.where = f"in {path}" if path else "lost; --undelivered FILE keeps them"
        self.written = f"written to {path}" if path else self.where
        self._path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(path, flags, 0o666) if path else None

    def keep(self, items: Sequence[Undelivered]) -> None:
        """Append a line for each, on disk when this returns; what can't be written is told."""
        if self._file is None or not items:
            return
        lines = b"".join(self._line(item) for item in items)
        try:
            write_all(self._file, lines)
        except OSError as error:
            self.where = self.written = f"not all of them in {self._path}: {error.strerror}"
            say(f"{self._path}: {error.strerror}; {len(items)} undelivered events could not all be written")
        # Pipes and terminals have no disk.
        with suppress(OSError):
            os.fsync(self._file)

    def _line(self, item: Undelivered) -> bytes:
        try:
            return b'{"event":%b,"reason":%b}\n' % (to_json(item.event), to_json(item.reason))
        except (TypeError, ValueError) as error:  # it costs no other event its place
            self.where = self.written = f"not all of them in {self._path}: {error}"
            say(f"{self._path}: an undelivered event could not be written: {error}")
            return b""

    async def run(self, taken: trio.MemoryReceiveChannel[Undelivered]) -> None:
        """Keep what comes until the channel ends; all that is there with one write to the disk."""
        async for item in taken:
            items = [item, *waiting(taken)]
            self.count += len(items)
            # Taken is taken: a second Ctrl-C must not come between.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.keep, items)

    def keep_rest(self, taken: trio.MemoryReceiveChannel[Undelivered]) -> None:
        """Keep what a cancelled output left in the channel, when nobody else is there to take it."""
        items = list(waiting(taken))
        self.count += len(items)
        self.keep(items)


def as_undelivered(line: bytes) -> Undelivered:
    """A line that was read and not sent, with its event as it stands there, or its text if it is no JSON."""
    try:
        return Undelivered(event=JsonLine.read(line), reason="read, but not sent")
    except ValueError:
        return Undelivered(event=line.decode(errors="replace"), reason="read, but not sent; it is no JSON")
