"""The opening handshake of one attempt: URL, query, headers, credentials, cursor (SPEC 5 and 9).

Rules
-----
1. Templates are expanded anew for every attempt. ``${cursor}`` is the cursor that this attempt sends.
2. Headers come from these sources, of which a later one wins over an earlier one; names are compared without case: the
   credentials of `auth.bearer-token` or `auth.basic`, `auth.headers`, `headers`, the application's token, the application's
   headers, the cursor's header.
3. Query parameters are appended to those of the URL: `auth.query`, `query`, the cursor's. A later parameter replaces an
   earlier one of the same name, but not those of the URL. Only if there is a cursor, a parameter of the URL with its name is
   removed, because most servers read the first of two.
4. A value with a control character (CR, LF, NUL or another) fails the attempt, whether it goes into a header (where tabs are
   white space), into base64 or into a query. The value of ``${cursor}`` in a query is not checked: it is percent-encoded, and
   no event may keep a link from opening. Space around a header's value is removed, and non-ASCII characters go as UTF-8.
5. No error text holds a value.
6. The secrets of a handshake are collected, so that they can be redacted if the server sends them back: credentials; values of
   `auth.headers` and `auth.query`, of ``Authorization`` and ``Cookie``; all that the application's callables return; every
   ``${secret|…}`` and ``${file|…}``. Each is collected as it is written and as it is sent. (The host of `url` is no secret:
   name servers and eavesdroppers see it.)
"""

import base64
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote_plus, urlsplit

from attrs import field, frozen

from trio_wsout.config.addresses import format_host_and_port, parse_host_and_port
from trio_wsout.config.http_grammar import (
    BEARER_ALLOWED,
    HAS_CONTROL,
    has_control,
    is_bearer,
    is_reserved_header,
    is_token,
)
from trio_wsout.config.scalars import is_unicode
from trio_wsout.config.secret import SENSITIVE_HEADERS, Secret
from trio_wsout.config.sections import Auth, Config
from trio_wsout.config.templates import Resolve, Template, TemplateError, expand_url

_SECRET = ("secret", "file")
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"
_QUERY_SAFE = _PATH_SAFE + "?"
_BETWEEN = re.compile(r"""[\s;,="]+""")
"""Separators of the values in one header."""
_PART = 4
"""A value of so many characters or more is a secret of its own."""
_PORTS = {"ws": 80, "wss": 443}


class RequestError(ValueError):
    """The handshake of an attempt can't be built; the text names the field, never a value."""


@frozen(kw_only=True)
class Request:
    """One opening handshake, ready to send."""

    secure: bool
    """Whether TLS is used."""
    host: str
    """Host to connect to, as `parse_host` returns it."""
    server_name: str
    """The host as its certificate names it: without a dot at its end (RFC 6066 section 3) and without a zone."""
    port: int
    """Port to connect to."""
    authority: str
    """The Host header: without a zone (RFC 6874 section 4), and without the port when it is the scheme's own."""
    resource: str = field(repr=False)
    """Path and query, percent-encoded; never empty."""
    headers: tuple[tuple[str, bytes], ...] = field(repr=False)
    """Further headers, no name twice."""
    subprotocols: tuple[str, ...]
    """The subprotocols to offer, in this order."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Texts of the handshake that no error may quote."""
    key_password: Secret | None = None
    """Password of `tls.client-key`; None if none is configured."""


def build_request(
    config: Config,
    *,
    url: str | None = None,
    resolve: Resolve,
    cursor: str | None,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
) -> Request:
    """Build the handshake of one attempt; raise RequestError if a value can't be sent, or is missing.

    It asks `url`, one of those that are configured; None for the first. `resolve` returns the value of a ``${…}`` other than
    ``${cursor}``, which is `cursor`, if any is to be sent. Headers and token are those of the application for this attempt.
    """
    cursor = cursor or None
    secrets, password = _Secrets(resolve, cursor), config.tls.client_key_password
    if password is not None:
        password = Secret(_expand(password.reveal(), "tls.client-key-password", resolve))
    parts = urlsplit(_expand_url(config, config.urls[0] if url is None else url, secrets))
    query = parts.query if cursor is None else _without_cursor(parts.query, config)
    host, port = parse_host_and_port(parts.netloc)
    port = _PORTS[parts.scheme] if port is None else port
    return Request(
        secure=parts.scheme == "wss",
        host=host,
        server_name=host.partition("%")[0].removesuffix("."),
        port=port,
        authority=format_host_and_port(host, None if port == _PORTS[parts.scheme] else port),
        resource=_resource(parts.path, query, _parameters(config, secrets, cursor)),
        headers=_headers(config, secrets, cursor, headers or {}, token),
        subprotocols=config.subprotocols,
        secrets=tuple(secrets.found),
        key_password=password,
    )


class _Secrets:
    """Collects the secrets of one handshake."""

    def __init__(self, resolve: Resolve, cursor: str | None) -> None:
        self._resolve = resolve
        self._cursor = cursor
        self.found: dict[str, None] = {}

    def add(self, *values: str) -> None:
        """Collect values, as they are, and as they stand in a query and in a path."""
        for value in filter(None, values):
            in_query, in_path = quote(value, safe="", errors="replace"), quote(value, errors="replace")
            self.found |= dict.fromkeys((value, in_query, in_path))

    def resolve(self, source: str, name: str | None) -> str | None:
        """Return the value of a ``${…}``, and collect it if it is a secret."""
        if source == "cursor":
            return self._cursor
        value = self._resolve(source, name)
        if source in _SECRET and value is not None:
            self.add(value)
        return value


