"""The exchange of a relay: messages of each peer, and of the link, go to all others; the sources take turns."""

import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import cast

import trio
from attrs import define, field

from trio_wsout._core.acknowledgement import AckReader
from trio_wsout._core.batching import Document
from trio_wsout._core.callables import CallableError
from trio_wsout._core.cursor import ReceivedCursor
from trio_wsout._core.edits import Edits
from trio_wsout._core.json_line import JsonLine
from trio_wsout._core.message import Accepted
from trio_wsout._core.received import RawReceived, Received
from trio_wsout._core.resend import LinkSubscription
from trio_wsout._modes.common import Common
from trio_wsout._modes.spooled import Spooled
from trio_wsout._tasks.channel import SendingEnd
from trio_wsout._tasks.inbox import Inbox, RawInbox
from trio_wsout._tasks.ledger import Item, Mark
from trio_wsout._tasks.session import Session
from trio_wsout._tasks.uncommitted import DiskSource
from trio_wsout.config.sections import Payload, Server
from trio_wsout.errors import EventError

_EACH = 64
"""Messages of one peer, or of the link, that wait for their turn."""
_LEFT = 1024
"""Messages that peers may leave behind in their turns before those of peers that come, or have none there, must wait."""
_TURNS = 2
"""Turns of other tasks after which the sender has surely had one."""


