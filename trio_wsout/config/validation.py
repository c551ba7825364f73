"""Rules between fields, and the fields that each mode can't use (SPEC 2, 5, 6, 9). A rule about one field alone is in its type.

Each rule is a generator of problems: the key path of a field, and the reason. Where a rule needs a value that could not
be read (`Unknown`), it stops there, and every other rule runs, so that all problems are reported in one go.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar, cast

from attrs import Attribute, AttrsInstance, fields, fields_dict, has

from trio_wsout.config.field_types import kebab
from trio_wsout.config.quantities import format_duration
from trio_wsout.config.secret import Secret
from trio_wsout.config.sections import Auth, Config, Cursor, CursorFrom, Mode, Payload, Tls
from trio_wsout.config.templates import Template

# -- values that could not be read ------------------------------------------------------------------------------------

_Value = TypeVar("_Value")


class NeedsUnknownError(Exception):
    """A rule needs a value that could not be read; the problems that it found before still hold."""


class Unknown:
    """Stands in a Config for a value that could not be read: it is not None, and a rule that needs more of it stops."""

    def _stop(self, *_: object) -> NoReturn:
        raise NeedsUnknownError

    # Any attribute or method that a value of any field could have.
    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any section's fields
        self._stop()

    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __add__ = __radd__ = _stop
    __bool__ = __iter__ = __len__ = __hash__ = __float__ = _stop


class Missing(Unknown):
    """Stands for a required field that is absent."""


def _known(value: _Value) -> _Value:
    """Return a value that is passed on to a function that does not stop at an `Unknown`."""
    if isinstance(value, Unknown):
        raise NeedsUnknownError
    return value


# -- what a mode can't use --------------------------------------------------------------------------------------------

_LINK_SECTIONS = ("connect", "reconnect", "auth", "tls", "headers", "query")
# A listener sends nothing twice, and keeps no cursor of its own.
_LINK_FIELDS = (
    "retry.retries",
    "cursor.from_",
    "cursor.initial_value",
    "cursor.persist_to",
    "cursor.state_id",
    "cursor.resume_on_reconnect",
)
UNUSABLE: Mapping[Mode, tuple[str, ...]] = {
    Mode.CLIENT: ("server", "history"),
    Mode.SERVER_OUTPUT: ("url", *_LINK_SECTIONS, "spool", *_LINK_FIELDS, "server.sender_field"),
    Mode.SERVER_INPUT: (
        "url",
        *_LINK_SECTIONS,
        "spool",
        "history",
        "retry",
        "delivery",
        "cursor",
        # The rest of the section is used to take received batches apart.
        "batch.fixed_size",
        "batch.timeout",
        "batch.use_document_marker",
        "server.send_buffer_capacity",
        "server.slow_peer",
        "server.slow_peer_timeout",
        "server.sender_field",
    ),
    Mode.RELAY: (),
}
"""Fields (attribute names, joined by a dot) that a mode can't use."""
UNUSABLE_WITHOUT_LINK = (*_LINK_SECTIONS, "spool", *_LINK_FIELDS)
"""Fields that mode relay can't use either while it has no `url`."""


def unusable(mode: Mode, *, link: bool) -> tuple[str, ...]:
    """Return the fields that a mode can't use; `link` is whether there is a `url`."""
    return UNUSABLE[mode] if link or mode is not Mode.RELAY else (*UNUSABLE[mode], *UNUSABLE_WITHOUT_LINK)


def default_of(field: "Attribute[Any]", section: object) -> Any:  # noqa: ANN401 - any field's value
    """Return the default of a field beside the other fields of its section, or of a whole class; NOTHING if it is required."""
    factory = getattr(field.default, "factory", None)
    if factory is None:
        return field.default
    if not getattr(field.default, "takes_self", False):
        return factory()
    return factory(section() if isinstance(section, type) else section)


def is_unset(section: Any, name: str) -> bool:  # noqa: ANN401 - any section
    """Whether a field has no effect: it is absent, null or at its default, or a section of nothing but such fields."""
    value: object = getattr(section, name)
    if value is None or isinstance(value, Missing):
        return True
    if isinstance(value, Unknown):
        return False
    inside = type(value)
    if has(inside):
        return all(is_unset(value, each.name) for each in fields(inside))
    of_section = cast("type[AttrsInstance]", type(section))
    return bool(value == default_of(fields_dict(of_section)[name], section))


# -- rules ------------------------------------------------------------------------------------------------------------

