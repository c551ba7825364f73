"""A server's response to the opening handshake, read by h11 (RFC 9112).

A refusal is known with its status as soon as its head is there, an endless response is cut off, and the outcome does
not depend on how the bytes are cut.
"""

import time
from contextlib import suppress
from http import HTTPStatus

import h11
import trio
from attrs import frozen

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.http_head import TLS_RECORDS
from trio_wsout._core.opening import Asked, ResponseHead, judge_opening, refusal
from trio_wsout._wire.tcp import lost, system_gave_up

MOST_HEAD = 64 * 1024
"""Bytes of a response up to the end of its last head at most. Proxies set large cookies."""
_MOST_HEADERS = 100
MOST_EARLY = 16
"""Informational responses (1xx) before the final one at most."""
MOST_BODY = 4096
"""Bytes of a refusal's body that are read, at most."""
_BODY = 0.25
"""Seconds that a refusal is kept back for its body; less where the deadline is near."""
_CHUNK = 16 * 1024
_BEGINNING = b"HTTP/1."
_NOT_HTTP = "the server's answer is not HTTP/1.1"


@frozen
class Answer:
    """A valid 101."""

    subprotocol: str | None
    """The subprotocol that the server chose; None if it chose none."""
    rest: bytes
    """The bytes that came behind it."""
    received: int
    """Bytes that came in all."""


async def read_response(stream: trio.abc.Stream, asked: Asked, deadline: float) -> Answer | Disconnection:
    """Read the response to a handshake; return why the attempt failed if it is no valid 101.

    The caller gives the attempt up at `deadline`, in seconds of trio's clock.
    """
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
    upgrade = [("Host", "localhost"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
    parser.send(h11.Request(method="GET", target="/", headers=upgrade))
    parser.send(h11.EndOfMessage())
    came = early = 0
    begun = b""  # the first bytes of the head that is being read
    while True:
        try:
            # No more is read than heads may have.
            chunk = bytes(await stream.receive_some(min(_CHUNK, MOST_HEAD - came)))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            return unanswered("reading failed", error, asked, began=came > 0)
        if not chunk:
            detail = "the peer closed the connection without a Close frame"
            return unanswered(detail, None, asked, began=came > 0)
        came += len(chunk)
        begun += chunk[: len(_BEGINNING) - len(begun)]
        parser.receive_data(chunk)
        while (head := _next_head(parser, begun, asked)) is not None:
            if isinstance(head, Disconnection):
                return head
            rest = bytes(parser.trailing_data[0])
            if head.status == HTTPStatus.SWITCHING_PROTOCOLS:
                verdict = judge_opening(head, asked)
                return verdict if isinstance(verdict, Disconnection) else Answer(verdict, rest, came)
            if head.status >= HTTPStatus.OK:
                patience = max(0.0, min(_BODY, (deadline - trio.current_time()) / 2))
                return refusal(head, await _read_body(stream, parser, patience), asked, wall=time.time())
            early += 1
            if early > MOST_EARLY:
                return _fault(f"the server sent more than {MOST_EARLY} informational answers (1xx)")
            begun = rest[: len(_BEGINNING)]
        if came == MOST_HEAD:
            return _fault(f"the server's answer has a head of more than {MOST_HEAD} bytes")


def unanswered(detail: str, error: BaseException | None, asked: Asked, *, began: bool) -> Disconnection:
    """Return the disconnection of a transport that is gone before the response was whole; `began` is whether bytes came."""
    if began:
        return lost(detail, error, more=", in the middle of the answer to the opening handshake")
    may_speak_tls = not asked.secure and not system_gave_up(error)
    hint = "; if it speaks TLS, write wss:// in url" if may_speak_tls else ""
    return lost(detail, error, more=f", before the opening handshake was answered{hint}")


def _next_head(parser: h11.Connection, begun: bytes, asked: Asked) -> ResponseHead | Disconnection | None:
    """Return the next head, or the fault in it; None if it is not whole yet."""
    if not _BEGINNING.startswith(begun):
        speaks_tls = begun[:1] in TLS_RECORDS and not asked.secure
        return _fault("the server speaks TLS here: write wss:// in url" if speaks_tls else _NOT_HTTP)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return _fault(_NOT_HTTP)
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        return None
    if len(event.headers) > _MOST_HEADERS:
        return _fault(f"the server's answer has more than {_MOST_HEADERS} headers")
    headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers]
    return ResponseHead(status=event.status_code, headers=headers)


def _fault(detail: str) -> Disconnection:
    return Disconnection(cause=Cause.PROTOCOL, detail=detail)


async def _read_body(stream: trio.abc.Stream, parser: h11.Connection, patience: float) -> bytes:
    """Read the body of a refusal for a moment: the error quotes its first line."""
    body = b""
    faults = (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)
    with suppress(*faults), trio.move_on_after(patience):  # noqa: ASYNC912 - where nothing is to be read, it has been
        while len(body) < MOST_BODY:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(bytes(await stream.receive_some(_CHUNK)))
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                break
    return body[:MOST_BODY]
