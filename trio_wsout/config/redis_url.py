"""URLs of Valkey or Redis (SPEC 9 and 11): ``redis://host:port/db``, ``rediss://…`` with TLS, ``unix:///path/of/socket?db=1``.

They are templated, as the place of a password: a password that is written out is refused, so that none is shown where a
configuration is. The values of ``${…}`` are percent-encoded between ``://`` and ``@``, in the path and in the query, and stand as
they are elsewhere, so that ``${env|REDIS_URL}?stream=events`` is possible. No error holds a part of user and password.
"""

import re
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from attrs import field, frozen

from trio_wsout.config.addresses import format_host_and_port, parse_host_and_port
from trio_wsout.config.scalars import is_unicode
from trio_wsout.config.templates import Placeholder, Resolve, Template, TemplateError

_SCHEMES = ("redis", "rediss", "unix")
REDIS_SCHEME = re.compile(r"(redis|rediss|unix)://")
"""Matches at the start of every such URL whose scheme is written out."""
_EXPECTED = "expected redis://host:port/db, rediss://host:port/db or unix:///path/of/socket"
_PORT = 6379
_SOURCES = ("env", "file", "secret")
_PASSWORD = re.compile(r"://[^/?#@]*?:([^/?#@]*)@")
_TLS_KEYS = ("ca-file", "cert-file", "key-file")
_WHOLE = "redis://h"
"""Stands for a placeholder with which a URL begins."""


@frozen(kw_only=True)
class RedisUrl:
    """The address of an engine, and what is wanted there."""

    host: str
    """The host as `parse_host` returns it; empty for a socket."""
    port: int
    socket: str
    """Path of the Unix socket; empty for a host."""
    db: int
    tls: bool
    username: str | None = field(repr=False)
    """None for the engine's default user."""
    password: str | None = field(repr=False)
    """None if none is needed."""
    stream: str | None
    """The name of the log; None if the URL is that of a cursor store."""
    ca_file: str | None
    """File of the certificates to trust; None for those of the system."""
    cert_file: str | None
    """File of the certificate to show; None for none."""
    key_file: str | None
    """File of its key; None if that is in the file of the certificate."""

    def __str__(self) -> str:
        """Return the URL without user, password and query."""
        if self.socket:
            return f"unix://{self.socket}" + (f"?db={self.db}" if self.db else "")
        return f"redis{'s' * self.tls}://{format_host_and_port(self.host, self.port)}/{self.db}"


def parse_redis_url(text: str, *, stream: bool) -> RedisUrl:
    """Return what a URL names; `stream` is whether it must name a stream, or must not.

    Raises:
        ValueError: The text is no such URL.
    """
    if re.search(r"[\x00-\x20\x7f]", text) or not is_unicode(text) or "#" in text:
        raise ValueError(f"{_EXPECTED}; without spaces, control characters and #")
    try:
        parts = urlsplit(text)
        query = parse_qsl(
            parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), errors="strict"
        )
        path = unquote(parts.path, errors="strict")
    except ValueError:
        raise ValueError(f"{_EXPECTED}; percent signs and the query behind ? must be right") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(_EXPECTED)
    is_socket, tls = parts.scheme == "unix", parts.scheme == "rediss"
    allowed = (*(("stream",) if stream else ()), *(("db",) if is_socket else ()), *(_TLS_KEYS if tls else ()))
    found = _query(query, allowed)
    if stream and "stream" not in found:
        raise ValueError(
            "the URL names no stream; end it with ?stream=NAME, the name that all outputs of one log share"
        )
    credentials, _, address = parts.netloc.rpartition("@")
    username, password = _credentials(credentials)
    host, port = ("", None) if is_socket else _host(address)
    if is_socket and (address or not path.startswith("/")):
        raise ValueError("expected unix:///path/of/socket, with three slashes before the path of a socket")
    db = found.get("db", "0") if is_socket else path.strip("/") or "0"
    return RedisUrl(
        host=host,
        port=port or _PORT,
        socket=path if is_socket else "",
        db=_db(db),
        tls=tls,
        username=username,
        password=password,
        stream=_stream(found["stream"]) if stream else None,
        ca_file=found.get("ca-file"),
        cert_file=found.get("cert-file"),
        key_file=found.get("key-file"),
    )


def _query(query: list[tuple[str, str]], allowed: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in query:
        if key not in allowed:
            known = f"known: {', '.join(allowed)}" if allowed else "there may be none"
            raise ValueError(f"the URL's query holds a key that is not known here; {known}")
        if key in found or not value:
            raise ValueError(f"the URL's query holds {key} {'twice' if key in found else 'without a value'}")
        found[key] = value
    if "key-file" in found and "cert-file" not in found:
        raise ValueError("key-file needs cert-file beside it")
    return found


def _credentials(text: str) -> tuple[str | None, str | None]:
    """Return user and password of the text before the ``@``; None for what is not there."""
    try:
        username, password = (unquote(each, errors="strict") or None for each in text.partition(":")[::2])
    except UnicodeDecodeError:
        raise ValueError("user and password, percent signs decoded, must be UTF-8") from None
    if username is not None and password is None:
        raise ValueError("a user needs a password: user:${secret|name}@host")
    return username, password


def _host(address: str) -> tuple[str, int | None]:
    if re.fullmatch(r"(?::[0-9]*)?", address):
        raise ValueError("the URL has no host")
    return parse_host_and_port(address)


def _db(text: str) -> int:
    if re.fullmatch("[0-9]{1,5}", text) is None:
        raise ValueError("the database must be a number, as in redis://host/0")
    return int(text)


def _stream(name: str) -> str:
    if not name.isprintable() or "{" in name or "}" in name:
        raise ValueError("the name of a stream holds no braces and no control characters")
    return name


# -- templates ------------------------------------------------------------------------------------------------------


def check_redis_url(text: str, *, stream: bool) -> None:
    """Refuse a template that is no URL with plausible values, or holds a password that is written out.

    Raises:
        ValueError: It is none; the text never holds a value.
    """
    template = Template.parse(text)
    for each in template.placeholders:
        if each.source not in _SOURCES:
            raise TemplateError("a ${…} must be ${env|NAME}, ${file|PATH} or ${secret|name} here")
    masked = "".join(part if isinstance(part, str) else "\0" for part in template.parts)
    written = _PASSWORD.search(masked)
    if written is not None and written[1].strip("\0"):
        raise ValueError(
            "a password is written out; put ${env|NAME}, ${file|PATH} or ${secret|name} in its place"
        )
    first = template.parts[0] if template.parts else ""
    parse_redis_url(_joined(template, lambda part: _WHOLE if part is first else "1"), stream=stream)


def expand_redis_url(text: str, resolve: Resolve, *, stream: bool) -> RedisUrl:
    """Return what a template names with the values of `resolve`.

    Raises:
        ValueError: A value is missing, or it is no URL with these; the text holds no value.
    """
    return parse_redis_url(
        _joined(Template.parse(text), lambda part: part.value(resolve).strip("\r\n")), stream=stream
    )


def _joined(template: Template, value_of: Callable[[Placeholder], str]) -> str:
    url = ""
    for index, part in enumerate(template.parts):
        if isinstance(part, str):
            url += part
            continue
        behind = "".join(each for each in template.parts[index + 1 :] if isinstance(each, str))
        _, scheme, rest = url.partition("://")
        in_credentials = "@" in re.split("[/?]", behind, maxsplit=1)[0]
        plain = not scheme or not (in_credentials or re.search("[/?]", rest))
        value = value_of(part)
        url += value if plain else quote(value, safe="/" if "/" in rest and "?" not in rest else "")
    return url
