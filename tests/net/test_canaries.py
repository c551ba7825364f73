"""No secret is told, whatever goes wrong: not by logs, exceptions, reprs, statistics, nor by the command.

Each secret is a canary of its own, and every peer, proxy and callable here says back all that it knows.
What is told is searched for the canaries as they are, percent-encoded, in hexadecimal, and in base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sqlite3
import ssl
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import trio
import trio_wsout
from told import Told, everything_told
from trio_wsout.config import dump_config
from trio_wsout.testing import open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping

    import trustme

    Serve = Callable[[trio.SocketStream], Awaitable[None]]

pytestmark = [pytest.mark.faults, pytest.mark.network]

PATIENCE = 240
"""Seconds that anything here may take, on a machine that is busy."""
SLOTS = (
    "bearer", "password", "authorization", "cookie", "auth-header", "auth-query", "resolved", "environment", "key",
    "proxy", "token-callable", "headers-callable",
)  # fmt: skip
CANARY = {slot: f"canary/{slot}+{1000003 * (number + 7):x}" for number, slot in enumerate(SLOTS)}
ENV = "TRIO_WSOUT_CANARY"


def forms(canary: str) -> set[str]:
    """How a secret may show: the middle of its base64 is one of three, by what stands before it."""
    raw = canary.encode()
    found = {canary, quote(canary), quote(canary, safe=""), raw.hex(), raw.hex(" ")}
    for before in range(3):
        encoded = base64.b64encode(b"x" * before + raw).decode().rstrip("=")
        middle = encoded[4 if before else 0 : len(encoded) // 4 * 4]
        found |= {middle, middle.replace("+", "-").replace("/", "_"), quote(middle, safe="")}
    return found


FORMS = {slot: forms(canary) for slot, canary in CANARY.items()}


TOLD: Counter[str] = Counter()
"""Scenarios, and the texts that were told in them."""


@pytest.fixture(scope="module", autouse=True)
def counted(figures: Callable[[str], None]) -> Iterator[None]:
    """Note how much was searched, and for how much."""
    TOLD.clear()
    yield
    figures(
        f"canaries: {len(CANARY)} secrets in {sum(map(len, FORMS.values()))} forms, {TOLD['scenarios']} failing "
        f"scenarios, {TOLD['texts']} texts told at DEBUG: {TOLD['shown']} shown"
    )


@contextmanager
def nothing_shown() -> Generator[Told, None, None]:
    """Whatever is told meanwhile, by any logger at DEBUG, there is no canary in it."""
    with everything_told() as told:
        yield told
    shown = [f"{slot}: {text}" for slot, found in FORMS.items() for text in told.holding(found)]
    TOLD.update(scenarios=1, texts=len(told.texts), shown=len(shown))
    assert told.texts
    assert shown == []


# -- a client's secrets ----------------------------------------------------------------------------------


def documents(key: str) -> dict[str, dict[str, Any]]:
    """Configurations that between them have a canary in every secret field."""
    certificate = key.partition("\0")[2]
    tls = {"client-certificate": certificate, "client-key": key.partition("\0")[0]}
    auth = {
        "headers": {"X-Api-Key": CANARY["auth-header"], "X-Resolved": "${secret|name}"},
        "query": {"token": CANARY["auth-query"], "env": f"${{env|{ENV}}}"},
    }
    basic = {"username": "user", "password": CANARY["password"]}
    return {
        "bearer": {"auth": {**auth, "bearer-token": CANARY["bearer"]}, "headers": {"Cookie": CANARY["cookie"]}, "tls": tls},
        "basic": {"auth": {**auth, "basic": basic}},
        "header": {"auth": auth, "headers": {"authorization": f"Digest {CANARY['authorization']}"}},
        "callables": {"auth": auth},
    }  # fmt: skip


@pytest.fixture(scope="module")
def key(ca: trustme.CA) -> str:
    """A private key that OpenSSL reads, with a canary in it, and its certificate."""
    made = ca.issue_cert("client.test")
    chain = b"".join(each.bytes() for each in made.cert_chain_pems).decode()
    return f"{CANARY['key']}\n{made.private_key_pem.bytes().decode()}\0{chain}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, CANARY["environment"])
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


async def token() -> str:
    return CANARY["token-callable"]


async def headers() -> Mapping[str, str]:
    return {"X-Fresh": CANARY["headers-callable"], "Cookie": CANARY["cookie"]}


async def fail(told: Told, document: Mapping[str, Any], *, called: bool = False, **hooks: Any) -> str:
    """Have an output fail, telling all that can be told on the way; gives the text of the error."""
    config = trio_wsout.load_config(
        {
            "connect": {"timeout": "300ms", "proxy": "none"},
            "reconnect": {"initial-backoff": "1ms", "max-backoff": "1ms", "max-attempts": 2},
            "shutdown-timeout": "300ms",
            **document,
        }
    )
    told.note(config, dump_config(config, redacted=True))
    if called:
        hooks = {"token": token, "headers": headers, **hooks}
    hooks.setdefault("secrets", lambda _: CANARY["resolved"])
    receipt: trio_wsout.Receipt | None = None
    try:
        async with trio_wsout.open_output(config, on_state=told.note, receive=True, **hooks) as output:
            receipt = await output.submit({"n": 1})
            told.note(output, receipt, output.statistics())
            try:
                await output.flush()
            finally:
                told.note(output.statistics())
    except (trio.BrokenResourceError, trio_wsout.OutputError) as error:
        told.note(error)
        said = str(error)
    else:
        pytest.fail("nothing went wrong")
    if receipt is not None:
        with pytest.raises(trio_wsout.OutputError) as caught:
            await receipt.wait()
        told.note(caught.value)
    return said


@asynccontextmanager
async def listening(serve: Serve) -> AsyncGenerator[str, None]:
    """Where `serve` serves as long as the block lives."""

    async def guarded(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await serve(stream)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, guarded, 0, host="127.0.0.1"))
            yield "127.0.0.1:" + str(listener.socket.getsockname()[1])
            nursery.cancel_scope.cancel()


async def request_on(stream: trio.abc.Stream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and (chunk := await stream.receive_some()):
        head += chunk
    return head


def echo(first: bytes, *, as_headers: bool = True) -> Serve:
    """Answers with all of the request: in the reason, in headers and as the body."""

    async def serve(stream: trio.SocketStream) -> None:
        request = await request_on(stream)
        if not request.endswith(b"\r\n\r\n"):
            return
        target, *lines = request.removesuffix(b"\r\n\r\n").split(b"\r\n")
        said = [b"X-Echo-" + line for line in lines] if as_headers else []
        said += [
            b"Set-Cookie: " + lines[-1],
            b"Location: ws://evil.test" + target.split(b" ")[1],
            b"Retry-After: 0",
        ]
        length = b"Content-Length: %d" % len(request)
        await stream.send_all(b"\r\n".join([first + target, *said, length, b"", request]))
        await stream.receive_some()

    return serve


async def echo_bytes(stream: trio.SocketStream) -> None:
    """Answers with the request."""
    await stream.send_all(await request_on(stream))
    await stream.receive_some()


async def echo_at_once(stream: trio.SocketStream) -> None:
    """Answers with the first bytes, whatever they are."""
    await stream.send_all(await stream.receive_some())
    await stream.receive_some()


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.receive_some()


async def say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def say_no_end(stream: trio.SocketStream) -> None:
    request = await request_on(stream)
    await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n" + request.partition(b"\r\n")[2][:-2] * 100)
    await stream.receive_some()


def upgrade(*more: bytes, frames: Callable[[bytes], bytes] = lambda request: b"") -> Serve:
    """Answers 101, with an echo in headers, and then with frames."""

    async def serve(stream: trio.SocketStream) -> None:
        request = await request_on(stream)
        if not request.endswith(b"\r\n\r\n"):
            return  # on a slow machine it has gone by then
        lines = request.split(b"\r\n")[1:-2]
        sent = next(
            line.partition(b": ")[2] for line in lines if line.lower().startswith(b"sec-websocket-key")
        )
        accept = base64.b64encode(hashlib.sha1(sent + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        own = more or (b"Sec-WebSocket-Accept: " + accept,)
        echoed = [b"X-Echo-" + line for line in lines]
        first = (b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade")
        await stream.send_all(b"\r\n".join([*first, *own, *echoed, b"", frames(request)]))
        while await stream.receive_some():
            pass

    return serve


def all_secrets(request: bytes) -> bytes:
    """The lines of a request that hold secrets, as one short text."""
    return b" ".join(line for line in request.split(b"\r\n") if b"canary" in line)


def frame(opcode: int, payload: bytes) -> bytes:
    return bytes((0x80 | opcode, len(payload))) + payload if len(payload) < 126 else (
        bytes((0x80 | opcode, 126)) + len(payload).to_bytes(2, "big") + payload
    )  # fmt: skip


PEERS: Mapping[str, Serve] = {
    "401": echo(b"HTTP/1.1 401 "),
    "403": echo(b"HTTP/1.1 403 "),
    "302": echo(b"HTTP/1.1 302 "),
    "500": echo(b"HTTP/1.1 500 "),
    "503": echo(b"HTTP/1.1 503 "),
    "999": echo(b"HTTP/1.1 999 ", as_headers=False),
    "bad first line": echo(b"HTTP/9.9 abc "),
    "the request": echo_bytes,
    "nothing": hang_up,
    "silence": say_nothing,
    "no end": say_no_end,
    "no accept": upgrade(b"X-Accept: none"),
    "wrong accept": upgrade(b"Sec-WebSocket-Accept: " + CANARY["bearer"].encode()),
    "wrong subprotocol": upgrade(b"Sec-WebSocket-Protocol: " + CANARY["bearer"].encode()),
    "wrong extension": upgrade(b"Sec-WebSocket-Extensions: " + CANARY["bearer"].encode()),
}
LATER: Mapping[str, Serve] = {
    "a broken text": upgrade(frames=lambda request: frame(1, b"\xff" + all_secrets(request))),
    "a reserved bit": upgrade(frames=lambda request: frame(0x71, all_secrets(request))),
    "a long ping": upgrade(frames=lambda request: frame(9, all_secrets(request) * 2)),
    "a Close of no UTF-8": upgrade(
        frames=lambda request: frame(8, b"\x0f\xa1\xff" + all_secrets(request)[:100])
    ),
}


ECHOES: Mapping[str, Callable[[bytes], bytes]] = {
    "in a Close": lambda said: frame(8, b"\x11\x95no such token: " + said[:100]),
    "in a Close, cut off": lambda said: frame(8, b"\x11\x95" + b"x" * 95 + said[:28]),
    "in a ping": lambda said: frame(9, said[:125]) + frame(8, b"\x11\x95"),
}
"""What a server may say of secrets that it was told."""


@pytest.mark.parametrize("echo", ECHOES)
async def test_no_secret_is_told_that_a_peer_says_back(echo: str, key: str) -> None:
    """The peer may say it as it came, in the form in which the header has it, or without its beginning."""
    with nothing_shown() as told:
        for name, document in documents(key).items():
            for secret in (b"", b"Bearer ", b"Basic ", b"Digest ", b"canary", b"token="):

                def said(request: bytes, secret: bytes = secret) -> bytes:
                    text = all_secrets(request)
                    return ECHOES[echo](text[max(0, text.find(secret)) :] or b"none")

                async with listening(upgrade(frames=said)) as address:
                    patient = {"timeout": "1h", "proxy": "none"}
                    fields = {"url": f"ws://{address}/a", "connect": patient, **document}
                    error = await fail(told, fields, called=name == "callables")
                assert "4501" in error


@pytest.mark.parametrize("peer", PEERS)
async def test_no_secret_is_told_when_the_peer_answers_with(peer: str, key: str) -> None:
    with nothing_shown() as told:
        for name, document in documents(key).items():
            async with listening(PEERS[peer]) as address:
                fields = {"url": f"ws://{address}/a", **document}
                await fail(told, fields, called=name == "callables")


@pytest.mark.parametrize("peer", LATER)
async def test_no_secret_is_told_when_the_peer_breaks_the_protocol_by(peer: str, key: str) -> None:
    with nothing_shown() as told:
        async with listening(LATER[peer]) as address:
            await fail(told, {"url": f"ws://{address}/a", **documents(key)["bearer"]})


async def test_no_secret_is_told_when_nobody_is_there(key: str) -> None:
    async with listening(hang_up) as address:
        pass
    with nothing_shown() as told:
        for name, document in documents(key).items():
            for url in (f"ws://{address}/", f"wss://{address}/", "ws://name.invalid/"):
                await fail(told, {"url": url, **document}, called=name == "callables")


async def test_no_secret_is_told_when_a_start_up_fails(key: str) -> None:
    document = {
        **documents(key)["bearer"],
        "connect": {"mode": "eager", "eager-timeout": "200ms", "proxy": "none"},
    }
    with nothing_shown() as told:
        for serve in (PEERS["503"], say_nothing):
            async with listening(serve) as address:
                fields = {**document, "url": f"ws://{address}/", "reconnect": {"initial-backoff": "50ms"}}
                await fail(told, fields)


async def test_no_secret_is_told_when_tls_fails(key: str, ca: trustme.CA, tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("another.test").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    strict = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(strict)
    strict.verify_mode = ssl.CERT_REQUIRED  # and it trusts nobody

    def secured(context: ssl.SSLContext) -> Serve:
        async def serve(stream: trio.SocketStream) -> None:
            wrapped = trio.SSLStream(stream, context, server_side=True)
            await wrapped.do_handshake()
            await wrapped.receive_some()

        return serve

    with nothing_shown() as told:
        document = documents(key)["bearer"]
        trusting = {**document, "tls": {**document["tls"], "ca-certificate": str(tmp_path / "ca.pem")}}
        for serve in (secured(context), secured(strict), echo_at_once, hang_up, say_nothing):
            for fields in (document, trusting):
                async with listening(serve) as address:
                    await fail(told, {"url": f"wss://{address}/a", **fields})


@pytest.mark.parametrize(
    "text", ["{}", "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", "/{}/key.pem"]
)
async def test_no_key_is_told_that_can_not_be_used(text: str, key: str) -> None:
    tls = {"client-certificate": key.partition("\0")[2], "client-key": text.format(CANARY["key"])}
    with nothing_shown() as told:
        assert "tls.client-certificate" in await fail(told, {"url": "wss://peer.test/", "tls": tls})


def socks(answer: bytes) -> Serve:
    """A SOCKS5 proxy that wants a name and password, and then answers."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"\x05\x02")
        credentials = await stream.receive_some()
        await stream.send_all(answer or bytes(credentials))
        await stream.receive_some()

    return serve


