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
from trio_wsout._core.http_head import write_head
from trio_wsout._core.opening import Asked, opening_head
from trio_wsout._core.request import Request
from trio_wsout._wire.http_response import ResponseReader
from trio_wsout._wire.tcp import lost, system_gave_up
from trio_wsout._wire.transport import RECEIVE_BYTES, Transport

_HEARING = 0.1
"""Seconds to wait for the reason of a server that hung up in the handshake."""
_BODY = 0.25
"""Seconds that a refusal is kept back for its body; less where the deadline is near."""
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
        return _request_head(key, subprotocol)

    exchange = _Exchange(read_head)
    extra = [(name.lower().encode("ascii"), value.encode("utf-8")) for name, value in headers]
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, exchange)
        await request.accept(subprotocol=subprotocol, extra_headers=extra)
        nursery.cancel_scope.cancel()
    return exchange.written


def _request_head(key: str, subprotocol: str | None) -> bytes:
    fields = [
        ("Host", "peer"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
    ]
    if subprotocol is not None:
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    return write_head("GET / HTTP/1.1", fields)


# -- of a client ------------------------------------------------------------------------------------------


Dialled = tuple[Transport, str | None]
"""A connection that the server has opened, and the subprotocol that it chose; None if it chose none."""


async def ask_for_opening(
    stream: trio.abc.Stream, request: Request, deadline: float
) -> Dialled | Disconnection:
    """Ask a server to open a connection; return it with its subprotocol, or why the attempt failed.

    The caller gives the attempt up at `deadline`, in seconds of trio's clock.
    """
    outcome: Dialled | Disconnection | None = None
    try:
        async with trio.open_nursery() as nursery:

            async def read_head(asked: bytes) -> bytes:
                nonlocal outcome
                asking = _Asking(stream, request, deadline, _key_in(asked))
                outcome = await asking.ask(asked)
                if isinstance(outcome, Disconnection):
                    nursery.cancel_scope.cancel()
                    return b""
                return opening_head(asking.key, outcome[1])

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


def _key_in(asked: bytes) -> str:
    found = _KEY.search(asked)
    return "" if found is None else found[1].decode("ascii")


@define(eq=False)
class _Asking:
    """One request and its outcome."""

    _stream: trio.abc.Stream
    _request: Request
    _deadline: float
    key: str
    """The Sec-WebSocket-Key of the request, which the response must fit."""
    _response: ResponseReader = field(init=False)
    _received: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        request = self._request
        asked = Asked(
            secure=request.secure, key=self.key, subprotocols=request.subprotocols, secrets=request.secrets
        )
        self._response = ResponseReader(asked)

    async def ask(self, asked: bytes) -> Dialled | Disconnection:
        """Write the request, and read the response."""
        try:
            await self._stream.send_all(asked)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            trouble = error
        else:
            return await self._hear()
        # A server that hangs up during the request may have sent a reason before: a TLS alert, or a refusal.
        outcome: Dialled | Disconnection | None = None
        with trio.move_on_after(_HEARING):
            outcome = await self._hear()
        return outcome if isinstance(outcome, Disconnection) else self._unanswered("writing failed", trouble)

    async def _hear(self) -> Dialled | Disconnection:
        response = self._response
        while not response.decided:
            try:
                chunk = bytes(await self._stream.receive_some(RECEIVE_BYTES))
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                return self._unanswered("reading failed", error)
            if not chunk:
                return self._unanswered("the peer closed the connection without a Close frame")
            self._received += len(chunk)
            response.feed(chunk)
        if response.opened is None:
            await self._hear_body()
            assert response.disconnection is not None  # noqa: S101 - it is decided, and not open
            return response.disconnection
        transport = Transport(self._stream, unread=response.rest, received_bytes=self._received)
        return transport, response.opened.subprotocol

    async def _hear_body(self) -> None:
        """Read the body of a refusal for a moment: the error quotes its first line."""
        patience = min(_BODY, (self._deadline - trio.current_time()) / 2)
        with trio.move_on_after(max(0.0, patience)):  # noqa: ASYNC912 - where nothing is to be read, it has been
            while self._response.wants_body:
                try:
                    self._response.feed(bytes(await self._stream.receive_some(RECEIVE_BYTES)))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return

    def _unanswered(self, detail: str, error: BaseException | None = None) -> Disconnection:
        if self._response.began:
            return lost(detail, error, more=", in the middle of the answer to the opening handshake")
        may_speak_tls = not self._request.secure and not system_gave_up(error)
        hint = "; if it speaks TLS, write wss:// in url" if may_speak_tls else ""
        return lost(detail, error, more=f", before the opening handshake was answered{hint}")
