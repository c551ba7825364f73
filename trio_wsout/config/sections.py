"""The configuration: one frozen class for each section; attribute ``ping_interval`` is the key ``ping-interval``.

The annotation of a field is its type, with its bounds (see `field_types`). `loading` makes a `Config` from a document,
and `validation` has the rules between fields. Durations are float seconds, sizes are bytes. SPEC describes each
section under the number given in its docstring.
"""

from collections.abc import Mapping
from enum import StrEnum

from attrs import Factory, field, frozen

from trio_wsout.config import field_types as t
from trio_wsout.config.secret import Secret, repr_headers

__all__ = [
    "Auth",
    "Basic",
    "Batch",
    "BatchMode",
    "Config",
    "Connect",
    "ConnectMode",
    "Cursor",
    "CursorFrom",
    "Delivery",
    "DeliveryLevel",
    "Heartbeat",
    "HeartbeatAction",
    "History",
    "Mode",
    "OnGap",
    "Payload",
    "Reconnect",
    "Retry",
    "Server",
    "ServerAuth",
    "ServerTls",
    "SlowPeer",
    "Spool",
    "Tls",
]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
_SPOOL_OVERHEAD = 512
"""Bytes that a message of the largest size may take in the spool beyond its own. Base64 adds a third of them."""
FORM = ("output", "web-socket")
"""The keys around a configuration in its full form."""
_USUAL_HEADER = "Last-Event-ID"
"""The header by which clients of Server-Sent Events resume."""
NONE = "none"
"""The word for `heartbeat` that switches periodic pings off."""


def not_below(usual: float, other: object) -> float:
    """Return a default that is never below another field; `usual` if that field could not be read."""
    return max(usual, other) if isinstance(other, int | float) else usual


class Mode(StrEnum):
    """The operating mode of an output (SPEC 2)."""

    CLIENT = "client"
    SERVER_OUTPUT = "server-output"
    SERVER_INPUT = "server-input"
    RELAY = "relay"


class Payload(StrEnum):
    """The encoding of messages (SPEC 4)."""

    TEXT = "text"
    JSON = "json"
    BINARY = "binary"
    BINARY_BASE64 = "binary-base64"


class BatchMode(StrEnum):
    """The event that closes a batch (SPEC 4)."""

    FIXED = "fixed"
    DOCUMENT = "document"


class ConnectMode(StrEnum):
    """The time of the first attempt (SPEC 5)."""

    LAZY = "lazy"
    EAGER = "eager"


class HeartbeatAction(StrEnum):
    """The consequence of a missed heartbeat (SPEC 8)."""

    RECONNECT = "reconnect"
    LOG_ONLY = "log-only"


class DeliveryLevel(StrEnum):
    """The proof that confirms a message (SPEC 7)."""

    WRITTEN = "written"
    RECEIVED = "received"
    ACKED = "acked"


class CursorFrom(StrEnum):
    """The events by which a link's cursor moves (SPEC 9)."""

    SENT = "sent"
    RECEIVED = "received"


class OnGap(StrEnum):
    """The reply to a peer whose cursor is unknown or too old (SPEC 9)."""

    TELL = "tell"
    REFUSE = "refuse"


class SlowPeer(StrEnum):
    """The treatment of a peer whose send buffer is full (SPEC 10)."""

    WAIT = "wait"
    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop-oldest"


@frozen(kw_only=True)
class Retry:
    """Sends messages again that were written and not confirmed (SPEC 7)."""

    timeout: t.Duration = 30.0
    """Longest time from the first byte of a message to its confirmation. Then the connection is cut."""
    retries: t.CountOrZero | None = None
    """Most times that a message is sent again. None: no bound while the link lives."""


@frozen(kw_only=True)
class Batch:
    """Joins several events into one message (SPEC 4)."""

    mode: BatchMode
    """``fixed`` closes a batch at `fixed_size` events, ``document`` at ``end_document()``."""
    fixed_size: t.Count | None = None
    """Most events in a batch. None: 100 in mode fixed, no bound in mode document."""
    timeout: t.Duration = 0.1
    """Longest time from the first event of a batch until it is sent. A document that is not at its end then
    continues in the next batch."""
    header: t.BatchLine | None = None
    """A line before the events of each batch, expanded anew for each."""
    footer: t.BatchLine | None = None
    """A line after the events of each batch, expanded anew for each."""
    use_document_marker: bool = False
    """Whether receipts and statistics get ``{"document": {"id", "first", "last", "count"}}``."""
    wrap_as_json: bool = False
    """Whether a batch is one JSON array, instead of one event a line."""


