"""The ledger: the account of every accepted event, confirmed or undelivered; receipts, to wait for its fate; and marks between events."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext

import trio
from attrs import define, field, frozen

from trio_wsout._core.batching import Document
from trio_wsout._core.foreign import Foreign
from trio_wsout._core.message import Accepted, Fate, Message, events_in
from trio_wsout._core.settled import Settled
from trio_wsout._tasks.received_channel import Handover
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import DeliveryError, OutputError, Undelivered, count

__all__ = ["Ledger", "Mark", "Receipt", "Stretch"]

_log = logging.getLogger("trio_wsout")


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
class SharedFate:
    """The `Fate` of an event that goes two ways: it is confirmed once it is on both, and fails with the first that fails."""

    _fate: Fate
    _lacking: int = field(default=2, init=False)

    def confirmed(self, document: Document | None) -> None:
        """Settle it, if the other way is confirmed already."""
        self._lacking -= 1
        if self._lacking == 0:
            self._fate.confirmed(document)

    def failed(self, reason: str) -> None:
        """Settle it as failed, if it has not."""
        if self._lacking > 0:
            self._lacking = 0
            self._fate.failed(reason)


@define(eq=False)
class Mark:
    """Mark between events: the open batch goes now, and the mark is reached when everything before it has settled."""

    ends_document: bool = field(default=False, kw_only=True)
    """Whether the document ends here, too."""
    fate: Fate | None = None
    """Confirmed when the mark is reached, with the marker of the document; None if no task waits for that."""
    twin: Mark | None = field(default=None, kw_only=True)
    """The same mark between the events that go to the peers of a relay with a spool; None where events go one way."""
    passed: trio.Event = field(factory=trio.Event, init=False)
    """Set when every earlier event is past the sender, or the output has ended."""
    done: trio.Event = field(factory=trio.Event, init=False)
    """Set when every earlier event is confirmed or reported, or the output has ended."""
    abandoned: bool = field(default=False, init=False)
    """Whether `done` was set because the output ended."""
    seq: int = field(default=0, init=False)
    """Number of the last event before it."""
    marker: Document | None = field(default=None, init=False)
    """The marker of the document's last part; None if documents are not marked, or there was none."""

    async def wait(self) -> bool:
        """Wait until it is reached; return whether it was, and not abandoned."""
        await self.done.wait()
        return not self.abandoned and (self.twin is None or await self.twin.wait())

    def reached(self) -> None:
        """Let nobody wait any longer: everything before it has settled."""
        if self.fate is not None:
            self.fate.confirmed(self.marker)
        self.done.set()

    def abandon(self, reason: str = "the output ended before the document did") -> None:
        """Let nobody wait any longer: the output has ended."""
        self.abandoned = True
        if self.twin is not None:
            self.twin.abandon(reason)
        if self.fate is not None:
            self.fate.failed(reason)
        self.passed.set()
        self.done.set()


@frozen(kw_only=True)
class Stretch:
    """What comes next in a log that several outputs share, where this is not an event of this output behind the one before."""

    epoch: int
    """The epoch of the events from here on."""
    first: int
    """The number of the next event."""
    foreign: int
    """So many of the next events were accepted by other outputs."""
    gap: tuple[str | None, str | None] | None = None
    """If events are missing here: the cursors of the last event before them, and of the first behind them; each None if that
    has none, or there is none. None if no event is missing."""


Item = Accepted | Mark
"""An event, or a mark between events, on its way from ``send`` to the sender."""
Coming = Item | Stretch
"""What the sender takes."""


