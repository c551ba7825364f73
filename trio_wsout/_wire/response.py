"""The head of the server's answer to the opening handshake, read before trio_websocket sees it.

So a refusal is known with its status at once, however long its body is, and a head without end
is cut off (RFC 6455 section 4.1, RFC 9112 section 2).
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11

from trio_wsout._core.ending import Cause, Ending

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MOST_HEAD", "judge_head"]

MOST_HEAD = 16 * 1024
"""Bytes that the head of an answer may have."""
_MOST_HEADERS = 100
_LONGEST_WAIT = 3600.0
"""Seconds of a Retry-After that are honoured; a server can't silence a link for longer."""
_REDIRECTION = 3
"""First digit of the statuses that point elsewhere (RFC 9110 section 15.4)."""
_MAY_ASK_TO_WAIT = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_HEAD_ENDS = (b"\r\n\r\n", b"\n\n", b"\n\r\n")


def judge_head(received: bytes | bytearray, subprotocols: Sequence[str]) -> Ending | None:
    """Judge the answer received so far.

    Args:
        received: Everything from the first byte of the answer on.
        subprotocols: What the request offered.

    Returns:
        None while the head is incomplete (ask `head_is_complete`) or when it is a 101 for wsproto
        to judge further; else why the attempt failed.
    """
    if not head_is_complete(received):
        if len(received) > MOST_HEAD:
            return Ending(
                cause=Cause.PROTOCOL,
                detail=f"the server's answer has a head of more than {MOST_HEAD} bytes",
            )
        return None
    response = _parse(bytes(received))
    if response is None:
        return Ending(cause=Cause.PROTOCOL, detail="the server's answer is not HTTP/1.1")
    if len(response.headers) > _MOST_HEADERS:
        return Ending(
            cause=Cause.PROTOCOL, detail=f"the server's answer has more than {_MOST_HEADERS} headers"
        )
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        return _refusal(response)
    chosen = _header(response, b"sec-websocket-protocol")
    if chosen is not None and chosen.decode("latin-1") not in subprotocols:
        return Ending(cause=Cause.PROTOCOL, detail="the server chose a subprotocol that was not offered")
    return None


def head_is_complete(received: bytes | bytearray) -> bool:
    """Whether the empty line that ends the head has come."""
    return any(end in received for end in _HEAD_ENDS)


def _parse(received: bytes) -> h11.Response | h11.InformationalResponse | None:
    """Parse the head with h11, set up as if it had sent a request to upgrade."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
    upgrade = [("Host", "localhost"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
    parser.send(h11.Request(method="GET", target="/", headers=upgrade))
    parser.send(h11.EndOfMessage())
    try:
        parser.receive_data(received)
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Response | h11.InformationalResponse) else None


def _header(response: h11.Response | h11.InformationalResponse, name: bytes) -> bytes | None:
    values = [value for key, value in response.headers if key == name]
    return b", ".join(values) if values else None


def _refusal(response: h11.Response | h11.InformationalResponse) -> Ending:
    status = response.status_code
    try:
        phrase = f" {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    redirected = status // 100 == _REDIRECTION
    advice = "; redirects are not followed: put the final address into url" if redirected else ""
    return Ending(
        cause=Cause.REFUSED,
        detail=f"the server answered {status}{phrase}{advice}",
        status=status,
        retry_after=_retry_after(_header(response, b"retry-after")) if status in _MAY_ASK_TO_WAIT else None,
    )


def _retry_after(value: bytes | None) -> float | None:
    """Seconds of a Retry-After header, in either of its forms (RFC 9110 section 10.2.3)."""
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_WAIT)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), _LONGEST_WAIT)
