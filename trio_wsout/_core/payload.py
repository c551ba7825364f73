r"""Events to the bytes of their message, and a received message back to an event (SPEC 4).

Rules
-----
1. ``text``: a str goes as it is, anything else as compact JSON. ``json``: everything goes as compact JSON. ``binary``: bytes
   go as they are, a str as UTF-8, anything else as JSON. ``binary-base64``: a str is base64 and is decoded, bytes go as they
   are, and nothing else is allowed.
2. Values that JSON can't represent exactly are refused, with their path in the event: NaN, infinities, integers over 64
   bits, bytes, sets, lone surrogates, keys that are no str.
3. A batch has one event a line, with ``\n`` between two lines and none at the end. Header and footer are lines of their own
   around it. A str of payload ``text`` that holds a line break would become two events, so it is refused in a batch. (JSON
   never holds one.) Binary events are joined as they are: the application must know how to split them.
4. With `wrap-as-json` a batch is a JSON array, so each event is JSON whatever the payload: a str becomes a JSON string, and
   bytes are refused.
5. A `JsonLine` goes byte for byte as it was written. Only a JSON string goes as its text, by the rules above.
"""

# An event may be any object: its content has no type before it is checked.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

import base64
import math
from collections.abc import Mapping, Sequence

import orjson

from trio_wsout._core.json_line import JsonLine, parse_json, with_entry
from trio_wsout.config.scalars import is_unicode
from trio_wsout.config.sections import Batch, Payload
from trio_wsout.errors import EventError

_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_dumps = orjson.dumps
_NULL = b"null"
_SMALL = 480
"""Bytes that fit into a small block of Python's allocator, with the header of a bytes object."""
_BYTES = (bytes, bytearray, memoryview)
_DEEPEST = 200
"""Levels that are searched for a fault; orjson itself refuses more than 254."""
_SMALLEST = -(2**63)
_LARGEST = 2**64 - 1


class Base64Error(ValueError):
    """A str event that is not base64, under payload binary-base64."""


class MessageError(ValueError):
    """A received message that can't be decoded."""


class Encoder:
    """Encodes the events of one output."""

    def __init__(self, payload: Payload, batch: Batch | None, *, stamp: str | None = None) -> None:
        """Encode by `payload` and `batch`; refuse objects that hold the key `stamp`, None if objects are not stamped."""
        self.is_text = payload in (Payload.TEXT, Payload.JSON)
        """Whether messages are text; else they are binary."""
        self._wrap = batch is not None and batch.wrap_as_json
        self._lines = batch is not None and not batch.wrap_as_json
        self._payload = Payload.JSON if self._wrap else payload
        self._objects = self._payload is not Payload.BINARY_BASE64
        self._stamp = stamp
        self._stamp_key = b"" if stamp is None else orjson.dumps(stamp)
        self.plain_dict = _json if self._objects and stamp is None else self.event
        """Encodes a plain dict as `event` does, with as few checks as possible."""

    def event(self, event: object) -> bytes:
        """Return an event as it will stand in its message; raise EventError, which names the path, or Base64Error."""
        if type(event) is dict and self._objects:  # the common case, and so first
            if self._stamp is not None:
                self._refuse_stamped(event)
            return _json(event)
        if type(event) is JsonLine:
            return self._line(event)
        if isinstance(event, str):
            return self._text(event)
        if isinstance(event, _BYTES):
            if self._payload in (Payload.TEXT, Payload.JSON):
                raise EventError(f"$: bytes can't be sent as {self._payload.value}; use payload: binary")
            return bytes(event)
        if self._payload is Payload.BINARY_BASE64:
            kind = type(event).__name__
            raise EventError(f"$: payload binary-base64 takes str (base64) or bytes, not {kind}")
        return _json(event)

    def _line(self, event: JsonLine) -> bytes:
        """Return JSON as it was written, unless it is a string that goes as its text."""
        if event.is_text and self._payload is not Payload.JSON:
            text = event.value()
            assert isinstance(text, str)  # noqa: S101 - it is a JSON string
            return self._text(text)
        if not self._objects:
            raise EventError("$: payload binary-base64 takes a JSON string (base64), and nothing else")
        if self._stamp is not None and event.is_object:
            self._refuse_stamped(event.value())
        return event.text

    def _refuse_stamped(self, event: object) -> None:
        """Refuse an object that holds the key of the stamp."""
        if isinstance(event, dict) and self._stamp in event:
            raise EventError(f"$.{self._stamp}: the event holds the key of delivery.stamp already")

    def _text(self, event: str) -> bytes:
        match self._payload:
            case Payload.JSON:
                return _json(event)
            case Payload.BINARY_BASE64:
                try:
                    return base64.b64decode(event, validate=True)
                except ValueError:
                    raise Base64Error("the event is not base64, and payload is binary-base64") from None
            case _:
                if self._lines and self.is_text and "\n" in event:
                    reason = "a str with a line break would become two events of a batch; use wrap-as-json"
                    raise EventError(f"$: {reason}")
                try:
                    return event.encode()
                except UnicodeEncodeError:
                    raise EventError("$: a lone surrogate can't be encoded") from None

    def stamped(self, encoded: bytes, stamp: bytes) -> bytes:
        """Return an encoded object with the stamp as its last entry; the rest stays as it was written."""
        return with_entry(encoded, self._stamp_key, b'"%b"' % stamp)

    def message(self, events: Sequence[bytes], header: bytes | None, footer: bytes | None) -> bytes:
        """Return the message of a batch."""
        body = b"[" + b",".join(events) + b"]" if self._wrap else b"\n".join(events)
        return b"\n".join(part for part in (header, body, footer) if part is not None)

    def overhead(self, header: bytes | None, footer: bytes | None) -> int:
        """Return the bytes of `message` without the events and the separators between them."""
        lines = sum(len(line) + 1 for line in (header, footer) if line is not None)
        return lines + (2 if self._wrap else 0)