PROXIES: Mapping[str, tuple[str, Serve]] = {
    "407": ("http", echo(b"HTTP/1.1 407 ")),
    "502": ("http", echo(b"HTTP/1.1 502 ")),
    "the request": ("http", echo_bytes),
    "nothing": ("http", hang_up),
    "silence": ("http", say_nothing),
    "wrong password": ("socks5", socks(b"\x01\x01")),
    "the credentials": ("socks5", socks(b"")),
    "silence of socks": ("socks5", say_nothing),
}


@pytest.mark.parametrize("proxy", PROXIES)
async def test_no_secret_is_told_when_a_proxy_answers_with(proxy: str, key: str) -> None:
    scheme, serve = PROXIES[proxy]
    with nothing_shown() as told:
        async with listening(serve) as address:
            url = f"{scheme}://user:{quote(CANARY['proxy'], safe='')}@{address}"
            for peer in ("ws://peer.test/a", "wss://peer.test/a"):
                fields = {
                    **documents(key)["bearer"],
                    "url": peer,
                    "connect": {"timeout": "300ms", "proxy": url},
                }
                await fail(told, fields)


async def test_no_secret_of_a_proxy_in_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with nothing_shown() as told:
        async with listening(echo(b"HTTP/1.1 407 ")) as address:
            for place in (address, "name.invalid:81", "127.0.0.1:none", "[:81"):
                monkeypatch.setenv("ws_proxy", f"http://user:{CANARY['proxy']}@{place}")
                await fail(told, {"url": "ws://peer.test/a", "connect": {"timeout": "300ms"}})


