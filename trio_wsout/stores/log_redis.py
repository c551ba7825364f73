"""A shared log in a stream of Valkey or Redis: any number of outputs append to it and follow it (SPEC 11).

The keys of the log ``NAME`` begin with ``{NAME}:``, so that a cluster has all of them on one node.

- ``{NAME}:log``: the stream. An entry is a run, as `_core.run_format` has it, or the marker of an epoch; its id is
  ``position-epoch``, with the position of its last event.
- ``{NAME}:meta``: epoch, server process and extent.
- ``{NAME}:cursors``: the cursors that events hold, by position.
- ``{NAME}:node:ID``: the last run of an output, for a week, by which a repeated run is known.

Each change is one script, which the engine runs whole or not at all. Events that left the log stay in the stream for a second
more, so that who follows it has them all.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from typing import Any, cast

import trio
from attrs import define, field

from trio_wsout._core.acknowledgement import position_in
from trio_wsout._core.durable_log import HISTORY, Entry, Extent
from trio_wsout._core.run_format import DamageError, run_of
from trio_wsout._core.shared_log import Arrival, Follower, adjacent, read_entry
from trio_wsout.config.redis_url import RedisUrl
from trio_wsout.config.sections import History
from trio_wsout.errors import HistoryError
from trio_wsout.stores.redis import Redis, RefusedError, Reply, Script, Waiting
from trio_wsout.stores.redis_scripts import AFTER, APPEND, FIND, JOIN, LEAVE

__all__ = ["RedisLog"]

_BLOCK = 1.0
"""Seconds that one read waits for something new; then the follower looks whether the log is what it was."""
_ENTRIES = 8
"""Most entries of one read: on a slow line, too, their answer has to come in time."""
_ARRIVALS = 8
"""Reads that wait for the journal."""

_Run = Callable[[Script, Sequence[str], Sequence[str | bytes]], Awaitable[Reply]]


@define(eq=False)
class RedisLog:
    """A `SharedLog` in a stream."""

    _url: Callable[[], RedisUrl]
    """Returns the address and the stream, with the credentials of this attempt."""
    _limits: History
    location: str
    """The URL, without values of secrets."""
    _draw: Callable[[], float] = field(default=random.random, alias="draw", kw_only=True)
    _clock: Callable[[], float] = field(default=time.time, alias="clock", kw_only=True)
    """Returns the seconds since 1970: each epoch begins at a position of so many microseconds, or higher."""
    _patience: float = field(default=10.0, alias="patience", kw_only=True)
    """Seconds that opening tries to reach the engine."""
    _waiting: Waiting = field(init=False)
    _commands: Redis = field(init=False)
    _reader: Redis = field(init=False)
    """Waits for new entries, and so has a connection of its own."""
    _keys: tuple[str, ...] = field(default=(), init=False)
    _follower: Follower = field(init=False)
    extent: Extent = field(default=Extent(epoch=0, floor=0, tail=0, size=0), init=False)
    """The extent as of the latest append, or the latest look."""
    _one_appends: trio.Lock = field(factory=trio.Lock, init=False)
    _opened: trio.Event = field(factory=trio.Event, init=False)
    _new_epoch: trio.Event = field(factory=trio.Event, init=False)
    _failure: HistoryError | None = field(default=None, init=False)
    """The error that ended the follower."""
    _nursery: trio.Nursery | None = field(default=None, init=False)
    _closed: bool = field(default=False, init=False)
    _arrived: trio.MemorySendChannel[Sequence[Arrival]] = field(init=False)
    _arrivals: trio.MemoryReceiveChannel[Sequence[Arrival]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make what needs the fields."""
        self._waiting = Waiting(f"history {self.location}")
        self._commands, self._reader = self._redis(), self._redis()
        self._follower = Follower(secrets.token_hex(8).encode(), 0, 0)
        self._arrived, self._arrivals = trio.open_memory_channel[Sequence[Arrival]](_ARRIVALS)

    def _redis(self) -> Redis:
        return Redis(self._url, HISTORY.setting, "{NAME}:*", self._waiting, self._draw)

    @property
    def waiting(self) -> str | None:
        """Why a command waits; None if none does."""
        return self._waiting.cause

    @property
    def lag(self) -> int:
        """Events between what was read and the tail, as of the latest look; positions jump where an epoch begins."""
        return max(0, min(self.extent.events, self.extent.tail - self._follower.position))

    # -- life -------------------------------------------------------------------------------------------

    async def open(self, epoch: int, *, keep_epoch: bool = False) -> Extent:
        """Join the log; the first output, and the first behind a restart of the engine, begin an epoch: `epoch`, or a higher one."""
        del keep_epoch  # an epoch is the log's own
        self._check_open()
        try:
            stream = self._url().stream
        except ValueError as error:
            raise self._error("opened", f"{error}; look at {HISTORY.setting}") from error
        node = self._follower.node.decode()
        self._keys = tuple(f"{{{stream}}}:{name}" for name in ("log", "meta", "cursors", f"node:{node}"))
        extent = await self._join(partial(self._redis().run_script_alone, patience=self._patience), epoch)
        self._follower.epoch, self._follower.position, self.extent = extent.epoch, extent.tail, extent
        self._opened.set()
        return extent

    async def run(self) -> None:
        """Keep the connections, and follow the log, until cancelled or closed."""
        async with trio.open_nursery() as self._nursery:
            nursery = self._nursery
            await nursery.start(self._commands.run)
            await nursery.start(self._reader.run)
            try:
                with suppress(trio.ClosedResourceError):  # it has failed where it appends
                    await self._follow(nursery)
            except HistoryError as error:
                self._fail(error)
            await trio.sleep_forever()

    def _fail(self, error: HistoryError) -> None:
        """Have all calls raise this error, also those that wait."""
        self._failure = error
        self._arrived.close()
        self._new_epoch.set()

    async def aclose(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        self._commands.close()
        self._arrived.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the history is closed")
        if self._failure is not None:
            raise self._failure

    async def _join(self, run: _Run, epoch: int = 0) -> Extent:
        """Begin a new epoch if the log is not what this output knows; return the extent."""
        now, follower = self._clock(), self._follower
        proposed, base = max(epoch, int(now * 1e3)), int(now * 1e6)

        arguments = str(proposed), str(base), str(follower.epoch), str(follower.position)
        with self._errors("opened"):
            return _extent(await run(JOIN, self._keys, arguments))[0]

    # -- following --------------------------------------------------------------------------------------

    async def follow(self) -> Sequence[Arrival]:
        """Return the next runs, at least one; wait for them."""
        self._check_open()
        try:
            return await self._arrivals.receive()
        except trio.EndOfChannel:
            self._check_open()
            raise

    async def _follow(self, nursery: trio.Nursery) -> None:
        await self._opened.wait()
        joined, look_at = 0, 0.0
        while True:
            now = trio.current_time()
            if self._reader.connections != joined or now >= look_at:
                self.extent = await self._join(self._reader.run_script)
                joined, look_at = self._reader.connections, now + _BLOCK
            epoch = self._follower.epoch
            arrivals = await self._read()
            if self._follower.epoch != epoch:
                self._new_epoch.set()
                self._new_epoch = trio.Event()
                nursery.start_soon(self._append_again, name="append again")
            if arrivals:
                await self._arrived.send(arrivals)

    async def _read(self) -> Sequence[Arrival]:
        """Return what comes next in the log; nothing if nothing came within a second."""
        follower, block = self._follower, str(int(_BLOCK * 1000))
        behind = f"{follower.position}-{follower.epoch}"
        command = ("XREAD", "COUNT", str(_ENTRIES), "BLOCK", block, "STREAMS", self._keys[0], behind)
        with self._errors("read"):
            reply = cast("dict[bytes, list[_RawEntry]] | None", await self._reader.call(*command))
            found = [] if reply is None else next(iter(reply.values()))
            return [arrival for each in found for arrival in follower.take(read_entry(*each))]

    # -- writing ----------------------------------------------------------------------------------------

    async def append(self, run: Sequence[Entry], settled: int = 0) -> Extent:
        """Append events behind all that the log has; remove those up to `settled`, and those that exceed the limits.

        If this is cancelled, they may be appended or not, or with the next call.
        """
        self._check_open()
        if not run:
            return await self._leave(settled, -inf)
        async with self._one_appends:
            made = run_of(run, shared=True)
            cursors = [
                part
                for index, each in enumerate(run, 1)
                if each.cursor is not None
                for part in (str(index), each.cursor.encode("utf-8", "surrogatepass"))
            ]
            of_run = str(made.last), repr(made.at), str(made.checksum), made.head, made.body
            self._follower.append(made.last, (*of_run, *self._bounds(settled), *cursors))
            return await self._append_all()

    async def _append_again(self) -> None:
        """Append the runs that the end of an epoch has lost."""
        async with self._one_appends:
            try:
                await self._append_all()
            except HistoryError as error:
                self._fail(error)

    async def _append_all(self) -> Extent:
        """Append the runs that the log does not have, one after the other; return the extent."""
        follower = self._follower
        while (run := follower.to_send()) is not None:
            new_epoch = self._new_epoch
            # If the epoch ends meanwhile, the run may have come round, and is not to go into the next one.
            arguments = str(follower.epoch), follower.node, str(run.number), *run.content
            with self._errors("written"):
                reply = await self._commands.run_script(APPEND, self._keys, arguments)
            if reply:
                self.extent, last = _extent(reply)
                follower.stored(run, last)
                continue
            with trio.move_on_after(_BLOCK):  # first everything is read that is before the new epoch
                await new_epoch.wait()
            self._check_open()
        return self.extent  # noqa: ASYNC910 - the callers have waited for the lock

    async def trim(self, now: float) -> Extent:
        """Remove the events that exceed the limits at `now`, and return the new extent."""
        self._check_open()
        return await self._leave(0, now)

    async def _leave(self, settled: int, now: float) -> Extent:
        bounds, *limits = self._bounds(settled)
        with self._errors("written"):
            reply = await self._commands.run_script(LEAVE, self._keys, (bounds, repr(now), *limits))
        return _extent(reply)[0]

    def _bounds(self, settled: int) -> tuple[str, ...]:
        """Return what leaves, as the scripts take it: position, most events, most bytes, greatest age."""
        limits = self._limits
        bounds = limits.max_events, limits.max_bytes, limits.max_age
        return str(settled), *("inf" if each is None else repr(each) for each in bounds)

    # -- reading ----------------------------------------------------------------------------------------

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        """Return the oldest events after `position`, within the bounds but at least one."""
        self._check_open()
        arguments = str(position), str(most), str(most_bytes)
        with self._errors("read"):
            reply = cast("list[Any]", await self._commands.run_script(AFTER, self._keys, arguments))
            floor, *raw = reply
            return _page(raw, max(position, floor), most, most_bytes)

    async def find(self, cursor: str) -> int | None:
        """Return the newest position with this cursor, or with this stamp; None if the cursor is unknown."""
        self._check_open()
        epoch, position = position_in(cursor) or (0, 0)
        arguments = cursor.encode("utf-8", "surrogatepass"), str(epoch), str(position)
        with self._errors("read"):
            return cast("int | None", await self._commands.run_script(FIND, self._keys, arguments))

    async def adjacent(self, position: int, following: int) -> bool:
        """Return whether there is nothing but the beginnings of epochs between two positions, and nothing was lost there."""
        self._check_open()
        with self._errors("read"):
            between = str(position), str(following - 1), "COUNT", str(_ENTRIES)
            raw = await self._commands.call("XRANGE", self._keys[0], *between)
            return adjacent([read_entry(*each) for each in cast("list[_RawEntry]", raw)], position, following)

    # -- errors -----------------------------------------------------------------------------------------

    @contextmanager
    def _errors(self, doing: str) -> Generator[None]:
        """Turn what an engine refuses, and damage, into a HistoryError."""
        try:
            yield
        except RefusedError as error:
            raise self._error(doing, str(error)) from error
        except DamageError as error:
            advice = "find out what writes to this stream beside this library, or name another stream"
            raise self._error(doing, f"{error}; {advice}") from error

    def _error(self, doing: str, reason: str) -> HistoryError:
        return HistoryError(f"history {self.location}: can't be {doing}: {reason}")


_RawEntry = tuple[bytes, Sequence[bytes]]
"""The id of an entry of a stream, and its fields and values in turn."""


def _extent(reply: Reply) -> tuple[Extent, int]:
    """Return the extent that a script has returned, and the position of the last event of the run that it appended."""
    epoch, floor, tail, size, events, last = cast("list[int]", reply)
    return Extent(epoch=epoch, floor=floor, tail=tail, size=size, holes=tail - floor - events), last


def _page(raw: Sequence[_RawEntry], position: int, most: int, most_bytes: int) -> Sequence[Entry]:
    """Return the events of these entries behind `position`, within the bounds but at least one, up to the first damaged one."""
    page: list[Entry] = []
    for each in raw:
        try:
            found = read_entry(*each)
            entries = found.entries(position)
        except DamageError:
            if page:
                break
            raise
        for entry in entries:
            most_bytes -= len(entry.payload)
            if len(page) == most or (page and most_bytes < 0):
                return page
            page.append(entry)
        position = page[-1].position
        if position < found.last:
            break
    return page
