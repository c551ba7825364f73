"""What each kind of value takes and what it says when it does not."""

from __future__ import annotations

import math
from datetime import date

import pytest
from trio_wsout.config import Secret, field_types
from trio_wsout.config.scalars import SpelledFloat, SpelledInt


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (field_types.FLAG, True, True),
        (field_types.count(0), 0, 0),
        (field_types.count(1, 5), 5, 5),
        (field_types.count(1), 9.0, 9),
        (field_types.number(0, 1), 1, 1.0),
        (field_types.number(1), 2.5, 2.5),
        (field_types.duration(), "2s", 2.0),
        (field_types.duration(positive=False), 0, 0.0),
        (field_types.size(), "1KiB", 1024),
        (field_types.TEXT, "", ""),
        (field_types.CHARACTERS, "ä𝄞", "ä𝄞"),
        (field_types.PLACE, "sqlite:a b/ä.db", "sqlite:a b/ä.db"),
        (field_types.TEXT, 7, "7"),
        (field_types.TEXT, 1.5, "1.5"),
        (field_types.TEXT, True, "true"),
        (field_types.TEXT, date(2024, 1, 2), "2024-01-02"),
        (field_types.TEXT, SpelledInt("0x10", 16), "0x10"),
        (field_types.TEXT, SpelledFloat("1.10"), "1.10"),
        (field_types.count(0), SpelledInt("010"), 10),
        (field_types.BEARER, "${env|A||a b}", Secret("${env|A||a b}")),
        (field_types.SECRET_HEADER, "${cursor}\tb ", Secret("${cursor}\tb ")),
        (field_types.USERNAME, "${env|A||u:v}", "${env|A||u:v}"),
        (field_types.PING, "x" * 125, "x" * 125),
        (field_types.HISTORY_STORE, "memory:", "memory:"),
    ],
)
def test_kinds_take(kind: field_types.FieldType, value: object, read: object) -> None:
    assert kind.parse(value) == read


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (field_types.FLAG, 1, "true or false"),
        (field_types.CHARACTERS, "a\ud800", "half of a surrogate pair"),
        (field_types.PLACE, "a\ud800", "half of a surrogate pair"),
        (field_types.PLACE, "a\0b", "NUL"),
        (field_types.PLACE, "", "empty"),
        (field_types.URL, "ws://h/\ud800", "surrogate"),
        (field_types.FLAG, "yes", "true or false"),
        (field_types.count(0), -1, "0 or more"),
        (field_types.count(1, 5), 6, "1 to 5"),
        (field_types.count(1), 2**53 + 1, "9007199254740992 or less"),
        (field_types.count(1), 2.5, "whole number"),
        (field_types.count(1), True, "whole number"),
        (field_types.count(1), float("nan"), "whole number"),
        (field_types.number(0, 1), 1.1, "0 to 1"),
        (field_types.number(1), 10**400, "1 or more"),
        (field_types.number(1), float("inf"), "1 or more"),
        (field_types.number(1), "2", "1 or more"),
        (field_types.duration(), 0, "longer than 0"),
        (field_types.size(), 0, "1 byte or more"),
        (field_types.TEXT, [], "a text"),
        (field_types.TEXT, None, "a text"),
        (field_types.TEXT, math.nan, "a text"),
        (field_types.TEXT, 10**1000, "a text"),
        (field_types.STATE_ID, "", "1 to 200"),
        (field_types.STATE_ID, "a\nb", "control character"),
        (field_types.STATE_ID, "x" * 201, "1 to 200"),
        (field_types.PING, "é" * 63, "more than 125 bytes"),
        (field_types.BEARER, "a b", "RFC 6750"),
        (field_types.USERNAME, "u:v", "colon"),
        (field_types.SECRET_HEADER, "a\r\nb", "control character"),
        (field_types.HEADER, "a\0", "control character"),
        (field_types.HEADER_NAME, "Host", "handshake itself"),
        (field_types.HEADER_NAME, "sec-websocket-key", "handshake itself"),
        (field_types.HEADER_NAME, "Sec-WebSocket-Protocol", "subprotocols"),
        (field_types.HEADER_NAME, "a b", "RFC 9110"),
        (field_types.TOKEN, "b c", "RFC 6455"),
        (field_types.HISTORY_STORE, "redis://h/s", "redis is not available"),
        (field_types.HISTORY_STORE, "sqlite:", "names no place"),
        (field_types.CURSOR_STORE, "redis://h", "redis is not available"),
        (field_types.CURSOR_STORE, "sqlite:", "names no place"),
        (field_types.DOTTED, "a..b", "names joined by dots"),
        (field_types.duration(), "20", "without a unit"),
        (field_types.size(), "20", "without a unit"),
    ],
)
def test_kinds_refuse(kind: field_types.FieldType, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind.parse(value)