NO_SHARED_LINK = (
    "can't be used together with a history that several outputs share: each of them would hold a link of its own, and what "
    "comes down would come once for each; give the link to one relay with a history of its own, to which the others dial"
)
"""Why a relay with a shared history has no link."""
Problems = Iterator[tuple[str, str]]
"""Key paths and reasons."""
NEEDS: Mapping[type, tuple[tuple[str, str], ...]] = {
    Tls: (
        ("client_certificate", "client_key"),
        ("client_key", "client_certificate"),
        ("client_key_password", "client_key"),
    )
}
"""Pairs of fields in a section: the first is of no use without the second."""
EXCLUDES: Mapping[type, tuple[tuple[str, str], ...]] = {
    Auth: (("bearer_token", "basic"),),
    Cursor: (("value_field", "value_pointer"),),
}
"""Pairs of fields in a section of which only one can be used."""


def broken_rules(config: Config) -> list[tuple[str, str]]:
    """Return the key path and the reason of every rule that the configuration breaks."""
    return [problem for rule in _RULES for problem in _until_unknown(rule, config)]


def _until_unknown(rule: Callable[[Config], Problems], config: Config) -> Problems:
    try:
        yield from rule(config)
    except NeedsUnknownError:
        return


def _unusable_fields(config: Config) -> Problems:
    if isinstance(config.mode, Unknown):
        return
    for name in unusable(config.mode, link=config.url is not None):
        above, _, field = name.rpartition(".")
        section = getattr(config, above) if above else config
        if section is not None and not isinstance(section, Unknown) and not is_unset(section, field):
            yield kebab(name), _why_unusable(name, config.mode)


def _why_unusable(name: str, mode: Mode) -> str:
    if name not in UNUSABLE[mode]:
        return "is for the link of a relay, which needs url; without url leave it out"
    usable = ", ".join(other.value for other in Mode if name not in UNUSABLE[other])
    return f"can't be used in mode {mode.value}; it belongs to {usable}; leave it out, or empty, or at its default"


def _fields_of_the_mode(config: Config) -> Problems:
    if isinstance(config.mode, Unknown):
        return
    if config.mode is Mode.CLIENT and config.url is None:
        yield "url", "is required in mode client, for example wss://example.com/events"
    if config.mode is not Mode.CLIENT and config.server is None:
        yield "server", f"is required in mode {config.mode.value}, at least with bind: host:port"


def _pairs(config: Config) -> Problems:
    for each in fields(Config):
        name, section = each.name, cast("object", getattr(config, each.name))
        for one, other in NEEDS.get(type(section), ()):
            if getattr(section, one) is not None and getattr(section, other) is None:
                yield kebab(f"{name}.{one}"), f"needs {kebab(f'{name}.{other}')} as well"
        for one, other in EXCLUDES.get(type(section), ()):
            if getattr(section, one) is not None and getattr(section, other) is not None:
                yield (
                    kebab(f"{name}.{other}"),
                    f"can't be used together with {kebab(f'{name}.{one}')}; keep one",
                )


def _verification(config: Config) -> Problems:
    if config.tls.ca_certificate is not None and config.tls.insecure_skip_verify:
        yield "tls.insecure-skip-verify", "makes tls.ca-certificate useless; keep one of the two"


def _backoff(config: Config) -> Problems:
    reconnect = config.reconnect
    if reconnect.max_backoff < reconnect.initial_backoff:
        least = format_duration(reconnect.initial_backoff)
        yield "reconnect.max-backoff", f"is smaller than reconnect.initial-backoff, which is {least}"


def _subprotocols(config: Config) -> Problems:
    names = ((f"subprotocols[{index}]", name) for index, name in enumerate(config.subprotocols))
    yield from _repeated(names, "is there twice")


def _headers(config: Config) -> Problems:
    names = ((f"headers.{name}", name.lower()) for name in config.headers)
    yield from _repeated(names, "is there twice (names are compared without case)")


def _auth_headers(config: Config) -> Problems:
    names = ((f"auth.headers.{name}", name.lower()) for name in config.auth.headers)
    yield from _repeated(names, "is there twice (names are compared without case)")


def _repeated(names: Iterable[tuple[str, str | Unknown]], reason: str) -> Problems:
    """Yield the key path of each name that stands before it as well."""
    seen: set[str] = set()
    for path, name in names:
        if not isinstance(name, Unknown):
            if name in seen:
                yield path, reason
            seen.add(name)


def _age_of_batches(config: Config) -> Problems:
    batch, delivery = config.batch, config.delivery
    if batch is not None and delivery.max_age is not None and delivery.max_age <= batch.timeout:
        least = format_duration(_known(batch.timeout))
        yield (
            "delivery.max-age",
            f"is not longer than batch.timeout, which is {least}: a batch could be too old when it closes",
        )


