"""A client of the demonstration: takes every event, is cut off if told so, and comes back to its place."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson
import trio
from attrs import define, field

from trio_wsout.output import open_output

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DemoClient"]

_AWAY = 0.3
"""Seconds that a client stays away when it is cut off."""


@define(eq=False)
class DemoClient:
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
                await self._watch(url, last, connection)
            if connection.cancelled_caught:
                self.state = "cut off"
                self.tell(f"{self.name} is cut off, it has {len(self.numbers):,} events")
                await trio.sleep(_AWAY)
        self.state = "has all"

    async def _watch(self, url: str, last: int, connection: trio.CancelScope) -> None:
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
