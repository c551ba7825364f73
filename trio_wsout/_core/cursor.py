"""The cursor value of an event, and the key under which a cursor is kept (SPEC 9; RFC 6901).

Rules
-----
1. A cursor is a text or a number; the empty text does not count as one.
2. A value that no handshake can carry is never adopted, because no attempt would open any more: a value of more than 4 KiB,
   with half of a surrogate pair, or with a control character if the cursor goes into a header. An event of the application
   that holds such a value is refused. A stored or initial value, or one of a peer's message, is counted and ignored.
3. With `from: sent` the cursor is that of the last event that was sent and confirmed.
4. With `from: received` it is that of the last message that was taken. The application takes a message by asking for the next
   one. So no stored cursor is ahead of what the application has done, and a message on which it worked when it died comes
   again. A relay has taken a message when its own event of it is confirmed. A handshake carries more: the cursor of
   the last message that waits in memory, because a connection that ends takes nothing away from there.
5. A text or binary message is read as JSON for its cursor, whatever the payload. If it is no JSON, its last line is:
   the last event of a batch.
6. A message that reports a gap (`history.gap_message`) has no cursor, and counts as a gap.
"""

# An event may be any object: its content has no type before it is checked.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from attrs import define, field

from trio_wsout._core.durable_log import gap_in
from trio_wsout._core.json_line import parse_json
from trio_wsout._core.received import Gap, Received
from trio_wsout._core.statistics import Counters
from trio_wsout.config.event_paths import parse_dotted, parse_pointer
from trio_wsout.config.http_grammar import is_header_value
from trio_wsout.config.scalars import is_unicode
from trio_wsout.config.sections import Config, Cursor, CursorFrom
from trio_wsout.config.templates import Template
from trio_wsout.errors import EventError

_MOST = 4096
"""Most bytes of a cursor. A handshake has room for 16 KiB here, and for less elsewhere."""


MISSING: Final = object()
"""Stands for no value; None would stand for null, which is a value of JSON."""


def pointer_value(document: object, tokens: Sequence[str]) -> object:
    """Return the value that a parsed JSON pointer finds in a document; MISSING if it finds none (RFC 6901 section 4)."""
    value = document
    for token in tokens:
        if isinstance(value, Mapping):
            value = value.get(token, MISSING)
        elif isinstance(value, list | tuple):
            value = _element(value, token)
        else:
            return MISSING
    return value


def _element(values: Sequence[object], token: str) -> object:
    """Return an array's element, whose index has no leading zeros; MISSING if there is none."""
    index = token.isascii() and token.isdigit() and (token == "0" or token[0] != "0") and len(token) <= 18  # noqa: PLR2004, S105 - longer than any list
    return values[int(token)] if index and int(token) < len(values) else MISSING


def value_text(value: object) -> str | None:
    """Return a str or a number as the text of a cursor; None for anything else, including NaN and booleans."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return repr(value) if not isinstance(value, float) or math.isfinite(value) else None


def goes_into_header(config: Config) -> bool:
    """Return whether the cursor goes into a header of the handshake, by itself or by a ``${cursor}``."""
    headers = [*config.headers.values(), *(secret.reveal() for secret in config.auth.headers.values())]
    named = config.cursor is not None and config.cursor.header_name is not None
    return named or any(
        each.source == "cursor" for text in headers for each in Template.parse(text).placeholders
    )


class CursorReader:
    """Reads the cursor value of events, by `value-field` or `value-pointer`, and checks it.

    Both read the event as the application passed it: a str or bytes has no fields, even if it holds JSON.
    """

    def __init__(self, cursor: Cursor, *, in_header: bool = False) -> None:
        """Read the field or the pointer that `cursor` names, for a header or not; if it names neither, no event has a value."""
        self._tokens: tuple[str, ...] | None = None
        self._in_header = in_header
        self.unusable = 0
        """Values that were ignored because no handshake can carry them."""
        if cursor.value_field is not None:
            self._tokens = parse_dotted(cursor.value_field)
        elif cursor.value_pointer is not None:
            self._tokens = parse_pointer(cursor.value_pointer)

    @property
    def reads_whole(self) -> bool:
        """Whether the whole event is the cursor."""
        return self._tokens == ()

    def value_of(self, event: object) -> str | None:
        """Return the event's cursor value; None if it has none. One that no handshake can carry is an EventError."""
        if self._tokens is None:
            return None
        value = value_text(pointer_value(event, self._tokens))
        reason = None if value is None else self._fault(value)
        if reason is not None:
            path = "".join(f".{token}" for token in self._tokens)
            raise EventError(f"${path}: the cursor {reason}")
        return value or None

    def value_from(self, event: object) -> str | None:
        """Return the cursor value of an event that the application does not send now; None if it has none, or an unusable one, which counts."""
        try:
            return self.value_of(event)
        except EventError:
            self.unusable += 1
            return None

    def adopted(self, value: str | None, what: str) -> tuple[str | None, str | None]:
        """Return a stored or initial value, None if none can be used; and why it, called `what`, is ignored, None if it is not."""
        reason = None if value is None else self._fault(value)
        if reason is None:
            return value or None, None
        self.unusable += 1
        return None, f"{what} {reason}, and is not used"

    def _fault(self, value: str) -> str | None:
        """Return the reason for which no handshake can carry a value; None if handshakes can."""
        if (
            len(value) <= _MOST // 4 and value.isprintable()
        ):  # the common case: a code point has at most 4 bytes
            return None
        if not is_unicode(value):
            return "holds half of a surrogate pair, which no handshake can carry"
        if len(value.encode()) > _MOST:
            return f"has more than {_MOST} bytes, too many for a handshake"
        if self._in_header and not is_header_value(value):
            return "holds a control character, which no header can carry; send it by cursor.query-parameter"
        return None