def raising(error: Exception) -> Callable[..., Awaitable[Any]]:
    async def call(*_: object) -> Any:
        raise error

    return call


async def giving(value: object) -> Any:
    return value


async def test_no_secret_is_told_when_a_callable_fails(key: str) -> None:
    secret = CANARY["resolved"]

    def cannot(name: str) -> str:
        raise LookupError(f"{name} is not {secret}")

    hooks: list[dict[str, Any]] = [
        {"headers": raising(ValueError(secret))},
        {"token": raising(KeyError(secret))},
        {"secrets": cannot},
        {"open_stream": raising(RuntimeError(secret))},
        {"headers": partial(giving, {"X-Bad": f"{secret}\r\nX: 1"})},
        {"headers": partial(giving, {f"X {secret}": "v"})},
        {"headers": partial(giving, {"X-Bad": secret.encode()})},
        {"headers": partial(giving, [secret])},
        {"headers": partial(giving, secret)},
        {"token": partial(giving, f"{secret} {secret}")},
        {"token": partial(giving, secret.encode())},
        {"secrets": lambda _: f"{secret}\0"},
        {"secrets": lambda _: f"{secret}\ud800"},
        {"secrets": lambda _: secret.encode()},
    ]
    with nothing_shown() as told:
        for each in hooks:
            async with listening(PEERS["503"]) as address:
                await fail(told, {"url": f"ws://{address}/", **documents(key)["callables"]}, **each)


