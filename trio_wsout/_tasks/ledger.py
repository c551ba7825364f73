"""The account of every accepted event: confirmed, or undelivered and reported; and who waits for that."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio
from attrs import define, field

from trio_wsout._core.message import Accepted, events_in
from trio_wsout.errors import DeliveryError, OutputError, Undelivered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trio_wsout._core.batching import Document
    from trio_wsout._core.message import Fate, Message

__all__ = ["Flush", "Ledger"]


@define(eq=False)
class Flush:
    """Mark in the intake: the open batch goes now, and `done` is set when all before it have their fate."""

    done: trio.Event = field(factory=trio.Event)
    """Set when every earlier event is confirmed or reported, or the output has ended."""
    passed: trio.Event = field(factory=trio.Event)
    """Set when every earlier event has left the intake and the open batch, or the output has ended."""
    seq: int = 0
    """Last event before the mark."""
    missing: int = 0
    """Events before the mark that have no fate yet."""
    abandoned: bool = False
    """Whether `done` was set by the output's end, and not because all have their fate."""

    def abandon(self) -> None:
        """The output has ended: nobody counts any more."""
        self.abandoned = True
        self.passed.set()
        self.done.set()


@define(eq=False)
class _End:
    """The end of a document, until all before it have their fate."""

    seq: int
    """Last event before it."""
    missing: int
    """Events that have no fate yet, of those behind the end before."""
    marker: Document | None
    """The marker of its last part; None if nothing is marked, or there was no document."""
    fate: Fate | None
    """Who waits for it."""


