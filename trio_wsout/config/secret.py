"""Texts that are never shown: passwords, tokens and keys of a configuration, also where a peer sends them back (SPEC 1).

Rules
-----
1. A secret in a text is redacted, and so is any piece of it of `_PIECE` characters or more: the reason of a Close is cut
   off at 123 bytes, which may be inside a token.
2. A secret of fewer than `_SHORT` characters may stand in any word, and the position of the ``***`` would reveal it: a text
   that holds one is redacted as a whole.
"""

from collections.abc import Mapping, Sequence

from attrs import field, frozen

REDACTED = "***"
"""The text that is shown in place of a secret."""
SENSITIVE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Names, in lower case, of headers whose values are secrets wherever they are configured."""
_PIECE = 8
_SHORT = 4


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


def redact_secrets(text: str, secrets: Sequence[str]) -> str:
    """Return the text with ``***`` for each secret, and for each longer piece of one."""
    if any(secret and len(secret) < _SHORT and secret in text for secret in secrets):
        return REDACTED
    long_enough = [secret for secret in secrets if len(secret) >= _SHORT]
    shown: list[str] = []
    at = 0
    while at < len(text):
        length = max((_shared(text, at, secret) for secret in long_enough), default=0)
        if not length:
            shown.append(text[at])
        elif not shown or shown[-1] is not REDACTED:
            shown.append(REDACTED)
        at += length or 1
    return "".join(shown)


def _shared(text: str, at: int, secret: str) -> int:
    """Return how many characters from `at` on are a piece of the secret; 0 if they are too few to count."""
    length = min(_PIECE, len(secret))
    piece = text[at : at + length]
    if len(piece) < length or piece not in secret:
        return 0
    while at + length < len(text) and text[at : at + length + 1] in secret:
        length += 1
    return length