@frozen(kw_only=True)
class Connect:
    """The start of outgoing connections, their time limits and their proxy (SPEC 5)."""

    mode: ConnectMode = ConnectMode.LAZY
    """``lazy`` dials when the first event waits, or immediately if the application takes messages of the peer.
    ``eager`` dials in ``open_output``, which returns when the connection is open."""
    timeout: t.Duration = 10.0
    """Longest time for one attempt: DNS, TCP, proxy, TLS and handshake together."""
    eager_timeout: t.Duration = Factory(lambda self: not_below(30.0, self.timeout), takes_self=True)
    """Longest time for an eager start-up, retries included. Default: 30s, or `timeout` if that is longer."""
    proxy: t.Proxy | None = None
    """URL of a proxy (``http://``, ``https://``, ``socks5://`` or ``socks5h://``), or ``none`` for no proxy. None: the
    proxy that the environment names, if any."""


@frozen(kw_only=True)
class Basic:
    """Basic authentication (SPEC 5)."""

    username: t.Username
    """User name, without a colon."""
    password: t.SecretValue
    """Password."""


@frozen(kw_only=True)
class Auth:
    """Credentials for the opening handshake (SPEC 5). `bearer_token` and `basic` exclude each other."""

    headers: Mapping[t.HeaderName, t.SecretHeaderValue] = Factory(dict[str, Secret])
    """Headers to add."""
    query: Mapping[t.Name, t.SecretValue] = Factory(dict[str, Secret])
    """Query parameters to add."""
    bearer_token: t.BearerToken | None = None
    """Token for ``Authorization: Bearer …``."""
    basic: Basic | None = None
    """User name and password for ``Authorization: Basic …``."""


@frozen(kw_only=True)
class Tls:
    """TLS of outgoing connections (SPEC 5). Certificates and keys are paths, or PEM text itself."""

    ca_certificate: t.Text | None = None
    """The only CA to trust. None: the system's roots."""
    client_certificate: t.Text | None = None
    """Certificate chain for mutual TLS. Needs `client_key`."""
    client_key: t.SecretText | None = None
    """Private key for mutual TLS. Needs `client_certificate`."""
    client_key_password: t.SecretTemplate | None = None
    """Password of an encrypted `client_key`."""
    insecure_skip_verify: bool = False
    """Whether any certificate is accepted. Logs a warning at every connection. Excludes `ca_certificate`."""


@frozen(kw_only=True)
class Heartbeat:
    """Finds dead peers, and keeps proxies from cutting silent connections (SPEC 8)."""

    ping_interval: t.Duration = 20.0
    """Time from the last inbound frame to a ping."""
    timeout: t.Duration = 10.0
    """Longest time for any frame to come in after a ping was written, or after the latest progress of what waits to
    be written before it."""
    action: HeartbeatAction = HeartbeatAction.RECONNECT
    """``reconnect`` cuts the connection when the timeout is over; ``log-only`` logs a warning and counts it."""
    payload: t.PingPayload = ""
    """Payload of periodic pings, at most 125 bytes of UTF-8. Pings for confirmation add a number to it."""


@frozen(kw_only=True)
class Reconnect:
    """Backoff between attempts (SPEC 6)."""

    initial_backoff: t.Duration = 0.5
    """Ceiling of the delay after the first failure."""
    max_backoff: t.Duration = Factory(lambda self: not_below(30.0, self.initial_backoff), takes_self=True)
    """Longest delay, not below `initial_backoff`. Default: 30s, or `initial_backoff` if that is longer."""
    multiplier: t.Multiplier = 2.0
    """Factor by which the ceiling grows with each failure in a row."""
    jitter: t.Share = 0.5
    """Random share of the delay: 0 waits exactly the ceiling, 1 anything from nothing to the ceiling."""
    max_attempts: t.Count | None = None
    """Failures in a row after which the link gives up. None: never."""
    reset_after: t.DurationOrZero = 10.0
    """Time that a connection must have been open before the count of failures returns to 0."""
    give_up_on: tuple[t.CloseCodes, ...] = ((3500, 3999), (4500, 4999))
    """Close codes after which the link gives up, for example ``4001`` or ``4500-4999``."""


@frozen(kw_only=True)
class Delivery:
    """The meaning of successful delivery, and how much may wait for it (SPEC 7)."""

    level: DeliveryLevel = DeliveryLevel.RECEIVED
    """``written``: handed to the kernel. ``received``: the peer replied to a ping that was sent after the message.
    ``acked``: the peer's application acknowledged it."""
    ack_pointer: t.JsonPointer = "/ack"
    """Pointer to the cursor or sequence number in an acknowledgement of a peer."""
    max_unconfirmed: t.Count = 1024
    """Most messages that wait for their confirmation; then ``send`` waits."""
    max_unconfirmed_bytes: t.Size = 8 * MIB
    """Most bytes of messages that wait for their confirmation. One message always fits."""
    max_age: t.Duration | None = None
    """Time since it was accepted after which an event that was never written is undelivered. None: no event is too old."""
    stamp: t.UnicodeText | None = None
    """Key under which each object event carries ``epoch-seq``. None: events are not stamped."""


