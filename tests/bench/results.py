"""Everything that one run found, with the machine it ran on."""

from __future__ import annotations

import os
import platform
import sqlite3
import ssl
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from linear import Line
from measure import Measured


def this_machine() -> dict[str, str]:
    """What a reader must know to compare."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "CPU": models[0] if models else platform.processor(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
        "trio": version("trio"),
        "OpenSSL": ssl.OPENSSL_VERSION.split()[1],
        "SQLite": sqlite3.sqlite_version,
    }


@dataclass
class Results:
    """One run."""

    versions: dict[str, str]
    missing: dict[str, str]
    rounds: int
    seconds: float
    works: dict[str, Measured] = field(default_factory=dict)
    idle: dict[str, dict[str, float]] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d", time.gmtime()))
    machine: dict[str, str] = field(default_factory=this_machine)

    @property
    def titles(self) -> dict[str, str]:
        return {key: each.work.title for key, each in self.works.items()}

    def document(self) -> dict[str, object]:
        """All raw numbers, for JSON."""
        return {
            "date": self.date,
            "machine": self.machine,
            "versions": self.versions,
            "missing": self.missing,
            "works": {
                key: {"title": each.work.title, "rounds": each.rounds, "failed": each.failed}
                for key, each in self.works.items()
            },
            "idle": self.idle,
            "lines": {key: asdict(each) for key, each in self.lines.items()},
        }
