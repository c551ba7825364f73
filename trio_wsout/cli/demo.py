"""`trio-wsout demo`: a server, its clients, real sockets, one client cut off and back, and nothing lost."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio
from rich.table import Table

from trio_wsout.cli.codes import CONFIGURATION, OK, SOME_UNDELIVERED
from trio_wsout.cli.demo_client import DemoClient
from trio_wsout.cli.demo_screen import DemoScreen
from trio_wsout.output import open_output

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    screen = DemoScreen(highlight=False)
    clients = [
        DemoClient(f"client {number + 1}", lambda text: screen.say(f"  [yellow]{text}[/]"))
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


def _account(screen: DemoScreen, clients: Sequence[DemoClient], statistics: Statistics, events: int) -> int:
    """Hold what was sent against what each client has."""
    table = Table("", "arrived", "of them twice", "lost", "in order", "connections")
    well = statistics.confirmed == events
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
        f"{statistics.written:,} written to {statistics.admitted} connections, "
        f"{statistics.replayed:,} of them from the history."
    )
    screen.say("Every client has every event once, in order." if well else "[red]Something is wrong.[/]")
    return OK if well else SOME_UNDELIVERED
