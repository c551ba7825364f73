"""The configuration, one frozen class a section; attribute ``ping_interval`` is the key ``ping-interval``.

These classes hold values, their kinds and defaults: `loading` makes them from documents,
`rules` says what must hold between fields. Durations are float seconds, sizes are bytes.
Classes compare by value. What a field does is told by SPEC under the section number given here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from attrs import Factory, field, frozen, has, resolve_types

from trio_wsout.config import field_types as t
from trio_wsout.config.secret import Secret, mask_headers

__all__ = [
    "Auth",
    "Basic",
    "Batch",
    "BatchMode",
    "Config",
    "Connect",
    "ConnectMode",
    "Cursor",
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
_SPOOLED_BESIDE = 512
"""Bytes that a message of the largest size may take in the spool beside its own, of which base64 adds a third."""


def not_below(usual: float, other: object) -> float:
    """Return a default that is never below the field beside it; whether that one is a number is told elsewhere."""
    return max(usual, other) if isinstance(other, int | float) else usual


class Mode(StrEnum):
    """Operating mode of the output (SPEC 2)."""

    CLIENT = "client"
    SERVER_OUTPUT = "server-output"
    SERVER_INPUT = "server-input"
    RELAY = "relay"


class Payload(StrEnum):
    """Encoding of messages (SPEC 4)."""

    TEXT = "text"
    JSON = "json"
    BINARY = "binary"
    BINARY_BASE64 = "binary-base64"


class BatchMode(StrEnum):
    """What closes a batch (SPEC 4)."""

    FIXED = "fixed"
    DOCUMENT = "document"


class ConnectMode(StrEnum):
    """When the first attempt is made (SPEC 5)."""

    LAZY = "lazy"
    EAGER = "eager"


class HeartbeatAction(StrEnum):
    """What a missed heartbeat does (SPEC 8)."""

    RECONNECT = "reconnect"
    LOG_ONLY = "log-only"


class DeliveryLevel(StrEnum):
    """What counts as delivered (SPEC 7)."""

    WRITTEN = "written"
    RECEIVED = "received"
    ACKED = "acked"


class OnGap(StrEnum):
    """What a peer meets whose cursor leads nowhere (SPEC 9)."""

    TELL = "tell"
    REFUSE = "refuse"


class SlowPeer(StrEnum):
    """What happens to a peer whose send buffer is full (SPEC 10)."""

    WAIT = "wait"
    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop-oldest"


NONE = "none"
"""What `heartbeat` is written as where there is none."""


@frozen(kw_only=True)
class Retry:
    """Retry policy for messages that were written and not confirmed (SPEC 7)."""

    timeout: t.Duration = 30.0
    """Seconds from a message's first byte to its confirmation on one connection; > 0."""
    retries: t.CountOrZero | None = None
    """How many times a message may be tried again; None: as long as the link lives; ≥ 0."""


@frozen(kw_only=True)
class Batch:
    """Joins events into one message (SPEC 4)."""

    mode: BatchMode
    """``fixed`` closes at `fixed_size` events, ``document`` at ``end_document()``."""
    fixed_size: t.Count | None = None
    """Most events in a batch, ≥ 1; None: 100 in fixed mode, no bound in document mode."""
    timeout: t.Duration = 0.1
    """Seconds after a batch's first event when it is sent all the same; > 0. A document goes on in another
    batch then."""
    header: t.BatchLine | None = None
    """A line put before each batch; templated, expanded for each batch."""
    footer: t.BatchLine | None = None
    """A line put after each batch; templated, expanded for each batch."""
    use_document_marker: bool = False
    """Add ``{"document": {"id", "first", "last", "count"}}`` to receipts and statistics."""
    wrap_as_json: bool = False
    """A JSON array instead of one event a line."""


