"""The side of an output that accepts: its listener, the peers, what a peer gets of the history, and the Closes at the end."""

from collections.abc import Callable, Collection

import trio

from trio_wsout._core.admission import Admission
from trio_wsout._core.close_codes import GOING_AWAY
from trio_wsout._core.statistics import ListenerStatistics
from trio_wsout._modes.common import Common
from trio_wsout._tasks.catch_up import Reader, Replay
from trio_wsout._tasks.fan_out import gap_frame
from trio_wsout._tasks.inbox import Inbox
from trio_wsout._tasks.listener import Listener
from trio_wsout._tasks.session import Resumption, Session
from trio_wsout._wire.accept import Acceptor
from trio_wsout.config.sections import Server
from trio_wsout.errors import count


class AcceptedSide:
    """The listener of an output with its peers; `Tree` opens, runs and closes it."""

    def __init__(
        self,
        common: Common,
        server: Server,
        inbox_for: Callable[[Session], Inbox],
        history: Reader | None = None,
    ) -> None:
        """Make a listener that passes what a peer sends to the inbox that `inbox_for` makes; peers resume from `history`."""
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
        self._history = history

    # -- life -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Bind the address, and read the TLS files.

        Raises:
            ConfigError: The address or the TLS files can't be used.
        """
        await self.listener.open()

    def start(self, nursery: trio.Nursery) -> None:
        """Start to accept."""
        self.fan_out.log.start_after(self._common.packer.last_seq)
        nursery.start_soon(self.listener.run, name="listener")

    async def close(self) -> None:
        """Close every peer, those that are admitted meanwhile, too, and wait until they are gone."""
        while self.fan_out.peers:
            for peer in list(self.fan_out.peers):
                peer.close_with_output(GOING_AWAY)
            await self.fan_out.changed.park()

    async def aclose(self) -> None:
        """Close the listening sockets."""
        await self.listener.aclose()

    # -- figures ----------------------------------------------------------------------------------------

    def situation(self) -> str:
        """Return how many peers there are, and how much they lack."""
        peers = count(len(self.fan_out.peers), "peer")
        return f"{peers} connected, {self.fan_out.log.unsettled} messages open"

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

    # -- for the listener -------------------------------------------------------------------------------

    async def _resumption(self, asked: str | None) -> Resumption:
        """Return the start of a peer's stream; `asked` is the cursor behind which it wants to go on, None if it named none."""
        if asked is None:
            await trio.lowlevel.checkpoint()
            return Resumption()
        if self._history is None:
            await trio.lowlevel.checkpoint()
            return Resumption(resumed=False, notice=gap_frame(asked, None))
        start = await self._history.locate(asked)
        if start.gap and not self.fan_out.tells_gaps:
            return Resumption(resumed=False, refusal=start.first or "")
        replay = Replay(
            self._history,
            self.fan_out,
            self._common.packer,
            start.position,
            asked,
            notice=gap_frame(asked, start.first) if start.gap else b"",
        )
        return Resumption(replay=replay.next_frames, resumed=not start.gap)
