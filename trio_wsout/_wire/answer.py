"""The server's answer to our opening handshake, judged before trio_websocket sees it (RFC 6455 section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_wsout._core.masking import mask_secrets
from trio_wsout._wire.response import head_is_complete, judge_head
from trio_wsout._wire.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AnswerTap"]

_HEARING = 0.1
"""Seconds that a server's reason for hanging up in the handshake is waited for."""


class AnswerTap(Tap):
    """The tap of an outgoing connection: holds the answer back until its head is there and is a 101."""

    __slots__ = ("_answered", "_secrets", "_subprotocols")

    def __init__(
        self, stream: trio.abc.Stream, *, most: int, subprotocols: Sequence[str], secrets: Sequence[str]
    ) -> None:
        """Tap the stream to a server that was offered `subprotocols`; never tell `secrets`, which it was told."""
        super().__init__(stream, masked=False, most=most)
        self._subprotocols = subprotocols
        self._secrets = secrets
        self._answered = False

    async def _receive_head(self) -> bytes:
        """Read on until the whole head is there; empty: it was given already, or will never be."""
        if not self._answered and self.ending is None:
            await self._read_head()
        return await super()._receive_head()

    async def _read_head(self) -> None:
        head = b""
        while chunk := await self._read():
            head += chunk
            refusal = judge_head(head, self._subprotocols)
            if refusal is not None:
                self.fail(refusal)
                return
            if head_is_complete(head):
                self._answered = True
                end = _end_of_head(head)
                self.begin_with(head[:end], head[end:])
                return

    async def _hear_why(self) -> None:
        """A server that hangs up while it is asked may have said why: a TLS alert, a refusal."""
        if not self._answered:
            with trio.move_on_after(_HEARING):
                await self._read_head()

    def _shown(self, reason: str) -> str:
        return mask_secrets(reason, self._secrets)


def _end_of_head(head: bytes) -> int:
    return min(head.find(end) + len(end) for end in (b"\r\n\r\n", b"\n\n", b"\n\r\n") if end in head)
