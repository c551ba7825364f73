"""The head of a peer's HTTP request, read by h11, and refusals (RFC 9112)."""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import cast

import h11
import trio

from trio_wsout._core.admission import Head, Response
from trio_wsout._core.http_head import reason_phrase, write_head

_MOST_BYTES = 16 * 1024
_MOST_HEADERS = 100
_EMPTY_LINES = re.compile(rb"(?:\r?\n){0,2}")
"""Empty lines before a request, which are ignored; more of them are no request (RFC 9112 section 2.2)."""
_CHUNK = 4096
_LINGER = 1.0
"""Seconds that a refused peer has to read its answer and hang up."""
_MOST_IGNORED = 256 * 1024
"""Bytes that a refused peer may still send."""
_NO_REQUEST = Response(status=400, body="this is no HTTP request")
_TOO_LARGE = Response(status=431, body="the request's head has more than 16 KiB or 100 headers")


async def read_head(stream: trio.abc.Stream) -> tuple[Head, bytes] | Response | None:
    """Read the head of one request; return it with the bytes behind it, or the response that refuses it.

    None if the peer hung up first. The caller bounds the time. Raises trio.BrokenResourceError if the transport broke.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_BYTES)
    came, begun, skips = 0, b"", True
    # No more is read than a head may have, so the outcome does not depend on how the bytes are cut.
    while chunk := bytes(await stream.receive_some(min(_CHUNK, _MOST_BYTES - came))):
        came += len(chunk)
        if skips:
            begun += chunk
            chunk = _EMPTY_LINES.sub(b"", begun, 1)
            if chunk in (b"", b"\r"):  # a lone CR may end an empty line
                continue
            skips = False
        try:
            parser.receive_data(chunk)
            request = parser.next_event()
        except h11.RemoteProtocolError:
            # h11's words are not used: they may contain words of the peer.
            return _NO_REQUEST
        if isinstance(request, h11.Request):
            rest = bytes(parser.trailing_data[0])
            return (_head(request), rest) if len(request.headers) <= _MOST_HEADERS else _TOO_LARGE
        if came == _MOST_BYTES:
            return _TOO_LARGE
    return None


def _head(request: h11.Request) -> Head:
    headers = cast("Sequence[tuple[bytes, bytes]]", request.headers)
    return Head(
        method=request.method.decode("ascii"),
        target=request.target.decode("ascii"),
        version=request.http_version.decode("ascii"),
        headers=[(_name(name), _text(value)) for name, value in headers],
    )


@lru_cache(maxsize=256)
def _name(name: bytes) -> str:
    """Return a header's name. All peers share one object for it, because it is kept as long as a peer stays."""
    return name.decode("ascii")


def _text(value: bytes) -> str:
    """Return a header's value decoded as UTF-8, or else as Latin-1, which decodes every byte."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def refuse(stream: trio.abc.Stream, refusal: Response, *, head_only: bool = False) -> None:
    """Write a refusal, then wait briefly until the peer has hung up. Never raises for the network.

    The caller closes the stream afterwards. Without the wait a reset could overtake the response.
    """
    body = refusal.body.encode() + b"\n"
    upgrade = any(name == "Upgrade" for name, _ in refusal.headers)
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *refusal.headers,
        ("Connection", "Upgrade, close" if upgrade else "close"),
    ]
    reason = reason_phrase(refusal.status) or "Refused"
    answer = write_head(f"HTTP/1.1 {refusal.status} {reason}", headers) + (b"" if head_only else body)
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.move_on_after(_LINGER):
        await stream.send_all(answer)
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        ignored = 0
        while ignored < _MOST_IGNORED and (chunk := await stream.receive_some(_CHUNK)):
            ignored += len(chunk)
