"""Receipts: what `submit` and `end_document` return, to wait for the fate of an event or the end of a document."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import trio
from attrs import define, field

from trio_wsout.errors import DeliveryError, Undelivered

if TYPE_CHECKING:
    from trio_wsout._core.batching import Document
    from trio_wsout._tasks.received_channel import Handover

__all__ = ["Receipt"]


@define(eq=False)
class Receipt:
    """The fate of one accepted event, or of the end of a document."""

    document: Document | None = field(default=None, init=False)
    """The document marker of the event's batch, or of the document's last part, once confirmed and where documents
    are marked."""
    _events: tuple[object, ...]
    _received: Handover | None
    _settled: trio.Event = field(factory=trio.Event, init=False)
    _reason: str | None = field(default=None, init=False)

    @property
    def settled(self) -> bool:
        """Whether the fate is known."""
        return self._settled.is_set()

    async def wait(self) -> None:
        """Wait until the event has reached the configured delivery level (SPEC 7), or the document's end is confirmed.

        Raises:
            DeliveryError: The event will not be delivered; the error holds it and the reason. Or the document's end
                will not be confirmed. Or nobody has taken from `Output.received` for `retry.timeout`: then it holds
                no event, and `settled` is false.
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
        """Settle it. Part of `Fate`; called by the library."""
        self.document = document
        self._settled.set()

    def failed(self, reason: str) -> None:
        """Settle it as failed. Part of `Fate`; called by the library."""
        self._reason = reason
        self._settled.set()
