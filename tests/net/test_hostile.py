"""Strangers at the door of a listener: whatever they send, and however many they are, nobody else pays for it.

Every test has a bystander, a peer that was there before and must miss nothing. In the end no task, no
descriptor and no place may be left of who came after it.
"""

from __future__ import annotations

import json
import logging
import random
import re
import resource
import socket
import ssl
import struct
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel
import trio_wsout
from attrs import define, field, frozen
from layers import PLAIN, Layer
from trio_wsout._wire.frames import BINARY, CLOSE, PING, PONG, TEXT, masked_frame

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence


pytestmark = [pytest.mark.network, pytest.mark.heavy]

ROUNDS = 20
"""Of 500 peers for 100 places."""
STARVING = """
import json, logging, os, resource, sys
import trio, trio_wsout

class Tell(logging.Handler):
    def emit(self, record):
        print(record.getMessage(), flush=True)

async def main():
    async with trio_wsout.open_output(json.loads(sys.argv[1])) as output:
        count = len(os.listdir("/dev/fd")) + 20
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        print(output.statistics().addresses[0].rpartition(":")[2], flush=True)
        number = 0
        while True:
            await output.send(f"event {number}")
            number += 1
            await trio.sleep(0.02)

logging.getLogger("trio_wsout").addHandler(Tell())
trio.run(main)
"""
"""A listener in a process that soon has no descriptors left."""
PATIENCE = 240
"""Seconds that anything here may take, on a machine that is busy."""
PATH = b"/feed"
ORIGIN = b"https://good.example"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = (
    b"Host: peer",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: " + KEY,
    b"Sec-WebSocket-Version: 13",
    b"Origin: " + ORIGIN,
)


def handshake(
    *more: bytes, line: bytes = b"GET " + PATH + b" HTTP/1.1", without: str = "", end: bytes = b"\r\n"
) -> bytes:
    """A request with these header lines more, and `without` the header of that name."""
    kept = [each for each in HEADERS if not without or not each.lower().startswith(f"{without}:".encode())]
    return end.join([line, *kept, *more, b"", b""])


def at(target: bytes) -> bytes:
    return handshake(line=b"GET " + target + b" HTTP/1.1")


def instead(line: bytes) -> bytes:
    """A request with this header line in place of the one of the same name."""
    return handshake(line, without=line.partition(b":")[0].decode().lower())


def padded(size: int) -> bytes:
    """A request of so many bytes."""
    return handshake(b"X-Pad: " + b"x" * (size - len(handshake(b"X-Pad: "))))


def close_frame(code: int = 1000) -> bytes:
    return masked_frame(code.to_bytes(2, "big"), CLOSE)


def port_of(output: trio_wsout.Output) -> int:
    return int(output.statistics().addresses[0].rpartition(":")[2])


