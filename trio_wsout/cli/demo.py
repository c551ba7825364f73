"""`trio-wsout demo`: a server and its clients over real sockets; one client is cut off and resumes, nothing is lost."""

import random
from collections.abc import Sequence
from urllib.parse import quote

import orjson
import trio
from attrs import define, field
from rich.progress import BarColumn, Progress, TaskID
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


async def run_demo(events: int, rate: float) -> int:
    """Fan out `events` events, `rate` of them a second; print the result, and return the exit code."""
    screen = Screen(highlight=False, soft_wrap=True)
    columns = (
        "  {task.description}",
        BarColumn(40, complete_style="cyan"),
        "{task.completed:,.0f}",
        "{task.fields[state]}",
    )
    progress = Progress(*columns, console=screen, disable=not screen.is_terminal)
    clients = [
        _Client(f"client {number + 1}", (events + 1) // 2 if number == _CUT else None, events, progress)
        for number in range(_CLIENTS)
    ]
    async with open_output(_SERVER) as output:
        listener = output.statistics().listener
        url = f"ws://{listener.addresses[0] if listener else ''}/trades"
        screen.print(
            f"A server listens at [bold]{url}[/]; {_CLIENTS} clients watch it, {events:,} events follow."
        )
        with progress, trio.CancelScope() as patience:
            async with trio.open_nursery() as watching:
                for client in clients:
                    watching.start_soon(client.run, url)
                await output.wait_peers(_CLIENTS)
                await _generate(output, events, rate)
                patience.deadline = trio.current_time() + _PATIENCE
    code = _account(screen, clients, output.statistics(), events)
    return CONFIGURATION if screen.failed else code


async def _generate(output: Output, events: int, rate: float) -> None:
    """Send events in small bursts, as they come from a market, at `rate` on average."""
    began = trio.current_time()
    number = 0
    while number < events:
        await trio.sleep(_BURST)
        due = min(events, int((trio.current_time() - began) * rate) + 1)
        for each in range(number, due):
            await output.send(_trade(each))
        number = due


def _trade(number: int) -> dict[str, object]:
    """Return a plausible event: a trade of one of a few symbols, near its usual price."""
    symbol = random.choice(list(_SYMBOLS))  # noqa: S311 - nothing secret
    price = _SYMBOLS[symbol] * (1 + random.uniform(-0.01, 0.01))  # noqa: S311
    return {"id": number, "symbol": symbol, "price": round(price, 2), "size": random.randrange(1, 500)}  # noqa: S311


def _account(screen: Screen, clients: "Sequence[_Client]", statistics: Statistics, events: int) -> int:
    """Compare the events that were sent with those that each client has; return the exit code."""
    table = Table("", "arrived", "of them twice", "lost", "in order", "connections")
    complete = statistics.confirmed == events
    admitted = statistics.listener.admitted if statistics.listener else 0
    replayed = statistics.history.replayed if statistics.history else 0
    for client in clients:
        arrived = len(client.numbers)
        lost, twice = events - len(set(client.numbers)), arrived - len(set(client.numbers))
        ordered = client.numbers == sorted(client.numbers)
        complete = complete and ordered and not lost and not twice
        table.add_row(
            client.name,
            f"{arrived:,}",
            f"{twice:,}",
            f"[red]{lost:,}[/]" if lost else "[green]0[/]",
            "yes" if ordered else "[red]no[/]",
            str(client.connections),
        )
    screen.print(table, soft_wrap=False)
    screen.print(
        f"{statistics.accepted:,} events sent, {statistics.confirmed:,} confirmed, "
        f"{statistics.written:,} written to {admitted} connections, "
        f"{replayed:,} of them from the history."
    )
    screen.print(
        "Every client has every event once, in order." if complete else "[red]Something is wrong.[/]"
    )
    return OK if complete else SOME_UNDELIVERED


@define(eq=False)
class _Client:
    """One client of the demo."""

    name: str
    _cut_at: int | None
    """Number of events after which its connection is cut off; None if it never is."""
    _events: int
    """Number of events that it waits for."""
    _progress: Progress
    """Shows how far it is, in a terminal."""
    numbers: list[int] = field(factory=list[int], init=False)
    """The number of every event that arrived, in order of arrival."""
    connections: int = field(default=0, init=False)
    _cursor: str | None = field(default=None, init=False)
    _bar: TaskID = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._bar = self._progress.add_task(self.name, total=self._events, state="")

    async def run(self, url: str) -> None:
        """Receive all events, over as many connections as that takes."""
        while not self._has_all:
            with trio.CancelScope() as connection:
                await self._watch(url, connection)
            if connection.cancelled_caught:
                self._show("[yellow]cut off[/]", f"is cut off, it has {len(self.numbers):,} events")
                await trio.sleep(_AWAY)
        self._show("[green]has all[/]")

    async def _watch(self, url: str, connection: trio.CancelScope) -> None:
        """Receive events over one connection, from the cursor on if there is one."""
        resume = "" if self._cursor is None else f"?after={quote(self._cursor)}"
        link = {"url": url + resume, "connect": {"mode": "eager", "proxy": "none"}}
        async with open_output(link, receive=True) as output:
            await output.wait_connected()
            self.connections += 1
            self._show(
                "[cyan]watching[/]", f"is back, and asks for what follows {self._cursor}" if resume else ""
            )
            async for received in output.received:
                event = orjson.loads(str(received.event))
                self.numbers.append(event["id"])
                self._cursor = event["seq"]
                self._progress.update(self._bar, completed=len(self.numbers))
                if self._has_all:
                    return
                if len(self.numbers) == self._cut_at and self.connections == 1:
                    connection.cancel()

    @property
    def _has_all(self) -> bool:
        return bool(self.numbers) and self.numbers[-1] == self._events - 1

    def _show(self, state: str, news: str = "") -> None:
        self._progress.update(self._bar, state=state)
        if news:
            self._progress.console.print(f"  [yellow]{self.name} {news}[/]")
