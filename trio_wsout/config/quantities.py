"""Durations, sizes and close codes: from a document's value to a number, and back (SPEC 1).

Each parser raises ValueError, which names the allowed forms.
"""

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

# -- durations ------------------------------------------------------------------------------------------------------

_UNITS = {
    "w": Decimal(604800),
    "d": Decimal(86400),
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
    "us": Decimal("0.000001"),
}
"""Seconds of the units that durations are written in, largest first."""
_SPELLINGS = {
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
"""Seconds of the units that durations are read in, and their spellings: those of Rust's humantime.

A month has 30.44 days and a year 365.25. Only humantime's ``M`` (month) is missing: most people mean minutes by it.
"""
_SECONDS = {unit: seconds for seconds, units in _SPELLINGS.items() for unit in units.split()}
_LONGEST = 10 * 365.25 * 86400
"""Ten years, far from where timers overflow."""
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PART = rf"{_NUMBER} *(?:{'|'.join(sorted(_SECONDS, key=len, reverse=True))})"
DURATION = f"^{_PART}(?: *{_PART})*$"
"""A regular expression, also for ECMA-262, that matches every text that is a duration."""
_DURATION = re.compile(DURATION)
_NUMBER_AND_UNIT = re.compile(rf"({_NUMBER}) *([a-zµμ]+)")
_LONGEST_TEXT = 400
"""Characters; the smallest float needs no more."""


def parse_duration(value: object) -> float:
    """Return the seconds of a duration: of a text such as ``1m30s``, or of a number, which is seconds (SPEC 1)."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(_no_duration(""))
    seconds = _text_seconds(value) if isinstance(value, str) else float(max(min(value, 2 * _LONGEST), -1))
    if math.isnan(seconds) or not 0 <= seconds <= _LONGEST:
        raise ValueError("a duration must be between 0 and 10 years")
    return seconds


def _text_seconds(text: str) -> float:
    if not _DURATION.fullmatch(text) or len(text) > _LONGEST_TEXT:
        raise ValueError(_no_duration(text))
    return float(sum(Decimal(number) * _SECONDS[unit] for number, unit in _NUMBER_AND_UNIT.findall(text)))


def _no_duration(text: str) -> str:
    if re.fullmatch(_NUMBER, text):
        return "is a text without a unit, and no duration; write s behind it, or leave out the quotes"
    allowed = "expected a duration such as 250ms, 2s, 1m 30s, 2 hours, or a number of seconds"
    return (
        f"{allowed}; M could be minutes or months: write m, or months"
        if re.search(r"[0-9] *M\b", text)
        else allowed
    )


def format_duration(seconds: float) -> str:
    """Return the shortest text in the units of SPEC 1 that `parse_duration` reads back as exactly these seconds."""
    exact = Decimal(repr(seconds))
    # Of texts of the same length the first wins: seconds before anything else.
    units = ("s", "ms", "m", "h", "d", "w", "us")
    candidates = [f"{_plain(exact / _UNITS[unit])}{unit}" for unit in units]
    candidates += filter(None, _sums(exact, list(_UNITS.items())))
    # Divisions are rounded; but in seconds the text is always exact.
    return next(each for each in sorted(candidates, key=len) if _text_seconds(each) == seconds)


def _sums(rest: Decimal, units: list[tuple[str, Decimal]]) -> Iterator[str]:
    """Yield every way to write a time in whole numbers of some units, largest first: 1w1d1m, 1w1441m, 8d1m."""
    if not rest:
        yield ""
    elif units:
        (unit, scale), *smaller = units
        if count := int(rest // scale):
            yield from (f"{count}{unit}{more}" for more in _sums(rest - count * scale, smaller))
        yield from _sums(rest, smaller)


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_time(at: float) -> str:
    """Return seconds since 1970 as ISO 8601 has them: in UTC, with milliseconds, which are cut and not rounded."""
    seconds, milliseconds = divmod(int(at * 1000), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03}Z"


# -- sizes ----------------------------------------------------------------------------------------------------------

_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SIZE = f"^([0-9]{{1,18}}) ?({'|'.join(_BYTES)})$"
"""A regular expression, also for ECMA-262, that matches every text that is a size."""
_SIZE = re.compile(SIZE)
_LARGEST = 2**53


def parse_size(value: object) -> int:
    """Return the bytes of a size: of a whole number, or of a text such as ``64KiB`` or ``1MB`` (SPEC 1)."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = int(value)
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        size = int(match[1]) * _BYTES[match[2]]
    elif isinstance(value, str) and value.isdecimal():
        raise ValueError("is a text without a unit, and no size; write B behind it, or leave out the quotes")
    else:
        raise ValueError("expected a number of bytes, or a size such as 64KiB or 8MiB")
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"a size must be between 0 and {_LARGEST} bytes")
    return size


def format_size(size: int) -> str | int:
    """Return the shortest form of a size in binary units, a text or a number, that `parse_size` reads back."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return size


# -- close codes ----------------------------------------------------------------------------------------------------

_CODES = re.compile(r"(\d{4})(?:-(\d{4}))?", re.ASCII)
_FIRST_CODE, _LAST_CODE = 1000, 4999


def parse_codes(value: object) -> tuple[int, int]:
    """Return the first and last code of a range: 4001, "4001", "4500-4999" or a tuple (RFC 6455 section 7.4)."""
    match value:
        case str():
            found = _CODES.fullmatch(value)
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        case int():
            first = last = value
        case tuple((int(first), int(last))):  # in a Config that is made in Python
            pass
        case _:
            first = last = 0
    if not _FIRST_CODE <= first <= last <= _LAST_CODE:
        raise ValueError("expected a close code from 1000 to 4999, or a range such as 4500-4999")
    return first, last


def format_codes(codes: tuple[int, int]) -> str | int:
    """Return a range of close codes as `parse_codes` reads it: one code as a number, several as a text."""
    return codes[0] if codes[0] == codes[1] else f"{codes[0]}-{codes[1]}"
