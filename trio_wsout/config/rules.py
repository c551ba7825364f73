"""What must hold between fields: for loaded documents and for a Config made in Python (SPEC 2, 5, 6, 9).

Each rule is a generator of problems; `check` runs them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import fields

from trio_wsout.config.header_fields import (
    BEARER_ALLOWED,
    is_bearer,
    is_header_value,
    is_reserved_header,
    is_token,
)
from trio_wsout.config.quantities import is_unicode
from trio_wsout.config.sections import Batch, Config, Cursor, Mode, Payload, Retry
from trio_wsout.config.templated import attempt_placeholders
from trio_wsout.config.templates import Template
from trio_wsout.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

__all__ = ["UNUSABLE", "check"]

_LINK_ONLY = ("url", "connect", "reconnect", "auth", "tls", "headers", "query", "spool")
_LISTENER_ONLY = ("server", "history")

UNUSABLE: Mapping[Mode, tuple[str, ...]] = {
    Mode.CLIENT: _LISTENER_ONLY,
    Mode.SERVER_OUTPUT: _LINK_ONLY,
    Mode.SERVER_INPUT: (*_LINK_ONLY, "history", "retry", "delivery", "cursor"),
    Mode.RELAY: ("spool",),
}
"""Top-level fields (attribute names) that a mode can't use."""

_OF_A_LINK: Mapping[str, tuple[Retry | Cursor, tuple[str, ...]]] = {
    "retry": (Retry(), ("retries",)),
    "cursor": (Cursor(), ("initial_value", "persist_to", "state_id", "resume_on_reconnect")),
}
"""Fields of sections that only a link uses: a listener sends nothing twice and keeps no cursor of its own."""

_MOST_PING = 125
_LONGEST_STATE_ID = 200
_SPOOLED_BESIDE = 512
"""Bytes that a message of the largest size may take in the spool beside its own, of which base64 adds a third."""


def check(config: Config, present: Collection[str] | None = None) -> list[Problem]:
    """Every rule that the configuration breaks.

    Args:
        config: A configuration whose single fields are valid.
        present: Top-level attribute names that the user wrote; None: those that differ from their
            default.
    """
    written = _written(config) if present is None else present
    return [
        *_modes(config, written),
        *_without_link(config),
        *_link(config),
        *_auth(config),
        *_tls(config),
        *_headers(config),
        *_sender_field(config),
        *_server_auth(config),
        *_rest(config),
    ]


def _written(config: Config) -> list[str]:
    return [
        each.name for each in fields(Config) if getattr(config, each.name) != getattr(_DEFAULTS, each.name)
    ]


_DEFAULTS = Config()


def _key(name: str) -> str:
    return name.replace("_", "-")


def _modes(config: Config, written: Iterable[str]) -> Iterator[Problem]:
    mode = config.mode
    for name in written:
        if name in UNUSABLE[mode]:
            usable = [other.value for other in Mode if name not in UNUSABLE[other]]
            yield Problem(
                path=_key(name),
                reason=f"can't be used in mode {mode.value}; it belongs to {', '.join(usable)}",
            )
    if mode is Mode.CLIENT and config.url is None:
        yield Problem(path="url", reason="is required in mode client, for example wss://example.com/events")
    if mode is not Mode.CLIENT and config.server is None:
        yield Problem(
            path="server", reason=f"is required in mode {mode.value}, at least with bind: host:port"
        )


def _without_link(config: Config) -> Iterator[Problem]:
    """What only a link can use, where there is none."""
    if config.mode is Mode.CLIENT or config.url is not None:
        return
    for section, (default, names) in _OF_A_LINK.items():
        value = getattr(config, section)
        for name in names:
            if value is not None and getattr(value, name) != getattr(default, name):
                path = f"{_key(section)}.{_key(name)}"
                yield Problem(
                    path=path, reason=f"is for links, and mode {config.mode.value} without url has none"
                )
    if config.mode is Mode.RELAY:
        for name in _LINK_ONLY:
            if name != "spool" and getattr(config, name) != getattr(_DEFAULTS, name):
                yield Problem(path=_key(name), reason="is for the link of a relay, which needs url")


def _link(config: Config) -> Iterator[Problem]:
    reconnect = config.reconnect
    if reconnect.max_backoff < reconnect.initial_backoff:
        yield Problem(path="reconnect.max-backoff", reason="is smaller than reconnect.initial-backoff")
    seen: set[str] = set()
    for index, name in enumerate(config.subprotocols):
        if not is_token(name):
            yield Problem(
                path=f"subprotocols[{index}]", reason="is not a valid subprotocol name (RFC 6455 section 4.1)"
            )
        if name in seen:
            yield Problem(path=f"subprotocols[{index}]", reason="is there twice")
        seen.add(name)


