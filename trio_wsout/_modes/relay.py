"""Mode relay: peers to peers, and both ways with the link where there is a `url`.

::

    relay
    ├─ sender     events of the application, the peers and the link, in turns → the log that all peers read
    ├─ journal    where there is a history: messages → history → the log
    ├─ watch      the deadlines of all peers
    ├─ listener   accept → handshake → admit, each peer in a guarded nursery
    │  └─ peer
    │     ├─ fan-out  history, then the log without its own → one joined write per wake-up
    │     └─ reader   messages → its turn at the sender; → received
    └─ link       client mode's own tree, where there is a url
       ├─ uplink    the log without what came down → the link
       └─ downlink  what comes down → its turn at the sender; → received
"""

from __future__ import annotations

import traceback
from collections import deque
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio
from attrs import evolve

from trio_wsout._core.callables import CallableError
from trio_wsout._core.edits import Edits
from trio_wsout._core.json_line import JsonLine
from trio_wsout._core.message import Accepted
from trio_wsout._core.received import RawReceived, Received
from trio_wsout._modes.client import ClientTree
from trio_wsout._modes.server import ServerTree
from trio_wsout._tasks.fair_queue import FairQueue, FairSender
from trio_wsout._tasks.reader import Inbox
from trio_wsout._tasks.uplink import Uplink
from trio_wsout.config.sections import BatchMode, Mode, Payload
from trio_wsout.errors import EventError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trio_wsout._core.acknowledgement import AckReader
    from trio_wsout._core.received import Peer
    from trio_wsout._core.statistics import Counters, Statistics
    from trio_wsout._modes.hooks import Hooks
    from trio_wsout._tasks.ledger import Flush
    from trio_wsout._tasks.reader import Taking
    from trio_wsout._tasks.sender import Source
    from trio_wsout._tasks.served_peer import ServedPeer
    from trio_wsout._wire.peer_log import PeerLog
    from trio_wsout.config.sections import Config, Server

    Edit = Callable[[RawReceived], RawReceived | None]

__all__ = ["RelayTree"]

_APPLICATION = 256
"""Events of the application that wait for their turn."""
_EACH = 64
"""Messages of one peer, or of the link, that wait for their turn."""
_TURNS = 2
"""Turns of other tasks after which the sender has surely had one."""


