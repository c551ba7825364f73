"""What every subject in Python stands on: the job it is given, and the clock that tells its figures.

A subject is a process: `python subjects/NAME.py '{"work": "fanout", …}'`. A server prints its port, starts its
clock when all peers are there (or with the first message that it gets), and tells its figures when everything
is done and the first peer has left. A client is given a url, and tells its figures when it has closed.
"""

from __future__ import annotations

import json
import os
import resource
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

SETTLE = 0.3
"""Seconds between the last handshake and the first event."""
LOOK = 0.01
"""Seconds between two looks whether somebody came or left."""


@dataclass(frozen=True)
class Job:
    """What a subject is to do."""

    work: str
    peers: int
    events: int
    size: int
    pace: float
    """Seconds between two events; 0: a burst."""
    senders: int
    heartbeat: float
    """Seconds between pings; 0: none."""
    cert: str | None
    key: str | None
    port: int
    """Where the sink listens, for a client."""
    option: str
    """What a subject makes of it: a history, or how many frames are joined."""

    @property
    def url(self) -> str:
        return f"{'wss' if self.cert else 'ws'}://localhost:{self.port}/"

    def server_tls(self) -> ssl.SSLContext | None:
        if self.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context

    def client_tls(self) -> ssl.SSLContext | None:
        return None if self.cert is None else ssl.create_default_context(cafile=self.cert)


class Clock:
    """Own CPU time, all threads, and wall time, from `start` to `tell`."""

    def __init__(self) -> None:
        self.running = False

    def start(self) -> None:
        if not self.running:
            self.running = True
            self.cpu, self.at = _own_cpu(), time.time()

    def tell(self) -> None:
        """Print the figures and be gone: closing a thousand connections is no part of any work."""
        cpu, done = _own_cpu() - self.cpu, time.time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"cpu": cpu, "start": self.at, "done": done, "peak": peak}), flush=True)
        os._exit(0)


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ready(port: int) -> None:
    """Tell where the server listens."""
    print(port, flush=True)


def perform(works: dict[str, Callable[[Job], None]]) -> None:
    """Do the work that the command line asks for."""
    job = Job(**json.loads(sys.argv[1]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, job.peers + 200)), hard))
    works[job.work](job)
