"""For the tests of programs that embed this library: peers in memory, no sockets.

`open_peer` opens a server, for outputs with a link. `open_listener` opens a listener, for outputs that listen; the test
connects the peers. Both are made of `PeerConnection` (over any of trio's streams) and `PeerProtocol` (without I/O).
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
