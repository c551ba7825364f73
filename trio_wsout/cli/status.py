"""The status line of a terminal: rate, link, queues, renewed twice a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from trio_wsout._core.statistics import Statistics
    from trio_wsout.output import Output

__all__ = ["run_status", "status_line"]

_EVERY = 0.5
_COLOURS = {"open": "green", "backing-off": "yellow", "gave-up": "red"}


def status_line(now: Statistics, rate: float) -> Text:
    """One line: link state, confirmed events and their rate, queued, unconfirmed, reconnects."""
    line = Text(now.state, style=_COLOURS.get(now.state, "cyan"))
    line.append(f"  {now.confirmed:,} confirmed ({rate:,.0f}/s)", style="default")
    line.append(f"  {now.queued:,} queued  {now.unconfirmed:,} unconfirmed  {now.reconnects} reconnects")
    return line


async def run_status(output: Output) -> None:
    """Keep the line up to date until cancelled."""
    before = output.statistics().confirmed
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        while True:
            await trio.sleep(_EVERY)
            now = output.statistics()
            live.update(status_line(now, (now.confirmed - before) / _EVERY), refresh=True)
            before = now.confirmed