class Ledger:
    """Counts events and tells their fate: `taken` events left the intake."""

    broken: OutputError | None
    """Why the output is broken; None while it is not."""

    def __init__(self, undelivered: trio.abc.SendChannel[Undelivered] | None) -> None:
        """Report undelivered events to `undelivered`; without it, they break the output."""
        self._channel = undelivered
        self._waiters: list[Flush] = []
        self._reporting: deque[tuple[Accepted, str]] = deque()
        self._one_reports = trio.Lock()
        self.on_confirmed: Callable[[Sequence[Message]], object] | None = None
        self.on_awaited: Callable[[], object] | None = None
        """Called when somebody begins to wait."""
        self.on_failed: Callable[[Accepted], object] | None = None
        self.broken = None
        self.broke = trio.Event()
        self.taken = 0
        self._ends: deque[_End] = deque()
        self._before_ends = 0
        self.confirmed = 0
        self.undelivered = 0
        self.last_document: Document | None = None

    # -- fates ----------------------------------------------------------------------------------------

    def confirm(self, messages: Sequence[Message]) -> None:
        """These messages reached the delivery level."""
        self.confirmed += events_in(messages)
        for message in messages:
            if type(message) is Accepted:  # an event that went alone: the common case, and so short
                if message.fate is not None:
                    message.fate.confirmed(None)
                continue
            self.last_document = message.document or self.last_document
            for accepted in message.events:
                if accepted.fate is not None:
                    accepted.fate.confirmed(message.document)
        if self.on_confirmed is not None:
            self.on_confirmed(messages)
        if self._waiters or self._ends:
            self._settle([accepted for message in messages for accepted in message.events])

    def refused(self, accepted: Accepted, reason: str) -> None:
        """This event is undelivered, and is reported by the next `report`."""
        self._reporting.append((accepted, reason))

    async def report(self, failed: Iterable[tuple[Accepted, str]]) -> None:
        """These events are undelivered: give each to the channel, or break the output with them."""
        self._reporting.extend(failed)
        lost: list[Undelivered] = []
        try:
            async with self._one_reports:  # for all who come meanwhile: each event once, in order
                while self._reporting:
                    accepted, reason = self._reporting[0]
                    item = Undelivered(event=accepted.event, reason=reason)
                    if not await self._reported(item):
                        lost.append(item)
                    self._reporting.popleft()
                    self._fail(accepted, reason)
        finally:  # when cancelled, too: they are counted
            if lost:
                self.break_with(DeliveryError(_count(lost, "not delivered"), undelivered=lost))

    async def _reported(self, item: Undelivered) -> bool:
        if self._channel is None:
            return False
        try:
            await self._channel.send(item)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    def abandon(self, left: Iterable[Accepted], reason: str) -> list[Undelivered]:
        """Everything without a fate is undelivered, for `reason`; gives it, in order."""
        items = [*self._reporting, *((accepted, reason) for accepted in left)]
        self._reporting.clear()
        for end in self._ends:  # before the events: their fate now is no fate that an end waited for
            if end.fate is not None:
                end.fate.failed(reason)
        self._ends.clear()
        for accepted, why in items:
            self._fail(accepted, why)
        for waiter in self._waiters:
            waiter.abandon()
        return [Undelivered(event=accepted.event, reason=why) for accepted, why in items]

    def keep(self, left: Iterable[Accepted], reason: str) -> None:
        """These events, and what is still being reported, stay for a later life; who waits for them hears `reason`."""
        for accepted in (*(each for each, _ in self._reporting), *left):
            if accepted.fate is not None:
                accepted.fate.failed(reason)
        self._reporting.clear()

    def offer(self, items: Iterable[Undelivered]) -> list[Undelivered]:
        """Give what the channel takes at once, for an end that can't wait; gives back the rest."""
        rest = list(items)
        if self._channel is not None and isinstance(self._channel, trio.MemorySendChannel):
            try:
                while rest:
                    self._channel.send_nowait(rest[0])
                    del rest[0]
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        return rest

    def failed(self, accepted: Accepted, reason: str) -> None:
        """This event is undelivered, and was reported elsewhere."""
        self._fail(accepted, reason)

    def _fail(self, accepted: Accepted, reason: str) -> None:
        self.undelivered += 1
        if accepted.fate is not None:
            accepted.fate.failed(reason)
        if self.on_failed is not None:
            self.on_failed(accepted)
        self._settle((accepted,))

    # -- who waits --------------------------------------------------------------------------------------

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the fate of events."""
        return bool(self._waiters)

    def heartbeat_task(self, flush: Flush, last: int) -> None:
        """The mark left the intake behind event `last`: set its `done` when every event taken so far has its fate."""
        flush.seq = last
        flush.missing = self.taken - self.confirmed - self.undelivered
        flush.passed.set()
        if flush.missing == 0:
            flush.done.set()
            return
        self._waiters.append(flush)
        if self.on_awaited is not None:
            self.on_awaited()

    def document_ended(self, fate: Fate | None, marker: Document | None, last: int) -> None:
        """A document ended behind event `last`, with the part that `marker` says: tell it behind all earlier events."""
        missing = self.taken - self.confirmed - self.undelivered
        self._ends.append(_End(last, missing - self._before_ends, marker, fate))
        self._before_ends = missing
        self._tell_ends()

    def _tell_ends(self) -> None:
        ends = self._ends
        while ends and not ends[0].missing:
            end = ends.popleft()
            latest = self.last_document
            # The marker of a part that is no message: nothing else tells it.
            if (
                end.marker is not None
                and not end.marker.count
                and (latest is None or latest.id <= end.marker.id)
            ):
                self.last_document = end.marker
            if end.fate is not None:
                end.fate.confirmed(end.marker)

    def _settle_ends(self, events: Iterable[Accepted]) -> None:
        for accepted in events:
            # Events settle in order, or nearly so: it is the first of the ends, or one not far behind it.
            end = next((end for end in self._ends if accepted.seq <= end.seq), None)
            if end is not None:
                end.missing -= 1
                self._before_ends -= 1
                self._tell_ends()

    def _settle(self, events: Sequence[Accepted]) -> None:
        if self._ends:
            self._settle_ends(events)
        if not self._waiters:
            return
        for accepted in events:
            for waiter in self._waiters:
                if accepted.seq <= waiter.seq:
                    waiter.missing -= 1
        for waiter in self._waiters:
            if waiter.missing == 0:
                waiter.done.set()
        self._waiters = [waiter for waiter in self._waiters if waiter.missing]

    # -- broken -------------------------------------------------------------------------------------------

    def break_with(self, error: OutputError) -> None:
        """The output is broken by `error`; the first one stays."""
        if self.broken is not None:
            self.broken.undelivered += error.undelivered
            return
        self.broken = error
        self.broke.set()

    def raise_if_broken(self) -> None:
        """Raise trio.BrokenResourceError from what broke the output, if it is broken."""
        if self.broken is not None:
            message = f"the output is broken: {self.broken}"
            raise trio.BrokenResourceError(message) from self.broken


def _count(items: Sequence[object], what: str) -> str:
    return f"{len(items)} event{'' if len(items) == 1 else 's'} {what}"
