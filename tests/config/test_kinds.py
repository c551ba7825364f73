"""What each kind of value takes and what it says when it does not."""

from __future__ import annotations

import pytest
from trio_wsout.config import kinds


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
        (kinds.TEXT, 1, "a text"),
    ],
)
def test_kinds_refuse(kind: kinds.Kind, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind.parse(value)