@frozen(kw_only=True)
class Cursor:
    """Resume tokens (SPEC 9). Needs `header_name` or `query_parameter`; `value_field` excludes `value_pointer`."""

    from_: CursorFrom = CursorFrom.SENT
    """``sent``: the cursor is that of the last event that was sent and confirmed. ``received``: that of the last message that
    the application, or the relay, has taken; needs `value_field` or `value_pointer`."""
    query_parameter: t.Parameter | None = None
    """Query parameter that carries the cursor in the opening handshake."""
    header_name: t.HeaderName | None = Factory(lambda self: self.usual_header, takes_self=True)
    """Header that carries the cursor in the opening handshake. Default: ``Last-Event-ID`` with ``from: received`` and
    without `query_parameter`, else none."""
    persist_to: t.CursorStore | None = None
    """Store of the cursor: ``memory:``, ``sqlite:PATH``, the URL of Valkey or Redis (templated), a directory or a file. None: the platform's state directory
    for the command and where `state_id` is given, else memory."""
    initial_value: t.Text | None = None
    """Cursor of the first connection if none is stored."""
    state_id: t.StateId | None = None
    """Key of the cursor in its store. None: made from `url`."""
    resume_on_reconnect: bool = True
    """Whether attempts after the first connection carry the cursor as well."""
    value_field: t.DottedPath | None = None
    """Dotted path to the cursor in an event."""
    value_pointer: t.JsonPointer | None = None
    """Pointer to the cursor in an event."""

    @property
    def usual_header(self) -> str | None:
        """The default of `header_name`."""
        follows = self.from_ is CursorFrom.RECEIVED and self.query_parameter is None
        return _USUAL_HEADER if follows else None


@frozen(kw_only=True)
class Spool:
    """Keeps what goes up the link on disk until it is confirmed (SPEC 7)."""

    path: t.FilePath
    """Directory of the spool."""
    max_bytes: t.Size | None = None
    """Most bytes of events in it, with 64 more for each; then ``send`` waits. None: 1GiB, or room for two messages of `max_message_size` if that is
    more."""


@frozen(kw_only=True)
class ServerTls:
    """TLS of the listener (SPEC 10)."""

    cert: t.FilePath
    """Path of the certificate chain."""
    key: t.FilePath
    """Path of the private key."""
    key_password: t.SecretTemplate | None = None
    """Password of an encrypted `key`."""


@frozen(kw_only=True)
class ServerAuth:
    """Credentials of which a peer must show one to be admitted (SPEC 10). Needs `basic` or `bearer`."""

    basic: Mapping[t.User, t.PeerPassword] = Factory(dict[str, Secret])
    """Passwords by user name, for ``Authorization: Basic``. The user name is the peer's identity."""
    bearer: Mapping[t.Name, t.BearerToken] = Factory(dict[str, Secret])
    """Tokens by identity, for ``Authorization: Bearer``."""
    query_parameter: t.Parameter | None = None
    """Query parameter that may carry a token of `bearer`, for browsers, which can't set headers."""


@frozen(kw_only=True)
class Server:
    """The listener (SPEC 10)."""

    bind: t.Bind
    """Address to listen at: ``host:port``, ``[v6]:port``, ``:port`` (all addresses) or ``unix:PATH``."""
    reuse_port: bool = False
    """Whether other processes of this user that have this, too, may listen at the same host and port. Linux spreads the
    connections over them; another system may give all to one. Not for ``unix:PATH``."""
    path: t.UrlPath | None = None
    """The only path that is served, beside ``/healthz``. None: any."""
    tls: ServerTls | None = None
    """Certificate and key. None: connections are plain."""
    sender_field: t.UnicodeText | None = None
    """Key under which each object from a peer carries the peer's identity. Only for mode relay with payload json."""
    auth: ServerAuth | None = None
    """Credentials of peers. None: every peer is admitted, unless the application's `authenticate` refuses it."""
    max_connections: t.Count | None = None
    """Most peers at a time. None: no bound."""
    idle_timeout: t.Duration | None = None
    """Time without a message in either direction after which a peer gets Close 1001. None: never."""
    allowed_origins: tuple[t.Origin, ...] | None = None
    """Origins of the pages that are admitted, for example ``https://example.com``. ``https://*.example.com`` admits
    every host below that one, but not itself; ``*`` admits all. None: any origin, or none at all."""
    send_buffer_capacity: t.Count = 256
    """Most messages that wait for one peer."""
    slow_peer: SlowPeer = SlowPeer.WAIT
    """The treatment of a peer whose send buffer is full: ``wait`` makes ``send`` wait for it, ``disconnect`` closes it with 1013,
    ``drop-oldest`` drops its oldest messages and counts them."""
    slow_peer_timeout: t.Duration = 5.0
    """Longest time that ``slow-peer: wait`` waits. Then the peer gets Close 1013."""
    handshake_timeout: t.Duration = 10.0
    """Longest time for TLS and handshake together."""
    viewer: bool = False
    """Whether ``GET /`` serves a live page. Not available in this version."""


