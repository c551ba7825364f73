"""A message on its way from one peer to the others: with who said it, and as the application wants it (SPEC 10).

Rules
-----
1. With `server.sender-field` each object that a peer sends has the peer's identity under that key (null for nobody
   in particular); what the peer wrote there itself is overwritten. Messages of the link are not signed.
2. Then `on_message` may change the message, or refuse it.
3. What neither of them changes goes on byte for byte.
"""

# An event holds anything; what is inside of it has no type until it is looked at.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import orjson
from attrs import frozen

from trio_wsout._core.callables import CallableError, plain
from trio_wsout._core.json_line import BLANKS, parse_json, with_entry
from trio_wsout._core.payload import Encoder
from trio_wsout._core.received import RawReceived, Received
from trio_wsout.config.sections import Payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsout.config.sections import Config

__all__ = ["Edits", "Relayed"]


@frozen
class Relayed(RawReceived):
    """A message on its way."""


class Edits:
    """What is done to each message before it is passed on."""

    def __init__(self, config: Config, on_message: Callable[[Received], Received | None] | None) -> None:
        """Sign with `server.sender-field` of `config`, and ask `on_message`; None if nobody is to be asked."""
        self._name = None if config.server is None else config.server.sender_field
        self._key = orjson.dumps(self._name)
        self._on_message = on_message
        self._encode = Encoder(Payload.JSON, None).event if config.payload is Payload.JSON else None

    @property
    def nothing(self) -> bool:
        """Whether every message goes on as it came."""
        return self._name is None and self._on_message is None

    def edited(self, message: Relayed, *, signed: bool) -> Relayed | None:
        """Return the message to pass on; None if it is refused.

        Args:
            message: What came.
            signed: Whether its peer's identity is put in.

        Raises:
            CallableError: `on_message` is async, or returned neither a Received nor None.
            EventError: What `on_message` returned can't be encoded.
            Exception: Whatever `on_message` raised.
        """
        if signed and self._name is not None:
            message = self._signed(message, self._name)
        if self._on_message is None:
            return message
        found = cast("object", plain("on_message", self._on_message(message)))
        if found is None:
            return None
        if not isinstance(found, Received):
            kind = type(found).__name__
            raise CallableError(
                f"the on_message callable must return a Received or None (it returned {kind})"
            )
        return self._as_returned(message, found.event)

    def _signed(self, message: Relayed, name: str) -> Relayed:
        event = message.event
        if not isinstance(event, dict):
            return message
        signed = {**event, name: message.peer.identity}
        if name in event:
            return Relayed(signed, message.peer, _json(signed))
        raw = with_entry(message.raw.strip(BLANKS), self._key, orjson.dumps(message.peer.identity))
        return Relayed(signed, message.peer, raw)

    def _as_returned(self, message: Relayed, event: object) -> Relayed:
        raw = message.raw
        # The same object may have been changed in place, so it is held against what came.
        if self._encode is not None and not (event is message.event and _same(event, parse_json(raw))):
            raw = self._encode(event)
        return Relayed(event, message.peer, raw)


def _same(event: object, other: object) -> bool:
    """Whether two values are the same JSON; for Python 1, 1.0 and True are equal."""
    try:
        return _json(event) == _json(other)
    except (TypeError, ValueError, RecursionError):
        return False


def _json(event: object) -> bytes:
    try:
        return orjson.dumps(event)
    except orjson.JSONEncodeError:  # a whole number over 64 bits, or more than 254 levels
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
