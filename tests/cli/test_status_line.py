"""The status line: on a terminal only."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._core.statistics import LinkStatistics, ListenerStatistics, SpoolStatistics, Statistics
from trio_wsout.cli.status_line import progress_bar, status_line, summary
from trio_wsout.config.sections import Mode

PATIENCE = 300
"""Seconds after which something hangs, on the slowest of machines."""
LINK = {"reconnects"}
LISTENER = {"expelled", "admitted"}
SPOOL = {"spooled": "events", "spool_waits": "waits"}


def snapshot(state: str, mode: Mode, figures: dict[str, object]) -> Statistics:
    """Each figure where it belongs."""
    link = {name: value for name, value in figures.items() if name in LINK}
    listener = {name: value for name, value in figures.items() if name in LISTENER}
    spool = {SPOOL[name]: value for name, value in figures.items() if name in SPOOL}
    rest = {name: value for name, value in figures.items() if name not in {*LINK, *LISTENER, *SPOOL}}
    return Statistics(
        **rest,
        link=LinkStatistics(state=state, **link) if mode in {Mode.CLIENT, Mode.RELAY} else None,
        listener=None if mode is Mode.CLIENT else ListenerStatistics(state="listening", **listener),
        spool=SpoolStatistics(**spool) if spool else None,
    )


def line(state: str, rate: float = 0, mode: Mode = Mode.CLIENT, width: int = 200, **figures: object) -> str:
    return status_line(snapshot(state, mode, figures), rate, mode, width)


def test_the_line_has_what_an_operator_watches() -> None:
    found = line("open", 99.6, confirmed=1234, queued=5, unconfirmed=6, reconnects=7)
    assert found == "open  1,234 confirmed (100/s)  5 queued  6 unconfirmed  7 reconnects"


def test_the_line_has_the_spool_and_why_it_waits() -> None:
    found = line("open", spooled=1234, spool_waits="the disk is full")
    assert "waiting: the disk is full  0 queued" in found
    assert found.endswith("0 reconnects  1,234 in the spool")


def test_the_line_of_a_listener_has_peers_and_what_was_done_to_them() -> None:
    figures = {"confirmed": 9, "received": 1234, "peers": 1, "queued": 5, "unconfirmed": 6, "expelled": 2}
    found = line("listening", 7, Mode.SERVER_OUTPUT, **figures)
    assert found == "1 peer  9 confirmed (7/s)  2 expelled  5 queued  6 unconfirmed"
    assert line("listening", 7, Mode.SERVER_INPUT, **figures) == "1 peer  1,234 received (7/s)  2 expelled"


def test_the_line_of_a_client_has_what_it_hears() -> None:
    assert line("open", received=1234, width=40) == "open  0 confirmed (0/s)  1,234 received"
    assert "received" not in line("open")


def test_the_line_of_a_relay_has_its_link() -> None:
    expected = "3,000 peers  link backing-off  0 confirmed (0/s)  0 queued  0 unconfirmed  2 reconnects"
    assert line("backing-off", mode=Mode.RELAY, peers=3000, reconnects=2) == expected


@given(st.integers(5, 130), st.integers(0, 10**9), st.sampled_from(Mode), st.integers(0, 10**7))
def test_the_line_fits(width: int, number: int, mode: Mode, rate: int) -> None:
    figures = dict.fromkeys(["confirmed", "received", "queued", "unconfirmed", "peers", "expelled"], number)
    found = line("backing-off", rate, mode, width, **figures, reconnects=number, spooled=number)
    assert len(found) <= width


def test_in_40_columns_what_matters_is_there() -> None:
    figures = {"confirmed": 1234567, "queued": 256, "unconfirmed": 1024, "reconnects": 3}
    assert line("open", 99_999, width=39, **figures) == "open  1,234,567 confirmed (99,999/s)"
    now = snapshot("open", Mode.CLIENT, figures)
    progress = progress_bar(450, 1000, 9)
    assert status_line(now, 10, Mode.CLIENT, 39, progress) == " 45% [####------] 0:11 left  open"


def test_the_bar_tells_percent_and_time_left() -> None:
    assert progress_bar(0, 100, 5) == "  0% [----------]"
    assert progress_bar(50, 100, 5000) == " 50% [#####-----] 1:23:20 left"
    assert progress_bar(50, 100, 307) == " 50% [#####-----] 5:07 left"
    assert progress_bar(50, 100, 754) == " 50% [#####-----] 12:34 left"
    assert progress_bar(100, 100, 5) == "100% [##########]"
    assert progress_bar(200, 100, 5) == "100% [##########]", "it has grown meanwhile"
    assert progress_bar(0, 0, 0) == "100% [##########]"


def test_the_sum_tells_what_there_was() -> None:
    figures = {"confirmed": 2000, "undelivered": 1, "received": 1, "reconnects": 2}
    now = snapshot("closed", Mode.CLIENT, figures)
    expected = "2000 events confirmed in 2.0 s, 1,000/s; 1 undelivered; 1 line skipped; 1 message received; 2 reconnects"
    assert summary(now, Mode.CLIENT, 2.0, 1) == expected
    figures = {"received": 1, "admitted": 3}
    now = snapshot("closed", Mode.SERVER_INPUT, figures)
    assert summary(now, Mode.SERVER_INPUT, 0.5, 0) == "1 message received in 0.5 s, 2/s; 3 peers"


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
        assert b"backing-off" in seen
        assert b"\x1b[" in seen, "it has colour"
        assert run.stdin
        run.stdin.close()
        assert run.wait(PATIENCE) == 0
    os.close(ours)
