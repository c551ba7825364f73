"""What must hold between fields, and what each mode can't use (SPEC 2, 5, 6, 9). One field alone is for its kind.

Each rule is a generator of problems; `check` runs them all. Where a field could not be read (`Unknown`), what
needs it stops there, and everything else runs, so that all problems are told at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from attrs import fields, fields_dict, has

from trio_wsout.config.quantities import format_duration
from trio_wsout.config.sections import Config, Mode, Payload
from trio_wsout.config.templates import Template
from trio_wsout.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from attrs import Attribute, AttrsInstance

    from trio_wsout.config.secret import Secret

__all__ = ["UNUSABLE", "UNUSABLE_WITHOUT_LINK", "check", "default_of", "says_nothing", "unusable"]


_Value = TypeVar("_Value")


class NeedsUnknownError(Exception):
    """A rule needs a value that could not be read; the problems that it found before still hold."""


class Unknown:
    """Stands in a Config for a value that could not be read: it is not None, and a rule that needs more of it stops."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons

    def _stop(self, *_: object) -> NoReturn:
        raise NeedsUnknownError

    # Any attribute or method that a value of any field could have.
    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any section's fields
        self._stop()

    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __add__ = __radd__ = _stop
    __bool__ = __iter__ = __len__ = __hash__ = __float__ = _stop


class Missing(Unknown):
    """Stands for a required field that is absent."""


def known(value: _Value) -> _Value:
    """Return a value that is passed on to a function that does not stop at an `Unknown`.

    Raises:
        NeedsUnknownError: It could not be read.
    """
    if isinstance(value, Unknown):
        raise NeedsUnknownError
    return value


# -- what a mode can't use

_LINK_SECTIONS = ("connect", "reconnect", "auth", "tls", "headers", "query")
_LINK_FIELDS = (
    "retry.retries",
    "cursor.initial_value",
    "cursor.persist_to",
    "cursor.state_id",
    "cursor.resume_on_reconnect",
)
"""A listener sends nothing twice, and keeps no cursor of its own."""
_LISTENER = ("server", "history")

UNUSABLE: Mapping[Mode, tuple[str, ...]] = {
    Mode.CLIENT: _LISTENER,
    Mode.SERVER_OUTPUT: ("url", *_LINK_SECTIONS, "spool", *_LINK_FIELDS, "server.sender_field"),
    Mode.SERVER_INPUT: (
        "url",
        *_LINK_SECTIONS,
        "spool",
        "history",
        "retry",
        "delivery",
        "cursor",
        # Nothing is sent: what a batch looks like is used, to take messages apart.
        "batch.fixed_size",
        "batch.timeout",
        "batch.use_document_marker",
        "server.send_buffer_capacity",
        "server.slow_peer",
        "server.slow_peer_timeout",
        "server.sender_field",
    ),
    Mode.RELAY: ("spool",),
}
"""Fields (attribute names, joined by a dot) that a mode can't use."""
UNUSABLE_WITHOUT_LINK = (*_LINK_SECTIONS, *_LINK_FIELDS)
"""What mode relay can't use either while it has no `url`."""


def unusable(mode: Mode, *, link: bool) -> tuple[str, ...]:
    """Return the fields that a configuration of this mode, with a `url` or without, can't use."""
    return UNUSABLE[mode] if link or mode is not Mode.RELAY else (*UNUSABLE[mode], *UNUSABLE_WITHOUT_LINK)


def check(config: Config) -> list[Problem]:
    """Return every rule that the configuration breaks; its fields are of their kinds, or `Unknown`."""
    return [problem for rule in _RULES for problem in _found(rule, config)]


def _found(rule: Callable[[Config], Iterator[Problem]], config: Config) -> Iterator[Problem]:
    try:
        yield from rule(config)
    except NeedsUnknownError:
        return


def _key(name: str) -> str:
    return name.replace("_", "-")


def default_of(field: Attribute[Any], section: object) -> Any:  # noqa: ANN401 - any field's value
    """Return the default of a field beside the other fields of its section; NOTHING if it is required."""
    factory = getattr(field.default, "factory", None)
    if factory is None:
        return field.default
    return factory(section) if getattr(field.default, "takes_self", False) else factory()