async def test_no_secret_is_told_when_a_stream_can_not_be_opened() -> None:
    with nothing_shown() as told:
        for error in (
            OSError(CANARY["resolved"]),
            OSError(5, CANARY["resolved"]),
            trio.BrokenResourceError(CANARY["resolved"]),
        ):
            await fail(told, {"url": "ws://peer.test/"}, open_stream=raising(error))


async def test_no_secret_is_told_when_a_batch_can_not_be_made(key: str) -> None:
    def cannot(name: str) -> str:
        raise LookupError(CANARY["resolved"])

    batch = {"mode": "fixed", "fixed-size": 1, "header": "${secret|name}"}
    with nothing_shown() as told:
        async with open_peer() as peer:
            for resolve in (cannot, lambda _: CANARY["resolved"] * 60_000):
                fields = {"url": "ws://peer.test/", "batch": batch}
                await fail(told, fields, secrets=resolve, open_stream=peer.open_stream)


async def test_no_secret_is_told_of_what_is_left_at_the_end(key: str) -> None:
    with nothing_shown() as told:
        for serve in (say_nothing, upgrade()):
            async with listening(serve) as address:
                fields = {
                    **documents(key)["bearer"],
                    "url": f"ws://{address}/",
                    "connect": {"proxy": "none"},
                    "shutdown-timeout": "100ms",
                }
                with pytest.raises(trio_wsout.DeliveryError) as caught:
                    async with trio_wsout.open_output(fields, secrets=lambda _: CANARY["resolved"]) as output:
                        await output.send("event")
                told.note(caught.value, *caught.value.undelivered, output.statistics())
                with trio.CancelScope() as scope:
                    async with trio_wsout.open_output(fields, secrets=lambda _: CANARY["resolved"]) as output:
                        await output.send("event")
                        scope.cancel()
                told.note(output.statistics())