def _auth(config: Config) -> Iterator[Problem]:
    auth = config.auth
    if auth.bearer_token is not None and auth.basic is not None:
        yield Problem(path="auth", reason="bearer-token and basic can't be used together; keep one")
    if auth.basic is not None and ":" in (_static(auth.basic.username) or ""):
        yield Problem(path="auth.basic.username", reason="holds a colon, which a user name can't (RFC 7617)")
    token = None if auth.bearer_token is None else _static(auth.bearer_token.reveal())
    if token is not None and not is_bearer(token):
        yield Problem(path="auth.bearer-token", reason=f"must be {BEARER_ALLOWED}")


def _tls(config: Config) -> Iterator[Problem]:
    tls = config.tls
    if tls.client_certificate is not None and tls.client_key is None:
        yield Problem(path="tls.client-certificate", reason="needs tls.client-key as well")
    if tls.client_key is not None and tls.client_certificate is None:
        yield Problem(path="tls.client-key", reason="needs tls.client-certificate as well")
    if tls.client_key_password is not None and tls.client_key is None:
        yield Problem(
            path="tls.client-key-password", reason="is the password of tls.client-key, which is not there"
        )
    if tls.insecure_skip_verify and tls.ca_certificate is not None:
        yield Problem(
            path="tls.insecure-skip-verify", reason="makes tls.ca-certificate useless; keep one of the two"
        )


def _sender_field(config: Config) -> Iterator[Problem]:
    name = None if config.server is None else config.server.sender_field
    if name is None:
        return
    path = "server.sender-field"
    if config.mode is not Mode.RELAY:
        yield Problem(path=path, reason=f"can't be used in mode {config.mode.value}; it belongs to relay")
    elif config.payload is not Payload.JSON:
        yield Problem(path=path, reason="needs payload: json, for only then the relay reads what peers send")
    if name == config.delivery.stamp:
        yield Problem(path=path, reason="is delivery.stamp as well; give them different names")


def _server_auth(config: Config) -> Iterator[Problem]:
    auth = None if config.server is None else config.server.auth
    if auth is None:
        return
    if not auth.basic and not auth.bearer:
        yield Problem(path="server.auth", reason="admits nobody: give basic or bearer, or leave it out")
    if auth.query_parameter is not None:
        yield from _query_parameter(auth.query_parameter, config, there=bool(auth.bearer))
    for name, password in auth.basic.items():
        path = f"server.auth.basic.{name}"
        if not name or ":" in name or not is_header_value(name):
            yield Problem(
                path=path, reason="is no user name: it is empty, or holds a colon or a control character"
            )
        yield from _shown_secret(path, _static(password.reveal()), is_header_value, "no control characters")
    owners: dict[str, str] = {}
    for identity, token in auth.bearer.items():
        path, text = f"server.auth.bearer.{identity}", _static(token.reveal())
        yield from _shown_secret(path, text, is_bearer, BEARER_ALLOWED)
        if text and owners.setdefault(text, identity) != identity:
            yield Problem(path=path, reason=f"is the token of {owners[text]} as well; each needs its own")


def _query_parameter(name: str, config: Config, *, there: bool) -> Iterator[Problem]:
    path = "server.auth.query-parameter"
    if not name:
        yield Problem(path=path, reason="is empty; name the parameter, for example access_token")
    if not there:
        yield Problem(path=path, reason="carries a token of server.auth.bearer, and there is none")
    if config.cursor is not None and config.cursor.query_parameter == name:
        yield Problem(path=path, reason="is cursor.query-parameter as well; give them different names")


def _shown_secret(
    path: str, text: str | None, allowed: Callable[[str], bool], words: str
) -> Iterator[Problem]:
    """What a peer shows: never empty, and such as a header can carry."""
    if text is not None and not (text and allowed(text)):
        yield Problem(path=path, reason=f"must be {words}" if text else "is empty, which would admit anybody")


def _static(text: str) -> str | None:
    """The text of a template that is the same at every expansion; None: it is not."""
    template = Template.parse(text)
    return template.expand(_no_value) if template.is_static else None


def _no_value(source: str, name: str | None) -> None:
    """A static text asks for none."""


