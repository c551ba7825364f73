"""The channel of received messages: peers' messages wait here for the application, which takes one or all that wait.

A memory channel does the same with two checkpoints for each item, and those cost more than reading a message does. So a
connection puts everything it has read in one go, and the application lets other tasks run when nothing more waits, or
after a number of items.

While the channel is full and the application takes nothing, connections are not read, and so no confirmation of a peer is
seen. A task that waits for confirmations would wait for ever if it is the task that should take. So such a wait ends once
nothing has been taken for some time (`Handover.watch_progress`); an application that is slow but takes something now
and then is not affected.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress

import trio
from attrs import define, field

from trio_wsout._core.cursor import ReceivedCursor
from trio_wsout._core.received import Received
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import DeliveryError

__all__ = ["MOST_IN_A_ROW", "Handover", "ReceivedChannel"]

_log = logging.getLogger("trio_wsout")

MOST_IN_A_ROW = 64
"""Items that may be taken before other tasks run: they take about as long as a turn of another task."""


@define(eq=False)
class ReceivedChannel(trio.abc.ReceiveChannel["Received"]):
    """Messages from peers, in the order of each peer. Any number of tasks may take from it, and each item goes to one.

    It ends with the output, once everything that waits was taken. The application may close it before: then waiting
    items are gone, and later ones are dropped and counted.
    """

    _most: int
    _items: deque[Received] = field(factory=deque["Received"], init=False)
    _outside: deque[tuple[trio.Event, deque[Received]]] = field(
        factory=deque["tuple[trio.Event, deque[Received]]"], init=False
    )
    """Items that connections wait to put, each with the event that ends that wait; empty unless `_items` is full."""
    _takers: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    """Tasks that wait for an item. One that is woken may find it taken, and waits again."""
    _row: int = field(default=MOST_IN_A_ROW, init=False)
    """Items that may be taken until other tasks run."""
    _closed: bool = field(default=False, init=False)
    """Whether the application closed it."""
    _ended: bool = field(default=False, init=False)
    """Whether nothing more will come."""
    _progress_at: float = field(default=0.0, init=False)
    """The time at which an item was last taken or the first connection began to wait; unused while none waits to put."""

    async def receive(self) -> Received:
        """Return the next item, waiting for one; if this is cancelled, no item is lost.

        It always is a cancellation point; other tasks run at least once in 64 items.

        Raises:
            trio.EndOfChannel: The output has ended, and every item was taken.
            trio.ClosedResourceError: The application closed the channel.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._row and self._items:
            self._row -= 1
            return self._take()
        await self._wait()
        return self._take()

    async def __anext__(self) -> Received:
        """Return the next item, as `receive` does."""
        # The body of `receive` once more, because saving the call pays here.
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
        """Return the next item if one waits; raises as `receive` does.

        Raises:
            trio.WouldBlock: No item waits.
        """
        if not self._items:
            self._raise_if_over()
            raise trio.WouldBlock
        return self._take()

    async def receive_many(self) -> list[Received]:
        """Wait for items and return all that wait, from one to 64; raises as `receive` does.

        Other tasks run each time.
        """
        await self._wait()
        items = list(self._items)
        self._items.clear()
        self._let_in()
        return items

    def close(self) -> None:
        """Take nothing more; tasks that wait in `receive` get trio.ClosedResourceError."""
        self._closed = True
        self._items.clear()
        self._turn_away()

    async def aclose(self) -> None:
        """Close it as `close` does; this is a checkpoint."""
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
        """Fill the room with items that connections wait to put, one of each in turn."""
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
            # More tasks may wait than there was room for items.
            if self._takers:
                self._takers.unpark()

    def _turn_away(self) -> None:
        """Wake every task that waits; each finds that the channel is closed or has ended."""
        self._takers.unpark_all()
        while self._outside:
            over, _ = self._outside.popleft()
            over.set()

    def _raise_if_over(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._ended:
            raise trio.EndOfChannel


@define(eq=False)
class Handover(ReceivedChannel):
    """The channel with its other end, into which connections put; a `Taker`. The application does not see this class."""

    _stuck: Wakeup = field(factory=Wakeup, init=False)
    """Notified when a connection begins to wait to put."""
    _waits: set[trio.CancelScope] = field(factory=set[trio.CancelScope], init=False)
    """Waits for confirmations, which arrive only while connections are read."""
    _gave_up: str = field(default="", init=False)
    """The reason for which such waits were ended; empty if none was."""

    async def watch_progress(self, seconds: float) -> None:
        """End `bounded` waits while connections wait to put and nothing was taken for `seconds`.

        It works until cancelled, and warns once. If the time was found to be over late, because the process did not run,
        the application could not take either: then it has as much time again, once.
        """
        while True:
            await self._stuck.wait()
            extended = False
            while self._outside:
                due = self._progress_at + seconds
                await trio.sleep_until(due)
                now = trio.current_time()
                if not self._outside or now < self._progress_at + seconds:
                    extended = False
                elif now > due and not extended:
                    self._progress_at, extended = now + (now - due) - seconds, True
                else:
                    self._give_up(seconds)
                    extended = False

    def _give_up(self, seconds: float) -> None:
        message = (
            f"nothing was taken from output.received for retry.timeout ({seconds:g} s), and while it is full nothing is "
            "read, so that what the peer confirms is not seen; take from it in another task than the one that waits, or "
            "open the output without receive=True"
        )
        if not self._gave_up:
            _log.warning("%s", message)
        self._gave_up = message
        self._progress_at = trio.current_time()  # waits that begin now have as long
        for scope in self._waits:
            scope.cancel()

    @contextmanager
    def bounded(self) -> Generator[None]:
        """Bound a wait for confirmations, by the rule of `watch_progress`.

        Raises:
            DeliveryError: The application takes nothing. No event is lost by that: those accepted go on.
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
        """Take items off the beginning of `run` for which there is room; connections that wait are not overtaken.

        Raises:
            trio.BrokenResourceError: The application takes nothing more.
            trio.ClosedResourceError: The channel was ended.
        """
        self._raise_if_closed()
        items = self._items
        room = self._most - len(items)  # none while a connection waits to put
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
        """Put all of `run`, waiting for room; raises as `put_nowait` does.

        If this is cancelled or raises, `run` keeps the items that it did not put.
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
            # It may have been let in or turned away between the cancellation and now.
            with suppress(ValueError):
                self._outside.remove((over, run))
            raise
        if run:
            self._raise_if_closed()

    def end(self) -> None:
        """End the channel; connections that wait to put get trio.ClosedResourceError."""
        self._ended = True
        self._turn_away()

    def _raise_if_closed(self) -> None:
        if self._ended:
            raise trio.ClosedResourceError
        if self._closed:
            raise trio.BrokenResourceError


@define(eq=False)
class FollowedHandover(Handover):
    """The channel where the cursor follows: asking for the next item says that all items before it were taken."""

    _cursor: ReceivedCursor
    taken_to_the_end: trio.Event = field(factory=trio.Event, init=False)
    """Set when the channel has ended and the application has taken everything."""

    def put_nowait(self, run: deque[Received]) -> None:
        """Take items off the beginning of `run`, as `Handover.put_nowait` does."""
        items = list(run)
        super().put_nowait(run)
        self._cursor.queue(items[: len(items) - len(run)])

    async def put(self, run: deque[Received]) -> None:
        """Put all of `run`, as `Handover.put` does."""
        items = list(run)
        try:
            await super().put(run)
        finally:
            self._cursor.queue(items[: len(items) - len(run)])

    async def receive(self) -> Received:
        """Return the next item, as `ReceivedChannel.receive` does."""
        self._cursor.taken()
        try:
            return self._cursor.hand_out(await super().receive())
        except trio.EndOfChannel:
            self.taken_to_the_end.set()
            raise

    async def __anext__(self) -> Received:
        """Return the next item, as `receive` does."""
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def receive_nowait(self) -> Received:
        """Return the next item, as `ReceivedChannel.receive_nowait` does."""
        self._cursor.taken()
        return self._cursor.hand_out(super().receive_nowait())

    async def receive_many(self) -> list[Received]:
        """Return the next items, as `ReceivedChannel.receive_many` does."""
        self._cursor.taken()
        try:
            return [self._cursor.hand_out(item) for item in await super().receive_many()]
        except trio.EndOfChannel:
            self.taken_to_the_end.set()
            raise
