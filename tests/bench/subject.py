"""Who is measured: each a process of its own, made of a file in `subjects/`."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from engine import engine_binary
from npm import npm_command
from works import Work

HERE = Path(__file__).parent
EVERYTHING = frozenset({"fanout", "idle", "receive", "relay", "push"})
SPOOLS = frozenset({"spool"})
BASE = "trio-websocket"
OURS = "trio_wsout"
ENGINE = "redis:"
"""Stands for a stream of an engine that the benchmark starts."""


@dataclass(frozen=True)
class Subject:
    """One row of a table."""

    name: str
    file: str
    made_of: str
    """The package that its version is of; empty: it has none."""
    works: frozenset[str] = EVERYTHING
    option: str = ""
    """Handed to the file; what it makes of it stands there."""
    rate: float = 100_000
    """Roughly how many frames or messages it moves in a second; the first round is as long as this says."""
    joins: bool = False
    """It writes several frames at once whatever comes, so it can't be paced."""
    tls: bool = True

    def does(self, work: Work) -> bool:
        """Whether it can do that work."""
        return work.kind in self.works and (self.tls or not work.tls) and not (self.joins and work.pace)

    @property
    def ours(self) -> bool:
        return self.name.startswith(OURS)


_FLOOR = frozenset({"fanout", "receive", "push"})
SUBJECTS = [
    Subject(BASE, "on_trio_websocket.py", "trio-websocket", rate=35_000),
    Subject(OURS, "ours.py", "trio-wsout", EVERYTHING | SPOOLS, rate=400_000),
    Subject(
        "trio_wsout, history in memory", "ours.py", "trio-wsout", frozenset({"fanout"}), "memory:", 400_000
    ),
    Subject(
        "trio_wsout, history in SQLite", "ours.py", "trio-wsout", frozenset({"fanout"}), "sqlite:", 400_000
    ),
    Subject("trio_wsout, history in Valkey", "ours.py", "trio-wsout", frozenset({"fanout"}), ENGINE, 400_000),
    *(
        Subject(
            f"trio_wsout run{words}",
            "command.py",
            "trio-wsout",
            frozenset({"fanout"}),
            option,
            400_000,
            tls=False,
        )
        for words, option in (
            (", in memory", "1 memory:"),
            (", Valkey", f"1 {ENGINE}"),
            (", 2 processes", f"2 {ENGINE}"),
        )
    ),
    Subject("websockets", "on_websockets.py", "websockets"),
    Subject("websockets.trio", "on_websockets_trio.py", "websockets", rate=35_000),
    Subject("aiohttp", "on_aiohttp.py", "aiohttp"),
    Subject("picows", "on_picows.py", "picows", rate=200_000),
    Subject("ws on node", "on_node.mjs", "npm:ws", rate=120_000),
    Subject("bun", "on_bun.mjs", "npm:bun", rate=1_000_000),
    Subject("floor, 1 frame a call", "floor.py", "", _FLOOR, "1", 200_000, tls=False),
    Subject("floor, 16 frames a call", "floor.py", "", _FLOOR, "16", 2_000_000, joins=True, tls=False),
    Subject("floor, 64 frames a call", "floor.py", "", _FLOOR, "64", 5_000_000, joins=True, tls=False),
]


@dataclass
class Roster:
    """The subjects that can run here, how each is started, and why others can't."""

    commands: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def present(self, subjects: list[Subject]) -> list[Subject]:
        return [each for each in subjects if each.name in self.commands]


def roster(names: list[str]) -> Roster:
    """Look which of them can run; none named: all of them."""
    found = Roster()
    for subject in SUBJECTS:
        if names and subject.name not in names:
            continue
        if subject.made_of.startswith("npm:"):
            command, told = npm_command(subject.made_of.removeprefix("npm:"))
        else:
            command, told = _python_command(subject)
        if command is None:
            found.missing[subject.name] = told
        else:
            found.commands[subject.name] = [*command, str(HERE / "subjects" / subject.file)]
            found.versions[subject.name] = told
    return found


def _python_command(subject: Subject) -> tuple[list[str] | None, str]:
    if not subject.made_of:
        return [sys.executable], ""
    if importlib.util.find_spec(subject.made_of.replace("-", "_")) is None:
        return None, f"{subject.made_of} is not installed"
    if subject.option.endswith(ENGINE) and engine_binary() is None:
        return None, "coredis or a valkey-server is not installed"
    return [sys.executable], version(subject.made_of)
