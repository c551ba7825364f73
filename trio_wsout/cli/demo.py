"""`trio-wsout demo`: a server, its clients, real sockets, one client cut off and back, and nothing lost."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson
import trio
from attrs import define, field
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from trio_wsout.cli.codes import CONFIGURATION, OK, SOME_UNDELIVERED
from trio_wsout.cli.screen import Screen
from trio_wsout.output import open_output

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from rich.console import RenderableType

    from trio_wsout._core.statistics import Statistics
    from trio_wsout.output import Output

__all__ = ["run_demo"]

_CLIENTS = 5
_CUT = 2
"""Which of the clients loses its connection in the middle."""
_BURST = 0.02
"""Seconds from one handful of events to the next."""
_PATIENCE = 30.0
"""Seconds after the last event in which the clients must have it."""
_SYMBOLS = {"ACME": 101.0, "BOLT": 42.0, "CRUX": 7.5}

_SERVER = {
    "mode": "server-output",
    "server": {"bind": "127.0.0.1:0", "path": "/trades"},
    "delivery": {"stamp": "seq"},
    "history": {"store": "memory:"},
    "cursor": {"query-parameter": "after"},
}


async def run_demo(events: int, rate: float) -> int:
    """Fan so many events out, so many a second; tell what arrived. Gives the exit code."""
    screen = _Screen(highlight=False)
    clients = [
        _Client(f"client {number + 1}", lambda text: screen.say(f"  [yellow]{text}[/]"))
        for number in range(_CLIENTS)
    ]
    clients[_CUT].cut_at = (events + 1) // 2
    async with open_output(_SERVER) as output:
        url = f"ws://{output.statistics().addresses[0]}/trades"
        screen.say(
            f"A server listens at [bold]{url}[/]; {_CLIENTS} clients watch it, {events:,} events follow."
        )
        async with screen.watching(clients, events):
            with trio.CancelScope() as patience:
                async with trio.open_nursery() as watching:
                    for client in clients:
                        watching.start_soon(client.run, url, events - 1)
                    await output.wait_peers(_CLIENTS)
                    await _generate(output, events, rate)
                    patience.deadline = trio.current_time() + _PATIENCE
    code = _account(screen, clients, output.statistics(), events)
    return CONFIGURATION if screen.failed else code


async def _generate(output: Output, events: int, rate: float) -> None:
    """Send events in small bursts, as they come from a market, on time in the mean."""
    began = trio.current_time()
    number = 0
    while number < events:
        await trio.sleep(_BURST)
        due = min(events, int((trio.current_time() - began) * rate) + 1)
        for each in range(number, due):
            await output.send(_trade(each))
        number = due


def _trade(number: int) -> dict[str, object]:
    """A plausible event: a trade of one of a few symbols, near its usual price."""
    symbol = random.choice(list(_SYMBOLS))  # noqa: S311 - nothing secret
    price = _SYMBOLS[symbol] * (1 + random.uniform(-0.01, 0.01))  # noqa: S311
    return {"id": number, "symbol": symbol, "price": round(price, 2), "size": random.randrange(1, 500)}  # noqa: S311


def _account(screen: _Screen, clients: Sequence[_Client], statistics: Statistics, events: int) -> int:
    """Hold what was sent against what each client has."""
    table = Table("", "arrived", "of them twice", "lost", "in order", "connections")
    well = statistics.confirmed == events
    admitted = statistics.listener.admitted if statistics.listener else 0
    replayed = statistics.history.replayed if statistics.history else 0
    for client in clients:
        lost = events - len(set(client.numbers))
        well = well and client.ordered and not lost and not client.doubled
        table.add_row(
            client.name,
            f"{len(client.numbers):,}",
            f"{client.doubled:,}",
            f"[red]{lost:,}[/]" if lost else "[green]0[/]",
            "yes" if client.ordered else "[red]no[/]",
            str(client.connections),
        )
    screen.say(table)
    screen.say(
        f"{statistics.accepted:,} events sent, {statistics.confirmed:,} confirmed, "
        f"{statistics.written:,} written to {admitted} connections, "
        f"{replayed:,} of them from the history."
    )
    screen.say("Every client has every event once, in order." if well else "[red]Something is wrong.[/]")
    return OK if well else SOME_UNDELIVERED


# -- a client ---

_AWAY = 0.3
"""Seconds that a client stays away when it is cut off."""


@define(eq=False)
class _Client:
    """One client of `trio-wsout demo`."""

    name: str
    tell: Callable[[str], object]
    """Called with a line for people when it loses its connection and when it is back."""
    cut_at: int | None = None
    """Events after which its connection breaks; None: it does not."""
    numbers: list[int] = field(factory=list[int])
    """The number of every event that came, in the order in which they came."""
    connections: int = 0
    state: str = "connecting"
    _cursor: str | None = None

    @property
    def doubled(self) -> int:
        """Events that came more than once."""
        return len(self.numbers) - len(set(self.numbers))

    @property
    def ordered(self) -> bool:
        """Whether they came in the order in which they were sent."""
        return self.numbers == sorted(self.numbers)

    async def run(self, url: str, last: int) -> None:
        """Take events until that with the number `last` came."""
        while not self._has(last):
            with trio.CancelScope() as connection:
                await self._heartbeat_task(url, last, connection)
            if connection.cancelled_caught:
                self.state = "cut off"
                self.tell(f"{self.name} is cut off, it has {len(self.numbers):,} events")
                await trio.sleep(_AWAY)
        self.state = "has all"

    async def _heartbeat_task(self, url: str, last: int, connection: trio.CancelScope) -> None:
        """Take events over one connection, from the cursor on if there is one."""
        resuming = "" if self._cursor is None else f"?after={quote(self._cursor)}"
        link = {"url": url + resuming, "connect": {"mode": "eager", "proxy": "none"}}
        async with open_output(link, receive=True) as output:
            await output.wait_connected()
            self.connections += 1
            self.state = "watching"
            if resuming:
                self.tell(f"{self.name} is back, and asks for what follows {self._cursor}")
            async for received in output.received:
                self._take(str(received.event))
                if self._has(last):
                    return
                if len(self.numbers) == self.cut_at and self.connections == 1:
                    connection.cancel()

    def _take(self, message: str) -> None:
        event = orjson.loads(message)
        self.numbers.append(event["id"])
        self._cursor = event["seq"]

    def _has(self, last: int) -> bool:
        return bool(self.numbers) and self.numbers[-1] == last


# -- what is shown ---

_REDRAW = 0.1
_STYLES = {"watching": "cyan", "cut off": "yellow", "has all": "green"}


class _Screen(Screen):
    """Standard output; when its reader has seen enough, the demo goes on to its end and its exit code."""

    def say(self, what: RenderableType) -> None:
        """Print without breaking long lines."""
        self.print(what, soft_wrap=isinstance(what, str))

    @asynccontextmanager
    async def watching(self, clients: Sequence[_Client], events: int) -> AsyncGenerator[None, None]:
        """Show how far each client is, in a terminal; nothing in a pipe."""
        if not self.is_terminal:
            yield
            return
        with Live(console=self, auto_refresh=False) as live:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_redraw, live, clients, events)
                yield
                nursery.cancel_scope.cancel()
            live.update(_bars(clients, events), refresh=True)


async def _redraw(live: Live, clients: Sequence[_Client], events: int) -> None:
    while True:
        live.update(_bars(clients, events), refresh=True)
        await trio.sleep(_REDRAW)


def _bars(clients: Sequence[_Client], events: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for client in clients:
        count = len(client.numbers)
        style = _STYLES.get(client.state, "")
        bar = ProgressBar(total=events, completed=count, width=40, complete_style=style or "bar.complete")
        table.add_row(f"  {client.name}", bar, f"{count:,}", f"[{style}]{client.state}[/]" if style else "")
    return table
