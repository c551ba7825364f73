"""Mode relay: messages of each peer go to all others, and both ways with the link if there is a `url`.

::

    relay
    ├─ sender                  events of application, peers and link, in turns → log → all sockets that can be written to
    ├─ history journal         where there is a history: messages → history, many with one commit → log
    ├─ heartbeat               the deadlines of all peers: ping, warn, cut
    ├─ listener                accept → handshake → admit, each peer guarded
    │  └─ peer
    │     ├─ fan-out           history → socket, then log → socket where the sender could not write it
    │     └─ reader            messages → its turn at the sender; → received
    └─ link                    where there is a url: the tree of mode client, without its own intake
       ├─ uplink               log without what came down → the link's sender
       └─ downlink             what comes down → its turn at the sender; → received
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import cast

import trio
from attrs import define, evolve, field

from trio_wsout._core.callables import CallableError
from trio_wsout._core.edits import Edits
from trio_wsout._core.json_line import JsonLine
from trio_wsout._core.message import Accepted
from trio_wsout._core.received import RawReceived, Received
from trio_wsout._core.statistics import Statistics
from trio_wsout._modes.client import ClientTree
from trio_wsout._modes.hooks import Hooks
from trio_wsout._modes.server import ServerTree
from trio_wsout._tasks.channel import SendingEnd
from trio_wsout._tasks.ledger import Flush, Item
from trio_wsout._tasks.reader import Inbox, RawInbox
from trio_wsout._tasks.served_peer import ServedPeer
from trio_wsout._tasks.uplink import Uplink
from trio_wsout.config.sections import BatchMode, Config, Mode, Payload, Server
from trio_wsout.errors import EventError

__all__ = ["RelayTree"]

Edit = Callable[[RawReceived], RawReceived | None]
"""Returns the message to pass on, or None to refuse it."""
_EACH = 64
"""Messages of one peer, or of the link, that wait for their turn."""
_TURNS = 2
"""Turns of other tasks after which the sender has surely had one."""


class RelayTree(ServerTree):
    """The tree of one relay."""

    def __init__(self, config: Config, server: Server, hooks: Hooks) -> None:
        """Make the tree; `run` brings it to life."""
        super().__init__(config, server, hooks)
        self._down = self._intake.clone(_EACH)
        self.stopping = False
        """Whether nothing is passed on any more."""
        self._link: _LinkTree | None = None
        self._adopted = False
        """Whether the link's error was adopted."""
        self._edits = Edits(config.payload, server.sender_field, hooks.on_message)
        if config.url is not None:
            uplink = Uplink(self.fan_out.log, self._plain, self.fan_out.settle, self._down.notify)
            self._link = _LinkTree(
                _link_config(config), evolve(hooks, receive=True), uplink, self._edit(signed=False)
            )
            self.fan_out.uplink = uplink
            # Messages from the link are taken nevertheless: behind them lie pongs that make room.
            self._down.restrict(lambda: uplink.full)
        if not hooks.receive:
            self.received.end()

    # -- life -------------------------------------------------------------------------------------------

    async def _start_tasks(self, nursery: trio.Nursery) -> None:
        """Start sender and journal, and the link with both ways."""
        await super()._start_tasks(nursery)
        self._bound_waits(nursery)
        if self._link is not None:
            await nursery.start(self._link.run)
            nursery.start_soon(self._break_with, self._link)
            nursery.start_soon(self._link.uplink.run, self._link.entry)
            nursery.start_soon(self._take_down, self._link)

    async def _break_with(self, link: _LinkTree) -> None:
        """Break the relay when its link is broken and has ended."""
        await link.ledger.broke.wait()
        await link.ended.wait()
        self._adopt_error()

    def _adopt_error(self) -> None:
        """Adopt the link's error, if it is broken. Only once: adopting it again would append its events again."""
        error = None if self._link is None else self._link.ledger.broken
        if error is not None and not self._adopted:
            self._adopted = True
            self.ledger.break_with(error)

    async def _take_down(self, link: _LinkTree) -> None:
        """Pass everything that comes down the link on to the peers."""
        taker = _TurnTaker(self, self._down, link.uplink)
        async for item in link.received:
            await taker.send(item)

    async def begin(self) -> None:
        """Wait until an eager link is open."""
        await super().begin()
        if self._link is not None:
            await self._link.begin()

    async def finish(self) -> None:
        """End gracefully: messages that peers send from now on are dropped and counted, the rest is confirmed first."""
        self.stopping = True
        await super().finish()

    async def _post_all(self) -> Flush:
        """Wait until everything is posted, messages that wait for their turn, too; return the mark behind it."""
        flush = await super()._post_all()
        while self._queue.statistics().current_buffer_used and not flush.abandoned:
            flush = await super()._post_all()
        return flush

    async def _close_peers(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._link is not None:
                nursery.start_soon(self._link.finish)
            await super()._close_peers()
        if self._link is not None:
            await self._link.ended.wait()

    def _abandon(self, holding: Iterable[Accepted]) -> None:
        """Count the events that are left as undelivered, also those that wait for the link, without those that it reported."""
        self._down.restrict(None)
        self._adopt_error()
        super()._abandon(self._unreported(holding))

    def _unreported(self, holding: Iterable[Accepted]) -> list[Accepted]:
        """Return the events that the link has not reported; count the others."""
        failed = {} if self._link is None else self._link.uplink.failed
        left: list[Accepted] = []
        for event in holding:
            reason = failed.pop(event.seq, None)
            if reason is None:
                left.append(event)
            else:
                self.ledger.failed(event, reason)
        return left

    # -- for the listener --------------------------------------------------------------------------------

    def inbox_for(self, peer: ServedPeer) -> Inbox:
        """Return an inbox whose messages wait for their turn, if the peer may send."""
        if not peer.peer.may_send:
            return self._dropping_inbox()
        turns = self._intake.clone(_EACH)
        return _PeerInbox(
            self._config.payload,
            _TurnTaker(self, turns, peer),
            self._acks,
            self.counters,
            self.peer_log,
            edit=self._edit(signed=True),
            turns=turns,
        )

    # -- messages on their way ----------------------------------------------------------------------------

    def _edit(self, *, signed: bool) -> Edit | None:
        """Return the function that edits each message of a peer (`signed`) or of the link; None if there is none."""
        return None if self._edits.nothing else partial(self._edited, signed=signed)

    def _edited(self, message: RawReceived, *, signed: bool) -> RawReceived | None:
        """Return a message as it is passed on; None, counted, if it is refused or its edit failed."""
        try:
            edited = self._edits.edited(message, signed=signed)
        except (CallableError, EventError) as error:
            self._drop(self.peer_log.error, message, "%s", str(error))
            return None
        except Exception as error:  # noqa: BLE001 - the application's, whatever it is
            # Its text may hold words of the peer.
            where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
            reason = f"on_message raised {type(error).__name__}\n{where}"
            self._drop(self.peer_log.error, message, "%s", reason)
            return None
        self.counters.dropped += edited is None
        return edited

    def _drop(self, log: Callable[..., object], message: Received, reason: str, *values: str) -> None:
        """Count a message that is not passed on, and log why; `reason` names the kind, of which few are logged."""
        self.counters.dropped += 1
        log(f"a message from %s was not passed on: {reason}", message.peer.address, *values)

    def accepted_from(self, source: ServedPeer | Uplink, item: RawReceived) -> Accepted | None:
        """Return a message as an event for all others; None, counted and logged, if it can't be passed on."""
        config = self._config
        if self.stopping:
            self.counters.dropped += 1
            return None
        try:
            if config.payload is not Payload.JSON:
                payload = self.encoder.event(item.event)
            elif config.delivery.stamp is None:
                payload = item.raw  # as it came
            else:  # as it came, with a stamp
                payload = self.encoder.event(JsonLine.joined(item.raw))
        except ValueError as error:
            self._drop(self.peer_log.warning, item, "%s", str(error))
            return None
        if len(payload) > config.max_message_size:
            self._drop(self.peer_log.warning, item, "it exceeds max-message-size")
            return None
        accepted = Accepted(payload, item.event, source=source)
        if self._cursor is not None:
            accepted.cursor = self._cursor.value_from(item.event)
        return accepted

    def _plain(self, event: Accepted) -> bytes:
        """Return an event as the link sends it, which has stamps of its own."""
        return event.payload if self._packer is None else self._packer.plain(event)

    def give_nowait(self, item: Received) -> bool:
        """Give a message to the application, if it asked for them; return false if there is no room."""
        if not self.receives:
            return True
        run = deque((item,))
        try:
            self.received.put_nowait(run)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.counters.dropped += 1
            return True
        return not run

    async def give(self, item: Received) -> None:
        """Give a message to the application, if it asked for them, waiting for room."""
        if self.receives:
            try:
                await self.received.put(deque((item,)))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.counters.dropped += 1
        else:
            await trio.lowlevel.checkpoint()

    # -- for Output -----------------------------------------------------------------------------------------

    def situation(self) -> str:
        """Return how many peers there are and how much they lack, and the link's state."""
        peers = super().situation()
        return peers if self._link is None else f"{peers}; {self._link.situation()}"

    def statistics(self) -> Statistics:
        """Return the figures of this moment, with those of the link."""
        figures = super().statistics()
        if self._link is None:
            return figures
        link = self._link.statistics()
        return evolve(
            figures,
            received=figures.received + link.received,
            dropped=figures.dropped + link.dropped,
            sent_bytes=figures.sent_bytes + link.sent_bytes,
            received_bytes=figures.received_bytes + link.received_bytes,
            heartbeat_misses=figures.heartbeat_misses + link.heartbeat_misses,
            unusable_cursors=figures.unusable_cursors + link.unusable_cursors,
            link=link.link,
        )


class _LinkTree(ClientTree):
    """The link. Events that it has not reported when it ends are in the relay's log, and the relay reports them."""

    def __init__(self, config: Config, hooks: Hooks, uplink: Uplink, edit: Edit | None) -> None:
        super().__init__(config, hooks, inbox=partial(RawInbox, edit=edit))
        self.uplink = uplink

    def _bound_waits(self, nursery: trio.Nursery) -> None:
        """Bound nothing: the relay itself takes the messages of the link."""

    def _abandon(self, holding: Iterable[Accepted]) -> None:
        self.uplink.end()
        self.ledger.abandon(self._unconfirmed(holding), self.end_reason)


@define(eq=False, weakref_slot=False)
class _PeerInbox(RawInbox):
    """An inbox whose messages are passed on once the sender has taken them.

    So every message that a peer may count as confirmed is on its way to the others. If the peer comes back before its
    earlier connection is found dead, it sends again exactly the messages that still wait, and none overtakes another.
    """

    _turns: SendingEnd[Item] = field(alias="turns", kw_only=True)

    async def passed_on_soon(self) -> bool:
        for _ in range(_TURNS):
            await trio.lowlevel.checkpoint()
            if not len(self._turns):
                return True
        return False

    async def wait_passed_on(self) -> None:
        await self._turns.wait_empty()


@define(eq=False, weakref_slot=False)
class _TurnTaker:
    """A `Taker` for the messages of one source: to the application if it asked, and to the sender in their turn."""

    _tree: RelayTree
    _turns: SendingEnd[Item]
    _source: ServedPeer | Uplink

    def put_nowait(self, run: deque[Received]) -> None:
        while run and len(self._turns) < _EACH and self._tree.give_nowait(run[0]):
            accepted = self._accepted(run.popleft())
            if accepted is not None:
                self._turns.send_nowait(accepted)
                self._tree.accepted += 1

    async def put(self, run: deque[Received]) -> None:
        while run:
            await self.send(run[0])
            del run[0]
            self.put_nowait(run)

    async def send(self, value: Received) -> None:
        await self._tree.give(value)
        accepted = self._accepted(value)
        if accepted is not None:
            await self._turns.send(accepted)
            self._tree.accepted += 1

    def end(self) -> None:
        """Do nothing: the relay's queue has other sources."""

    def _accepted(self, value: Received) -> Accepted | None:
        return self._tree.accepted_from(self._source, cast("RawReceived", value))  # this tree makes no others


def _link_config(config: Config) -> Config:
    """Return the link's part of a relay's configuration: that of a client whose batches end where the relay's do."""
    batch = config.batch
    if batch is not None:
        batch = evolve(batch, mode=BatchMode.DOCUMENT, fixed_size=None, timeout=inf)
    return evolve(config, mode=Mode.CLIENT, server=None, history=None, batch=batch)
