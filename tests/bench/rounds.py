"""One round: a subject in a process of its own, the load in another, and what both measured."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trustme
from engine import start_engine
from npm import place
from subject import ENGINE, HERE, Subject
from works import Work

PATIENCE = 90
"""Seconds that a round may take."""


class RoundError(Exception):
    """A round that did not end as it should; says what the processes said."""


class Stage:
    """Starts processes, with what they need: certificates, a directory, a place to say what went wrong."""

    def __init__(self, commands: dict[str, list[str]]) -> None:
        self.commands = commands
        self._scratch = tempfile.TemporaryDirectory(prefix="trio-wsout-bench-")
        self.directory = Path(self._scratch.name)
        self.files = 0
        self.engine = ""
        """The URL of the engine, once a subject needed it."""
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        self.cert, self.key = str(self.directory / "cert.pem"), str(self.directory / "key.pem")
        issued.private_key_pem.write_to_path(self.key)
        for part in (*issued.cert_chain_pems, authority.cert_pem):
            part.write_to_path(self.cert, append=True)
        path = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "BENCH_PEERS": str(place())}

    def job(self, work: Work, events: int, subject: Subject, *, heartbeat: float = 0.0) -> dict[str, object]:
        """What both sides are told."""
        option = subject.option
        self.files += 1
        if work.kind == "spool":
            option = str(self.directory / f"spool-{self.files}")
        if option == "sqlite:":
            option = f"sqlite:{self.directory / f'history-{self.files}.db'}"
        if option.endswith(ENGINE):
            self.engine = self.engine or start_engine(self.directory)
            option = option.replace(ENGINE, f"{self.engine}?stream=bench-{self.files}")
        return {
            "work": "idle" if heartbeat else work.kind,
            "peers": work.peers,
            "events": events,
            "size": work.size,
            "pace": work.pace,
            "senders": work.senders,
            "heartbeat": heartbeat,
            "cert": self.cert if work.tls else None,
            "key": self.key if work.tls else None,
            "port": 0,
            "option": option,
        }

    @contextlib.contextmanager
    def start(
        self, command: list[str], job: dict[str, object], *, patience: float = PATIENCE
    ) -> Iterator[Process]:
        """Start a process; kill it at the end, or when it takes too long."""
        with (
            tempfile.TemporaryFile("w+") as trouble,
            subprocess.Popen(
                [*command, json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=trouble,
                text=True,
                env=self.environ,
            ) as popen,
        ):
            watchdog = threading.Timer(patience, popen.kill)
            watchdog.start()
            try:
                yield Process(popen, trouble)
            finally:
                watchdog.cancel()
                popen.kill()

    def load(self, name: str) -> list[str]:
        return [sys.executable, str(HERE / "load" / f"{name}.py")]


class Process:
    """One started process, which tells its figures as lines of JSON."""

    def __init__(self, popen: subprocess.Popen[str], trouble: Any) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._trouble = trouble

    def hear(self) -> Any:
        """Its next line."""
        line = self._popen.stdout.readline()
        if not line:
            raise RoundError(f"{Path(self._popen.args[-2]).name}: {self.trouble() or 'it said nothing'}")
        return json.loads(line)

    def trouble(self) -> str:
        """The end of what it had to complain of."""
        self._trouble.seek(0)
        return self._trouble.read()[-2000:].strip()


def run_round(stage: Stage, work: Work, subject: Subject, events: int) -> dict[str, float]:
    """Do one round.

    Gives seconds of own CPU time (`cpu`) and wall time (`wall`), the load's CPU time (`load`), the peak of
    memory in KiB (`peak`), how much was done (`units`), and, where events are paced, percentiles of the time
    from `send` to the peer in seconds (`p50`, `p99`).
    """
    job = stage.job(work, events, subject)
    side = _push if work.kind in {"push", "spool"} else _serve
    figures = side(stage, work, stage.commands[subject.name], job)
    figures["units"] = work.units(events)
    return figures


def _push(stage: Stage, work: Work, command: list[str], job: dict[str, object]) -> dict[str, float]:
    with stage.start(stage.load("sink"), job) as sink:
        job["port"] = sink.hear()
        with stage.start(command, job) as subject:
            told = subject.hear()
        seen = sink.hear()
    if seen["messages"] != job["events"]:
        raise RoundError(f"{seen['messages']} of {job['events']} messages came")
    return {
        "cpu": told["cpu"],
        "wall": told["done"] - told["start"],
        "peak": told["peak"],
        "load": seen["cpu"],
    }


def _serve(stage: Stage, work: Work, command: list[str], job: dict[str, object]) -> dict[str, float]:
    with stage.start(command, job) as subject:
        job["port"] = subject.hear()
        name = "source" if work.kind == "receive" else "audience"
        with stage.start(stage.load(name), job) as load:
            try:
                load.hear()
                seen = load.hear()
            except RoundError as error:
                raise RoundError(f"{error}\n{subject.trouble()}".strip()) from None
            told = subject.hear()
    begun = told if work.kind == "fanout" else seen
    ended = told if work.kind == "receive" else seen
    figures = {
        "cpu": told["cpu"],
        "wall": ended["done"] - begun["start"],
        "peak": told["peak"],
        "load": seen["cpu"],
    }
    if work.pace and not work.tls:
        figures |= {"p50": seen["p50"], "p99": seen["p99"]}
    return figures
