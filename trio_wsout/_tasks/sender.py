"""The sender: events of the intake become batches, batches become messages of the window."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio
from attrs import define

from trio_wsout._core.delivery import Accepted, Message
from trio_wsout._core.packing import PackingError
from trio_wsout._tasks.ledger import Flush
from trio_wsout._tasks.waking import Alarm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_wsout._core.packing import Packer
    from trio_wsout._tasks.ledger import Ledger

__all__ = ["DocumentEnd", "Intake", "Sender", "Sink", "Source"]


@define(eq=False)
class DocumentEnd:
    """Mark in the intake: the document ends here."""


Intake = Accepted | DocumentEnd | Flush
"""What travels from ``send`` to the sender."""


class Source(Protocol):
    """Where the sender takes from; a memory channel is one."""

    async def receive(self) -> Intake:
        """The next item; raises trio.EndOfChannel when there will be none."""
        ...

    def receive_nowait(self) -> Intake:
        """The next item; raises trio.WouldBlock when none waits."""
        ...


class Sink(Protocol):
    """Where the sender's messages go."""

    def accept(self, message: Message) -> bool:
        """Take a message if there is room; gives whether there was."""
        ...

    async def put(self, message: Message) -> None:
        """Take a message; waits while there is no room."""
        ...

    def ring(self) -> None:
        """Messages were accepted: wake who writes them."""
        ...


class Sender:
    """Empties one intake into one sink, in order."""

    def __init__(self, packer: Packer, sink: Sink, ledger: Ledger) -> None:
        self._packer = packer
        self._sink = sink
        self._ledger = ledger
        self._waiting: deque[Message] = deque()
        self._alarm = Alarm()

    @property
    def pending(self) -> int:
        """Events that left the intake and are in no message of the window yet."""
        return sum(len(message.events) for message in self._waiting) + self._packer.pending

    def leftovers(self) -> list[Accepted]:
        """What is in no message of the window yet, in order; for the end."""
        return [
            accepted for message in (*self._waiting, *self._packer.flush()) for accepted in message.events
        ]

    async def run(self, intake: Source) -> None:
        """Work until the intake ends; then what is in the open batch goes, too."""
        while True:
            item: Intake | None = None
            with self._alarm.until(self._packer.deadline):
                try:
                    item = await intake.receive()
                except trio.EndOfChannel:
                    break
            if item is not None:
                await self._take_waiting(item, intake)
            else:
                await self._put(self._packer.poll(trio.current_time()))
            self._sink.ring()
        await self._put(self._packer.flush())
        self._sink.ring()

    async def _take_waiting(self, item: Intake, intake: Source) -> None:
        """Take one item and all that waits behind it: a task switch serves many, and a plain event costs none."""
        alone, offer = self._packer.alone, self._sink.accept
        try:
            while True:
                if alone and isinstance(item, Accepted) and item.refusal is None:
                    self._number(item)
                    if not offer(item):
                        await self._put((item,))
                else:
                    await self._take(item)
                item = intake.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return

    def _number(self, accepted: Accepted) -> None:
        self._packer.number(accepted)
        self._ledger.taken += 1
        self._ledger.last = accepted.seq

    async def _take(self, item: Intake) -> None:
        match item:
            case Accepted():
                self._number(item)
                await self._pack(item)
            case Flush():
                await self._put(self._packer.flush())
                self._ledger.watch(item)
            case DocumentEnd():
                await self._put(self._packer.end_document())

    async def _pack(self, accepted: Accepted) -> None:
        refusal = accepted.refusal
        if accepted.source is not None:
            # What a relay passes on goes as it came; an open batch goes before it, for the order of numbers.
            await self._put([*self._packer.flush(), accepted])
            return
        if refusal is None:
            try:
                messages = self._packer.add(accepted, trio.current_time())
            except PackingError as error:
                refusal = str(error)
            else:
                await self._put(messages)
                return
        await self._ledger.report([(accepted, refusal)])

    async def _put(self, messages: Iterable[Message]) -> None:
        """Put messages into the window, waiting for room; cancelled, `leftovers` has what is not in it."""
        waiting = self._waiting
        waiting.extend(messages)
        while waiting:
            await self._sink.put(waiting[0])
            waiting.popleft()
