"""What peers sent, with who sent it."""

from __future__ import annotations

from attrs import field, frozen

__all__ = ["Peer", "Received"]


@frozen(kw_only=True)
class Peer:
    """The remote end of one connection."""

    address: str
    """``host:port`` of the remote end."""
    subprotocol: str | None = None
    """The subprotocol that was agreed on; None: none."""


@frozen(kw_only=True)
class Received:
    """One message from a peer, decoded by `payload`."""

    event: object = field(repr=False)
    """The decoded message."""
    peer: Peer
    """Who sent it."""