@frozen(kw_only=True)
class Connect:
    """How outgoing connections are made (SPEC 5)."""

    mode: ConnectMode = ConnectMode.LAZY
    """``lazy``: dial when the first event waits, or at once where messages of the peer are taken; ``eager``: dial in ``open_output``."""
    timeout: t.Duration = 10.0
    """Seconds for one attempt: DNS, TCP, proxy, TLS and handshake together; > 0."""
    eager_timeout: t.Duration = Factory(lambda self: not_below(30.0, self.timeout), takes_self=True)
    """Seconds that an eager start-up may take, retries included; > 0. Default: 30s, or `timeout` if that is longer."""
    proxy: t.Proxy | None = None
    """``http://``, ``https://``, ``socks5://`` or ``socks5h://`` URL, or ``none``; None: what the environment says."""


@frozen(kw_only=True)
class Basic:
    """Basic authentication (SPEC 5)."""

    username: t.Username
    """User name; templated; no colon."""
    password: t.SecretValue
    """Password; templated."""


@frozen(kw_only=True)
class Auth:
    """Credentials put into the opening handshake (SPEC 5)."""

    headers: Mapping[t.HeaderName, t.SecretHeaderValue] = Factory(dict[str, Secret])
    """Headers to add; values templated."""
    query: Mapping[t.Name, t.SecretValue] = Factory(dict[str, Secret])
    """Query parameters to add; values templated."""
    bearer_token: t.BearerToken | None = None
    """Sent as ``Authorization: Bearer …``; templated; not together with `basic`."""
    basic: Basic | None = None
    """Sent as ``Authorization: Basic …``; not together with `bearer_token`."""


@frozen(kw_only=True)
class Tls:
    """TLS of outgoing connections (SPEC 5). Each file is a path, or PEM text itself."""

    ca_certificate: t.Text | None = None
    """The only CA to trust, instead of the system's roots."""
    client_certificate: t.Text | None = None
    """Certificate chain for mutual TLS; needs `client_key`."""
    client_key: t.SecretText | None = None
    """Private key for mutual TLS; needs `client_certificate`."""
    client_key_password: t.SecretTemplate | None = None
    """Password of an encrypted `client_key`; templated."""
    insecure_skip_verify: bool = False
    """Accept any certificate; a WARNING at every connection; not with `ca_certificate`."""


@frozen(kw_only=True)
class Heartbeat:
    """Finds dead peers, and keeps connections open that proxies cut when they are silent (SPEC 8)."""

    ping_interval: t.Duration = 20.0
    """Seconds after the last inbound frame until a ping; > 0."""
    timeout: t.Duration = 10.0
    """Seconds from a ping's writing, or from the latest progress of what lies before it, until any frame; > 0."""
    action: HeartbeatAction = HeartbeatAction.RECONNECT
    """``reconnect`` cuts the connection; ``log-only`` warns and counts."""
    payload: t.PingPayload = ""
    """Carried by every periodic ping; a ping that is to confirm adds a number; at most 125 bytes of UTF-8."""


@frozen(kw_only=True)
class Reconnect:
    """Backoff between attempts (SPEC 6)."""

    initial_backoff: t.Duration = 0.5
    """Seconds: the ceiling after the first failure; > 0."""
    max_backoff: t.Duration = Factory(lambda self: not_below(30.0, self.initial_backoff), takes_self=True)
    """Seconds: no delay is longer; ≥ `initial_backoff`. Default: 30s, or `initial_backoff` if that is longer."""
    multiplier: t.Multiplier = 2.0
    """Growth of the ceiling a failure; ≥ 1."""
    jitter: t.Share = 0.5
    """Share of the ceiling that is random: 0 exact, 1 full jitter."""
    max_attempts: t.Count | None = None
    """Failures in a row before giving up, ≥ 1; None: never."""
    reset_after: t.DurationOrZero = 10.0
    """Seconds that a connection must have been open for the count to return to 0; ≥ 0."""
    give_up_on: tuple[t.CloseCodes, ...] = ((3500, 3999), (4500, 4999))
    """Close codes that are final, as (first, last) ranges; written ``4500-4999`` or ``4001``."""


