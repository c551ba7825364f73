"""Thousands of peers that nothing is sent to: what each costs in memory, and all of them in heartbeats.

All servers idle at the same time, each with an audience of its own: nobody is busy, so nobody disturbs.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from pathlib import Path

from rounds import RoundError, Stage
from subject import Subject
from works import Work

HEARTBEAT = 20.0
_PATIENCE = 400
_CALM = 3.0


def measure_idle(
    stage: Stage, subjects: list[Subject], *, peers: int, seconds: float
) -> dict[str, dict[str, float]]:
    """By subject: bytes of resident memory for each peer, and CPU as a part of a core."""
    peers = min(peers, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 300)
    work, found = Work("fanout", peers=peers), {}
    with contextlib.ExitStack() as stack:
        servers, loads = {}, {}
        for subject in subjects:
            print(f"idle: {subject.name}", file=sys.stderr)
            job = stage.job(work, 0, subject, heartbeat=HEARTBEAT)
            server = stack.enter_context(stage.start(stage.commands[subject.name], job, patience=_PATIENCE))
            try:
                job["port"] = server.hear()
                servers[subject.name] = server.pid, _memory(server.pid)
                loads[subject.name] = stack.enter_context(
                    stage.start(stage.load("audience"), job, patience=_PATIENCE)
                )
                loads[subject.name].hear()
            except RoundError as error:
                print(f"failed: {error}\n{server.trouble()}", file=sys.stderr)
                servers.pop(subject.name, None)
        time.sleep(_CALM)
        for name, (pid, before) in servers.items():
            found[name] = {"peers": peers, "bytes": (_memory(pid) - before) / peers, "cpu": -_cpu(pid)}
        begun = time.monotonic()
        time.sleep(seconds)
        for name, (pid, _) in servers.items():
            found[name]["cpu"] = (found[name]["cpu"] + _cpu(pid)) / (time.monotonic() - begun)
    return found


def _memory(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _cpu(pid: int) -> float:
    """Seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
