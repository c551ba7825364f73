"""What each kind of value takes and what it says when it does not."""

from __future__ import annotations

import math
from datetime import date

import pytest
from trio_wsout.config import Secret, kinds
from trio_wsout.config.bare import bare_float, bare_int


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (kinds.FLAG, True, True),
        (kinds.count(0), 0, 0),
        (kinds.count(1, 5), 5, 5),
        (kinds.count(1), 9.0, 9),
        (kinds.number(0, 1), 1, 1.0),
        (kinds.number(1), 2.5, 2.5),
        (kinds.duration(), "2s", 2.0),
        (kinds.duration(positive=False), 0, 0.0),
        (kinds.size(), "1KiB", 1024),
        (kinds.TEXT, "", ""),
        (kinds.CHARACTERS, "ä𝄞", "ä𝄞"),
        (kinds.PLACE, "sqlite:a b/ä.db", "sqlite:a b/ä.db"),
        (kinds.TEXT, 7, "7"),
        (kinds.TEXT, 1.5, "1.5"),
        (kinds.TEXT, True, "true"),
        (kinds.TEXT, date(2024, 1, 2), "2024-01-02"),
        (kinds.TEXT, bare_int("0x10", 16), "0x10"),
        (kinds.TEXT, bare_float("1.10"), "1.10"),
        (kinds.count(0), bare_int("010"), 10),
        (kinds.BEARER, "${env|A||a b}", Secret("${env|A||a b}")),
        (kinds.SECRET_HEADER, "${cursor}\tb ", Secret("${cursor}\tb ")),
        (kinds.USERNAME, "${env|A||u:v}", "${env|A||u:v}"),
        (kinds.PING, "x" * 125, "x" * 125),
        (kinds.HISTORY_STORE, "memory:", "memory:"),
    ],
)
def test_kinds_take(kind: kinds.Kind, value: object, read: object) -> None:
    assert kind.parse(value) == read


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (kinds.FLAG, 1, "true or false"),
        (kinds.CHARACTERS, "a\ud800", "half of a surrogate pair"),
        (kinds.PLACE, "a\ud800", "half of a surrogate pair"),
        (kinds.PLACE, "a\0b", "NUL"),
        (kinds.PLACE, "", "empty"),
        (kinds.URL, "ws://h/\ud800", "surrogate"),
        (kinds.FLAG, "yes", "true or false"),
        (kinds.count(0), -1, "0 or more"),
        (kinds.count(1, 5), 6, "1 to 5"),
        (kinds.count(1), 2**53 + 1, "9007199254740992 or less"),
        (kinds.count(1), 2.5, "whole number"),
        (kinds.count(1), True, "whole number"),
        (kinds.count(1), float("nan"), "whole number"),
        (kinds.number(0, 1), 1.1, "0 to 1"),
        (kinds.number(1), 10**400, "1 or more"),
        (kinds.number(1), float("inf"), "1 or more"),
        (kinds.number(1), "2", "1 or more"),
        (kinds.duration(), 0, "longer than 0"),
        (kinds.size(), 0, "1 byte or more"),
        (kinds.TEXT, [], "a text"),
        (kinds.TEXT, None, "a text"),
        (kinds.TEXT, math.nan, "a text"),
        (kinds.TEXT, 10**1000, "a text"),
        (kinds.STATE_ID, "", "1 to 200"),
        (kinds.STATE_ID, "a\nb", "control character"),
        (kinds.STATE_ID, "x" * 201, "1 to 200"),
        (kinds.PING, "é" * 63, "more than 125 bytes"),
        (kinds.BEARER, "a b", "RFC 6750"),
        (kinds.USERNAME, "u:v", "colon"),
        (kinds.SECRET_HEADER, "a\r\nb", "control character"),
        (kinds.HEADER, "a\0", "control character"),
        (kinds.HEADER_NAME, "Host", "handshake itself"),
        (kinds.HEADER_NAME, "sec-websocket-key", "handshake itself"),
        (kinds.HEADER_NAME, "Sec-WebSocket-Protocol", "subprotocols"),
        (kinds.HEADER_NAME, "a b", "RFC 9110"),
        (kinds.TOKEN, "b c", "RFC 6455"),
        (kinds.HISTORY_STORE, "redis://h/s", "redis is not available"),
        (kinds.HISTORY_STORE, "sqlite:", "names no place"),
        (kinds.CURSOR_STORE, "redis://h", "redis is not available"),
        (kinds.CURSOR_STORE, "sqlite:", "names no place"),
        (kinds.DOTTED, "a..b", "names joined by dots"),
        (kinds.duration(), "20", "without a unit"),
        (kinds.size(), "20", "without a unit"),
    ],
)
def test_kinds_refuse(kind: kinds.Kind, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind.parse(value)
