"""`trio-wsout run --processes`: several real processes serve at one port, and whichever of them dies, the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from trio_wsout.cli.processes import find_problems
from trio_wsout.config import load_config
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

# pytest's importlib mode puts no folder on the path.
sys.path.insert(0, str(Path(__file__).parents[1] / "stores"))
import valkey_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from websockets.sync.client import ClientConnection

    from conftest import Running

    Listen = Callable[..., tuple[Running, str]]

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "SO_REUSEPORT"), reason="this system lets one process listen at a port"
)
PATIENCE = 300
SERVER = {"bind": "127.0.0.1:0"}


def children(run: Running) -> list[int]:
    """The processes that it has started."""
    told = subprocess.run(
        ["pgrep", "-P", str(run.process.pid)], capture_output=True, text=True, check=False
    ).stdout
    return [int(line) for line in told.split()]


def wait_until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def listeners(url: str) -> int:
    """How many sockets listen at the port."""
    port = f":{int(url[5:-1].split(':')[1]):04X} "
    rows = Path("/proc/net/tcp").read_text().splitlines()
    return sum(port in row and row.split()[3] == "0A" for row in rows)


@pytest.fixture
def shared() -> Iterator[tuple[str, ...]]:
    """Options for two processes with a history that they share."""
    engine = valkey_server.Server()
    yield "--processes", "2", "--set", f"history.store=unix://{engine.socket}?stream=events"
    engine.close()


def rest_of(peer: ClientConnection) -> list[str | bytes]:
    """What comes until the connection is over."""
    messages: list[str | bytes] = []
    try:
        while True:
            messages.append(peer.recv(PATIENCE))
    except ConnectionClosed:
        return messages


@pytest.mark.parametrize(
    ("config", "path", "words"),
    [
        ({"url": "ws://x/"}, "mode", "one link is held by one process"),
        ({"mode": "server-input", "server": {"bind": "unix:/x"}}, "server.bind", "is a Unix socket"),
        ({"mode": "relay", "server": SERVER, "url": "ws://x/"}, "url", "which one process holds"),
        ({"mode": "server-output", "server": SERVER}, "history.store", "is not set: each process would have"),
        (
            {"mode": "server-output", "server": SERVER, "history": {"store": "memory:"}},
            "history.store",
            "is memory:: each process would have",
        ),
        (
            {"mode": "relay", "server": SERVER, "history": {"store": "sqlite:x"}},
            "history.store",
            "is sqlite:x: each process would have",
        ),
    ],
)
def test_what_several_processes_cannot_share_is_refused(config, path: str, words: str) -> None:
    found = {each.path: each.reason for each in find_problems(load_config(config))}
    assert words in found[path]


def test_a_system_that_lets_nobody_share_a_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    (problem,) = find_problems(load_config({"mode": "server-input", "server": SERVER}))
    assert (problem.path, "no SO_REUSEPORT" in problem.reason) == ("server.bind", True)


def test_all_that_is_wrong_is_told_in_one_go(command) -> None:
    run = command("run", "--processes", "2", "--set", "url=ws://x/", "--wait-peers", "2")
    assert run.returncode == 2
    assert [line.split(":")[0] for line in run.stderr.splitlines()] == ["mode", "--wait-peers 2"]
    assert command("run", "--processes", "0", "--set", "url=ws://x/").returncode == 2


def test_connections_are_spread_and_lines_stay_whole(listen: Listen) -> None:
    run, url = listen("server-input", "--processes", "2", "--stats")
    text = json.dumps("x" * 70_000)  # no pipe takes that at once
    with ExitStack() as open_ones:
        peers = [open_ones.enter_context(connect(url)) for _ in range(24)]
        for _ in range(5):
            for peer in peers:
                peer.send(text)
        assert [run.stdout.readline() == f"{text}\n" for _ in range(24 * 5)] == [True] * 120
        run.interrupt(signal.SIGTERM)
        code, said = run.end()
    assert code == 130
    *lines, totals, figures = said.splitlines()
    assert {line[:4] for line in lines if " came" in line} == {"[1] ", "[2] "}
    assert totals.startswith("120 messages received")
    figures = json.loads(figures)
    assert (figures["received"], figures["listener"]["admitted"]) == (120, 24)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_dies_is_started_again_at_the_same_port(listen: Listen, how: signal.Signals) -> None:
    run, url = listen("server-input", "--processes", "2")
    before = children(run)
    os.kill(before[0], how)
    died = run.wait_for("it starts again in")
    reason = "was killed by SIGKILL" if how is signal.SIGKILL else "ended with code 130"
    assert died.startswith(f"process 1 ({before[0]}) {reason}; it starts again in 0.")
    wait_until(lambda: len(children(run)) == 2)
    (again,) = set(children(run)) - set(before)
    wait_until(lambda: listeners(url) == 2)
    os.kill(before[1], signal.SIGKILL)
    run.wait_for("process 2 ")
    with connect(url) as peer:
        peer.send("1")
        assert run.stdout.readline() == "1\n"
    assert is_there(again)
    run.interrupt(signal.SIGTERM)
    code, said = run.end()
    assert (code, "Traceback" in said) == (130, False)


def test_a_process_that_dies_again_and_again_ends_them_all(listen: Listen) -> None:
    run, _ = listen("server-input", "--processes", "2")
    (steady,) = children(run)[1:]
    while run.process.poll() is None:
        for each in set(children(run)) - {steady}:
            os.kill(each, signal.SIGKILL)
        time.sleep(0.02)
    code, said = run.end()
    assert code == 3
    assert said.count("was killed by SIGKILL") == 5
    assert "the 5th time in a row" in said
    assert not is_there(steady)


def test_children_end_with_a_parent_that_is_killed(listen: Listen) -> None:
    run, url = listen("server-input", "--processes", "2")
    orphans = children(run)
    with connect(url) as peer:
        run.process.kill()
        with pytest.raises(ConnectionClosed) as closed:
            peer.recv(PATIENCE)
        assert closed.value.rcvd is not None, "they end gracefully"
        wait_until(lambda: not any(map(is_there, orphans)))
    host, port = url[5:-1].split(":")
    with socket.create_server((host, int(port))):
        pass


def test_a_second_signal_ends_all_at_once(listen: Listen) -> None:
    run, url = listen("server-input", "--processes", "2", "--set", "shutdown-timeout=1h")
    host, port = url[5:-1].split(":")
    request = (
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as deaf:  # it never answers a Close
        deaf.sendall(request.encode())
        assert deaf.recv(1000)
        run.interrupt()
        run.wait_for("once more to end immediately")
        run.interrupt()
        assert run.end()[0] == 130


def test_a_process_that_stands_still_does_not_keep_the_others_from_ending(listen: Listen) -> None:
    run, _ = listen("server-input", "--processes", "2", "--set", "shutdown-timeout=100ms")
    (stopped, _) = children(run)
    os.kill(stopped, signal.SIGSTOP)
    run.interrupt(signal.SIGTERM)
    assert run.end()[0] == 130
    assert not is_there(stopped)


def test_a_port_that_is_taken_is_told_once(command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"server.bind=127.0.0.1:{other.getsockname()[1]}"
        run = command("run", "--processes", "3", "--set", "mode=server-input", "--set", bind)
    assert run.returncode == 2
    assert run.stderr.count("end the program that uses it") == 1


def test_a_reader_of_standard_output_that_goes_away_ends_them_all(listen: Listen) -> None:
    run, _ = listen("server-input", "--processes", "2")
    run.stdout.close()
    assert run.end()[0] == 4


def test_json_lines_say_which_process_they_are_of(start_with: Callable[..., Running]) -> None:
    options = ("--set", "mode=server-input", "--set", "server.bind=127.0.0.1:0")
    run = start_with("--processes", "2", *options, "--log-format", "json", "-v")
    said = {run.stderr.readline() for _ in range(3)}
    assert sorted(json.loads(line).get("process", 0) for line in said) == [0, 1, 2]


def test_events_of_one_input_reach_the_peers_of_all_processes(
    listen: Listen, shared: tuple[str, ...], tmp_path: Path
) -> None:
    lines = [str(number) for number in range(5000)]
    source = tmp_path / "events.ndjson"
    source.write_text("\n".join(lines))
    run, url = listen("server-output", *shared, "--wait-peers", "12", "--input", str(source), "--stats")
    with ExitStack() as open_ones, ThreadPoolExecutor(12) as threads:
        peers = [open_ones.enter_context(connect(url)) for _ in range(12)]
        assert list(threads.map(rest_of, peers)) == [lines] * 12
    code, said = run.end()
    assert code == 0
    assert {line[:4] for line in said.splitlines() if " came" in line} == {"[1] ", "[2] "}
    figures = json.loads(said.splitlines()[-1])
    assert [figures[name] for name in ("accepted", "confirmed", "undelivered")] == [5000, 5000, 0]
    assert (figures["listener"]["admitted"], figures["history"]["events"]) == (12, 5000)


def test_a_peer_resumes_at_any_process_after_the_input_has_ended(
    listen: Listen, shared: tuple[str, ...]
) -> None:
    cursor = ("--set", "cursor.query-parameter=after", "--set", "cursor.value-field=n")
    run, url = listen("server-output", *shared, *cursor, "--stay")
    run.send(*(f'{{"n":{n}}}' for n in range(1, 6)))
    run.stdin.close()
    run.wait_for("the input has ended")
    for _ in range(8):
        with connect(f"{url}?after=3") as peer:
            assert [peer.recv(PATIENCE) for _ in range(2)] == ['{"n":4}', '{"n":5}']
    run.interrupt(signal.SIGTERM)
    assert run.end()[0] == 130


def test_a_process_that_dies_while_it_reads_loses_no_more_than_what_it_had_read(
    listen: Listen, shared: tuple[str, ...]
) -> None:
    run, url = listen("server-output", *shared)
    reader = children(run)[0]
    with ExitStack() as open_ones:
        peers = [open_ones.enter_context(connect(url)) for _ in range(12)]
        run.send('{"n":1}')
        assert {peer.recv(PATIENCE) for peer in peers} == {'{"n":1}'}
        os.kill(reader, signal.SIGKILL)
        assert "what it had read of the input and not sent is lost" in run.wait_for("it starts again in")
        run.send("may be a part of what was read", *(f'{{"n":{n}}}' for n in range(2, 200)))
        run.stdin.close()
        rest = [rest_of(peer) for peer in peers]
    code, said = run.end()
    assert (code, "Traceback" in said) == (4, False)
    survivors = [each for each in rest if each]
    assert 0 < len(survivors) < 12, "those of the process that was killed were cut"
    assert survivors == [[f'{{"n":{n}}}' for n in range(2, 200)]] * len(survivors)


def test_what_a_peer_sends_reaches_the_peers_of_all_processes(
    listen: Listen, shared: tuple[str, ...]
) -> None:
    run, url = listen("relay", *shared)
    with ExitStack() as open_ones:
        peers = [open_ones.enter_context(connect(url)) for _ in range(12)]
        peers[0].send("1")
        assert [peer.recv(PATIENCE) for peer in peers[1:]] == ["1"] * 11
        run.interrupt(signal.SIGTERM)
        assert rest_of(peers[0]) == []
    code, said = run.end()
    assert code == 130
    assert {line[:4] for line in said.splitlines() if " came" in line} <= {"[1] ", "[2] "}


def test_an_input_that_does_not_open_is_given_up_at_a_signal(
    start_with: Callable[..., Running], shared: tuple[str, ...], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    options = ("--set", "mode=server-output", "--set", "server.bind=127.0.0.1:0")
    run = start_with(*options, *shared, "--input", str(pipe))
    opening = Path(f"/proc/{run.process.pid}/task")
    wait_until(lambda: len(list(opening.iterdir())) > 1)
    run.interrupt()
    assert run.end(20) == (130, "interrupted: delivering what was accepted; once more to end immediately\n")
    run = start_with(*options, *shared, "--input", str(tmp_path / "none"))
    assert run.end() == (2, f"{tmp_path}/none: No such file or directory\n")