# -- the secrets of those who connect ---------------------------------------------------------------------

THEIRS = (
    f"GET /a?token={CANARY['auth-query']}&since=5 HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    f"Authorization: Bearer {CANARY['bearer']}\r\nCookie: session={CANARY['cookie']}\r\n"
    f"Proxy-Authorization: Basic {CANARY['proxy']}\r\n\r\n"
)
LISTENER: Mapping[str, Any] = {
    "mode": "relay",
    "server": {"bind": "127.0.0.1:0", "path": "/a", "handshake-timeout": "200ms"},
    "history": {},
    "cursor": {"query-parameter": "since"},
    "shutdown-timeout": "300ms",
}
MALFORMED: Mapping[str, tuple[str, str]] = {
    "whole": ("", ""),
    "another path": ("/a?", "/b?"),
    "no upgrade": ("Upgrade: websocket\r\n", ""),
    "another version": ("Version: 13", "Version: 8"),
    "no key": ("dGhlIHNhbXBsZSBub25jZQ==", "none"),
    "another method": ("GET", "POST"),
    "no HTTP": ("HTTP/1.1", "GOPHER"),
    "a bad line": ("Cookie:", "Cookie\0:"),
    "a body": ("Host:", "Content-Length: 5\r\nHost:"),
    "too long": ("Host:", f"X: {'x' * 20_000}\r\nHost:"),
    "no end": ("\r\n\r\n", ""),
}
FRAMES = (
    frame(1, b"not masked"),
    bytes((0x81, 0xFE, 0, 126, 0, 0, 0, 0)) + b"\xff" * 126,
    bytes((0x81, 0x85, 0, 0, 0, 0)) + b"hello",
    bytes((0x88, 0x82, 0, 0, 0, 0)) + b"\x03\xe8",
)


