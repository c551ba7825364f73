"""The head of an HTTP request from a stranger, and an answer, both by h11 (RFC 9112)."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import h11
import trio

from trio_wsout._core.admission import Answer, Head

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["read_head", "refuse"]

_MOST_BYTES = 16 * 1024
_MOST_HEADERS = 100
_CHUNK = 4096
_LINGER = 1.0
"""Seconds that a refused peer may take to read its answer and hang up."""
_MOST_IGNORED = 256 * 1024
"""Bytes that a refused peer may still send."""
_TOO_LARGE = Answer(status=431, body="the request's head has more than 16 KiB or 100 headers")


async def read_head(stream: trio.abc.Stream) -> tuple[Head, bytes] | Answer | None:
    """Read one request's head and give what came behind it, or how to refuse it; None: the peer hung up.

    The caller bounds the time.

    Raises:
        trio.BrokenResourceError: The transport broke.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_BYTES)
    came = 0
    while True:
        chunk = await stream.receive_some(_CHUNK)
        if not chunk:
            return None
        came += len(chunk)
        try:
            connection.receive_data(bytes(chunk))
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == _TOO_LARGE.status:
                return _TOO_LARGE
            # Not h11's words: they may hold what the peer sent.
            return Answer(status=400, body="this is no HTTP request")
        if isinstance(event, h11.Request):
            rest = bytes(connection.trailing_data[0])
            if came - len(rest) > _MOST_BYTES or len(event.headers) > _MOST_HEADERS:
                return _TOO_LARGE
            return _head(event), rest
        if came > _MOST_BYTES:
            return _TOO_LARGE


def _head(request: h11.Request) -> Head:
    headers = cast("Sequence[tuple[bytes, bytes]]", request.headers)
    return Head(
        method=request.method.decode("ascii"),
        target=request.target.decode("ascii"),
        version=request.http_version.decode("ascii"),
        headers=[(name.decode("ascii"), _text(value)) for name, value in headers],
    )


def _text(value: bytes) -> str:
    """A header's value as UTF-8, or where it is none as Latin-1, which takes every byte."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def refuse(stream: trio.abc.Stream, answer: Answer, *, head_only: bool = False) -> None:
    """Write an answer, and hang up when the peer has, or shortly after. Never raises for the network.

    The transport is left for the caller to close. Closing at once could lose the answer: a reset overtakes it.
    """
    body = answer.body.encode() + b"\n"
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *answer.headers,
    ]
    upgrade = any(name == "Upgrade" for name, _ in answer.headers)
    headers.append(("Connection", "Upgrade, close" if upgrade else "close"))
    lines = [
        f"HTTP/1.1 {answer.status} {_phrase(answer.status)}",
        *(f"{name}: {text}" for name, text in headers),
    ]
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.move_on_after(_LINGER):
        await stream.send_all("\r\n".join([*lines, "", ""]).encode("ascii") + (b"" if head_only else body))
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        ignored = 0
        while ignored < _MOST_IGNORED and (chunk := await stream.receive_some(_CHUNK)):
            ignored += len(chunk)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"
