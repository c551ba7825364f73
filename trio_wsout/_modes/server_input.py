"""Mode server-input: messages of peers become events of ``output.received``.

::

    server-input
    ├─ heartbeat       the deadlines of all peers: ping, warn, cut
    └─ listener        accept → handshake → admit, each peer guarded
       └─ peer
          ├─ fan-out   pings and answers only
          └─ reader    messages → events → received; waits while the application takes none
"""

from __future__ import annotations

from typing import Never

from trio_wsout._core.message import Fate
from trio_wsout._core.unpacking import Unpacker
from trio_wsout._modes.hooks import Hooks
from trio_wsout._modes.server import ServerTree
from trio_wsout._tasks.reader import Inbox, RawInbox
from trio_wsout._tasks.served_peer import ServedPeer
from trio_wsout.config.sections import Config, Server

__all__ = ["ServerInputTree"]


class ServerInputTree(ServerTree):
    """The tree of one server input."""

    def __init__(self, config: Config, server: Server, hooks: Hooks) -> None:
        """Make the tree; `run` brings it to life."""
        super().__init__(config, server, hooks)
        self.receives = True
        self._unpacker = None if config.batch is None else Unpacker(config.payload, config.batch)

    def encode(self, event: object, fate: Fate | None = None, *, own: bool = True) -> Never:
        """Raise RuntimeError, whatever the event: all ways to send begin here."""
        del event, fate, own
        raise RuntimeError("mode server-input takes no events, it only receives; use server-output or relay")

    def inbox_for(self, peer: ServedPeer) -> Inbox:
        """Return an inbox that passes messages on to the application, if the peer may send."""
        if not peer.peer.may_send:
            return self._dropping_inbox()
        kind = RawInbox if self._hooks.raw else Inbox
        return kind(self._config.payload, self.received, None, self.counters, self.peer_log, self._unpacker)
