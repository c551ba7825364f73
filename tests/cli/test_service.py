"""The command as a service: no terminal, no input, and a signal as its end."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect
from websockets.sync.server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 300
"""Seconds after which something hangs, on the slowest of machines."""


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run-as-a-service.md"


def unit() -> configparser.ConfigParser:
    """The unit file that the page shows."""
    text = PAGE.read_text("utf-8").split("```ini\n")[1].split("```")[0]
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


class Service:
    """A process without a terminal, whose input is /dev/null."""

    def __init__(self, arguments: list[str], env: dict[str, str], stdin: int = subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trio_wsout", *arguments],
            stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env,
            start_new_session=True,
        )  # fmt: skip

    def wait_for(self, words: str) -> str:
        assert self.process.stderr
        for line in self.process.stderr:
            if words in line:
                return line
        pytest.fail(f"{words!r} never came")

    def terminate(self) -> tuple[int, str]:
        assert self.process.stderr
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE), self.process.stderr.read()


@pytest.fixture
def service(env) -> Iterator:
    made: list[Service] = []

    def run(*arguments: str, **options) -> Service:
        made.append(Service(list(arguments), env, **options))
        return made[-1]

    yield run
    for each in made:
        each.process.kill()
        each.process.wait()
        assert each.process.stderr
        each.process.stderr.close()


def test_the_unit_of_the_page_serves_until_sigterm(service, tmp_path: Path) -> None:
    config = tmp_path / "relay.yaml"
    config.write_text("mode: relay\nserver:\n  bind: 127.0.0.1:0\n")
    section = unit()["Service"]
    command = section["ExecStart"].replace("${STATE_DIRECTORY}", str(tmp_path)).split()
    assert (Path(command[0]).name, section["StandardInput"]) == ("trio-wsout", "null")
    run = service(*command[1:-1], str(config))
    url = f"ws://{run.wait_for('listening at').split('listening at ')[1].split(chr(34))[0].strip()}/"
    run.wait_for("the input has ended")
    with connect(url) as one, connect(url) as two:
        one.send('{"n":1}')
        assert two.recv(PATIENCE) == '{"n":1}'
        code, said = run.terminate()
    assert code == int(section["SuccessExitStatus"])
    assert "Traceback" not in said
    assert (tmp_path / "undelivered.ndjson").exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_takes_the_unit_of_the_page(tmp_path: Path) -> None:
    text = PAGE.read_text("utf-8").split("```ini\n")[1].split("```")[0]
    path = tmp_path / "trio-wsout.service"
    path.write_text(text.replace("/opt/trio-wsout/bin/trio-wsout", "/bin/true"))
    run = subprocess.run(
        ["systemd-analyze", "verify", str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("mode", ["relay", "server-input", "server-output"])
def test_a_listener_needs_no_input(service, mode: str) -> None:
    stay = ["--stay"] if mode == "server-output" else []
    run = service("run", "--set", f"mode={mode}", "--set", "server.bind=127.0.0.1:0", *stay)
    url = f"ws://{run.wait_for('listening at').split()[-1]}/"
    with connect(url) as client:
        client.send("1")
        assert client.ping().wait(PATIENCE)
        code, said = run.terminate()
    assert code == 130
    assert "Traceback" not in said


def test_without_stay_an_empty_input_ends_a_server_at_once(service) -> None:
    run = service("run", "--set", "mode=server-output", "--set", "server.bind=127.0.0.1:0")
    assert run.process.wait(PATIENCE) == 0


def test_a_client_that_stays_listens_and_connects_again(service) -> None:
    heard: list[int] = []

    def greet(websocket) -> None:
        heard.append(1)
        websocket.send("hello")
        if len(heard) > 1:
            for _ in websocket:
                pass

    with serve(greet, "127.0.0.1", 0, compression=None) as server:
        import threading

        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        run = service("run", "--stay", url, "--set", "reconnect.initial-backoff=10ms")
        run.wait_for("link open")
        run.wait_for("link backing-off")
        run.wait_for("link open")
        code, _ = run.terminate()
    assert code == 130


def test_a_fifo_that_is_held_open_feeds_a_server(service, tmp_path: Path) -> None:
    fifo = tmp_path / "events"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    server = ["--set", "mode=server-output", "--set", "server.bind=127.0.0.1:0"]
    run = service("run", "--stay", *server, "--wait-peers", "1", stdin=held)
    url = f"ws://{run.wait_for('listening at').split()[-1]}/"
    with connect(url) as client:
        for number in range(3):
            with fifo.open("w") as writer:
                writer.write(f"{number}\n")
            assert client.recv(PATIENCE) == str(number)
        assert run.terminate()[0] == 130
    os.close(held)
