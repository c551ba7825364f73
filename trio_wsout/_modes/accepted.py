"""The side of an output that accepts: its listener, the peers, what a peer gets of the history, and the Closes at the end."""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from trio_wsout._core.admission import Admission
from trio_wsout._core.message import Accepted
from trio_wsout._core.statistics import HistoryStatistics, ListenerStatistics
from trio_wsout._modes.common import Common
from trio_wsout._tasks.fan_out import gap_frame
from trio_wsout._tasks.history_journal import HistoryJournal
from trio_wsout._tasks.inbox import Inbox
from trio_wsout._tasks.listener import Listener
from trio_wsout._tasks.replay import Replay
from trio_wsout._tasks.session import GOING_AWAY, Resumption, Session
from trio_wsout._wire.accept import Acceptor
from trio_wsout.config.sections import OnGap, Server
from trio_wsout.stores.from_config import open_history_store


class AcceptedSide:
    """The listener of an output with its peers; `Tree` opens, runs and closes it."""

    def __init__(self, common: Common, server: Server, inbox_for: Callable[[Session], Inbox]) -> None:
        """Make a listener that gives what a peer sends to the inbox that `inbox_for` makes."""
        config, hooks = common.config, common.hooks
        self._common = common
        self.fan_out = common.fan_out
        common.ledger.on_awaited = self.fan_out.ask_all
        self.listener = Listener(
            server,
            config.heartbeat,
            self._resumption,
            inbox_for,
            self.fan_out,
            Acceptor(
                admission=Admission(server, config.cursor, config.subprotocols, resolve=common.resolve),
                authenticate=hooks.authenticate,
                max_connections=server.max_connections,
                heartbeat=config.heartbeat,
                max_message_size=config.max_message_size,
                peer_log=common.peer_log,
            ),
            hooks.listeners,
            common.resolve,
        )
        self._tells_gaps = config.history is None or config.history.on_gap is OnGap.TELL
        self.history: HistoryJournal | None = None
        """Keeps messages before the peers get them; None if there is no history."""
        if config.history is not None:
            cursor = config.cursor
            self.history = HistoryJournal(
                hooks.history or open_history_store(config.history),
                self.fan_out,
                common.ledger,
                max_age=config.history.max_age,
                by_stamp=cursor is None or (cursor.value_field or cursor.value_pointer) is None,
            )

    # -- life -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Bind, and take the history over.

        Raises:
            ConfigError: The address or the TLS files can't be used.
            HistoryError: The history can't be used.
        """
        await self.listener.open()
        if self.history is not None:
            extent = await self.history.open(self._common.epoch)
            self._common.go_on(extent.epoch, extent.tail)
        self.fan_out.epoch = self._common.epoch

    def start(self, nursery: trio.Nursery) -> None:
        """Start to accept, and to keep messages where there is a history."""
        if self.history is not None:
            nursery.start_soon(self.history.run, name="history journal")
        nursery.start_soon(self.listener.run, name="listener")

    async def wait_posted(self) -> None:
        """Wait until every message taken so far is in the log."""
        if self.history is not None:
            await self.history.wait_posted()
        else:
            await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Close every peer, those that are admitted meanwhile, too, and wait until they are gone."""
        while self.fan_out.peers:
            for peer in list(self.fan_out.peers):
                peer.close(GOING_AWAY)
            await self.fan_out.changed.park()

    async def aclose(self) -> None:
        """Close the listening sockets and the history."""
        self.fan_out.changed.unpark_all()
        await self.listener.aclose()
        if self.history is not None:
            await self.history.aclose()

    def leftovers(self) -> list[Accepted]:
        """Return the events that are not in the log yet, and wait for the history, in order."""
        return [] if self.history is None else self.history.leftovers()

    # -- for the application ----------------------------------------------------------------------------

    async def wait_peers(self, count: int, ended: trio.Event) -> None:
        """Wait until so many peers are connected at the same time, or `ended` is set."""
        await trio.lowlevel.checkpoint()
        while len(self.fan_out.peers) < count:
            if ended.is_set():
                self._common.ledger.raise_if_broken()
                raise trio.ClosedResourceError
            await self.fan_out.changed.park()

    def situation(self) -> str:
        """Return how many peers there are, and how much they lack."""
        count = len(self.fan_out.peers)
        return (
            f"{count} peer{'' if count == 1 else 's'} connected, {self.fan_out.log.unsettled} messages open"
        )

    # -- figures ----------------------------------------------------------------------------------------

    @property
    def sessions(self) -> Collection[Session]:
        """The sessions of all peers."""
        return self.fan_out.peers

    def statistics(self, *, closed: bool) -> ListenerStatistics:
        """Return the figures of this moment."""
        fan_out, counters = self.fan_out, self._common.counters
        return ListenerStatistics(
            state="closed" if closed else "listening",
            addresses=self.listener.addresses,
            admitted=counters.admitted,
            refused=self.listener.acceptor.refused,
            expelled=counters.expelled,
            lost_by_slow=fan_out.log.dropped,
            unheard=fan_out.log.unheard,
        )

    def history_statistics(self) -> HistoryStatistics | None:
        """Return the figures of the history; None if there is none."""
        if self.history is None:
            return None
        extent, replayed = self.history.extent, self._common.counters.replayed
        return HistoryStatistics(events=extent.events, bytes=extent.size, replayed=replayed)

    # -- for the listener -------------------------------------------------------------------------------

    async def _resumption(self, asked: str | None) -> Resumption:
        """Return the start of a peer's stream; `asked` is the cursor behind which it wants to go on, None if it named none."""
        if asked is None:
            await trio.lowlevel.checkpoint()
            return Resumption()
        if self.history is None:
            await trio.lowlevel.checkpoint()
            return Resumption(resumed=False, notice=gap_frame(asked, None))
        start = await self.history.locate(asked)
        if start.gap and not self._tells_gaps:
            return Resumption(resumed=False, refusal=start.first or "")
        replay = Replay(
            self.history,
            self.fan_out,
            self._common.packer,
            start.position,
            asked,
            notice=gap_frame(asked, start.first) if start.gap else b"",
            tells=self._tells_gaps,
        )
        return Resumption(replay=replay, resumed=not start.gap)
