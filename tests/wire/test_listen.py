"""A listener takes every address of a name that this machine has, and needs one."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio_wsout._wire.listen import is_local, listening_at, open_listeners
from trio_wsout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

ELSEWHERE = ["192.0.2.1", "2001:db8::1"]
"""Addresses for documentation (RFC 5737, RFC 3849), which no machine has."""


class Hosts(trio.abc.HostnameResolver):
    """Knows one name; as /etc/hosts does, it says nothing of what the machine has."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if host != b"many.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in self.addresses
        ]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


async def opened(bind: str, *addresses: str, **options: bool) -> Sequence[str]:
    """Where a listener listens whose name has these addresses."""
    trio.socket.set_custom_hostname_resolver(Hosts(*addresses))
    listeners = await open_listeners(bind, **options)
    found = listening_at(listeners)
    for each in listeners:
        await each.aclose()
    return found


def hosts(addresses: Sequence[str]) -> list[str]:
    return [each.rpartition(":")[0] for each in addresses]


@pytest.mark.parametrize("bind", ["many.test:0", "Many.Test:0"])
async def test_addresses_of_a_name_that_the_machine_has_not_are_left_out(bind: str) -> None:
    assert hosts(await opened(bind, ELSEWHERE[1], "127.0.0.1", ELSEWHERE[0])) == ["127.0.0.1"]


async def test_a_name_is_listened_at_wherever_it_is_and_once_at_each() -> None:
    found = await opened("many.test:0", "127.0.0.1", "127.0.0.2", "127.0.0.1")
    assert hosts(found) == ["127.0.0.1", "127.0.0.2"]
    assert len({each.rpartition(":")[2] for each in found}) == 1, "one port"


@pytest.mark.parametrize("addresses", [ELSEWHERE[:1], ELSEWHERE])
async def test_a_name_that_is_nowhere_here_is_an_error(addresses: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        await opened("many.test:0", *addresses)
    (problem,) = caught.value.problems
    assert problem.path == "server.bind"
    assert problem.reason.startswith("many.test:0: ")


async def test_a_name_that_nobody_knows_is_an_error_with_advice() -> None:
    with pytest.raises(ConfigError) as caught:
        await opened("other.test:0")
    assert str(caught.value.problems[0].reason) == (
        "other.test:0: Name or service not known; choose a name that can be resolved, or an address of this machine"
    )


async def test_an_address_that_is_taken_is_an_error_and_the_others_are_given_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match="end the program that uses it"):
            await opened(f"many.test:{port}", "127.0.0.2", "127.0.0.1")
        with socket.socket() as again:
            again.bind(("127.0.0.2", port))


async def test_a_machine_without_ipv6_listens_at_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    """/etc/hosts names ::1 there, too."""
    real = trio.open_tcp_listeners

    async def without_ipv6(port: int, *, host: str) -> list[trio.SocketListener]:
        if ":" in host:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return await real(port, host=host)

    monkeypatch.setattr(trio, "open_tcp_listeners", without_ipv6)
    assert hosts(await opened("many.test:0", "::1", "127.0.0.1")) == ["127.0.0.1"]


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
async def test_listeners_that_reuse_a_port_share_its_connections(bind: str) -> None:
    try:
        first = await open_listeners(bind, reuse_port=True)
    except ConfigError:
        pytest.skip("this machine has no such address")
    port = listening_at(first)[0].rpartition(":")[2]
    second = await open_listeners(f"{bind.removesuffix('0')}{port}", reuse_port=True)
    assert listening_at(first) == listening_at(second)
    with pytest.raises(ConfigError, match="end the program that uses it"):
        await open_listeners(f"{bind.removesuffix('0')}{port}")
    accepted: list[trio.SocketListener] = []

    async def accept(listener: trio.SocketListener) -> None:
        while True:
            await trio.aclose_forcefully(await listener.accept())
            accepted.append(listener)
            if len(accepted) == 64:
                nursery.cancel_scope.cancel()

    with ExitStack() as clients:
        for _ in range(64):
            host = first[0].socket.getsockname()[0]
            clients.enter_context(socket.create_connection((host, int(port)), timeout=20))
        async with trio.open_nursery() as nursery:
            for each in (*first, *second):
                nursery.start_soon(accept, each)
    assert set(accepted) == {first[0], second[0]}, "the system spreads them"
    for each in (*first, *second):
        await each.aclose()


async def test_a_taken_port_is_named_alike_whether_it_may_be_shared_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        told = []
        for reuse_port in (False, True):
            with pytest.raises(ConfigError) as caught:
                await opened(f"127.0.0.1:{other.getsockname()[1]}", reuse_port=reuse_port)
            told.append(caught.value.problems)
    assert told[0] == told[1]


async def test_a_system_that_lets_nobody_share_a_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(ConfigError) as caught:
        await opened("127.0.0.1:0", reuse_port=True)
    (problem,) = caught.value.problems
    assert problem.path == "server.reuse-port"
    assert "no SO_REUSEPORT; leave it out" in problem.reason


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:80", True),
        ("127.8.9.1:80", True),
        ("[::1]:80", True),
        ("unix:/run/x", True),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("192.0.2.1:80", False),
        ("[fe80::1%lo]:80", False),
        (":80", False),
    ],
)
def test_where_only_this_machine_can_connect(address: str, local: bool) -> None:
    assert is_local(address) is local
