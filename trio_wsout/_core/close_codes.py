"""The codes and reasons of Closes: those that this library sends, and those that may be sent at all (RFC 6455 section 7.4)."""

from trio_wsout.config.scalars import is_unicode

NORMAL = 1000
"""For a link that ends."""
GOING_AWAY = 1001
"""For the peers of a listener that ends, and for peers that are idle."""
INTERNAL_ERROR = 1011
"""For a peer whose messages this side can't read from its history."""
TRY_AGAIN_LATER = 1013
"""For a peer that is too slow."""
EXPIRED = 4401
"""For a peer that was admitted until now."""
GONE = 4410
"""For a peer whose cursor is not known (history.on-gap: refuse)."""
LONGEST_REASON = 123
"""Bytes that the reason of a Close has room for (RFC 6455 section 5.5)."""

_REGISTERED = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013})
"""Codes below 3000 that a Close may carry (RFC 6455 section 7.4.1, and IANA's registry for 1012 and 1013)."""
_FIRST_PRIVATE, _LAST_PRIVATE = 3000, 4999


def may_be_sent(code: int) -> bool:
    """Return whether a Close may carry this code."""
    return code in _REGISTERED or _FIRST_PRIVATE <= code <= _LAST_PRIVATE


def fits(reason: str) -> bool:
    """Return whether a Close has room for this reason."""
    return len(reason.encode()) <= LONGEST_REASON


def check_close(code: object, reason: object) -> None:
    """Raise ValueError if no Close can have this code and this reason."""
    if not (isinstance(code, int) and may_be_sent(code)):
        allowed = "1000 to 1003, 1007 to 1013, and 3000 to 4999, of which 4000 to 4999 are for programs"
        raise ValueError(f"a Close can't carry the code {code!r}; allowed are {allowed}")
    if not (isinstance(reason, str) and is_unicode(reason)):
        raise ValueError(f"the reason of a Close is a Unicode text, empty if there is none, not {reason!r}")
    if not fits(reason):
        size = len(reason.encode())
        raise ValueError(f"the reason of a Close has at most {LONGEST_REASON} bytes in UTF-8, not {size}")


class CloseNow(Exception):  # noqa: N818 - no error: caught by the session, never leaves the package
    """A replay can't go on, and the peer is to be closed."""

    def __init__(self, code: int, reason: str = "") -> None:
        """Take close code and reason."""
        super().__init__(code, reason)
        self.code, self.reason = code, reason
