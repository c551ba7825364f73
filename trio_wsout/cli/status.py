"""The status line: the last row of a terminal, which nothing that is typed or printed reaches, renewed twice a second.

The rows above it are a scrolling region (DECSTBM), so that neither the keyboard's echo nor another program that
writes to the same terminal needs to know of it. When it ends, the terminal is as it was.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_wsout.cli.printing import count, is_writable, write_all
from trio_wsout.config.sections import Mode

if TYPE_CHECKING:
    from trio_wsout._core.statistics import Statistics
    from trio_wsout.cli.lines import Lines
    from trio_wsout.output import Output

__all__ = ["bar", "can_show", "done", "run_status", "status_line", "sum_line"]

_ERR = 2
_EVERY = 0.5
_COLOURS = {"open": "32", "backing-off": "33", "gave-up": "31", "dialling": "36"}
_LEAST_ROWS = 3
_BAR = 10
"""Characters of the bar."""
_HOUR = 3600


def status_line(now: Statistics, rate: float, mode: Mode, width: int, progress: str = "") -> str:
    """As much as fits into `width`: link state or peers, events and their rate, troubles, queues."""
    link, spool, listener = now.link, now.spool, now.listener
    client = mode is Mode.CLIENT
    received = mode is Mode.SERVER_INPUT
    # What is left out first where there is no room stands last.
    parts = [
        "" if client else f"{now.peers:,} peer{'' if now.peers == 1 else 's'}",
        "" if link is None else link.state if client else f"link {link.state}",
        f"{done(now, mode):,} {'received' if received else 'confirmed'} ({rate:,.0f}/s)",
        "" if received or mode is Mode.SERVER_OUTPUT or not now.received else f"{now.received:,} received",
        "" if spool is None or spool.waits is None else f"waiting: {spool.waits}",
        "" if listener is None or not listener.expelled else f"{listener.expelled:,} expelled",
        "" if received else f"{now.queued:,} queued",
        "" if received else f"{now.unconfirmed:,} unconfirmed",
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


def done(now: Statistics, mode: Mode) -> int:
    """What is counted: events that arrived; where none are sent, messages that came."""
    return now.received if mode is Mode.SERVER_INPUT else now.confirmed


def bar(read: int, total: int, seconds: float) -> str:
    """How far a file of known size is read, and the time that the rest will take at the rate so far."""
    part = min(1.0, read / total) if total else 1.0
    full = int(part * _BAR)
    line = f"{part:4.0%} [{'#' * full}{'-' * (_BAR - full)}]"
    if 0 < part < 1:
        line += f" {_clock(seconds / part - seconds)} left"
    return line


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours = f"{whole // _HOUR}:{whole // 60 % 60:02}" if whole >= _HOUR else f"{whole // 60}"
    return f"{hours}:{whole % 60:02}"


def sum_line(now: Statistics, mode: Mode, seconds: float, skipped: int) -> str:
    """What there was in all, for the end."""
    number = done(now, mode)
    what = "message received" if mode is Mode.SERVER_INPUT else "event confirmed"
    whats = what.replace("message", "messages").replace("event", "events")
    rate = f", {number / seconds:,.0f}/s" if number and seconds else ""
    parts = [f"{count(number, what, whats)} in {seconds:.1f} s{rate}"]
    if now.undelivered:
        parts.append(f"{now.undelivered:,} undelivered")
    if skipped:
        parts.append(f"{count(skipped, 'line')} skipped")
    if now.received and mode is not Mode.SERVER_INPUT:
        parts.append(f"{count(now.received, 'message')} received")
    if now.listener is not None and now.listener.admitted:
        parts.append(count(now.listener.admitted, "peer"))
    if now.link is not None and now.link.reconnects:
        parts.append(count(now.link.reconnects, "reconnect"))
    return "; ".join(parts)


def can_show() -> bool:
    """Whether standard error is a terminal that has room for the line, and knows how to keep it."""
    return os.isatty(_ERR) and os.environ.get("TERM", "dumb") != "dumb" and _size()[1] >= _LEAST_ROWS


def _size() -> tuple[int, int]:
    """Columns and rows of the terminal."""
    with suppress(OSError):
        columns, rows = os.get_terminal_size(_ERR)
        if columns and rows:
            return columns, rows
    return shutil.get_terminal_size()


async def run_status(output: Output, mode: Mode, lines: Lines | None) -> None:
    """Keep the line up to date until cancelled, or until the terminal is gone."""
    with suppress(OSError):
        row = _Row()
        try:
            await _renew(row, output, mode, lines)
        finally:
            row.close()


async def _renew(row: _Row, output: Output, mode: Mode, lines: Lines | None) -> None:
    before, began = done(output.statistics(), mode), trio.current_time()
    while True:
        await trio.sleep(_EVERY)
        now = output.statistics()
        progress = ""
        if lines is not None and lines.total:
            progress = bar(lines.read_bytes, lines.total, trio.current_time() - began)
        row.show(
            status_line(now, (done(now, mode) - before) / _EVERY, mode, row.columns - 1, progress),
            "" if now.link is None else now.link.state,
        )
        before = done(now, mode)


class _Row:
    """The last row of the terminal, kept out of the rows that scroll. Each change is one write, so nothing comes between."""

    def __init__(self) -> None:
        self.columns: int
        self._rows: int
        self.columns, self._rows = _size()
        self._colours = not os.environ.get("NO_COLOR")
        # The line feed makes room below; where the cursor is stays, one row up.
        self._write(f"\n{self._region(self._rows - 1)}\x1b[1A")

    def show(self, line: str, state: str) -> None:
        """Show the line, with the state in its colour; a terminal that was resized gets a new region."""
        size = _size()
        resized = ""
        if size != (self.columns, self._rows):
            self.columns, self._rows = size
            resized = self._region(self._rows - 1)
        if self._colours and state in _COLOURS:
            line = line.replace(state, f"\x1b[{_COLOURS[state]}m{state}\x1b[0m", 1)
        if is_writable(_ERR):  # a terminal that takes nothing now gets the next one
            self._write(f"{resized}\x1b7\x1b[{self._rows};1H\x1b[2K{line}\x1b8")

    def close(self) -> None:
        """Give the row back."""
        self._write(f"\x1b7\x1b[{self._rows};1H\x1b[2K\x1b[r\x1b8")

    def _region(self, rows: int) -> str:
        """Let only the first rows scroll; setting that moves the cursor, so it is saved."""
        return f"\x1b7\x1b[1;{rows}r\x1b8"

    def _write(self, text: str) -> None:
        write_all(_ERR, text.encode())
