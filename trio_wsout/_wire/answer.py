"""The server's answer to our opening handshake, judged before trio_websocket sees it (RFC 6455 section 4.1)."""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.opening import Asked, opening_head
from trio_wsout._core.redaction import redact_secrets
from trio_wsout._wire.outgoing import system_gave_up
from trio_wsout._wire.response import AnswerReader
from trio_wsout._wire.tap import RECEIVE_BYTES, Tap

if TYPE_CHECKING:
    from trio_wsout._core.request import Request

__all__ = ["AnswerTap"]

_HEARING = 0.1
"""Seconds that a server's reason for hanging up in the handshake is waited for."""
_BODY = 0.25
"""Seconds that a refusal is kept back for its body; less where connect.timeout is nearly over."""
_KEY = re.compile(rb"^Sec-WebSocket-Key: *(\S+)\r$", re.MULTILINE | re.IGNORECASE)


class AnswerTap(Tap):
    """The tap of an outgoing connection: holds the answer back until its head is there and is a 101.

    What trio_websocket gets then is a head of our own making, which says no more than what was judged.
    """

    __slots__ = ("_answer", "_answered", "_deadline", "_key", "_request")

    def __init__(
        self, stream: trio.abc.Stream, request: Request, *, most: int, deadline: float = inf
    ) -> None:
        """Tap the stream to a server that gets `request`, and has until `deadline` to answer."""
        super().__init__(stream, masked=False, most=most)
        self._request = request
        self._deadline = deadline
        self._key = ""
        self._answer: AnswerReader | None = None
        self._answered = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write what trio_websocket asks with; the key in it is noted, which the answer must fit."""
        if not self._key and (found := _KEY.search(data)):
            self._key = found[1].decode("ascii")
        await super().send_all(data)

    async def _receive_head(self) -> bytes:
        """Read on until the whole head is there; empty: it was given already, or will never be."""
        if not self._answered and self.disconnection is None:
            await self._read_answer()
        return await super()._receive_head()

    async def _read_answer(self) -> None:
        request = self._request
        asked = Asked(
            secure=request.secure, key=self._key, subprotocols=request.subprotocols, secrets=request.secrets
        )
        answer = self._answer = AnswerReader(asked)
        while not answer.decided:
            chunk = await self._read()
            if not chunk:
                return
            answer.feed(chunk)
        if answer.opened is not None:
            self._answered = True
            self.begin_with(opening_head(self._key, answer.opened), answer.rest)
            return
        await self._hear_body(answer)
        assert answer.disconnection is not None  # noqa: S101 - it is decided, and not open
        self.fail(answer.disconnection)

    async def _hear_body(self, answer: AnswerReader) -> None:
        """Read what a refusal says, for a moment: it is told in the error."""
        patience = min(_BODY, (self._deadline - trio.current_time()) / 2)
        with trio.move_on_after(max(0.0, patience)):  # noqa: ASYNC912 - where nothing is to be read, it has been
            while answer.wants_body:
                try:
                    answer.feed(bytes(await self._stream.receive_some(RECEIVE_BYTES)))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return

    async def _hear_why(self) -> None:
        """A server that hangs up while it is asked may have said why: a TLS alert, a refusal."""
        if not self._answered:
            with trio.move_on_after(_HEARING):
                await self._read_answer()

    def _lost(self, detail: str, error: BaseException | None = None) -> None:
        super()._lost(detail if self._answered else f"{detail}, {self._unanswered(error)}", error)

    def _unanswered(self, error: BaseException | None) -> str:
        if self._answer is not None and self._answer.began:
            return "in the middle of the answer to the opening handshake"
        may_speak_tls = not self._request.secure and not system_gave_up(error)
        hint = "; if it speaks TLS, write wss:// in url" if may_speak_tls else ""
        return f"before the opening handshake was answered{hint}"

    def _shown(self, reason: str) -> str:
        return redact_secrets(reason, self._request.secrets)