@frozen(kw_only=True)
class Delivery:
    """What successful delivery means (SPEC 7)."""

    level: DeliveryLevel = DeliveryLevel.RECEIVED
    """``written``, ``received`` or ``acked``."""
    ack_pointer: t.JsonPointer = "/ack"
    """RFC 6901 pointer to the cursor or sequence number in a peer's acknowledgement."""
    max_unconfirmed: t.Count = 1024
    """Most messages in the window; ≥ 1."""
    max_unconfirmed_bytes: t.Size = 8 * MIB
    """Most bytes of messages in the window; ≥ 1. One message always fits."""
    stamp: t.UnicodeText | None = None
    """Key under which each object event carries ``epoch-seq``; None: not stamped."""


@frozen(kw_only=True)
class Cursor:
    """Resume tokens (SPEC 9). One of `header_name` and `query_parameter` is needed."""

    header_name: t.HeaderName | None = None
    """Header that carries the cursor in the opening handshake."""
    query_parameter: t.Parameter | None = None
    """Query parameter that carries the cursor in the opening handshake."""
    persist_to: t.CursorStore | None = None
    """``memory:``, ``sqlite:PATH``, a directory or a file; None: see `state_id`."""
    initial_value: t.Text | None = None
    """Cursor for the first connection, where nothing is stored."""
    state_id: t.StateId | None = None
    """Key of the stored cursor; given without `persist_to`, the platform's state directory."""
    resume_on_reconnect: bool = True
    """Whether attempts after the first connection carry the cursor too."""
    value_field: t.DottedPath | None = None
    """Dotted path in the event; not together with `value_pointer`."""
    value_pointer: t.JsonPointer | None = None
    """RFC 6901 pointer into the event; not together with `value_field`."""


@frozen(kw_only=True)
class Spool:
    """Accepted events on disk until they are confirmed (SPEC 7); client mode."""

    path: t.FilePath
    """Directory of the log."""
    max_bytes: t.Size | None = None
    """Most bytes on disk; ``send`` waits beyond it. None: 1GiB, or room for two messages of `max_message_size` if
    that is more."""


@frozen(kw_only=True)
class ServerTls:
    """TLS of the listener (SPEC 10)."""

    cert: t.FilePath
    """Path of the certificate chain."""
    key: t.FilePath
    """Path of the private key."""
    key_password: t.SecretTemplate | None = None
    """Password of an encrypted `key`; templated."""


@frozen(kw_only=True)
class ServerAuth:
    """What a peer must show to come in (SPEC 10); a peer that shows none of it is answered 401."""

    basic: Mapping[t.User, t.PeerPassword] = Factory(dict[str, Secret])
    """Passwords by user name, for ``Authorization: Basic``; templated. The name is the peer's identity."""
    bearer: Mapping[t.Name, t.BearerToken] = Factory(dict[str, Secret])
    """Tokens by identity, for ``Authorization: Bearer``; templated."""
    query_parameter: t.Parameter | None = None
    """Query parameter that may carry a token of `bearer`, for browsers, which can't set headers."""


@frozen(kw_only=True)
class Server:
    """The embedded listener (SPEC 10)."""

    bind: t.Bind
    """``host:port``, ``[v6]:port``, ``:port`` (all addresses) or ``unix:PATH``."""
    path: t.UrlPath | None = None
    """The one path that is served, beside ``/healthz``; None: any."""
    tls: ServerTls | None = None
    """TLS material; None: plain."""
    sender_field: t.UnicodeText | None = None
    """Key under which each object that a peer sends carries the peer's identity (mode relay, payload json)."""
    auth: ServerAuth | None = None
    """Who may come in; None: everybody, unless the application's `authenticate` says otherwise."""
    max_connections: t.Count | None = None
    """Most peers at a time, ≥ 1; None: no bound."""
    idle_timeout: t.Duration | None = None
    """Seconds without a message in either direction before Close 1001; None: never."""
    allowed_origins: tuple[t.Origin, ...] | None = None
    """Origins that are admitted, as ``https://example.com``; None: any. ``https://*.example.com`` is every host below
    that one, and not itself; ``*`` allows all."""
    send_buffer_capacity: t.Count = 256
    """Messages that wait for one peer; ≥ 1."""
    slow_peer: SlowPeer = SlowPeer.WAIT
    """What happens when that buffer is full."""
    slow_peer_timeout: t.Duration = 5.0
    """Seconds that ``slow-peer: wait`` waits; > 0."""
    handshake_timeout: t.Duration = 10.0
    """Seconds for TLS and handshake together; > 0."""
    viewer: bool = False
    """Serve a live page at ``GET /``."""


