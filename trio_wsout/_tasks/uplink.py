"""The uplink of a relay: passes messages of the log to the link, and lets them settle in the log once they have on the link.

The link is client mode's own tree, and one more member of the fan-out: a message settles only when it has settled on the
link, too. Batches of the relay stay batches on the link; a message of a peer goes up alone, as it goes to the other peers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

import trio
from attrs import define, field

from trio_wsout._core.batching import Document
from trio_wsout._core.log import Log
from trio_wsout._core.message import Accepted, BatchMessage, Message
from trio_wsout._tasks.channel import SendingEnd
from trio_wsout._tasks.ledger import BatchEnd, Item
from trio_wsout._tasks.spool_journal import SpoolJournal
from trio_wsout._tasks.wakeup import Wakeup

__all__ = ["Uplink"]

_WAITING = 256
"""Events that wait for the link's intake."""


@define(eq=False)
class Uplink:
    """The way from the log to the link."""

    _log: Log
    _plain: Callable[[Accepted], bytes]
    """Returns an event's payload in the form in which the link sends it."""
    _settle: Callable[[], object]
    """Called when a message has settled on the link."""
    _made_room: Callable[[], object]
    """Called when the uplink may be no longer `full`."""
    failed: dict[int, str] = field(factory=dict[int, str], init=False)
    """Events that the link reported as undelivered and whose messages have not settled: their reasons, by number."""
    _waiting: deque[Accepted | BatchEnd] = field(factory=deque["Accepted | BatchEnd"], init=False)
    _open: dict[int, int] = field(factory=dict[int, int], init=False)
    """Events without a fate, by the number of their message in the log."""
    _wakeup: Wakeup = field(factory=Wakeup, init=False)
    _confirmed: int = field(init=False)
    """The first message that has not settled on the link."""
    _over: bool = field(default=False, init=False)

    subscription: ClassVar[None] = None
    """None: the fan-out passes messages to the link itself."""
    sent_early: ClassVar[None] = None
    """None: the link has no replay."""

    def __attrs_post_init__(self) -> None:
        self._confirmed = self._log.end
        self._log.confirmed.add(self, self._confirmed)

    @property
    def full(self) -> bool:
        """Whether too many events wait for the link."""
        return len(self._waiting) >= _WAITING

    def offer(self, message: Message, number: int) -> None:
        """Send the message that was posted as `number` to the link, unless it came from there."""
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

    async def run(self, intake: SendingEnd[Item] | SpoolJournal) -> None:
        """Pass on waiting events until cancelled, or until the link has ended, which its own tree reports."""
        with suppress(trio.BrokenResourceError):
            while True:
                while self._waiting:
                    await intake.send(self._waiting[0])
                    self._waiting.popleft()
                    self._made_room()
                await self._wakeup.wait()

    def advance(self) -> None:
        """Confirm to the log the messages that have settled on the link."""
        number = next(iter(self._open), self._log.end)
        self._log.confirmed.move(self, self._confirmed, number)
        self._confirmed = number

    def end(self) -> None:
        """Ignore failures from now on: the link has ended, and the relay reports the events that stay open in its log."""
        self._over = True

    def event_failed(self, number: int, seq: int, reason: str) -> None:
        """Take note that the link reported the event `seq` of the message `number` as undelivered."""
        if not self._over:
            self.failed[seq] = reason
            self.event_settled(number)

    def event_settled(self, number: int) -> None:
        """Take note that one event of the message `number` has its fate."""
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
        del document
        self._uplink.event_settled(self._number)

    def failed(self, reason: str) -> None:
        self._uplink.event_failed(self._number, self._seq, reason)
