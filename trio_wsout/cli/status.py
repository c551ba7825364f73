"""The status line of a terminal: link or peers, rate, queues, renewed twice a second."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from trio_wsout.config.sections import Mode

if TYPE_CHECKING:
    from trio_wsout._core.statistics import Statistics
    from trio_wsout.output import Output

__all__ = ["run_status", "status_line"]

_EVERY = 0.5
_COLOURS = {"open": "green", "backing-off": "yellow", "gave-up": "red"}
_LINK_STATES = {"idle", "dialling", "open", "backing-off", "gave-up"}
_DONE = {Mode.SERVER_INPUT: "received"}
"""What is counted where no events are sent."""


def status_line(now: Statistics, rate: float, mode: Mode = Mode.CLIENT) -> Text:
    """One line: link state or peers, events and their rate, queued, unconfirmed, reconnects, expelled peers."""
    line = Text()
    if mode is not Mode.CLIENT:
        line.append(f"{now.peers:,} peer{'' if now.peers == 1 else 's'}  ")
    if mode is Mode.CLIENT or now.state in _LINK_STATES:
        line.append("" if mode is Mode.CLIENT else "link ")
        line.append(now.state, style=_COLOURS.get(now.state, "cyan"))
        line.append("  ")
    line.append(f"{_done(now, mode):,} {_DONE.get(mode, 'confirmed')} ({rate:,.0f}/s)")
    if mode is not Mode.SERVER_INPUT:
        line.append(f"  {now.queued:,} queued  {now.unconfirmed:,} unconfirmed")
    if mode is Mode.CLIENT or now.reconnects:
        line.append(f"  {now.reconnects:,} reconnects")
    if now.spooled:
        line.append(f"  {now.spooled:,} in the spool")
    if now.spool_waits is not None:
        line.append(f"  waiting: {now.spool_waits}", style="red")
    if now.expelled:
        line.append(f"  {now.expelled:,} expelled", style="red")
    return line


def _done(now: Statistics, mode: Mode) -> int:
    return now.received if mode in _DONE else now.confirmed


async def run_status(output: Output, mode: Mode) -> None:
    """Keep the line up to date until cancelled, or until the terminal is gone."""
    with suppress(OSError):
        await _renew(output, mode)


async def _renew(output: Output, mode: Mode) -> None:
    before = _done(output.statistics(), mode)
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        while True:
            await trio.sleep(_EVERY)
            now = output.statistics()
            with suppress(BlockingIOError):  # a terminal that takes nothing now gets the next one
                live.update(status_line(now, (_done(now, mode) - before) / _EVERY, mode), refresh=True)
            before = _done(now, mode)