def says_nothing(section: Any, name: str) -> bool:  # noqa: ANN401 - any section
    """Whether a field is as good as absent: null, its default, or a section with nothing but that."""
    value: object = getattr(section, name)
    if value is None or isinstance(value, Missing):
        return True
    if isinstance(value, Unknown):
        return False
    inside = type(value)
    of_section = cast("type[AttrsInstance]", type(section))
    if has(inside):
        return all(says_nothing(value, each.name) for each in fields(inside))
    return bool(value == default_of(fields_dict(of_section)[name], section))


def _what_the_mode_cannot_use(config: Config) -> Iterator[Problem]:
    mode, link = config.mode, config.url is not None
    if isinstance(mode, Unknown):
        return
    for name in unusable(mode, link=link):
        section, _, field = name.rpartition(".")
        holder = getattr(config, section) if section else config
        if holder is None or isinstance(holder, Unknown):
            continue
        if not says_nothing(holder, field):
            yield Problem(path=_key(name), reason=_unusable(name, mode))


def _unusable(name: str, mode: Mode) -> str:
    if name not in UNUSABLE[mode]:
        return "is for the link of a relay, which needs url; without url leave it out"
    usable = [other.value for other in Mode if name not in UNUSABLE[other]]
    return (
        f"can't be used in mode {mode.value}; it belongs to {', '.join(usable)}; leave it out, or empty, "
        "or at its default"
    )


def _what_the_mode_needs(config: Config) -> Iterator[Problem]:
    mode = config.mode
    if isinstance(mode, Unknown):
        return
    if mode is Mode.CLIENT and config.url is None:
        yield Problem(path="url", reason="is required in mode client, for example wss://example.com/events")
    if mode is not Mode.CLIENT and config.server is None:
        yield Problem(
            path="server", reason=f"is required in mode {mode.value}, at least with bind: host:port"
        )


def _backoff(config: Config) -> Iterator[Problem]:
    reconnect = config.reconnect
    if reconnect.max_backoff < reconnect.initial_backoff:
        least = format_duration(reconnect.initial_backoff)
        reason = f"is smaller than reconnect.initial-backoff, which is {least}"
        yield Problem(path="reconnect.max-backoff", reason=reason)


def _subprotocols(config: Config) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, name in enumerate(config.subprotocols):
        if isinstance(name, Unknown):
            continue
        if name in seen:
            yield Problem(path=f"subprotocols[{index}]", reason="is there twice")
        seen.add(name)


def _credentials(config: Config) -> Iterator[Problem]:
    if config.auth.bearer_token is not None and config.auth.basic is not None:
        yield Problem(path="auth", reason="bearer-token and basic can't be used together; keep one")


def _pair(config: Config) -> Iterator[Problem]:
    tls = config.tls
    if tls.client_certificate is not None and tls.client_key is None:
        yield Problem(path="tls.client-certificate", reason="needs tls.client-key as well")
    if tls.client_key is not None and tls.client_certificate is None:
        yield Problem(path="tls.client-key", reason="needs tls.client-certificate as well")
    if tls.client_key_password is not None and tls.client_key is None:
        yield Problem(
            path="tls.client-key-password", reason="is the password of tls.client-key, which is not there"
        )


def _verification(config: Config) -> Iterator[Problem]:
    if config.tls.ca_certificate is not None and config.tls.insecure_skip_verify:
        yield Problem(
            path="tls.insecure-skip-verify", reason="makes tls.ca-certificate useless; keep one of the two"
        )


def _twice(path: str, headers: Mapping[str, object]) -> Iterator[Problem]:
    seen: set[str] = set()
    for name in headers:
        if name.lower() in seen:
            yield Problem(path=f"{path}.{name}", reason="is there twice (names are compared without case)")
        seen.add(name.lower())


def _headers(config: Config) -> Iterator[Problem]:
    yield from _twice("headers", config.headers)


def _auth_headers(config: Config) -> Iterator[Problem]:
    yield from _twice("auth.headers", config.auth.headers)