def json_of(event: object) -> object:
    """Return the value of a decoded message that is a text or bytes and holds JSON, or whose last line does; else the message."""
    if isinstance(event, str | bytes):
        line = event.rpartition("\n" if isinstance(event, str) else b"\n")[2]  # type: ignore[arg-type]
        for text in (event, line):
            with suppress(ValueError):
                return parse_json(text)
    return event


def _ignore(_: object) -> None:
    """Do nothing."""


@define(eq=False)
class ReceivedCursor:
    """The cursor of the messages that come in, as they are taken (rules 4 and 6)."""

    _reader: CursorReader
    _counters: Counters
    on_moved: Callable[[str], object] = field(default=_ignore, init=False)
    """Called with each new value of the cursor; does nothing at first."""
    on_gap: Callable[[Gap], object] = field(default=_ignore, init=False)
    """Called with each gap; does nothing at first."""
    queued: str | None = field(default=None, init=False)
    """The cursor for the next handshake: of the messages that wait in memory or were handed out; None if none had one."""
    _handed: str | None = field(default=None, init=False)
    """The cursor of the messages that were handed out and are not taken yet; None if none of them has one."""

    def queue(self, messages: Sequence[Received]) -> None:
        """Note that messages wait in memory from now on."""
        for message in reversed(messages):
            event = json_of(message.event)
            with suppress(EventError):
                value = self._reader.value_of(message.event if self._reader.reads_whole else event)
                if value is not None and gap_in(event) is None:
                    self.queued = value
                    return

    def value_of(self, message: Received) -> str | Gap | None:
        """Return the cursor of a message, or the gap that it reports; None, which counts, if it is neither."""
        event = json_of(message.event)
        found = gap_in(event)
        if found is not None:
            self._counters.gaps += 1
            gap = Gap(message.event, message.peer, *found)
            self.on_gap(gap)
            return gap
        value = self._reader.value_from(message.event if self._reader.reads_whole else event)
        self._counters.without_cursor += value is None
        return value

    def hand_out(self, message: Received) -> Received:
        """Return a message as the application gets it: a gap as a `Gap`."""
        value = self.value_of(message)
        if isinstance(value, Gap):
            return value
        self._handed = value or self._handed
        return message

    def taken(self) -> None:
        """Move the cursor: the application has taken all messages that were handed out."""
        if self._handed is not None:
            value, self._handed = self._handed, None
            self.on_moved(value)


def default_state_id(url: str, *, of: CursorFrom = CursorFrom.SENT) -> str:
    """Return the key of a cursor without `state-id`: a hash of the configured URL up to its path, without the query.

    A cursor of messages that come in has a key of its own, so that it may be kept beside one of events that are sent.
    """
    if Template.parse(url).is_static:
        parts = urlsplit(url)
        target = f"{parts.scheme}://{parts.netloc.lower()}{parts.path or '/'}"
    else:
        target = url.partition("?")[0]
    if of is CursorFrom.RECEIVED:
        target += " received"
    return hashlib.sha256(target.encode("utf-8", "surrogatepass")).hexdigest()[:32]
