"""A text that is never shown: what holds passwords, tokens and keys in a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MASK", "SENSITIVE_HEADERS", "Secret", "mask_headers"]

MASK = "***"
"""What stands in the place of every secret that is printed."""

SENSITIVE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Headers (lower case) whose values are secrets wherever they are written."""


@frozen(repr=False)
class Secret:
    """A secret text: equal to another by value, shown as ``***`` everywhere but in `reveal`."""

    _text: str = field()

    def reveal(self) -> str:
        """The text itself; call it only where it is put on the wire or into a file for it."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__


def mask_headers(headers: Mapping[str, str]) -> str:
    """The repr of a header table with the values of `SENSITIVE_HEADERS` masked."""
    return repr(
        {name: MASK if name.lower() in SENSITIVE_HEADERS else value for name, value in headers.items()}
    )