class Exchange:
    """Passes messages on between the peers of a relay, its link, and the application."""

    def __init__(
        self, common: Common, server: Server, spooled: Spooled | None = None, *, shared: bool = False
    ) -> None:
        """Pass messages on, edited as the configuration and ``on_message`` say; those that go up, by way of a spool if there is one.

        `shared` is whether several outputs share the history.
        """
        self._shared = shared
        self._common = common
        self._spooled = spooled
        self.stopping = False
        """Whether nothing is passed on any more, so that no ping behind what comes is answered."""
        self._left: list[SendingEnd[Item] | DiskSource] = []
        """Sources of peers that left while messages of theirs waited for their turn, the oldest first."""
        self._edits = Edits(common.config.payload, server.sender_field, common.hooks.on_message)

    def inbox_of_peer(self, peer: Session) -> Inbox:
        """Return an inbox whose messages wait for their turn, if the peer may send; else one that drops them."""
        common, spooled = self._common, self._spooled
        if not peer.peer.may_send:
            return common.inbox()
        turns = (common.entry if spooled is None else spooled.entry).clone(_EACH)
        return self._inbox(peer, turns, common.acks)

    def inbox_of_link(self, link: LinkSubscription) -> Inbox:
        """Return the inbox of the link, whose messages wait for their turn."""
        common, acks = self._common, self._common.acks
        turns = common.entry.clone(_EACH)
        if self._spooled is None:
            # While the link has no room, messages from it are taken nevertheless: behind them lie pongs that make room.
            # What is too old needs no room: it has its turn, to be let go.
            turns.restrict(lambda: link.full, self._too_old_at if common.ages else None)
        else:
            acks = self._spooled.up.acks
        return self._inbox(link, turns, acks, common.follower)

    def _too_old_at(self, item: Item) -> float:
        """Return the time from which an item is too old for the link; a mark waits for no room."""
        return self._common.fan_out.log.expiry(item) if isinstance(item, Accepted) else -inf

    def _inbox(
        self,
        source: Session | LinkSubscription,
        turns: SendingEnd[Item] | DiskSource,
        acks: AckReader | None,
        follower: ReceivedCursor | None = None,
    ) -> Inbox:
        common = self._common
        passing = _TurnTaker(self, common, turns, source, follower)
        return _TurnInbox(
            common.config.payload,
            passing,
            acks,
            common.counters,
            common.peer_log,
            edit=None if self._edits.nothing else partial(self._edited, source),
            exchange=self,
            turns=turns,
            shared=self._shared,
            passing=passing,
        )

    def left(self, turns: SendingEnd[Item] | DiskSource) -> None:
        """Count the messages that a peer leaves behind."""
        if len(turns):
            self._left.append(turns)

    def crowd(self) -> SendingEnd[Item] | DiskSource | None:
        """Return a source whose messages must be gone before a peer of which none wait has a turn; None if it need not wait.

        So peers that come, leave messages and go, again and again, fill no memory while nothing can be passed on.
        """
        if not self._left:
            return None
        self._left = [each for each in self._left if len(each)]
        # The last one: when that is empty, the others have had as many turns, so that few who wait are woken in vain.
        return self._left[-1] if sum(map(len, self._left)) >= _LEFT else None

    # -- messages on their way ----------------------------------------------------------------------------

    def _edited(self, source: Session | LinkSubscription, message: RawReceived) -> RawReceived | None:
        """Return a message as it is passed on; None, counted, if it is refused or its edit failed.

        It is refused, too, if the edit of one before it in the same read sent the peer away.
        """
        log, signed = self._common.peer_log.error, isinstance(source, Session)
        if isinstance(source, Session) and source.dismissed:
            self._common.counters.dropped += 1
            return None
        try:
            edited = self._edits.edited(message, signed=signed)
        except (CallableError, EventError) as error:
            self._drop(log, message, "%s", str(error))
            return None
        except Exception as error:  # noqa: BLE001 - the application's, whatever it is
            # Its text may hold words of the peer.
            where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
            self._drop(log, message, "%s", f"on_message raised {type(error).__name__}\n{where}")
            return None
        self._common.counters.dropped += edited is None
        return edited

    def _drop(self, log: Callable[..., object], message: Received, reason: str, *values: str) -> None:
        """Count a message that is not passed on, and log why; `reason` names the kind, of which few are logged."""
        self._common.counters.dropped += 1
        log(f"a message from %s was not passed on: {reason}", message.peer.address, *values)

    def accepted_from(
        self, source: Session | LinkSubscription, item: RawReceived, follower: ReceivedCursor | None
    ) -> Accepted | None:
        """Return a message as an event for all others; None, counted and logged, if it can't be passed on.

        `follower` moves its cursor to the message once the event is confirmed.

        Raises:
            trio.ClosedResourceError: Nothing is passed on any more.
        """
        common = self._common
        if self.stopping:
            raise trio.ClosedResourceError
        log = common.peer_log.warning
        try:
            payload = self._payload_of(item)
        except ValueError as error:
            self._drop(log, item, "%s", str(error))
            return None
        if len(payload) > common.config.max_message_size:
            self._drop(log, item, "it exceeds max-message-size")
            return None
        accepted = Accepted(payload, item.event, source=source)
        if common.ages:
            accepted.at = trio.current_time()
        if follower is not None:
            value = follower.value_of(item)
            if isinstance(value, str):
                accepted.cursor, accepted.fate = value, _PassedOn(follower, value)
        elif common.cursor is not None:
            accepted.cursor = common.cursor.value_from(item.event)
        return accepted

    def _payload_of(self, item: RawReceived) -> bytes:
        config, encoder = self._common.config, self._common.encoder
        if config.payload is not Payload.JSON:
            return encoder.event(item.event)
        if config.delivery.stamp is None:
            return item.raw  # as it came
        return encoder.event(JsonLine.joined(item.raw))  # as it came, with a stamp


@define(eq=False, weakref_slot=False)
class _TurnInbox(RawInbox):
    """The inbox of a source, whose messages are passed on once the sender has taken them, or a spool has them on disk.

    Where several outputs share the history, they are passed on when they have come round in it: a mark behind them tells.

    So every message that the other end may count as confirmed is on its way to the others. If a peer comes back before its
    earlier connection is found dead, it sends again exactly the messages that still wait, and none overtakes another.

    The sender takes them whatever the link confirms: it waits for peers only, each at most `slow-peer-timeout`.
    So pongs that lie behind a ping here are read in the end.
    """

    _exchange: Exchange = field(alias="exchange", kw_only=True)
    _turns: SendingEnd[Item] | DiskSource = field(alias="turns", kw_only=True)
    _shared: bool = field(alias="shared", kw_only=True)
    """Whether several outputs share the history."""
    _passing: "_TurnTaker" = field(alias="passing", kw_only=True)

    async def passed_on_soon(self) -> bool:
        for _ in range(_TURNS):
            await trio.lowlevel.checkpoint()
            if not len(self._turns):
                return not (self._shared and self._passing.unmarked)
        return False

    async def wait_passed_on(self) -> None:
        if not self._shared or isinstance(self._turns, DiskSource):
            await self._turns.wait_empty()
            return
        mark = Mark()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the output has ended
            await self._turns.send(mark)
            await mark.passed.wait()
            self._passing.unmarked = mark.abandoned
        if self._passing.unmarked:
            await trio.sleep_forever()  # the peer must not count them as confirmed

    def left(self) -> None:
        self._exchange.left(self._turns)


