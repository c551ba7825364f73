"""Client mode over real sockets: good peers, dead peers, and peers that misbehave."""

from __future__ import annotations

import datetime as dt
import logging
import re
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
import trustme
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from conftest import Receiver

BAD_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: bm90IHRoZSByaWdodCBvbmU=\r\n\r\n"
)


@pytest.fixture(autouse=True)
async def bounded() -> AsyncGenerator[None, None]:
    """No test here may hang."""
    with trio.fail_after(120):
        yield


@asynccontextmanager
async def listening(
    serve: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncGenerator[int, None]:
    """A TCP server on a free port, for as long as the block lasts."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def guarded(stream: trio.SocketStream) -> None:
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
async def websocket_server(
    messages: list[str | bytes], tls: ssl.SSLContext | None = None
) -> AsyncGenerator[int, None]:
    """A trio-websocket server that keeps what it reads."""

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


def eager(url: str, **fields: Any) -> dict[str, Any]:
    """An eager client that no deadline ends, however slow the machine is; a test that waits for one sets it."""
    connect = {"mode": "eager", "eager-timeout": "1h", "timeout": "1h", **fields.pop("connect", {})}
    return {"url": url, "connect": connect, "reconnect": {"max-attempts": 1}, **fields}


async def fails_to_open(config: dict[str, Any]) -> trio_wsout.ConnectError:
    with pytest.raises(trio_wsout.ConnectError) as caught:
        async with trio_wsout.open_output(config):
            pytest.fail("it must not open")
    return caught.value


# -- good peers ---------------------------------------------------------------------------------------


async def test_a_websockets_server_gets_everything_in_order(receiver: Receiver) -> None:
    async with trio_wsout.open_output({"url": receiver.url}) as output:
        for number in range(5000):
            await output.send({"n": number})
    assert [event["n"] for event in receiver.events] == list(range(5000))
    statistics = output.statistics()
    assert (statistics.confirmed, statistics.written_messages, statistics.link.resent) == (5000, 5000, 0)


@pytest.mark.parametrize("level", ["written", "received"])
async def test_a_trio_websocket_server_gets_everything_in_order(level: str) -> None:
    messages: list[str | bytes] = []
    async with websocket_server(messages) as port:
        url = f"ws://127.0.0.1:{port}/"
        async with trio_wsout.open_output({"url": url, "delivery": level, "payload": "binary"}) as output:
            for number in range(1000):
                await output.send(b"%d" % number)
            await output.send(b"x" * 900_000)
            await output.flush()
    assert messages == [*(b"%d" % number for number in range(1000)), b"x" * 900_000]


async def test_of_two_servers_one_is_always_there_and_everything_arrives(
    receivers: tuple[Receiver, Receiver],
) -> None:
    total = 6000
    config = {
        "url": [each.url for each in receivers],
        "reconnect": {"initial-backoff": "20ms", "max-backoff": "50ms"},
        "delivery": {"level": "acked", "stamp": "seq"},
    }
    async with trio_wsout.open_output(config) as output:
        for number in range(total):
            await output.send({"n": number})
            if number and number % 2000 == 0:
                serving = next(each for each in receivers if each.url == output.statistics().link.url)
                await trio.to_thread.run_sync(serving.stop)
                while output.statistics().link.url == serving.url or not output.statistics().peers:
                    await trio.sleep(0.01)
                await trio.to_thread.run_sync(serving.start)
    assert {event["n"] for each in receivers for event in each.events} == set(range(total))
    assert all(each.events for each in receivers), "no fault happened"
    assert output.statistics().link.reconnects == 2


async def test_killed_and_restarted_twice_everything_arrives(receiver: Receiver) -> None:
    """With level acked: kill -9 costs nothing; order is kept, duplicates stay within the window."""
    total, window = 20_000, 1024
    config = {
        "url": receiver.url,
        "reconnect": {"initial-backoff": "20ms", "max-backoff": "50ms"},
        "delivery": {"level": "acked", "stamp": "seq", "max-unconfirmed": window},
    }
    async with trio_wsout.open_output(config) as output:
        for number in range(total):
            await output.send({"n": number})
            if number in (5000, 12_000):
                await trio.to_thread.run_sync(receiver.stop)
                assert len(receiver.messages) >= output.statistics().confirmed
                await trio.to_thread.run_sync(receiver.start)
    numbers = [event["n"] for event in receiver.events]
    assert list(dict.fromkeys(numbers)) == list(range(total)), "first arrivals: all of them, in order"
    statistics = output.statistics()
    assert statistics.confirmed == total
    assert statistics.link.reconnects == 2
    assert len(numbers) - total <= 2 * window
    assert statistics.link.resent <= 2 * window


# -- peers that misbehave before the link is open -------------------------------------------------------


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def closes_at_once(stream: trio.SocketStream) -> None:
    await stream.receive_some(1)


async def endless_body(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"1000\r\n" + bytes(4096) + b"\r\n")


async def endless_head(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n")
    while True:
        await stream.send_all(b"X: " + b"x" * 4096 + b"\r\n")


def answers(data: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(data)
        await trio.sleep_forever()

    return answer


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (silent, "connect.timeout"),
        (closes_at_once, "without a Close frame|reset"),
        (endless_body, "401 Unauthorized"),
        (endless_head, "bytes"),
        (answers(BAD_ACCEPT), "101 is not valid"),
        (answers(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), "101 is not valid"),
        (answers(BAD_ACCEPT.replace(b"Sec-WebSocket-Accept", b"Sec-WebSocket-Ac\xff")), "not HTTP|not valid"),
        (
            answers(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"),
            "redirects are not followed",
        ),
        (answers(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"), "503"),
        (answers(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "not HTTP"),
        (answers(b"HTTP/1.1 101 Switching"), "connect.timeout"),
    ],
)
async def test_every_bad_server_ends_by_its_deadline_in_our_error(
    serve: Callable[[trio.SocketStream], Awaitable[None]], words: str
) -> None:
    # Only those that say nothing more are waited for until the deadline.
    connect = {"timeout": "500ms"} if words == "connect.timeout" else {}
    async with listening(serve) as port:
        error = await fails_to_open(eager(f"ws://127.0.0.1:{port}/", connect=connect))
    assert error.attempts == 1
    assert re.search(words, error.cause), error.cause


async def test_nobody_listens() -> None:
    async with listening(silent) as port:
        pass
    error = await fails_to_open(eager(f"ws://127.0.0.1:{port}/"))
    assert "Connection refused" in error.cause


async def test_a_name_that_does_not_exist() -> None:
    error = await fails_to_open(eager("ws://name.invalid/", connect={"timeout": "2s"}))
    assert "resolved" in error.cause or "connect.timeout" in error.cause


async def test_a_subprotocol_is_agreed_on() -> None:
    async def choose(request: WebSocketRequest) -> None:
        websocket = await request.accept(subprotocol=request.proposed_subprotocols[1])
        try:
            await websocket.get_message()
        except ConnectionClosed:
            return

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, choose, "127.0.0.1", 0, None)
        config = eager(f"ws://127.0.0.1:{server.port}/", subprotocols=["a", "b"])
        async with trio_wsout.open_output(config) as output:
            assert output.statistics().link.subprotocol == "b"
        nursery.cancel_scope.cancel()


async def test_a_subprotocol_that_was_not_offered_fails_the_attempt() -> None:
    answer = BAD_ACCEPT[:-2] + b"Sec-WebSocket-Protocol: c\r\n\r\n"
    async with listening(answers(answer)) as port:
        error = await fails_to_open(eager(f"ws://127.0.0.1:{port}/", subprotocols=["a", "b"]))
    assert "not offered" in error.cause


# -- TLS ----------------------------------------------------------------------------------------------


def server_context(ca: trustme.CA, name: str = "127.0.0.1", *, expired: bool = False) -> ssl.SSLContext:
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = ca.issue_cert(name, not_after=past) if expired else ca.issue_cert(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def pem(ca: trustme.CA) -> str:
    return ca.cert_pem.bytes().decode()


async def test_wss_with_a_ca_of_ones_own_as_text_and_as_a_file(ca: trustme.CA, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    for source in (pem(ca), str(path)):
        messages: list[str | bytes] = []
        async with websocket_server(messages, server_context(ca)) as port:
            config = eager(f"wss://127.0.0.1:{port}/", tls={"ca-certificate": source})
            async with trio_wsout.open_output(config) as output:
                await output.send("hello")
        assert messages == ["hello"]


@pytest.mark.parametrize(
    ("name", "expired", "known", "words"),
    [
        ("other.test", False, True, "IP address mismatch|doesn't match"),
        ("127.0.0.1", True, True, "certificate has expired"),
        ("127.0.0.1", False, False, "unable to get local issuer|self.signed"),
    ],
)
async def test_a_bad_certificate_is_final_and_tells_openssls_reason(
    ca: trustme.CA, name: str, expired: bool, known: bool, words: str
) -> None:
    trusted = pem(ca) if known else pem(trustme.CA())
    async with websocket_server([], server_context(ca, name, expired=expired)) as port:
        config = eager(f"wss://127.0.0.1:{port}/", tls={"ca-certificate": trusted}, reconnect={})
        error = await fails_to_open(config)
    assert re.search(words, error.cause), error.cause
    assert error.attempts == 1


async def test_skipping_verification_warns_every_time(
    ca: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[str | bytes] = []
    async with websocket_server(messages, server_context(ca, "other.test")) as port:
        config = eager(f"wss://127.0.0.1:{port}/", tls={"insecure-skip-verify": True})
        async with trio_wsout.open_output(config) as output:
            await output.send("hello")
    assert messages == ["hello"]
    assert [each.levelno for each in caplog.records if "insecure-skip-verify" in each.message] == [
        logging.WARNING
    ]


async def test_mutual_tls_with_and_without_the_clients_certificate(ca: trustme.CA, tmp_path: Path) -> None:
    context = server_context(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    own = ca.issue_cert("client.test")
    certificate = b"".join(blob.bytes() for blob in own.cert_chain_pems).decode()
    key = own.private_key_pem.bytes().decode()
    (tmp_path / "cert.pem").write_text(certificate)
    (tmp_path / "key.pem").write_text(key)
    as_text = {"client-certificate": certificate, "client-key": key}
    as_files = {"client-certificate": str(tmp_path / "cert.pem"), "client-key": str(tmp_path / "key.pem")}
    for tls in (as_text, as_files):
        messages: list[str | bytes] = []
        async with websocket_server(messages, context) as port:
            config = eager(f"wss://127.0.0.1:{port}/", tls={"ca-certificate": pem(ca), **tls})
            async with trio_wsout.open_output(config) as output:
                await output.send("hello")
        assert messages == ["hello"]


async def test_a_missing_client_certificate_tells_openssls_reason(ca: trustme.CA) -> None:
    context = server_context(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)

    def serve_once(listener: socket.socket) -> None:
        """Refuse as servers do: send the alert, then read until the client has gone."""
        accepted, _ = listener.accept()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        with accepted:
            while chunk := accepted.recv(65536):
                incoming.write(chunk)
                with suppress(ssl.SSLError):
                    tls.do_handshake()
                accepted.sendall(outgoing.read())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"wss://127.0.0.1:{listener.getsockname()[1]}/"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve_once, listener)
            error = await fails_to_open(eager(url, tls={"ca-certificate": pem(ca)}))
    assert "CERTIFICATE_REQUIRED" in error.cause.upper().replace(" ", "_")


async def test_a_plain_server_behind_wss(ca: trustme.CA) -> None:
    async with listening(answers(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        error = await fails_to_open(eager(f"wss://127.0.0.1:{port}/", tls={"ca-certificate": pem(ca)}))
    assert "TLS" in error.cause


@pytest.mark.parametrize(
    ("tls", "paths"),
    [
        ({"ca-certificate": "/none.pem"}, ["tls.ca-certificate"]),
        ({"ca-certificate": "-----BEGIN CERTIFICATE-----\nx"}, ["tls.ca-certificate"]),
        (
            {"client-certificate": "/none.pem", "client-key": "/none.key"},
            ["tls.client-certificate", "tls.client-key"],
        ),
    ],
)
async def test_tls_files_that_cannot_be_used_are_a_config_error(
    tls: dict[str, str], paths: list[str]
) -> None:
    with pytest.raises(trio_wsout.ConfigError) as caught:
        async with trio_wsout.open_output({"url": "wss://127.0.0.1:1/", "tls": tls}):
            pytest.fail("it must not open")
    assert [problem.path for problem in caught.value.problems] == paths


async def test_the_systems_roots_do_not_know_our_ca(ca: trustme.CA) -> None:
    async with websocket_server([], server_context(ca)) as port:
        error = await fails_to_open(eager(f"wss://127.0.0.1:{port}/"))
    assert "certificate" in error.cause


async def test_a_server_that_refuses_before_it_is_asked_and_hangs_up() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    for _ in range(20):
        async with listening(hang_up) as port:
            error = await fails_to_open(eager(f"ws://127.0.0.1:{port}/"))
        assert "403" in error.cause or "reset" in error.cause


# -- proxies ------------------------------------------------------------------------------------------


async def tunnel(
    greet: Callable[[trio.SocketStream], Awaitable[tuple[str, int]]], stream: trio.SocketStream
) -> None:
    """Be a proxy: greet, connect, then pass bytes both ways."""
    host, port = await greet(stream)
    async with await trio.open_tcp_stream(host, port) as inside, trio.open_nursery() as nursery:

        async def pump(source: trio.SocketStream, target: trio.SocketStream) -> None:
            try:
                async for chunk in source:
                    await target.send_all(chunk)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(pump, stream, inside)
        nursery.start_soon(pump, inside, stream)


async def connect_method(stream: trio.SocketStream) -> tuple[str, int]:
    request = bytes(await stream.receive_some())
    target = request.split(b" ")[1].decode()
    host, _, port = target.rpartition(":")
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    return host, int(port)


async def socks5(stream: trio.SocketStream) -> tuple[str, int]:
    await stream.receive_some()
    await stream.send_all(b"\x05\x00")
    request = bytes(await stream.receive_some())
    await stream.send_all(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
    return ".".join(map(str, request[4:8])), int.from_bytes(request[8:10], "big")


@pytest.mark.parametrize(("scheme", "greet"), [("http", connect_method), ("socks5", socks5)])
@pytest.mark.parametrize("secure", [False, True])
async def test_proxies_carry_the_connection(
    scheme: str,
    greet: Callable[[trio.SocketStream], Awaitable[tuple[str, int]]],
    secure: bool,
    ca: trustme.CA,
) -> None:
    messages: list[str | bytes] = []
    used = 0

    async def counted(stream: trio.SocketStream) -> None:
        nonlocal used
        used += 1
        await tunnel(greet, stream)

    async with (
        websocket_server(messages, server_context(ca) if secure else None) as port,
        listening(counted) as proxy,
    ):
        config = eager(
            f"{'wss' if secure else 'ws'}://127.0.0.1:{port}/",
            connect={"proxy": f"{scheme}://127.0.0.1:{proxy}"},
            tls={"ca-certificate": pem(ca)},
        )
        async with trio_wsout.open_output(config) as output:
            await output.send("hello")
    assert messages == ["hello"]
    assert used == 1


async def test_the_environment_names_a_proxy_and_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "ws_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with listening(partial(tunnel, connect_method)) as proxy:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy}")
        for exception, arrives in ((None, True), ("127.0.0.1", True)):
            if exception:
                monkeypatch.setenv("no_proxy", exception)
            messages: list[str | bytes] = []
            async with websocket_server(messages) as port:
                async with trio_wsout.open_output(eager(f"ws://127.0.0.1:{port}/")) as output:
                    await output.send("hello")
            assert (messages == ["hello"]) == arrives


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "refused"),
        (b"nonsense\r\n\r\n", "proxy"),
        (b"", "proxy"),
    ],
)
async def test_a_proxy_that_refuses_or_breaks(answer: bytes, words: str) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    async with listening(refuse) as proxy:
        error = await fails_to_open(
            eager("ws://127.0.0.1:9/", connect={"proxy": f"http://user:canary@127.0.0.1:{proxy}"})
        )
    assert words in error.cause
    assert "canary" not in error.cause


async def test_a_proxy_that_is_not_there() -> None:
    async with listening(silent) as port:
        pass
    error = await fails_to_open(eager("ws://127.0.0.1:9/", connect={"proxy": f"socks5://127.0.0.1:{port}"}))
    assert "proxy can't be reached" in error.cause


# -- peers that misbehave while the link is open ----------------------------------------------------------


async def test_a_peer_that_stops_reading_does_not_fill_memory() -> None:
    """The kernel's buffers take some; then send waits, and what is queued stays bounded."""
    import resource

    async def never_reads(stream: trio.SocketStream) -> None:
        import base64
        import hashlib

        request = bytes(await stream.receive_some())
        key = request[request.lower().index(b"sec-websocket-key: ") + 19 :].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        await stream.send_all(BAD_ACCEPT.replace(b"bm90IHRoZSByaWdodCBvbmU=", accept))
        await trio.sleep_forever()

    async with listening(never_reads) as port:
        config = {"url": f"ws://127.0.0.1:{port}/", "shutdown-timeout": "100ms", "retry": {"timeout": "1h"}}
        with pytest.raises(trio_wsout.DeliveryError) as caught:
            async with trio_wsout.open_output(config) as output:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                with trio.move_on_after(2):
                    while True:
                        await output.send({"pad": "x" * 10_000})
                statistics = output.statistics()
                after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert statistics.link.window_bytes <= 8 * 2**20 + 64 * 1024
    assert statistics.window <= 1024
    assert statistics.unconfirmed <= 1024 + 256 + 2
    assert len(caught.value.undelivered) == statistics.unconfirmed
    assert (after - before) / 1024 < 64, "MiB"
