"""Other people's WebSockets as peers of every mode: `websockets`, `aiohttp`, and a page in Chromium.

The two libraries run in an asyncio loop of a thread. The page is driven without a driver: it asks a
small HTTP server of this module for scripts, runs them, and posts what they return. A page can't
listen, so Chromium is no peer of client mode.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import queue
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trio
import trio_wsout
from aiohttp import web
from attrs import Factory, define
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Request, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence

    import trustme
    from layers import Layer

    Aio = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]

pytestmark = [pytest.mark.network, pytest.mark.heavy]

MIB = 1024 * 1024
PATIENCE = 240
"""Seconds that a test may take."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


async def result_of(future: Future[Any]) -> Any:
    """Wait for what another thread does."""
    try:
        return await trio.to_thread.run_sync(future.result, abandon_on_cancel=True)
    finally:
        future.cancel()


@pytest.fixture
async def aio() -> AsyncGenerator[Aio, None]:
    """Runs a coroutine in an asyncio loop of another thread, and waits for it in Trio. No test may hang."""
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    def live() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(over.wait())

    async def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return await result_of(asyncio.run_coroutine_threadsafe(coroutine, loop))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        # Only what a test takes as an argument can bound it.
        with trio.fail_after(PATIENCE):
            yield run
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds that other threads or processes bring about."""
    while not holds():
        await trio.sleep(0.005)


# -- clients, with the same face ------------------------------------------------------------------------


class Refused(Exception):  # noqa: N818 - an answer
    """The handshake was answered with this HTTP status."""


@define
class WebsocketsClient:
    """A client of `websockets`."""

    websocket: ClientConnection

    @classmethod
    async def open(
        cls, url: str, *, subprotocols: Sequence[str] | None = None, origin: str | None = None, **options: Any
    ) -> WebsocketsClient:
        options["additional_headers"] = options.pop("headers", None)
        options |= {"ping_interval": 0.1, "ping_timeout": 0.5} if options.pop("pinging", False) else {}
        try:
            return cls(await connect(url, subprotocols=subprotocols, origin=origin, proxy=None, **options))
        except InvalidStatus as error:
            raise Refused(error.response.status_code) from None

    @property
    def answered(self) -> Any:
        """Headers that our side answered the handshake with."""
        return self.websocket.response.headers

    @property
    def subprotocol(self) -> str | None:
        return self.websocket.subprotocol

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.websocket.local_address)

    async def send(self, *messages: str | bytes) -> None:
        for message in messages:
            await self.websocket.send(message)

    async def take(self, count: int) -> list[str | bytes]:
        return [await self.websocket.recv() for _ in range(count)]

    async def take_all(self) -> tuple[list[str | bytes], int | None]:
        """What comes until the end, and the code of the Close."""
        messages: list[str | bytes] = []
        await read_all(self.websocket, messages)
        return messages, self.websocket.close_code

    async def aclose(self) -> None:
        await self.websocket.close()


async def read_all(websocket: Any, messages: list[str | bytes]) -> None:
    """The messages of a connection of `websockets`, however it ends."""
    with suppress(ConnectionClosed):
        while True:
            messages.append(await websocket.recv())


@define
class AiohttpClient:
    """A client of `aiohttp`; it asks for compression, as that of `websockets` does."""

    session: aiohttp.ClientSession
    websocket: aiohttp.ClientWebSocketResponse
    answered: Any

    @classmethod
    async def open(cls, url: str, *, subprotocols: Sequence[str] = (), **options: Any) -> AiohttpClient:
        options |= {"heartbeat": 0.6} if options.pop("pinging", False) else {}
        answered: list[Any] = []

        async def note(session: Any, context: Any, ended: aiohttp.TraceRequestEndParams) -> None:
            answered.append(ended.response.headers)

        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(note)
        options |= {"protocols": subprotocols, "compress": 15, "max_msg_size": 0}
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession(trace_configs=[trace]))
            try:
                websocket = await session.ws_connect(url, **options)
            except aiohttp.WSServerHandshakeError as error:
                raise Refused(error.status) from None
            stack.pop_all()
        return cls(session, websocket, answered[0])

    @property
    def subprotocol(self) -> str | None:
        return self.websocket.protocol

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.websocket.get_extra_info("sockname"))

    async def send(self, *messages: str | bytes) -> None:
        for message in messages:
            send = self.websocket.send_str if isinstance(message, str) else self.websocket.send_bytes
            await send(message)

    async def take(self, count: int) -> list[str | bytes]:
        messages = [await self.websocket.receive() for _ in range(count)]
        assert {each.type for each in messages} <= {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}
        return [each.data for each in messages]

    async def take_all(self) -> tuple[list[str | bytes], int | None]:
        """What comes until the end, and the code of the Close."""
        return [message.data async for message in self.websocket], self.websocket.close_code

    async def aclose(self) -> None:
        await self.websocket.close()
        await self.session.close()


Client = WebsocketsClient | AiohttpClient
CLIENTS = [WebsocketsClient, AiohttpClient]
each_client = pytest.mark.parametrize("kind", CLIENTS, ids=["websockets", "aiohttp"])


@asynccontextmanager
async def client(aio: Aio, kind: type[Client], url: str, **options: Any) -> AsyncGenerator[Client, None]:
    """A client of one of the libraries, for as long as the block lasts."""
    opened = await aio(kind.open(url, **options))
    try:
        yield opened
    finally:
        with trio.move_on_after(5, shield=True):
            await aio(opened.aclose())


@asynccontextmanager
async def serving(
    aio: Aio, config: dict[str, Any], *kinds: type[Client], receive: bool = False, **options: Any
) -> AsyncGenerator[tuple[Any, ...], None]:
    """An output with a listener, and clients of it that are there at its end, and see Close 1001."""

    async def see_the_end(peer: Client) -> None:
        assert await aio(peer.take_all()) == ([], 1001)

    async with AsyncExitStack() as clients, trio.open_nursery() as nursery:
        async with trio_wsout.open_output(config, receive=receive) as output:
            scheme = "wss" if "ssl" in options else "ws"
            url = url_of(output, scheme)
            peers = [await clients.enter_async_context(client(aio, each, url, **options)) for each in kinds]
            await output.wait_peers(len(peers))
            yield output, *peers
            for peer in peers:
                nursery.start_soon(see_the_end, peer)


# -- servers, with the same face ------------------------------------------------------------------------


@define
class Session:
    """One connection that a server has or had."""

    websocket: Any
    target: str
    headers: Any
    messages: list[str | bytes] = Factory(list)
    pings: list[bytes] = Factory(list)
    asked_to_close: int | None = None
    close_code: int | None = None
    ended: bool = False


@define
class WebsocketsServer:
    """A server of `websockets`."""

    sessions: list[Session] = Factory(list)
    url: str = ""
    refuse: int | None = None
    server: Any = None

    async def start(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        subprotocols: Sequence[str] | None = None,
        pinging: bool = False,
    ) -> None:
        self.server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            ssl=tls,
            subprotocols=subprotocols,
            process_request=self._judge,
            **({"ping_interval": 0.1, "ping_timeout": 0.5} if pinging else {}),
        )
        port = self.server.sockets[0].getsockname()[1]
        self.url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/"

    async def send(self, *messages: str | bytes) -> None:
        for message in messages:
            await self.sessions[-1].websocket.send(message)

    async def close(self, code: int) -> None:
        await self.sessions[-1].websocket.close(code)

    async def stop(self) -> None:
        self.server.close()
        await self.server.wait_closed()

    def _judge(self, websocket: ServerConnection, request: Request) -> Any:
        return None if self.refuse is None else websocket.respond(self.refuse, "no\n")

    async def _serve(self, websocket: ServerConnection) -> None:
        request = websocket.request
        session = Session(websocket, request.path, request.headers)
        self.sessions.append(session)
        await read_all(websocket, session.messages)
        session.close_code, session.ended = websocket.close_code, True


@define
class AiohttpServer:
    """A server of `aiohttp`; without `answering` it answers no pings."""

    sessions: list[Session] = Factory(list)
    url: str = ""
    refuse: int | None = None
    answering: bool = True
    runner: Any = None
    options: Any = None

    async def start(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        subprotocols: Sequence[str] = (),
        pinging: bool = False,
    ) -> None:
        self.options = {"protocols": subprotocols, "heartbeat": 0.6 if pinging else None}
        application = web.Application()
        application.router.add_get("/{path:.*}", self._serve)
        self.runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=tls).start()
        port = self.runner.addresses[0][1]
        self.url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/"

    async def send(self, *messages: str | bytes) -> None:
        websocket = self.sessions[-1].websocket
        for message in messages:
            await (websocket.send_str if isinstance(message, str) else websocket.send_bytes)(message)

    async def close(self, code: int) -> None:
        session = self.sessions[-1]
        session.asked_to_close = code
        while not session.ended:
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        for session in self.sessions:
            await session.websocket.close()
        await self.runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self.refuse is not None:
            return web.Response(status=self.refuse)
        websocket = web.WebSocketResponse(autoping=self.answering, **self.options)
        await websocket.prepare(request)
        session = Session(websocket, request.path_qs, request.headers)
        self.sessions.append(session)
        while not websocket.closed:
            try:
                message = await websocket.receive(timeout=0.02)
            except TimeoutError:
                if session.asked_to_close is not None:
                    # Who receives must close: else it would not wait for our answer.
                    await websocket.close(code=session.asked_to_close)
                continue
            if message.type is aiohttp.WSMsgType.PING:
                session.pings.append(bytes(message.data))
            elif message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                session.messages.append(message.data)
        session.close_code, session.ended = websocket.close_code, True
        return websocket


Server = WebsocketsServer | AiohttpServer
each_server = pytest.mark.parametrize(
    "kind", [WebsocketsServer, AiohttpServer], ids=["websockets", "aiohttp"]
)


@asynccontextmanager
async def server(aio: Aio, made: Server, **options: Any) -> AsyncGenerator[Server, None]:
    """A server of one of the libraries, for as long as the block lasts."""
    await aio(made.start(**options))
    try:
        yield made
    finally:
        with trio.move_on_after(5, shield=True):
            await aio(made.stop())


def link(url: str, **fields: Any) -> dict[str, Any]:
    return {
        "url": url,
        "connect": {"mode": "eager", "eager-timeout": "5s"},
        "reconnect": {"initial-backoff": "20ms"},
        **fields,
    }


def listener(mode: str, **fields: Any) -> dict[str, Any]:
    return {"mode": mode, **fields, "server": {"bind": "127.0.0.1:0", **fields.get("server", {})}}


RESUMABLE = {
    "history": {"store": "memory:"},
    "cursor": {"header-name": "Last-Event-ID", "query-parameter": "cursor"},
    "delivery": {"stamp": "seq"},
}


def url_of(output: trio_wsout.Output, scheme: str = "ws") -> str:
    return f"{scheme}://{output.statistics().addresses[0]}/"


def numbers(messages: Sequence[str | bytes]) -> list[int]:
    return [json.loads(message)["n"] for message in messages]


async def send_numbers(output: trio_wsout.Output, *span: int) -> None:
    for n in range(*span):
        await output.send({"n": n})


# -- mode client ----------------------------------------------------------------------------------------


@each_server
async def test_a_server_sees_our_handshake_all_events_and_close_1000(aio: Aio, kind: type[Server]) -> None:
    async with server(aio, kind(), subprotocols=["v2"]) as peer:
        config = link(
            f"{peer.url}in/here?a=1",
            headers={"X-Device": "7"},
            query={"b": "ä b"},
            auth={"bearer-token": "secret"},
            subprotocols=["v1", "v2"],
        )
        async with trio_wsout.open_output(config, receive=True) as output:
            await send_numbers(output, 1000)
            await output.send("grüße\n")
            await output.flush()
            assert output.statistics().confirmed == 1001
            await aio(peer.send("tëxt", b"\x00\xff", "x" * MIB))
            got = [await output.received.receive() for _ in range(3)]
        (session,) = peer.sessions
        await until(lambda: session.ended)
    assert session.target == "/in/here?a=1&b=%C3%A4%20b"
    assert (session.headers["X-Device"], session.headers["Authorization"]) == ("7", "Bearer secret")
    assert numbers(session.messages[:-1]) == list(range(1000))
    assert session.messages[-1] == "grüße\n"
    assert session.close_code == 1000
    assert [each.event for each in got] == ["tëxt", b"\x00\xff", "x" * MIB]
    assert {each.peer.subprotocol for each in got} == {output.statistics().link.subprotocol} == {"v2"}


@each_server
@pytest.mark.parametrize(
    ("payload", "event", "message"),
    [
        ("binary", b"\x00\xff", b"\x00\xff"),
        ("binary", {"n": 1}, b'{"n":1}'),
        ("binary", b"x" * MIB, b"x" * MIB),
        ("binary-base64", "AP8=", b"\x00\xff"),
        ("json", "ä", '"ä"'),
        ("text", "x" * MIB, "x" * MIB),
    ],
    ids=["bytes", "object", "1 MiB", "base64", "json", "1 MiB of text"],
)
async def test_every_payload_reaches_a_server_as_it_should(
    aio: Aio, kind: type[Server], payload: str, event: object, message: str | bytes
) -> None:
    async with server(aio, kind()) as peer:
        async with trio_wsout.open_output(link(peer.url, payload=payload)) as output:
            await output.send(event)
        assert peer.sessions[0].messages == [message]


@each_server
async def test_wss_to_a_server(aio: Aio, kind: type[Server], ca: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    async with server(aio, kind(), tls=context) as peer:
        tls = {"ca-certificate": ca.cert_pem.bytes().decode()}
        async with trio_wsout.open_output(link(peer.url, tls=tls), receive=True) as output:
            await send_numbers(output, 100)
            await output.flush()
            await aio(peer.send("y" * MIB))
            assert (await output.received.receive()).event == "y" * MIB
        await until(lambda: peer.sessions[0].ended)
    assert numbers(peer.sessions[0].messages) == list(range(100))
    assert peer.sessions[0].close_code == 1000


@each_server
async def test_a_quiet_link_answers_pings_and_gets_answers(aio: Aio, kind: type[Server]) -> None:
    heartbeat = {"ping-interval": "50ms", "timeout": "20s", "payload": "are you there?"}
    async with server(aio, kind(), pinging=True) as peer:
        async with trio_wsout.open_output(link(peer.url, heartbeat=heartbeat)) as output:
            await trio.sleep(1)
            await output.send("still there")
            await output.flush()
            assert output.statistics().heartbeat_misses == 0
        assert [session.messages for session in peer.sessions] == [["still there"]]


async def test_what_a_server_has_not_ponged_is_not_confirmed(aio: Aio) -> None:
    async with server(aio, AiohttpServer(answering=False)) as peer:
        async with trio_wsout.open_output(link(peer.url)) as output:
            await send_numbers(output, 10)
            await until(lambda: bool(peer.sessions))
            (session,) = peer.sessions
            await until(lambda: len(session.messages) == 10 and session.pings)
            await trio.sleep(0.1)
            assert (output.statistics().written, output.statistics().confirmed) == (10, 0)
            # One ping at a time. Once it is answered, there may be another, for what came after it.
            assert len(session.pings) == 1
            while output.statistics().confirmed < 10:
                if session.pings:
                    await aio(session.websocket.pong(session.pings.pop()))
                await trio.sleep(0.005)
        await until(lambda: session.ended)
    assert session.close_code == 1000


@each_server
async def test_a_server_that_closes_sees_us_again_with_the_cursor(aio: Aio, kind: type[Server]) -> None:
    cursor = {
        "header-name": "Last-Event-ID",
        "query-parameter": "after",
        "value-field": "n",
        "persist-to": "memory:",
    }
    async with server(aio, kind()) as peer:
        async with trio_wsout.open_output(link(peer.url, cursor=cursor)) as output:
            for start, code in ((0, 1001), (100, 1011), (200, 1012)):
                await send_numbers(output, start, start + 100)
                await output.flush()
                await aio(peer.close(code))
            await send_numbers(output, 300, 400)
        assert output.statistics().link.reconnects == 3
        await until(lambda: peer.sessions[-1].ended)
    sent = [message for session in peer.sessions for message in session.messages]
    assert numbers(sent) == list(range(400))
    asked = [session.headers.get("Last-Event-ID") for session in peer.sessions]
    assert asked == [None, "99", "199", "299"]
    assert [session.target for session in peer.sessions] == ["/", "/?after=99", "/?after=199", "/?after=299"]
    assert [session.close_code for session in peer.sessions] == [1001, 1011, 1012, 1000]


@each_server
async def test_a_server_that_sends_too_much_sees_1009_and_us_again(aio: Aio, kind: type[Server]) -> None:
    async with server(aio, kind()) as peer:
        config = link(peer.url, **{"max-message-size": "64KiB"})
        async with trio_wsout.open_output(config, receive=True) as output:
            await aio(peer.send("x" * 64 * 1024))
            assert len((await output.received.receive()).event) == 64 * 1024
            await aio(peer.send("x" * (64 * 1024 + 1)))
            await until(lambda: len(peer.sessions) == 2)
            await aio(peer.send("again"))
            assert (await output.received.receive()).event == "again"
        await until(lambda: all(session.ended for session in peer.sessions))
    assert [session.close_code for session in peer.sessions] == [1009, 1000]


@each_server
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_server_that_refuses_is_final(aio: Aio, kind: type[Server], status: int) -> None:
    async with server(aio, kind(refuse=status)) as peer:
        with pytest.raises(trio_wsout.ConnectError) as caught:
            async with trio_wsout.open_output(link(peer.url)):
                pytest.fail("it must not open")
    assert caught.value.attempts == 1
    assert str(status) in caught.value.cause


# -- mode server-output ---------------------------------------------------------------------------------


async def test_six_clients_get_everything_in_order_and_close_1001(aio: Aio) -> None:
    ends: list[tuple[list[str | bytes], int | None]] = []

    async def follow(kind: type[Client], url: str) -> None:
        async with client(aio, kind, url) as peer:
            ends.append(await aio(peer.take_all()))

    async with trio.open_nursery() as nursery:
        async with trio_wsout.open_output(listener("server-output")) as output:
            url = url_of(output)
            for kind in CLIENTS * 3:
                nursery.start_soon(follow, kind, url)
            await output.wait_peers(6)
            await send_numbers(output, 3000)
            await output.flush()
            assert output.statistics().confirmed == 3000
            await output.send({"n": 3000, "pad": "x" * 900_000})
    assert [numbers(messages) for messages, _ in ends] == [list(range(3001))] * 6
    assert [code for _, code in ends] == [1001] * 6


@each_client
async def test_binary_events_reach_a_client(aio: Aio, kind: type[Client]) -> None:
    async with serving(aio, listener("server-output", payload="binary"), kind) as (output, peer):
        for event in (b"\x00\xff", "ä", b"x" * MIB):
            await output.send(event)
        assert await aio(peer.take(3)) == [b"\x00\xff", b"\xc3\xa4", b"x" * MIB]
        assert output.statistics().sent_bytes < 1.1 * MIB


@each_client
async def test_events_over_tls(aio: Aio, kind: type[Client], tls: Layer) -> None:
    fields = listener("server-output", server=dict(tls.fields))
    async with serving(aio, fields, kind, ssl=tls.context) as (output, peer):
        await send_numbers(output, 500)
        assert numbers(await aio(peer.take(500))) == list(range(500))


@each_client
@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_client_resumes_with_nothing_lost_or_twice(aio: Aio, kind: type[Client], by: str) -> None:
    events = 600
    got: list[dict[str, Any]] = []
    statuses: list[str | None] = []
    async with trio_wsout.open_output(listener("server-output", **RESUMABLE)) as output:
        async with trio.open_nursery() as nursery:
            asked: dict[str, Any] = {"url": url_of(output)}
            while len(got) < events:
                async with client(aio, kind, **asked) as peer:
                    statuses.append(peer.answered.get("Resume-Status"))
                    if not got:
                        # From here on there are events all the time, whether or not somebody listens.
                        nursery.start_soon(send_slowly, output, events)
                    taken = await aio(peer.take(min(75, events - len(got))))
                    got += [json.loads(message) for message in taken]
                cursor = got[-1]["seq"]
                if by == "header":
                    asked["headers"] = {"last-event-id": cursor}
                else:
                    asked["url"] = f"{url_of(output)}?x=1&cursor={cursor}"
                await trio.sleep(0.02)
    assert [each["n"] for each in got] == list(range(events))
    assert [int(each["seq"].partition("-")[2]) for each in got] == list(range(1, events + 1))
    assert statuses == [None, *["resumed"] * 7]


async def send_slowly(output: trio_wsout.Output, events: int) -> None:
    for n in range(events):
        await output.send({"n": n})
        if n % 5 == 0:
            await trio.sleep(0.003)


@each_client
async def test_a_client_that_comes_too_late_is_told_of_the_gap(aio: Aio, kind: type[Client]) -> None:
    fields = listener("server-output", **{**RESUMABLE, "history": {"store": "memory:", "max-events": 10}})
    async with trio_wsout.open_output(fields) as output:
        async with client(aio, kind, url_of(output)) as peer:
            await send_numbers(output, 5)
            cursor = json.loads((await aio(peer.take(5)))[0])["seq"]
        await send_numbers(output, 5, 50)
        await output.flush()
        for asked in (cursor, "no cursor of ours"):
            headers = {"Last-Event-ID": asked}
            async with client(aio, kind, url_of(output), headers=headers) as peer:
                assert peer.answered["Resume-Status"] == "gap"
                notice, *rest = [json.loads(each) for each in await aio(peer.take(11))]
                assert notice == {"gap": {"asked": asked, "first": rest[0]["seq"]}}
                assert [each["n"] for each in rest] == list(range(40, 50))


KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "json": {"payload": "json"},
    "binary": {"payload": "binary"},
    "lines": {"batch": {"mode": "fixed", "fixed-size": 2, "timeout": "10ms", "header": "head"}},
    "array": {"batch": {"mode": "fixed", "fixed-size": 2, "timeout": "10ms", "wrap-as-json": True}},
}


@each_client
@pytest.mark.parametrize("kind_of", KINDS)
async def test_a_client_that_looks_at_messages_only_is_told_of_a_gap_without_stamps(
    aio: Aio, kind: type[Client], kind_of: str
) -> None:
    fields = {"history": {"max-events": 4}, "cursor": {"query-parameter": "after", "value-field": "n"}}
    async with trio_wsout.open_output(listener("server-output", **fields, **KINDS[kind_of])) as output:
        await send_numbers(output, 9)
        await output.flush()
        async with client(aio, kind, f"{url_of(output)}?after=0") as peer:
            notice, first = await aio(peer.take(2))
            assert notice == '{"gap":{"asked":"0","first":"5"}}'
            assert isinstance(first, bytes) == (kind_of == "binary")
            assert b'"n":5' in (first if isinstance(first, bytes) else first.encode())
        async with client(aio, kind, f"{url_of(output)}?after=") as peer:
            await output.send({"n": 9})
            (only,) = await aio(peer.take(1))
            assert b'"n":9' in (only if isinstance(only, bytes) else only.encode())


async def test_a_client_whose_cursor_leads_nowhere_is_refused_with_the_first_there_is(aio: Aio) -> None:
    fields = {
        "history": {"max-events": 4, "on-gap": "refuse"},
        "cursor": {"query-parameter": "after", "value-field": "n"},
    }
    async with trio_wsout.open_output(listener("server-output", **fields)) as output:
        await send_numbers(output, 9)
        await output.flush()
        async with client(aio, WebsocketsClient, f"{url_of(output)}?after=0") as peer:
            assert await aio(peer.take_all()) == ([], 4410)
            assert peer.websocket.close_reason == "5"


@each_client
async def test_allowed_origins_path_and_places(aio: Aio, kind: type[Client]) -> None:
    rules = {"allowed-origins": ["https://app.example"], "path": "/feed", "max-connections": 1}
    async with trio_wsout.open_output(listener("server-output", server=rules)) as output:
        url = f"{url_of(output)}feed"
        for origin in (None, "null", "https://other.example", "http://app.example"):
            with pytest.raises(Refused, match="403"):
                await aio(kind.open(url, origin=origin))
        with pytest.raises(Refused, match="404"):
            await aio(kind.open(url_of(output), origin="https://app.example"))
        async with client(aio, kind, url, origin="https://APP.example:443") as peer:
            with pytest.raises(Refused, match="503"):
                await aio(kind.open(url, origin="https://app.example"))
            await output.send("admitted")
            assert await aio(peer.take(1)) == ["admitted"]
        assert (output.statistics().listener.refused, output.statistics().listener.admitted) == (6, 1)


@each_client
async def test_a_quiet_client_answers_pings_and_gets_answers(aio: Aio, kind: type[Client]) -> None:
    fields = listener("server-output", heartbeat={"ping-interval": "50ms", "timeout": "20s"})
    async with trio_wsout.open_output(fields) as output, trio.open_nursery() as nursery:
        async with client(aio, kind, url_of(output), pinging=True) as peer:
            events: list[str | bytes] = []

            async def take() -> None:
                events.extend(await aio(peer.take(1)))
                nursery.cancel_scope.cancel()

            nursery.start_soon(take)
            await trio.sleep(1)
            assert (output.statistics().peers, output.statistics().heartbeat_misses) == (1, 0)
            await output.send("still there")
            await until(lambda: events)
    assert events == ["still there"]


# -- mode server-input ----------------------------------------------------------------------------------


@each_client
async def test_what_a_client_sends_arrives_with_who_sent_it(aio: Aio, kind: type[Client]) -> None:
    fields = listener("server-input", subprotocols=["v2", "v1"])
    async with trio_wsout.open_output(fields) as output:
        url = f"{url_of(output)}in/h%C3%A4re?x=1"
        headers = {"X-Device": "7"}
        async with client(aio, kind, url, subprotocols=["v0", "v1", "v2"], headers=headers) as peer:
            address = peer.address
            assert peer.subprotocol == "v2"
            await aio(peer.send("tëxt", b"\x00\xff", "", *(str(n) for n in range(500))))
            got = [await output.received.receive() for _ in range(503)]
        assert [each.event for each in got] == ["tëxt", b"\x00\xff", "", *(str(n) for n in range(500))]
        who = got[0].peer
        assert all(each.peer == who for each in got)
        assert (who.address, who.path, who.subprotocol) == (address, "/in/h%C3%A4re", "v2")
        assert who.headers["x-device"] == "7"


@each_client
@pytest.mark.parametrize(
    ("payload", "events"),
    [
        ("text", ["ä", b"\x00\xff"]),
        ("binary", ["ä", b"\x00\xff"]),
        ("binary-base64", ["ä", "AP8="]),
    ],
)
async def test_text_and_binary_of_a_client_by_payload(
    aio: Aio, kind: type[Client], payload: str, events: list[object]
) -> None:
    async with serving(aio, listener("server-input", payload=payload), kind) as (output, peer):
        await aio(peer.send("ä", b"\x00\xff"))
        assert [(await output.received.receive()).event for _ in range(2)] == events


@define
class Fragments:
    """Fragments of a message, for `websockets` to send, with a ping and its pong before each."""

    websocket: ClientConnection
    parts: Iterator[bytes]

    def __aiter__(self) -> Fragments:
        return self

    async def __anext__(self) -> bytes:
        await (await self.websocket.ping())
        try:
            return next(self.parts)
        except StopIteration:
            raise StopAsyncIteration from None


async def test_a_message_in_fragments_with_pings_between(aio: Aio) -> None:
    letters = "grüße 𝄞 ".encode() * 50

    async def send(peer: WebsocketsClient) -> None:
        websocket = peer.websocket
        await websocket.send(["one ", "", "message"])
        # Each byte a fragment of its own: characters are cut in the middle.
        await websocket.send([bytes((byte,)) for byte in letters], text=True)
        await websocket.send(Fragments(websocket, iter([b"\x00", b"\xff", b""])))
        await websocket.send([b"x" * (MIB // 4)] * 4)

    async with serving(aio, listener("server-input"), WebsocketsClient) as (output, peer):
        await aio(send(peer))
        got = [(await output.received.receive()).event for _ in range(4)]
    assert got == ["one message", letters.decode(), b"\x00\xff", b"x" * MIB]


@each_client
@pytest.mark.parametrize("excess", [1, 8 * MIB], ids=["by 1 byte", "by far"])
@pytest.mark.parametrize("letter", ["x", b"x"], ids=["text", "binary"])
async def test_a_client_may_send_1_mib_and_sees_1009_for_more(
    aio: Aio, kind: type[Client], excess: int, letter: str | bytes
) -> None:
    async with serving(aio, listener("server-input"), kind) as (output, other):
        async with client(aio, kind, url_of(output)) as large:
            await aio(large.send(letter * MIB))
            assert (await output.received.receive()).event == letter * MIB

            async def overdo() -> None:
                with suppress(ConnectionClosed, aiohttp.ClientError, ConnectionError):
                    await aio(large.send(letter * (MIB + excess)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(overdo)
                assert await aio(large.take_all()) == ([], 1009)
        await aio(other.send("not concerned"))
        assert (await output.received.receive()).event == "not concerned"


async def test_six_clients_at_once_keep_their_order(aio: Aio) -> None:
    async with trio_wsout.open_output(listener("server-input", payload="json")) as output:

        async def say(kind: type[Client], name: int) -> None:
            async with client(aio, kind, url_of(output)) as peer:
                await aio(peer.send(*(json.dumps({"from": name, "n": n}) for n in range(300))))

        async with trio.open_nursery() as nursery:
            for name, kind in enumerate(CLIENTS * 3):
                nursery.start_soon(say, kind, name)
            got = [(await output.received.receive()).event for _ in range(6 * 300)]
    for name in range(6):
        assert [each["n"] for each in got if each["from"] == name] == list(range(300))


# -- mode relay -----------------------------------------------------------------------------------------


def say(name: str, count: int) -> list[str]:
    return [json.dumps({"from": name, "n": n}) for n in range(count)]


def told(messages: Sequence[str | bytes], name: str) -> list[int]:
    parsed = [json.loads(message) for message in messages]
    return [each["n"] for each in parsed if each["from"] == name]


async def test_clients_talk_through_a_relay_and_never_get_their_own(aio: Aio) -> None:
    count = 300
    heard: dict[str, list[str | bytes]] = {}
    codes: list[int | None] = []

    async def take_part(name: str, kind: type[Client], url: str, others: Sequence[str]) -> None:
        async with client(aio, kind, url) as peer:
            await present.wait()
            async with trio.open_nursery() as talking:
                talking.start_soon(aio, peer.send(*say(name, count)))
                heard[name] = await aio(peer.take(count * len(others)))
            finished[name].set()
            more, code = await aio(peer.take_all())
            heard[name] += more
            codes.append(code)

    names = {"a": WebsocketsClient, "b": AiohttpClient, "c": WebsocketsClient, "d": AiohttpClient}
    finished = {name: trio.Event() for name in names}
    present = trio.Event()
    async with trio.open_nursery() as nursery:
        async with trio_wsout.open_output(listener("relay"), receive=True) as output:
            url = url_of(output)
            for name, kind in names.items():
                # Each hears the other three, and the application.
                others = [*(set(names) - {name}), "application"]
                nursery.start_soon(take_part, name, kind, url, others)
            await output.wait_peers(4)
            present.set()
            for message in say("application", count):
                await output.send(message)
                # What they say is for the application, too; who does not take it makes them wait.
            received = [(await output.received.receive()).event for _ in range(4 * count)]
            for event in finished.values():
                await event.wait()
    for name in names:
        assert told(heard[name], name) == []
        for other in {*names, "application"} - {name}:
            assert told(heard[name], other) == list(range(count))
        assert told(received, name) == list(range(count))
    assert told(received, "application") == []
    assert codes == [1001] * 4


@pytest.mark.parametrize(
    ("payload", "sent", "got"),
    [
        ("text", "ä", "ä"),
        (
            "json",
            '{"ä" : 1.0, "n":98765432109876543210987654321}',
            '{"ä" : 1.0, "n":98765432109876543210987654321}',
        ),
        ("binary", b"\x00\xff", b"\x00\xff"),
        ("binary-base64", b"\x00\xff", b"\x00\xff"),
        ("binary", b"x" * MIB, b"x" * MIB),
    ],
    ids=["text", "json", "binary", "binary-base64", "1 MiB"],
)
async def test_a_relay_passes_messages_on_as_they_came(
    aio: Aio, payload: str, sent: str | bytes, got: str | bytes
) -> None:
    async with serving(aio, listener("relay", payload=payload), *CLIENTS) as (_, one, two):
        for speaker, hearer in ((one, two), (two, one)):
            await aio(speaker.send(sent))
            assert await aio(hearer.take(1)) == [got]


@each_server
async def test_a_relay_with_an_upstream(aio: Aio, kind: type[Server]) -> None:
    count = 200
    async with server(aio, kind(), subprotocols=["v1"]) as upstream:
        fields = listener(
            "relay", **link(upstream.url, subprotocols=["v1"], headers={"Authorization": "Bearer token"})
        )
        async with serving(aio, fields, *CLIENTS, receive=True) as (output, one, two):
            (session,) = upstream.sessions
            async with trio.open_nursery() as nursery:
                nursery.start_soon(aio, one.send(*say("one", count)))
                nursery.start_soon(aio, two.send(*say("two", count)))
                nursery.start_soon(aio, upstream.send(*say("upstream", count)))
                received = [(await output.received.receive()).event for _ in range(3 * count)]
            for message in say("application", count):
                await output.send(message)
            by_one = await aio(one.take(3 * count))
            by_two = await aio(two.take(3 * count))
            await until(lambda: len(session.messages) >= 3 * count)
        await until(lambda: session.ended)
    everybody = {"one", "two", "upstream", "application"}
    for own, heard in (
        ("one", by_one),
        ("two", by_two),
        ("upstream", session.messages),
        ("application", received),
    ):
        assert told(heard, own) == []
        for other in everybody - {own}:
            assert told(heard, other) == list(range(count))
    assert session.close_code == 1000
    assert session.headers["Authorization"] == "Bearer token"


# -- a page in Chromium ---------------------------------------------------------------------------------

PAGE = """<!doctype html>
<title>A peer</title>
<script>
class Peer {
  constructor(url, protocols = []) {
    this.messages = [];
    this.socket = new WebSocket(url, protocols);
    this.socket.binaryType = 'arraybuffer';
    this.wake = () => {};
    this.closed = new Promise((resolve) => {
      this.socket.onclose = ({code, wasClean}) => { resolve({code, wasClean}); this.over = true; this.wake(); };
    });
    this.opened = new Promise((resolve) => {
      this.socket.onopen = () => resolve(true);
      this.closed.then(() => resolve(false));
    });
    this.socket.onmessage = ({data}) => {
      this.messages.push(typeof data === 'string' ? data : {bytes: [...new Uint8Array(data)]});
      this.wake();
    };
  }
  async take(count) {  // fewer, if it ends before
    while (this.messages.length < count && !this.over) await new Promise((resolve) => { this.wake = resolve; });
    return this.messages.splice(0, count);
  }
}
const peers = {};
const AsyncFunction = (async () => {}).constructor;
(async () => {
  for (;;) {
    const {number, script, values} = await (await fetch('/next', {method: 'POST'})).json();
    const run = async () => new AsyncFunction(...Object.keys(values), script)(...Object.values(values));
    run().then((value) => ({value}), (error) => ({error: String(error)})).then((answer) =>
      fetch('/answer/' + number, {method: 'POST', body: JSON.stringify(answer)}));
  }
})();
</script>
"""


class Page:
    """A page that runs scripts, and the server that it comes from."""

    def __init__(self) -> None:
        self.loaded = threading.Event()
        self._scripts: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._answers: dict[str, Future[Any]] = {}
        self._numbers = itertools.count()
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200 if self.path == "/" else 404, "text/html", PAGE.encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                if self.path == "/next":
                    page.loaded.set()
                    self._answer(200, "application/json", page._scripts.get())
                else:
                    page._answers.pop(self.path.rpartition("/")[2]).set_result(json.loads(body))
                    self._answer(204, "text/plain", b"")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                with suppress(ConnectionError):
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    async def run(self, script: str, **values: Any) -> Any:
        """Run the body of an async function in the page, with `values` as variables; gives what it returns."""
        number = str(next(self._numbers))
        answer = self._answers[number] = Future()
        message = {"number": number, "script": script, "values": values}
        self._scripts.put(json.dumps(message).encode())
        result = await result_of(answer)
        assert "error" not in result, result
        return result.get("value")

    def close(self) -> None:
        self._scripts.put(b"null")
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page, in one Chromium for all tests."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome in PATH: apt install chromium")
    folder = tmp_path_factory.mktemp("chromium")
    log = folder / "log"
    made = Page()
    options = [
        "--headless",
        "--no-sandbox",  # for containers, and nothing but the page above is opened
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-proxy-server",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={folder / 'profile'}",
    ]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [CHROMIUM, *options, made.origin],
            stdout=errors,
            stderr=errors,
            env={**os.environ, "HOME": str(folder)},
            start_new_session=True,
        )
    try:
        if not made.loaded.wait(PATIENCE):
            pytest.fail(
                f"{CHROMIUM} did not open the page; it said:\n{log.read_text(errors='replace')[-3000:]}"
            )
        yield made
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        made.close()


@pytest.fixture
async def page(browser: Page) -> AsyncGenerator[Page, None]:
    """The page; no test may hang."""
    with trio.fail_after(PATIENCE):
        yield browser


OPEN = """
    peers[name] = new Peer(url, protocols);
    return await peers[name].opened && peers[name].socket.protocol;
