"""Hostile values in everything that ends in a handshake or a frame, seen by servers that read every byte.

Whatever a value holds, it stays inside its own header, parameter, line or payload; or it is refused by a
typed error that never shows it. Every value has `MARK` somewhere in it, so that it is found wherever it is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import struct
import traceback
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

import pytest
import trio
import trio_wsout
from attrs import define, field, frozen
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from told import Told, everything_told

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence

pytestmark = [pytest.mark.faults, pytest.mark.network]

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep" or os.environ.get("FAULTS") == "long"
VALUES = settings(max_examples=10_000 if DEEP else 60, deadline=None)
"""How many values a test tries, each in several slots."""
PATIENCE = 240
"""Seconds that anything here may take, on a machine that is busy."""
MARK = "k7Mark"
ENV = "TRIO_WSOUT_HOSTILE"
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
TARGET = re.compile(rb"/[!-~]*")
HOST = re.compile(rb"([!$&'()*+,;=._~0-9A-Za-z-]+|\[[0-9A-Fa-f:.]+\])(:[1-9]\d*)?")
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
RESERVED = re.compile(
    r"host|connection|upgrade|content-length|transfer-encoding|sec-websocket-.*", re.IGNORECASE
)
HANDSHAKE = {"host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version"}
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

PIECES = st.sampled_from(
    [
        "\r\n", "\r", "\n", "\r\n\r\n", "\r\nX-Evil: 1", "\r\n\r\nGET /evil HTTP/1.1\r\nHost: evil\r\n\r\n",
        "\n\nGET / HTTP/1.0\n\n", "\0", "\x7f", "\x0b", "\x0c", "\x1b[2J", "\x85", "\xa0", "\u2028", "\ufeff",
        "\u560a\u560d", "\ud800", "\udfff", "\udc80", " ", "\t", "  ", ":", ": ", ";", ",", '"', "'", "\\", "=",
        "&", "&evil=1", "?", "#", "/", "/../", "%", "%0d%0a", "%00", "+", "@", "é", "日本", "😀", "e\u0301",
        "${", "${attempt}", "${secret|x}", "$${", "}", "||", "|", "x" * 300, "81\x81", "HTTP/1.1 101",
    ]
)  # fmt: skip
"""What means something to one parser or another."""
PARTS = st.lists(PIECES | st.text(max_size=5), max_size=3).map("".join)
HOSTILE = st.tuples(PARTS, PARTS).map(MARK.join)
"""Texts with `MARK` in them."""
PLAIN = st.text("az09-._~+/=!'*", max_size=8).map(lambda text: MARK + text)
"""Texts that are a token, a name or a bearer token more often than not."""
TELLING = (
    f"{MARK}\r\nX-Evil: 1",
    f"{MARK}\r\n\r\nGET /evil HTTP/1.1\r\nHost: evil\r\n\r\n",
    f"{MARK}\ud800",
    f' \t{MARK} a,b;c="d" é😀&e=f#g%0d%0a${{secret|x}}\t ',
)


def telling(test: Callable[[str], None]) -> Callable[[str], None]:
    """Have a law tried with `TELLING` always."""
    for value in TELLING:
        test = example(value)(test)
    return test


TRIED: Counter[str] = Counter()
"""Values that each law was tried with."""
HEADS: Counter[str] = Counter()
"""Requests that came to a server whole, and attempts that ended before anything was sent."""


def counted(law: Callable[..., None]) -> Callable[..., None]:
    """Count the values that a law is tried with."""

    @wraps(law)
    def counting(*arguments: Any, **more: Any) -> None:
        law(*arguments, **more)
        TRIED[law.__name__] += 1

    return counting


@pytest.fixture(scope="module", autouse=True)
def noted(figures: Callable[[str], None]) -> Iterator[None]:
    """Note how many values were tried, and how many handshakes a server read because of them."""
    TRIED.clear()
    HEADS.clear()
    yield
    for name, count in TRIED.items():
        figures(f"hostile values: {name.removeprefix('test_').replace('_', ' ')}: held for {count}")
    figures(
        f"hostile values: {sum(TRIED.values())} in all; {HEADS['requests']} requests read strictly, none with a line, "
        f"parameter or request more; {HEADS['refused']} attempts refused with none sent"
    )


def some_of(slots: Sequence[str]) -> st.SearchStrategy[Sequence[str]]:
    """The slots to try a value in: all, or where time is short one."""
    return st.just(slots) if DEEP else st.sampled_from(slots).map(lambda slot: [slot])


def is_line(value: str) -> bool:
    """Whether a text can be a header's value."""
    return not CONTROL.search(value.strip(" \t")) and is_encodable(value)


