"""What each type of field accepts, and the error of what it refuses."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import pytest
from trio_wsout.config import Secret, field_types
from trio_wsout.config.field_types import field_type_of
from trio_wsout.config.scalars import SpelledFloat, SpelledInt


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (bool, True, True),
        (field_types.CountOrZero, 0, 0),
        (field_types.Count, 9.0, 9),
        (field_types.Share, 1, 1.0),
        (field_types.Multiplier, 2.5, 2.5),
        (field_types.Duration, "2s", 2.0),
        (field_types.DurationOrZero, 0, 0.0),
        (field_types.Size, "1KiB", 1024),
        (field_types.Text, "", ""),
        (field_types.UnicodeText, "ä𝄞", "ä𝄞"),
        (field_types.FilePath, "sqlite:a b/ä.db", "sqlite:a b/ä.db"),
        (field_types.Text, 7, "7"),
        (field_types.Text, 1.5, "1.5"),
        (field_types.Text, True, "true"),
        (field_types.Text, date(2024, 1, 2), "2024-01-02"),
        (field_types.Text, SpelledInt("0x10", 16), "0x10"),
        (field_types.Text, SpelledFloat("1.10"), "1.10"),
        (field_types.CountOrZero, SpelledInt("010"), 10),
        (field_types.BearerToken, "${env|A||a b}", Secret("${env|A||a b}")),
        (field_types.SecretHeaderValue, "${cursor}\tb ", Secret("${cursor}\tb ")),
        (field_types.Username, "${env|A||u:v}", "${env|A||u:v}"),
        (field_types.PingPayload, "x" * 125, "x" * 125),
        (field_types.HistoryStore, "memory:", "memory:"),
    ],
)
def test_kinds_take(kind: Any, value: object, read: object) -> None:
    assert field_type_of(kind).parse(value) == read


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (bool, 1, "true or false"),
        (field_types.UnicodeText, "a\ud800", "half of a surrogate pair"),
        (field_types.FilePath, "a\ud800", "half of a surrogate pair"),
        (field_types.FilePath, "a\0b", "NUL"),
        (field_types.FilePath, "", "empty"),
        (field_types.Url, "ws://h/\ud800", "surrogate"),
        (bool, "yes", "true or false"),
        (field_types.CountOrZero, -1, "0 or more"),
        (field_types.Count, 2**53 + 1, "9007199254740992 or less"),
        (field_types.Count, 2.5, "whole number"),
        (field_types.Count, True, "whole number"),
        (field_types.Count, float("nan"), "whole number"),
        (field_types.Share, 1.1, "0 to 1"),
        (field_types.Multiplier, 10**400, "1 or more"),
        (field_types.Multiplier, float("inf"), "1 or more"),
        (field_types.Multiplier, "2", "1 or more"),
        (field_types.Duration, 0, "longer than 0"),
        (field_types.Size, 0, "1 byte or more"),
        (field_types.Text, [], "a text"),
        (field_types.Text, None, "a text"),
        (field_types.Text, math.nan, "a text"),
        (field_types.Text, 10**1000, "a text"),
        (field_types.StateId, "", "1 to 200"),
        (field_types.StateId, "a\nb", "control character"),
        (field_types.StateId, "x" * 201, "1 to 200"),
        (field_types.PingPayload, "é" * 63, "more than 125 bytes"),
        (field_types.BearerToken, "a b", "RFC 6750"),
        (field_types.Username, "u:v", "colon"),
        (field_types.SecretHeaderValue, "a\r\nb", "control character"),
        (field_types.HeaderValue, "a\0", "control character"),
        (field_types.HeaderName, "Host", "handshake itself"),
        (field_types.HeaderName, "sec-websocket-key", "handshake itself"),
        (field_types.HeaderName, "Sec-WebSocket-Protocol", "subprotocols"),
        (field_types.HeaderName, "a b", "RFC 9110"),
        (field_types.Subprotocol, "b c", "RFC 6455"),
        (field_types.HistoryStore, "redis://h/0", "names no stream"),
        (field_types.HistoryStore, "sqlite:", "names no file"),
        (field_types.CursorStore, "redis:h", "lacks its slashes"),
        (field_types.CursorStore, "sqlite:", "names no file"),
        (field_types.DottedPath, "a..b", "names joined by dots"),
        (field_types.Duration, "20", "without a unit"),
        (field_types.Size, "20", "without a unit"),
    ],
)
def test_kinds_refuse(kind: Any, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        field_type_of(kind).parse(value)
