"""Redacted texts hold nothing of a secret, and all that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config.secret import redact_secrets

WORDS = st.text(alphabet="abc .", max_size=30)


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("no such token: s3cr3t!", ["s3cr3t"], "no such token: ***!"),
        ("nothing of it", ["s3cr3t"], "nothing of it"),
        ("", ["s3cr3t"], ""),
        ("no such token: 0123456789", ["0123456789abcdef"], "no such token: ***"),
        ("89abcdef is no token", ["0123456789abcdef"], "*** is no token"),
        ("abcdefg is too little", ["abcdefghij"], "abcdefg is too little"),
        ("s3cr3ts3cr3t and s3cr3t", ["s3cr3t", "other"], "*** and ***"),
        ("a short one", ["or"], "***"),
        ("a short one", ["xy", ""], "a short one"),
        ("any", [], "any"),
    ],
)
def test_texts(text: str, secrets: list[str], shown: str) -> None:
    assert redact_secrets(text, secrets) == shown


@given(WORDS, st.lists(WORDS, max_size=3), WORDS)
def test_no_secret_is_left(before: str, secrets: list[str], after: str) -> None:
    shown = redact_secrets(after.join([before, *secrets, after]), secrets)
    assert not any(secret and secret in shown for secret in secrets)


@given(WORDS, st.text(alphabet="xyz", min_size=8, max_size=30), st.integers(0, 22), WORDS)
def test_no_longer_piece_is_left_and_nothing_else_is_lost(
    before: str, secret: str, start: int, after: str
) -> None:
    piece = secret[min(start, len(secret) - 8) :]
    assert redact_secrets(before + piece + after, [secret]) == f"{before}***{after}"
