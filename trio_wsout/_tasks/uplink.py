"""What a relay sends up its link, beside its peers: when the link has it, and when it never will.

The link is client mode's own tree. It is one more member of the log's audience: a message settles
when the link has confirmed it, too. Batches of the relay are the link's batches, and what peers send goes
up alone, as it goes to the others.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import trio
from attrs import define

from trio_wsout._core.message import Accepted, BatchMessage
from trio_wsout._tasks.intake import BatchEnd
from trio_wsout._tasks.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsout._core.batching import Document
    from trio_wsout._core.log import Log
    from trio_wsout._core.message import Message

__all__ = ["Uplink"]

_WAITING = 256
"""Events that wait for the link's intake."""


class Entry(Protocol):
    """Where the link takes events in."""

    async def send(self, value: Accepted | BatchEnd) -> None:
        """Put an event, or the mark behind a batch; waits for room."""
        ...


class Uplink:
    """The way from the log to the link."""

    subscription = None
    """The link has none: it is handed the messages of the log."""

    sent_early = None
    """It gets nothing from the history."""

    def __init__(
        self,
        log: Log,
        plain: Callable[[Accepted], bytes],
        settle: Callable[[], object],
        room: Callable[[], object],
    ) -> None:
        """Take part in `log`; `plain` gives what the link sends of an event.

        `room` is called when it is no longer full.
        """
        self._log = log
        self._plain = plain
        self._settle = settle
        self._waiting: deque[Accepted | BatchEnd] = deque()
        self._open: dict[int, int] = {}
        self._wakeup = Wakeup()
        self._room = room
        self._confirmed = log.end
        self._over = False
        self.failed: dict[int, str] = {}
        """Why the link will not have an event, which it has reported, by its number; until it settles."""
        log.confirmed.add(self, self._confirmed)

    @property
    def full(self) -> bool:
        """Whether too many events wait for the link."""
        return len(self._waiting) >= _WAITING

    def offer(self, message: Message, number: int) -> None:
        """The message `number` was posted: have it sent up, unless it came down."""
        if message.source is self:
            return
        self._open[number] = message.count
        for event in message.events:
            fate = _Fate(self, number, event.seq)
            self._waiting.append(
                Accepted(self._plain(event), event.event, fate, source=event.source, cursor=event.cursor)
            )
        if isinstance(message, BatchMessage):
            self._waiting.append(BatchEnd())
        self._wakeup.notify()

    async def run(self, intake: Entry) -> None:
        """Hand on what waits until cancelled, or until the link has ended; then its owner says why."""
        with suppress(trio.BrokenResourceError):
            while True:
                while self._waiting:
                    await intake.send(self._waiting[0])
                    self._waiting.popleft()
                    self._room()
                await self._wakeup.wait()

    def advance(self) -> None:
        """Let the log know what the link has."""
        number = next(iter(self._open), self._log.end)
        self._log.confirmed.move(self, self._confirmed, number)
        self._confirmed = number

    def end(self) -> None:
        """The link has ended: what it neither confirmed nor reported stays open in the log, for the relay to report."""
        self._over = True

    def fail(self, number: int, seq: int, reason: str) -> None:
        """The link will not have the event `seq` of the message `number`, and has reported it, unless it has ended."""
        if not self._over:
            self.failed[seq] = reason
            self.settled(number)

    def settled(self, number: int) -> None:
        """An event of the message `number` has its fate."""
        self._open[number] -= 1
        if not self._open[number]:
            del self._open[number]
            self._settle()


@define(eq=False)
class _Fate:
    """The fate of one event on the link."""

    _uplink: Uplink
    _number: int
    _seq: int

    def confirmed(self, document: Document | None) -> None:
        """The link has it."""
        del document
        self._uplink.settled(self._number)

    def failed(self, reason: str) -> None:
        """The link will not have it."""
        self._uplink.fail(self._number, self._seq, reason)
