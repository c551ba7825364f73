"""What becomes of events that are not delivered: lines of a file, on disk, or at least a count."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from trio_wsout._core.json_line import JsonLine
from trio_wsout.cli.lines import NO_JSON
from trio_wsout.cli.printing import count, say, to_json, write_all
from trio_wsout.errors import Undelivered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Keeper", "as_undelivered"]


_STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1")
"""What standard output may be called where a file is named."""


class Keeper:
    """Appends undelivered events to a file, if there is one, and counts them."""

    count: int
    """Accepted events that were not delivered."""

    def __init__(self, path: Path | None) -> None:
        """Keep in the file `path`, once it is open; None: nowhere."""
        self.count = 0
        self.where = f"in {path}" if path else "lost; --undelivered FILE keeps what is not delivered"
        self.written = f"written to {path}" if path else self.where
        self._path = path
        self._file: int | None = None

    def open(self) -> None:
        """Open the file, so that a place that can't be written to is known before the first event.

        Raises:
            OSError: It can't be written to.
        """
        if self._path is None:
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.dup(1) if str(self._path) in _STANDARD_OUTPUT else os.open(self._path, flags, 0o666)

    def keep(self, items: Sequence[Undelivered]) -> None:
        """Append a line for each, on disk when this returns; what can't be written is told."""
        if self._file is None or not items:
            return
        lines = b"".join(self._line(item) for item in items)
        try:
            write_all(self._file, lines)
        except OSError as error:
            self.where = self.written = f"not all of them in {self._path}: {error.strerror}"
            lost = count(len(items), "undelivered event")
            say(f"{self._path}: {error.strerror}; {lost} could not all be written", "error")
        # Pipes and terminals have no disk.
        with suppress(OSError):
            os.fsync(self._file)

    def _line(self, item: Undelivered) -> bytes:
        in_hex = b',"hex":true' if isinstance(item.event, bytes) else b""
        try:
            return b'{"event":%b%b,"reason":%b}\n' % (to_json(item.event), in_hex, to_json(item.reason))
        except (TypeError, ValueError) as error:  # it costs no other event its place
            self.where = self.written = f"not all of them in {self._path}: {error}"
            say(f"{self._path}: an undelivered event could not be written: {error}", "error")
            return b""

    async def run(self, taken: trio.MemoryReceiveChannel[Undelivered]) -> None:
        """Keep what comes until the channel ends; all that is there with one write to the disk."""
        async for item in taken:
            items = [item, *_waiting(taken)]
            self.count += len(items)
            # Taken is taken: a second Ctrl-C must not come between.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.keep, items)

    def keep_rest(self, taken: trio.MemoryReceiveChannel[Undelivered]) -> None:
        """Keep what a cancelled output left in the channel, when nobody else is there to take it."""
        items = list(_waiting(taken))
        self.count += len(items)
        self.keep(items)


def _waiting(channel: trio.MemoryReceiveChannel[Any]) -> Iterator[Any]:
    """What lies in a channel now."""
    with suppress(trio.WouldBlock, trio.EndOfChannel):
        while True:
            yield channel.receive_nowait()


def as_undelivered(line: bytes) -> Undelivered:
    """A line that was read and not sent, with its event as it stands there, or its text if it is no JSON."""
    try:
        return Undelivered(event=JsonLine.read(line), reason="read, but not sent")
    except ValueError:
        return Undelivered(event=line.decode(errors="replace"), reason=NO_JSON)