def files_named(config: Config) -> list[str]:
    """Return the paths of all ``${file|PATH}`` in a handshake."""
    found = [each for text in config.handshake_templates() for each in Template.parse(text).placeholders]
    return list(dict.fromkeys(each.name for each in found if each.source == "file" and each.name))


def _expand_url(config: Config, url: str, secrets: _Secrets) -> str:
    try:
        return expand_url(url, secrets.resolve)
    except ValueError as error:
        path = "url" if len(config.urls) == 1 else f"url[{config.urls.index(url)}]"
        raise RequestError(f"{path}: {error}") from None


def _expand(text: str, path: str, resolve: Resolve) -> str:
    try:
        return Template.parse(text).expand(resolve)
    except TemplateError as error:
        raise RequestError(f"{path}: {error}") from None


def _parameters(config: Config, secrets: _Secrets, cursor: str | None) -> dict[str, str]:
    resolve = secrets.resolve
    found = {
        name: _expand(secret.reveal(), f"auth.query.{name}", resolve)
        for name, secret in config.auth.query.items()
    }
    secrets.add(*found.values())
    paths = {name: f"auth.query.{name}" for name in found} | {name: f"query.{name}" for name in config.query}
    found |= {name: _expand(text, paths[name], resolve) for name, text in config.query.items()}
    for name, value in found.items():
        _refuse_control(value.replace(cursor or "", ""), paths[name])
    if cursor is not None and config.cursor is not None and config.cursor.query_parameter is not None:
        found[config.cursor.query_parameter] = cursor
    return found


def _without_cursor(query: str, config: Config) -> str:
    """Return the URL's own query without parameters that have the name of the cursor's."""
    name = config.cursor.query_parameter if config.cursor is not None else None
    if name is None:
        return query
    pairs = query.split("&")
    return "&".join(pair for pair in pairs if unquote_plus(pair.partition("=")[0]) != name)


def _resource(path: str, query: str, parameters: Mapping[str, str]) -> str:
    pieces = [quote(query, safe=_QUERY_SAFE)] if query else []
    if not all(is_unicode(each) for pair in parameters.items() for each in pair):
        raise RequestError("query: a value holds a lone surrogate")
    pieces += [f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters.items()]
    target = quote(path, safe=_PATH_SAFE) or "/"
    return f"{target}?{'&'.join(pieces)}" if pieces else target


def _headers(
    config: Config, secrets: _Secrets, cursor: str | None, extra: Mapping[str, str], token: str | None
) -> tuple[tuple[str, bytes], ...]:
    resolve = secrets.resolve
    found: dict[str, tuple[str, bytes]] = {}

    def put(name: str, value: str, path: str, *, secret: bool = False) -> None:
        if not is_token(name) or is_reserved_header(name):
            raise RequestError(f"{path}: the header's name is reserved or not a valid name")
        found[name.lower()] = (name, _header_value(value, path))
        if secret or name.lower() in SENSITIVE_HEADERS:
            # The name of a scheme ("Bearer") before a secret is none.
            shown = value.partition(" ")[2] or value if name.lower().endswith("authorization") else value
            secrets.add(shown.strip(" \t"), *[part for part in _BETWEEN.split(shown) if len(part) >= _PART])

    credentials = _credentials(config.auth, secrets)
    if credentials is not None:
        put("Authorization", credentials, "auth")
    for name, secret in config.auth.headers.items():
        value = _expand(secret.reveal(), f"auth.headers.{name}", resolve)
        put(name, value, f"auth.headers.{name}", secret=True)
    for name, text in config.headers.items():
        put(name, _expand(text, f"headers.{name}", resolve), f"headers.{name}")
    if token is not None:
        put("Authorization", _bearer(token, "the token callable"), "the token callable")
    for name, value in extra.items():
        put(name, value, "the headers callable", secret=True)
    if cursor is not None and config.cursor is not None and config.cursor.header_name is not None:
        put(config.cursor.header_name, cursor, "cursor")
    return tuple(found.values())


def _credentials(auth: Auth, secrets: _Secrets) -> str | None:
    resolve = secrets.resolve
    if auth.bearer_token is not None:
        return _bearer(_expand(auth.bearer_token.reveal(), "auth.bearer-token", resolve), "auth.bearer-token")
    if auth.basic is None:
        return None
    username = _expand(auth.basic.username, "auth.basic.username", resolve)
    password = _expand(auth.basic.password.reveal(), "auth.basic.password", resolve)
    secrets.add(password)
    _refuse_control(username, "auth.basic.username")
    _refuse_control(password, "auth.basic.password")
    if ":" in username:
        raise RequestError("auth.basic.username: a user name holds no colon (RFC 7617)")
    pair = f"{username}:{password}"
    if not is_unicode(pair):
        raise RequestError("auth.basic: a lone surrogate can't be encoded")
    return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"


def _refuse_control(value: str, path: str) -> None:
    if has_control(value):
        at_its_end = "" if has_control(value.rstrip("\r\n")) else ": a line break at its end"
        raise RequestError(f"{path}: the value {HAS_CONTROL}{at_its_end}")


def _bearer(token: str, path: str) -> str:
    if not is_bearer(token):
        raise RequestError(f"{path}: a bearer token must be {BEARER_ALLOWED}")
    return f"Bearer {token}"


def _header_value(value: str, path: str) -> bytes:
    stripped = value.strip(" \t")
    _refuse_control(value.replace("\t", " "), path)
    if not is_unicode(stripped):
        raise RequestError(f"{path}: the value holds a lone surrogate")
    return stripped.encode()
