"""One side of a WebSocket connection without I/O, for your own peers: over sockets, in threads, in other processes."""

import os
import sys
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus

from attrs import define, field, frozen

from trio_wsout._core.http_head import reason_phrase, write_head
from trio_wsout._core.opening import accept_of, opening_head, request_head
from trio_wsout._wire.decoder import NO_STATUS, Close, Decoder, Ping, Violation
from trio_wsout._wire.frames import BINARY, CLOSE, PING, PONG, TEXT, masked_frame, plain_frame

__all__ = ["Close", "Headers", "PeerEvent", "PeerProtocol", "Ping", "Pong", "Request", "Response"]

Headers = Mapping[str, str] | Sequence[tuple[str, str]]
"""Headers to send: a mapping, or pairs where a name comes twice."""


@frozen
class Request:
    """The opening handshake of a client."""

    path: str
    """Path and query."""
    headers: dict[str, str]
    """Names in lower case."""


@frozen
class Response:
    """The answer of a server to the opening handshake."""

    status: int
    """HTTP status; 101 opens the connection."""
    headers: dict[str, str]
    """Names in lower case."""


@frozen
class Pong:
    """A pong."""

    payload: bytes


PeerEvent = Request | Response | str | bytes | Ping | Pong | Close
"""One thing that came. A text message is a `str`, a binary message is `bytes`."""


@define(eq=False)
class PeerProtocol:
    """Decodes the bytes that come on one connection, and encodes those to send."""

    server: bool = field(kw_only=True)
    """Whether this side is the server of the connection."""
    body: bytes = field(default=b"", init=False)
    """The bytes behind the head of a response other than 101."""
    _decoder: Decoder | None = field(default=None, init=False)
    """Decodes frames; None until the handshake is done."""
    _head: bytes = field(default=b"", init=False)
    _key: str = field(default="", init=False)
    _refused: bool = field(default=False, init=False)

    def feed(self, chunk: bytes | bytearray) -> list[PeerEvent]:
        """Take the next bytes; return the events that are complete now. Pongs are returned before everything else.

        Raises:
            AssertionError: The other side broke the protocol.
        """
        if self._decoder is not None:
            return self._decoded(self._decoder, bytes(chunk))
        if self._refused:
            self.body += chunk
            return []
        head, end, rest = (self._head + chunk).partition(b"\r\n\r\n")
        if not end:
            self._head = head
            return []
        first, *lines = head.decode("utf-8", "replace").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip(" \t") for name, _, value in pairs}
        if self.server:
            self._key = headers.get("sec-websocket-key", "")
            self._decoder = Decoder(masked=True, most=sys.maxsize)
            return [Request(first.split(" ")[1], headers), *self.feed(rest)]
        response = Response(int(first.split(" ")[1]), headers)
        self._refused = response.status != HTTPStatus.SWITCHING_PROTOCOLS
        if not self._refused:
            assert headers.get("sec-websocket-accept") == accept_of(self._key), "the accept value is wrong"  # noqa: S101
            self._decoder = Decoder(masked=False, most=sys.maxsize)
        return [response, *self.feed(rest)]

    def _decoded(self, decoder: Decoder, chunk: bytes) -> list[PeerEvent]:
        parts, pongs = decoder.feed(chunk)
        events: list[PeerEvent] = [Pong(payload) for payload in pongs]
        for part in parts:
            if isinstance(part, list):
                events += part
            elif isinstance(part, Violation):
                raise AssertionError(f"the other side sent {part.words}")
            else:
                events.append(part)
        return events

    def request(
        self,
        path: str = "/",
        headers: Headers = (),
        *,
        host: str = "peer.test",
        subprotocols: Sequence[str] = (),
    ) -> bytes:
        """Return the opening handshake of a client."""
        self._key = b64encode(os.urandom(16)).decode()
        return request_head(path, host, self._key, subprotocols, _pairs(headers))

    def accept(self, *, subprotocol: str | None = None, headers: Headers = ()) -> bytes:
        """Return the response that opens the connection of the request that came."""
        return opening_head(self._key, subprotocol, _pairs(headers))

    def refuse(self, status: int, headers: Headers = ()) -> bytes:
        """Return a response without a body that refuses the request that came."""
        fields = [("Content-Length", "0"), *_pairs(headers)]
        return write_head(f"HTTP/1.1 {status} {reason_phrase(status)}", fields)

    def message(self, message: str | bytes) -> bytes:
        """Return a message in one frame: text or binary, by its type."""
        if isinstance(message, str):
            return self._frame(message.encode(), TEXT)
        return self._frame(message, BINARY)

    def ping(self, payload: bytes = b"") -> bytes:
        """Return a ping."""
        return self._frame(payload, PING)

    def pong(self, payload: bytes = b"") -> bytes:
        """Return a pong."""
        return self._frame(payload, PONG)

    def close(self, code: int = 1000, reason: str = "") -> bytes:
        """Return a Close; the code 1005 leaves code and reason out (RFC 6455 section 7.1.5)."""
        return self._frame(b"" if code == NO_STATUS else code.to_bytes(2, "big") + reason.encode(), CLOSE)

    def _frame(self, payload: bytes, opcode: int) -> bytes:
        return plain_frame(payload, opcode) if self.server else masked_frame(payload, opcode)


def _pairs(headers: Headers) -> Iterable[tuple[str, str]]:
    return headers.items() if isinstance(headers, Mapping) else headers
