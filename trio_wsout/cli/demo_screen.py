"""What the demonstration shows: lines in a pipe, and in a terminal a table of the clients that moves."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from trio_wsout.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from rich.console import RenderableType

    from trio_wsout.cli.demo_client import DemoClient

__all__ = ["DemoScreen"]

_EVERY = 0.1
_STYLES = {"watching": "cyan", "cut off": "yellow", "has all": "green"}


class DemoScreen(Screen):
    """Standard output; when its reader has seen enough, the demo goes on to its end and its exit code."""

    def say(self, what: RenderableType) -> None:
        """Print without breaking long lines."""
        self.print(what, soft_wrap=isinstance(what, str))

    @asynccontextmanager
    async def watching(self, clients: Sequence[DemoClient], events: int) -> AsyncGenerator[None, None]:
        """Show how far each client is, in a terminal; nothing in a pipe."""
        if not self.is_terminal:
            yield
            return
        with Live(console=self, auto_refresh=False) as live:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_renew, live, clients, events)
                yield
                nursery.cancel_scope.cancel()
            live.update(_progress(clients, events), refresh=True)


async def _renew(live: Live, clients: Sequence[DemoClient], events: int) -> None:
    while True:
        live.update(_progress(clients, events), refresh=True)
        await trio.sleep(_EVERY)


def _progress(clients: Sequence[DemoClient], events: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for client in clients:
        count = len(client.numbers)
        style = _STYLES.get(client.state, "")
        bar = ProgressBar(total=events, completed=count, width=40, complete_style=style or "bar.complete")
        table.add_row(f"  {client.name}", bar, f"{count:,}", f"[{style}]{client.state}[/]" if style else "")
    return table
