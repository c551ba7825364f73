"""Opening handshakes that peers ask with, and what an application answers (SPEC 3 and 10)."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from trio_wsout.config.secret import mask_headers

__all__ = ["Admit", "Deny", "Handshake"]

_FIRST_DENIAL, _LAST_DENIAL = 400, 599


@frozen(kw_only=True)
class Handshake:
    """What a peer asks with, for `authenticate`."""

    address: str
    """``host:port`` of the peer; ``unix`` for a Unix socket."""
    path: str
    """The path asked for, percent signs as sent."""
    query: str = field(default="", repr=False)
    """What follows the question mark, as sent; it may hold secrets."""
    headers: Mapping[str, str] = field(factory=dict[str, str], repr=mask_headers)
    """Header values by lower-case name; of a name that came several times, joined by commas."""
    subprotocols: tuple[str, ...] = ()
    """Offered by the peer, in its order."""
    cursor: str | None = field(default=None, repr=False)
    """Where the peer wants to resume; None: it did not say."""
    identity: str | None = None
    """Who it is by `server.auth`; None if that section is not there."""


@frozen(kw_only=True)
class Admit:
    """Let the peer in."""

    identity: str | None = None
    """Who it is; shown in `Peer`. None: who it is by `server.auth`, or nobody in particular."""
    may_send: bool = True
    """Whether what it sends is passed on or received (modes relay and server-input); if not, it is dropped and counted."""


@frozen(kw_only=True)
class Deny:
    """Refuse the peer."""

    status: int = field(default=401)
    """HTTP status, 400 to 599."""
    reason: str = "not admitted"
    """One line that the peer reads."""

    def __attrs_post_init__(self) -> None:
        if not _FIRST_DENIAL <= self.status <= _LAST_DENIAL:
            message = f"status of Deny is 400 to 599, not {self.status}"
            raise ValueError(message)
        if not self.reason.isprintable():
            message = "reason of Deny is one printable line"
            raise ValueError(message)