@define(eq=False)
class Ledger:
    """Counts events and reports their fates."""

    _channel: trio.abc.SendChannel[Undelivered] | None
    """Takes undelivered events; without it, they break the output."""
    _whole: Ledger | None = None
    """The ledger of the whole output, which breaks with this one: of a relay, if this is its link's; None if this is it."""
    on_confirmed: list[Callable[[Sequence[Message]], object]] = field(
        factory=list["Callable[[Sequence[Message]], object]"], init=False
    )
    """Called with confirmed messages."""
    on_failed: Callable[[Accepted], object] | None = field(default=None, init=False)
    """Called with each event that was reported as undelivered."""
    on_settled: Callable[[], object] | None = field(default=None, init=False)
    """Called when events have settled."""
    on_awaited: Callable[[], object] | None = field(default=None, init=False)
    """Called when a task begins to wait for confirmations."""
    broken: OutputError | None = field(default=None, init=False)
    """The error that broke the output; None if it is not broken."""
    broke: trio.Event = field(factory=trio.Event, init=False)
    confirmed: int = field(default=0, init=False)
    undelivered: int = field(default=0, init=False)
    last_document: Document | None = field(default=None, init=False)
    """The marker of the latest confirmed part; None if there is none yet."""
    settled: Settled = field(factory=lambda: Settled(0), init=False)
    """The numbers of the events that are confirmed or reported."""
    foreign: Foreign = field(factory=Foreign, init=False)
    """The numbers of events that other outputs have accepted."""
    skipped: int = field(default=0, init=False)
    """Numbers that no event has, since the output began."""
    _marks: deque[Mark] = field(factory=deque[Mark], init=False)
    """Marks that are past the sender and not reached, in order."""
    _reporting: deque[tuple[Accepted, str]] = field(factory=deque[tuple[Accepted, str]], init=False)
    """Undelivered events that are not reported yet, each with its reason."""
    _warned: bool = field(default=False, init=False)
    """Whether the log says that an event of another output was not sent."""
    _to_report: Wakeup = field(factory=Wakeup, init=False)
    _one_reports: trio.Lock = field(factory=trio.Lock, init=False)

    # -- fates ----------------------------------------------------------------------------------------

    def confirm(self, messages: Sequence[Message]) -> None:
        """Confirm messages, which have reached the delivery level."""
        count = events_in(messages)
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
        for each in self.on_confirmed:
            each(messages)
        last = messages[-1].last_seq
        first = messages[0].events[0].seq if messages[0].count else last
        if last - first == count - 1:
            self.confirmed += count - self.foreign.within(first, last) if self.foreign.ranges else count
            self._settle(first, last)
        else:  # among them were events that settled before, because they were refused, or numbers that no event has
            for message in messages:
                for accepted in message.events:
                    self.confirmed += accepted.seq not in self.foreign
                    self._settle(accepted.seq, accepted.seq)

    def settle(self, messages: Sequence[Message], reason: str | None) -> None:
        """Confirm messages, or if there is a reason why they are undelivered, have the next `report` report their events."""
        if reason is None:
            self.confirm(messages)
        else:
            for message in messages:
                for event in message.events:
                    self.refused(event, reason)
            self._to_report.notify()

    def refused(self, accepted: Accepted, reason: str) -> None:
        """Have the next `report` report an event as undelivered; the output that accepted it does so if it was another one."""
        if accepted.seq in self.foreign:
            if not self._warned:
                self._warned = True
                _log.warning("an event of another output is not sent, and maybe more: %s", reason)
            self._settle(accepted.seq, accepted.seq)
        else:
            self._reporting.append((accepted, reason))

    @property
    def unreported(self) -> int:
        """The number of events that are undelivered, and not reported yet."""
        return len(self._reporting)

    async def run(self) -> None:
        """Report undelivered events until cancelled, where they settle while no task waits to report them."""
        while True:
            await self._to_report.wait()
            await self.report()

    async def report(self) -> None:
        """Send the undelivered events to the channel; without one, break the output."""
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
                detail = f"{count(len(lost), 'event')} not delivered"
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
        if accepted.seq:  # it has none if the output ended before the sender took it
            self._settle(accepted.seq, accepted.seq)

    def skip_to(self, before: int, first: int) -> None:
        """Note that no event has a number between `before` and `first`."""
        if first > before + 1:
            self.skipped += first - before - 1
            self._settle(before + 1, first - 1)

    def others(self, taken: int) -> int:
        """Return how many of the numbers up to `taken`, the latest, no event of this output has."""
        return self.skipped + self.foreign.upto(taken)

    def _settle(self, first: int, last: int) -> None:
        """Note that these numbers have settled, and let the marks behind them be reached."""
        self.settled.add(first, last)
        marks, upto = self._marks, self.settled.upto
        while marks and marks[0].seq <= upto:
            self._reached(marks.popleft())
        if self.foreign.ranges:
            self.foreign.forget(upto)
        if self.on_settled is not None:
            self.on_settled()

    def _reached(self, mark: Mark) -> None:
        marker, latest = mark.marker, self.last_document
        # No message carries the marker of a part without events, so it is recorded here.
        if marker is not None and not marker.count and (latest is None or latest.id <= marker.id):
            self.last_document = marker
        mark.reached()

    # -- the end ----------------------------------------------------------------------------------------

    def abandon(
        self, left: Iterable[Accepted], reason: str, reasons: Mapping[Accepted, str] | None = None
    ) -> list[Undelivered]:
        """Count everything that has not settled as undelivered, for `reason`, and return it, in order.

        Some events may have `reasons` of their own. Events that other outputs accepted are left out.
        """
        reasons = reasons or {}
        own = [accepted for accepted in left if accepted.seq not in self.foreign]
        items = [*self._reporting, *((accepted, reasons.get(accepted, reason)) for accepted in own)]
        self._reporting.clear()
        # Before the events: events that are undelivered now have not settled in time for a mark.
        marks, self._marks = self._marks, deque()
        for mark in marks:
            mark.abandon(reason)
        for accepted, why in items:
            self.failed(accepted, why)
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
        return bool(self._marks)

    def passed(self, mark: Mark, last: int, marker: Document | None) -> None:
        """Take a mark behind the event `last`, all earlier events being past the sender; `marker` is the document's that ends."""
        mark.seq, mark.marker = last, marker
        mark.passed.set()
        if last <= self.settled.upto:
            self._reached(mark)
            return
        self._marks.append(mark)
        if self.on_awaited is not None:
            self.on_awaited()

    # -- broken -------------------------------------------------------------------------------------------

    def break_with(self, error: OutputError) -> None:
        """Break the output with `error`; the first error stays, and gets the undelivered events of later ones."""
        if self.broken is not None:
            self.broken.undelivered += error.undelivered
            return
        self.broken = error
        self.broke.set()
        if self._whole is not None:
            self._whole.break_with(error)

    def raise_if_broken(self) -> None:
        """Raise trio.BrokenResourceError, caused by the error that broke the output, if it is broken."""
        if self.broken is not None:
            raise trio.BrokenResourceError(f"the output is broken: {self.broken}") from self.broken
