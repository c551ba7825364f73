"""The reason for which an attempt failed or an open connection ended, as one value that the pure machines judge.

`_wire` makes it when the network fails. `link` reads it to retry or give up, `delivery` to blame a message, and people read
it in errors and logs.
"""

from enum import StrEnum

from attrs import frozen


class Cause(StrEnum):
    """The kind of trouble that ended an attempt or a connection."""

    UNREACHABLE = "unreachable"
    """The name could not be resolved, or TCP could not connect."""
    PROXY = "proxy"
    """The proxy refused or broke the tunnel."""
    TLS = "tls"
    """The TLS handshake failed for another reason than the peer's certificate."""
    CERTIFICATE = "certificate"
    """The peer's certificate was not accepted (unknown CA, wrong host, expired)."""
    REQUEST = "request"
    """The opening handshake could not be built (a bad expanded header, a missing secret)."""
    REFUSED = "refused"
    """The server answered the opening handshake with another status than 101."""
    BAD_HANDSHAKE = "bad-handshake"
    """The server's 101 is not valid: wrong Sec-WebSocket-Accept, a subprotocol not offered."""
    TIMED_OUT = "timed-out"
    """The attempt passed its one deadline (connect.timeout)."""
    CLOSED = "closed"
    """The peer sent a Close frame; `code` holds its code (1005 when it had none)."""
    LOST = "lost"
    """End of file, reset or another transport error, without a Close frame."""
    PROTOCOL = "protocol"
    """The peer broke RFC 6455 after the handshake."""
    UNHEALTHY = "unhealthy"
    """No frame came within the heartbeat's timeout after a ping, or the system gave the peer up."""
    STALLED = "stalled"
    """A message was not confirmed within retry.timeout."""
    CALLABLE = "callable"
    """A callable of the application is not async where it must be; final, because every attempt would fail in the same way."""
    LOCAL = "local"
    """This side closed the connection on purpose."""


BY_SILENCE = frozenset({Cause.UNHEALTHY, Cause.STALLED})
"""Causes for which this side ends a connection because nothing came."""


@frozen(kw_only=True)
class Disconnection:
    """The end of an attempt or of an open connection."""

    cause: Cause
    detail: str
    """One line for people; never holds a secret or a header's value."""
    status: int | None = None
    """HTTP status, for `Cause.REFUSED`."""
    code: int | None = None
    """Close code (RFC 6455 section 7.4): from the peer for `Cause.CLOSED`, to the peer for `Cause.PROTOCOL` if known."""
    retry_after: float | None = None
    """Seconds that the server asked to wait (429, 503), a lower bound for the next delay."""

    def __str__(self) -> str:
        return self.detail
