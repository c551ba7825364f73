"""Proxies over real sockets: good ones, however they answer, and every other kind, told in words and without secrets."""

from __future__ import annotations

import base64
import os
import re
import ssl
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
import trustme
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from pathlib import Path

    Serve = Callable[[trio.abc.Stream], Awaitable[None]]

SECRET = "p@ss/cañary"
CREDENTIALS = "us%20er:p%40ss%2Fca%C3%B1ary@"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.fixture(autouse=True)
async def bounded() -> AsyncGenerator[None, None]:
    """No test here may hang."""
    with trio.fail_after(300):
        yield


@pytest.fixture(autouse=True)
def _no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def certified(ca: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    return context


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncGenerator[int, None]:
    """A TCP or TLS server on a free port, for as long as the block lasts."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def guarded(stream: trio.abc.Stream) -> None:
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        try:
            async with stream:
                await serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, guarded, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def target(messages: list[str | bytes], tls: ssl.SSLContext | None = None) -> AsyncGenerator[int, None]:
    """A server that keeps what it reads."""

    async def take(request: WebSocketRequest) -> None:
        websocket = await request.accept()
        try:
            while True:
                messages.append(await websocket.get_message())
        except ConnectionClosed:
            return

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, take, "127.0.0.1", 0, tls))
        yield server.port
        nursery.cancel_scope.cancel()


async def head_of(stream: trio.abc.Stream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = bytes(await stream.receive_some(1000))
        if not chunk:
            break
        head += chunk
    return head


async def join(stream: trio.abc.Stream, port: int) -> None:
    """Pass bytes both ways."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as inside, trio.open_nursery() as nursery:

        async def pump(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
            try:
                while chunk := await source.receive_some(10_000):
                    await sink.send_all(chunk)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(pump, stream, inside)
        nursery.start_soon(pump, inside, stream)


def connecting(*pieces: bytes, heads: list[bytes] | None = None) -> Serve:
    """A proxy that answers CONNECT in these pieces, and opens the tunnel."""

    async def serve(stream: trio.abc.Stream) -> None:
        head = await head_of(stream)
        if not head:
            return
        if heads is not None:
            heads.append(head)
        for piece in pieces:
            await stream.send_all(piece)
            await trio.sleep(0.02 if len(pieces) < 10 else 0)
        await join(stream, int(head.split(b" ")[1].rpartition(b":")[2]))

    return serve


def link(url: str, proxy: str | None = None, **fields: Any) -> dict[str, Any]:
    connect = {"mode": "eager", "eager-timeout": "20s", "timeout": "10s", **fields.pop("connect", {})}
    if proxy is not None:
        connect["proxy"] = proxy
    return {"url": url, "connect": connect, "reconnect": {"max-attempts": 1}, **fields}


async def trouble(config: dict[str, Any]) -> trio_wsout.ConnectError:
    with pytest.raises(trio_wsout.ConnectError) as caught:
        async with trio_wsout.open_output(config):
            pytest.fail("it must not open")
    told = f"{caught.value!r} {caught.value} {caught.value.cause}"
    assert "ary" not in told
    assert "us er" not in told
    return caught.value


async def deliver(config: dict[str, Any], messages: Sequence[str | bytes]) -> None:
    async with trio_wsout.open_output(config) as output:
        await output.send("hello")
    assert list(messages) == ["hello"]


# -- CONNECT ----------------------------------------------------------------------------------------------

ANSWERS = {
    "200": ESTABLISHED,
    "another 2xx": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a 2xx that nobody knows": b"HTTP/1.1 299 \r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nProxy-Agent: old\r\n\r\n",
    "without a phrase": b"HTTP/1.1 200\r\n\r\n",
    # RFC 9110 section 9.3.6: a client must ignore them.
    "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
    "with chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "after informational ones": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: 1\r\n\r\n"
    + ESTABLISHED,
    "with a head of nearly 16 KiB": b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 16_300 + b"\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("cut", ["whole", "in two", "before the last byte", "into bytes"])
async def test_a_2xx_opens_the_tunnel_however_it_is_cut(answer: bytes, cut: str) -> None:
    half = len(answer) // 2
    pieces = {
        "whole": [answer],
        "in two": [answer[:half], answer[half:]],
        "before the last byte": [answer[:-1], answer[-1:]],
        "into bytes": [bytes([each]) for each in answer[:200]] + [answer[200:]] * (len(answer) > 200),
    }[cut]
    messages: list[str | bytes] = []
    async with target(messages) as port, listening(connecting(*pieces)) as proxy:
        await deliver(link(f"ws://127.0.0.1:{port}/", f"http://127.0.0.1:{proxy}"), messages)


async def test_the_request_says_where_to_and_who_asks() -> None:
    messages: list[str | bytes] = []
    heads: list[bytes] = []
    async with target(messages) as port, listening(connecting(ESTABLISHED, heads=heads)) as proxy:
        await deliver(link(f"ws://127.0.0.1:{port}/", f"http://{CREDENTIALS}127.0.0.1:{proxy}/"), messages)
    pair = base64.b64encode(f"us er:{SECRET}".encode()).decode()
    assert heads == [
        f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nProxy-Authorization: Basic {pair}\r\n\r\n".encode()
    ]


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("wss://straße.example./", "xn--strae-oqa.example.:443"),
        ("ws://[2001:DB8::1]/", "[2001:db8::1]:80"),
        ("ws://[fe80::1%25lo]:81/", "[fe80::1]:81"),
    ],
)
async def test_the_proxy_resolves_the_name(url: str, asked: str) -> None:
    heads: list[bytes] = []

    async def refuse(stream: trio.abc.Stream) -> None:
        heads.append(await head_of(stream))
        await stream.send_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")

    async with listening(refuse) as proxy:
        error = await trouble(link(url, f"http://127.0.0.1:{proxy}"))
    assert heads == [f"CONNECT {asked} HTTP/1.1\r\nHost: {asked}\r\n\r\n".encode()]
    assert "the proxy refused the tunnel: 502 Bad Gateway" in error.cause


TROUBLES = {
    "407": (
        b"HTTP/1.1 407 x\r\n\r\n",
        "refused the tunnel: 407 Proxy Authentication Required; it does not know this user",
    ),
    "403": (b"HTTP/1.1 403 us er\r\nContent-Length: 3\r\n\r\nary", "refused the tunnel: 403 Forbidden$"),
    "a status that nobody knows": (b"HTTP/1.1 799 x\r\n\r\n", "refused the tunnel: 799$"),
    "a redirect": (b"HTTP/1.1 302 x\r\nLocation: http://x/\r\n\r\n", "refused the tunnel: 302 Found$"),
    "a page without a head": (b"<html>hello</html>\r\n\r\n", "not HTTP/1.1$"),
    "a page": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
        "answered 200 and went on by itself with 6",
    ),
    "a WebSocket of its own": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "not HTTP/1.1$",
    ),
    "TLS": (b"\x15\x03\x03\x00\x02\x02\x50", "not HTTP/1.1; if it speaks TLS, write https://"),
    "SOCKS": (b"\x05\xff", "not HTTP/1.1"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/1.1$"),
    "an empty header": (b"HTTP/1.1 200 OK\r\n: x\r\n\r\n", "not HTTP/1.1$"),
    "a head that is too long": (
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 17_000 + b"\r\n\r\n",
        "more than 16384 bytes",
    ),
    "a head without end": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "more than 16384 bytes"),
    "informational ones without end": (b"HTTP/1.1 103 Early\r\n\r\n" * 2000, "more than 16384 bytes"),
    "nothing": (b"", "the proxy hung up without an answer"),
    "half of an answer": (b"HTTP/1.1 200 OK\r\n", "the proxy hung up in the middle of its answer"),
    "an informational one only": (
        b"HTTP/1.1 100 Continue\r\n\r\n",
        "the proxy hung up in the middle of its answer",
    ),
}


