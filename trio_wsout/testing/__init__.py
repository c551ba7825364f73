"""For the tests of programs that embed this library: peers in memory, no sockets.

`open_peer` is a server for outputs with a link, `open_listener` a listener whose peers you connect, for outputs that
listen. `PeerConnection` and `PeerProtocol` are what both are made of, for peers over other streams, or in threads.
``strategies`` (extra ``testing``) has Hypothesis strategies for configurations.
"""

from trio_wsout.testing.connection import Accept, PeerConnection, Refuse, Silent, Step, Unreachable
from trio_wsout.testing.memory import MemoryListener, MemoryPeer, open_listener, open_peer
from trio_wsout.testing.protocol import PeerProtocol

__all__ = [
    "Accept",
    "MemoryListener",
    "MemoryPeer",
    "PeerConnection",
    "PeerProtocol",
    "Refuse",
    "Silent",
    "Step",
    "Unreachable",
    "open_listener",
    "open_peer",
]
