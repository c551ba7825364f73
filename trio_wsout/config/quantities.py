"""Text to value and back: durations, sizes, close codes, paths into events.

All pure; each parser raises ValueError with a reason that a person can act on.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from itertools import combinations

__all__ = [
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
_LONGEST = 10 * 365.25 * 86400
"""Ten years: nobody means more, and timers stay far from overflow."""
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|[smhdw])", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:us|ms|[smhdw]))+|\d+(?:\.\d+)?", re.ASCII)
_LONGEST_TEXT = 400
"""Characters: what the smallest float needs, and no more."""
_DURATION_ALLOWED = "a duration such as 250ms, 2s, 1m30s, 2h or a number of seconds"

_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_SIZE = re.compile(r"(\d{1,18})\s?(B|KB|MB|GB|KiB|MiB|GiB)?", re.ASCII)
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
        raise ValueError(message)
    parts = _DURATION_PART.findall(text)
    total = (
        sum((Decimal(number) * _UNITS[unit] for number, unit in parts), Decimal(0))
        if parts
        else Decimal(text)
    )
    return float(total)


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as exactly these seconds."""
    exact = Decimal(repr(seconds))
    # Of texts of the same length the first wins: seconds before anything else.
    units = ("s", "ms", "m", "h", "d", "w", "us")
    candidates = [f"{_plain(exact / _UNITS[unit])}{unit}" for unit in units]
    candidates += _mixed(exact)
    good = [each for each in candidates if _reads_back(each, seconds)]
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


def _reads_back(text: str, seconds: float) -> bool:
    return bool(_DURATION.fullmatch(text)) and _text_seconds(text) == seconds


def parse_size(value: object) -> int:
    """Bytes of a size: a whole number, or a text such as ``64KiB`` or ``1MB``."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        size = int(match[1]) * _SIZE_UNITS[match[2] or ""]
    else:
        message = "expected a number of bytes, or a size such as 64KiB or 8MiB"
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
