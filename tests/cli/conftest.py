"""Real peers and real processes for the tests of the command."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.sync.server import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 300
"""Seconds after which something hangs, on the slowest of machines."""
COMMAND = [sys.executable, "-m", "trio_wsout"]


class Peer:
    """A WebSocket server in a thread that keeps what it reads, and says what it is told to."""

    def __init__(self) -> None:
        self._messages: list[str] = []
        self._changed = threading.Condition()
        self._open = 0
        self.greeting: list[str] = []
        self.cursors: list[str | None] = []
        """The header ``Last-Event-ID`` of each handshake."""
        self._server = serve(self._take, "127.0.0.1", 0, compression=None)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def messages(self) -> list[str]:
        """What came, once every connection is over and all of it was read."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._open == 0, PATIENCE)
        return self._messages

    def wait_for(self, count: int) -> None:
        """Wait until so many messages have come, on connections that may still be open."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._messages) >= count, PATIENCE)

    def say(self, text: str) -> None:
        """Say something on the latest connection."""
        self._latest.send(text)

    def _take(self, websocket: Any) -> None:
        self._latest = websocket
        self.cursors.append(websocket.request.headers.get("Last-Event-ID"))
        self._count(1)
        try:
            for text in self.greeting:
                websocket.send(text)
            for message in websocket:
                with self._changed:
                    self._messages.append(message)
                    self._changed.notify_all()
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            self._open += change
            self._changed.notify_all()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()


class Running:
    """The command `run` on its way, with pipes to it."""

    def __init__(self, arguments: tuple[str, ...], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "run", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr

    def send(self, *lines: str) -> None:
        self.stdin.write("".join(f"{line}\n" for line in lines))
        self.stdin.flush()

    def wait_taken(self) -> None:
        """Wait until it has read all that was sent."""
        held, give_up = b"\1\0\0\0", time.monotonic() + 20
        while any(held):
            assert time.monotonic() < give_up
            time.sleep(0.02)
            held = fcntl.ioctl(self.stdin, termios.FIONREAD, held)

    def wait_for(self, words: str) -> str:
        """The line of standard error that has these words, once it is there."""
        for line in self.stderr:
            if words in line:
                return line
        pytest.fail(f"{words!r} never came")

    def interrupt(self, how: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(how)

    def end(self, timeout: float = PATIENCE) -> tuple[int, str]:
        """Its exit code, and what else it said."""
        return self.process.wait(timeout), self.stderr.read()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.stop()


@pytest.fixture
def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"ws://127.0.0.1:{probe.getsockname()[1]}/"


@pytest.fixture
def silent() -> Iterator[str]:
    """A host that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment in which the command is found whether it is installed or not, with a state of its own."""
    # Under --import-mode=importlib the package comes from where it lies or is installed; the same goes here.
    import trio_wsout

    root = str(Path(trio_wsout.__file__).parents[1])
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    kept["XDG_STATE_HOME"] = str(tmp_path / "state")
    return {**kept, "NO_COLOR": "", "COLUMNS": "200", "PYTHONPATH": path}


@pytest.fixture
def command(env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, text: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            **{"input": text, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            text=True, timeout=PATIENCE, env=env, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def start_with(env: dict[str, str]) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def run(*arguments: str) -> Running:
        made.append(Running(arguments, env))
        return made[-1]

    yield run
    for each in made:
        each.process.kill()
        each.process.wait()
        for pipe in (each.stdin, each.stdout, each.stderr):
            with suppress(OSError):
                pipe.close()


@pytest.fixture
def start(start_with: Callable[..., Running]) -> Callable[..., Running]:
    """Start it towards a peer."""

    def run(url: str, *options: str) -> Running:
        return start_with("--set", f"url={url}", "--set", "reconnect.max-backoff=500ms", *options)

    return run


@pytest.fixture
def listen(start_with: Callable[..., Running]) -> Callable[..., tuple[Running, str]]:
    """Start it in a mode with a listener; gives it and where it listens."""

    def run(mode: str, *options: str) -> tuple[Running, str]:
        running = start_with("--set", f"mode={mode}", "--set", "server.bind=127.0.0.1:0", *options)
        return running, f"ws://{running.wait_for('listening at').split()[-1]}/"

    return run
