"""Removes secrets from the texts of a peer, which may send back the secrets that it was sent (SPEC 1).

Rules
-----
1. A secret in a text is redacted, and so is any piece of it of `_PIECE` characters or more: the reason of a Close is cut
   off at 123 bytes, which may be inside a token.
2. A secret of fewer than `_SHORT` characters may stand in any word, and the position of the ``***`` would reveal it: a text
   that holds one is redacted as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from trio_wsout.config.secret import REDACTED

__all__ = ["redact_secrets"]

_PIECE = 8
_SHORT = 4


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
