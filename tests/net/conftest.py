"""Real peers on 127.0.0.1: servers in processes of their own, servers that misbehave, certificates."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator

# What several test modules share lies beside them: pytest's importlib mode puts no folder on the path.
sys.path.insert(0, str(Path(__file__).parents[1] / "stores"))
sys.path.insert(0, str(Path(__file__).parent))
import valkey_server
from layers import Layer, secured

SERVER = """
import asyncio, json, sys
from websockets.asyncio.server import serve
async def take(websocket):
    async for message in websocket:
        print(message, file=out, flush=True)
        if '"seq"' in message:
            await websocket.send(json.dumps({"ack": json.loads(message)["seq"]}))
async def main():
    async with serve(take, "127.0.0.1", int(sys.argv[1]), compression=None):
        print("ready", flush=True)
        await asyncio.Future()
out = open(sys.argv[2], "a")
asyncio.run(main())
"""


class Receiver:
    """A `websockets` server in a process of its own: writes what it reads to a file, acknowledges stamped events."""

    def __init__(self, folder: Path, name: str = "received") -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/"
        self._file = folder / name
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SERVER), str(self.port), str(self._file)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    @property
    def messages(self) -> list[str]:
        if not self._file.exists():
            return []
        lines = self._file.read_text().split("\n")
        return lines[:-1]  # the last was torn by a kill, or is empty

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.messages]


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[tuple[Receiver, Receiver]]:
    """Two of them, to fail over from one to the other."""
    both = Receiver(tmp_path, "a"), Receiver(tmp_path, "b")
    try:
        for each in both:
            each.start()
        yield both
    finally:
        for each in both:
            each.stop()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(ca: trustme.CA, tmp_path: Path) -> Layer:
    return secured(ca, tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _end_of_the_server() -> Iterator[None]:
    """The server that tests share ends with them."""
    yield
    valkey_server.stop_server()