def _batch_sources(config: Config) -> Problems:
    if config.batch is None or config.mode not in {Mode.SERVER_OUTPUT, Mode.RELAY}:
        return
    for name, text in (("header", config.batch.header), ("footer", config.batch.footer)):
        for each in () if text is None else Template.parse(_known(text), of_batch=True).placeholders:
            if each.source in {"cursor", "attempt"}:
                reason = f"${{{each.source}}} is a link's, and mode {config.mode.value} sends batches to many peers"
                yield f"batch.{name}", reason


def _spool(config: Config) -> Problems:
    if config.spool is None or config.url is None or config.mode not in {Mode.CLIENT, Mode.RELAY}:
        return
    if config.batch is not None and config.mode is Mode.RELAY:
        yield (
            "batch",
            "can't be used together with spool in mode relay: what is read back would go up in other batches",
        )
    if config.spool.max_bytes is None:
        return
    if config.spool.max_bytes < (least := config.least_spool):
        yield "spool.max-bytes", f"must be {least} bytes or more, room for two messages of max-message-size"


def _shared_history(config: Config) -> Problems:
    if config.url is None or config.history is None or config.mode is not Mode.RELAY:
        return
    if not _known(config.history.store).startswith(("memory:", "sqlite:")):
        yield "url", NO_SHARED_LINK


def _cursor_from(config: Config) -> Problems:
    cursor = config.cursor
    if cursor is None or cursor.from_ is not CursorFrom.RECEIVED or config.url is None:
        return
    if cursor.value_field is None and cursor.value_pointer is None:
        yield (
            "cursor.from",
            "is received: needs value-field or value-pointer, to find the cursor in a message",
        )


def _cursor_transport(config: Config) -> Problems:
    cursor = config.cursor
    if cursor is None or cursor.header_name is not None or cursor.query_parameter is not None:
        return
    templates = [Template.parse(_known(text)) for text in config.handshake_templates()]
    if not any(each.source == "cursor" for template in templates for each in template.placeholders):
        reason = "needs header-name or query-parameter, to send the cursor"
        if config.mode is Mode.CLIENT or config.url is not None:
            reason += "; or ${cursor} in url, headers, query or auth"
        yield "cursor", reason


def _sender_field(config: Config) -> Problems:
    if config.mode is not Mode.RELAY or config.server is None or config.server.sender_field is None:
        return
    path = "server.sender-field"
    if config.payload is not Payload.JSON and not isinstance(config.payload, Unknown):
        yield path, "needs payload: json, for only then the relay reads what peers send"
    if config.server.sender_field == config.delivery.stamp:
        yield path, "is delivery.stamp as well; give them different names"


def _reuse_port(config: Config) -> Problems:
    server = config.server
    if server is not None and server.reuse_port and server.bind.startswith("unix:"):
        reason = "is for TCP, and server.bind is a Unix socket, which has one listener"
        yield "server.reuse-port", f"{reason}; leave it out, or bind host:port"


def _server_auth(config: Config) -> Problems:
    auth = None if config.server is None else config.server.auth
    if auth is not None and not auth.basic and not auth.bearer:
        yield "server.auth", "admits nobody: give basic or bearer, or leave it out"


def _token_parameter(config: Config) -> Problems:
    auth = None if config.server is None else config.server.auth
    if auth is None or auth.query_parameter is None:
        return
    path = "server.auth.query-parameter"
    if not auth.bearer:
        yield path, "carries a token of server.auth.bearer, and there is none"
    if config.cursor is not None and config.cursor.query_parameter == auth.query_parameter:
        yield path, "is cursor.query-parameter as well; give them different names"


def _shared_tokens(config: Config) -> Problems:
    auth = None if config.server is None else config.server.auth
    owners: dict[str, str] = {}
    tokens: Mapping[str, Secret | Unknown] = {} if auth is None else auth.bearer
    for identity, token in tokens.items():
        if isinstance(token, Unknown):
            continue
        owner = owners.setdefault(token.reveal(), identity)
        if owner != identity:
            yield f"server.auth.bearer.{identity}", f"is the token of {owner} as well; each needs its own"


_RULES = (
    _unusable_fields,
    _fields_of_the_mode,
    _backoff,
    _subprotocols,
    _pairs,
    _verification,
    _headers,
    _auth_headers,
    _sender_field,
    _reuse_port,
    _server_auth,
    _token_parameter,
    _shared_tokens,
    _age_of_batches,
    _batch_sources,
    _spool,
    _shared_history,
    _cursor_from,
    _cursor_transport,
)