def decode(message: str | bytes, payload: Payload) -> object:
    """Return a received message as an event: parsed JSON (or MessageError), base64 text, or the message itself."""
    match payload:
        case Payload.JSON:
            try:
                return parse_json(message)
            except ValueError:
                raise MessageError("it is not JSON, and payload is json") from None
        case Payload.BINARY_BASE64 if isinstance(message, bytes):
            return base64.b64encode(message).decode("ascii")
        case _:
            return message


def _json(event: object) -> bytes:
    try:
        encoded = _dumps(event, None, _STRICT)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise EventError(_culprit(event) or f"$: {error}") from None
    # orjson writes NaN and infinities as null: only where there is a null, one may be hidden.
    # (`rfind` takes half the time of `in`, which first tries to read its argument as a number, and two thirds of `find`'s.)
    if encoded.rfind(_NULL) >= 0 and (hidden := _culprit(event)) is not None:
        raise EventError(hidden)
    # orjson encodes into 1024 bytes and cuts off the rest. A small event is copied out of them into
    # Python's own small blocks: where hundreds are kept, the larger blocks would cost a page fault each,
    # as the C library returns memory to the system again and again (measured: up to 1400 ns; the copy costs 30).
    return b"%b" % encoded if len(encoded) < _SMALL else encoded


def _culprit(event: object) -> str | None:
    """Return the path and the reason of a fault that keeps an event from being JSON; None if none was found."""
    rest: list[tuple[object, str, int]] = [(event, "$", 0)]
    while rest:  # a stack, not recursion: an event may be nested deeper than Python calls may
        value, path, depth = rest.pop()
        reason = "nested too deeply" if depth > _DEEPEST else _fault(value)
        if reason is not None:
            return f"{path}: {reason}"
        if isinstance(value, dict):
            rest += [(each, f"{path}.{key}", depth + 1) for key, each in reversed(value.items())]
        elif isinstance(value, list | tuple):
            rest += [(value[index], f"{path}[{index}]", depth + 1) for index in reversed(range(len(value)))]
    return None


def _fault(value: object) -> str | None:
    """Return why a value itself is not JSON, whatever the values in it are; None if it is."""
    match value:
        case None | bool() | list() | tuple():
            return None
        case int():
            return None if _SMALLEST <= value <= _LARGEST else "an integer of more than 64 bits"
        case float():
            return None if math.isfinite(value) else "NaN and infinity are not JSON"
        case str():
            return None if is_unicode(value) else "a lone surrogate can't be encoded"
        case Mapping():
            return _fault_of_mapping(value)
        case _:
            return f"{type(value).__name__} is not a JSON value"


def _fault_of_mapping(value: Mapping[object, object]) -> str | None:
    if type(value) is not dict:
        return f"{type(value).__name__} is not a plain dict"
    for key in value:
        if not isinstance(key, str):
            return f"a key is {type(key).__name__}, not str"
        if not is_unicode(key):
            return "a key holds a lone surrogate"
    return None
