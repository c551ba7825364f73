"""The ledger: the account of every accepted event, confirmed or undelivered; receipts, to wait for its fate; and marks between events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import trio
from attrs import define, field

from trio_wsout._core.batching import Document
from trio_wsout._core.message import Accepted, Fate, Message, events_in
from trio_wsout._tasks.received_channel import Handover
from trio_wsout.errors import DeliveryError, OutputError, Undelivered

__all__ = ["Flush", "Ledger", "Receipt"]


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


@define(eq=False)
class Flush:
    """Mark between events: the open batch goes now, and `done` is set when everything before the mark has settled."""

    done: trio.Event = field(factory=trio.Event)
    """Set when every earlier event is confirmed or reported, or the output has ended."""
    passed: trio.Event = field(factory=trio.Event)
    """Set when every earlier event has left the intake and the open batch, or the output has ended."""
    seq: int = 0
    """Number of the last event before the mark."""
    missing: int = 0
    """Events before the mark that have not settled."""
    abandoned: bool = False
    """Whether `done` was set because the output ended."""

    def abandon(self) -> None:
        """Let nobody wait any longer: the output has ended."""
        self.abandoned = True
        self.passed.set()
        self.done.set()


@define(eq=False)
class DocumentEnd:
    """Mark between events: the document ends here."""

    fate: Fate | None = None
    """Confirmed when the end of the document is; None if no task waits for that."""

    def abandon(self) -> None:
        """Fail the fate, because the output ended first."""
        if self.fate is not None:
            self.fate.failed("the output ended before the document did")


Mark = DocumentEnd | Flush
"""A mark between events."""

Item = Accepted | Mark
"""An event, or a mark between events, on its way from ``send`` to the sender."""


@define(eq=False)
class _End:
    """The end of a document, until everything before it has settled."""

    seq: int
    """Number of the last event before it."""
    missing: int
    """Events between the previous end and this one that have not settled."""
    marker: Document | None
    """The marker of its last part; None if documents are not marked, or there was none."""
    fate: Fate | None
    """Confirmed when the end of the document is; None if no task waits for that."""


@define(eq=False)
class Ledger:
    """Counts events and reports their fates."""

    _channel: trio.abc.SendChannel[Undelivered] | None
    """Takes undelivered events; without it, they break the output."""
    on_confirmed: Callable[[Sequence[Message]], object] | None = field(default=None, init=False)
    on_failed: Callable[[Accepted], object] | None = field(default=None, init=False)
    on_awaited: Callable[[], object] | None = field(default=None, init=False)
    """Called when a task begins to wait for confirmations."""
    broken: OutputError | None = field(default=None, init=False)
    """The error that broke the output; None if it is not broken."""
    broke: trio.Event = field(factory=trio.Event, init=False)
    taken: int = field(default=0, init=False)
    """Events that left the intake."""
    confirmed: int = field(default=0, init=False)
    undelivered: int = field(default=0, init=False)
    last_document: Document | None = field(default=None, init=False)
    """The marker of the latest confirmed part; None if there is none yet."""
    _flushes: list[Flush] = field(factory=list[Flush], init=False)
    """Marks that left the intake, and are not done."""
    _ends: deque[_End] = field(factory=deque[_End], init=False)
    _before_ends: int = field(default=0, init=False)
    """Events before the last of `_ends` that have not settled."""
    _reporting: deque[tuple[Accepted, str]] = field(factory=deque[tuple[Accepted, str]], init=False)
    """Undelivered events that are not reported yet, each with its reason."""
    _one_reports: trio.Lock = field(factory=trio.Lock, init=False)

    # -- fates ----------------------------------------------------------------------------------------

    def confirm(self, messages: Sequence[Message]) -> None:
        """Confirm messages, which have reached the delivery level."""
        self.confirmed += events_in(messages)
        for message in messages:
            # Runs for each event. Nearly all go alone and nobody waits for them: that path does nothing more.
            if type(message) is Accepted:
                if message.fate is not None:
                    message.fate.confirmed(None)
                continue
            self.last_document = message.document or self.last_document
            for accepted in message.events:
                if accepted.fate is not None:
                    accepted.fate.confirmed(message.document)
        if self.on_confirmed is not None:
            self.on_confirmed(messages)
        if self._flushes or self._ends:
            self._settle([accepted for message in messages for accepted in message.events])

    def refused(self, accepted: Accepted, reason: str) -> None:
        """Have the next `report` report an event as undelivered."""
        self._reporting.append((accepted, reason))

    async def report(self, failed: Iterable[tuple[Accepted, str]] = ()) -> None:
        """Send these undelivered events, and those that were `refused`, to the channel; without one, break the output."""
        self._reporting.extend(failed)
        lost: list[Undelivered] = []
        try:
            # The task that has the lock reports for all that come meanwhile: each event once, in order.
            async with self._one_reports:
                while self._reporting:
                    accepted, reason = self._reporting[0]
                    item = Undelivered(event=accepted.event, reason=reason)
                    if not await self._reported(item):
                        lost.append(item)
                    self._reporting.popleft()
                    self.failed(accepted, reason)
        finally:  # when cancelled, too: they are counted
            if lost:
                detail = f"{len(lost)} event{'' if len(lost) == 1 else 's'} not delivered"
                self.break_with(DeliveryError(detail, undelivered=lost))

    async def _reported(self, item: Undelivered) -> bool:
        if self._channel is None:
            return False
        try:
            await self._channel.send(item)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    def failed(self, accepted: Accepted, reason: str) -> None:
        """Count an event as undelivered that was reported already."""
        self.undelivered += 1
        if accepted.fate is not None:
            accepted.fate.failed(reason)
        if self.on_failed is not None:
            self.on_failed(accepted)
        self._settle((accepted,))

    # -- the end ----------------------------------------------------------------------------------------

    def abandon(self, left: Iterable[Accepted], reason: str) -> list[Undelivered]:
        """Count everything that has not settled as undelivered, for `reason`, and return it, in order."""
        items = [*self._reporting, *((accepted, reason) for accepted in left)]
        self._reporting.clear()
        # Before the events: events that are undelivered now have not settled in time for an end.
        for end in self._ends:
            if end.fate is not None:
                end.fate.failed(reason)
        self._ends.clear()
        for accepted, why in items:
            self.failed(accepted, why)
        for flush in self._flushes:
            flush.abandon()
        return [Undelivered(event=accepted.event, reason=why) for accepted, why in items]

    def keep(self, left: Iterable[Accepted], reason: str) -> None:
        """Keep these events, and those not reported yet, for a later run; tasks that wait for them fail with `reason`."""
        for accepted in (*(each for each, _ in self._reporting), *left):
            if accepted.fate is not None:
                accepted.fate.failed(reason)
        self._reporting.clear()

    def offer(self, items: Iterable[Undelivered]) -> list[Undelivered]:
        """Send events to the channel while it takes them without waiting; return the rest."""
        rest = list(items)
        if self._channel is not None and isinstance(self._channel, trio.MemorySendChannel):
            try:
                while rest:
                    self._channel.send_nowait(rest[0])
                    del rest[0]
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        return rest

    # -- tasks that wait --------------------------------------------------------------------------------

    @property
    def awaited(self) -> bool:
        """Whether a task waits for confirmations."""
        return bool(self._flushes)

    @property
    def _unsettled(self) -> int:
        return self.taken - self.confirmed - self.undelivered

    def flush_passed(self, flush: Flush, last: int) -> None:
        """Set `done` of a mark when all events up to `last`, which is right before the mark, have settled."""
        flush.seq = last
        flush.missing = self._unsettled
        flush.passed.set()
        if flush.missing == 0:
            flush.done.set()
            return
        self._flushes.append(flush)
        if self.on_awaited is not None:
            self.on_awaited()

    def document_ended(self, fate: Fate | None, marker: Document | None, last: int) -> None:
        """Confirm the end of a document to `fate`, with its marker, when all events up to `last` have settled."""
        missing = self._unsettled
        self._ends.append(_End(last, missing - self._before_ends, marker, fate))
        self._before_ends = missing
        self._tell_ends()

    def _tell_ends(self) -> None:
        ends = self._ends
        while ends and not ends[0].missing:
            end = ends.popleft()
            marker, latest = end.marker, self.last_document
            # No message carries the marker of a part without events, so it is recorded here.
            if marker is not None and not marker.count and (latest is None or latest.id <= marker.id):
                self.last_document = marker
            if end.fate is not None:
                end.fate.confirmed(marker)

    def _settle(self, events: Sequence[Accepted]) -> None:
        for accepted in events if self._ends else ():
            # Events settle in order, or nearly so: it is the first of the ends, or one not far behind it.
            end = next((end for end in self._ends if accepted.seq <= end.seq), None)
            if end is not None:
                end.missing -= 1
                self._before_ends -= 1
                self._tell_ends()
        if not self._flushes:
            return
        for flush in self._flushes:
            flush.missing -= sum(accepted.seq <= flush.seq for accepted in events)
            if flush.missing == 0:
                flush.done.set()
        self._flushes = [flush for flush in self._flushes if flush.missing]

    # -- broken -------------------------------------------------------------------------------------------

    def break_with(self, error: OutputError) -> None:
        """Break the output with `error`; the first error stays, and gets the undelivered events of later ones."""
        if self.broken is not None:
            self.broken.undelivered += error.undelivered
            return
        self.broken = error
        self.broke.set()

    def raise_if_broken(self) -> None:
        """Raise trio.BrokenResourceError, caused by the error that broke the output, if it is broken."""
        if self.broken is not None:
            raise trio.BrokenResourceError(f"the output is broken: {self.broken}") from self.broken
