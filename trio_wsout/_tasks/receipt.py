"""What `submit` and `end_document` return: the fate of one event, or the end of one document, to wait for."""

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
    """The fate of one accepted event, or of the end of a document."""

    document: Document | None
    """The document marker of the event's batch, or of the document's last part, once confirmed and where documents
    are marked."""

    def __init__(self, *events: object, received: Handover | None = None) -> None:
        """Wait for the fate of an event, or without one of a document's end.

        Args:
            events: The event.
            received: Wait no longer than somebody takes from it; None if nobody has to.
        """
        self._events = events
        self._received = received
        self._settled = trio.Event()
        self._reason: str | None = None
        self.document = None

    @property
    def settled(self) -> bool:
        """Whether the fate is known."""
        return self._settled.is_set()

    async def wait(self) -> None:
        """Wait until the event has reached the configured delivery level (SPEC 7); or until the document's end is told.

        Raises:
            DeliveryError: It will not be delivered; the error holds the event, if it is one's, and the reason. Or
                nobody has taken from `Output.received` for `retry.timeout`: then it holds no event, and `settled` is
                false.
        """
        with nullcontext() if self._received is None else self._received.bounded():
            await self._settled.wait()
        if self._reason is not None:
            message = (
                "the event was not delivered" if self._events else f"no end of the document: {self._reason}"
            )
            raise DeliveryError(
                message, undelivered=[Undelivered(event=each, reason=self._reason) for each in self._events]
            )

    def confirmed(self, document: Document | None) -> None:
        """Part of `Fate`; called by the library."""
        self.document = document
        self._settled.set()

    def failed(self, reason: str) -> None:
        """Part of `Fate`; called by the library."""
        self._reason = reason
        self._settled.set()
