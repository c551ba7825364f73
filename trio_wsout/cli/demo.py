"""`trio-wsout demo`: an endpoint and a client in one process, a real socket, a cut, and nothing lost."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import orjson
from rich.console import Console
from rich.table import Table

from trio_wsout._wire.endpoint import open_endpoint
from trio_wsout.cli.codes import OK, SOME_UNDELIVERED
from trio_wsout.output import open_output

if TYPE_CHECKING:
    from trio_wsout._core.link_change import LinkChange
    from trio_wsout._core.statistics import Statistics
    from trio_wsout._wire.endpoint import DemoEndpoint

__all__ = ["run_demo"]

_SYMBOLS = {"ACME": 101.0, "BOLT": 42.0, "CRUX": 7.5}
_SHOWN = 3


async def run_demo(events: int) -> int:
    """Send so many events, have the endpoint cut the connection in the middle; tell what arrived."""
    console = Console()
    async with open_endpoint() as endpoint:
        url = f"ws://127.0.0.1:{endpoint.port}/trades"
        console.print(f"An endpoint listens at [bold]{url}[/]; sending {events} events to it.")
        config = {
            "url": url,
            "delivery": {"stamp": "seq"},
            "reconnect": {"initial-backoff": "100ms"},
            "heartbeat": {},
        }

        def tell(change: LinkChange) -> None:
            why = f" ({change.ending.detail})" if change.ending is not None and change.delay else ""
            console.print(f"  link: {change.state.value}{why}")

        async with open_output(config, on_state=tell) as output:
            for number in range(events):
                await output.send(_trade(number))
                if number == events // 2:
                    await _cut(endpoint, console)
        statistics = output.statistics()
    return _account(console, endpoint, statistics, events)


def _trade(number: int) -> dict[str, object]:
    """A plausible event: a trade of one of a few symbols, its price on a random walk."""
    symbol = random.choice(list(_SYMBOLS))  # noqa: S311 - nothing secret
    _price = _SYMBOLS[symbol] * (1 + random.uniform(-0.01, 0.01))  # noqa: S311
    return {"id": number, "symbol": symbol, "price": round(_price, 2), "size": random.randrange(1, 500)}  # noqa: S311


async def _cut(endpoint: DemoEndpoint, console: Console) -> None:
    await endpoint.wait_first()
    console.print(
        f"  [yellow]the endpoint cuts the connection, {len(endpoint.messages)} messages are there[/]"
    )
    await endpoint.cut()


def _account(console: Console, endpoint: DemoEndpoint, statistics: Statistics, events: int) -> int:
    arrived = [orjson.loads(message)["id"] for message in endpoint.messages]
    lost = events - len(set(arrived))
    for message in endpoint.messages[-_SHOWN:]:
        console.print(f"  arrived: {message}", soft_wrap=True)
    table = Table("sent", "confirmed", "arrived", "of them twice", "lost", "connections")
    table.add_row(
        str(statistics.accepted),
        str(statistics.confirmed),
        str(len(arrived)),
        str(len(arrived) - len(set(arrived))),
        f"[red]{lost}[/]" if lost else "[green]0[/]",
        str(endpoint.connections),
    )
    console.print(table)
    in_order = sorted(set(arrived)) == list(dict.fromkeys(arrived))
    console.print(
        "Every event arrived, in order." if in_order and not lost else "[red]Something is wrong.[/]"
    )
    return OK if in_order and not lost and statistics.confirmed == events else SOME_UNDELIVERED