@pytest.mark.parametrize(("answer", "words"), TROUBLES.values(), ids=TROUBLES)
async def test_what_a_proxy_says_is_told_in_words(answer: bytes, words: str) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await head_of(stream)
        await stream.send_all(answer)
        await stream.send_eof()  # type: ignore[attr-defined]
        while await stream.receive_some(1000):
            pass

    async with listening(serve) as proxy:
        error = await trouble(link("ws://127.0.0.1:9/", f"http://{CREDENTIALS}127.0.0.1:{proxy}"))
    assert re.search(words, error.cause), error.cause
    assert "the proxy" in error.cause


async def test_a_proxy_that_wants_a_password_says_where_it_is_written() -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await head_of(stream)
        await stream.send_all(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n"
        )

    async with listening(serve) as proxy:
        error = await trouble(link("ws://127.0.0.1:9/", f"http://127.0.0.1:{proxy}"))
    assert "407 Proxy Authentication Required; write http://user:password@host:port" in error.cause


async def test_a_proxy_that_resets_the_connection() -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        await stream.receive_some(1)  # the rest is unread, so that closing is a reset
        stream.socket.close()

    async with listening(serve) as proxy:
        error = await trouble(link("ws://127.0.0.1:9/", f"http://127.0.0.1:{proxy}"))
    assert re.search("the proxy (broke off before it answered: Connection reset|hung up)", error.cause), (
        error.cause
    )


