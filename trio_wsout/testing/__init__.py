"""For the tests of programs that embed this library: a scripted peer in memory, no sockets.

``strategies`` (extra ``testing``) has Hypothesis strategies for configurations.
"""

from trio_wsout._wire.memory_peer import (
    Accept,
    MemoryPeer,
    PeerConnection,
    Refuse,
    Silent,
    Step,
    Unreachable,
    open_peer,
)

__all__ = ["Accept", "MemoryPeer", "PeerConnection", "Refuse", "Silent", "Step", "Unreachable", "open_peer"]
