"""The side of an output that dials: one link through all of its connections, with its requests and its cursor."""

import logging
from collections.abc import Collection, Mapping, Sequence

import trio
from attrs import evolve

from trio_wsout._core.callables import CallableError, awaitable
from trio_wsout._core.close_codes import GONE
from trio_wsout._core.disconnection import Cause
from trio_wsout._core.link import Link
from trio_wsout._core.message import Message
from trio_wsout._core.received import Gap
from trio_wsout._core.request import Request, RequestError, build_request, files_named
from trio_wsout._core.resend import LinkSubscription
from trio_wsout._core.statistics import LinkStatistics
from trio_wsout._modes.common import Common
from trio_wsout._tasks.cursor_saver import CursorSaver
from trio_wsout._tasks.inbox import Inbox
from trio_wsout._tasks.session import Session
from trio_wsout._tasks.supervisor import Supervisor
from trio_wsout._tasks.text_files import read_text_files
from trio_wsout._wire.dial import Dialer
from trio_wsout._wire.tcp import AttemptFailed
from trio_wsout.config.sections import ConnectMode
from trio_wsout.config.templates import Resolve, TemplateError
from trio_wsout.errors import ConnectError
from trio_wsout.stores.from_config import open_cursor_store

_log = logging.getLogger("trio_wsout")


