"""The channel of received messages: what one read of a connection brought waits for the application as one run.

Connections hand over runs through trio's memory channel, so its price is paid once a run; the application takes them apart, one
message at a time or all at once. The bound is in messages: 64 runs of a burst would be 16,000 messages, and that cost 5 % of
the receiving benchmark. Connections that wait for room get it in their order, a run each.

While the channel is full and the application takes nothing, connections are not read, and so no confirmation of a peer is
seen. A task that waits for confirmations would wait for ever if it is the task that should take. So such a wait ends once
nothing has been taken for some time (`Handover.watch_progress`); an application that is slow but takes something now
and then is not affected.
"""

import logging
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from math import inf

import trio
from attrs import define, field

from trio_wsout._core.cursor import ReceivedCursor
from trio_wsout._core.received import Received
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout.errors import DeliveryError

_log = logging.getLogger("trio_wsout")

MOST_IN_A_ROW = 64
"""Items that may be taken before other tasks run: they take about as long as a turn of another task."""


@define(eq=False)
class _Flow:
    """The state that both ends share."""

    most: int
    """Once so many items wait, no further run is taken in."""
    runs: int = 0
    """Items that wait in runs."""
    rest: deque[Received] = field(factory=deque["Received"], init=False)
    """Items that wait behind no others: the rest of the runs that are being taken apart."""
    stuck: bool = field(default=False, init=False)
    """Whether a connection waits for room."""
    moved_at: float = field(default=0.0, init=False)
    """The time at which an item was last taken or the first connection began to wait; unused while none waits."""
    room: Wakeup = field(factory=Wakeup, init=False)
    """Notified when there is room again, or never will be."""

    @property
    def full(self) -> bool:
        """Whether no further run is taken in."""
        return self.runs + len(self.rest) >= self.most

    def moved(self) -> None:
        """Note that something was taken while a connection waits for room."""
        self.moved_at = trio.current_time()
        if not self.full:
            self.room.notify()


@define(eq=False)
class ReceivedChannel(trio.abc.ReceiveChannel["Received"]):
    """Messages from peers, in the order of each peer. Any number of tasks may take from it, and each item goes to one.

    It ends with the output, once everything that waits was taken. The application may close it before: then waiting
    items are gone, and later ones are dropped and counted. In mode server-input, pings behind these are not answered any
    more, so that no sender counts them as confirmed.
    """

    _runs: trio.MemoryReceiveChannel[deque[Received]]
    _flow: _Flow
    _rest: deque[Received] = field(init=False)
    _turn: trio.Lock = field(factory=trio.Lock, init=False)
    """Held by the task that waits for a run; others that wait for an item wait for it, in their order."""
    _row: int = field(default=MOST_IN_A_ROW, init=False)
    """Items that may be taken until other tasks run."""

    def __attrs_post_init__(self) -> None:
        self._rest = self._flow.rest

    async def receive(self) -> Received:
        """Return the next item, waiting for one; if this is cancelled, no item is lost.

        It always is a cancellation point; other tasks run at least once in 64 items.

        Raises:
            trio.EndOfChannel: The output has ended, and every item was taken.
            trio.ClosedResourceError: The application closed the channel.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not (self._rest and self._row):
            await self._wait()
        self._row -= 1
        return self._take()

    async def __anext__(self) -> Received:
        """Return the next item, as `receive` does."""
        # The body of `receive` once more, because saving the call pays here.
        await trio.lowlevel.checkpoint_if_cancelled()
        if not (self._rest and self._row):
            try:
                await self._wait()
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
        self._row -= 1
        return self._take()

    def receive_nowait(self) -> Received:
        """Return the next item if one waits; raises as `receive` does.

        Raises:
            trio.WouldBlock: No item waits, or another task waits for it.
        """
        if not self._rest:
            if self._turn.locked():
                raise trio.WouldBlock
            self._next_run(self._runs.receive_nowait())
        return self._take()

    async def receive_many(self) -> list[Received]:
        """Wait for items and return those that wait, in whole runs until they are 64 or more; raises as `receive` does.

        A run is what one read of a connection brought: at most 256 messages, each with all of its events where batches are
        taken apart. Other tasks run each time.
        """
        await self._wait()
        items = list(self._rest)
        self._rest.clear()
        if self._flow.stuck:
            self._flow.moved()
        return items

    def close(self) -> None:
        """Take nothing more; tasks that wait in `receive` get trio.ClosedResourceError."""
        self._runs.close()
        self._rest.clear()
        self._flow.runs = 0
        self._flow.room.notify()

    async def aclose(self) -> None:
        """Close it as `close` does; this is a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _take(self) -> Received:
        item = self._rest.popleft()
        if self._flow.stuck:
            self._flow.moved()
        return item

    def _next_run(self, run: deque[Received]) -> None:
        self._flow.runs -= len(run)
        self._rest.extend(run)

    async def _wait(self) -> None:
        """Let other tasks run, and wait until there is an item."""
        async with self._turn:
            self._row = MOST_IN_A_ROW
            if not self._rest:
                self._next_run(await self._runs.receive())
            while self._flow.runs and len(self._rest) < MOST_IN_A_ROW:
                self._next_run(self._runs.receive_nowait())


