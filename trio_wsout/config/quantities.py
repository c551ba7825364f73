"""Text to value and back: durations, sizes, close codes, paths into events.

All pure; each parser raises ValueError with a reason that a person can act on.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from itertools import combinations

__all__ = [
    "DURATION",
    "SIZE",
    "format_codes",
    "format_duration",
    "format_size",
    "is_unicode",
    "parse_characters",
    "parse_codes",
    "parse_dotted",
    "parse_duration",
    "parse_pointer",
    "parse_size",
]

_UNITS = {
    "w": Decimal(604800),
    "d": Decimal(86400),
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
    "us": Decimal("0.000001"),
}
"""What durations are written with."""
_SPELLED = {
    Decimal("0.000000001"): "ns nsec nanosecond nanoseconds",
    _UNITS["us"]: "us µs μs usec microsecond microseconds",
    _UNITS["ms"]: "ms msec millisecond milliseconds",
    _UNITS["s"]: "s sec secs second seconds",
    _UNITS["m"]: "m min mins minute minutes",
    _UNITS["h"]: "h hr hrs hour hours",
    _UNITS["d"]: "d day days",
    _UNITS["w"]: "w wk wks week weeks",
    Decimal(2630016): "month months",
    Decimal(31557600): "y yr yrs year years",
}
"""What durations are read with: what Rust's humantime reads, and people write; a month has 30.44 days, a year
365.25. Its M for a month is left out, for most who write it mean minutes."""
_SECONDS = {word: seconds for seconds, words in _SPELLED.items() for word in words.split()}
_LONGEST = 10 * 365.25 * 86400
"""Ten years: nobody means more, and timers stay far from overflow."""
_WORDS = "|".join(sorted(_SECONDS, key=len, reverse=True))
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION_PART = re.compile(f"({_NUMBER}) *({_WORDS})")
DURATION = f"^{_NUMBER} *(?:{_WORDS})(?: *{_NUMBER} *(?:{_WORDS}))*$"
"""A regular expression, also to ECMA-262, that every duration which is a text matches."""
_DURATION = re.compile(DURATION)
_UNITLESS = re.compile(_NUMBER)
_LONGEST_TEXT = 400
"""Characters: what the smallest float needs, and no more."""
_DURATION_ALLOWED = "a duration such as 250ms, 2s, 1m 30s, 2 hours, or a number of seconds"

_SIZE_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
SIZE = "^([0-9]{1,18}) ?(B|KB|MB|GB|KiB|MiB|GiB)$"
"""A regular expression, also to ECMA-262, that every size which is a text matches."""
_SIZE = re.compile(SIZE)
_LARGEST = 2**53

_CODES = re.compile(r"(\d{4})(?:-(\d{4}))?", re.ASCII)
_FIRST_CODE, _LAST_CODE = 1000, 4999


def is_unicode(text: str) -> bool:
    """Whether bytes can say a text: one with half of a surrogate pair in it has none (RFC 3629 section 3)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_characters(text: str) -> str:
    """A text that bytes can say."""
    if not is_unicode(text):
        message = "holds half of a surrogate pair, which is no character"
        raise ValueError(message)
    return text


def parse_duration(value: object) -> float:
    """Seconds of a duration: a text such as ``1m30s``, or a number of seconds (SPEC 1)."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        message = f"expected {_DURATION_ALLOWED}"
        raise ValueError(message)
    seconds = _text_seconds(value) if isinstance(value, str) else float(max(min(value, 2 * _LONGEST), -1))
    if math.isnan(seconds) or not 0 <= seconds <= _LONGEST:
        message = "a duration must be between 0 and 10 years"
        raise ValueError(message)
    return seconds


def _text_seconds(text: str) -> float:
    if not _DURATION.fullmatch(text) or len(text) > _LONGEST_TEXT:
        message = f"expected {_DURATION_ALLOWED}"
        if _UNITLESS.fullmatch(text):
            message = "is a text without a unit, and no duration; write s behind it, or leave out the quotes"
        elif re.search(r"[0-9] *M\b", text):
            message += "; M could be minutes or months: write m, or months"
        raise ValueError(message)
    parts = _DURATION_PART.findall(text)
    return float(sum((Decimal(number) * _SECONDS[unit] for number, unit in parts), Decimal(0)))


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as exactly these seconds."""
    exact = Decimal(repr(seconds))
    # Of texts of the same length the first wins: seconds before anything else.
    units = ("s", "ms", "m", "h", "d", "w", "us")
    candidates = [f"{_plain(exact / _UNITS[unit])}{unit}" for unit in units]
    candidates += _mixed(exact)
    good = [each for each in candidates if _text_seconds(each) == seconds]
    return min(good, key=len) if good else f"{exact:f}s"


def _mixed(exact: Decimal) -> list[str]:
    """The same time in several units, largest first, for every choice of units: 1w1d1m, 8d1m, 1d61s."""
    found: list[str] = []
    for many in range(2, len(_UNITS) + 1):
        for chosen in combinations(_UNITS.items(), many):
            rest, text = exact, ""
            for unit, scale in chosen:
                count = int(rest // scale)
                text += f"{count}{unit}" if count else ""
                rest -= count * scale
            found += [text] if text and not rest else []
    return found


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_size(value: object) -> int:
    """Return the bytes of a size: a whole number, or a text such as ``64KiB`` or ``1MB``."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = int(value)
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        size = int(match[1]) * _SIZE_UNITS[match[2]]
    else:
        message = "expected a number of bytes, or a size such as 64KiB or 8MiB"
        if isinstance(value, str) and value.isdecimal():
            message = "is a text without a unit, and no size; write B behind it, or leave out the quotes"
        raise ValueError(message)
    if not 0 <= size <= _LARGEST:
        message = f"a size must be between 0 and {_LARGEST} bytes"
        raise ValueError(message)
    return size


def format_size(size: int) -> str | int:
    """The shortest form of a size in binary units that `parse_size` reads back."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return size


def parse_codes(value: object) -> tuple[int, int]:
    """A range of close codes: 4001, "4001" or "4500-4999" (RFC 6455 section 7.4)."""
    text = value if isinstance(value, str) else ""
    if isinstance(value, int) and not isinstance(value, bool) and _FIRST_CODE <= value <= _LAST_CODE:
        text = str(value)  # of a number of thousands of digits there is no text
    match = _CODES.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not _FIRST_CODE <= first <= last <= _LAST_CODE:
        message = "expected a close code from 1000 to 4999, or a range such as 4500-4999"
        raise ValueError(message)
    return first, last


def format_codes(codes: tuple[int, int]) -> str | int:
    """A range of close codes as it is written."""
    return codes[0] if codes[0] == codes[1] else f"{codes[0]}-{codes[1]}"


def parse_pointer(text: str) -> tuple[str, ...]:
    """The tokens of a JSON pointer (RFC 6901); the empty text is the whole document."""
    if text and not text.startswith("/"):
        message = "a JSON pointer starts with / (RFC 6901), for example /data/id"
        raise ValueError(message)
    if re.search(r"~(?![01])", text):
        message = "in a JSON pointer ~ is written ~0, and / in a name ~1 (RFC 6901)"
        raise ValueError(message)
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:])


def parse_dotted(text: str) -> tuple[str, ...]:
    """The names of a dotted path such as ``data.id``."""
    names = tuple(text.split("."))
    if not all(names):
        message = "expected names joined by dots, for example data.id"
        raise ValueError(message)
    return names