async def until(is_so: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(PATIENCE):
        while not is_so():
            await trio.sleep(0.01)
        return
    pytest.fail(f"after {PATIENCE} seconds it is not so: {what}")


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


OPENED: list[trio.SocketStream] = []


@pytest.fixture(autouse=True)
async def everybody_leaves() -> AsyncGenerator[None, None]:
    """Close what a test that failed has left open."""
    yield
    for transport in OPENED:
        transport.socket.close()
    OPENED.clear()


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


@define(eq=False)
class Stranger:
    """A connection to the listener, and every byte that came by it."""

    stream: trio.abc.Stream
    transport: trio.SocketStream
    came: bytes = b""
    ended: bool = False

    async def send(self, data: bytes) -> bool:
        """Send; gives whether that was still possible."""
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError:
            return False
        return True

    async def receive(self) -> bytes:
        """What comes next; nothing at the end, in whatever way that comes."""
        try:
            chunk = bytes(await self.stream.receive_some(65536))
        except trio.BrokenResourceError:
            chunk = b""
        self.came += chunk
        self.ended = not chunk
        return chunk

    async def read_status(self) -> int | None:
        """Read up to the end of the answer's head; gives its status, None: there was no answer."""
        while b"\r\n\r\n" not in self.came and not self.ended:
            await self.receive()
        return int(self.came[9:12]) if self.came.startswith(b"HTTP/1.1 ") else None

    async def read_all(self) -> None:
        while not self.ended:
            await self.receive()

    def reset(self) -> None:
        """Cut the connection by a RST."""
        self.transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.socket.close()

    def leave(self) -> None:
        self.transport.socket.close()

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """Opcode and payload of every frame that came; raises AssertionError where one is torn or not legal."""
        data = self.came.partition(b"\r\n\r\n")[2]
        found: list[tuple[int, bytes]] = []
        while data:
            opcode, size, start = data[0] ^ 0x80, data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            assert opcode in (TEXT, BINARY, CLOSE, PING, PONG), f"no frame: {data[:20]!r}"
            assert len(data) >= start + size, f"a torn frame: {data[:20]!r}"
            assert CLOSE not in [each for each, _ in found], f"behind a Close: {data[:20]!r}"
            found.append((opcode, data[start : start + size]))
            data = data[start + size :]
        return found

    @property
    def close_codes(self) -> list[int]:
        return [int.from_bytes(payload[:2], "big") for opcode, payload in self.frames if opcode == CLOSE]


@define(eq=False)
class Bystander:
    """A peer that was there before: events go to it all the time, or in server-input come from it."""

    stranger: Stranger
    sent: list[str] = field(factory=list)
    got: list[str] = field(factory=list)
    enough: trio.CancelScope = field(factory=trio.CancelScope)
    written: trio.Event = field(factory=trio.Event)

    async def read(self) -> None:
        """Read, and answer pings."""
        rest = self.stranger.came.partition(b"\r\n\r\n")[2]
        while True:
            while len(rest) > 1 and len(rest) >= 2 + rest[1]:
                opcode, size = rest[0] & 0xF, rest[1]
                payload, rest = rest[2 : 2 + size], rest[2 + size :]
                if opcode == PING:
                    await self.stranger.send(masked_frame(payload, PONG))
                elif opcode == TEXT:
                    self.got.append(payload.decode())
                else:
                    pytest.fail(f"the bystander got {payload!r} of kind {opcode}")
            chunk = await self.stranger.receive()
            if not chunk:
                pytest.fail("the bystander was cut")
            rest += chunk

    async def say(self, text: str) -> None:
        await self.stranger.send(masked_frame(text.encode(), TEXT))

    async def write_events(self, send: Callable[[str], Awaitable[object]]) -> None:
        """Send events until `enough`."""
        with self.enough:
            while True:
                with trio.CancelScope(shield=True):  # all of it, or nothing
                    await send(f"event {len(self.sent)}")
                self.sent.append(f"event {len(self.sent)}")
                await trio.sleep(0.02)
        self.written.set()


@define
class Door:
    """The way in to a listener."""

    port: int
    context: ssl.SSLContext | None
    output: trio_wsout.Output = field(init=False)
    bystander: Bystander = field(init=False)
    tasks: int = 0
    """How many there were before the strangers came."""
    descriptors: int = 0
    """The same."""
    heard: list[object] = field(factory=list)
    """What strangers said (server-input)."""

    async def dial_below(self) -> Stranger:
        """A connection without TLS, whatever the listener wants."""
        transport = await trio.open_tcp_stream("127.0.0.1", self.port)
        OPENED.append(transport)
        return Stranger(transport, transport)

    async def dial(self) -> Stranger:
        """A connection, secured where the listener wants that."""
        stranger = await self.dial_below()
        if self.context is None:
            return stranger
        transport = stranger.transport
        secured = trio.SSLStream(transport, self.context, server_hostname="localhost", https_compatible=True)
        await secured.do_handshake()
        return Stranger(secured, transport)

    async def enter(self) -> Stranger:
        """A peer that was let in."""
        stranger = await self.dial()
        await stranger.send(handshake())
        assert await stranger.read_status() == 101, stranger.came
        return stranger

    async def hear(self) -> None:
        """Take what is received."""
        async for message in self.output.received:
            if str(message.event).startswith("event "):
                self.bystander.got.append(str(message.event))
            else:
                self.heard.append(message.event)


@pytest.fixture(params=["plain", "tls"])
def layer(request: pytest.FixtureRequest, tls: Layer) -> Layer:
    return tls if request.param == "tls" else PLAIN


@pytest.fixture
def need_descriptors() -> Iterator[Callable[[int], None]]:
    """Call it with a number of file descriptors: the soft limit is raised to it, or the test skipped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def need(count: int) -> None:
        if soft == resource.RLIM_INFINITY or soft >= count:
            return
        if hard != resource.RLIM_INFINITY and hard < count:
            pytest.skip(f"needs {count} file descriptors, {hard} are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))

    yield need
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def open_door(
    layer: Layer = PLAIN,
    mode: str = "server-output",
    *,
    authenticate: Callable[[trio_wsout.Handshake], Awaitable[Any]] | None = None,
    fields: Mapping[str, Any] | None = None,
    **server: Any,
) -> AsyncGenerator[Door, None]:
    """A listener with a bystander, who misses nothing; at the end nothing is left of who came later."""
    document: dict[str, Any] = {"mode": mode, "server": {"bind": "127.0.0.1:0", **layer.fields, **server}}
    document |= fields or {}
    async with trio_wsout.open_output(document, authenticate=authenticate) as output:
        door = Door(port_of(output), layer.context)
        door.output = output
        bystander = door.bystander = Bystander(await door.enter())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bystander.read)
                if mode == "server-output":
                    nursery.start_soon(bystander.write_events, output.send)
                else:
                    nursery.start_soon(door.hear)
                    nursery.start_soon(bystander.write_events, bystander.say)
                await until(lambda: bool(bystander.got), "events come")
                door.tasks, door.descriptors = tasks(), descriptors()
                yield door
                await until(lambda: tasks() <= door.tasks, "no task is left of the strangers")
                await until(
                    lambda: descriptors() <= door.descriptors, "no descriptor is left of the strangers"
                )
                await until(lambda: output.statistics().peers == 1, "only the bystander is there")
                bystander.enough.cancel()
                await bystander.written.wait()
                await until(lambda: len(bystander.got) >= len(bystander.sent), "the bystander has everything")
                nursery.cancel_scope.cancel()
        finally:
            bystander.stranger.leave()
        assert bystander.got == bystander.sent


async def test_the_bystander_of_these_tests_hears_events(layer: Layer) -> None:
    for mode in ("server-output", "server-input"):
        async with open_door(layer, mode) as door:
            assert door.bystander.got


@frozen(kw_only=True)
class Row:
    """What a stranger does, and what becomes of it."""

    sent: Sequence[bytes | float]
    """Bytes to write, and seconds to wait."""
    statuses: tuple[int | None, ...]
    """The answers that are right; None: dropped without one."""
    end: str = "hold"
    """What the stranger does then: ``hold`` on to the connection, ``fin``, ``rst``."""
    closed: int | None = None
    """Of one that is let in: code of the listener's Close; None: the stranger closes, and the listener answers."""
    heard: Sequence[str] = ()
    """Messages that the listener gets."""
    pongs: Sequence[bytes] = ()
    """Pongs that the stranger gets."""
    beneath: bool = False
    """Whether the bytes are written under the TLS, not in it."""
    secured: bool = True
    """Whether there is a TLS handshake, where the listener wants one."""


def answered(status: int, *sent: bytes | float, end: str = "hold") -> Row:
    return Row(sent=sent, statuses=(status,), end=end)


def admitted(
    *sent: bytes | float, closed: int | None = None, heard: Sequence[str] = (), pongs: Sequence[bytes] = ()
) -> Row:
    return Row(sent=sent, statuses=(101,), closed=closed, heard=heard, pongs=pongs)


def dropped(*sent: bytes | float, end: str = "hold") -> Row:
    return Row(sent=sent, statuses=(None,), end=end)


def bytewise(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def each_followed_by(seconds: float, pieces: Sequence[bytes]) -> list[bytes | float]:
    return [item for piece in pieces for item in (piece, seconds)]


def client_hello() -> bytes:
    """What a TLS client says first."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


PING_FRAME = masked_frame(b"glued", PING)
HALVED = masked_frame(b"halved", TEXT)
UNMASKED = b"\x81\x05hello"

ROWS: Mapping[str, Row] = {
    # Slow, silent, torn
    "no bytes at all": dropped(),
    "half a request line": dropped(b"GET /fe"),
    "everything but the last byte": dropped(handshake()[:-1]),
    "one byte at a time": admitted(*bytewise(handshake())),
    "one byte at a time and never done": dropped(*each_followed_by(0.05, [b"G"] * 200)),
    "a header a moment": dropped(b"GET /feed HTTP/1.1\r\n", *each_followed_by(0.05, [b"X-More: 1\r\n"] * 90)),
    "FIN at once": dropped(end="fin"),
    "FIN in the middle": dropped(handshake()[:50], end="fin"),
    "FIN behind the handshake": Row(sent=[handshake()], statuses=(101, None), end="fin"),
    "RST at once": dropped(end="rst"),
    "RST in the middle": dropped(handshake()[:50], end="rst"),
    "RST behind the handshake": dropped(handshake(), end="rst"),
    "RST behind a refusal's cause": dropped(at(b"/other"), end="rst"),
    # Not HTTP/1.1
    "NUL bytes": answered(400, bytes(100)),
    "random bytes": answered(400, random.Random(1).randbytes(3000) + b"\r\n\r\n"),
    "random bytes without end": dropped(random.Random(1).randbytes(3000).replace(b"\n", b"")),
    "TLS": answered(400, client_hello()),
    "empty lines": answered(400, b"\r\n\r\n\r\n"),
    "HTTP/0.9": answered(400, b"GET /feed\r\n\r\n"),
    "HTTP/0.9 and no end": dropped(b"GET /feed\r\n"),
    "HTTP/1.0": answered(400, handshake(line=b"GET /feed HTTP/1.0")),
    "HTTP/1.2": answered(400, handshake(line=b"GET /feed HTTP/1.2")),
    "HTTP/9.9": answered(400, handshake(line=b"GET /feed HTTP/9.9")),
    "HTTP/11": answered(400, handshake(line=b"GET /feed HTTP/11")),
    "HTTP/2 preface": answered(400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
    "SMTP": answered(400, b"EHLO example.org\r\n\r\n"),
    "a frame": dropped(b"\x81\x85\x00\x00\x00\x00hello"),
    "two spaces in the request line": answered(400, handshake(line=b"GET  /feed HTTP/1.1")),
    # Methods and targets
    "POST": answered(405, handshake(line=b"POST /feed HTTP/1.1")),
    "HEAD": answered(405, handshake(line=b"HEAD /feed HTTP/1.1")),
    "a method of its own": answered(405, handshake(line=b"!#$%&'*+ /feed HTTP/1.1")),
    "a method in lower case": answered(405, handshake(line=b"get /feed HTTP/1.1")),
    "CONNECT": answered(400, handshake(line=b"CONNECT peer:443 HTTP/1.1")),
    "OPTIONS *": answered(400, handshake(line=b"OPTIONS * HTTP/1.1")),
    "absolute-form target": admitted(at(b"http://peer/feed?a=b")),
    "absolute-form target with another path": answered(404, at(b"http://peer/other")),
    "absolute-form target without a path": answered(404, at(b"wss://peer")),
    "absolute-form target of another scheme": answered(400, at(b"ftp://peer/feed")),
    "target without a slash": answered(400, at(b"feed")),
    "wrong path": answered(404, at(b"/other")),
    "path with a slash more": answered(404, at(b"/feed/")),
    "path with dots": answered(404, at(b"/./feed")),
    "percent-encoded NUL in the path": answered(404, at(b"/feed%00")),
    "percent-encoded newline in the path": answered(
        404, at(b"/feed%0d%0aX: y")[:-2].replace(b" y", b"y") + b"\r\n"
    ),
    "broken percent-encoding": answered(404, at(b"/feed%zz%")),
    "percent-encoded path": admitted(at(b"/%66eed")),
    "odd query": admitted(at(b"/feed?a=%00&&=;%ff%&?b#c")),
    "many fields in the query": admitted(at(b"/feed?" + b"&".join([b"a=b"] * 3000))),
    "non-ASCII bytes in the target": answered(400, at(b"/feed\xff")),
    "enormous target": answered(431, at(b"/" + b"x" * 20_000)),
    # Headers
    "huge header line": answered(431, handshake(b"X-Huge: " + b"x" * 20_000)),
    "huge header that goes on": Row(sent=[handshake(b"X-Huge: " + b"x" * 2_000_000)], statuses=(431, None)),
    "1,000 headers": answered(431, handshake(*[b"X-Many: 1"] * 1000)),
    "101 headers": answered(431, handshake(*[b"X-Many: 1"] * (101 - len(HEADERS)))),
    "100 headers": admitted(handshake(*[b"X-Many: 1"] * (100 - len(HEADERS)))),
    "16 KiB and a byte": answered(431, padded(16 * 1024 + 1)),
    "16 KiB": admitted(padded(16 * 1024)),
    "header without colon": answered(400, handshake(b"X-Nothing")),
    "header without name": answered(400, handshake(b": nothing")),
    "space before the colon": answered(400, handshake(b"X-Space : 1")),
    "obs-fold": admitted(handshake(b"X-Folded: 1", b"  2")),
    "obs-fold in the first header": answered(400, b"GET /feed HTTP/1.1\r\n X: y\r\n\r\n"),
    "folded Upgrade": admitted(instead(b"Upgrade:\r\n websocket")),
    "bare LF": admitted(handshake(end=b"\n")),
    "bare CR": answered(400, handshake(b"X-Bare: a\rb")),
    "NUL in a header": answered(400, handshake(b"X-Nul: a\0b")),
    "NUL in a header's name": answered(400, handshake(b"X-\0: a")),
    "non-ASCII bytes in a header's name": answered(400, handshake(b"X-\xe9: a")),
    "non-ASCII bytes in a header": admitted(handshake(b"X-Any: \xe9\xff\xfe")),
    "no Host": answered(400, handshake(without="host")),
    "two Hosts": answered(400, handshake(b"Host: other")),
    "non-ASCII bytes in Host": admitted(instead(b"Host: \xff\xe9")),
    "Host that is no IDNA": admitted(instead(b"Host: xn--a")),
    "double Content-Length": answered(400, handshake(b"Content-Length: 0", b"Content-Length: 5")),
    "Content-Length that is no number": answered(400, handshake(b"Content-Length: 0x0")),
    "negative Content-Length": answered(400, handshake(b"Content-Length: -1")),
    "Content-Length 0": admitted(handshake(b"Content-Length: 0")),
    "a body": answered(400, handshake(b"Content-Length: 5") + b"hello"),
    "a body that never comes": answered(400, handshake(b"Content-Length: 999999999999")),
    "a chunked body": answered(400, handshake(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"),
    "Transfer-Encoding of its own": answered(400, handshake(b"Transfer-Encoding: gzip, chunked")),
    "both lengths": answered(400, handshake(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"hello"),
    "Expect": admitted(handshake(b"Expect: 100-continue")),
    # The WebSocket handshake
    "missing Upgrade": answered(426, handshake(without="upgrade")),
    "another Upgrade": answered(426, instead(b"Upgrade: h2c")),
    "non-ASCII bytes in Upgrade": answered(426, instead(b"Upgrade: websocket\xff")),
    "Upgrade among others": admitted(instead(b"Upgrade: h2c, , WebSocket")),
    "missing Connection": answered(426, handshake(without="connection")),
    "wrong Connection": answered(426, instead(b"Connection: close")),
    "non-ASCII bytes in Connection": answered(426, instead(b"Connection: \xe9")),
    "Connection among others": admitted(instead(b"Connection: keep-alive, UPGRADE")),
    "missing version": answered(426, handshake(without="sec-websocket-version")),
    "wrong version": answered(426, instead(b"Sec-WebSocket-Version: 8")),
    "two versions": answered(426, handshake(b"Sec-WebSocket-Version: 8")),
    "version that is nearly right": answered(426, instead(b"Sec-WebSocket-Version: 013")),
    "missing key": answered(400, handshake(without="sec-websocket-key")),
    "empty key": answered(400, instead(b"Sec-WebSocket-Key:")),
    "short key": answered(400, instead(b"Sec-WebSocket-Key: c2hvcnQ=")),
    "long key": answered(400, instead(b"Sec-WebSocket-Key: " + b"A" * 1000)),
    "key that is no base64": answered(400, instead(b"Sec-WebSocket-Key: " + b"!" * 24)),
    "key with spaces": answered(400, instead(b"Sec-WebSocket-Key: dGhlIHNhbXBs ZSBub25jZQ==")),
    "non-ASCII key": answered(400, instead(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\xff\xfe==")),
    "two keys": answered(400, handshake(b"Sec-WebSocket-Key: " + KEY)),
    # Origins
    "bad Origin": answered(403, instead(b"Origin: https://evil.example")),
    "no Origin": answered(403, handshake(without="origin")),
    "Origin null": answered(403, instead(b"Origin: null")),
    "empty Origin": answered(403, instead(b"Origin:")),
    "two Origins": answered(403, handshake(b"Origin: " + ORIGIN)),
    "two Origins in one": answered(403, instead(b"Origin: " + ORIGIN + b", https://evil.example")),
    "Origin that begins right": answered(403, instead(b"Origin: " + ORIGIN + b".evil.example")),
    "Origin with a user": answered(403, instead(b"Origin: https://good.example@evil.example")),
    "Origin with the right user": answered(403, instead(b"Origin: https://me@good.example")),
    "Origin with a path": answered(403, instead(b"Origin: " + ORIGIN + b"/path")),
    "Origin by http": answered(403, instead(b"Origin: http://good.example")),
    "Origin with another port": answered(403, instead(b"Origin: " + ORIGIN + b":8443")),
    "Origin with a port that is none": answered(403, instead(b"Origin: " + ORIGIN + b":99999")),
    "Origin that is torn": answered(403, instead(b"Origin: https://[::1")),
    "non-ASCII bytes in Origin": answered(403, instead(b"Origin: https://good.example\xff")),
    "Origin in capitals, with its port": admitted(instead(b"Origin: HTTPS://GOOD.EXAMPLE:443")),
    # Subprotocols and extensions
    "subprotocols of its own": admitted(handshake(b"Sec-WebSocket-Protocol: v9, , soap")),
    "ours among 1,000": admitted(handshake(b"Sec-WebSocket-Protocol: " + b"x, " * 1000 + b"v1")),
    "ours twice": admitted(handshake(*[b"Sec-WebSocket-Protocol: v1"] * 2)),
    "empty subprotocol": admitted(handshake(b"Sec-WebSocket-Protocol:")),
    "subprotocol with a space": answered(400, handshake(b"Sec-WebSocket-Protocol: v 1")),
    "subprotocol in quotes": answered(400, handshake(b'Sec-WebSocket-Protocol: "v1"')),
    "non-ASCII subprotocol": answered(400, handshake(b"Sec-WebSocket-Protocol: v1, \xe9")),
    "permessage-deflate": admitted(handshake(b"Sec-WebSocket-Extensions: permessage-deflate")),
    "permessage-deflate with odd parameters": admitted(
        handshake(
            b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99; client_max_window_bits=x",
            b'Sec-WebSocket-Extensions: permessage-deflate; ; =; server_no_context_takeover="',
        )
    ),
    "non-ASCII extension": admitted(handshake(b"Sec-WebSocket-Extensions: permessage-d\xe9flate;\xff")),
    # What comes behind the head
    "message behind it": admitted(handshake() + masked_frame(b"glued", TEXT), heard=["glued"]),
    "ping behind it": admitted(handshake() + PING_FRAME, pongs=[b"glued"]),
    "frames behind it": admitted(
        handshake() + masked_frame(b"one", TEXT) + PING_FRAME + masked_frame(b"two", TEXT),
        heard=["one", "two"],
        pongs=[b"glued"],
    ),
    "half a frame behind it": admitted(handshake() + HALVED[:7], 0.3, HALVED[7:], heard=["halved"]),
    "Close behind it": admitted(handshake() + close_frame(1000), closed=1000),
    "Close with a code that is none behind it": admitted(handshake() + close_frame(1005), closed=1002),
    "unmasked frame behind it": admitted(handshake() + UNMASKED, closed=1002),
    "unmasked frame a little later": admitted(handshake(), 0.1, UNMASKED, closed=1002),
    "pipelined second request": admitted(handshake() + handshake(), closed=1002),
    "garbage behind it": admitted(handshake() + b"\xff" * 100, closed=1002),
    "a body without a length": admitted(handshake() + b"hello", closed=1002),
    "refused, and more behind it": answered(404, at(b"/other") + handshake() + bytes(100_000)),
    # Not WebSocket at all
    "health": answered(200, b"GET /healthz HTTP/1.1\r\nHost: peer\r\n\r\n"),
    "health to be written": answered(404, b"POST /healthz HTTP/1.1\r\nHost: peer\r\n\r\n"),
    "health upgraded": answered(404, at(b"/healthz")),
    "a browser": answered(426, b"GET /feed HTTP/1.1\r\nHost: peer\r\nAccept: text/html\r\n\r\n"),
}

HELLO = client_hello()

BELOW_TLS: Mapping[str, Sequence[bytes | float]] = {
    "plain HTTP": [handshake()],
    "nothing": [],
    "half a hello": [HELLO[:100]],
    "hello and nothing more": [HELLO],
    "hello twice": [HELLO * 2],
    "hello byte by byte and no end": each_followed_by(0.02, bytewise(HELLO[:-1])),
    "hello with flipped bits": [
        bytes(byte ^ (0x55 if index > 60 else 0) for index, byte in enumerate(HELLO))
    ],
    "hello of an SSL that is gone": [bytes.fromhex("802e0100020015000000100100800200800300800600400400c0")],
    "a hello of 64 KiB": [b"\x16\x03\x01\xff\xff\x01\x00\xff\xfb" + bytes(65536)],
    "an alert": [b"\x15\x03\x01\x00\x02\x02\x28"],
    "data before the handshake": [b"\x17\x03\x03\x00\x20" + bytes(32)],
    "random bytes": [random.Random(2).randbytes(3000)],
    "zeros": [bytes(3000)],
}

TLS_ROWS: Mapping[str, Row] = {
    **{
        f"below TLS: {name}": Row(sent=sent, statuses=(None,), secured=False)
        for name, sent in BELOW_TLS.items()
    },
    "below TLS: RST in the hello": Row(sent=[HELLO[:100]], statuses=(None,), secured=False, end="rst"),
    "below TLS: FIN in the hello": Row(sent=[HELLO[:100]], statuses=(None,), secured=False, end="fin"),
    "below TLS: a forged record": Row(
        sent=[b"\x17\x03\x03\x00\x20" + bytes(32)], statuses=(None,), beneath=True
    ),
    "below TLS: plain HTTP under it": Row(sent=[handshake()], statuses=(None,), beneath=True),
    "below TLS: an alert under it": Row(
        sent=[b"\x15\x03\x03\x00\x02\x02\x28"], statuses=(None,), beneath=True
    ),
}


async def ask(row: Row, stranger: Stranger) -> int | None:
    """Do what the row says; gives the answer's status, None: there was none."""
    lower = Stranger(stranger.transport, stranger.transport) if row.beneath else stranger
    for item in row.sent:
        if isinstance(item, float):
            await trio.sleep(item)
        elif not await lower.send(item):
            break
    if row.end == "rst":
        stranger.reset()
        return None
    if row.end == "fin":
        with suppress(trio.BrokenResourceError):
            await stranger.transport.send_eof()
    return await stranger.read_status()


async def see(row: Row, stranger: Stranger, status: int | None) -> None:
    """See what becomes of it; raises AssertionError where that is not what the row says."""
    assert status in row.statuses, f"{status} in place of {row.statuses}"
    if status == 101 and row.closed is None and row.end == "hold":
        while not (stranger.ended or all(pong in stranger.came for pong in row.pongs)):
            await stranger.receive()
        await stranger.send(close_frame(1000))
    if row.end != "rst":
        await stranger.read_all()
    if status == 101:
        assert [payload for opcode, payload in stranger.frames if opcode == PONG] == list(row.pongs)
        if row.end == "hold":
            assert stranger.close_codes == [row.closed or 1000]
    elif status is not None:
        head, _, body = stranger.came.partition(b"\r\n\r\n")
        assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head or body == b""
        assert b"\r\nSec-WebSocket-Version: 13" in head or status != 426
        assert b"\r\nAllow: GET" in head or status != 405


@pytest.mark.parametrize("mode", ["server-output", "server-input"])
async def test_strangers_are_answered_or_dropped_whatever_they_send(
    layer: Layer, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {**ROWS, **(TLS_ROWS if layer.context else {})}
    wrong: list[str] = []
    at_once = trio.CapacityLimiter(20)

    async def come(name: str, row: Row) -> None:
        stranger: Stranger | None = None
        try:
            with trio.fail_after(PATIENCE):
                async with at_once if None not in row.statuses else trio.CapacityLimiter(1):
                    stranger = await (door.dial() if row.secured else door.dial_below())
                    status = await ask(row, stranger)
                await see(row, stranger, status)
        except (AssertionError, trio.TooSlowError) as error:
            wrong.append(f"{name}: {type(error).__name__} {error}")
        finally:
            if stranger is not None:
                stranger.leave()

    most = 80
    async with open_door(
        layer,
        mode,
        fields={"subprotocols": ["v1"]},
        path=PATH.decode(),
        allowed_origins=[ORIGIN.decode()],
        handshake_timeout="5s",
        max_connections=most,
    ) as door:
        async with trio.open_nursery() as nursery:
            for name, row in rows.items():
                nursery.start_soon(come, name, row)
        # Every place is free again but the bystander's.
        late = [await door.enter() for _ in range(most - 1)]
        too_late = await door.dial()
        await too_late.send(handshake())
        assert await too_late.read_status() == 503
        for stranger in (*late, too_late):
            stranger.leave()
    assert not wrong, "\n".join(sorted(wrong))
    heard = [text for row in rows.values() for text in row.heard]
    if mode == "server-input":
        assert sorted(map(str, door.heard)) == sorted(heard)
    else:
        assert door.output.statistics().received == len(heard)
    assert errors_in(caplog) == []


def sliced(data: bytes, chance: random.Random) -> list[bytes]:
    """The same bytes in up to 8 pieces."""
    marks = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(8)))
    pairs = zip([0, *marks], [*marks, len(data)], strict=True)
    return [data[start:stop] for start, stop in pairs if stop > start]


def pings(chance: random.Random) -> list[bytes]:
    return [
        masked_frame(chance.randbytes(chance.randrange(126)), PING) for _ in range(chance.randrange(1, 30))
    ]


async def rush(stranger: Stranger, frames: Sequence[bytes], chance: random.Random) -> None:
    """Write the frames in pieces, and read to the end."""
    with trio.fail_after(PATIENCE):
        for piece in sliced(b"".join(frames), chance):
            await stranger.send(piece)
            await trio.sleep(chance.choice([0, 0, 0.001, 0.003]))
        await stranger.read_all()


@pytest.mark.parametrize("idle", [False, True])
async def test_pings_and_a_close_at_the_moment_of_our_close(
    layer: Layer, idle: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # 250 races in each of the four cases; here our Close goes to everybody, so there is no bystander.
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    server = {"bind": "127.0.0.1:0", "handshake-timeout": "30s", **layer.fields}
    if idle:
        server["idle-timeout"] = "300ms"
    for _ in range(5):
        strangers: list[tuple[Stranger, list[bytes]]] = []
        async with trio.open_nursery() as nursery:
            async with trio_wsout.open_output({"mode": "server-output", "server": server}) as output:
                door = Door(port_of(output), layer.context)
                for _ in range(50):
                    frames = pings(chance)
                    frames.insert(
                        chance.choice([len(frames), chance.randrange(len(frames))]), close_frame(1000)
                    )
                    stranger = await door.dial()
                    strangers.append((stranger, frames))
                for stranger, _ in strangers:
                    await stranger.send(handshake())
                for stranger, _ in strangers:
                    assert await stranger.read_status() == 101
                if idle:
                    await trio.sleep(0.29)
                for stranger, frames in strangers:
                    nursery.start_soon(rush, stranger, frames, chance)
                await trio.sleep(0.05 if idle else chance.uniform(0, 0.004))
        for stranger, frames in strangers:
            assert set(stranger.close_codes) <= {1000, 1001}
            # What comes behind a Close is not read: the end may then be a reset, and overtake our Close.
            assert stranger.close_codes or frames[-1][:1] != b"\x88"
            stranger.leave()
    assert errors_in(caplog) == []


BREACHES = {
    "a message over max-message-size": (masked_frame(b"x" * 1025, TEXT), 1009),
    "a fragmented message over it": (
        b"\x01" + masked_frame(b"x" * 600, TEXT)[1:] + b"\x80" + masked_frame(b"x" * 600, TEXT)[1:],
        1009,
    ),
    "a frame that says it is huge": (b"\x82\xff\x7f" + b"\xff" * 7 + bytes(4096), 1009),
    "a frame that is not masked": (UNMASKED, 1002),
    "a frame of no kind": (masked_frame(b"", 0x3), 1002),
    "text that is none": (masked_frame(b"\xff\xfe", TEXT), 1007),
    "a ping that is too long": (masked_frame(b"x" * 126, PING), 1002),
}


async def test_a_breach_of_the_rules_at_the_moment_of_the_peers_close(
    layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    # 500 races in each of both cases. Whichever comes first is answered, and only that.
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    wrong: list[str] = []

    async def race_on() -> None:
        for _ in range(10):
            name = chance.choice(list(BREACHES))
            breach, code = BREACHES[name]
            first, second = chance.sample([(breach, code), (close_frame(1000), 1000)], 2)
            frames = [*pings(chance), first[0], *pings(chance)[:3], second[0]]
            stranger = await door.enter()
            with trio.move_on_after(PATIENCE) as waiting:
                await rush(stranger, frames, chance)
            # What comes behind a Close is not read: the end may then be a reset, and overtake our Close.
            right = [[first[1]], []] if first[1] == 1000 else [[first[1]]]
            if stranger.close_codes not in right or waiting.cancelled_caught:
                wrong.append(f"{name}: {stranger.close_codes} in place of {first[1]}, {stranger.ended=}")
            stranger.leave()

    async with open_door(layer, fields={"max-message-size": "1KiB"}, handshake_timeout="30s") as door:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(race_on)
    assert not wrong, "\n".join(sorted(set(wrong)))
    assert errors_in(caplog) == []


async def test_who_was_refused_and_holds_on_is_let_go_of(
    layer: Layer, need_descriptors: Callable[[int], None]
) -> None:
    most = 500 if layer is PLAIN else 100  # each TLS handshake costs milliseconds
    need_descriptors(2 * most + 100)
    strangers: list[Stranger] = []

    async def knock(count: int) -> None:
        for _ in range(count):
            stranger = await door.dial()
            await stranger.send(at(b"/other"))
            assert await stranger.read_status() == 404
            strangers.append(stranger)
            if len(strangers) % 3 == 0:
                nursery.start_soon(go_on, stranger)

    async def go_on(stranger: Stranger) -> None:
        while await stranger.send(b"more"):
            await trio.sleep(0.2)

    async with open_door(layer, path=PATH.decode(), handshake_timeout="30s") as door:
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as knocking:
                for _ in range(20):
                    knocking.start_soon(knock, most // 20)
            await until(lambda: tasks() <= door.tasks + 1, "no task is left of them")  # this nursery has none
            await until(lambda: descriptors() <= door.descriptors + most, "the listener's ends are closed")
        assert len(strangers) == most
        for stranger in strangers:
            stranger.leave()
        assert door.output.statistics().listener.refused == most


async def test_1000_slow_handshakes_are_dropped_and_take_no_place(
    layer: Layer, need_descriptors: Callable[[int], None]
) -> None:
    most = 1000
    need_descriptors(2 * most + 100)
    opening = handshake() if layer is PLAIN else HELLO
    strangers: list[Stranger] = []

    async def dial(count: int) -> None:
        for _ in range(count):
            strangers.append(await door.dial_below())
            nursery.start_soon(drip, strangers[-1])

    async def drip(stranger: Stranger) -> None:
        for byte in bytewise(opening):
            if stranger.ended or not await stranger.send(byte):
                break
            with trio.move_on_after(random.uniform(0.3, 0.8)):
                await stranger.receive()
        await stranger.read_all()

    async with open_door(layer, handshake_timeout="8s", max_connections=2) as door:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as dialling:
                    for _ in range(20):
                        dialling.start_soon(dial, most // 20)
                newcomer = await door.enter()
                got = len(door.bystander.got)
                await until(lambda: len(door.bystander.got) > got, "events go on")
        assert [stranger.came for stranger in strangers] == [b""] * most
        for stranger in (newcomer, *strangers):
            stranger.leave()


async def test_exactly_as_many_get_in_as_there_are_places() -> None:
    async def knock() -> None:
        stranger = await door.dial()
        await stranger.send(handshake())
        status = await stranger.read_status()
        statuses.append(status)
        if status == 503:
            assert b"\r\nRetry-After: 1\r\n" in stranger.came
        else:
            await everybody_knocked.wait()
        stranger.leave()

    async with open_door(max_connections=101, handshake_timeout="30s") as door:
        for _ in range(ROUNDS):
            statuses: list[int | None] = []
            everybody_knocked = trio.Event()
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for _ in range(500):
                        nursery.start_soon(knock)
                    await until(lambda: len(statuses) == 500, "everybody is answered")  # noqa: B023
                    everybody_knocked.set()
            assert (statuses.count(101), statuses.count(503)) == (100, 400)
            await until(lambda: tasks() <= door.tasks, "they have left")


async def test_what_authenticate_does_to_one_peer_is_nothing_to_the_others(
    layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    async def admit() -> trio_wsout.Admit:
        return trio_wsout.Admit(identity="somebody")

    async def give(value: object) -> object:
        await trio.lowlevel.checkpoint()
        return value

    async def fail(error: Exception) -> object:
        await trio.sleep(0.01)
        raise error

    async def fail_in_a_group() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError("one"))
            nursery.start_soon(fail, ValueError("two"))

    async def be_slow() -> trio_wsout.Admit:
        await trio.sleep(0.5)
        return trio_wsout.Admit()

    ways: dict[str, tuple[Callable[[], Any], int | None]] = {
        "/feed": (admit, 101),
        "/slow": (be_slow, 101),
        "/raises": (lambda: fail(RuntimeError("secret")), 500),
        "/raises-at-once": (lambda: 1 / 0, 500),
        "/raises-a-group": (fail_in_a_group, 500),
        "/raises-what-the-network-raises": (lambda: fail(trio.BrokenResourceError("secret")), 500),
        "/raises-closed": (lambda: fail(trio.ClosedResourceError("secret")), 500),
        "/raises-too-slow": (lambda: fail(trio.TooSlowError("secret")), 500),
        "/raises-the-systems": (lambda: fail(OSError(24, "secret")), 500),
        "/gives-none": (lambda: give(None), 500),
        "/gives-true": (lambda: give(True), 500),
        "/gives-text": (lambda: give("yes"), 500),
        "/gives-the-class": (lambda: give(trio_wsout.Admit), 500),
        "/gives-a-wrong-status": (lambda: give(trio_wsout.Deny(status=200)), 500),
        "/is-no-coroutine": (trio_wsout.Admit, 500),
        "/is-none": (lambda: None, 500),
        "/denies": (lambda: give(trio_wsout.Deny(status=403, reason="not you")), 403),
        "/hangs": (trio.sleep_forever, None),
    }

    def authenticate(asked: trio_wsout.Handshake) -> Any:
        return ways[asked.path][0]()

    async def knock(path: str, expected: int | None) -> None:
        stranger = await door.dial()
        await stranger.send(at(path.encode()))
        status = await stranger.read_status()
        if status != expected:
            wrong.append(f"{path}: {status} in place of {expected}")
        if status != 101:
            await stranger.read_all()
            assert b"secret" not in stranger.came
        stranger.leave()

    wrong: list[str] = []
    most, each = 120, 6
    async with open_door(
        layer, authenticate=authenticate, handshake_timeout="8s", max_connections=most
    ) as door:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for path, (_, expected) in ways.items():
                    for _ in range(each):
                        nursery.start_soon(knock, path, expected)
        late = [await door.enter() for _ in range(most - 1)]  # every place is free again
        for stranger in late:
            stranger.leave()
    assert not wrong, "\n".join(sorted(wrong))
    refused = [path for path, (_, expected) in ways.items() if expected == 500]
    # Of each kind the first is told by itself, and how many there were more.
    told = [re.match(r"(\d+) more like this", text) for text in errors_in(caplog)]
    assert sum(1 if more is None else int(more[1]) for more in told) == each * len(refused)
    assert all("authenticate" in text for text in errors_in(caplog))


def started(command: Sequence[str], told: Path) -> subprocess.Popen[bytes]:
    with told.open("wb") as file:
        return subprocess.Popen(command, stdout=file)


async def test_a_listener_without_descriptors_serves_who_is_there_and_comes_back(
    layer: Layer, tmp_path: Path
) -> None:
    server = {"bind": "127.0.0.1:0", "handshake-timeout": "1m", **layer.fields}
    command = [sys.executable, "-c", STARVING, json.dumps({"mode": "server-output", "server": server})]
    told = tmp_path / "told"
    process = started(command, told)

    def said(text: str) -> int:
        return told.read_text().count(text)

    newcomers: list[Stranger] = []

    async def come() -> None:
        newcomers.append(await door.enter())

    try:
        await until(lambda: said("\n") > 0, "it listens")
        door = Door(int(told.read_text()), layer.context)
        bystander = Bystander(await door.enter())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bystander.read)
            strangers = [await door.dial_below() for _ in range(60)]
            await until(lambda: said("Too many open files") > 0, "no descriptor is left")
            nursery.start_soon(come)
            got = len(bystander.got)
            await until(lambda: len(bystander.got) > got + 10, "events go on")
            assert not newcomers, "it still has none"
            for stranger in strangers:
                stranger.leave()
            await until(lambda: bool(newcomers), "it has some again")
            (newcomer,) = newcomers
            with trio.fail_after(PATIENCE):
                while b"event " not in newcomer.came:
                    await newcomer.receive()
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        process.wait()
    first = int(bystander.got[0].removeprefix("event "))
    assert bystander.got == [f"event {first + index}" for index in range(len(bystander.got))]