@define(eq=False)
class FollowedChannel(ReceivedChannel):
    """The channel where the cursor follows: asking for the next item says that all items before it were taken."""

    _cursor: ReceivedCursor
    taken_to_the_end: trio.Event = field(factory=trio.Event, init=False)
    """Set when the channel has ended and the application has taken everything, or closed it."""

    def close(self) -> None:
        """Take nothing more, as `ReceivedChannel.close` does; what was handed out last does not count as taken."""
        super().close()
        self.taken_to_the_end.set()

    async def receive(self) -> Received:
        """Return the next item, as `ReceivedChannel.receive` does."""
        self._cursor.taken()
        return await super().receive()

    async def __anext__(self) -> Received:
        """Return the next item, as `receive` does."""
        self._cursor.taken()
        return await super().__anext__()

    def receive_nowait(self) -> Received:
        """Return the next item, as `ReceivedChannel.receive_nowait` does."""
        self._cursor.taken()
        return super().receive_nowait()

    async def receive_many(self) -> list[Received]:
        """Return the next items, as `ReceivedChannel.receive_many` does."""
        self._cursor.taken()
        return [self._cursor.hand_out(item) for item in await super().receive_many()]

    def _take(self) -> Received:
        return self._cursor.hand_out(super()._take())

    async def _wait(self) -> None:
        try:
            await super()._wait()
        except trio.EndOfChannel:
            self.taken_to_the_end.set()
            raise


@define(eq=False)
class Handover:
    """The other end, into which connections put; a `Taker`."""

    _flow: _Flow = field(converter=_Flow, alias="most")
    _cursor: ReceivedCursor | None = None
    """The cursor that follows the items; None if none does."""
    channel: ReceivedChannel = field(init=False)
    """The end of the application."""
    _runs: trio.MemorySendChannel[deque[Received]] = field(init=False)
    _turn: trio.Lock = field(factory=trio.Lock, init=False)
    """Held by the connection that waits for room; others that have a run wait for it, in their order."""
    _ended: bool = field(default=False, init=False)
    _stuck: Wakeup = field(factory=Wakeup, init=False)
    """Notified when a connection begins to wait to put."""
    _waits: set[trio.CancelScope] = field(factory=set[trio.CancelScope], init=False)
    """Waits for confirmations, which arrive only while connections are read."""
    _gave_up: str = field(default="", init=False)
    """The reason for which such waits were ended; empty if none was."""

    def __attrs_post_init__(self) -> None:
        self._runs, runs = trio.open_memory_channel[deque[Received]](inf)
        if self._cursor is None:
            self.channel = ReceivedChannel(runs, self._flow)
        else:
            self.channel = FollowedChannel(runs, self._flow, self._cursor)

    def put_nowait(self, run: deque[Received]) -> None:
        """Take all of `run` if fewer than `most` items wait and no connection does, else nothing.

        Raises:
            trio.BrokenResourceError: The application takes nothing more.
            trio.ClosedResourceError: The channel was ended.
        """
        if run and not self._flow.full and not self._turn.locked():
            self._put(run)

    async def put(self, run: deque[Received]) -> None:
        """Take all of `run`, waiting for room; raises as `put_nowait` does.

        If this is cancelled or raises, nothing of `run` was taken.
        """
        flow = self._flow
        if not self._turn.locked():
            flow.moved_at = trio.current_time()
        async with self._turn:
            try:
                while flow.full and not self._ended:
                    flow.stuck = True
                    self._stuck.notify()
                    await flow.room.wait()
            finally:
                flow.stuck = False
            self._put(run)

    def _put(self, run: deque[Received]) -> None:
        self._runs.send_nowait(run.copy())
        self._flow.runs += len(run)
        if self._cursor is not None:
            self._cursor.queue(run)
        run.clear()

    def end(self) -> None:
        """End the channel; connections that wait to put get trio.ClosedResourceError."""
        self._ended = True
        self._runs.close()
        self._flow.room.notify()

    async def watch_progress(self, seconds: float) -> None:
        """End `bounded` waits while connections wait to put and nothing was taken for `seconds`.

        It works until cancelled, and warns once. If the time was found to be over late, because the process did not run,
        the application could not take either: then it has as much time again, once.
        """
        flow = self._flow
        while True:
            await self._stuck.wait()
            extended = False
            while self._turn.locked():
                due = flow.moved_at + seconds
                await trio.sleep_until(due)
                now = trio.current_time()
                if not self._turn.locked() or now < flow.moved_at + seconds:
                    extended = False
                elif now > due and not extended:
                    flow.moved_at, extended = now + (now - due) - seconds, True
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
        self._flow.moved_at = trio.current_time()  # waits that begin now have as long
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
