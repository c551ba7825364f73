"""Names over real sockets: who is told which form of a name, and which certificate is for it."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
import trustme

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@pytest.fixture(autouse=True)
async def bounded() -> AsyncGenerator[None, None]:
    """No test here may hang."""
    with trio.fail_after(300):
        yield


class Hosts(trio.abc.HostnameResolver):
    """Finds every name on this machine, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


class Server:
    """Keeps the name of each TLS handshake, and the Host of each request."""

    def __init__(self) -> None:
        self.names: list[str | None] = []
        self.hosts: list[bytes] = []
        self.port = 0

    @asynccontextmanager
    async def serving(self, ca: trustme.CA, name: str) -> AsyncGenerator[None, None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(name).configure_cert(context)
        context.sni_callback = lambda _socket, given, _context: self.names.append(given)

        async def refuse(stream: trio.SSLStream[trio.SocketStream]) -> None:
            with suppress(trio.BrokenResourceError):
                head = await stream.receive_some(10_000)
                self.hosts += re.findall(rb"^Host: (.*)\r$", head, re.MULTILINE)
                await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            await stream.aclose()

        listeners = await trio.open_ssl_over_tcp_listeners(
            0, context, host="127.0.0.1", https_compatible=True
        )
        self.port = listeners[0].transport_listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, refuse, listeners)
            yield
            nursery.cancel_scope.cancel()


async def asked(server: Server, ca: trustme.CA, host: str) -> str:
    """Ask for a link to a host; give what came of it."""
    config = {
        "url": f"wss://{host}:{server.port}/",
        "connect": {"mode": "eager", "proxy": "none"},
        "tls": {"ca-certificate": ca.cert_pem.bytes().decode()},
    }
    with pytest.raises(trio_wsout.ConnectError) as caught:
        async with trio_wsout.open_output(config):
            pytest.fail("it must not open")
    return str(caught.value.cause)


@pytest.mark.parametrize(
    ("written", "certified", "resolved"),
    [
        ("feed.example.com.", "feed.example.com", "feed.example.com."),
        ("Feed.Example.com", "feed.example.com", "feed.example.com"),
        ("straße.example", "xn--strae-oqa.example", "xn--strae-oqa.example"),
        ("💩.feed.example", "*.feed.example", "xn--ls8h.feed.example"),
    ],
)
async def test_each_is_told_its_form_of_a_name(written: str, certified: str, resolved: str) -> None:
    ca, hosts, server = trustme.CA(), Hosts(), Server()
    trio.socket.set_custom_hostname_resolver(hosts)
    async with server.serving(ca, certified):
        assert "403" in await asked(server, ca, written)
    assert hosts.asked == [resolved.encode()]
    assert server.names == [resolved.removesuffix(".")]
    assert server.hosts == [f"{resolved}:{server.port}".encode()]


async def test_the_certificate_of_a_name_that_older_rules_made_of_it_is_refused() -> None:
    ca, hosts, server = trustme.CA(), Hosts(), Server()
    trio.socket.set_custom_hostname_resolver(hosts)
    async with server.serving(ca, "strasse.example"):
        assert "certificate of xn--strae-oqa.example is not accepted" in await asked(
            server, ca, "straße.example"
        )
    assert b"".join(server.hosts) == b""
