"""Messages that peers sent, each with its peer."""

from collections.abc import Mapping

from attrs import field, frozen

from trio_wsout.config.secret import repr_headers


@frozen(kw_only=True, eq=False)
class Peer:
    """The remote end of one connection, and the name of that connection: no two are equal, so it is a key for tables, too."""

    address: str
    """``host:port`` of the remote end."""
    subprotocol: str | None = None
    """The subprotocol that was agreed on; None if none was."""
    path: str = ""
    """The path that the peer asked for; empty in mode client, and for the link of a relay."""
    headers: Mapping[str, str] = field(factory=dict[str, str], repr=repr_headers)
    """The headers of the peer's handshake by lower-case name; empty in mode client."""
    identity: str | None = None
    """The peer's identity by `authenticate` or `server.auth`; None if it has none."""
    may_send: bool = True
    """Whether messages of the peer are passed on or received; `authenticate` decides."""
    dialled: bool = False
    """Whether this side dialled: in mode client, and for the link of a relay."""


@frozen
class Received:
    """One message from a peer, decoded by `payload`."""

    event: object = field(repr=False)
    """The decoded message."""
    peer: Peer
    """The peer that sent it."""


@frozen
class Gap(Received):
    """A `Received` in which the server reports that messages are missing; only with ``cursor.from: received``."""

    asked: str | None
    """The last cursor before the gap, as the server knows it; None if the server does not say it."""
    first: str | None
    """The first cursor behind the gap; None if there is none yet."""


@frozen
class RawReceived(Received):
    """A message with its bytes."""

    raw: bytes = field(repr=False)
    """The message as it came, a text as UTF-8."""
