"""Echo ends of this library's for the Autobahn cases, and a relay that sees how their connections end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from attrs import define, field, frozen
from trio_wsout._core.admission import Admission
from trio_wsout._tasks.wakeup import Wakeup
from trio_wsout._wire.accept import Acceptor
from trio_wsout._wire.connection import FAREWELL, Connection
from trio_wsout._wire.frames import BINARY, TEXT, plain_frame
from trio_wsout._wire.peer_log import PeerLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SCRIPT = Path(__file__).with_name("run_cases.py")
PATIENCE = 30.0
"""Seconds after which our end hangs that keeps a connection which the other end has given up."""
LIMITS = "9"
"""The section whose cases are large and have time limits: they run one by one."""
AT_ONCE = 3
"""Cases of the others that run side by side."""
BINARY_CASES = ("1.2.", "9.2.", "9.4.", "9.6.", "9.8.")
"""Those with binary messages. An output has one kind of message."""
LARGEST = "16MiB"


@frozen(kw_only=True)
class Result:
    """What kosoku says about a case."""

    case_id: str
    behavior: str
    behavior_close: str
    why: str
    close_code: int | None
    """Of the Close that our end sent; None: none, or one without a code."""


@define
class Report:
    """The cases of some sections, run against one of our ends."""

    offered: Sequence[str] = ()
    results: Sequence[Result] = ()
    lingering: dict[str, list[float]] = field(factory=dict)
    """By case: seconds that our end kept each connection after kosoku had closed; inf: longer than `PATIENCE`."""
    finished: bool = False

    def of_section(self, section: str) -> list[Result]:
        return [each for each in self.results if each.case_id.split(".")[0] == section]


class Relay:
    """Passes bytes between kosoku and our end. It hides from our end that kosoku has closed.

    kosoku closes as soon as it is content. So without this, it would never be found out that a client
    forgot to close, or that a server waits for the client to do so (RFC 6455 section 7.1.1).
    """

    def __init__(self, lingering: dict[str, list[float]], *, ours_connects: bool) -> None:
        self.port = 0
        self._lingering = lingering
        self._ours_connects = ours_connects
        self._ended = trio.Event()

    async def open(self, nursery: trio.Nursery, port: int) -> None:
        """Accept on a free port, and connect to `port` for each."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, partial(self._serve, port), listeners)

    async def wait_ended(self, case: str) -> None:
        while case not in self._lingering:
            await self._ended.wait()

    async def _serve(self, port: int, near: trio.SocketStream) -> None:
        async with near, await trio.open_tcp_stream("127.0.0.1", port) as far:
            request = b""
            while b"\r\n" not in request:
                request += await near.receive_some()
            await far.send_all(request)
            ours, kosoku = (near, far) if self._ours_connects else (far, near)
            lingered = await _pass_all(ours, kosoku)
        case = request.split(b" ")[1].rpartition(b"case=")[2].decode()
        self._lingering.setdefault(case, []).append(lingered)
        self._ended.set()
        self._ended = trio.Event()


async def _pass_all(ours: trio.SocketStream, kosoku: trio.SocketStream) -> float:
    """Pass bytes both ways until our end has closed, or its time is up; gives how long it lingered."""
    kosoku_gone_at = lingered = inf

    async def from_kosoku() -> None:
        nonlocal kosoku_gone_at
        await _pass(kosoku, ours)
        kosoku_gone_at = trio.current_time()
        nursery.cancel_scope.deadline = kosoku_gone_at + PATIENCE

    async with trio.open_nursery() as nursery:
        nursery.start_soon(from_kosoku)
        await _pass(ours, kosoku)
        lingered = max(0.0, trio.current_time() - kosoku_gone_at)
        nursery.cancel_scope.cancel()
    return lingered


async def _pass(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    """Pass everything on until the source has closed, whether or not it is taken."""
    taken = True
    while True:
        try:
            chunk = await source.receive_some()
        except trio.BrokenResourceError:
            return
        if not chunk:
            return
        if taken:
            try:
                await sink.send_all(chunk)
            except trio.BrokenResourceError:
                taken = False


# -- our ends -----------------------------------------------------------------------------------------------


class EchoServer:
    """Sends back what comes, over the connections that the server modes have."""

    def __init__(self) -> None:
        self.port = 0
        document = {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}, "max-message-size": LARGEST}
        config = trio_wsout.load_config(document)
        self._acceptor = Acceptor(
            admission=Admission(config.server),
            max_connections=None,
            heartbeat=None,
            max_message_size=config.max_message_size,
            peer_log=PeerLog(),
        )

    async def open(self, nursery: trio.Nursery) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, self._serve, listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        guest = await self._acceptor.receive(stream, "kosoku")
        assert guest is not None
        connection = await self._acceptor.answer(guest, [])
        assert connection is not None
        await self._talk(connection)

    async def _talk(self, connection: Connection) -> None:
        frames: deque[bytes] = deque()
        wakeup = Wakeup()
        connection.on_queued = wakeup.notify
        async with connection, trio.open_nursery() as reading:
            reading.start_soon(self._read, connection, frames, wakeup)
            with trio.CancelScope() as writing:

                def ended() -> None:
                    writing.deadline = trio.current_time() + (FAREWELL if connection.peer_may_read else 0)
                    wakeup.notify()

                connection.on_end(ended)
                await self._write(connection, frames, wakeup)
            connection.on_end(None)
            await connection.farewell()
            await connection.cut()
            reading.cancel_scope.cancel()

    async def _read(self, connection: Connection, frames: deque[bytes], wakeup: Wakeup) -> None:
        while True:
            try:
                messages = await connection.receive_many()
            except trio.EndOfChannel:
                return
            for message in messages:
                if isinstance(message, str):
                    frames.append(plain_frame(message.encode(), TEXT))
                else:
                    frames.append(plain_frame(message, BINARY))
            wakeup.notify()

    async def _write(self, connection: Connection, frames: deque[bytes], wakeup: Wakeup) -> None:
        while connection.disconnection is None:
            if not (frames or connection.has_queued):
                await wakeup.wait()
                continue
            blob = b"".join(frames)
            frames.clear()
            try:
                await connection.write(blob)
            except trio.BrokenResourceError:
                return


