"""The event that every benchmark sends: a JSON object of any size from 64 bytes, with the sender's clock in it."""

from __future__ import annotations

import time

DIGITS = 20
OFFSET = len('{"t":"')
NO_TIME = "0" * DIGITS
_AROUND = len('{"t":"","pad":""}')


def event_of(size: int, at: str = NO_TIME) -> dict[str, str]:
    """The event as an application has it; its compact JSON is `size` bytes."""
    return {"t": at, "pad": "x" * (size - DIGITS - _AROUND)}


def text_of(size: int, at: str = NO_TIME) -> str:
    """The same event as the text that goes over the wire."""
    return f'{{"t":"{at}","pad":"{"x" * (size - DIGITS - _AROUND)}"}}'


def now() -> str:
    """The clock that the kernel stamps arriving bytes with, in nanoseconds."""
    return f"{time.time_ns():0{DIGITS}}"