async def knock(address: str, request: str) -> None:
    """A peer that asks, sends all that there is to send, and goes when it is told to."""
    for data in FRAMES:
        async with await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2])) as stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(request.encode())
                answer = await stream.receive_some()
                if answer.startswith(b"HTTP/1.1 101"):
                    await stream.send_all(data)
                await stream.send_eof()
                while await stream.receive_some():
                    pass


@pytest.mark.parametrize("how", MALFORMED)
async def test_no_secret_of_a_peer_is_told_whose_handshake_is(how: str) -> None:
    with nothing_shown() as told, trio.fail_after(PATIENCE):

        async def authenticate(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
            told.note(handshake)
            return trio_wsout.Admit()

        async with trio_wsout.open_output(LISTENER, authenticate=authenticate, receive=True) as output:
            await knock(output.statistics().addresses[0], THEIRS.replace(*MALFORMED[how], 1))
            if how == "whole":
                message = await output.received.receive()
                told.note(message, message.peer)
            told.note(output.statistics())


async def deny(handshake: trio_wsout.Handshake) -> trio_wsout.Deny:
    return trio_wsout.Deny(reason=f"who is {handshake.headers['authorization']}?")


async def look_up(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
    known: dict[str, str] = {}
    return trio_wsout.Admit(identity=known[handshake.headers["authorization"]])


async def complain(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
    raise PermissionError(f"{handshake} may not come in")


async def complain_of_all(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
    raise PermissionError(handshake.query, dict(handshake.headers))


async def complain_to_many(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
    trouble = ValueError(handshake.headers["cookie"])
    trouble.add_note(handshake.headers["authorization"])
    raise ExceptionGroup(handshake.query, [trouble])


async def chain(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
    try:
        return await look_up(handshake)
    except LookupError as error:
        raise RuntimeError("not admitted") from error


async def deny_in_lines(handshake: trio_wsout.Handshake) -> trio_wsout.Deny:
    return trio_wsout.Deny(reason=f"{handshake.headers}\n")


async def give_another(handshake: trio_wsout.Handshake) -> Any:
    return handshake.headers["authorization"]


@pytest.mark.parametrize(
    "authenticate",
    [deny, look_up, complain, complain_of_all, complain_to_many, chain, deny_in_lines, give_another],
)
async def test_no_secret_of_a_peer_is_told_when_authenticate_would(authenticate: Any) -> None:
    """The application's exception may hold what the peer sent; the log tells which it was, and where."""
    with nothing_shown() as told, trio.fail_after(PATIENCE):
        async with trio_wsout.open_output(LISTENER, authenticate=authenticate) as output:
            await knock(output.statistics().addresses[0], THEIRS)
            told.note(output.statistics())


async def test_no_secret_of_a_peer_is_told_when_the_history_fails(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with nothing_shown() as told, trio.fail_after(PATIENCE):
        document = {**LISTENER, "history": {"store": f"sqlite:{path}"}}
        with pytest.raises((trio_wsout.OutputError, trio.BrokenResourceError)) as caught:
            async with trio_wsout.open_output(document) as output:
                await output.send({"n": 1})
                await output.flush()
                with closing(sqlite3.connect(path)) as other:
                    other.execute("DROP TABLE log_runs")
                await knock(output.statistics().addresses[0], THEIRS)
                told.note(output.statistics())
                await output.send({"n": 2})
                await output.flush()
        told.note(caught.value)


# -- configurations ---------------------------------------------------------------------------------------


def wrong_documents(key: str) -> list[dict[str, Any]]:
    """Documents that can't be loaded, with canaries in their secret fields."""
    good = {"url": "ws://peer.test/"}
    bearer, password = CANARY["bearer"], CANARY["password"]
    fields: list[dict[str, Any]] = [
        {"auth": {"bearer-token": value}}
        for value in (
            [bearer],
            {bearer: bearer},
            f"{bearer} ",
            f"{bearer}\n",
            f"{bearer}${{",
            f"${{x|{bearer}}}",
        )
    ]
    fields += [
        {"auth": {"basic": value}}
        for value in (
            {"username": "u", "password": [password]},
            {"username": "u", "password": f"{password}${{"},
            {"username": "a:b", "password": password},
            {"password": password},
            {"username": "u", "password": password, "pasword": 1},
            [password],
            password,
        )
    ]
    for name in ("headers", "query"):
        secret = CANARY["auth-header"]
        fields += [
            {"auth": {name: value}} for value in ({"X": [secret]}, {"X": f"{secret}${{"}, [secret], secret)
        ]
    fields += [
        {"auth": {"headers": {"X": f"{CANARY['auth-header']}\r\n"}}},
        {"auth": {"headers": {"Host": CANARY["auth-header"], "X Y": CANARY["auth-header"]}}},
        {
            "headers": {
                "Authorization": f"{CANARY['authorization']}\0",
                "authorization": CANARY["authorization"],
            }
        },
        {"headers": {"Cookie": [CANARY["cookie"]], "cookie": f"{CANARY['cookie']}${{"}},
        {"auth": {"bearer-token": bearer, "basic": {"username": "u", "password": password}}},
        {"tls": {"client-key": [CANARY["key"]]}},
        {"tls": {"client-key": CANARY["key"]}},
        {"tls": {"client-key": key, "insecure-skip-verify": True, "ca-certificate": "x"}},
        {"mode": "server-output", "auth": {"bearer-token": bearer}, "tls": {"client-key": key}},
    ]
    proxy = CANARY["proxy"]
    for url in (
        f"ftp://u:{proxy}@h:1",
        f"http://u:{proxy}@h",
        f"http://u:{proxy}@h:x",
        f"http://u:{proxy}@[h:1",
        proxy,
    ):
        fields.append({"connect": {"proxy": url}})
    fields.append({"url": f"ws://user:{password}@peer.test/"})
    fields.append({"url": f"ws://user:{password}@peer.test:x/"})
    fields.append({"url": f"user:{password}@peer.test"})
    return [{**good, **each} for each in fields]


def test_no_secret_is_told_of_a_configuration_that_is_wrong(key: str) -> None:
    with nothing_shown() as told:
        for document in wrong_documents(key):
            for form in (document, {"output": {"web-socket": document}}):
                with pytest.raises(trio_wsout.ConfigError) as caught:
                    trio_wsout.load_config(form)
                told.note(caught.value, *caught.value.problems)


BROKEN = {
    "twice.yaml": "url: ws://h/\nauth:\n  bearer-token: {0}\n  bearer-token: {0}\n",
    "alias.yaml": "url: ws://h/\nauth:\n  bearer-token: *{0}\n",
    "tag.yaml": "url: ws://h/\nauth:\n  bearer-token: !{0} x\n",
    "percent.yaml": "url: ws://h/\nauth:\n  bearer-token: %{0}\n",
    "at.yaml": "url: ws://h/\nauth:\n  bearer-token: @{0}\n",
    "escape.yaml": 'url: ws://h/\nauth:\n  bearer-token: "\\q{0}"\n',
    "quote.yaml": 'url: ws://h/\nauth:\n  bearer-token: "{0}\n',
    "rest.yaml": 'url: ws://h/\nauth:\n  bearer-token: "x" {0}\n',
    "colon.yaml": "url: ws://h/\nauth:\n  bearer-token: a: {0}\n",
    "indent.yaml": "url: ws://h/\nauth:\n  bearer-token: x\n    more: {0}\n",
    "tab.yaml": "url: ws://h/\nauth:\n\tbearer-token: {0}\n",
    "anchor.yaml": "url: &a ws://h/\nauth:\n  bearer-token: &a &b {0}\n",
    "twice.json": '{{"url": "ws://h/", "auth": {{"bearer-token": "{0}", "bearer-token": "{0}"}}}}',
    "escape.json": '{{"url": "ws://h/", "auth": {{"bearer-token": "\\q{0}"}}}}',
    "end.json": '{{"url": "ws://h/", "auth": {{"bearer-token": "{0}"',
    "bare.json": '{{"url": "ws://h/", "auth": {{"bearer-token": {0}}}}}',
    "twice.toml": 'url = "ws://h/"\n[auth]\nbearer-token = "{0}"\nbearer-token = "{0}"\n',
    "bare.toml": 'url = "ws://h/"\n[auth]\nbearer-token = {0}\n',
    "escape.toml": 'url = "ws://h/"\n[auth]\nbearer-token = "\\q{0}"\n',
    "quote.toml": 'url = "ws://h/"\n[auth]\nbearer-token = "{0}\n',
    "table.toml": 'url = "ws://h/"\n[auth.bearer-token.{0}\n',
}


@pytest.mark.parametrize("name", BROKEN)
def test_no_secret_is_told_of_a_file_that_can_not_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(BROKEN[name].format(CANARY["bearer"]))
    with nothing_shown() as told:
        with pytest.raises(trio_wsout.ConfigError) as caught:
            trio_wsout.load_config(tmp_path / name)
        told.note(caught.value, *caught.value.problems)


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    root = str(Path(trio_wsout.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", "trio_wsout", *arguments],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True, text=True, timeout=300, check=False, **more,
    )  # fmt: skip


def test_the_command_tells_no_secret(key: str, tmp_path: Path) -> None:
    pytest.importorskip("cyclopts")
    document = documents(key)["bearer"] | {"url": "ws://127.0.0.1:9/", "reconnect": {"max-attempts": 1}}
    document["connect"] = {"proxy": f"http://user:{quote(CANARY['proxy'], safe='')}@127.0.0.1:9"}
    (tmp_path / "good.json").write_text(json.dumps(document))
    (tmp_path / "wrong.json").write_text(
        json.dumps({**document, "url": "ftp://h/", "tls": {"client-key": key}})
    )
    document["auth"] = {"headers": {"X": CANARY["auth-header"]}, "query": {"env": f"${{env|{ENV}}}"}}
    (tmp_path / "run.json").write_text(json.dumps(document))
    with nothing_shown() as told:
        for arguments, code in (
            (("check", str(tmp_path / "good.json")), 0),
            (("check", str(tmp_path / "wrong.json")), 2),
            (("check", str(tmp_path / "good.json"), "--set", f"auth.basic.password={CANARY['password']}"), 2),
            (("check", str(tmp_path / "good.json"), "--set", f'auth.bearer-token=["{CANARY["bearer"]}"]'), 2),
            (("run", str(tmp_path / "run.json"), "--stats"), 3),
        ):
            ended = run(*arguments, input="1\n")
            assert ended.returncode == code, ended
            assert "Traceback" not in ended.stderr
            told.note(ended.stdout, ended.stderr)
