"""The inbox of a session: decodes received messages, and passes them on to the application, the relay or nobody."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import trio
from attrs import define, field

from trio_wsout._core.acknowledgement import AckReader
from trio_wsout._core.json_line import parse_json
from trio_wsout._core.payload import MessageError, decode
from trio_wsout._core.received import Peer, RawReceived, Received
from trio_wsout._core.statistics import Counters
from trio_wsout._core.unpacking import Unpacker
from trio_wsout._wire.peer_log import PeerLog
from trio_wsout.config.sections import Payload


class Taker(Protocol):
    """Takes received messages; a `Handover` does."""

    def put_nowait(self, run: deque[Received]) -> None:
        """Take messages off the beginning of `run` for which there is room.

        Raises:
            trio.ClosedResourceError: Nothing more is taken, because the output ends.
            trio.BrokenResourceError: Nothing more is taken, because the application closed its end.
        """

    async def put(self, run: deque[Received]) -> None:
        """Take all of `run`, waiting for room; raises as `put_nowait` does.

        If this is cancelled or raises, `run` keeps the messages that it did not take.
        """


@define(eq=False, weakref_slot=False)
class Inbox:
    """Decodes received messages, which go to the taker, if there is one."""

    _payload: Payload
    taker: Taker | None
    acks: AckReader | None
    """Reads acknowledgements; None if no message is one (levels written and received)."""
    counters: Counters
    _peer_log: PeerLog
    _unpacker: Unpacker | None = None
    """Takes batches apart; None if a message is one event."""
    optional: bool = False
    """Whether messages go on to be read and dropped, as if nobody had asked for them, once the application has closed its end."""

    def items(self, messages: Sequence[str | bytes], peer: Peer) -> list[Received]:
        """Return the events of messages; a message that can't be decoded is counted, and logged."""
        unpacker = self._unpacker
        if unpacker is None and self._payload is Payload.JSON:
            # Nearly always all of them are JSON, and this is all that there is to do.
            with suppress(ValueError):
                return [Received(parse_json(message), peer) for message in messages]
        items: list[Received] = []
        for message in messages:
            try:
                if unpacker is None:
                    items.append(Received(decode(message, self._payload), peer))
                else:
                    items += [Received(event, peer) for event in unpacker.events(message)]
            except MessageError as error:
                self.counters.dropped += 1
                self._peer_log.warning("a received message was dropped: %s", error)
        return items

    async def passed_on_soon(self) -> bool:
        """Return whether everything that was handed over is passed on, after a few turns of the loop at most."""
        await trio.lowlevel.checkpoint()
        return True

    async def wait_passed_on(self) -> None:
        """Wait until everything that was handed over is passed on; pings and Closes behind it are answered then."""
        await trio.lowlevel.checkpoint()

    def left(self) -> None:
        """Note that nothing more comes; what was handed over may wait on."""


@define(eq=False, weakref_slot=False)
class RawInbox(Inbox):
    """Keeps the bytes of each message that it decodes, but not those of a batch, which is many events."""

    _edit: Callable[[RawReceived], RawReceived | None] | None = field(
        default=None, alias="edit", kw_only=True
    )
    """Returns a message as it is passed on, or None if it is not; without it, every message is passed on as it came."""

    def items(self, messages: Sequence[str | bytes], peer: Peer) -> list[Received]:
        """Return the events of messages, each with the bytes of its message."""
        if self._unpacker is not None:
            return super().items(messages, peer)
        items: list[Received] = []
        edit = self._edit
        for message in messages:
            raw = message.encode() if isinstance(message, str) else message
            decoded = [RawReceived(item.event, peer, raw) for item in super().items((message,), peer)]
            items += decoded if edit is None else filter(None, map(edit, decoded))
        return items
