"""The delivery window of a link with the waiting around it: a bell for the writer, one for room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_wsout._core.delivery import DeliveryWindow
from trio_wsout._core.message import events_in
from trio_wsout._tasks.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_wsout._core.disconnection import Disconnection
    from trio_wsout._core.message import Accepted, Message
    from trio_wsout._core.statistics import Counters
    from trio_wsout._tasks.ledger import Ledger
    from trio_wsout.config.sections import Delivery, Retry

__all__ = ["Outbox"]


class Outbox:
    """What the sender fills and the writer empties."""

    def __init__(
        self,
        delivery: Delivery,
        retry: Retry,
        ledger: Ledger,
        counters: Counters,
        on_message: Callable[[], object],
    ) -> None:
        """Begin with an empty window; `on_message` hears of every message from the peer."""
        self.on_message = on_message
        self.window = DeliveryWindow(delivery, retry)
        self.timeout = retry.timeout
        """Seconds after which the oldest message in flight makes a connection stalled."""
        self.accept = self.window.accept
        """Take a message into the window if it has room; gives whether it had."""
        self.ledger = ledger
        self.to_write = Wakeup()
        """Rings when there may be something to write."""
        self.wanted = Wakeup()
        """Rings when the first message waits: a lazy link dials then."""
        self._room = Wakeup()
        self.on_released: Callable[[], object] | None = None
        """Called when this side reads again: from then on time counts anew."""
        self._counters = counters

    def notify(self) -> None:
        """Messages were put into the window: wake who writes them, or who must dial first."""
        self.to_write.notify()
        if len(self.window):
            self.wanted.notify()

    async def put(self, message: Message) -> None:
        """Put a message into the window; waits while it is full."""
        while not self.window.accept(message):
            self.notify()
            await self._room.wait()

    def wrote(self, messages: Sequence[Message], count: int) -> None:
        """These messages and nothing less went to the kernel, with `count` bytes."""
        self._counters.written_messages += len(messages)
        self._counters.written += events_in(messages)
        self._counters.sent_bytes += count
        self.confirm(self.window.written())

    def confirm(self, messages: Sequence[Message]) -> None:
        """These messages are confirmed."""
        if messages:
            self.ledger.confirm(messages)
            self._room.notify()

    def answered(self) -> None:
        """The outstanding ping was answered: that may confirm, and leaves the way free for another."""
        self.confirm(self.window.pong_received(trio.current_time()))
        self.to_write.notify()

    def acked(self, seq: int) -> None:
        """The peer's application has every event up to `seq`."""
        self.confirm(self.window.acked(seq))
        self.to_write.notify()

    def heard(self) -> None:
        """A message came."""
        self.on_message()

    def events_in_flight(self) -> list[Accepted]:
        """The events that an acknowledgement may name, oldest first."""
        return self.window.events_in_flight()

    def reading_paused(self) -> None:
        """This side stopped reading: confirmations can't be seen."""
        self.window.reading_paused()

    def reading_resumed(self, now: float) -> None:
        """This side reads again since `now`."""
        self.window.reading_resumed(now)
        if self.on_released is not None:
            self.on_released()

    def disconnected(self, disconnection: Disconnection) -> list[tuple[Accepted, str]]:
        """The connection ended: what is unconfirmed goes again; gives the events that do not, each with its reason."""
        failed = self.window.disconnected(disconnection)
        self._room.notify()
        return [(accepted, reason) for message, reason in failed for accepted in message.events]