"""
TAKE = "return await peers[name].take(count);"
CLOSE = "peers[name].socket.close(); return await peers[name].closed;"


async def test_a_page_gets_stamped_events_in_order_and_close_1001(page: Page) -> None:
    count = 2000
    async with trio.open_nursery() as nursery:
        fields = listener("server-output", delivery={"stamp": "seq"}, subprotocols=["v1"])
        async with trio_wsout.open_output(fields) as output:
            assert await page.run(OPEN, name="a", url=url_of(output), protocols=["v0", "v1"]) == "v1"
            await send_numbers(output, count)
            got = [json.loads(each) for each in await page.run(TAKE, name="a", count=count)]
            await output.flush()
            assert output.statistics().confirmed == count
            await output.send({"n": count, "pad": "ä" * 400_000})

            async def see_the_end() -> None:
                (last,) = await page.run(TAKE, name="a", count=1)
                assert (numbers([last]), len(json.loads(last)["pad"])) == ([count], 400_000)
                assert await page.run("return await peers.a.closed") == {"code": 1001, "wasClean": True}

            nursery.start_soon(see_the_end)
    assert [each["n"] for each in got] == list(range(count))
    epochs, seqs = zip(*(each["seq"].split("-") for each in got), strict=True)
    assert list(map(int, seqs)) == list(range(1, count + 1))
    assert len(set(epochs)) == 1


async def test_a_page_gets_binary_events(page: Page) -> None:
    async with trio_wsout.open_output(listener("server-output", payload="binary")) as output:
        await page.run(OPEN, name="a", url=url_of(output), protocols=[])
        await output.send(b"\x00\xff")
        await output.send("ä")
        assert await page.run(TAKE, name="a", count=2) == [{"bytes": [0, 255]}, {"bytes": [0xC3, 0xA4]}]
        await page.run(CLOSE, name="a")


async def test_a_page_of_an_allowed_origin_comes_in_and_another_gets_403(aio: Aio, page: Page) -> None:
    fields = listener("server-output", server={"allowed-origins": [page.origin]})
    async with trio_wsout.open_output(fields) as output:
        assert await page.run(OPEN, name="a", url=url_of(output), protocols=[]) == ""
        await output.send("admitted")
        assert await page.run(TAKE, name="a", count=1) == ["admitted"]
        await page.run(CLOSE, name="a")
    fields["server"]["allowed-origins"] = ["http://127.0.0.1:1", page.origin.replace("http", "https")]
    async with trio_wsout.open_output(fields) as output:
        url = url_of(output)
        assert await page.run(OPEN, name="a", url=url, protocols=[]) is False
        assert await page.run("return await peers.a.closed") == {"code": 1006, "wasClean": False}
        assert (output.statistics().listener.admitted, output.statistics().listener.refused) == (0, 1)
        # A page is not told the status. Who says that it is of the page's origin is.
        with pytest.raises(Refused, match="403"):
            await aio(WebsocketsClient.open(url, origin=page.origin))


async def test_a_page_resumes_with_nothing_lost_or_twice(page: Page) -> None:
    rounds, events = 6, 600
    got: list[dict[str, Any]] = []
    async with trio_wsout.open_output(listener("server-output", **RESUMABLE)) as output:
        async with trio.open_nursery() as nursery:
            url = url_of(output)
            for number in range(rounds):
                await page.run(OPEN, name="a", url=url, protocols=[])
                if number == 0:
                    nursery.start_soon(send_slowly, output, events)
                taken = await page.run(TAKE, name="a", count=events // rounds)
                got += [json.loads(message) for message in taken]
                await page.run(CLOSE, name="a")
                # What the page had got, but not taken, by then is given again.
                url = f"{url_of(output)}?cursor={got[-1]['seq']}"
                await trio.sleep(0.02)
    assert [each["n"] for each in got] == list(range(events))
    assert [int(each["seq"].partition("-")[2]) for each in got] == list(range(1, events + 1))


async def test_a_page_that_comes_too_late_is_told_of_the_gap(page: Page) -> None:
    fields = listener("server-output", **{**RESUMABLE, "history": {"store": "memory:", "max-events": 10}})
    async with trio_wsout.open_output(fields) as output:
        await page.run(OPEN, name="a", url=url_of(output), protocols=[])
        await send_numbers(output, 5)
        first, *_ = await page.run(TAKE, name="a", count=5)
        await page.run(CLOSE, name="a")
        await send_numbers(output, 5, 50)
        await output.flush()
        cursor = json.loads(first)["seq"]
        await page.run(OPEN, name="a", url=f"{url_of(output)}?cursor={cursor}", protocols=[])
        notice, *rest = [json.loads(each) for each in await page.run(TAKE, name="a", count=11)]
        assert notice == {"gap": {"asked": cursor, "first": rest[0]["seq"]}}
        assert [each["n"] for each in rest] == list(range(40, 50))
        await page.run(CLOSE, name="a")


FEED = """
import json, sys, trio, trio_wsout
async def main():
    async with trio_wsout.open_output(json.loads(sys.argv[1])) as output:
        print("listening", flush=True)
        for n in range(int(sys.argv[2])):
            await output.send({"run": sys.argv[3], "n": n})
            await trio.sleep(0.001)
        await output.flush()
        print("sent", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""

FOLLOW = """
    const seen = [];
    while (!seen.some(({run, n}) => run === 'third' && n === 199)) {
      const last = seen.length ? '?cursor=' + encodeURIComponent(seen.at(-1).seq) : '';
      const peer = new Peer(url + last);
      peer.socket.addEventListener('message', ({data}) => {
        seen.push(JSON.parse(data));
        peers.count = seen.length;
        if (seen.at(-1).run === 'third' && seen.at(-1).n === 199) peer.socket.close();
      });
      await peer.closed;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return seen;
"""


async def test_a_page_loses_nothing_when_our_process_is_killed(page: Page, tmp_path: Path) -> None:
    """Killed twice while it sends: the history on disk keeps what the page has seen, and what it has not."""
    with trio.socket.socket() as probe:
        await probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fields = listener(
        "server-output",
        **{**RESUMABLE, "history": {"store": f"sqlite:{tmp_path / 'history'}"}},
        server={"bind": f"127.0.0.1:{port}"},
    )

    @asynccontextmanager
    async def feed(run: str, events: int) -> AsyncGenerator[None, None]:
        command = [sys.executable, "-c", FEED, json.dumps(fields), str(events), run]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            assert (await process.stdout.receive_some()).startswith(b"listening")
            yield
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await process.stdout.aclose()

    seen: list[dict[str, Any]] = []

    async def follow() -> None:
        seen.extend(await page.run(FOLLOW, url=f"ws://127.0.0.1:{port}/"))

    await page.run("peers.count = 0")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for run in ("first", "second"):
            before = await page.run("return peers.count")
            async with feed(run, 100_000):
                # Some of these may still be of the run before.
                while await page.run("return peers.count") < before + 400:
                    await trio.sleep(0.01)
        async with feed("third", 200):
            await until(lambda: seen)
    # The first connection had no cursor, and got what came from then on.
    first = int(seen[0]["seq"].partition("-")[2])
    assert [int(each["seq"].partition("-")[2]) for each in seen] == list(range(first, first + len(seen)))
    for run, start in (("first", seen[0]["n"]), ("second", 0), ("third", 0)):
        of_run = [each["n"] for each in seen if each["run"] == run]
        assert of_run == list(range(start, start + len(of_run)))
        assert len(of_run) >= 200
    assert len([each for each in seen if each["run"] == "third"]) == 200


async def test_what_a_page_sends_arrives_with_who_sent_it(page: Page) -> None:
    script = """
        const {socket} = peers.a;
        socket.send('tëxt 𝄞');
        socket.send('');
        socket.send(new Uint8Array([0, 255]));
        socket.send(new Blob([new Uint8Array([1, 2]), 'ä']));
        socket.send('x'.repeat(1 << 20));
        socket.send(new Uint8Array(1 << 20).fill(7));
        for (let n = 0; n < 500; n++) socket.send(String(n));
        socket.close(3333, 'done');
        return await peers.a.closed;
    """
    fields = listener("server-input", subprotocols=["v1"], server={"allowed-origins": [page.origin]})
    async with trio_wsout.open_output(fields) as output:
        url = f"{url_of(output)}in/here?x=1"
        assert await page.run(OPEN, name="a", url=url, protocols=["v1"]) == "v1"
        got = []

        async def take() -> None:
            got.extend([await output.received.receive() for _ in range(506)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            assert await page.run(script) == {"code": 3333, "wasClean": True}
    large = ["x" * MIB, b"\x07" * MIB]
    expected = ["tëxt 𝄞", "", b"\x00\xff", b"\x01\x02\xc3\xa4", *large, *map(str, range(500))]
    assert [each.event for each in got] == expected
    who = got[0].peer
    assert all(each.peer == who for each in got)
    assert (who.path, who.subprotocol, who.headers["origin"]) == ("/in/here", "v1", page.origin)
    assert who.address.startswith("127.0.0.1:")


async def test_a_page_that_sends_too_much_sees_1009(page: Page) -> None:
    async with trio_wsout.open_output(listener("server-input")) as output:
        for excess in (1, 8 * MIB):
            await page.run(OPEN, name="a", url=url_of(output), protocols=[])
            script = "peers.a.socket.send('x'.repeat(size)); return await peers.a.closed;"
            end = await page.run(script, size=MIB + excess)
            assert end["code"] == 1009, (end, excess)
        assert output.statistics().received == 0


async def test_two_sockets_of_a_page_and_a_client_talk_through_a_relay(aio: Aio, page: Page) -> None:
    count = 300
    script = "for (let n = 0; n < count; n++) peers[name].socket.send(JSON.stringify({from: name, n}));"
    async with trio_wsout.open_output(listener("relay")) as output:
        url = url_of(output)
        for name in ("a", "b"):
            await page.run(OPEN, name=name, url=url, protocols=[])
        async with client(aio, WebsocketsClient, url) as peer:
            await output.wait_peers(3)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(aio, peer.send(*say("client", count)))
                for name in ("a", "b"):
                    await page.run(script, name=name, count=count)
            for message in say("application", count):
                await output.send(message)
            heard = {name: await page.run(TAKE, name=name, count=3 * count) for name in ("a", "b")}
            heard["client"] = await aio(peer.take(3 * count))
        await trio.sleep(0.05)
        for name in ("a", "b"):
            await page.run(CLOSE, name=name)
            assert await page.run(TAKE, name=name, count=1) == []
    for own, messages in heard.items():
        assert told(messages, own) == []
        for other in {*heard, "application"} - {own}:
            assert told(messages, other) == list(range(count))