async def echo_as_client(relay: Relay, number: int, case_id: str) -> None:
    """Run a case with an output that sends back what it receives, until its socket is closed."""
    over = trio.Event()
    # What is on its way when a case ends is no trouble.
    undelivered, _ignored = trio.open_memory_channel[trio_wsout.Undelivered](inf)

    def look(change: trio_wsout.LinkChange) -> None:
        if change.state not in (trio_wsout.State.DIALLING, trio_wsout.State.OPEN):
            over.set()

    config = {
        "url": f"ws://127.0.0.1:{relay.port}/runCase?case={number}",
        "payload": "binary" if case_id.startswith(BINARY_CASES) else "text",
        "connect": {"mode": "eager", "timeout": "30s", "proxy": "none"},
        "reconnect": {"initial-backoff": "1h", "max-backoff": "1h", "jitter": 0, "give-up-on": []},
        "delivery": {"level": "written"},  # the others send pings
        "max-message-size": LARGEST,
    }
    hooks = {"receive": True, "on_state": look, "undelivered": undelivered}
    with trio.CancelScope() as scope:
        async with trio_wsout.open_output(config, **hooks) as output, trio.open_nursery() as nursery:
            nursery.start_soon(_echo, output)
            await over.wait()
            # Still inside: leaving the block would close what was forgotten.
            await relay.wait_ended(str(number))
            scope.cancel()


async def _echo(output: trio_wsout.Output) -> None:
    async for message in output.received:
        await output.send(message.event)


# -- one end and kosoku -------------------------------------------------------------------------------------


class Kosoku:
    """The script, while it runs."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        self._stdout = process.stdout
        self._stdin = process.stdin
        self._buffer = b""

    async def hear(self) -> Any:
        """The next document that it writes."""
        while b"\n" not in self._buffer:
            chunk = await self._stdout.receive_some()
            assert chunk, "kosoku ended early"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    async def nudge(self) -> None:
        """Say that no more cases come."""
        await self._stdin.send_all(b"\n")


async def start(nursery: trio.Nursery, *arguments: object) -> Kosoku:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return Kosoku(await nursery.start(run))


async def run_against_server(sections: Sequence[str], at_once: int, report: Report) -> None:
    server, relay = EchoServer(), Relay(report.lingering, ours_connects=False)
    async with trio.open_nursery() as nursery:
        await server.open(nursery)
        await relay.open(nursery, server.port)
        async with trio.open_nursery() as running:
            kosoku = await start(running, "server", f"ws://127.0.0.1:{relay.port}", at_once, *sections)
            report.offered = (await kosoku.hear())["cases"]
            report.results = [Result(**each) for each in await kosoku.hear()]
        for case_id in report.offered:
            await relay.wait_ended(case_id)
        nursery.cancel_scope.cancel()


async def run_against_client(sections: Sequence[str], at_once: int, report: Report) -> None:
    by_number: dict[str, list[float]] = {}
    relay = Relay(by_number, ours_connects=True)
    limiter = trio.CapacityLimiter(at_once)

    async def run_case(number: int, case_id: str) -> None:
        async with limiter:
            await echo_as_client(relay, number, case_id)
        report.lingering[case_id] = by_number[str(number)]

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as running:
            kosoku = await start(running, "client", *sections)
            said = await kosoku.hear()
            report.offered = said["cases"]
            await relay.open(nursery, said["port"])
            async with trio.open_nursery() as clients:
                for number, case_id in enumerate(report.offered, 1):
                    clients.start_soon(run_case, number, case_id)
            await kosoku.nudge()
            report.results = [Result(**each) for each in await kosoku.hear()]
        nursery.cancel_scope.cancel()


RUNS = {"server": run_against_server, "client": run_against_client}


@pytest.fixture(scope="session")
def autobahn() -> Callable[..., Report]:
    """Gives the report of some sections, run against our ``server`` or ``client``; each run is made once."""

    @cache
    def run(role: str, sections: tuple[str, ...]) -> Report:
        report = Report()
        limits = LIMITS in sections

        async def bounded() -> None:
            with trio.move_on_after(1800 if limits else 600):
                await RUNS[role](sections, 1 if limits else AT_ONCE, report)
                report.finished = True

        trio.run(bounded)
        return report

    return run
