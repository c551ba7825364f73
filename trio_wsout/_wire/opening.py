"""The opening handshake of either side, by trio_websocket (RFC 6455 section 4). Nothing of it stays afterwards.

trio_websocket runs in a nursery that ends with the handshake, and it never has the stream itself: it writes one head
to an `_Exchange` and reads one head from it. This library writes the head that is read, and puts only judged values
into it. So whatever a peer sends, the outcome concerns its own connection only.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import trio
from attrs import define, field
from trio_websocket import wrap_client_stream, wrap_server_stream

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.opening import Asked, opening_head, request_head
from trio_wsout._core.request import Request
from trio_wsout._wire.http_response import Answer, read_response, unanswered

_HEARING = 0.1
"""Seconds to wait for the reason of a server that hung up in the handshake."""
_KEY = re.compile(rb"^Sec-WebSocket-Key: *(\S+)\r$", re.MULTILINE | re.IGNORECASE)


@define(eq=False)
class _Exchange(trio.abc.Stream):
    """The stream that trio_websocket is given: it writes one head and reads one head."""

    _read_head: Callable[[bytes], Awaitable[bytes]]
    """Called with the bytes written so far when trio_websocket reads; returns the head that it reads."""
    written: bytes = field(default=b"", init=False)
    """The bytes that trio_websocket wrote."""
    _was_read: bool = field(default=False, init=False)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.written += data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        del max_bytes
        if self._was_read:
            await trio.sleep_forever()
        self._was_read = True
        return await self._read_head(self.written)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


# -- of a server ------------------------------------------------------------------------------------------


async def accept_opening(key: str, subprotocol: str | None, headers: Sequence[tuple[str, str]]) -> bytes:
    """Return the 101 that lets a peer in, as bytes to write; its key was judged, and `headers` are further ones."""

    async def read_head(_: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return request_head("/", "peer", key, [] if subprotocol is None else [subprotocol])

    exchange = _Exchange(read_head)
    extra = [(name.lower().encode("ascii"), value.encode("utf-8")) for name, value in headers]
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, exchange)
        await request.accept(subprotocol=subprotocol, extra_headers=extra)
        nursery.cancel_scope.cancel()
    return exchange.written


# -- of a client ------------------------------------------------------------------------------------------


async def ask_for_opening(
    stream: trio.abc.Stream, request: Request, deadline: float
) -> Answer | Disconnection:
    """Ask a server to open a connection; return its answer, or why the attempt failed.

    The caller gives the attempt up at `deadline`, in seconds of trio's clock.
    """
    outcome: Answer | Disconnection | None = None
    try:
        async with trio.open_nursery() as nursery:

            async def read_head(written: bytes) -> bytes:
                nonlocal outcome
                asked = _asked(request, written)
                outcome = await _ask(stream, asked, written, deadline)
                if isinstance(outcome, Disconnection):
                    nursery.cancel_scope.cancel()
                    return b""
                return opening_head(asked.key, outcome.subprotocol)

            await wrap_client_stream(
                nursery,
                cast("trio.SocketStream", _Exchange(read_head)),
                request.authority,
                request.resource,
                subprotocols=request.subprotocols,
                extra_headers=[(name.encode("ascii"), value) for name, value in request.headers],
            )
            nursery.cancel_scope.cancel()
    except* Exception as group:  # noqa: BLE001 - trio_websocket's and wsproto's, on values of the configuration
        kind = type(group.exceptions[0]).__name__
        outcome = Disconnection(cause=Cause.BAD_HANDSHAKE, detail=f"the handshake can't be made ({kind})")
    assert outcome is not None  # noqa: S101 - `read_head` is done, or an exception got out
    return outcome


def _asked(request: Request, written: bytes) -> Asked:
    key = _KEY.search(written)
    return Asked(
        secure=request.secure,
        key="" if key is None else key[1].decode("ascii"),
        subprotocols=request.subprotocols,
        secrets=request.secrets,
    )


async def _ask(
    stream: trio.abc.Stream, asked: Asked, written: bytes, deadline: float
) -> Answer | Disconnection:
    """Write the request, and read the response."""
    try:
        await stream.send_all(written)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        trouble = error
    else:
        return await read_response(stream, asked, deadline)
    # A server that hangs up during the request may have sent a reason before: a TLS alert, or a refusal.
    outcome: Answer | Disconnection | None = None
    with trio.move_on_after(_HEARING):
        outcome = await read_response(stream, asked, deadline)
    if isinstance(outcome, Disconnection):
        return outcome
    return unanswered("writing failed", trouble, asked, began=False)
