"""The two peers that are not Python: `ws` for node, and bun, which is a package with a program in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

WANTED = ("ws", "bun")


def place() -> Path:
    """Where they are installed, once for all runs: in the user's cache, never in the repository."""
    cached = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cached) / "trio-wsout-bench"


def npm_command(package: str) -> tuple[list[str] | None, str]:
    """How to run a script with that package, and its version; or None, and why not."""
    problem = _install()
    told = place() / "node_modules" / package / "package.json"
    if not told.exists():
        return None, problem or f"{package} is not installed in {place().name}"
    version = json.loads(told.read_text(encoding="utf-8"))["version"]
    program = str(place() / "node_modules" / ".bin" / "bun") if package == "bun" else shutil.which("node")
    if program is None:
        return None, "there is no node"
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{Path(program).name} does not run: {type(error).__name__}"
    return [program], version if package == "bun" else f"{version}, node {answer.stdout.strip().lstrip('v')}"


@cache
def _install() -> str:
    """Install what is not there yet; gives what went wrong, or nothing."""
    if all((place() / "node_modules" / each).exists() for each in WANTED):
        return ""
    npm = shutil.which("npm")
    if npm is None:
        return "there is no npm"
    place().mkdir(parents=True, exist_ok=True)
    print(f"installing {', '.join(WANTED)} with npm", file=sys.stderr)
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(place()), *WANTED]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    except subprocess.TimeoutExpired:
        return "npm install took more than 3 minutes"
    return "" if done.returncode == 0 else f"npm install failed with {done.returncode}"
