"""`trio-wsout demo`: an endpoint and a client in one process, a real socket, a cut, and nothing lost."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import orjson
import trio
from rich.console import Console
from rich.table import Table

from trio_wsout._wire.endpoint import open_endpoint
from trio_wsout.cli.codes import OK, SOME_UNDELIVERED
from trio_wsout.cli.printing import silence
from trio_wsout.output import open_output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trio_wsout._core.link_change import LinkChange
    from trio_wsout._core.statistics import Statistics
    from trio_wsout._wire.endpoint import DemoEndpoint

__all__ = ["run_demo"]

_SYMBOLS = {"ACME": 101.0, "BOLT": 42.0, "CRUX": 7.5}
_SHOWN = 3


class _Screen(Console):
    """Standard output; when its reader has seen enough, the demo goes on to its end and its exit code."""

    def say(self, what: RenderableType) -> None:
        """Print without breaking long lines."""
        try:
            self.print(what, soft_wrap=isinstance(what, str))
        except (BrokenPipeError, SystemExit):  # rich makes the second of the first
            silence()


async def run_demo(events: int) -> int:
    """Send so many events, have the endpoint cut the connection in the middle; tell what arrived."""
    console = _Screen()
    async with open_endpoint() as endpoint:
        url = f"ws://127.0.0.1:{endpoint.port}/trades"
        console.say(f"An endpoint listens at [bold]{url}[/]; sending {events} events to it.")
        config = {
            "url": url,
            "connect": {"proxy": "none"},
            "delivery": {"stamp": "seq"},
            "reconnect": {"initial-backoff": "100ms"},
            "heartbeat": {},
        }

        def tell(change: LinkChange) -> None:
            why = f" ({change.ending.detail})" if change.ending is not None and change.delay else ""
            console.say(f"  link: {change.state.value}{why}")

        async with open_output(config, on_state=tell) as output, trio.open_nursery() as nursery:
            nursery.start_soon(_cut, endpoint, console, (events + 1) // 2)
            for number in range(events):
                await output.send(_trade(number))
        statistics = output.statistics()
    return _account(console, endpoint, statistics, events)


def _trade(number: int) -> dict[str, object]:
    """A plausible event: a trade of one of a few symbols, near its usual price."""
    symbol = random.choice(list(_SYMBOLS))  # noqa: S311 - nothing secret
    price = _SYMBOLS[symbol] * (1 + random.uniform(-0.01, 0.01))  # noqa: S311
    return {"id": number, "symbol": symbol, "price": round(price, 2), "size": random.randrange(1, 500)}  # noqa: S311


async def _cut(endpoint: DemoEndpoint, console: _Screen, count: int) -> None:
    await endpoint.wait_for(count)
    console.say(f"  [yellow]the endpoint cuts the connection, {len(endpoint.messages)} messages are there[/]")
    await endpoint.cut()


def _account(console: _Screen, endpoint: DemoEndpoint, statistics: Statistics, events: int) -> int:
    arrived = [orjson.loads(message)["id"] for message in endpoint.messages]
    lost = events - len(set(arrived))
    for message in endpoint.messages[-_SHOWN:]:
        console.say(f"  arrived: {message}")
    table = Table("sent", "confirmed", "arrived", "of them twice", "lost", "reconnects")
    table.add_row(
        str(statistics.accepted),
        str(statistics.confirmed),
        str(len(arrived)),
        str(len(arrived) - len(set(arrived))),
        f"[red]{lost}[/]" if lost else "[green]0[/]",
        str(statistics.reconnects),
    )
    console.say(table)
    in_order = sorted(set(arrived)) == list(dict.fromkeys(arrived))
    well = in_order and not lost and statistics.confirmed == events
    console.say("Every event arrived, in order." if well else "[red]Something is wrong.[/]")
    return OK if well else SOME_UNDELIVERED
