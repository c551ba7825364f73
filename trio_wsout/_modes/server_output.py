"""Mode server-output: events go to every admitted peer.

::

    server-output
    ├─ sender     events → batches → frames, once → the log that all peers read → those that are free
    ├─ journal    where there is a history: messages → history → the log
    ├─ watch      the deadlines of all peers
    └─ listener   accept → handshake → admit, each peer in a guarded nursery
       └─ peer
          ├─ fan-out  history, then what the sender could not write at once → one joined write
          └─ reader   always drains
"""

from __future__ import annotations

from trio_wsout._modes.server import ServerTree

__all__ = ["ServerOutputTree"]


class ServerOutputTree(ServerTree):
    """The tree of one server output; all of it is what trees with a listener share."""
