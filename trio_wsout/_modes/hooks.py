"""The objects that an application may pass to `open_output` beside the configuration."""

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from numbers import Real

import trio
from attrs import field, frozen

from trio_wsout._core.admission import Admit, Deny, Handshake
from trio_wsout._core.callables import plain
from trio_wsout._core.link import LinkChange
from trio_wsout._core.received import Received
from trio_wsout.errors import Undelivered
from trio_wsout.stores.log import LogStore

__all__ = ["Hooks"]

_log = logging.getLogger("trio_wsout")


@frozen(kw_only=True)
class Hooks:
    """The application's callables and objects, as the arguments of `open_output` explain them; None where it passes none."""

    headers: Callable[[], Awaitable[Mapping[str, str]]] | None = None
    token: Callable[[], Awaitable[str]] | None = None
    secrets: Callable[[str], str | None] | None = None
    undelivered: trio.abc.SendChannel[Undelivered] | None = None
    on_state: Callable[[LinkChange], object] | None = None
    receive: bool = False
    open_stream: Callable[[str, int], Awaitable[trio.abc.Stream]] | None = None
    authenticate: Callable[[Handshake], Awaitable[Admit | Deny]] | None = None
    on_message: Callable[[Received], Received | None] | None = None
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] | None = None
    history: LogStore | None = None
    spool: LogStore | None = None
    draw: Callable[[], float] = field(default=random.random)

    # Only the command has these:
    raw: bool = False
    """Whether the application gets received messages with their bytes, as `RawReceived`."""
    to_the_end: Callable[[], bool] = field(default=lambda: False)
    """Returns, when the block is left, whether the application goes on to take messages; else those are dropped."""
    shutdown_timeout: Callable[[], float] | None = None
    """Returns, when the block is left, the seconds that leaving may take; None if `shutdown-timeout` counts."""

    def drawn(self) -> float:
        """Return a number of `draw`; if it raises or returns no such number, log that, and return a number of our own."""
        try:
            number = plain("draw", self.draw())
        except Exception as error:  # noqa: BLE001 - the application's, whatever it is
            trouble = f"raised {type(error).__name__}"
        else:
            if isinstance(number, Real) and 0 <= (drawn := float(number)) < 1:
                return drawn
            trouble = "gave no number in [0, 1)"
        _log.error("the draw callable %s; a number was drawn without it", trouble)
        return random.random()  # noqa: S311 - jitter is no secret
