"""What `submit` gives: the fate of one event, to wait for."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import trio

from trio_wsout.errors import DeliveryError, Undelivered

if TYPE_CHECKING:
    from trio_wsout._core.batching import Document
    from trio_wsout._tasks.received_channel import Handover

__all__ = ["Receipt"]


class Receipt:
    """The fate of one accepted event."""

    document: Document | None
    """The document marker of the event's batch, once confirmed and where documents are marked."""

    def __init__(self, event: object, received: Handover | None = None) -> None:
        """Wait for the fate of `event`, and no longer than somebody takes from `received`; None: nobody has to."""
        self._event = event
        self._received = received
        self._settled = trio.Event()
        self._reason: str | None = None
        self.document = None

    @property
    def settled(self) -> bool:
        """Whether the fate is known."""
        return self._settled.is_set()

    async def wait(self) -> None:
        """Wait until the event has reached the configured delivery level (SPEC 7).

        Raises:
            DeliveryError: It will not be delivered; the error holds the event and the reason. Or nobody has taken
                from `Output.received` for `retry.timeout`: then it holds no event, and `settled` is false.
        """
        with nullcontext() if self._received is None else self._received.bounded():
            await self._settled.wait()
        if self._reason is not None:
            message = "the event was not delivered"
            raise DeliveryError(message, undelivered=[Undelivered(event=self._event, reason=self._reason)])

    def confirmed(self, document: Document | None) -> None:
        """Part of `Fate`; called by the library."""
        self.document = document
        self._settled.set()

    def failed(self, reason: str) -> None:
        """Part of `Fate`; called by the library."""
        self._reason = reason
        self._settled.set()
