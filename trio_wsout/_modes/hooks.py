"""What an application may hand to `open_output` beside the configuration."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio
from attrs import field, frozen

from trio_wsout._core.handshake import Admit, Deny, Handshake
from trio_wsout._core.link_change import LinkChange
from trio_wsout.errors import Undelivered
from trio_wsout.stores.history import HistoryStore
from trio_wsout.stores.spool import SpoolStore

__all__ = ["Hooks"]


@frozen(kw_only=True)
class Hooks:
    """The application's callables; each may be missing."""

    headers: Callable[[], Awaitable[Mapping[str, str]]] | None = None
    """Gives headers for an attempt."""
    token: Callable[[], Awaitable[str]] | None = None
    """Gives the bearer token for an attempt."""
    secrets: Callable[[str], str | None] | None = None
    """Resolves ``${secret|name}``."""
    undelivered: trio.abc.SendChannel[Undelivered] | None = None
    """Takes undelivered events."""
    on_state: Callable[[LinkChange], object] | None = None
    """Hears of link changes."""
    receive: bool = False
    """Whether the application takes received messages."""
    open_stream: Callable[[str, int], Awaitable[trio.abc.Stream]] | None = None
    """Opens streams in place of TCP and proxies."""
    authenticate: Callable[[Handshake], Awaitable[Admit | Deny]] | None = None
    """Says who may come in."""
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] | None = None
    """Accept streams in place of `server.bind`."""
    history: HistoryStore | None = None
    """Keeps the history in place of `history.store`."""
    spool: SpoolStore | None = None
    """Keeps the spool in place of `spool.path`."""
    draw: Callable[[], float] = field(default=random.random)
    """Uniform in [0, 1), for jitter."""
