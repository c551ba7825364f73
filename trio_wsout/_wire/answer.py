"""The server's answer to our opening handshake, judged before trio_websocket sees it (RFC 6455 section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_wsout._wire.response import head_is_complete, judge_head
from trio_wsout._wire.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AnswerTap"]

_HEARING = 0.1
"""Seconds that a server's reason for hanging up in the handshake is waited for."""


class AnswerTap(Tap):
    """The tap of an outgoing connection: holds the answer back until its head is there and is a 101."""

    def __init__(self, stream: trio.abc.Stream, *, subprotocols: Sequence[str]) -> None:
        super().__init__(stream, masked=False)
        self._subprotocols = subprotocols
        self._head: bytearray | None = bytearray()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read the next bytes: the whole head first; end of file once the connection is over."""
        if self._head is None or self.ending is not None:
            return await super().receive_some(max_bytes)
        return await self._receive_head(await self._read())

    async def _receive_head(self, chunk: bytes) -> bytes:
        head = self._head
        while head is not None and chunk:
            head += chunk
            refusal = judge_head(head, self._subprotocols)
            if refusal is not None:
                self.fail(refusal)
                return b""
            if head_is_complete(head):
                self._head = None
                self._watch(_after_head(head))
                return bytes(head)
            chunk = await self._read()
        return b""

    async def _hear_why(self) -> None:
        """A server that hangs up while it is asked may have said why: a TLS alert, a refusal."""
        if self._head is not None:
            with trio.move_on_after(_HEARING):
                await self._receive_head(await self._read())


def _after_head(head: bytearray) -> bytes:
    ends = [head.find(end) + len(end) for end in (b"\r\n\r\n", b"\n\n", b"\n\r\n") if end in head]
    return bytes(head[min(ends) :])