def is_encodable(value: str) -> bool:
    return not re.search("[\ud800-\udfff]", value)


def is_plain(value: str) -> bool:
    """Whether a text can be a value in a query, or a part of credentials: it holds no control character at all."""
    return is_encodable(value) and not re.search("[\x00-\x1f\x7f]", value)


def is_name(value: str) -> bool:
    return bool(TOKEN.fullmatch(value)) and not RESERVED.fullmatch(value)


# -- what is told ---------------------------------------------------------------------------------------


@contextmanager
def nothing_shown() -> Generator[Told, None, None]:
    """Whatever is told meanwhile, `MARK` is not in it, plain or encoded."""
    with everything_told() as told:
        yield told
    raw = MARK.encode()
    assert told.holding({MARK, quote(raw), raw.hex(), base64.b64encode(raw).decode()}) == []


# -- the capturing server --------------------------------------------------------------------------------


@frozen
class Asked:
    """One request, as its bytes say."""

    path: str = "/a"
    parameters: Mapping[str, str] = {"own": "1"}
    headers: Mapping[str, bytes] = {}
    """Those that are no part of every handshake."""


def parsed(head: bytes, *, any_query: bool = False) -> tuple[Asked, dict[str, bytes]]:
    """The one request that these bytes are, by the letter of RFC 9112 and RFC 6455, and all its headers.

    The query that stands in the URL itself may be of any form; then the parameters are not looked at.
    """
    assert head.endswith(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", b"".join([first, *lines]))
    method, target, version = first.split(b" ")
    assert (method, version) == (b"GET", b"HTTP/1.1")
    assert TARGET.fullmatch(target)
    headers = header_table(lines)
    assert headers.keys() >= HANDSHAKE
    assert (headers["upgrade"].lower(), headers["connection"].lower()) == (b"websocket", b"upgrade")
    assert HOST.fullmatch(headers["host"])
    assert headers["sec-websocket-version"] == b"13"
    assert len(base64.b64decode(headers["sec-websocket-key"], validate=True)) == 16
    path, _, query = target.decode().partition("?")
    pairs = [pair(each) for each in query.split("&")] if query and not any_query else []
    assert len(dict(pairs)) == len(pairs)
    own = {name: value for name, value in headers.items() if name not in HANDSHAKE}
    return Asked(path, dict(pairs), own), headers


def header_table(lines: list[bytes]) -> dict[str, bytes]:
    headers: dict[str, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        assert colon
        assert TOKEN.fullmatch(name.decode())
        assert name.decode().lower() not in headers
        headers[name.decode().lower()] = value.strip(b" \t")
    return headers


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    assert equals
    return unquote_to_bytes(name).decode(), unquote_to_bytes(value).decode()


async def read_head(stream: trio.SocketStream) -> bytes:
    """A head, and nothing behind it; empty: the peer hung up without one."""
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = await stream.receive_some()
        if not chunk:
            break
        head += chunk
    assert not head.partition(b"\r\n\r\n")[2]
    return head


async def read_rest(stream: trio.SocketStream) -> bytes:
    rest = b""
    try:
        while chunk := await stream.receive_some():
            rest += chunk
    except trio.BrokenResourceError:
        pass
    return rest


@define(eq=False)
class Capture:
    """A server on plain sockets that answers every request with 503, or takes every frame."""

    accepts: bool = False
    hangs_up: bytes = b"\0"
    """The message after which it does."""
    any_query: bool = False
    """Whether the query of the URL is what is tried."""
    address: str = ""
    asked: list[Asked] = field(factory=list)
    frames: list[tuple[int, bytes]] = field(factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        # The kernel would remember each connection for a minute, and there are many thousands.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        head = await read_head(stream)
        if not head:
            return
        asked, headers = parsed(head, any_query=self.any_query)
        HEADS["requests"] += 1
        self.asked.append(asked)
        if not self.accepts:
            await stream.send_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            assert await read_rest(stream) == b""
            return
        accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"] + GUID).digest())
        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        await self._take_frames(stream)

    async def _take_frames(self, stream: trio.SocketStream) -> None:
        data = b""
        while chunk := await stream.receive_some():
            data += chunk
            while (frame := first_frame(data)) is not None:
                opcode, payload, data = frame
                self.frames.append((opcode, payload))
                if opcode in {8, 9}:
                    await stream.send_all(bytes((0x8A if opcode == 9 else 0x88, len(payload))) + payload)
                if payload == self.hangs_up:
                    return
        assert data == b""

    @property
    def messages(self) -> list[bytes]:
        return [payload for opcode, payload in self.frames if opcode == 1]


def first_frame(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Opcode and payload of a frame, which is whole and masked, and what follows it."""
    if len(data) < 2:
        return None
    opcode, size, start = data[0] ^ 0x80, data[1] ^ 0x80, 2
    assert opcode in {1, 8, 9, 10}
    assert size < 128
    if size >= 126:
        start = 4 if size == 126 else 10
        size = int.from_bytes(data[2:start], "big")
    end = start + 4 + size
    if len(data) < end:
        return None
    mask = data[start : start + 4]
    payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data[start + 4 : end]))
    return opcode, payload, data[end:]


@asynccontextmanager
async def capturing(*, accepts: bool = False, hangs_up: bytes = b"\0") -> AsyncGenerator[Capture, None]:
    """A server that lives as long as the block; what it finds wrong fails the block."""
    capture = Capture(accepts, hangs_up)
    async with listening(capture.serve) as capture.address:
        yield capture


@asynccontextmanager
async def listening(serve: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncGenerator[str, None]:
    """Where `serve` serves as long as the block lives; ends when all were served."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as accepting, trio.open_nursery() as serving:
            listen = partial(trio.serve_tcp, serve, 0, host="127.0.0.1", handler_nursery=serving)
            (listener,) = await accepting.start(listen)
            yield "127.0.0.1:" + str(listener.socket.getsockname()[1])
            accepting.cancel_scope.cancel()


async def attempts(
    told: Told,
    count: int,
    fields: Mapping[str, Any],
    *,
    context: Mapping[str, str] | None = None,
    **hooks: Any,
) -> list[str]:
    """What ended each of so many attempts: "refused" by the server, or "request": nothing was sent."""
    changes: list[trio_wsout.LinkChange] = []
    document = {
        "connect": {"mode": "eager", "timeout": f"{PATIENCE}s", "proxy": "none"},
        "reconnect": {"initial-backoff": "1us", "max-backoff": "1us", "max-attempts": count},
        **fields,
    }
    config = trio_wsout.load_config(document, context=context)
    with pytest.raises(trio_wsout.ConnectError) as caught:
        async with trio_wsout.open_output(config, on_state=changes.append, **hooks) as output:
            told.note(output)
    told.note(caught.value, *changes)
    ended = {trio_wsout.State.BACKING_OFF, trio_wsout.State.GAVE_UP}
    disconnections = [
        change.disconnection.cause.value
        for change in changes
        if change.disconnection and change.state in ended
    ]
    HEADS["refused"] += disconnections.count("request")
    return disconnections


def basic(username: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{username}:{password}".encode())


# -- values that come at every attempt -------------------------------------------------------------------

SLOTS = (
    "header", "mixed", "auth-header", "query", "auth-query", "user", "password", "env", "called", "called-name",
)  # fmt: skip
TEMPLATES = {
    "headers": {
        "X-Header": "${secret|header||-}",
        "X-Mixed": "a${secret|mixed||-}b",
        "X-Env": f"${{env|{ENV}||-}}",
    },
    "query": {"query": "${secret|query||-}", "env": f"${{env|{ENV}||-}}"},
    "auth": {
        "headers": {"X-Auth": "${secret|auth-header||-}"},
        "query": {"auth": "${secret|auth-query||-}"},
        "basic": {"username": "${secret|user||-}", "password": "${secret|password||-}"},
    },
}


def wanted(slot: str, value: str) -> Asked | None:
    """What the server must be asked when a value is in one slot; None: nothing."""
    if not is_encodable(value):
        return None
    lines = {"header": value, "mixed": f"a{value}b", "auth-header": value, "env": value, "called": value}
    if not is_line(lines.get(slot, "")) or (slot == "called-name" and not is_name(value)):
        return None
    if slot in ("user", "password", "query", "auth-query", "env") and not is_plain(value):
        return None
    if slot == "user" and ":" in value:
        return None
    line = lines.get(slot, "").strip(" \t").encode()
    headers = {
        "x-header": line if slot == "header" else b"-",
        "x-mixed": line if slot == "mixed" else b"a-b",
        "x-env": line if slot == "env" else b"-",
        "x-auth": line if slot == "auth-header" else b"-",
        "authorization": basic(value if slot == "user" else "-", value if slot == "password" else "-"),
    }
    if slot == "called":
        headers["x-called"] = line
    if slot == "called-name":
        headers[value.lower()] = b"v"
    given = {"query": "query", "auth-query": "auth", "env": "env"}
    parameters = {"own": "1", "auth": "-", "query": "-", "env": "-"}
    if slot in given:
        parameters[given[slot]] = value
    return Asked("/a", parameters, headers)


def is_environment(value: str) -> bool:
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return "\0" not in value


@VALUES
@given(HOSTILE | PLAIN)
@telling
@counted
def test_a_value_of_an_attempt_stays_in_its_place_or_is_not_sent(value: str) -> None:
    slots = [slot for slot in SLOTS if slot != "env" or is_environment(value)]
    waiting = iter(slots)
    now = ""

    async def headers() -> Mapping[str, str]:
        nonlocal now
        now = next(waiting)
        os.environ.pop(ENV, None)
        if now == "env":
            os.environ[ENV] = value
        return {"called": {"X-Called": value}, "called-name": {value: "v"}}.get(now, {})

    async def main() -> None:
        async with capturing() as capture:
            fields = {"url": f"ws://{capture.address}/a?own=1", **TEMPLATES}
            secrets = dict.fromkeys(SLOTS, value)
            disconnections = await attempts(
                told,
                len(slots),
                fields,
                headers=headers,
                secrets=lambda name: secrets[name] if name == now else None,
            )
        expected = [wanted(slot, value) for slot in slots]
        assert disconnections == ["refused" if each else "request" for each in expected]
        assert capture.asked == [each for each in expected if each]

    with nothing_shown() as told:
        try:
            trio.run(main)
        finally:
            os.environ.pop(ENV, None)


@VALUES
@given(HOSTILE | PLAIN)
@telling
@counted
def test_a_bearer_token_is_one_or_is_not_sent(value: str) -> None:
    async def token() -> str:
        return value

    async def main() -> None:
        is_bearer = BEARER.fullmatch(value) is not None
        expected = [Asked(headers={"authorization": f"Bearer {value}".encode()})] if is_bearer else []
        async with capturing() as capture:
            url = f"ws://{capture.address}/a?own=1"
            ways: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
                ({"auth": {"bearer-token": "${secret|token}"}}, {"secrets": lambda _: value}),
                ({}, {"token": token}),
            )
            for fields, hooks in ways:
                disconnections = await attempts(told, 1, {"url": url, **fields}, **hooks)
                assert disconnections == ["refused" if is_bearer else "request"]
        assert capture.asked == expected * 2

    with nothing_shown() as told:
        trio.run(main)


@VALUES
@given(HOSTILE | PLAIN)
@telling
@counted
def test_a_cursor_stays_in_its_place_or_is_not_adopted(value: str) -> None:
    async def main() -> None:
        disconnections: list[str] = []
        async with capturing() as capture:
            url = f"ws://{capture.address}/a?own=1"
            in_query = {"cursor": {"query-parameter": "since"}, "query": {"again": "${cursor}"}}
            in_header = {"cursor": {"header-name": "Last-Event-ID"}, "headers": {"X-Again": "${cursor}"}}
            for fields in (in_query, in_header):
                cursor = {**fields["cursor"], "initial-value": "{{value}}"}
                document = {"url": url, **fields, "cursor": cursor}
                disconnections += await attempts(told, 1, document, context={"value": value})
        by_query = Asked(parameters={"own": "1", "again": ""})
        if value and is_encodable(value):
            by_query = Asked(parameters={"own": "1", "again": value, "since": value})
        by_header = Asked(headers={"x-again": b""})
        if value and is_line(value):
            line = value.strip(" \t").encode()
            by_header = Asked(headers={"x-again": line, "last-event-id": line})
        assert disconnections == ["refused", "refused"], "no cursor keeps a link from asking"
        assert capture.asked == [by_query, by_header]

    with nothing_shown() as told:
        trio.run(main)


# -- values that stand in the configuration ---------------------------------------------------------------

LITERALS: Mapping[str, tuple[dict[str, Any], Callable[[str], bool], Callable[[str], Asked]]] = {
    "header": (
        {"headers": {"X-V": "{{value}}"}},
        is_line,
        lambda value: Asked(headers={"x-v": value.strip(" \t").encode()}),
    ),
    "auth-header": (
        {"auth": {"headers": {"X-V": "{{value}}"}}},
        is_line,
        lambda value: Asked(headers={"x-v": value.strip(" \t").encode()}),
    ),
    "parameter": (
        {"query": {"v": "{{value}}"}, "auth": {"query": {"w": "{{value}}"}}},
        is_plain,
        lambda value: Asked(parameters={"own": "1", "v": value, "w": value}),
    ),
    "basic": (
        {"auth": {"basic": {"username": "{{value}}", "password": "{{value}}"}}},
        lambda value: is_plain(value) and ":" not in value,
        lambda value: Asked(headers={"authorization": basic(value, value)}),
    ),
    "bearer-token": (
        {"auth": {"bearer-token": "{{value}}"}},
        lambda value: BEARER.fullmatch(value) is not None,
        lambda value: Asked(headers={"authorization": f"Bearer {value}".encode()}),
    ),
}


@VALUES
@given(HOSTILE | PLAIN, some_of(list(LITERALS)))
@counted
def test_a_value_of_the_configuration_stays_in_its_place_or_is_not_sent(
    value: str, slots: Sequence[str]
) -> None:
    async def main() -> None:
        async with capturing() as capture:
            for slot in slots:
                fields, can_be_sent, asked = LITERALS[slot]
                capture.asked.clear()
                try:
                    document = {"url": f"ws://{capture.address}/a?own=1", **fields}
                    disconnections = await attempts(told, 1, document, context={"value": value})
                except trio_wsout.ConfigError as error:
                    told.note(error, *error.problems)
                    disconnections = ["request"]
                assert disconnections == ["refused" if can_be_sent(value) else "request"]
                assert capture.asked == ([asked(value)] if can_be_sent(value) else [])

    with nothing_shown() as told:
        trio.run(main)


NAMES: Mapping[str, tuple[Callable[[str], dict[str, Any]], Callable[[str], bool], Callable[[str], Asked]]] = {
    "header": (
        lambda name: {"headers": {name: "v"}},
        is_name,
        lambda name: Asked(headers={name.lower(): b"v"}),
    ),
    "auth-header": (
        lambda name: {"auth": {"headers": {name: "v"}}},
        is_name,
        lambda name: Asked(headers={name.lower(): b"v"}),
    ),
    "cursor-header": (
        lambda name: {"cursor": {"header-name": name, "initial-value": "v"}},
        is_name,
        lambda name: Asked(headers={name.lower(): b"v"}),
    ),
    "parameter": (
        lambda name: {"query": {name: "v"}},
        is_encodable,
        lambda name: Asked(parameters={"own": "1", name: "v"}),
    ),
    "auth-parameter": (
        lambda name: {"auth": {"query": {name: "v"}}},
        is_encodable,
        lambda name: Asked(parameters={"own": "1", name: "v"}),
    ),
    "cursor-parameter": (
        lambda name: {"cursor": {"query-parameter": name, "initial-value": "v"}},
        is_encodable,
        lambda name: Asked(parameters={"own": "1", name: "v"}),
    ),
    "subprotocol": (
        lambda name: {"subprotocols": ["first", name]},
        lambda name: TOKEN.fullmatch(name) is not None,
        lambda name: Asked(headers={"sec-websocket-protocol": f"first, {name}".encode()}),
    ),
}


@VALUES
@given(HOSTILE | PLAIN, some_of(list(NAMES)))
@counted
def test_a_name_of_the_configuration_stays_in_its_place_or_is_not_sent(
    name: str, slots: Sequence[str]
) -> None:
    """A name is shown where it is refused: it is no value."""
    assume("{{" not in name)

    async def main() -> None:
        async with capturing() as capture:
            for slot in slots:
                fields, can_be_sent, asked = NAMES[slot]
                capture.asked.clear()
                try:
                    document = {"url": f"ws://{capture.address}/a?own=1", **fields(name)}
                    disconnections = await attempts(Told(), 1, document)
                except trio_wsout.ConfigError:
                    disconnections = ["request"]
                assert disconnections == ["refused" if can_be_sent(name) else "request"]
                assert capture.asked == ([asked(name)] if can_be_sent(name) else [])

    trio.run(main)


@VALUES
@given(HOSTILE | PLAIN)
@telling
@example(f"{MARK}&&x")
@example(f"{MARK}&x=1&x=1&{MARK}")
@example(f"{MARK}\xa0")
@example(f"a\xa0{MARK}")
@counted
def test_a_url_is_one_target_and_one_host_or_is_not_sent(value: str) -> None:
    async def main() -> None:
        async with capturing() as capture:
            capture.any_query = True

            async def open_stream(host: str, port: int) -> trio.SocketStream:
                return await trio.open_tcp_stream("127.0.0.1", int(capture.address.rpartition(":")[2]))

            for url in (
                f"ws://peer.test/{value}?own=1",
                f"ws://peer.test/a?{value}=1",
                f"ws://{value}/a?own=1",
            ):
                capture.asked.clear()
                try:
                    disconnections = await attempts(Told(), 1, {"url": url}, open_stream=open_stream)
                except trio_wsout.ConfigError:
                    disconnections = ["request"]
                assert disconnections == ["refused" if capture.asked else "request"]
                assert [each.headers for each in capture.asked] in ([], [{}])

    trio.run(main)


@VALUES
@given(HOSTILE | PLAIN)
@telling
@counted
def test_credentials_for_a_proxy_stay_in_their_line_or_are_not_sent(value: str) -> None:
    assume(is_encodable(value))
    heads: list[bytes] = []

    async def proxy(stream: trio.SocketStream) -> None:
        head = await read_head(stream)
        if head:
            heads.append(head)
            await stream.send_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    async def main() -> None:
        async with listening(proxy) as address:
            url = f"http://{quote(value, safe='')}:{quote(value, safe='')}@{address}"
            connect = {"mode": "eager", "proxy": url}
            try:
                disconnections = await attempts(told, 1, {"url": "ws://peer.test:81/a", "connect": connect})
            except trio_wsout.ConfigError:
                assert any(ord(each) < 0x20 or each in "\x7f:" for each in value)
                disconnections = ["proxy"]
            else:
                assert heads
        assert disconnections == ["proxy"]
        for head in heads:
            first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
            assert first == b"CONNECT peer.test:81 HTTP/1.1"
            headers = header_table(lines)
            assert headers.keys() <= {"host", "user-agent", "proxy-authorization"}
            scheme, _, pair = headers["proxy-authorization"].partition(b" ")
            assert scheme == b"Basic"
            assert base64.b64decode(pair, validate=True).decode() == f"{value}:{value}"

    with nothing_shown() as told:
        trio.run(main)


# -- frames -----------------------------------------------------------------------------------------------


async def delivered(
    told: Told, fields: Mapping[str, Any], events: Sequence[object], **hooks: Any
) -> tuple[list[bytes], list[str]]:
    """The messages that came of these events, and why others were not delivered."""
    lost_to, lost = trio.open_memory_channel[trio_wsout.Undelivered](len(events))
    async with capturing(accepts=True) as capture:
        document = {"url": f"ws://{capture.address}/a?own=1", "connect": {"proxy": "none"}, **fields}
        async with trio_wsout.open_output(document, undelivered=lost_to, **hooks) as output:
            for event in events:
                await output.send(event)
            await output.flush()
            told.note(output.statistics())
    reasons = [lost.receive_nowait().reason for _ in range(lost.statistics().current_buffer_used)]
    told.note(*reasons)
    return capture.messages, reasons


async def batched(told: Told, value: str) -> None:
    """A header and a footer with a value in it: each is one line, or the event is not sent."""
    batch = {"mode": "fixed", "fixed-size": 1, "header": "h ${secret|x}", "footer": "f ${secret|x}"}
    messages, reasons = await delivered(told, {"batch": batch}, ["event"], secrets=lambda _: value)
    if messages:
        assert messages == [f"h {value}\nevent\nf {value}".encode()]
        assert messages[0].count(b"\n") == 2
        assert reasons == []
    else:
        assert len(reasons) == 1
        assert "batch.header or batch.footer" in reasons[0]


@VALUES
@given(HOSTILE)
@counted
def test_header_and_footer_of_a_batch_are_a_line_each_or_the_event_is_not_sent(value: str) -> None:
    assume(is_encodable(value))
    with nothing_shown() as told:
        trio.run(batched, told, value)


@pytest.mark.parametrize("value", [f"{MARK}\ud800", f"\udc80{MARK}"])
def test_a_header_of_a_batch_that_no_bytes_can_say_costs_its_event_only(value: str) -> None:
    with nothing_shown() as told:
        trio.run(batched, told, value)


@pytest.mark.parametrize("value", [5, b"bytes", object()])
async def test_a_header_of_a_batch_that_is_no_text_costs_its_event_only(value: Any) -> None:
    await batched(Told(), value)


@VALUES
@given(HOSTILE)
@telling
@counted
def test_an_event_is_one_message_or_refused(value: str) -> None:
    async def main() -> None:
        events: list[object] = []
        candidates: tuple[object, ...] = (value, {"n": value}, {value: [value]})
        for event in candidates:
            if is_encodable(value):
                events.append(event)
            else:
                await refused(event)
        messages, reasons = await delivered(told, {}, events)
        assert reasons == []
        assert len(messages) == len(events)
        for event, message in zip(events, messages, strict=True):
            assert (message.decode() if isinstance(event, str) else json.loads(message)) == event

    async def refused(event: object) -> None:
        async with trio_wsout.open_output({"url": "ws://127.0.0.1:9/"}) as output:
            with pytest.raises(ValueError, match="surrogate") as caught:
                await output.send(event)
            # What is printed of it: the event is the application's own, and it may look behind the error.
            told.note(*traceback.format_exception(caught.value), vars(caught.value))

    with nothing_shown() as told:
        trio.run(main)


@VALUES
@given(HOSTILE)
@telling
@counted
def test_a_stamp_is_one_key_or_refused(key: str) -> None:
    async def main() -> None:
        try:
            trio_wsout.load_config({"url": "ws://h/", "delivery": {"stamp": key}})
            messages, _ = await delivered(Told(), {"delivery": {"stamp": key}}, [{"n": 1}])
        except trio_wsout.ConfigError:
            assert not is_encodable(key)
        else:
            (event,) = map(json.loads, messages)
            assert event.pop("n") == 1
            assert list(event) == [key]

    assume("{{" not in key)
    trio.run(main)


@VALUES
@given(HOSTILE)
@telling
@counted
def test_what_a_ping_carries_is_one_payload_or_refused(value: str) -> None:
    async def main() -> None:
        async with capturing(accepts=True) as capture:
            document = {
                "url": f"ws://{capture.address}/",
                "connect": {"proxy": "none"},
                "heartbeat": {"ping-interval": "100us", "timeout": "20s", "payload": value},
            }
            try:
                async with trio_wsout.open_output(document) as output:
                    await output.wait_connected()
                    while len(capture.frames) < 2:
                        await trio.sleep(0.001)
            except trio_wsout.ConfigError:
                assert not is_encodable(value) or len(value.encode()) > 125
                return
        assert {opcode for opcode, _ in capture.frames} == {8, 9}
        assert all(each.startswith(value.encode()) for opcode, each in capture.frames if opcode == 9)

    assume("{{" not in value)
    trio.run(main)


@VALUES
@given(HOSTILE)
@telling
@counted
def test_a_cursor_that_came_with_an_event_stays_in_its_place_or_is_refused(value: str) -> None:
    assume(is_encodable(value))

    async def main() -> None:
        event = {"n": 1, "at": value}
        changes: list[trio_wsout.LinkChange] = []
        async with capturing(accepts=True, hangs_up=b"bye") as capture:
            document = {
                "url": f"ws://{capture.address}/a?own=1",
                "connect": {"proxy": "none"},
                "cursor": {"header-name": "Last-Event-ID", "query-parameter": "since", "value-field": "at"},
                "reconnect": {"initial-backoff": "1us", "max-backoff": "1us", "max-attempts": 2},
            }
            try:
                async with trio_wsout.open_output(document, on_state=changes.append) as output:
                    try:
                        await output.send(event)
                    except trio_wsout.EventError as error:
                        told.note(error)
                        assert not is_line(value)
                        await output.send({"n": 1})
                    await output.flush()
                    await output.send("bye")
                    await output.send("and again")
                    while len(capture.asked) < 2:
                        await output.flush()
                        await trio.sleep(0.001)
            except (trio.BrokenResourceError, trio_wsout.OutputError) as error:
                told.note(error, error.__cause__)
        expected = [Asked(), Asked()]
        if value and is_line(value):
            line = value.strip(" \t").encode()
            expected[1] = Asked(parameters={"own": "1", "since": value}, headers={"last-event-id": line})
        told.note(*changes)
        assert capture.asked[:2] == expected

    with nothing_shown() as told:
        trio.run(main)


# -- what a listener answers ------------------------------------------------------------------------------

ANSWERS = {101, 400, 404, 426, 431, 500}


@define(eq=False)
class Answer:
    """What a listener answered to one request, strictly read."""

    status: int
    headers: dict[str, bytes]
    rest: bytes
    """Body or frames."""


async def ask(address: str, request: bytes) -> Answer:
    """The one answer to a request."""
    async with await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2])) as stream:
        await stream.send_all(request)
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = await stream.receive_some()
            assert chunk
            data += chunk
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", b"".join([first, *lines]))
        found = re.fullmatch(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*", first)
        assert found
        answer = Answer(int(found[1]), header_table(lines), rest)
        if answer.status == 101 and b"gap" in answer.headers.get("resume-status", b""):
            while len(answer.rest) < 2 or len(answer.rest) < 2 + answer.rest[1]:
                answer.rest += await stream.receive_some()
        elif answer.status != 101:
            await stream.send_eof()
            answer.rest += await read_rest(stream)
        return answer


def request_of(target: bytes = b"/", *lines: bytes) -> bytes:
    own = (
        b"GET " + target + b" HTTP/1.1", b"Host: peer", b"Upgrade: websocket", b"Connection: Upgrade",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13",
    )  # fmt: skip
    return b"\r\n".join([*own, *lines, b"", b""])


@VALUES
@given(HOSTILE)
@telling
@counted
def test_what_a_peer_sends_never_becomes_a_line_of_its_answer(value: str) -> None:
    raw = value.encode("utf-8", "surrogatepass")
    document = {
        "mode": "server-output",
        "server": {"bind": "127.0.0.1:0"},
        "subprotocols": ["ours"],
        "history": {},
        "delivery": {"stamp": "stamp"},
        "cursor": {"header-name": "Last-Event-ID", "query-parameter": "since"},
    }
    requests = (
        request_of(b"/?since=" + quote(raw).encode()),
        request_of(b"/", b"Last-Event-ID: " + raw),
        request_of(b"/", b"Sec-WebSocket-Protocol: ours, " + raw),
        request_of(b"/" + raw),
        request_of(b"/", b"Origin: " + raw, b"X-" + raw + b": y", b"Sec-WebSocket-Extensions: " + raw),
    )

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with trio_wsout.open_output({**document, "shutdown-timeout": "100ms"}) as output:
                address = output.statistics().addresses[0]
                for request in requests:
                    check(await ask(address, request))
                told.note(output.statistics())

    def check(answer: Answer) -> None:
        assert answer.status in ANSWERS
        if answer.status != 101:
            assert int(answer.headers["content-length"]) == len(answer.rest)
            assert MARK.encode() not in answer.rest
            return
        named = {"upgrade", "connection", "sec-websocket-accept"}
        assert named <= answer.headers.keys() <= {*named, "sec-websocket-protocol", "resume-status"}
        assert answer.headers.get("sec-websocket-protocol", b"ours") == b"ours"
        assert answer.headers.get("resume-status", b"gap") == b"gap"
        if "resume-status" in answer.headers:
            # With more bytes the length takes more than one.
            size = answer.rest[1] if answer.rest[1] < 126 else int.from_bytes(answer.rest[2:4], "big")
            start = 2 if answer.rest[1] < 126 else 4
            gap = json.loads(answer.rest[start : start + size])
            assert gap.keys() == {"gap"}

    with nothing_shown() as told:
        trio.run(main)


@VALUES
@given(
    HOSTILE | st.text(st.characters(exclude_categories=["C", "Z"])).map(MARK.__add__), st.integers(400, 599)
)
@counted
def test_the_reason_of_a_denial_is_one_line_of_its_body_or_refused(reason: str, status: int) -> None:
    async def authenticate(_: trio_wsout.Handshake) -> trio_wsout.Deny:
        return trio_wsout.Deny(reason=reason, status=status)

    async def main() -> None:
        document = {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}}
        with trio.fail_after(PATIENCE):
            async with trio_wsout.open_output(document, authenticate=authenticate) as output:
                answer = await ask(output.statistics().addresses[0], request_of())
        said = reason if reason.isprintable() else "not admitted"
        assert answer.status == (status if reason.isprintable() else 500)
        assert answer.rest == said.encode() + b"\n"
        assert answer.headers.keys() == {"content-type", "content-length", "cache-control", "connection"}
        assert int(answer.headers["content-length"]) == len(answer.rest)

    with nothing_shown():
        trio.run(main)
