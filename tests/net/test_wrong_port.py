"""TLS where there is none, none where it is, and whom a link trusts: told in words that say what to do."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
import trustme

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    Serve = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncGenerator[int, None]:
    async def guarded(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await serve(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, guarded, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def cause_at(url: str, **fields: Any) -> str:
    """Why an attempt fails there."""
    config = {
        "url": url,
        "connect": {"mode": "eager", "timeout": "5s", "proxy": "none"},
        "reconnect": {"max-attempts": 1},
        **fields,
    }
    with pytest.raises(trio_wsout.ConnectError) as caught:
        async with trio_wsout.open_output(config):
            pytest.fail("it must not open")
    return caught.value.cause


async def http(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def ssh(stream: trio.SocketStream) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")
    await stream.receive_some()


async def hangs_up(stream: trio.SocketStream) -> None:
    await stream.receive_some()


@pytest.mark.parametrize(
    ("peer", "words"), [(http, "does not speak TLS"), (ssh, "does not speak TLS"), (hangs_up, "")]
)
async def test_tls_to_a_plain_port_names_ws(peer: Serve, words: str) -> None:
    async with listening(peer) as port:
        cause = await cause_at(f"wss://127.0.0.1:{port}/")
    assert words in cause
    assert "write ws:// in url" in cause


async def test_tls_to_a_plain_listener_of_ours_names_ws() -> None:
    config = {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}}
    async with trio_wsout.open_output(config) as output:
        cause = await cause_at(f"wss://{output.statistics().addresses[0]}/")
    assert "does not speak TLS" in cause
    assert "write ws:// in url" in cause


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def server_context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def alerts(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"\x15\x03\x01\x00\x02\x02\x46")


async def like_nginx(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    body = b"<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n"
    await stream.send_all(
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )


async def like_go(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    )


@pytest.mark.parametrize("peer", [alerts, like_nginx, like_go, hangs_up])
async def test_no_tls_to_a_port_with_tls_names_wss(peer: Serve) -> None:
    async with listening(peer) as port:
        assert "write wss:// in url" in await cause_at(f"ws://127.0.0.1:{port}/")


async def test_no_tls_to_pythons_tls_names_wss(ca: trustme.CA) -> None:
    async def shake_hands(stream: trio.SocketStream) -> None:
        await trio.SSLStream(stream, server_context(ca), server_side=True).do_handshake()

    async with listening(shake_hands) as port:
        assert "write wss:// in url" in await cause_at(f"ws://127.0.0.1:{port}/")


# -- whom a link trusts ---------------------------------------------------------------------------------


async def test_an_intermediate_ca_alone_is_trusted(ca: trustme.CA) -> None:
    """And what another CA below the same root has signed is not."""
    trusted, other = ca.create_child_ca(), ca.create_child_ca()
    tls = {"ca-certificate": trusted.cert_pem.bytes().decode()}

    async def shake_hands(issuer: trustme.CA, stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, server_context(issuer), server_side=True, https_compatible=True)
        await secured.receive_some()
        await secured.send_all(b"HTTP/1.1 418 x\r\nContent-Length: 0\r\n\r\n")

    async with listening(partial(shake_hands, trusted)) as port:
        assert "418" in await cause_at(f"wss://127.0.0.1:{port}/", tls=tls)
    async with listening(partial(shake_hands, other)) as port:
        assert "certificate" in await cause_at(f"wss://127.0.0.1:{port}/", tls=tls)


async def test_what_is_not_checked_is_warned_of_only_where_there_is_tls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening(http) as port:
        assert "400" in await cause_at(f"ws://127.0.0.1:{port}/", tls={"insecure-skip-verify": True})
    assert "insecure-skip-verify" not in caplog.text
