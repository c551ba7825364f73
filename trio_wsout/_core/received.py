"""What peers sent, with who sent it."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from trio_wsout.config.secret import mask_headers

__all__ = ["Peer", "RawReceived", "Received"]


@frozen(kw_only=True)
class Peer:
    """The remote end of one connection."""

    address: str
    """``host:port`` of the remote end."""
    subprotocol: str | None = None
    """The subprotocol that was agreed on; None: none."""
    path: str = ""
    """The path that it asked for; empty in mode client, and for the link of a relay."""
    headers: Mapping[str, str] = field(factory=dict[str, str], repr=mask_headers, hash=False)
    """What it sent in its handshake, by lower-case name; empty in mode client."""
    identity: str | None = None
    """Who it is, as `authenticate` or `server.auth` said; None: nobody in particular."""
    may_send: bool = True
    """Whether what it sends is passed on or received, as `authenticate` said."""


@frozen
class Received:
    """One message from a peer, decoded by `payload`."""

    event: object = field(repr=False)
    """The decoded message."""
    peer: Peer
    """Who sent it."""


@frozen
class RawReceived(Received):
    """A message with its bytes."""

    raw: bytes = field(repr=False)
    """The message as it came, a text as UTF-8."""
