"""A server's response to the opening handshake, read by h11 (RFC 9112). Pure but for the date of a Retry-After.

A refusal is known with its status as soon as its head is there, an endless response is cut off, and the outcome does
not depend on how the bytes are cut.
"""

import time
from http import HTTPStatus

import h11

from trio_wsout._core.disconnection import Cause, Disconnection
from trio_wsout._core.http_head import TLS_RECORDS
from trio_wsout._core.opening import Asked, Opened, ResponseHead, judge_opening, refusal

MOST_HEAD = 64 * 1024
"""Bytes of a response up to the end of its last head at most. Proxies set large cookies."""
_MOST_HEADERS = 100
MOST_EARLY = 16
"""Informational responses (1xx) before the final one at most."""
MOST_BODY = 4096
"""Bytes of a refusal's body that are read, at most."""
_BEGINNING = b"HTTP/1."
_NOT_HTTP = "the server's answer is not HTTP/1.1"


class ResponseReader:
    """Reads one response from its first byte on."""

    opened: Opened | None
    """The content of a valid 101; None while the connection is not open."""
    wants_body: bool
    """Whether more of a refusal's body may change the text of the disconnection."""

    def __init__(self, asked: Asked) -> None:
        """Read the response to a request."""
        self._asked = asked
        self._came = self._early = 0
        self._begun = b""
        """The first bytes of the head that is being read."""
        self._behind = b""
        """The bytes that h11 did not get, because no head may have as many."""
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
        upgrade = [("Host", "localhost"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
        self._parser.send(h11.Request(method="GET", target="/", headers=upgrade))
        self._parser.send(h11.EndOfMessage())
        self._fault: Disconnection | None = None
        self._refusal: ResponseHead | None = None
        self._body = bytearray()
        self.wants_body = False
        self.opened = None

    @property
    def decided(self) -> bool:
        """Whether the outcome is known."""
        return self.opened is not None or self._refusal is not None or self._fault is not None

    @property
    def began(self) -> bool:
        """Whether any bytes came."""
        return self._came > 0

    @property
    def rest(self) -> bytes:
        """The bytes behind the head of a 101."""
        return bytes(self._parser.trailing_data[0]) + self._behind

    @property
    def disconnection(self) -> Disconnection | None:
        """The end of the attempt, as far as it is known; None if it did not fail."""
        if self._refusal is None:
            return self._fault
        return refusal(self._refusal, bytes(self._body), self._asked, wall=time.time())

    def feed(self, data: bytes) -> None:
        """Take the next bytes; empty if the server sends no more."""
        if self._refusal is not None:
            self._read_body(data)
            return
        room = MOST_HEAD - self._came
        self._came += len(data)
        self._behind = data[room:]
        self._begun += data[: len(_BEGINNING) - len(self._begun)]
        self._parser.receive_data(data[:room])
        while not self.decided:
            if not _BEGINNING.startswith(self._begun):
                speaks_tls = self._begun[:1] in TLS_RECORDS and not self._asked.secure
                self._fail("the server speaks TLS here: write wss:// in url" if speaks_tls else _NOT_HTTP)
                return
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError:
                event = None
            if event is h11.NEED_DATA:
                if self._came >= MOST_HEAD:
                    self._fail(f"the server's answer has a head of more than {MOST_HEAD} bytes")
                return
            self._judge(event)

    def _judge(self, response: object) -> None:
        if not isinstance(response, h11.Response | h11.InformationalResponse):
            self._fail(_NOT_HTTP)
        elif len(response.headers) > _MOST_HEADERS:
            self._fail(f"the server's answer has more than {_MOST_HEADERS} headers")
        elif response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            verdict = judge_opening(_head(response), self._asked)
            self.opened = verdict if isinstance(verdict, Opened) else None
            self._fault = verdict if isinstance(verdict, Disconnection) else None
        elif isinstance(response, h11.Response):
            self._refusal = _head(response)
            self._read_body(self._behind)
        else:
            self._early += 1
            self._begun = bytes(self._parser.trailing_data[0][: len(_BEGINNING)])
            if self._early > MOST_EARLY:
                self._fail(f"the server sent more than {MOST_EARLY} informational answers (1xx)")

    def _read_body(self, data: bytes) -> None:
        """Take bytes of the body, up to `MOST_BODY`; empty at its end, if more was waited for."""
        try:
            if data or self.wants_body:
                self._parser.receive_data(data)
            while isinstance(event := self._parser.next_event(), h11.Data):
                self._body += event.data[: MOST_BODY - len(self._body)]
        except h11.RemoteProtocolError:
            event = None
        self.wants_body = event is h11.NEED_DATA and len(self._body) < MOST_BODY

    def _fail(self, detail: str) -> None:
        self._fault = Disconnection(cause=Cause.PROTOCOL, detail=detail)


def _head(response: h11.Response | h11.InformationalResponse) -> ResponseHead:
    return ResponseHead(
        status=response.status_code,
        headers=[(name.decode("ascii"), value.decode("latin-1")) for name, value in response.headers],
    )
