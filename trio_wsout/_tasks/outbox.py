"""The outbox of a link: its delivery window, and the waiting around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field

from trio_wsout._core.delivery import DeliveryWindow
from trio_wsout._core.disconnection import Disconnection
from trio_wsout._core.message import Accepted, Message, events_in
from trio_wsout._core.statistics import Counters
from trio_wsout._tasks.ledger import Ledger
from trio_wsout._tasks.wakeup import Wakeup

__all__ = ["Outbox"]


@define(eq=False)
class Outbox:
    """Filled by the sender, a `Sink`, and emptied by the writer of a connection."""

    window: DeliveryWindow
    timeout: float
    """Seconds after which the oldest message in flight makes a connection stalled."""
    ledger: Ledger
    _counters: Counters
    to_write: Wakeup = field(factory=Wakeup, init=False)
    """Notified when there may be something to write."""
    wanted: Wakeup = field(factory=Wakeup, init=False)
    """Notified when a message waits: a lazy link dials then."""
    _room: Wakeup = field(factory=Wakeup, init=False)
    accept: Callable[[Message], bool] = field(init=False)
    """Takes a message into the window if there is room for it; returns whether it did."""
    on_confirmed: Callable[[Sequence[Message]], object] = field(init=False)
    """Called with messages that are confirmed; if nobody sets it, the ledger takes them."""
    on_failed: Callable[[Sequence[Message]], object] | None = field(default=None, init=False)
    """Called with messages that will not be delivered, before their events are reported."""

    def __attrs_post_init__(self) -> None:
        self.accept = self.window.accept  # called for each event: a method here would be one call more
        self.on_confirmed = self.ledger.confirm

    # -- Sink -------------------------------------------------------------------------------------------

    async def put(self, message: Message) -> None:
        """Take a message into the window, waiting while that is full."""
        while not self.window.accept(message):
            self.notify()
            await self._room.wait()

    def notify(self) -> None:
        """Wake the task that writes messages of the window, or that has to dial first."""
        self.to_write.notify()
        if len(self.window):
            self.wanted.notify()

    # -- the connection ---------------------------------------------------------------------------------

    def wrote(self, messages: Sequence[Message], count: int) -> None:
        """Count messages that were taken from the window and written, `count` bytes in all."""
        self._counters.written_messages += len(messages)
        self._counters.written += events_in(messages)
        self._counters.sent_bytes += count
        self.confirm(self.window.written())

    def confirm(self, messages: Sequence[Message]) -> None:
        """Confirm messages that have left the window."""
        if messages:
            self.on_confirmed(messages)
            self._room.notify()

    def disconnected(self, disconnection: Disconnection) -> list[tuple[Accepted, str]]:
        """Have everything unconfirmed sent again; return the events that will not be, each with its reason."""
        failed = self.window.disconnected(disconnection)
        if failed and self.on_failed is not None:
            self.on_failed([message for message, _ in failed])
        self._room.notify()
        return [(accepted, reason) for message, reason in failed for accepted in message.events]
