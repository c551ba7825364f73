"""`trio-wsout demo`: a server and its clients over real sockets; one client is cut off and resumes, nothing is lost."""

import random
from collections.abc import Sequence
from urllib.parse import quote

import orjson
import trio
from attrs import define, field
from rich.table import Table

from trio_wsout._core.statistics import Statistics
from trio_wsout.cli.exit_codes import CONFIGURATION, OK, SOME_UNDELIVERED
from trio_wsout.cli.terminal import Screen
from trio_wsout.output import Output, open_output

_CLIENTS = 5
_CUT = 2
"""Index of the client that is cut off in the middle."""
_AWAY = 0.3
"""Seconds that it stays away."""
_BURST = 0.02
"""Seconds between two bursts of events."""
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


@define(eq=False)
class _Client:
    """One client of the demo."""

    name: str
    _events: int
    """Number of events that it waits for."""
    _screen: Screen
    cut_at: int | None = field(default=None, init=False)
    """Number of events after which its connection is cut off; None if it never is."""
    numbers: list[int] = field(factory=list[int], init=False)
    """The number of every event that arrived, in order of arrival."""
    connections: int = field(default=0, init=False)
    _cursor: str = field(default="", init=False)

    async def run(self, url: str) -> None:
        """Receive all events, over as many connections as that takes."""
        while not self.numbers or self.numbers[-1] < self._events - 1:
            with trio.CancelScope() as connection:
                await self._watch(url, connection)
            if connection.cancelled_caught:
                self._tell(f"is cut off, it has {len(self.numbers):,} events")
                await trio.sleep(_AWAY)

    async def _watch(self, url: str, connection: trio.CancelScope) -> None:
        """Receive events over one connection, from the cursor on if there is one."""
        resume = f"?after={quote(self._cursor)}" if self._cursor else ""
        link = {"url": url + resume, "connect": {"mode": "eager", "proxy": "none"}}
        async with open_output(link, receive=True) as output:
            await output.wait_connected()
            self.connections += 1
            if resume:
                self._tell(f"is back, and asks for what follows {self._cursor}")
            async for received in output.received:
                event = orjson.loads(str(received.event))
                self.numbers.append(event["id"])
                self._cursor = event["seq"]
                if event["id"] == self._events - 1:
                    return
                if len(self.numbers) == self.cut_at and self.connections == 1:
                    connection.cancel()

    def _tell(self, news: str) -> None:
        self._screen.print(f"  [yellow]{self.name} {news}[/]")


async def run_demo(events: int, rate: float) -> int:
    """Fan out `events` events, `rate` of them a second; print the result, and return the exit code."""
    screen = Screen(highlight=False, soft_wrap=True)
    clients = [_Client(f"client {number + 1}", events, screen) for number in range(_CLIENTS)]
    clients[_CUT].cut_at = (events + 1) // 2
    async with open_output(_SERVER) as output:
        url = f"ws://{output.statistics().addresses[0]}/trades"
        screen.print(
            f"A server listens at [bold]{url}[/]; {_CLIENTS} clients watch, {events:,} events follow."
        )
        with trio.CancelScope() as patience:
            async with trio.open_nursery() as watching:
                for client in clients:
                    watching.start_soon(client.run, url)
                await output.wait_peers(_CLIENTS)
                await _generate(output, events, rate)
                patience.deadline = trio.current_time() + _PATIENCE
    code = _account(screen, clients, output.statistics(), events)
    return CONFIGURATION if screen.failed else code


async def _generate(output: Output, events: int, rate: float) -> None:
    """Send trades in small bursts, as they come from a market, at `rate` on average."""
    began, number = trio.current_time(), 0
    while number < events:
        await trio.sleep(_BURST)
        due = min(events, int((trio.current_time() - began) * rate) + 1)
        for each in range(number, due):
            symbol, usual = random.choice(list(_SYMBOLS.items()))  # noqa: S311 - nothing secret
            price = round(usual * random.uniform(0.99, 1.01), 2)  # noqa: S311
            await output.send({"id": each, "symbol": symbol, "price": price})
        number = due


def _account(screen: Screen, clients: Sequence[_Client], statistics: Statistics, events: int) -> int:
    """Compare the events that were sent with those that each client has; return the exit code."""
    table = Table("", "arrived", "of them twice", "lost", "in order", "connections")
    complete = statistics.confirmed == events
    for client in clients:
        arrived, different = len(client.numbers), len(set(client.numbers))
        ordered = client.numbers == sorted(client.numbers)
        complete = complete and ordered and arrived == different == events
        figures = (arrived, arrived - different, events - different)
        table.add_row(
            client.name, *map("{:,}".format, figures), "yes" if ordered else "no", str(client.connections)
        )
    screen.print(table, soft_wrap=False)
    replayed = statistics.history.replayed if statistics.history else 0
    screen.print(
        f"{statistics.accepted:,} events sent, {statistics.confirmed:,} confirmed, "
        f"{statistics.written:,} written, {replayed:,} of them from the history."
    )
    screen.print(
        "Every client has every event once, in order." if complete else "[red]Something is wrong.[/]"
    )
    return OK if complete else SOME_UNDELIVERED
