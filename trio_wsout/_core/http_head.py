"""The head of an HTTP message: its fields and its bytes (RFC 9110 section 5).

Lists may stand on several lines, their order is kept, and their empty elements are ignored.
"""

from collections.abc import Iterable, Sequence
from http import HTTPStatus

from attrs import field, frozen

TLS_RECORDS = (b"\x15", b"\x16")
"""First bytes of a TLS alert and of a TLS handshake (RFC 8446 section 5.1); no HTTP message begins with them."""


@frozen(kw_only=True)
class Fields:
    """The fields of a head in their order, names in lower case."""

    headers: Sequence[tuple[str, str]] = field(repr=False)

    def values(self, name: str) -> list[str]:
        """Return every value of a header, in order."""
        return [value for each, value in self.headers if each == name]

    def tokens(self, name: str, *, lower: bool = False) -> list[str]:
        """Return the comma-separated elements of a header's values, in lower case if `lower`."""
        parts = (part.strip(" \t") for value in self.values(name) for part in value.split(","))
        return [part.lower() if lower else part for part in parts if part]


def write_head(first_line: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return the bytes of a head, with its empty line."""
    return "\r\n".join([first_line, *(f"{name}: {value}" for name, value in fields), "", ""]).encode()


def reason_phrase(status: int) -> str:
    """Return the words for a status; empty if it is none that is registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
