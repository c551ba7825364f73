"""The status line: on a terminal only."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

from trio_wsout._core.statistics import Statistics
from trio_wsout.cli.status import status_line
from trio_wsout.config.sections import Mode

PATIENCE = 300
"""Seconds after which something hangs, on the slowest of machines."""
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


def test_the_line_has_the_spool_and_why_it_waits() -> None:
    now = Statistics(state="open", **ZERO, **NONE, spooled=1234, spool_waits="the disk is full")  # type: ignore[arg-type]
    assert status_line(now, 0).plain.endswith("0 reconnects  1,234 in the spool  waiting: the disk is full")


def test_the_line_of_a_listener_has_peers_and_what_was_done_to_them() -> None:
    figures = {**ZERO, "confirmed": 9, "received": 1234, "peers": 1, "queued": 5, "unconfirmed": 6}
    now = Statistics(state="listening", **figures, **NONE, expelled=2)  # type: ignore[arg-type]
    line = status_line(now, 7, Mode.SERVER_OUTPUT)
    assert line.plain == "1 peer  9 confirmed (7/s)  5 queued  6 unconfirmed  2 expelled"
    assert status_line(now, 7, Mode.SERVER_INPUT).plain == "1 peer  1,234 received (7/s)  2 expelled"


def test_the_line_of_a_relay_has_its_link() -> None:
    figures = {**ZERO, "peers": 3000, "reconnects": 2}
    now = Statistics(state="backing-off", **figures, **NONE)  # type: ignore[arg-type]
    expected = "3,000 peers  link backing-off  0 confirmed (0/s)  0 queued  0 unconfirmed  2 reconnects"
    assert status_line(now, 0, Mode.RELAY).plain == expected


def test_a_terminal_gets_a_live_line() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "trio_wsout", "run", "--set", "url=ws://127.0.0.1:9/", "--set", "shutdown-timeout=0"],
        stdin=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as run:  # fmt: skip
        os.close(theirs)
        seen, give_up = b"", time.monotonic() + PATIENCE
        while b"0 reconnects" not in seen and time.monotonic() < give_up:
            seen += os.read(ours, 4096)
        assert b"idle" in seen
        assert b"\x1b[" in seen, "it has colour"
        assert run.stdin
        run.stdin.close()
        assert run.wait(PATIENCE) == 0
    os.close(ours)