class RelayTree(ServerTree):
    """The tree of one relay."""

    def __init__(self, config: Config, server: Server, hooks: Hooks) -> None:
        """Make the tree; `run` brings it to life."""
        super().__init__(config, server, hooks)
        self._queue = FairQueue()
        self.stopping = False
        """Whether nothing is passed on any more."""
        self.intake = self._queue.source(_APPLICATION)
        self._down = self._queue.source(_EACH)
        self._taking = self._queue
        self._link: ClientTree | None = None
        self._taken_over = False
        self._edits = Edits(
            config.payload, None if config.server is None else config.server.sender_field, hooks.on_message
        )
        if config.url is not None:
            uplink = Uplink(self.fan_out.log, self._plain, self.fan_out.settle, self._queue.notify)
            self._link = _LinkTree(
                _link_config(config), evolve(hooks, receive=True), uplink, self._edit(signed=False)
            )
            self.fan_out.uplink = uplink
            # What comes down goes on: behind it lie the pongs for what went up, and so the uplink's room.
            self._queue.hold(lambda: uplink.full, but=self._down)
        if not hooks.receive:
            self._giving.end()

    # -- life -------------------------------------------------------------------------------------------

    def _source(self) -> Source:
        return self._queue

    async def _start_tasks(self, nursery: trio.Nursery) -> None:
        """Start sender and archive, and the link with both ways."""
        await super()._start_tasks(nursery)
        self._bound_waits(nursery)
        link, uplink = self._link, self.fan_out.uplink
        if link is not None and uplink is not None:
            await nursery.start(link.run)
            nursery.start_soon(self._break_with, link)
            nursery.start_soon(uplink.run, link.intake)
            nursery.start_soon(self._take_down, link, uplink)

    def _abandon(self, holding: Iterable[Accepted]) -> None:
        """Also what waits while the link is full is undelivered; what the link reported is, and is not told again."""
        self._queue.hold_nothing()
        self._take_over()
        super()._abandon(self._untold(holding))

    def _untold(self, holding: Iterable[Accepted]) -> list[Accepted]:
        """What the link has not reported; the rest is counted."""
        told = {} if self.fan_out.uplink is None else self.fan_out.uplink.failed
        left: list[Accepted] = []
        for event in holding:
            reason = told.pop(event.seq, None)
            if reason is None:
                left.append(event)
            else:
                self.ledger.failed(event, reason)
        return left

    async def _break_with(self, link: ClientTree) -> None:
        """A link that broke breaks the relay, and says what of its events it had reported."""
        await link.ledger.broke.wait()
        await link.ended.wait()
        self._take_over()

    def _take_over(self) -> None:
        """Be broken by what broke the link, if anything did; once, for then it says what it says twice."""
        error = None if self._link is None else self._link.ledger.broken
        if error is not None and not self._taken_over:
            self._taken_over = True
            self.ledger.break_with(error)

    async def _take_down(self, link: ClientTree, uplink: Uplink) -> None:
        """Give to every peer what comes down the link."""
        turns = _TurnTaking(self, self._down, uplink)
        async for item in link.received:
            await turns.send(item)

    async def begin(self) -> None:
        """Wait until an eager link is open."""
        if self._link is not None:
            await self._link.begin()
        else:
            await trio.lowlevel.checkpoint()

    async def finish(self) -> None:
        """End gracefully: what peers send from now on is dropped and counted, the rest is confirmed first."""
        self.stopping = True
        self.listener.stop()
        await super().finish()

    async def _post_all(self) -> Flush:
        """Have also what waits for its turn posted."""
        flush = await super()._post_all()
        while len(self._queue) and not flush.abandoned:
            flush = await super()._post_all()
        return flush

    async def _part(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._link is not None:
                nursery.start_soon(self._link.finish)
            await super()._part()
        if self._link is not None:
            await self._link.ended.wait()

    # -- Host ---------------------------------------------------------------------------------------------

    def inbox_for(self, peer: ServedPeer) -> Inbox:
        """What a peer that may send sends waits for its turn."""
        if not peer.peer.may_send:
            return self._deaf_inbox()
        turns = self._queue.source(_EACH)
        taking = _TurnTaking(self, turns, peer)
        edit = self._edit(signed=True)
        return _PeerInbox(
            turns,
            self._config.payload,
            taking,
            self._acks,
            edit=edit,
            counters=self.counters,
            peer_log=self.peer_log,
        )

    def _edit(self, *, signed: bool) -> Edit | None:
        """What is done to each message of a peer (`signed`) or of the link; None: nothing."""
        return None if self._edits.nothing else partial(self._edited, signed=signed)

    def _edited(self, message: RawReceived, *, signed: bool) -> RawReceived | None:
        """The message as it is passed on; None, counted, if it is refused or its edit failed."""
        edited: RawReceived | None = None
        try:
            edited = self._edits.edited(message, signed=signed)
        except (CallableError, EventError) as error:
            self._tell_refused(message.peer, str(error))
        except Exception as error:  # noqa: BLE001 - the application's, whatever it is
            # Its text may hold what the peer sent.
            where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
            self._tell_refused(message.peer, f"on_message raised {type(error).__name__}\n{where}")
        self.counters.dropped += edited is None
        return edited

    def _tell_refused(self, peer: Peer, reason: str) -> None:
        self.peer_log.error("a message from %s was not passed on: %s", peer.address, reason)

    def accepted_from(self, source: ServedPeer | Uplink, item: RawReceived) -> Accepted | None:
        """A message as an event that all others get; None, counted and logged: it can't be passed on."""
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
            self.counters.dropped += 1
            self.peer_log.warning("a message from %s was not passed on: %s", item.peer.address, error)
            return None
        if len(payload) > config.max_message_size:
            self.counters.dropped += 1
            self.peer_log.warning(
                "a message from %s was not passed on: it exceeds max-message-size", item.peer.address
            )
            return None
        accepted = Accepted(payload, item.event, source=source)
        if self._cursor is not None:
            accepted.cursor = self._cursor.value_from(item.event)
        return accepted

    def _plain(self, event: Accepted) -> bytes:
        """An event as the link sends it, which has stamps of its own."""
        return event.payload if self._packer is None else self._packer.plain(event)

    def application_takes_nowait(self, item: Received) -> bool:
        """Give a message to the application, if it asked; False: there is no room."""
        if not self.receives:
            return True
        run = deque((item,))
        try:
            self._giving.put_nowait(run)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.counters.dropped += 1
            return True
        return not run

    async def application_takes(self, item: Received) -> None:
        """Give a message to the application, if it asked; waits for room."""
        if self.receives:
            try:
                await self._giving.put(deque((item,)))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.counters.dropped += 1
        else:
            await trio.lowlevel.checkpoint()

    # -- for Output -----------------------------------------------------------------------------------------

    def whereabouts(self) -> str:
        """The peers, and the link."""
        peers = super().whereabouts()
        return peers if self._link is None else f"{peers}; {self._link.whereabouts()}"

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
    """The link. What it has not reported while it lived is the relay's to tell, which has it in its log."""

    def __init__(self, config: Config, hooks: Hooks, uplink: Uplink, edit: Edit | None) -> None:
        super().__init__(config, hooks, inbox=partial(_RelayInbox, edit=edit))
        self._uplink = uplink

    def _bound_waits(self, nursery: trio.Nursery) -> None:
        """The relay itself takes what comes down."""

    def _abandon(self, holding: Iterable[Accepted]) -> None:
        self._uplink.end()
        self.ledger.abandon(self._unconfirmed(holding), self.end_reason)


class _RelayInbox(Inbox):
    """Keeps the bytes of what it decodes, and drops what is refused."""

    def __init__(
        self,
        payload: Payload,
        channel: Taking | None,
        acks: AckReader | None,
        *,
        edit: Edit | None,
        counters: Counters,
        peer_log: PeerLog,
    ) -> None:
        """Decode for `channel`; `edit` returns what is passed on of a message, None if there is nothing to do."""
        super().__init__(payload, channel, acks, counters=counters, peer_log=peer_log)
        self._edit = edit

    def items(self, messages: Sequence[str | bytes], peer: Peer) -> list[Received]:
        items: list[Received] = []
        edit = self._edit
        for message in messages:
            raw = message.encode() if isinstance(message, str) else message
            relayed = [RawReceived(item.event, peer, raw) for item in super().items((message,), peer)]
            items += relayed if edit is None else filter(None, map(edit, relayed))
        return items


class _PeerInbox(_RelayInbox):
    """Settled when the sender has taken everything.

    So what a peer may take for confirmed is on its way to the others. When the peer comes back before its earlier
    connection is found dead, what still waits from that is what it sends again, and nothing is overtaken.
    """

    def __init__(
        self,
        turns: FairSender,
        payload: Payload,
        channel: Taking,
        acks: AckReader | None,
        *,
        edit: Edit | None,
        counters: Counters,
        peer_log: PeerLog,
    ) -> None:
        super().__init__(payload, channel, acks, edit=edit, counters=counters, peer_log=peer_log)
        self._turns = turns

    async def settled_soon(self) -> bool:
        for _ in range(_TURNS):
            await trio.lowlevel.checkpoint()
            if not self._turns.waiting:
                return True
        return False

    async def wait_settled(self) -> None:
        await self._turns.wait_taken()


class _TurnTaking:
    """Where one source's messages go: to the application if it asked, and to the sender in their turn."""

    def __init__(self, tree: RelayTree, turns: FairSender, source: ServedPeer | Uplink) -> None:
        self._tree = tree
        self._turns = turns
        self._source = source

    def put_nowait(self, run: deque[Received]) -> None:
        while run and not self._turns.full and self._tree.application_takes_nowait(run[0]):
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
        await self._tree.application_takes(value)
        accepted = self._accepted(value)
        if accepted is not None:
            await self._turns.send(accepted)
            self._tree.accepted += 1

    def end(self) -> None:
        """The relay's queue has other sources."""

    def _accepted(self, value: Received) -> Accepted | None:
        assert isinstance(value, RawReceived)  # noqa: S101 - this tree makes no others
        return self._tree.accepted_from(self._source, value)


def _link_config(config: Config) -> Config:
    """The link's part of a relay's configuration: a client's, whose batches end where the relay's do."""
    batch = config.batch
    if batch is not None:
        batch = evolve(batch, mode=BatchMode.DOCUMENT, fixed_size=None, timeout=inf)
    return evolve(config, mode=Mode.CLIENT, server=None, history=None, batch=batch)