@frozen(kw_only=True)
class History:
    """The retained log of events (SPEC 11)."""

    store: t.HistoryStore = "memory:"
    """``memory:`` or ``sqlite:PATH``."""
    max_events: t.Count | None = None
    """Most events kept; None: no bound."""
    max_age: t.Duration | None = None
    """Seconds that an event is kept; None: no bound."""
    max_bytes: t.Size | None = None
    """Most bytes kept; None: no bound."""
    on_gap: OnGap = OnGap.TELL
    """What a peer gets whose cursor leads nowhere: ``tell``: a message that says so, and then what is kept;
    ``refuse``: Close 4410 with the first cursor there is as its reason."""


@frozen(kw_only=True)
class Config:
    """A whole output. Sections that mean something by being there are None when absent."""

    mode: Mode = Mode.CLIENT
    """Operating mode."""
    url: t.Url | None = None
    """Remote endpoint as ``ws://`` or ``wss://``; templated; required in client mode."""
    headers: Mapping[t.HeaderName, t.HeaderValue] = field(factory=dict[str, str], repr=mask_headers)
    """Headers for the opening handshake; values templated."""
    query: Mapping[t.Name, t.QueryValue] = Factory(dict[str, str])
    """Query parameters appended to `url`; values templated."""
    subprotocols: tuple[t.Subprotocol, ...] = ()
    """Offered in this order."""
    payload: Payload = Payload.TEXT
    """How events become messages."""
    auth: Auth = Auth()
    """Credentials."""
    tls: Tls = Tls()
    """TLS towards `url`."""
    connect: Connect = Connect()
    """When and how to dial."""
    reconnect: Reconnect = Reconnect()
    """Backoff between attempts."""
    retry: Retry = Retry()
    """Sending again."""
    batch: Batch | None = None
    """Absent: one event, one message."""
    delivery: Delivery = Delivery()
    """What successful delivery means."""
    heartbeat: Heartbeat | None = Heartbeat()
    """Absent: its defaults; ``none`` (None in Python): no periodic pings."""
    cursor: Cursor | None = None
    """Absent: no resume tokens."""
    spool: Spool | None = None
    """Absent: what is unconfirmed is kept in memory only."""
    server: Server | None = None
    """The listener; required in the server modes."""
    history: History | None = None
    """Absent: nothing is retained."""
    max_message_size: t.Size = MIB
    """Most bytes of one message, sent or received; ≥ 1."""
    shutdown_timeout: t.DurationOrZero = 10.0
    """Seconds that a graceful end may take; ≥ 0."""

    def handshake_templates(self) -> list[str]:
        """Return the templated texts that each attempt expands, those of secrets included: show none of them."""
        auth = self.auth
        secrets = [
            *auth.headers.values(),
            *auth.query.values(),
            auth.bearer_token,
            self.tls.client_key_password,
        ]
        texts = [self.url or "", *self.headers.values(), *self.query.values()]
        if auth.basic is not None:
            texts.append(auth.basic.username)
            secrets.append(auth.basic.password)
        return texts + [secret.reveal() for secret in secrets if secret is not None]

    @property
    def least_spool(self) -> int:
        """Bytes that a spool must have room for: two of the largest messages."""
        return 2 * (self.max_message_size + _SPOOLED_BESIDE)

    @property
    def spool_bytes(self) -> int:
        """Most bytes of the spool."""
        given = None if self.spool is None else self.spool.max_bytes
        return max(GIB, self.least_spool) if given is None else given


for _section in [each for each in list(globals().values()) if isinstance(each, type) and has(each)]:
    # The annotations are texts until here; who walks the fields wants the types and kinds.
    resolve_types(_section)
