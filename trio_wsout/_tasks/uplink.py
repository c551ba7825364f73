"""The uplink of a relay: what is posted to the log goes to the link, too, and settles only when it has on the link.

The link sends the messages that the peers get, without those that came down it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar

from attrs import define, field

from trio_wsout._core.log import Log
from trio_wsout._core.message import Message
from trio_wsout._tasks.outbox import Outbox

__all__ = ["Uplink"]


@define(eq=False)
class Uplink:
    """The way from the log to the link."""

    _log: Log
    _outbox: Outbox
    _made_room: Callable[[], object]
    """Called when the uplink may be no longer `full`."""
    _settle: Callable[[], object]
    """Called when a message has settled on the link."""
    _failed: set[Message] = field(factory=set[Message], init=False)
    """Messages that the link will not deliver, and that have not settled in the log."""
    _waiting: deque[Message] = field(factory=deque["Message"], init=False)
    """Messages for which the link's window has no room yet."""
    _open: deque[int] = field(factory=deque[int], init=False)
    """The numbers in the log of the messages that have not settled on the link."""
    _confirmed: int = field(init=False)
    """The first message in the log that has not settled on the link."""

    subscription: ClassVar[None] = None
    """None: the fan-out passes messages to the link itself."""
    sent_early: ClassVar[None] = None
    """None: the link has no replay."""

    def __attrs_post_init__(self) -> None:
        self._confirmed = self._log.end
        self._log.confirmed.add(self, self._confirmed)
        self._outbox.on_confirmed = self._settled
        self._outbox.on_failed = self._lost

    @property
    def full(self) -> bool:
        """Whether the link has no room for another message."""
        return bool(self._waiting)

    def offer(self, message: Message, number: int) -> None:
        """Send the message that was posted as `number` up the link, unless it came from there."""
        if message.source is self:
            return
        self._open.append(number)
        if self._waiting or not self._outbox.accept(message):
            self._waiting.append(message)

    def notify(self) -> None:
        """Have the messages that were offered written."""
        self._outbox.notify()

    def advance(self) -> None:
        """Confirm to the log the messages that have settled on the link."""
        number = self._open[0] if self._open else self._log.end
        self._log.confirmed.move(self, self._confirmed, number)
        self._confirmed = number

    def delivered(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return those of these messages, which have left the log, that the link did not report as undelivered."""
        failed = self._failed
        if not failed:
            return messages
        kept = [message for message in messages if message not in failed]
        failed.difference_update(messages)
        return kept

    def drain(self) -> None:
        """Forget the messages that are not settled: they are the log's."""
        self._outbox.window.drain()
        self._waiting.clear()

    # -- for the outbox ---------------------------------------------------------------------------------

    def _settled(self, messages: Sequence[Message]) -> None:
        for _ in messages:
            self._open.popleft()
        waiting = self._waiting
        if waiting:
            while waiting and self._outbox.accept(waiting[0]):
                waiting.popleft()
            self._made_room()
        self._settle()

    def _lost(self, messages: Sequence[Message]) -> None:
        self._failed.update(messages)
        self._settled(messages)
