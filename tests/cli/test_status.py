"""The status line: on a terminal only."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

from trio_wsout._core.statistics import Statistics
from trio_wsout.cli.status import status_line

ZERO = dict.fromkeys(
    [
        "accepted",
        "confirmed",
        "undelivered",
        "unconfirmed",
        "written",
        "written_messages",
        "resent",
        "received",
        "dropped",
        "queued",
        "window",
        "window_bytes",
        "peers",
        "reconnects",
        "sent_bytes",
        "received_bytes",
        "heartbeat_misses",
        "unknown_acks",
        "without_cursor",
    ],
    0,
)
NONE = dict.fromkeys(["cursor", "subprotocol", "last_document", "last_error"])


def test_the_line_has_what_an_operator_watches() -> None:
    figures = {**ZERO, "confirmed": 1234, "queued": 5, "unconfirmed": 6, "reconnects": 7}
    line = status_line(Statistics(state="open", **figures, **NONE), 99.6)  # type: ignore[arg-type]
    assert line.plain == "open  1,234 confirmed (100/s)  5 queued  6 unconfirmed  7 reconnects"


def test_a_terminal_gets_a_live_line() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "trio_wsout", "run", "--set", "url=ws://127.0.0.1:9/", "--set", "shutdown-timeout=0"],
        stdin=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as run:  # fmt: skip
        os.close(theirs)
        seen, give_up = b"", time.monotonic() + 20
        while b"0 reconnects" not in seen and time.monotonic() < give_up:
            seen += os.read(ours, 4096)
        assert b"idle" in seen
        assert b"\x1b[" in seen, "it has colour"
        assert run.stdin
        run.stdin.close()
        assert run.wait(20) == 0
    os.close(ours)
