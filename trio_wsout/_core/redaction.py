"""Texts of a peer without the secrets that it was told: it may say them back (SPEC 1).

Rules
-----
1. Whatever a text shares with a secret is masked: the whole of it, and also any piece of `_PIECE`
   characters or more, for what a Close says is cut off at 123 bytes, and may be cut in a token.
2. A secret of fewer than `_SHORT` characters may stand in any word, and where the mask stands would tell
   it: a text that holds one is masked as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_wsout.config.secret import MASK

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["redact_secrets"]

_PIECE = 8
_SHORT = 4


def redact_secrets(text: str, secrets: Sequence[str]) -> str:
    """The text with ``***`` in the place of each secret, and of each longer piece of one."""
    if any(secret and len(secret) < _SHORT and secret in text for secret in secrets):
        return MASK
    long_enough = [secret for secret in secrets if len(secret) >= _SHORT]
    shown: list[str] = []
    at = 0
    while at < len(text):
        length = max((_shared(text, at, secret) for secret in long_enough), default=0)
        if not length:
            shown.append(text[at])
        elif not shown or shown[-1] is not MASK:
            shown.append(MASK)
        at += length or 1
    return "".join(shown)


def _shared(text: str, at: int, secret: str) -> int:
    """Characters from `at` on that stand in the secret, too; 0: too few to mean it."""
    length = min(_PIECE, len(secret))
    piece = text[at : at + length]
    if len(piece) < length or piece not in secret:
        return 0
    while at + length < len(text) and text[at : at + length + 1] in secret:
        length += 1
    return length
