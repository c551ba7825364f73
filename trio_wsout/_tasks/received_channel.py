"""What peers sent waits here for the application, which takes it one at a time, or all of it at once.

A memory channel does the same with two checkpoints for each item, one of who puts and one of who
takes. Those cost more than reading the message does. So here a connection puts all that it has read
at once, and who takes lets other tasks run when there is nothing more, or after a number of items.

While it is full and nobody takes, connections are not read, and so nothing that a peer confirms is seen. Who waits for
that would wait for ever where it is the same task that should take. So such a wait ends once nobody has taken anything for
some time (`Handover.heartbeat_task`). An application that is slow, and takes an item now and then, is not in that case.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio

from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Generator

    from trio_wsout._core.received import Received

__all__ = ["MOST_IN_A_ROW", "Handover", "ReceivedChannel"]

_log = logging.getLogger("trio_wsout")

MOST_IN_A_ROW = 64
"""Items that may be taken before other tasks run: about as long as one of their own turns."""


class ReceivedChannel(trio.abc.ReceiveChannel["Received"]):
    """What peers sent, in the order of each; any number of tasks may take from it, and each item goes to one.

    It ends with the output, once everything that waits was taken. The application may close it before:
    then what waits is gone, and what still comes is dropped and counted.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[Received] = deque()
        self._outside: deque[tuple[trio.Event, deque[Received]]] = deque()
        """What is left of what connections wait to put, by turns; there is none but while `_items` is full."""
        self._takers = trio.lowlevel.ParkingLot()
        """Who waits for an item. Who is woken may find it taken, and waits again."""
        self._row = MOST_IN_A_ROW
        """Items until other tasks run."""
        self._closed = False
        """Whether the application closed it."""
        self._ended = False
        """Whether nothing more will come."""
        self._progress_at = 0.0
        """When, while connections wait to put, something was last taken, or the first of them began to wait."""

    async def receive(self) -> Received:
        """Wait for the next item; cancelled, it has taken none.

        It is a cancellation point always; other tasks run at least once in 64 items.

        Raises:
            trio.EndOfChannel: The output has ended, and everything was taken.
            trio.ClosedResourceError: The application closed the channel.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._row and self._items:
            self._row -= 1
            return self._take()
        await self._wait()
        return self._take()

    async def __anext__(self) -> Received:
        """The next item, as `receive`; this is it once more, because a call less pays here."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._row and self._items:
            self._row -= 1
            return self._take()
        try:
            await self._wait()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        return self._take()

    def receive_nowait(self) -> Received:
        """Take the next item if there is one; raises as `receive` does.

        Raises:
            trio.WouldBlock: Nothing waits.
        """
        if not self._items:
            self._raise_if_over()
            raise trio.WouldBlock
        return self._take()

    async def receive_many(self) -> list[Received]:
        """Wait for the next items and take all that wait: at least one, at most 64; raises as `receive` does.

        Other tasks run each time.
        """
        await self._wait()
        items = list(self._items)
        self._items.clear()
        self._let_in()
        return items

    def close(self) -> None:
        """Take nothing more. Who waits in `receive` gets trio.ClosedResourceError."""
        self._closed = True
        self._items.clear()
        self._turn_away()

    async def aclose(self) -> None:
        """As `close`; it is a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    # -- inside -------------------------------------------------------------------------------------------

    def _take(self) -> Received:
        item = self._items.popleft()
        if self._outside:
            self._let_in()
        return item

    async def _wait(self) -> None:
        """Let other tasks run, and wait until there is an item."""
        await trio.lowlevel.checkpoint()
        self._row = MOST_IN_A_ROW - 1
        while not self._items:
            self._raise_if_over()
            await self._takers.park()

    def _let_in(self) -> None:
        """Fill the room with what connections wait to put, an item of each in turn."""
        items, outside = self._items, self._outside
        if outside:
            self._progress_at = trio.current_time()
        while outside and len(items) < self._most:
            over, run = outside[0]
            items.append(run.popleft())
            if run:
                outside.rotate(-1)
            else:
                del outside[0]
                over.set()
            # Where more tasks wait than were woken for what there was room for.
            if self._takers:
                self._takers.unpark()

    def _turn_away(self) -> None:
        """Wake everybody who waits, to find that it is over."""
        self._takers.unpark_all()
        while self._outside:
            over, _ = self._outside.popleft()
            over.set()

    def _raise_if_over(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._ended:
            raise trio.EndOfChannel


class Handover(ReceivedChannel):
    """The channel with its other end: how connections put. The application does not see this."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._stuck = Wakeup()
        """Rings when a connection begins to wait to put."""
        self._waits: set[trio.CancelScope] = set()
        """What waits for something that only reading brings, and not for ever."""
        self._gave_up = ""

    async def heartbeat_task(self, patience: float) -> None:
        """Until cancelled, end what is `bounded` when connections wait and nobody has taken for so many seconds.

        A WARNING says so, once. Where this is found late, because the process did not run, nobody could take either:
        then there is as much time again, once.
        """
        while True:
            await self._stuck.wait()
            extended = False
            while self._outside:
                due = self._progress_at + patience
                await trio.sleep_until(due)
                now = trio.current_time()
                if not self._outside or now < self._progress_at + patience:
                    extended = False
                elif now > due and not extended:
                    self._progress_at, extended = now + (now - due) - patience, True
                else:
                    self._give_up(patience)
                    extended = False

    def _give_up(self, patience: float) -> None:
        message = (
            f"nothing was taken from output.received for retry.timeout ({patience:g} s), and while it is full nothing is "
            "read, so that what the peer confirms is not seen; take from it in another task than the one that waits, or "
            "open the output without receive=True"
        )
        if not self._gave_up:
            _log.warning("%s", message)
        self._gave_up = message
        self._progress_at = trio.current_time()  # who waits from now on has as long
        for scope in self._waits:
            scope.cancel()

    @contextmanager
    def bounded(self) -> Generator[None]:
        """Bound a wait for what a peer confirms: see `heartbeat_task`.

        Raises:
            DeliveryError: Nobody takes. Nothing is lost by that: what was accepted goes on.
        """
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.remove(scope)
        if scope.cancelled_caught:
            raise DeliveryError(f"the wait for confirmations was given up: {self._gave_up}", undelivered=())

    def put_nowait(self, run: deque[Received]) -> None:
        """Take off the beginning of `run` what there is room for; nobody who waits to put is overtaken.

        Raises:
            trio.BrokenResourceError: The application takes nothing more.
            trio.ClosedResourceError: The channel was ended.
        """
        self._raise_if_closed()
        items = self._items
        room = self._most - len(items)  # none while somebody waits
        if len(run) <= room:
            count = len(run)
            items += run
            run.clear()
        else:
            count = room
            items.extend([run.popleft() for _ in range(room)])
        if self._takers and count:
            self._takers.unpark(count=count)

    async def put(self, run: deque[Received]) -> None:
        """Put all of `run`, waiting for room; raises as `put_nowait`.

        Cancelled, or when it raises, what is left in `run` was not put.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self.put_nowait(run)
        if not run:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        over = trio.Event()
        if not self._outside:
            self._progress_at = trio.current_time()
        self._outside.append((over, run))
        self._stuck.notify()
        try:
            await over.wait()
        except BaseException:
            # Cancelled it may still have been let in or turned away, before its task ran.
            with suppress(ValueError):
                self._outside.remove((over, run))
            raise
        if run:
            self._raise_if_closed()

    def end(self) -> None:
        """Nothing more will come: who waits to put gets trio.ClosedResourceError."""
        self._ended = True
        self._turn_away()

    def _raise_if_closed(self) -> None:
        if self._ended:
            raise trio.ClosedResourceError
        if self._closed:
            raise trio.BrokenResourceError
