"""`open_output` and `Output`: the way in. It makes the tree of the mode, and has no policy of its own."""

import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import trio

from trio_wsout._core.admission import Admit, Deny, Handshake, check_until, expires_at
from trio_wsout._core.close_codes import NORMAL, check_close
from trio_wsout._core.link import LinkChange
from trio_wsout._core.message import Accepted
from trio_wsout._core.received import Peer, Received
from trio_wsout._core.statistics import PeerStatistics, Statistics
from trio_wsout._modes.hooks import Hooks
from trio_wsout._modes.modes import make_tree
from trio_wsout._modes.tree import Tree
from trio_wsout._tasks.ledger import Mark, Receipt
from trio_wsout._tasks.received_channel import ReceivedChannel
from trio_wsout._wire.proxy import check_proxy
from trio_wsout._wire.tls import check_tls
from trio_wsout.config.loading import load_config, verify_config
from trio_wsout.config.sections import BatchMode, Config, CursorFrom, Mode
from trio_wsout.config.validation import NO_SHARED_LINK
from trio_wsout.errors import ConfigError, DeliveryError, OutputError, Problem, Undelivered, count
from trio_wsout.stores.log import LogStore, SharedLog

__all__ = ["Output", "open_output", "open_with_hooks"]

_log = logging.getLogger("trio_wsout")