def _headers(config: Config) -> Iterator[Problem]:
    secret = {name: value.reveal() for name, value in config.auth.headers.items()}
    for table, headers in (("headers", config.headers), ("auth.headers", secret)):
        seen: set[str] = set()
        for name, text in headers.items():
            yield from _header_name(f"{table}.{name}", name)
            if not is_header_value(_static(text) or ""):
                yield Problem(
                    path=f"{table}.{name}", reason="holds a control character (CR, LF, NUL or another)"
                )
            if name.lower() in seen:
                yield Problem(
                    path=f"{table}.{name}", reason="is there twice (names are compared without case)"
                )
            seen.add(name.lower())
    cursor = config.cursor
    if cursor is not None and cursor.header_name is not None:
        yield from _header_name("cursor.header-name", cursor.header_name)


def _header_name(path: str, name: str) -> Iterator[Problem]:
    if not is_token(name):
        yield Problem(path=path, reason="is not a valid header name (RFC 9110 section 5.1)")
    elif name.lower() == "sec-websocket-protocol":
        yield Problem(path=path, reason="can't be set; subprotocols has its own field")
    elif is_reserved_header(name):
        yield Problem(path=path, reason="belongs to the handshake itself and can't be set")


def _rest(config: Config) -> Iterator[Problem]:
    if config.heartbeat is not None and len(config.heartbeat.payload.encode("utf-8", "replace")) > _MOST_PING:
        yield Problem(
            path="heartbeat.payload", reason=f"has more than {_MOST_PING} bytes, the most of a ping"
        )
    history = config.history
    if (
        history is not None
        and history.store not in {"", "memory:"}
        and not history.store.startswith("sqlite:")
    ):
        yield Problem(
            path="history.store",
            reason="expected memory: or sqlite:PATH (redis is not available in this version)",
        )
    if config.batch is not None:
        yield from _batch(config.batch, config.mode)
    yield from _places(config)
    yield from _cursor(config)
    yield from _spool(config)


def _places(config: Config) -> Iterator[Problem]:
    """Stores whose place is missing."""
    cursor, history, spool = config.cursor, config.history, config.spool
    for path, place in (
        ("cursor.persist-to", cursor and cursor.persist_to),
        ("history.store", history and history.store),
        ("spool.path", spool and spool.path),
    ):
        if place in {"", "sqlite:"}:
            yield Problem(path=path, reason="names no place; write its path")


def _batch(batch: Batch, mode: Mode) -> Iterator[Problem]:
    for name, text in (("header", batch.header), ("footer", batch.footer)):
        if not is_unicode(text or ""):
            yield Problem(
                path=f"batch.{name}", reason="holds half of a surrogate pair, which is no character"
            )
        elif mode in {Mode.SERVER_OUTPUT, Mode.RELAY}:
            for each in Template.parse(text or "", of_batch=True).placeholders:
                if each.source in {"cursor", "attempt"}:
                    yield Problem(
                        path=f"batch.{name}",
                        reason=f"${{{each.source}}} is a link's, and mode {mode.value} sends batches to many peers",
                    )


def _spool(config: Config) -> Iterator[Problem]:
    if config.spool is None or config.mode is not Mode.CLIENT:
        return
    least = 2 * (config.max_message_size + _SPOOLED_BESIDE)
    if config.spool.max_bytes < least:
        yield Problem(
            path="spool.max-bytes",
            reason=f"must be {least} bytes or more, room for two messages of max-message-size",
        )


def _cursor(config: Config) -> Iterator[Problem]:
    cursor = config.cursor
    if cursor is None:
        return
    templated = any(each.source == "cursor" for each in attempt_placeholders(config))
    if cursor.header_name is None and cursor.query_parameter is None and not templated:
        reason = "needs header-name or query-parameter, to send the cursor"
        if config.mode is Mode.CLIENT or config.url is not None:
            reason += "; or ${cursor} in url, headers, query or auth"
        yield Problem(path="cursor", reason=reason)
    if cursor.value_field is not None and cursor.value_pointer is not None:
        yield Problem(path="cursor.value-pointer", reason="can't be used together with value-field; keep one")
    if cursor.persist_to is not None and cursor.persist_to.startswith(("redis:", "rediss:")):
        yield Problem(
            path="cursor.persist-to",
            reason="redis is not available in this version; use a path or sqlite:PATH",
        )
    state_id = cursor.state_id
    if state_id is not None and (not 0 < len(state_id) <= _LONGEST_STATE_ID or not state_id.isprintable()):
        yield Problem(
            path="cursor.state-id",
            reason=f"must have 1 to {_LONGEST_STATE_ID} characters, none of them a control character",
        )