@frozen(kw_only=True)
class History:
    """Retains events for peers that resume (SPEC 11)."""

    store: t.HistoryStore = "memory:"
    """``memory:``, ``sqlite:PATH``, or a stream of Valkey or Redis that several outputs share: the URL ``redis://host:port/db``,
    ``rediss://…`` or ``unix:///path/of/socket``, with ``?stream=NAME``; templated, for the password."""
    max_events: t.Count | None = None
    """Most events that are kept. None: no bound."""
    max_age: t.Duration | None = None
    """Time that an event is kept. None: no bound."""
    max_bytes: t.Size | None = None
    """Most bytes that are kept. None: no bound."""
    on_gap: OnGap = OnGap.TELL
    """For a peer whose cursor is unknown or too old: ``tell`` sends a message about the gap and then the events that are kept;
    ``refuse`` sends Close 4410 with the first cursor that is kept as its reason."""


@frozen(kw_only=True)
class Config:
    """The configuration of one output."""

    mode: Mode = Mode.CLIENT
    """Operating mode."""
    url: t.Urls | None = None
    """Remote endpoint as ``ws://`` or ``wss://``, or several of them to try in turn; templated. Required in mode client."""
    headers: Mapping[t.HeaderName, t.HeaderValue] = field(factory=dict[str, str], repr=repr_headers)
    """Headers for the opening handshake."""
    query: Mapping[t.Name, t.QueryValue] = Factory(dict[str, str])
    """Query parameters that are appended to `url`."""
    subprotocols: tuple[t.Subprotocol, ...] = ()
    """Subprotocols to offer, the preferred one first."""
    payload: Payload = Payload.TEXT
    """Encoding of messages."""
    auth: Auth = Auth()
    """Credentials for `url`."""
    tls: Tls = Tls()
    """TLS of connections to `url`."""
    connect: Connect = Connect()
    """The start of connections, their time limits and their proxy."""
    reconnect: Reconnect = Reconnect()
    """Backoff between attempts."""
    retry: Retry = Retry()
    """The conditions for sending a message again."""
    batch: Batch | None = None
    """The joining of events into messages. None: one event, one message."""
    delivery: Delivery = Delivery()
    """The meaning of successful delivery."""
    heartbeat: Heartbeat | None = Heartbeat()
    """Periodic pings, by default with the values of the section. ``none`` (None in Python): no periodic pings."""
    cursor: Cursor | None = None
    """Resume tokens. None: connections do not resume."""
    spool: Spool | None = None
    """Events on disk until they are confirmed. None: they are in memory only."""
    server: Server | None = None
    """The listener. Required in all modes but client."""
    history: History | None = None
    """Events that are retained for peers. None: no event is retained."""
    max_message_size: t.Size = MIB
    """Most bytes of one message, sent or received."""
    shutdown_timeout: t.DurationOrZero = 10.0
    """Longest time for a graceful end: to deliver what was accepted, and to close."""

    def handshake_templates(self) -> list[str]:
        """Return the texts that each attempt expands. Show none of them: some hold secrets."""
        auth = self.auth
        secrets = [
            *auth.headers.values(),
            *auth.query.values(),
            auth.bearer_token,
            self.tls.client_key_password,
        ]
        texts = [*self.urls, *self.headers.values(), *self.query.values()]
        if auth.basic is not None:
            texts.append(auth.basic.username)
            secrets.append(auth.basic.password)
        return texts + [secret.reveal() for secret in secrets if secret is not None]

    @property
    def urls(self) -> tuple[str, ...]:
        """The urls of the link, in the order in which they are tried; none if there is no link."""
        return (self.url,) if isinstance(self.url, str) else tuple(self.url or ())

    @property
    def least_spool(self) -> int:
        """Least bytes of a spool: room for two of the largest messages."""
        return 2 * (self.max_message_size + _SPOOL_OVERHEAD)

    @property
    def spool_bytes(self) -> int:
        """Most bytes of the spool."""
        given = None if self.spool is None else self.spool.max_bytes
        return max(GIB, self.least_spool) if given is None else given