def _batch_sources(config: Config) -> Iterator[Problem]:
    if config.batch is None or config.mode not in {Mode.SERVER_OUTPUT, Mode.RELAY}:
        return
    for name, text in (("header", config.batch.header), ("footer", config.batch.footer)):
        for each in () if text is None else Template.parse(known(text), of_batch=True).placeholders:
            if each.source in {"cursor", "attempt"}:
                reason = f"${{{each.source}}} is a link's, and mode {config.mode.value} sends batches to many peers"
                yield Problem(path=f"batch.{name}", reason=reason)


def _spool(config: Config) -> Iterator[Problem]:
    if config.spool is None or config.spool.max_bytes is None or config.mode is not Mode.CLIENT:
        return
    if config.spool.max_bytes < (least := config.least_spool):
        yield Problem(
            path="spool.max-bytes",
            reason=f"must be {least} bytes or more, room for two messages of max-message-size",
        )


def _cursor_transport(config: Config) -> Iterator[Problem]:
    cursor = config.cursor
    if cursor is None or cursor.header_name is not None or cursor.query_parameter is not None:
        return
    if not any(_sends_cursor(text) for text in config.handshake_templates()):
        reason = "needs header-name or query-parameter, to send the cursor"
        if config.mode is Mode.CLIENT or config.url is not None:
            reason += "; or ${cursor} in url, headers, query or auth"
        yield Problem(path="cursor", reason=reason)


def _sends_cursor(text: str) -> bool:
    return any(each.source == "cursor" for each in Template.parse(known(text)).placeholders)


def _cursor_value(config: Config) -> Iterator[Problem]:
    cursor = config.cursor
    if cursor is not None and cursor.value_field is not None and cursor.value_pointer is not None:
        yield Problem(path="cursor.value-pointer", reason="can't be used together with value-field; keep one")


def _sender_field(config: Config) -> Iterator[Problem]:
    if config.mode is not Mode.RELAY or config.server is None or config.server.sender_field is None:
        return
    path = "server.sender-field"
    if config.payload is not Payload.JSON and not isinstance(config.payload, Unknown):
        yield Problem(path=path, reason="needs payload: json, for only then the relay reads what peers send")
    if config.server.sender_field == config.delivery.stamp:
        yield Problem(path=path, reason="is delivery.stamp as well; give them different names")


def _server_auth(config: Config) -> Iterator[Problem]:
    auth = None if config.server is None else config.server.auth
    if auth is not None and not auth.basic and not auth.bearer:
        yield Problem(path="server.auth", reason="admits nobody: give basic or bearer, or leave it out")


def _token_parameter(config: Config) -> Iterator[Problem]:
    auth = None if config.server is None else config.server.auth
    if auth is None or auth.query_parameter is None:
        return
    path = "server.auth.query-parameter"
    if not auth.bearer:
        yield Problem(path=path, reason="carries a token of server.auth.bearer, and there is none")
    if config.cursor is not None and config.cursor.query_parameter == auth.query_parameter:
        yield Problem(path=path, reason="is cursor.query-parameter as well; give them different names")


def _shared_tokens(config: Config) -> Iterator[Problem]:
    auth = None if config.server is None else config.server.auth
    owners: dict[str, str] = {}
    tokens: Mapping[str, Secret | Unknown] = {} if auth is None else auth.bearer
    for identity, token in tokens.items():
        if isinstance(token, Unknown):
            continue
        owner = owners.setdefault(token.reveal(), identity)
        if owner != identity:
            reason = f"is the token of {owner} as well; each needs its own"
            yield Problem(path=f"server.auth.bearer.{identity}", reason=reason)


_RULES = (
    _what_the_mode_cannot_use,
    _what_the_mode_needs,
    _backoff,
    _subprotocols,
    _credentials,
    _pair,
    _verification,
    _headers,
    _auth_headers,
    _sender_field,
    _server_auth,
    _token_parameter,
    _shared_tokens,
    _batch_sources,
    _spool,
    _cursor_transport,
    _cursor_value,
)
