"""How a run begins and ends: addresses, pipes for files, answers at the end, readers that go, lines without an end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect
from websockets.sync.server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator


PATIENCE = 300
"""Seconds after which something hangs, on the slowest of machines."""


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that says back what it hears; `/slow` after 0.4 s."""

    def answer(websocket) -> None:
        for message in websocket:
            if websocket.request.path == "/slow":
                time.sleep(0.4)
            websocket.send(message)

    with serve(answer, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        server.shutdown()
        thread.join()


# -- what is named on the command line ------------------------------------------------------------------


def test_an_address_alone_or_beside_a_file(peer, command, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text('url = "ws://127.0.0.1:1/"\npayload = "json"\n')
    for places in (
        [peer.url],
        [str(job), peer.url],
        [peer.url, str(job)],
        [peer.url.replace("ws:", "HTTP:")],
    ):
        assert command("run", *places, "--quiet", text='"x"\n').returncode == 0
    assert peer.messages == ["x", '"x"', '"x"', "x"]
    assert "one configuration file at most" in command("run", str(job), str(job)).stderr
    assert f"url: {peer.url}" in command("check", peer.url).stdout
    for neither in ("127.0.0.1:8765", "ws:/127.0.0.1/", "feed.example.com", "feed"):
        run = command("run", neither)
        assert (run.returncode, "an address begins with ws:// or wss://" in run.stderr) == (2, True)


def test_headers_go_out_and_stay_secret(command) -> None:
    heard: list[str] = []

    def take(websocket) -> None:
        heard.append(websocket.request.headers["X-Key"])
        for _ in websocket:
            pass

    with serve(take, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        run = command("run", url, "-H", "X-Key: canary: 1", "--header", "X-Other:2", "-v", text="1\n")
        assert run.returncode == 0, run.stderr
        server.shutdown()
    assert heard == ["canary: 1"]
    assert "canary" not in run.stderr
    run = command("check", url, "-H", "X-Key: canary")
    assert run.returncode == 0
    assert "canary" not in run.stdout
    for wrong in ("canary", ": canary", "a.b: canary"):
        run = command("check", url, "-H", wrong)
        assert (run.returncode, "canary" in run.stderr) == (2, False)
    run = command("check", url, "--set", "headers.x-key=a", "-H", "X-Key: canary")
    assert (run.returncode, "canary" in run.stderr) == (2, False)
    assert "win" in run.stderr


def test_version(command) -> None:
    assert command("-V").stdout == command("--version").stdout
    assert command("-V").stdout.strip()[0].isdigit()


@pytest.mark.parametrize("text", ["payload: json\n", '{"payload": "json"}\n', '# a\npayload = "json"\n'])
def test_a_pipe_or_standard_input_for_each_file(peer, env, tmp_path: Path, text: str) -> None:
    job, lines = tmp_path / "job", tmp_path / "lines"
    job.write_text(text)
    lines.write_text('"x"\n')
    wsout = f"'{sys.executable}' -m trio_wsout"
    for line in (
        f"{wsout} run --quiet <(cat {job}) {peer.url} --input {lines}",
        f"{wsout} run --quiet - {peer.url} --input <(cat {lines}) < {job}",
        f"cat {lines} | {wsout} run --quiet <(cat {job}) {peer.url} --input - --undelivered >(cat)",
        f"cat {job} | {wsout} check - --set url={peer.url}",
    ):
        run = subprocess.run(
            ["bash", "-c", line], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert (run.returncode, run.stderr) == (0, ""), line
    assert peer.messages == ['"x"'] * 3


def test_standard_input_cannot_be_both(peer, command) -> None:
    run = command("run", "-", peer.url, text="payload: json\n")
    assert (run.returncode, run.stderr) == (
        2, "standard input is the configuration; name a file with --input\n",
    )  # fmt: skip


def test_ctrl_c_ends_the_wait_for_a_named_pipe(peer, start, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    run = start(peer.url, "--input", str(fifo))
    while not (Path(f"/proc/{run.process.pid}/task").exists() and run.process.poll() is None):
        time.sleep(0.01)
    time.sleep(1)  # it says nothing before the pipe is open
    run.interrupt()
    code, said = run.end()
    assert code == 130
    assert "Traceback" not in said


# -- a client that only listens ---------------------------------------------------------------------------


def test_a_client_that_only_listens_dials_at_once(peer, start) -> None:
    peer.greeting = ['{"a": 1, "a": 2}']
    run = start(peer.url, "--quiet")
    assert run.stdout.readline() == '{"a": 1, "a": 2}\n'


def test_two_commands_understand_each_other(listen, start, tmp_path: Path) -> None:
    lines = ['{"a": 1, "a": 2}', "12345678.123456789012345", '"text"', "[1,\t2]", "null"]
    server, url = listen("server-output", "--wait-peers", "1")
    client = start(url, "--quiet")
    server.send(*lines)
    assert [client.stdout.readline() for _ in lines] == [f"{line}\n" for line in lines]


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (' {"a":1.50} ', b' {"a":1.50} '),
        ('{"a":1}\r\n', b'{"a":1}'),
        ('{"a":\n1}', b'"{\\"a\\":\\n1}"'),
        ("no", b'"no"'),
        ("", b'""'),
        ('"\\ud800"', b'"\\ud800"'),
    ],
)
def test_json_of_one_line_is_printed_as_it_came(peer, start, message: str, line: bytes) -> None:
    peer.greeting = [message]
    run = start(peer.url, "--quiet")
    assert run.stdout.buffer.readline() == line + b"\n"


def test_json_of_many_lines_is_printed_on_one_under_payload_json(peer, start) -> None:
    peer.greeting = ['{"a":1.50,\r\n"a": 2}\n']
    run = start(peer.url, "--quiet", "--set", "payload=json", "--with-peer")
    assert run.stdout.buffer.readline().endswith(b'"event":{"a":1.50,  "a": 2}}\n')


# -- the end ----------------------------------------------------------------------------------------------


def test_an_answer_that_comes_while_the_input_ends_is_printed(echo: str, command) -> None:
    run = command("run", echo, "--linger", "2s", "--quiet", text='{"a": 1}\n')
    assert (run.returncode, run.stdout) == (0, '{"a": 1}\n')


def test_linger_waits_for_answers(echo: str, command) -> None:
    run = command("run", f"{echo}slow", "--linger", "3s", "--quiet", text="1\n2\n")
    assert (run.returncode, run.stdout) == (0, "1\n2\n")
    assert "--linger" in command("run", echo, "--linger", "soon").stderr


def test_a_reader_that_has_seen_enough_ends_a_relay_and_a_receiver(listen, env) -> None:
    for mode in ("relay", "server-input", "server-output"):
        run, url = listen(mode, "--quiet" if mode == "none" else "--stats")
        with connect(url):
            run.stdout.close()
            code, said = run.end()
        assert code == 4
        assert "standard output: nobody reads it any more" in said
        assert "Traceback" not in said


def test_time_to_deliver_counts_from_the_last_progress(env, tmp_path: Path) -> None:
    """Each event takes 0.5 s, and all of them longer than shutdown-timeout."""
    taken: list[str] = []

    def slow(websocket) -> None:
        for message in websocket:
            time.sleep(0.5)
            taken.append(message)
            websocket.send(json.dumps({"ack": len(taken)}))

    with serve(slow, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        acked = [f"--set={each}" for each in ("delivery.level=acked", "shutdown-timeout=4s")]
        run = subprocess.run(
            [sys.executable, "-m", "trio_wsout", "run", url, *acked],
            input="".join(f"{n}\n" for n in range(10)), capture_output=True, text=True, env=env, timeout=PATIENCE,
            check=False,
        )  # fmt: skip
        server.shutdown()
    assert run.returncode == 0, run.stderr
    assert len(taken) == 10


def test_without_progress_it_ends_in_time(silent: str, command) -> None:
    run = command("run", silent, "--set", "shutdown-timeout=1s", text="1\n")
    assert run.returncode == 3
    assert "not confirmed within shutdown-timeout (1 s)" in run.stderr


def test_a_slow_reader_of_answers_is_no_failure(echo: str, start_with, tmp_path: Path) -> None:
    """Nobody takes what is printed for longer than retry.timeout, while all of the input is waited for."""
    lines = "".join(json.dumps({"n": n, "more": "x" * 200}) + "\n" for n in range(6000))
    (tmp_path / "in").write_text(lines)
    patient = [f"--set={each}" for each in ("retry.timeout=200ms", "shutdown-timeout=5m")]
    run = start_with(echo, "--input", str(tmp_path / "in"), *patient)
    run.wait_for("nothing was taken")
    time.sleep(1)  # the wait for the last confirmation ends more than once
    assert run.stdout.read() == lines
    assert run.end()[0] == 0


def test_who_interrupts_where_nothing_came_is_told_of_nothing_unprinted(nowhere: str, start) -> None:
    run = start(nowhere, "--set", "shutdown-timeout=1s")
    run.send("1")
    run.wait_for("backing-off")
    run.wait_taken()
    run.interrupt()
    code, said = run.end()
    assert code == 130
    assert "1 accepted event was not confirmed, lost; --undelivered FILE keeps what is not delivered" in said
    assert "standard output" not in said


# -- lines without an end -----------------------------------------------------------------------------------


def test_a_line_without_an_end_is_bounded(peer, start) -> None:
    run = start(peer.url, "--set", "max-message-size=100000")
    held = []
    for number in range(1000):  # 100 MB
        run.stdin.write("[" + "1," * 50_000)
        run.stdin.flush()
        if number in (20, 999):
            status = Path(f"/proc/{run.process.pid}/status").read_text()
            held.append(int(status.split("VmRSS:")[1].split()[0]))
    assert held[1] < held[0] + 20_000, "kilobytes"
    run.send("", '{"next": 1}')
    run.stdin.close()
    code, said = run.end()
    assert code == 4
    assert "line 1: longer than max-message-size (100000 bytes); skipped" in said
    assert peer.messages == ['{"next": 1}']


def test_a_text_may_be_longer_as_it_is_escaped(peer, command) -> None:
    size = ["--set", "max-message-size=100000", "--quiet"]
    run = command("run", peer.url, *size, text='"' + "\\u0041" * 99_000 + '"\n')
    assert (run.returncode, peer.messages) == (0, ["A" * 99_000])
    run = command("run", peer.url, *size, text='"' + "\\u0041" * 101_000 + '"\n')
    assert (run.returncode, run.stderr.split(":")[0]) == (4, "line 1")


@pytest.mark.parametrize(
    "module", ["cyclopts", "rich.console", "trio", "cattrs", "trio_wsout.output", "trio_wsout.cli.run"]
)
def test_ctrl_c_while_it_starts_is_no_traceback(nowhere: str, env, module: str) -> None:
    script = (
        "import os, signal, sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Pressed())\n"
        f"sys.argv = ['trio-wsout', 'run', {nowhere!r}]\n"
        "from trio_wsout.cli import main\n"
        "main()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=env, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (130, "")


def test_ctrl_c_that_was_ignored_at_the_start_stays_so(peer, env) -> None:
    script = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    script += f"sys.argv = ['trio-wsout', 'check', {peer.url!r}]\nprint(flush=True)\n"
    script += "from trio_wsout.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as run:
        assert run.stdout
        assert run.stdout.readline() == b"\n"
        while run.poll() is None:
            run.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert run.returncode == 0


# -- undelivered events ---------------------------------------------------------------------------------------


def test_undelivered_events_are_read_back_as_they_were(nowhere: str, peer, command, tmp_path: Path) -> None:
    lost, lines = tmp_path / "lost.ndjson", ['{"a": 1, "a": 2.50}', '"text,\\"reason\\":"', '{"reason":"x"}']
    options = ["--set", "shutdown-timeout=300ms", "--undelivered", str(lost)]
    run = command("run", nowhere, *options, text="".join(f"{line}\n" for line in lines))
    assert run.returncode == 3
    assert "3 accepted events were not confirmed" in run.stderr
    json_too = ["--set", "payload=json", "--quiet"]
    run = command("run", peer.url, "--from-undelivered", str(lost), *json_too, text="not read\n")
    assert (run.returncode, run.stderr) == (0, "")
    assert peer.messages == lines
    run = command("run", peer.url, "--from-undelivered", str(lost), "--undelivered", str(lost))
    assert run.returncode == 2
    assert "name another file" in run.stderr


def test_what_is_none_of_these_lines_is_told(peer, command, tmp_path: Path) -> None:
    lost = tmp_path / "lost.ndjson"
    lost.write_text(
        '{"event":"00ff","hex":true,"reason":"x"}\n'
        '{"event":"nope","reason":"read, but not sent; it is no JSON"}\n'
        '{"n": 1}\n'
        "[]\n"
        "nope\n"
        '{ "reason": "by hand", "event": {"n": 18446744073709551616} }\n'
    )
    run = command("run", peer.url, "--from-undelivered", str(lost), "--set", "payload=binary", "--quiet")
    assert run.returncode == 4
    assert [line.split(":")[0] for line in run.stderr.splitlines()] == [f"line {n}" for n in (2, 3, 4, 5)]
    assert peer.messages == [b"\x00\xff", b'{"n":18446744073709551616}']


# -- what is told -----------------------------------------------------------------------------------------------


def test_lines_of_json_have_time_level_and_message(nowhere: str, command) -> None:
    options = ["--log-format", "json", "--set", "reconnect.max-attempts=2"]
    run = command("run", nowhere, *options, text='"a"\nnope\n')
    told = [json.loads(line) for line in run.stderr.splitlines()]
    assert all(set(each) == {"time", "level", "message"} for each in told)
    assert {each["level"] for each in told} >= {"info", "warning", "error"}
    assert told[0]["message"] == "link dialling"


def test_an_absent_server_is_warned_of_once_and_every_attempt_is_told_verbosely(nowhere: str, start) -> None:
    often = ["--set", "reconnect.initial-backoff=1ms", "--set", "reconnect.max-backoff=1ms"]
    for verbose in (False, True):
        run = start(nowhere, *often, "--set", "reconnect.max-attempts=20", *(["-v"] if verbose else []))
        code, said = run.end()
        assert code == 3
        assert said.count("link backing-off") == (19 if verbose else 1)
        assert (said.splitlines()[0][:2] == "20") is verbose, "the time"


def test_peers_that_come_and_go_are_told(listen) -> None:
    run, url = listen("server-input")
    with connect(url) as client:
        address = "{}:{}".format(*client.local_address[:2])
        assert run.wait_for("came").strip() == f"peer {address} came"
    assert run.wait_for("left").startswith(f"peer {address} left: ")


def test_peers_that_come_in_crowds_are_counted(listen) -> None:
    run, url = listen("server-input")
    with ExitStack() as crowd:
        for _ in range(200):
            crowd.enter_context(connect(url))
    time.sleep(1.1)
    with connect(url):
        run.interrupt()
        code, said = run.end()
    assert code == 130
    assert len([line for line in said.splitlines() if line.startswith("peer ")]) < 400
    assert "more came or left)" in said


def test_what_is_typed_has_no_line_in_common_with_the_status(peer, env) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "trio_wsout", "run", peer.url],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**env, "TERM": "xterm"}, start_new_session=True,
    ) as run:  # fmt: skip
        os.close(theirs)
        seen = b""
        while b"confirmed (" not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, b"1\n")
        peer.wait_for(1)
        while seen.count(b"1 confirmed (") < 2:
            seen += os.read(ours, 4096)
        os.write(ours, b"\x04")
        while b"1 event confirmed in" not in seen:
            seen += os.read(ours, 4096)
        assert run.wait(PATIENCE) == 0
    os.close(ours)
    # Each time the line is shown it is in the last row, and the cursor is back where it was.
    shown = [part.split(b"\x1b8")[0] for part in seen.split(b"\x1b7\x1b[24;1H\x1b[2K")[1:]]
    assert shown[-1] == b"\x1b[r", "the row is given back"
    assert all(b"confirmed" in each for each in shown[:-1])
    assert seen.count(b"\x1b[1;23r") == 1
    rest = seen
    for each in shown:
        rest = rest.replace(b"\x1b7\x1b[24;1H\x1b[2K" + each + b"\x1b8", b"")
    assert b"confirmed (" not in rest
