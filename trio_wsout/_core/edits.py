"""The changes that a relay makes to a message before it passes it on: its signature, and the application's (SPEC 10).

Rules
-----
1. With `server.sender-field` each object that a peer sends gets the peer's identity under that key (null if it has
   none). A value that the peer wrote under that key is overwritten. Messages of the link are not signed.
2. After that `on_message` may change the message, or refuse it.
3. A message that neither of them changes goes on byte for byte.
"""

# An event may be any object: its content has no type before it is checked.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from collections.abc import Callable
from contextlib import suppress

import orjson

from trio_wsout._core.callables import CallableError, plain
from trio_wsout._core.json_line import BLANKS, parse_json, with_entry, write_json
from trio_wsout._core.payload import Encoder
from trio_wsout._core.received import RawReceived, Received
from trio_wsout.config.sections import Payload


class Edits:
    """The changes that one relay makes to messages."""

    def __init__(
        self,
        payload: Payload,
        sender_field: str | None,
        on_message: Callable[[Received], Received | None] | None,
    ) -> None:
        """Sign under the key `sender_field` and ask `on_message`; each is None if it is not to be done."""
        self._sender_field = sender_field
        self._sender_key = orjson.dumps(sender_field)
        self._on_message = on_message
        self._encode = Encoder(Payload.JSON, None).event if payload is Payload.JSON else None

    @property
    def nothing(self) -> bool:
        """Whether every message goes on as it came."""
        return self._sender_field is None and self._on_message is None

    def edited(self, message: RawReceived, *, signed: bool) -> RawReceived | None:
        """Return the message to pass on, `signed` with the identity of its peer or not; None if it is refused.

        It raises CallableError if `on_message` is async or returned something else, EventError if the event that it returned
        can't be encoded, and whatever it raised.
        """
        if signed and self._sender_field is not None:
            message = self._signed(message, self._sender_field)
        if self._on_message is None:
            return message
        found = plain("on_message", self._on_message(message))
        if found is None:
            return None
        if not isinstance(found, Received):
            kind = type(found).__name__
            raise CallableError(
                f"the on_message callable must return a Received or None (it returned {kind})"
            )
        raw = message.raw
        # The application may have changed the same object in place, so it is compared with the bytes that came.
        if self._encode is not None and not (
            found.event is message.event and _is_same(found.event, parse_json(raw))
        ):
            raw = self._encode(found.event)
        return RawReceived(found.event, message.peer, raw)

    def _signed(self, message: RawReceived, name: str) -> RawReceived:
        event, identity = message.event, message.peer.identity
        if not isinstance(event, dict):
            return message
        signed = {**event, name: identity}
        if name in event:
            return RawReceived(signed, message.peer, write_json(signed))
        raw = with_entry(message.raw.strip(BLANKS), self._sender_key, orjson.dumps(identity))
        return RawReceived(signed, message.peer, raw)


def _is_same(event: object, parsed: object) -> bool:
    """Return whether an event still is the parsed value; unlike ``==`` its text distinguishes 1, 1.0 and True, and -0.0 and 0.0."""
    with suppress(RecursionError):
        return repr(event) == repr(parsed)
    return False
