"""Grammar of the parts of a handshake: names, values and tokens (RFC 9110 section 5, RFC 6750, RFC 7617)."""

import re

TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # noqa: S105 - a regular expression
"""A regular expression, also for ECMA-262, that matches every token (RFC 9110 section 5.6.2)."""
_TOKEN = re.compile(TOKEN)
_RESERVED = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding"})
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
BEARER_ALLOWED = "letters, digits and -._~+/ only, with = at its end (RFC 6750)"
"""The texts that `is_bearer` accepts, in words for errors."""
HAS_CONTROL = "holds a control character (CR, LF, NUL or another)"
"""The fault that `has_control` finds, in words for errors."""


def is_token(text: str) -> bool:
    """Whether a text can be the name of a header or of a subprotocol (RFC 9110 section 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def is_bearer(text: str) -> bool:
    """Whether a text can be a bearer token (RFC 6750 section 2.1)."""
    return _BEARER.fullmatch(text) is not None


def has_control(text: str) -> bool:
    """Whether a text holds a control character, which is refused in every value of a handshake.

    Base64 and percent-encoding could carry one. But it is nearly always the line break at the end of a file, which
    no server takes for part of a password or a token.
    """
    return _CONTROL.search(text) is not None


def is_header_value(text: str) -> bool:
    """Whether a text can be the value of a header: no control characters but tabs inside (RFC 9110 section 5.5)."""
    return not has_control(text.strip(" \t").replace("\t", " "))


def is_reserved_header(name: str) -> bool:
    """Whether a header belongs to the handshake itself, so that a configuration can't set it."""
    return name.lower() in _RESERVED or name.lower().startswith("sec-websocket-")