class Output(trio.abc.SendChannel[Any]):
    """Takes events for delivery; made by `open_output`. Any number of tasks may send."""

    def __init__(self, tree: Tree, config: Config) -> None:
        self._tree = tree
        self._config = config
        self._closed = False
        # Every event needs these, so they are looked up once.
        self._ledger = tree.ledger
        self._counters = tree.counters
        self._encode = tree.encode
        self._waits = tree.waits_for_disk
        self._offer = tree.entry.send_nowait

    # -- sending ----------------------------------------------------------------------------------------

    async def send(self, value: object) -> None:
        """Accept an event, any JSON value; waits while the buffer is full.

        It always is a cancellation point; other tasks run at least once in 256 sends, because no more fit into the
        buffer.

        Raises:
            EventError: The event can't be encoded or is too large; the message names the path in it.
            trio.ClosedResourceError: The output was closed.
            trio.BrokenResourceError: The output broke; the cause of this exception is the reason.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        # Called as `self._encode(value)`, Python would search the class for it first (as in `Tree`).
        encode = self._encode
        item = encode(value)
        if self._waits or not self._try_put(item):
            await self._put(item)

    def send_nowait(self, event: object) -> None:
        """Accept an event if there is room; raises as `send` does.

        Raises:
            trio.WouldBlock: The buffer is full; the event was not accepted.
        """
        if not self._try_put(self._encode(event)):
            raise trio.WouldBlock

    async def submit(self, event: object) -> Receipt:
        """Accept an event as `send` does, and return a receipt, to wait for its fate."""
        await trio.lowlevel.checkpoint_if_cancelled()
        receipt = Receipt((event,), self._tree.bounding)
        item = self._encode(event, receipt)
        if self._waits or not self._try_put(item):
            await self._put(item)
        return receipt

    async def end_document(self) -> Receipt:
        """End the document (batch.mode: document), and send its last part now. The end of the output ends it, too.

        Returns:
            A receipt of the end. It settles when every event accepted before is confirmed or was reported as
            undelivered. Where documents are marked, its `document` is the marker of the last part: one with `count` 0
            if all events had been sent before, or None if there was no event since the last end.

        Raises:
            ValueError: The output has no document batches.
        """
        batch = self._config.batch
        if batch is None or batch.mode is not BatchMode.DOCUMENT:
            raise ValueError("end_document() needs batch.mode: document")
        await trio.lowlevel.checkpoint_if_cancelled()
        receipt = Receipt((), self._tree.bounding)
        await self._put(Mark(receipt, ends_document=True))
        return receipt

    async def flush(self) -> None:
        """Wait until everything accepted so far is confirmed, or was reported as undelivered.

        The open batch is sent immediately.

        Raises:
            DeliveryError: Nothing was taken from `received` for `retry.timeout`: so nothing is read, and no
                confirmation is seen. No event is lost by that; `undelivered` is empty.
            trio.BrokenResourceError: The output broke; the cause of this exception is the reason.
            trio.ClosedResourceError: The output was closed.
        """
        self._check_open()
        bounding = self._tree.bounding
        with nullcontext() if bounding is None else bounding.bounded():
            settled = await self._tree.flush()
        self._tree.ledger.raise_if_broken()
        if not settled:
            self._raise_ended()

    # -- the link ---------------------------------------------------------------------------------------

    async def wait_connected(self) -> None:
        """Wait until the link is open, for which a lazy one dials, or until a listener has a peer.

        Raises:
            trio.BrokenResourceError: The link gave up; the cause is the ConnectError.
            trio.ClosedResourceError: The output was closed.
        """
        self._check_open()
        await self._tree.wait_peers(1)

    async def wait_peers(self, count: int) -> None:
        """Wait until so many peers are connected at the same time; raises as `wait_connected` does.

        Raises:
            ValueError: Mode client, and `count` is more than one.
        """
        self._check_open()
        await self._tree.wait_peers(count)

    @property
    def received(self) -> ReceivedChannel:
        """The channel of received messages, which ends with the output.

        Raises:
            RuntimeError: The output was opened without ``receive=True``.
        """
        if not self._tree.receives:
            raise RuntimeError(
                "received messages are dropped: ask for them with open_output(…, receive=True)"
            )
        return self._tree.received.channel

    def peers(self) -> dict[Peer, PeerStatistics]:
        """Return the connections that are open at this moment, in the order in which they opened, each with its figures.

        A `Peer` stands for one connection: `Received.peer` has the same one.
        It takes a few microseconds a connection, and nothing while nobody asks.
        """
        return self._tree.peer_statistics()

    def disconnect(self, peer: Peer, code: int, reason: str = "") -> bool:
        """Close the connection of one peer with this Close; this doesn't wait.

        The Close is written behind what is being written. If the peer doesn't answer it within five seconds, the connection
        is cut. From now on nothing is sent to the peer, and nothing waits for its confirmations. Messages that still come from it
        are dropped and counted, and no ping behind them is answered, so that it counts none of them as delivered.

        Args:
            peer: The peer, from `peers` or `Received.peer`.
            code: The close code (RFC 6455 section 7.4): 1000 to 1003, 1007 to 1013, or 3000 to 4999. It decides whether the
                peer comes back: a client of this library gives up after 3500 to 3999 and 4500 to 4999.
            reason: A text for the peer, of at most 123 bytes in UTF-8.

        Returns:
            Whether it is closed by this call; false if it is gone, or is being closed already.

        Raises:
            TypeError: `peer` is no `Peer`.
            ValueError: No Close can have this code or reason; or it is the peer of a link, which this side dialled.
        """
        check_close(code, reason)
        session = self._tree.session_of(peer)
        if session is None:
            return False
        session.dismiss(code, reason)
        return True

    def renew(self, peer: Peer, until: float | None) -> bool:
        """Keep a peer until another time than `Admit.until` said, or the latest call; then it is closed with 4401.

        Args:
            peer: The peer, from `peers` or `Received.peer`.
            until: The time in seconds since 1970; None for ever. A time that is over closes the peer now.

        Returns:
            Whether it is connected; false if it is gone, or is being closed already.

        Raises:
            TypeError: `peer` is no `Peer`.
            ValueError: `until` is no such time; or it is the peer of a link, which this side dialled.
        """
        check_until(until)
        session = self._tree.session_of(peer)
        if session is None:
            return False
        session.renew(expires_at(until, trio.current_time(), time.time()))
        return True

    def statistics(self) -> Statistics:
        """Return a frozen snapshot of the figures; cheap, and allowed at any time."""
        return self._tree.statistics()

    async def aclose(self, code: int | None = None, reason: str = "") -> None:
        """Accept no more events. Those accepted so far are still delivered, when the block is left.

        Args:
            code: The code of the Close that all peers, and the server of a link, get then. None: 1000 from a link, and 1001
                from a listener.
            reason: A text for them, of at most 123 bytes in UTF-8. The first call that names a code or a reason counts.

        Raises:
            ValueError: No Close can have this code or reason.
        """
        check_close(NORMAL if code is None else code, reason)
        self._closed = True
        self._tree.common.fan_out.end_with(code, reason)
        await trio.lowlevel.checkpoint()

    # -- inside -----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        self._tree.ledger.raise_if_broken()
        if self._closed:
            raise trio.ClosedResourceError("the output was closed")

    def _try_put(self, item: Accepted) -> bool:
        """Accept an event if there is room; return whether it was accepted."""
        if self._closed or self._ledger.broken is not None:
            self._check_open()
        offer = self._offer
        try:
            offer(item)
        except trio.WouldBlock:
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._raise_ended()
        self._counters.accepted += 1
        return True

    async def _put(self, item: Accepted | Mark) -> None:  # noqa: ASYNC910 - send is a checkpoint
        self._check_open()
        try:
            await self._tree.entry.send(item)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._raise_ended()
        self._counters.accepted += isinstance(item, Accepted)

    def _raise_ended(self) -> None:
        self._tree.ledger.raise_if_broken()
        raise trio.ClosedResourceError("the output was closed") from None


@asynccontextmanager
async def open_output(
    config: Config | Mapping[str, object],
    *,
    headers: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    token: Callable[[], Awaitable[str]] | None = None,
    secrets: Callable[[str], str | None] | None = None,
    undelivered: trio.abc.SendChannel[Undelivered] | None = None,
    on_state: Callable[[LinkChange], object] | None = None,
    receive: bool = False,
    open_stream: Callable[[str, int], Awaitable[trio.abc.Stream]] | None = None,
    authenticate: Callable[[Handshake], Awaitable[Admit | Deny]] | None = None,
    on_message: Callable[[Received], Received | None] | None = None,
    listeners: Sequence[trio.abc.Listener[Any]] | None = None,
    history: LogStore | None = None,
    spool: LogStore | None = None,
    draw: Callable[[], float] = random.random,
) -> AsyncGenerator[Output, None]:
    """Open an output; its tasks live inside the ``async with`` block and nowhere else (SPEC 3).

    Leaving the block delivers what was accepted and closes, within ``shutdown-timeout``. Leaving
    it by cancellation closes immediately.

    Args:
        config: A Config, or a mapping as a configuration file holds it.
        headers: Called at every attempt; returns headers, which override the configured ones.
        token: Called at every attempt; returns the bearer token.
        secrets: Returns the value of ``${secret|name}``; None if there is none.
        undelivered: Takes events that will not be delivered. Without it they break the output.
        on_state: Called, and not awaited, at every change of the link's state.
        receive: Whether the application will take messages from ``output.received``.
        open_stream: Opens a byte stream to host and port, in place of TCP and proxies.
        authenticate: Decides from its handshake whether a peer is admitted, and its identity. If it raises, only that
            peer is refused; its time is part of ``server.handshake-timeout``.
        on_message: Mode relay: called, and not awaited, with each message before it is passed on. It returns the
            message, or another in its place (``attrs.evolve(message, event=…)``), or None to refuse it. If it
            raises, that message is not passed on.
        listeners: Accept byte streams in place of ``server.bind``, which is not bound then: for example sockets
            that a supervisor opened, or memory streams. They are closed at the end.
        history: Keeps the history, in place of ``history.store``; closed at the end.
        spool: Keeps the spool, in place of ``spool.path``; closed at the end.
        draw: Returns numbers uniform in [0, 1), for the jitter of the backoff.

    Raises:
        ConfigError: The configuration can't be used.
        ConnectError: An eager link did not open within ``connect.eager-timeout``, or the link gave up; if nothing
            in the block met that error, it is raised when the block is left.
        CursorError: The stored cursor can't be read.
        DeliveryError: Events were not confirmed; ``undelivered`` holds them, without those that stay in the spool.
        SpoolError: The spool can't be used, or is damaged.
    """
    hooks = Hooks(
        headers=headers,
        token=token,
        secrets=secrets,
        undelivered=undelivered,
        on_state=on_state,
        receive=receive,
        open_stream=open_stream,
        authenticate=authenticate,
        on_message=on_message,
        listeners=listeners,
        history=history,
        spool=spool,
        draw=draw,
    )
    async with open_with_hooks(config, hooks) as output:
        yield output


@asynccontextmanager
async def open_with_hooks(
    config: Config | Mapping[str, object], hooks: Hooks
) -> AsyncGenerator[Output, None]:
    """Open an output as `open_output` does, with hooks that only the command has."""
    config = _usable(config, hooks)
    tree = make_tree(config, hooks)
    check_tls(config, tree.resolve)
    output = Output(tree, config)
    trouble: BaseException | None = None
    begun, cancelled = False, True
    try:
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(tree.run, name=config.mode.value)
                await tree.begin()
                begun = True
                yield output
                await output.aclose()
                await _finish(tree, config, hooks)
            except trio.Cancelled:
                tree.end_reason = "the output was cancelled before the event was confirmed"
                raise
            except BaseException as error:  # noqa: BLE001 - raised again below, outside of the nursery
                trouble = error
                if begun:
                    await output.aclose()
                    # An ordinary exception costs no accepted event; an interrupt ends the output as it stands.
                    if isinstance(error, Exception) and tree.ledger.broken is None:
                        await _finish(tree, config, hooks)
            nursery.cancel_scope.cancel()
        cancelled = False
    finally:
        _report_left(tree, trouble, cancelled=cancelled)
    if trouble is not None:
        raise trouble
    _raise_left(tree)


def _usable(config: Config | Mapping[str, object], hooks: Hooks) -> Config:
    """Return the configuration, checked; raise ConfigError for every fault in it, and for every hook of no use."""
    config = verify_config(config) if isinstance(config, Config) else load_config(config)
    problems: list[Problem] = []
    if config.server is not None and config.server.viewer:
        problems.append(
            Problem(path="server.viewer", reason="is not available in this version; leave it out")
        )
    for section, there, name, hook in (
        ("server", config.server, "authenticate", hooks.authenticate),
        ("server", config.server, "listeners", hooks.listeners),
        ("history", config.history, "history", hooks.history),
        ("spool", config.spool, "spool", hooks.spool),
    ):
        if there is None and hook is not None:
            reason = f"is not set, and open_output(…, {name}=…) is of no use without it"
            problems.append(Problem(path=section, reason=reason))
    if config.url is not None and isinstance(hooks.history, SharedLog):
        problems.append(Problem(path="url", reason=NO_SHARED_LINK))
    if hooks.on_message is not None and config.mode is not Mode.RELAY:
        reason = f"is {config.mode.value}, and open_output(…, on_message=…) is for mode relay"
        problems.append(Problem(path="mode", reason=reason))
    cursor = config.cursor
    follows = cursor is not None and cursor.from_ is CursorFrom.RECEIVED
    if follows and config.mode is Mode.CLIENT and not hooks.receive:
        reason = "is received, and nobody takes messages without open_output(…, receive=True)"
        problems.append(Problem(path="cursor.from", reason=reason))
    if problems:
        raise ConfigError(problems)
    if config.url is not None and hooks.open_stream is None:
        check_proxy(config)
    return config


async def _finish(tree: Tree, config: Config, hooks: Hooks) -> None:
    """End gracefully within shutdown-timeout; `_raise_left` raises an error for events that are unconfirmed then."""
    limit = config.shutdown_timeout if hooks.shutdown_timeout is None else hooks.shutdown_timeout()
    with trio.move_on_after(limit):
        await tree.finish()
        await tree.ended.wait()
    if not tree.ended.is_set():
        tree.out_of_time()


def _report_left(tree: Tree, trouble: BaseException | None, *, cancelled: bool) -> None:
    """Log events that are left, or add them to the error, if raising a DeliveryError would hide another exception."""
    if trouble is None and not cancelled:
        return
    if tree.kept:
        _log.warning("%s", tree.kept)
        if isinstance(trouble, OutputError):
            trouble.extend_message(tree.kept)
        elif trouble is not None:
            trouble.add_note(f"trio_wsout: {tree.kept}")
    broken = tree.ledger.broken
    # An error that is `broken`, or was caused by it, carries these events already.
    has_broken = trouble is not None and broken in {trouble, trouble.__cause__}
    left = tree.left if broken is None or has_broken else broken.undelivered
    if not left:
        return
    rest = tree.ledger.offer(left) if cancelled else left
    reported = len(left) - len(rest)
    where = f", {reported} of them in the undelivered channel" if reported else ""
    text = f"{_not_confirmed(left)}{where}: {left[0].reason}"
    if rest:
        _log.error("%s", text)
    if trouble is not None:
        trouble.add_note(f"trio_wsout: {text}")


def _not_confirmed(left: Sequence[Undelivered]) -> str:
    return f"{count(len(left), 'accepted event')} not confirmed"


def _raise_left(tree: Tree) -> None:
    if tree.ledger.broken is not None:
        raise tree.ledger.broken
    if tree.left:
        error = DeliveryError(_not_confirmed(tree.left), undelivered=tree.left)
        if tree.kept:
            error.extend_message(tree.kept)
        raise error
    if tree.kept:
        raise DeliveryError(tree.kept, undelivered=())
