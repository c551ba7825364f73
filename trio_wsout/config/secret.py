"""Texts that are never shown: passwords, tokens and keys of a configuration."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

__all__ = ["REDACTED", "SENSITIVE_HEADERS", "Secret", "redact_headers", "repr_headers"]

REDACTED = "***"
"""The text that is shown in place of a secret."""
SENSITIVE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Names, in lower case, of headers whose values are secrets wherever they are configured."""


@frozen(repr=False)
class Secret:
    """A secret text: equal to another by value, and shown as ``***``."""

    _text: str = field()

    def reveal(self) -> str:
        """Return the text itself. Call it only where the text is put on the wire or into a file for it."""
        return self._text

    def __repr__(self) -> str:
        return REDACTED

    __str__ = __repr__


def redact_headers(headers: Mapping[str, object]) -> dict[str, object]:
    """Return a table of headers with `REDACTED` in place of the values of `SENSITIVE_HEADERS`."""
    return {name: REDACTED if name.lower() in SENSITIVE_HEADERS else each for name, each in headers.items()}


def repr_headers(headers: Mapping[str, str]) -> str:
    """Return the repr of a table of headers, redacted."""
    return repr(redact_headers(headers))