@pytest.mark.parametrize(
    ("scheme", "what"),
    [("http", "the answer of {} to CONNECT"), ("https", "TLS with {}"), ("socks5h", "SOCKS5 of {}")],
)
async def test_a_silent_proxy_is_named(scheme: str, what: str) -> None:
    async def silent(_: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async with listening(silent) as port:
        config = link(
            "ws://peer.test:81/",
            f"{scheme}://{CREDENTIALS[:9]}x@127.0.0.1:{port}",
            connect={"timeout": "300ms"},
        )
        error = await trouble(config)
    assert f"without the proxy's tunnel to peer.test:81 ({what.format(f'127.0.0.1:{port}')})" in error.cause


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
async def test_a_proxy_that_is_not_there(scheme: str) -> None:
    async with listening(head_of) as port:
        pass
    error = await trouble(link("ws://127.0.0.1:9/", f"{scheme}://127.0.0.1:{port}"))
    assert f"the proxy can't be reached at 127.0.0.1:{port}: Connection refused" in error.cause


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_a_proxy_that_nobody_knows(scheme: str) -> None:
    error = await trouble(link("ws://127.0.0.1:9/", f"{scheme}://proxy.invalid:1", connect={"timeout": "5s"}))
    assert "the proxy can't be reached at proxy.invalid:1: " in error.cause
    assert "can't be resolved" in error.cause


# -- TLS to the proxy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    "trust", ["the system", "ca-certificate", "the system, with a ca-certificate for others"]
)
async def test_an_https_proxy_carries_the_connection(
    secure: bool, trust: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy is judged by the system's roots, and by the CA of one's own where there is one."""
    ca, other = trustme.CA(), trustme.CA()
    roots = tmp_path / "roots.pem"
    known, own = (other, ca) if trust == "ca-certificate" else (ca, other)
    known.cert_pem.write_to_path(str(roots))
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    fields = {} if trust == "the system" else {"tls": {"ca-certificate": own.cert_pem.bytes().decode()}}
    server = own if fields else ca
    messages: list[str | bytes] = []
    heads: list[bytes] = []
    async with (
        target(messages, certified(server) if secure else None) as port,
        listening(connecting(ESTABLISHED[:9], ESTABLISHED[9:], heads=heads), certified(ca)) as proxy,
    ):
        url = f"{'wss' if secure else 'ws'}://127.0.0.1:{port}/"
        await deliver(link(url, f"https://{CREDENTIALS}127.0.0.1:{proxy}", **fields), messages)
    assert len(heads) == 1


@pytest.mark.parametrize(
    ("name", "known", "tls", "words"),
    [
        ("127.0.0.1", False, {}, "unable to get local issuer|self.signed"),
        ("other.test", True, {}, "IP address mismatch|doesn't match"),
        # It is for the server, and the proxy is told its own password.
        ("127.0.0.1", False, {"insecure-skip-verify": True}, "unable to get local issuer|self.signed"),
    ],
)
async def test_a_bad_certificate_of_a_proxy_is_final(
    name: str, known: bool, tls: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = trustme.CA()
    roots = tmp_path / "roots.pem"
    (ca if known else trustme.CA()).cert_pem.write_to_path(str(roots))
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    heads: list[bytes] = []
    async with listening(connecting(ESTABLISHED, heads=heads), certified(ca, name)) as proxy:
        config = link("ws://127.0.0.1:9/", f"https://{CREDENTIALS}127.0.0.1:{proxy}", tls=tls)
        error = await trouble(config | {"reconnect": {}})
    assert f"the certificate of the proxy 127.0.0.1:{proxy} is not accepted: " in error.cause
    assert re.search(words, error.cause), error.cause
    assert error.attempts == 1
    assert heads == []


async def test_a_proxy_that_speaks_no_tls_says_so() -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(serve) as proxy:
        error = await trouble(link("ws://127.0.0.1:9/", f"https://127.0.0.1:{proxy}"))
    assert f"the TLS handshake with the proxy 127.0.0.1:{proxy} failed: " in error.cause
    assert "write http:// for it" in error.cause


async def test_a_ca_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    """With ws nothing else would read it."""
    async with listening(connecting(ESTABLISHED)) as proxy:
        tls = {"ca-certificate": str(tmp_path / "none.pem")}
        error = await trouble(link("ws://127.0.0.1:9/", f"https://127.0.0.1:{proxy}", tls=tls))
    assert "tls.ca-certificate" in error.cause


# -- SOCKS ------------------------------------------------------------------------------------------------


class Socks:
    """A SOCKS5 proxy (RFC 1928) that keeps whom it was asked for and connects to this machine, or answers `reply`."""

    def __init__(self, reply: int = 0, *, login: bytes | None = None) -> None:
        self.reply, self.login = reply, login
        self.asked: list[bytes] = []
        self.told = b""

    async def __call__(self, stream: trio.abc.Stream) -> None:
        greeting = bytes(await stream.receive_some(1000))
        assert greeting[:1] == b"\x05"
        if self.login is not None:
            await stream.send_all(b"\x05\x02")
            self.told = bytes(await stream.receive_some(1000))
            await stream.send_all(b"\x01\x00" if self.told == self.login else b"\x01\x01")
        else:
            await stream.send_all(b"\x05\x00")
        request = bytes(await stream.receive_some(1000))
        if not request:
            return
        self.asked.append(request[3:-2])
        await stream.send_all(b"\x05%c\x00\x01\x7f\x00\x00\x01\x00\x00" % self.reply)
        if not self.reply:
            await join(stream, int.from_bytes(request[-2:], "big"))


class Hosts(trio.abc.HostnameResolver):
    """Knows that peer.test is here, and no other name."""

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if host != b"peer.test":
            raise OSError(-2, "Name or service not known")
        return [(trio.socket.AF_INET, trio.socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("scheme", "asked"),
    [("socks5", b"\x01\x7f\x00\x00\x01"), ("socks5h", b"\x03\x09peer.test"), ("socks", b"\x03\x09peer.test")],
)
async def test_names_are_resolved_here_or_by_the_proxy(scheme: str, asked: bytes) -> None:
    trio.socket.set_custom_hostname_resolver(Hosts())
    messages: list[str | bytes] = []
    proxy = Socks(login=b"\x01\x04us:r\x06canary")
    async with target(messages) as port, listening(proxy) as at:
        await deliver(link(f"ws://peer.test:{port}/", f"{scheme}://us%3Ar:canary@127.0.0.1:{at}"), messages)
    assert proxy.asked == [asked]


async def test_a_name_that_is_not_known_here_may_be_by_the_proxy() -> None:
    trio.socket.set_custom_hostname_resolver(Hosts())
    async with listening(Socks()) as proxy:
        error = await trouble(link("ws://far.test/", f"socks5://127.0.0.1:{proxy}"))
    assert "far.test" in error.cause
    assert "with socks5h:// the proxy resolves names" in error.cause


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (Socks(5), "refused the tunnel: Connection refused"),
        (Socks(2), "refused the tunnel: Connection not allowed"),
        (Socks(99), "refused the tunnel: "),
        (Socks(login=b"other"), "refused the tunnel: .*authentication"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak SOCKS5; if it is an HTTP proxy, write http://"),
        (b"\x05\xff", "refused the tunnel: No acceptable"),
        (b"\x05\x00\x05\x00\x00\x03\xffcanary", "the proxy"),
        (b"\x05\x00\x05\x00\x00\x07canary", "the proxy"),
        (b"\x05\x00\x05\x00\x00\x03\x02\xff\xff\x00\x50", "the proxy broke off before it answered"),
        (b"", "the proxy"),
    ],
)
async def test_what_a_socks_proxy_says_is_told_in_words(serve: Serve | bytes, words: str) -> None:
    async def say(stream: trio.abc.Stream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(serve)
        await stream.send_eof()  # type: ignore[attr-defined]
        while await stream.receive_some(1000):
            pass

    async with listening(say if isinstance(serve, bytes) else serve) as proxy:
        config = link(
            "ws://127.0.0.1:9/", f"socks5h://user:canary@127.0.0.1:{proxy}", connect={"timeout": "1s"}
        )
        error = await trouble(config)
    assert re.search(words, error.cause), error.cause


# -- the environment --------------------------------------------------------------------------------------


async def test_exceptions_are_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str | bytes] = []
    heads: list[bytes] = []
    async with target(messages) as port, listening(connecting(ESTABLISHED, heads=heads)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy}")
        for listed, asked in (("", 1), (f"127.0.0.1:{port}", 1), ("127.0.0.0/8", 1), ("127.0.0.1:1", 2)):
            monkeypatch.setenv("no_proxy", listed)
            await deliver(link(f"ws://127.0.0.1:{port}/"), messages)
            messages.clear()
            assert len(heads) == asked


async def problem_of(config: dict[str, Any]) -> str:
    with pytest.raises(trio_wsout.ConfigError) as caught:
        async with trio_wsout.open_output(config):
            pytest.fail("it can't be used")
    (problem,) = caught.value.problems
    assert problem.path == "connect.proxy"
    assert "canary" not in f"{caught.value} {caught.value!r}"
    return problem.reason


LAZY = {"url": "ws://peer.test/"}


async def test_socks_without_its_library_is_found_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    configured = {**LAZY, "connect": {"proxy": "socks5://user:canary@127.0.0.1:1"}}
    assert re.search("is a SOCKS proxy, and .*pip install", await problem_of(configured))
    monkeypatch.setenv("all_proxy", "socks5h://user:canary@127.0.0.1:1")
    reason = await problem_of(LAZY)
    assert re.search(
        "the environment names a SOCKS proxy, and .*pip install .*none keeps proxies out", reason
    )
    monkeypatch.setenv("no_proxy", "test")
    async with trio_wsout.open_output(LAZY):
        pass
    monkeypatch.setenv("no_proxy", "")
    async with trio_wsout.open_output({**LAZY, "connect": {"proxy": "none"}}):
        pass
    # HTTP needs no library.
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    async with trio_wsout.open_output(LAZY):
        pass


async def test_of_a_host_that_is_not_known_yet_only_what_is_configured_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
    later = {"url": "wss://${env|SOME_HOST}/"}
    async with trio_wsout.open_output(later):
        pass
    assert "is a SOCKS proxy" in await problem_of({**later, "connect": {"proxy": "socks5://user:canary@p"}})
    monkeypatch.setenv("SOME_HOST", "peer.test")
    error = await trouble(link("wss://${env|SOME_HOST}/"))
    assert "pip install" in error.cause


async def test_a_variable_that_is_no_proxy_is_found_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "ftp://user:canary@127.0.0.1:1")
    assert "the environment variable http_proxy is no proxy" in await problem_of(LAZY)


async def test_a_variable_that_is_spoiled_later_fails_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(trio_wsout.ConnectError) as caught:
        async with trio_wsout.open_output({**LAZY, "reconnect": {"max-attempts": 1}}) as output:
            monkeypatch.setenv("http_proxy", "ftp://user:canary@127.0.0.1:1")
            await output.send("x")
            with pytest.raises(trio.BrokenResourceError):
                await output.flush()
    assert "the environment variable http_proxy is no proxy" in caught.value.cause
    assert "canary" not in str(caught.value)


async def test_a_stream_of_ones_own_asks_for_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "nonsense:nonsense")

    async def refuse(_host: str, _port: int) -> trio.abc.Stream:
        raise OSError(111, "refused")

    async with trio_wsout.open_output(LAZY, open_stream=refuse):
        pass