class DialledSide:
    """The link of an output; `Tree` opens, runs and closes it."""

    def __init__(
        self,
        common: Common,
        subscription: LinkSubscription,
        inbox: Inbox,
        *,
        wanted: bool = False,
    ) -> None:
        """Make a link that sends what `subscription` takes, and passes what comes to `inbox`; it dials immediately if `wanted`."""
        config, hooks = common.config, common.hooks
        self._common = common
        # An application that takes messages needs the link from the start, and may never send.
        self._wanted = wanted or hooks.receive or config.connect.mode is ConnectMode.EAGER
        self._subscription = subscription
        policy = config.reconnect
        if common.follower is not None:
            # What follows the cursor is gone there, and will be at every attempt.
            policy = evolve(policy, give_up_on=(*policy.give_up_on, (GONE, GONE)))
        self._link = Link(policy, refreshable=bool(hooks.token or hooks.headers), urls=config.urls)
        self._cursor_saver: CursorSaver | None = None
        self._over = trio.Event()
        common.sources.update(cursor=lambda: self._sent_cursor, attempt=lambda: str(self._link.attempt))
        self._files = files_named(config)
        self._dialer = Dialer(
            config.tls,
            config.connect.proxy,
            config.heartbeat,
            config.max_message_size,
            hooks.open_stream,
        )
        self._supervisor = Supervisor(
            config.connect.timeout,
            config.heartbeat,
            self._link,
            self._dialer,
            common.fan_out,
            subscription,
            inbox,
            self._make_request,
            hooks.drawn,
            hooks.on_state,
        )

    # -- life -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the cursor, if there is one.

        Raises:
            CursorError: The stored cursor can't be read.
        """
        config, reader = self._common.config, self._common.cursor
        if config.cursor is None or reader is None:
            return
        store = await open_cursor_store(config.cursor, url=config.urls[0], resolve=self._common.resolve)
        self._cursor_saver = CursorSaver(store, self._common.ledger, self._common.counters)
        await self._cursor_saver.load(config.cursor.initial_value, reader)
        follower = self._common.follower
        if follower is None:
            self._common.ledger.on_confirmed.append(self._confirmed)
        else:
            follower.on_moved, follower.on_gap = self._cursor_saver.moved, _report_gap

    def start(self, nursery: trio.Nursery) -> None:
        """Keep the link open until `close`, or until it gives up, which breaks the output."""
        nursery.start_soon(self._run, name="supervisor")

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._cursor_saver is not None:
                nursery.start_soon(self._cursor_saver.run, name="cursor saver")
            if self._wanted:
                self._link.wanted()
            await self._supervisor.run()
            nursery.cancel_scope.cancel()
        self._over.set()

    def not_opened(self) -> ConnectError:
        """Return the error of an eager link that did not open in time."""
        timeout = self._common.config.connect.eager_timeout
        cause = self._supervisor.last_error or "the first attempt was still under way"
        message = f"no connection within connect.eager-timeout ({timeout:g} s): {cause}"
        return ConnectError(message, attempts=self._link.failures, cause=cause)

    async def save(self) -> None:
        """Save the cursor now."""
        if self._cursor_saver is not None:
            await self._cursor_saver.save()
        else:
            await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Close the connection politely, if one is open, and wait until it is over."""
        self._supervisor.close()
        await self._over.wait()

    async def aclose(self) -> None:
        """Save the cursor: the link is over."""
        self._link.close()
        await self.save()

    # -- figures ----------------------------------------------------------------------------------------

    @property
    def sessions(self) -> Collection[Session]:
        """The session of the open connection, if there is one."""
        return () if self._supervisor.session is None else (self._supervisor.session,)

    def statistics(self) -> LinkStatistics:
        """Return the figures of this moment."""
        subscription, supervisor = self._subscription, self._supervisor
        return LinkStatistics(
            state=self._link.state.value,
            url=self._link.shown_url,
            reconnects=self._link.reconnects,
            resent=subscription.resent,
            window_bytes=subscription.size,
            subprotocol=supervisor.subprotocol,
            cursor=self._cursor_value,
            without_cursor=self._common.counters.without_cursor,
            gaps=self._common.counters.gaps,
            last_error=supervisor.last_error,
        )

    def situation(self) -> str:
        """Return the link's state, its last trouble, and the confirmation that its peer never sent."""
        trouble, silence = self._supervisor.last_error, self._subscription.silence
        last = f", last trouble: {trouble}" if trouble else ""
        more = f"; {silence}" if silence and silence not in last else ""
        return f"the link is {self._link.state.value}{last}{more}"

    # -- inside -----------------------------------------------------------------------------------------

    @property
    def _cursor_value(self) -> str | None:
        return None if self._cursor_saver is None else self._cursor_saver.value

    @property
    def _sent_cursor(self) -> str | None:
        """The cursor that an attempt sends."""
        follower = self._common.follower
        return (None if follower is None else follower.queued) or self._cursor_value

    def _confirmed(self, messages: Sequence[Message]) -> None:
        """Have the cursor of messages saved that went up the link."""
        if self._cursor_saver is not None:
            self._cursor_saver.confirmed([each for each in messages if each.source is not self._subscription])

    async def _make_request(self) -> Request:
        """Make the opening handshake of this attempt, with fresh credentials from the application."""
        config, hooks = self._common.config, self._common.hooks
        cursor = config.cursor
        resumes = cursor is not None and (cursor.resume_on_reconnect or not self._supervisor.opened)
        try:
            headers = None if hooks.headers is None else await awaitable("headers", hooks.headers())
            token = None if hooks.token is None else await awaitable("token", hooks.token())
        except CallableError as error:
            raise AttemptFailed(Cause.CALLABLE, str(error)) from None
        except Exception as error:
            detail = f"the application's headers or token callable raised {type(error).__name__}"
            raise AttemptFailed(Cause.REQUEST, detail) from error
        resolve = await self._resolve()
        try:
            return build_request(
                config,
                url=self._link.url,
                resolve=resolve,
                cursor=self._sent_cursor if resumes else None,
                headers=headers,
                token=token,
            )
        except RequestError as error:
            raise AttemptFailed(Cause.REQUEST, str(error)) from None
        except (TypeError, AttributeError) as error:
            detail = "the application's headers, token or secrets callable returned something that is no text"
            raise AttemptFailed(Cause.REQUEST, detail) from error

    async def _resolve(self) -> Resolve:
        """Return `Common.resolve` with the contents of the files that the configuration names, as they are now."""
        if not self._files:
            return self._common.resolve
        self._dialer.stage = "the files that the configuration names"
        files: Mapping[str, str | TemplateError | None] = await read_text_files(self._files)

        def resolve(source: str, name: str | None) -> str | None:
            if source != "file":
                return self._common.resolve(source, name)
            text = files[name or ""]
            if isinstance(text, TemplateError):
                raise text
            return text

        return resolve


def _report_gap(gap: Gap) -> None:
    """Log that the server reported a gap."""
    _log.warning("link: the server reports a gap: asked for %s, it goes on with %s", gap.asked, gap.first)
