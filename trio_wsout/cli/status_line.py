"""The status line: the last row of a terminal, where no typed or printed text appears, renewed twice a second.

The rows above it are a scrolling region (DECSTBM), so that neither the keyboard's echo nor another program that
writes to the same terminal needs to know about the line. When it ends, the terminal is as it was before.
"""

import os
import select
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta

import trio
from attrs import define, field

from trio_wsout._core.statistics import Statistics
from trio_wsout.cli.lines import InputLines
from trio_wsout.cli.terminal import ERR, is_ready, write_all
from trio_wsout.config.sections import Mode
from trio_wsout.errors import count

_INTERVAL = 0.5
_COLOURS = {"open": "32", "backing-off": "33", "gave-up": "31", "dialling": "36"}
_LEAST_ROWS = 3
_BAR = 10
"""Characters of the progress bar."""


def status_line(now: Statistics, rate: float, mode: Mode, width: int, progress: str = "") -> str:
    """Return as much as fits into `width`: progress, peers or link state, events and their rate, troubles, queues."""
    link, spool, listener = now.link, now.spool, now.listener
    waits = spool.waits if spool is not None else None if now.history is None else now.history.waiting
    client = mode is Mode.CLIENT
    sends = mode is not Mode.SERVER_INPUT
    # The last ones are left out first.
    parts = [
        "" if client else f"{now.peers:,} peer{'' if now.peers == 1 else 's'}",
        "" if link is None else link.state if client else f"link {link.state}",
        f"{progress_of(now, mode):,} {'confirmed' if sends else 'received'} ({rate:,.0f}/s)",
        f"{now.received:,} received" if now.received and mode in (Mode.CLIENT, Mode.RELAY) else "",
        "" if waits is None else f"waiting: {waits}",
        "" if listener is None or not listener.expelled else f"{listener.expelled:,} expelled",
        f"{now.queued:,} queued" if sends else "",
        f"{now.unconfirmed:,} unconfirmed" if sends else "",
        "" if link is None or not (client or link.reconnects) else count(link.reconnects, "reconnect"),
        "" if spool is None or not spool.events else f"{spool.events:,} in the spool",
    ]
    line = progress[:width]
    for part in filter(None, parts):
        longer = f"{line}  {part}" if line else part
        if len(longer) > width:
            break
        line = longer
    return line


def progress_of(now: Statistics, mode: Mode) -> int:
    """Return the number of confirmed events, or of received messages in the mode that sends no events."""
    return now.received if mode is Mode.SERVER_INPUT else now.confirmed


def progress_bar(read: int, total: int, seconds: float) -> str:
    """Return how much of a file was read in `seconds`, and how long the rest will take at this rate."""
    part = min(1.0, read / total) if total else 1.0
    full = int(part * _BAR)
    line = f"{part:4.0%} [{'#' * full}{'-' * (_BAR - full)}]"
    if 0 < part < 1:
        left = str(timedelta(seconds=round(seconds / part - seconds)))
        line += f" {left.removeprefix('0:').removeprefix('0')} left"
    return line


def summary(now: Statistics, mode: Mode, seconds: float, skipped: int) -> str:
    """Return the line for the end: the totals of a run."""
    number = progress_of(now, mode)
    received = f"{count(now.received, 'message')} received"
    total = received if mode is Mode.SERVER_INPUT else f"{count(number, 'event')} confirmed"
    rate = f", {number / seconds:,.0f}/s" if number and seconds else ""
    parts = [
        f"{total} in {seconds:.1f} s{rate}",
        f"{now.undelivered:,} undelivered" if now.undelivered else "",
        f"{count(skipped, 'line')} skipped" if skipped else "",
        received if now.received and mode is not Mode.SERVER_INPUT else "",
        count(now.listener.admitted, "peer") if now.listener is not None and now.listener.admitted else "",
        count(now.link.reconnects, "reconnect") if now.link is not None and now.link.reconnects else "",
    ]
    return "; ".join(filter(None, parts))


def can_show() -> bool:
    """Return whether standard error is a terminal that has room for the line, and can keep it in its last row."""
    return os.isatty(ERR) and os.environ.get("TERM", "dumb") != "dumb" and _size()[1] >= _LEAST_ROWS


def _size() -> tuple[int, int]:
    """Return the columns and rows of the terminal."""
    with suppress(OSError):
        columns, rows = os.get_terminal_size(ERR)
        if columns and rows:
            return columns, rows
    return shutil.get_terminal_size()


async def run_status_line(statistics: Callable[[], Statistics], mode: Mode, lines: InputLines | None) -> None:
    """Keep the line up to date until this is cancelled, or the terminal is gone."""
    before, began = progress_of(statistics(), mode), trio.current_time()
    with suppress(OSError), closing(_LastRow()) as row:
        while True:
            await trio.sleep(_INTERVAL)
            now = statistics()
            done, progress = progress_of(now, mode), ""
            if lines is not None and lines.total:
                progress = progress_bar(lines.read_bytes, lines.total, trio.current_time() - began)
            line = status_line(now, (done - before) / _INTERVAL, mode, row.columns - 1, progress)
            row.show(line, "" if now.link is None else now.link.state)
            before = done


@define(eq=False)
class _LastRow:
    """The last row of the terminal, which does not scroll. Each change is one write, so that nothing comes between."""

    columns: int = field(init=False)
    _rows: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.columns, self._rows = _size()
        # The line feed makes room below; after it the cursor is moved back to where it was, one row up.
        self._write(f"\n{self._region()}\x1b[1A")

    def show(self, line: str, state: str) -> None:
        """Show the line, with the state in its colour; a terminal that was resized gets a new region."""
        size = _size()
        region = ""
        if size != (self.columns, self._rows):
            self.columns, self._rows = size
            region = self._region()
        if state in _COLOURS and not os.environ.get("NO_COLOR"):
            line = line.replace(state, f"\x1b[{_COLOURS[state]}m{state}\x1b[0m", 1)
        if is_ready(ERR, select.POLLOUT):  # a terminal that takes nothing now gets the next line
            self._write(f"{region}\x1b7\x1b[{self._rows};1H\x1b[2K{line}\x1b8")

    def close(self) -> None:
        """Let all rows scroll again."""
        self._write(f"\x1b7\x1b[{self._rows};1H\x1b[2K\x1b[r\x1b8")

    def _region(self) -> str:
        """Let all rows but the last one scroll. This moves the cursor, which is therefore saved and restored."""
        return f"\x1b7\x1b[1;{self._rows - 1}r\x1b8"

    def _write(self, text: str) -> None:
        write_all(ERR, text.encode())
