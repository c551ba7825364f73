"""Client mode: events go to one remote peer.

::

    client
    ├─ spool journal        where there is a spool: events → disk, many with one sync; then to the sender
    ├─ sender               events → batches → messages → window
    ├─ heartbeat            the deadlines of the connection: ping, warn, cut
    ├─ reconnect supervisor dial, serve, back off
    │  └─ connection
    │     ├─ writer         window → socket
    │     └─ reader         always drains; → received; pongs confirm
    └─ cursor saver         where there is a cursor: confirmed cursor → store
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio
from attrs import evolve

from trio_wsout._core.acknowledgement import AckReader
from trio_wsout._core.callables import CallableError, awaitable
from trio_wsout._core.delivery import DeliveryWindow
from trio_wsout._core.disconnection import Cause
from trio_wsout._core.link import Link, State
from trio_wsout._core.message import Accepted, Message, Refused
from trio_wsout._core.packing import Packer
from trio_wsout._core.request import Request, RequestError, build_request, files_named
from trio_wsout._core.statistics import LinkStatistics, SpoolStatistics, Statistics
from trio_wsout._modes.hooks import Hooks
from trio_wsout._modes.tree import Tree
from trio_wsout._tasks.backlog import Backlog
from trio_wsout._tasks.channel import ReceivingEnd
from trio_wsout._tasks.cursor_saver import CursorSaver
from trio_wsout._tasks.ledger import Item
from trio_wsout._tasks.outbox import Outbox
from trio_wsout._tasks.reader import Inbox, RawInbox
from trio_wsout._tasks.sender import LinkSender, Sender
from trio_wsout._tasks.spool_journal import SpoolJournal
from trio_wsout._tasks.supervisor import Supervisor
from trio_wsout._tasks.text_files import read_text_files
from trio_wsout._tasks.wakeup import cancel_when
from trio_wsout._wire.dial import Dialer
from trio_wsout._wire.frames import BINARY, TEXT
from trio_wsout._wire.tcp import AttemptFailed
from trio_wsout.config.sections import Config, ConnectMode, DeliveryLevel
from trio_wsout.config.templates import TemplateError
from trio_wsout.errors import ConnectError, SpoolError
from trio_wsout.stores.from_config import open_cursor_store, open_spool_store

__all__ = ["ClientTree"]

_log = logging.getLogger("trio_wsout")


class ClientTree(Tree):
    """The tree of one client output."""

    def __init__(self, config: Config, hooks: Hooks, *, inbox: Callable[..., Inbox] | None = None) -> None:
        """Make the tree, with the inbox that `inbox` makes; `run` brings it to life."""
        super().__init__(config, hooks)
        delivery = config.delivery
        self._epoch = time.time_ns() // 1_000_000
        self.link = Link(config.reconnect, refreshable=bool(hooks.token or hooks.headers), urls=config.urls)
        self.outbox = Outbox(
            DeliveryWindow(delivery, config.retry),
            config.retry.timeout,
            self.ledger,
            self.counters,
        )
        self.cursor_saver: CursorSaver | None = None
        self.ledger.on_confirmed = self._confirmed
        self._packer = Packer(config, self.encoder, epoch=self._epoch, resolve=self.resolve)
        self._acks: AckReader | None = None
        if delivery.level is DeliveryLevel.ACKED:
            self._acks = AckReader(delivery.ack_pointer, self._epoch)
        self.spool_journal: SpoolJournal | None = None
        self.sender = self._make_sender(config)
        self.inbox = self._make_inbox(inbox or (RawInbox if hooks.raw else Inbox))
        self._files = files_named(config)
        self._dialer = Dialer(
            config.tls,
            config.connect.proxy,
            config.heartbeat,
            config.max_message_size,
            TEXT if self.encoder.is_text else BINARY,
            hooks.open_stream,
        )
        self.supervisor = Supervisor(
            config.connect.timeout,
            config.heartbeat,
            self.link,
            self._dialer,
            self.outbox,
            self.inbox,
            self._make_request,
            hooks.drawn,
            hooks.on_state,
        )

    def _make_inbox(self, make: Callable[..., Inbox]) -> Inbox:
        """Return the inbox that `make` makes; end the received channel if the application takes no messages."""
        if not self._hooks.receive:
            self.received.end()
        received = self.received if self._hooks.receive else None
        return make(self._config.payload, received, self._acks, self.counters, self.peer_log)

    def _make_sender(self, config: Config) -> Sender[ReceivingEnd[Item]] | Sender[Backlog]:
        """Return the sender; if a spool is configured, make it, and put it before the sender."""
        packer, outbox, ledger, queue = self._packer, self.outbox, self.ledger, self._queue
        if config.spool is not None:
            store = self._hooks.spool or open_spool_store(config.spool, config.spool_bytes)
            backlog = Backlog(store, ledger, self._revive)
            self.entry = self.spool_journal = SpoolJournal(store, config.spool_bytes, ledger, backlog)
            self.waits_for_disk = True
            return Sender(packer, backlog, outbox, ledger)
        if packer.alone and config.delivery.stamp is None:
            return LinkSender(packer, queue, outbox, ledger, outbox.window)
        return Sender(packer, queue, outbox, ledger)

    # -- life -------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tree until it was closed by `finish`, broke, or is cancelled.

        Raises:
            CursorError: The stored cursor can't be read; no event was sent.
            SpoolError: The spool can't be used; no event was sent.
        """
        await self._open_cursor()
        await self._open_spool()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_when, self.ledger.broke, nursery.cancel_scope)
                nursery.start_soon(self.peer_log.run)
                if self.spool_journal is not None:
                    nursery.start_soon(self.spool_journal.run)
                nursery.start_soon(self.sender.run)
                self._bound_waits(nursery)
                if self.cursor_saver is not None:
                    nursery.start_soon(self.cursor_saver.run)
                if self._config.connect.mode is ConnectMode.EAGER or self._hooks.receive:
                    # An application that takes messages needs the link from the start, and may never send.
                    self.link.wanted()
                task_status.started()
                await self.supervisor.run()
                nursery.cancel_scope.cancel()
        finally:
            window = [accepted for message in self.outbox.window.drain() for accepted in message.events]
            self._abandon([*window, *self.sender.leftovers()])
            self.inbox.stop()
            self.link.close()
            if self.spool_journal is not None:
                with trio.CancelScope(shield=True):
                    await self.spool_journal.aclose()
            self.ended.set()
            self.supervisor.changed.unpark_all()

    async def begin(self) -> None:
        """Wait until an eager link is open.

        Raises:
            ConnectError: It did not open within ``connect.eager-timeout``, or gave up.
        """
        connect = self._config.connect
        if connect.mode is not ConnectMode.EAGER:
            await trio.lowlevel.checkpoint()
            return
        try:
            with trio.move_on_after(connect.eager_timeout):
                await self.wait_peers(1)
                return
        except trio.BrokenResourceError:
            if self.ledger.broken is not None:
                raise self.ledger.broken from None
            raise
        cause = self.supervisor.last_error or "the first attempt was still under way"
        message = f"no connection within connect.eager-timeout ({connect.eager_timeout:g} s): {cause}"
        raise ConnectError(message, attempts=self.link.failures, cause=cause)

    async def finish(self) -> None:
        """End gracefully: everything is confirmed or reported, the cursor saved, the link closed; then `run` returns."""
        if not self._hooks.to_the_end():
            self.inbox.stop()
        await self._end_document()
        await self.flush()
        if self.cursor_saver is not None:
            await self.cursor_saver.save()
        self.supervisor.close()

    def situation(self) -> str:
        """Return the link's state, its last trouble, and the confirmation that its peer never sent."""
        trouble, silence = self.supervisor.last_error, self.outbox.window.silence
        last = f", last trouble: {trouble}" if trouble else ""
        more = f"; {silence}" if silence and silence not in last else ""
        return f"the link is {self.link.state.value}{last}{more}"

    # -- for Output ---------------------------------------------------------------------------------------

    async def wait_peers(self, count: int) -> None:
        """Wait until the link is open; a lazy one dials for it. It has one peer at most."""
        if count > 1:
            raise ValueError("a link has one peer, never more")
        self.outbox.wanted.notify()
        await trio.lowlevel.checkpoint()
        while self.link.state is not State.OPEN:
            self.ledger.raise_if_broken()
            if self.ended.is_set() or self.link.state is State.CLOSED:
                raise trio.ClosedResourceError
            await self.supervisor.changed.park()

    def statistics(self) -> Statistics:
        """Return the figures of this moment."""
        outbox, supervisor, saver, spool = self.outbox, self.supervisor, self.cursor_saver, self.spool_journal
        connection, monitor = supervisor.connection, supervisor.monitor
        received = 0 if connection is None else connection.transport.received_bytes
        figures = self._common_statistics(pending=self.sender.pending)
        return evolve(
            figures,
            window=len(outbox.window),
            peers=0 if connection is None else 1,
            received_bytes=figures.received_bytes + received,
            heartbeat_misses=figures.heartbeat_misses + (0 if monitor is None else monitor.misses),
            link=LinkStatistics(
                state=self.link.state.value,
                url=self.link.shown_url,
                reconnects=self.link.reconnects,
                resent=outbox.window.resent,
                window_bytes=outbox.window.size,
                subprotocol=supervisor.subprotocol,
                cursor=None if saver is None else saver.value,
                without_cursor=self.counters.without_cursor,
                last_error=supervisor.last_error,
            ),
            spool=None
            if spool is None
            else SpoolStatistics(events=spool.events, bytes=spool.size, torn=spool.torn, waits=spool.waits),
        )

    def _confirmed(self, messages: Sequence[Message]) -> None:
        self.link.message_passed()
        if self.spool_journal is not None:
            self.spool_journal.confirmed(messages)
        if self.cursor_saver is not None:
            self.cursor_saver.confirmed(messages)

    # -- inside -------------------------------------------------------------------------------------------

    async def _open_cursor(self) -> None:
        cursor = self._config.cursor
        if cursor is None or self._cursor is None:
            return
        store = await open_cursor_store(cursor, url=self._config.urls[0])
        self.cursor_saver = CursorSaver(store, self.ledger, self.counters)
        await self.cursor_saver.load(cursor.initial_value, self._cursor)

    async def _open_spool(self) -> None:
        """Take the spool over. Numbers and stamps go on as they were, so that a receiver knows repeated events."""
        spool_journal = self.spool_journal
        if spool_journal is None:
            return
        found = await spool_journal.open(self._epoch)
        self._packer.go_on(found.epoch, found.settled)
        if self._acks is not None:
            self._acks.epoch = found.epoch
        self.accepted = found.last - found.settled
        self.ledger.on_failed = spool_journal.failed
        if found.torn:
            _log.warning(
                "spool %s: a torn end was cut off, of events that were not accepted", spool_journal.location
            )
        if self.accepted:
            _log.info("spool %s: %d events of an earlier run go first", spool_journal.location, self.accepted)

    def _revive(self, event: object) -> Accepted:
        """Encode an event of an earlier run; if this configuration can't send it, it is undelivered."""
        try:
            return self.encode(event, own=False)
        except ValueError as error:
            return Refused(b"", event, reason=str(error))

    def _abandon(self, holding: Iterable[Accepted]) -> None:
        """Count lost events as undelivered; if there is a spool, the events on disk stay there."""
        spool_journal = self.spool_journal
        if spool_journal is None:
            super()._abandon(holding)
            return
        count, broken, self.ledger.on_failed = spool_journal.events, self.ledger.broken, None
        reason = self.end_reason if broken is None else f"the output broke: {broken}"
        stay = f"in the spool at {spool_journal.location}"
        staying = f"{reason}; the event stays {stay} and goes first at the next start"
        lost = spool_journal.close(staying)
        self.ledger.keep(holding, staying)
        self.left = self.ledger.abandon(lost, reason)
        events = f"{count} accepted event{'' if count == 1 else 's'}"
        if broken is not None:
            broken.undelivered += tuple(self.left)
            if count and isinstance(broken, SpoolError):
                was = "was" if count == 1 else "were"
                broken.extend_message(
                    f"{events} {was} {stay}; what is still there goes first at the next start"
                )
            elif count:
                stays = "stays" if count == 1 else "stay"
                broken.extend_message(f"{events} {stays} {stay}, to go first at the next start")
        elif count:
            self.kept = f"{events} not confirmed: {reason}; what was not confirmed stays {stay} and goes first at the next start"

    def resolve(self, source: str, name: str | None) -> str | None:
        """Return the value of a ``${…}`` in this attempt; None if there is none."""
        match source:
            case "cursor":
                return None if self.cursor_saver is None else self.cursor_saver.value
            case "attempt":
                return str(self.link.attempt)
            case _:
                return super().resolve(source, name)

    async def _make_request(self) -> Request:
        """Make the opening handshake of this attempt, with fresh credentials from the application."""
        cursor = self._config.cursor
        resumes = cursor is not None and (cursor.resume_on_reconnect or not self.supervisor.opened)
        try:
            hooks = self._hooks
            headers = None if hooks.headers is None else await awaitable("headers", hooks.headers())
            token = None if hooks.token is None else await awaitable("token", hooks.token())
        except CallableError as error:
            raise AttemptFailed(Cause.CALLABLE, str(error)) from None
        except Exception as error:
            detail = f"the application's headers or token callable raised {type(error).__name__}"
            raise AttemptFailed(Cause.REQUEST, detail) from error
        files: Mapping[str, str | TemplateError | None] = {}
        if self._files:
            self._dialer.stage = "the files that the configuration names"
            files = await read_text_files(self._files)

        def resolve(source: str, name: str | None) -> str | None:
            if source != "file":
                return self.resolve(source, name)
            text = files[name or ""]
            if isinstance(text, TemplateError):
                raise text
            return text

        try:
            return build_request(
                self._config,
                url=self.link.url,
                resolve=resolve,
                cursor=self.cursor_saver.value if self.cursor_saver is not None and resumes else None,
                headers=headers,
                token=token,
            )
        except RequestError as error:
            raise AttemptFailed(Cause.REQUEST, str(error)) from None
        except (TypeError, AttributeError) as error:
            detail = "the application's headers, token or secrets callable returned something that is no text"
            raise AttemptFailed(Cause.REQUEST, detail) from error
