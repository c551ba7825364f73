"""What the machine has not is told by `check` and `run` before anything is started; and where `run` keeps its cursor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CURSOR = ["--set", "cursor.header-name=L", "--set", "cursor.value-field=id"]


@pytest.mark.parametrize("what", ["check", "run"])
def test_every_file_and_directory_that_is_not_there_is_told_at_once(
    command, tmp_path: Path, what: str
) -> None:
    job = tmp_path / "job.json"
    tls = {
        "ca-certificate": f"{tmp_path}/ca.pem",
        "client-certificate": f"{tmp_path}/c.pem",
        "client-key": "k",
    }
    cursor = {"header-name": "L", "persist-to": f"{tmp_path}/none/c"}
    spool = {"path": f"{tmp_path}/no/spool"}
    job.write_text(json.dumps({"url": "wss://h/", "tls": tls, "cursor": cursor, "spool": spool}))
    run = command(what, str(job))
    assert run.returncode == 2
    told = [line.removeprefix(f"{job}: ").split(": ")[0] for line in run.stderr.splitlines()]
    tls_paths = ["tls.ca-certificate", "tls.client-certificate", "tls.client-key"]
    assert told == [*tls_paths, "cursor.persist-to", "spool.path"]


def test_the_certificate_of_a_listener_is_looked_at(command, tmp_path: Path) -> None:
    tls = json.dumps({"cert": f"{tmp_path}/c.pem", "key": f"{tmp_path}/k.pem"})
    sets = ["--set", "mode=server-output", "--set", "server.bind=:0", "--set", f"server.tls={tls}"]
    run = command("check", *sets)
    assert run.returncode == 2
    assert "server.tls" in run.stderr
    assert "No such file" in run.stderr


def test_a_password_in_a_file_that_can_not_be_read_is_told_with_its_reason(command, tmp_path: Path) -> None:
    tls = {"cert": f"{tmp_path}/c.pem", "key": f"{tmp_path}/k.pem", "key-password": f"${{file|{tmp_path}}}"}
    sets = [
        "--set",
        "mode=server-output",
        "--set",
        "server.bind=:0",
        "--set",
        f"server.tls={json.dumps(tls)}",
    ]
    run = command("check", *sets)
    assert run.returncode == 2
    assert f"server.tls.key-password: ${{file|{tmp_path}}}: the file is no regular file" in run.stderr


def test_a_run_keeps_its_cursor_in_the_state_directory(command, env, peer, tmp_path: Path) -> None:
    run = command("run", "--quiet", "--set", f"url={peer.url}", *CURSOR, text='{"id": 7}\n')
    assert run.returncode == 0, run.stderr
    (kept,) = Path(env["XDG_STATE_HOME"]).rglob("*.cursor")
    assert json.loads(kept.read_text())["value"] == "7"
    checked = command("check", "--set", f"url={peer.url}", *CURSOR)
    assert f"persist-to: {tmp_path}/state/trio-wsout/" in " ".join(checked.stdout.split())


@pytest.mark.parametrize("home", ["", "/dev/null/home"])
@pytest.mark.parametrize("what", ["check", "run"])
def test_no_home_is_advice_and_no_traceback(command, env, home: str, what: str) -> None:
    env.pop("XDG_STATE_HOME")
    env["HOME"] = home
    run = command(what, "--set", "url=ws://127.0.0.1:1/", *CURSOR)
    assert run.returncode == 2
    (told,) = run.stderr.splitlines()
    assert told.startswith("cursor.persist-to: ")
    in_memory = command("check", "--set", "url=ws://h/", *CURSOR, "--set", "cursor.persist-to=memory:")
    assert in_memory.returncode == 0
