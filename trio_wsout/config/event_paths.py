"""Paths into events: JSON pointers and dotted names. Each parser raises ValueError, which names the allowed forms."""

import re


def parse_pointer(text: str) -> tuple[str, ...]:
    """Return the tokens of a JSON pointer (RFC 6901); the empty text points to the whole document."""
    if text and not text.startswith("/"):
        raise ValueError("a JSON pointer starts with / (RFC 6901), for example /data/id")
    if re.search(r"~(?![01])", text):
        raise ValueError("in a JSON pointer ~ is written ~0, and / in a name ~1 (RFC 6901)")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:])


def parse_dotted(text: str) -> tuple[str, ...]:
    """Return the names of a dotted path such as ``data.id``."""
    names = tuple(text.split("."))
    if not all(names):
        raise ValueError("expected names joined by dots, for example data.id")
    return names
