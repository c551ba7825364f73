"""`trio-wsout run`, as a shell starts it: its events come through a pipe, and N processes serve them.

The option is "N STORE": how many processes, and the store of their history. The CPU time is that of all processes of the command,
without the engine's.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

from event import now, text_of
from stage import LOOK, SETTLE, Job, perform, ready


def processes_of(parent: int) -> list[int]:
    """The command, and what it has started."""
    children = (each.read_text().split() for each in Path(f"/proc/{parent}/task").glob("*/children"))
    return [parent, *(int(each) for of_a_thread in children for each in of_a_thread)]


def cpu_of(process: int) -> float:
    """Seconds of CPU time of its threads."""
    threads = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


def peak_of(process: int) -> int:
    """Most KiB of memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def connections(port: int) -> int:
    """How many peers there are."""
    rows = (line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(local.endswith(f":{port:04X}") and state == "01" for local, _, state in rows)


def start(job: Job) -> subprocess.Popen[str]:
    processes, _, store = job.option.partition(" ")
    config = {
        "mode": "server-output",
        "server": {"bind": "127.0.0.1:0"},
        "history": {"store": store, "max-events": 10_000},
    }
    options = ["--processes", processes, "--wait-peers", str(job.peers)]
    return subprocess.Popen(
        [sys.executable, "-m", "trio_wsout", "run", *options, *(f"--set={key}={json.dumps(value)}" for key, value in config.items())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def fanout(job: Job) -> None:
    with start(job) as run:
        port = next(int(line.rpartition(":")[2]) for line in run.stderr if "listening at" in line)
        ready(port)
        threading.Thread(target=run.stderr.read, daemon=True).start()  # else it would wait for a reader
        run.stdin.write(f"{text_of(job.size, now())}\n")
        run.stdin.flush()
        held = b"\1\0\0\0"
        while any(held):  # until it reads: the peers are there
            time.sleep(LOOK)
            held = fcntl.ioctl(run.stdin, termios.FIONREAD, b"\0\0\0\0")
        time.sleep(SETTLE)
        members = processes_of(run.pid)
        cpu, at = sum(map(cpu_of, members)), time.time()
        for _ in range(job.events - 1):
            run.stdin.write(f"{text_of(job.size, now() if job.pace else '0' * 20)}\n")
            if job.pace:
                run.stdin.flush()
                time.sleep(job.pace)
        run.stdin.flush()
        while connections(port) >= job.peers:
            time.sleep(LOOK)
        told = {"cpu": sum(map(cpu_of, members)) - cpu, "start": at, "done": time.time()}
        print(json.dumps({**told, "peak": max(map(peak_of, members))}), flush=True)
        run.terminate()


if __name__ == "__main__":
    perform({"fanout": fanout})