@define(eq=False, weakref_slot=False)
class _TurnTaker:
    """A `Taker` for the messages of one source: to the application if it asked, and to the sender in their turn."""

    _exchange: Exchange
    _common: Common
    _turns: SendingEnd[Item] | DiskSource
    _source: Session | LinkSubscription
    _follower: ReceivedCursor | None = None
    _given: bool = field(default=False, init=False)
    """Whether the application has the run of which a rest waits for its turn."""
    unmarked: bool = field(default=False, init=False)
    """Whether messages were passed on behind the latest mark that was reached."""

    def put_nowait(self, run: deque[Received]) -> None:
        if self._given or self._give_nowait(run):
            self._pass_on(run)
            self._given = bool(run)

    async def put(self, run: deque[Received]) -> None:
        try:
            if not self._given:
                await self._give(run)
            while run:
                while (crowd := self._crowd()) is not None:
                    await crowd.wait_empty()
                accepted = self._accepted(run[0])
                if accepted is not None:
                    await self._turns.send(accepted)
                    self._passed_on(accepted)
                del run[0]
                self._pass_on(run)
        finally:
            self._given = False

    def _give_nowait(self, run: deque[Received]) -> bool:
        """Give messages to the application, if it asked for them; return false if there is no room.

        If it closed its end, they are counted, and only passed on.

        Raises:
            trio.ClosedResourceError: The output ends.
        """
        if not self._common.receives:
            return True
        copy = run.copy()
        try:
            self._common.received.put_nowait(copy)
        except trio.BrokenResourceError:
            self._common.counters.dropped += len(run)
            return True
        return not copy

    async def _give(self, run: deque[Received]) -> None:
        """Give messages to the application as `_give_nowait` does, waiting for room."""
        try:
            await self._common.received.put(run.copy())
        except trio.BrokenResourceError:
            self._common.counters.dropped += len(run)

    def _pass_on(self, run: deque[Received]) -> None:
        """Pass messages on for which there is room."""
        while run and len(self._turns) < _EACH and self._crowd() is None:
            accepted = self._accepted(run[0])
            if accepted is not None:
                self._turns.send_nowait(accepted)
                self._passed_on(accepted)
            run.popleft()

    def _crowd(self) -> SendingEnd[Item] | DiskSource | None:
        """Return the source to wait for; None for the link, because behind its messages lie pongs that make room."""
        return (
            None if len(self._turns) or isinstance(self._source, LinkSubscription) else self._exchange.crowd()
        )

    def _passed_on(self, accepted: Accepted) -> None:
        """Count an event that is in the queue, and move the cursor that follows it."""
        self.unmarked = True
        self._common.counters.accepted += 1
        self._common.counters.came_down += isinstance(self._source, LinkSubscription)
        if self._follower is not None and accepted.cursor is not None:
            self._follower.queued = accepted.cursor

    def _accepted(self, value: Received) -> Accepted | None:
        # This tree makes no other messages than raw ones.
        return self._exchange.accepted_from(self._source, cast("RawReceived", value), self._follower)


@define(eq=False)
class _PassedOn:
    """The `Fate` of a message of the link."""

    _follower: ReceivedCursor
    _cursor: str

    def confirmed(self, document: Document | None) -> None:
        del document
        self._follower.on_moved(self._cursor)

    def failed(self, reason: str) -> None:
        """Do nothing: the cursor moves with the next message."""
