"""Nothing that the command took from its input vanishes, and no trouble shows as a traceback."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio_wsout.cli.lines import InputLines
from trio_wsout.cli.undelivered_file import UndeliveredFile
from trio_wsout.errors import Undelivered
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 300
"""Seconds after which something hangs, on the slowest of machines."""
LINES = 3000
GIVES_UP_LATE = ["reconnect.max-attempts=3", "reconnect.initial-backoff=1500ms", "reconnect.jitter=0"]
"""A link that gives up after 4.5 s: without jitter, for with it that may be before a client has connected."""


def kept(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("signals", [1, 2])
def test_an_interrupted_run_keeps_every_line_that_it_read(silent: str, start, tmp_path, signals: int) -> None:
    lost = tmp_path / "lost.ndjson"
    run = start(silent, "--set", "shutdown-timeout=1s", "--undelivered", str(lost))
    run.send(*(json.dumps({"n": number}) for number in range(LINES)))
    run.wait_for("link dialling")
    run.wait_taken()
    run.interrupt()
    run.wait_for("interrupted")
    if signals == 2:
        run.interrupt()
    code, said = run.end()
    assert code == 130
    assert "Traceback" not in said
    items = kept(lost)
    assert [item["event"]["n"] for item in items] == list(range(LINES))
    assert f"written to {lost}" in said


def test_an_output_that_gave_up_ends_the_run_although_the_input_is_silent(nowhere: str, start) -> None:
    run = start(nowhere, "--set", "reconnect.max-attempts=2", "--set", "reconnect.initial-backoff=10ms")
    run.send("1")
    code, said = run.end()
    assert code == 3
    assert "the link gave up" in said


def test_never_connected_by_the_end_of_the_input_is_3(nowhere: str, command) -> None:
    run = command("run", "--set", f"url={nowhere}", "--set", "shutdown-timeout=300ms", "--stats", text="1\n")
    assert run.returncode == 3
    assert json.loads(run.stderr.splitlines()[-1])["undelivered"] == 1


def test_one_interrupt_ends_an_eager_opening(silent: str, start) -> None:
    deadlines = ["--set", "connect.timeout=1h", "--set", "connect.eager-timeout=1h"]
    run = start(silent, "--set", "connect.mode=eager", *deadlines)
    run.wait_for("link dialling")
    run.interrupt()
    code, said = run.end()
    assert code == 130
    assert "Traceback" not in said


def test_one_terminate_while_input_is_silent(peer, start) -> None:
    run = start(peer.url, "--set", "connect.mode=eager")
    run.wait_for("link open")
    run.interrupt(signal.SIGTERM)
    assert run.end()[0] == 130


def test_many_undelivered_events_are_all_kept(peer, command, tmp_path) -> None:
    lost = tmp_path / "lost.ndjson"
    options = ["--set", f"url={peer.url}", "--set", "payload=binary-base64", "--undelivered", str(lost)]
    run = command("run", *options, text='"%%%"\n' * LINES)
    assert run.returncode == 4
    assert len(kept(lost)) == LINES
    assert f"{LINES} events undelivered, written to {lost}" in run.stderr


def test_undelivered_events_are_appended(nowhere: str, command, tmp_path) -> None:
    lost = tmp_path / "lost.ndjson"
    for number in range(2):
        options = ["--set", f"url={nowhere}", "--set", "reconnect.max-attempts=1", "--undelivered", str(lost)]
        assert command("run", *options, text=f"{number}\n").returncode == 3
    assert [item["event"] for item in kept(lost)] == [0, 1]


def test_a_place_for_undelivered_events_that_cannot_be_written_is_known_first(peer, command) -> None:
    run = command("run", "--set", f"url={peer.url}", "--undelivered", "/none/lost", text="1\n")
    assert (run.returncode, run.stderr) == (2, "/none/lost: No such file or directory\n")
    assert peer.messages == []


def test_a_flood_of_received_messages_is_printed_whole(peer, start) -> None:
    peer.greeting = [json.dumps({"n": number}) for number in range(LINES)]
    run = start(peer.url, "--set", "connect.mode=eager", "--set", "payload=json", "--quiet")
    printed = [json.loads(run.stdout.readline()) for _ in range(LINES)]
    assert [each["n"] if isinstance(each, dict) else json.loads(each)["n"] for each in printed] == [
        *range(LINES)
    ]
    run.stdin.close()
    assert run.end() == (0, "")


def test_a_reader_of_standard_error_that_goes_away_costs_nothing(peer, start) -> None:
    run = start(peer.url, "--stats")
    run.stderr.close()
    run.send("1", "nope", "2")
    run.stdin.close()
    assert run.process.wait(PATIENCE) == 4
    assert peer.messages == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("check", "--set", "url=ws://h/"), 0), (("schema",), 0), (("demo", "--events", "100"), 0)],
)
def test_a_reader_of_results_that_goes_away_is_no_trouble(env, arguments, code) -> None:
    from_shell = (
        f"import subprocess,sys; p=subprocess.Popen([sys.executable,'-m','trio_wsout',*{arguments!r}],"
    )
    script = f"{from_shell}stdout=subprocess.PIPE); p.stdout.close(); sys.exit(p.wait(300))"
    run = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (run.returncode, run.stderr) == (code, "")


def test_a_closed_standard_input_is_told(peer, env) -> None:
    line = f"'{sys.executable}' -m trio_wsout run --set url={peer.url} <&-"
    run = subprocess.run(
        ["bash", "-c", line], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (run.returncode, run.stderr) == (2, "standard input is closed; name a file with --input\n")


def test_an_input_that_cannot_be_read_is_2(peer, command, tmp_path) -> None:
    run = command("run", "--set", f"url={peer.url}", "--input", str(tmp_path), "--quiet")
    assert (run.returncode, run.stderr) == (2, f"{tmp_path}: Is a directory; read up to line 0\n")


def test_long_lines_a_byte_order_mark_and_no_last_line_end(peer, command) -> None:
    long = json.dumps("x" * 300_000)
    run = command("run", "--set", f"url={peer.url}", text=f'\ufeff{{"a":1}}\r\n{long}\r\n3')
    assert (run.returncode, peer.messages) == (0, ['{"a":1}', "x" * 300_000, "3"])


def test_a_damaged_cursor_is_2(peer, command, tmp_path) -> None:
    (tmp_path / "place").write_text("junk")
    options = ["cursor.value-field=id", "cursor.header-name=X-C", f"cursor.persist-to={tmp_path / 'place'}"]
    run = command("run", *[f"--set={each}" for each in (f"url={peer.url}", *options)], text="1\n")
    assert run.returncode == 2
    assert "CursorError" not in run.stderr
    assert str(tmp_path / "place") in run.stderr


def test_an_interrupted_demo_is_130(env) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "trio_wsout", "demo", "--events", "1000000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    assert run.stdout
    assert "listens" in run.stdout.readline()
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130
    assert "Traceback" not in said


def test_no_escape_sequences_in_a_pipe(peer, command) -> None:
    for arguments in [("demo", "--events", "50"), ("--help",), ("run", "--set", f"url={peer.url}"), ("run",)]:
        run = command(*arguments, text="1\nnope\n")
        assert "\x1b" not in run.stdout + run.stderr


def test_what_stays_in_the_spool_is_told_and_sent_by_the_next_run(
    peer, nowhere: str, command, tmp_path
) -> None:
    lost = tmp_path / "lost.ndjson"
    spool = ["--set", f"spool.path={tmp_path / 'spool'}"]
    options = ["--set", f"url={nowhere}", "--set", "shutdown-timeout=300ms", "--undelivered", str(lost)]
    run = command("run", *options, *spool, text="1\n2\n")
    assert run.returncode == 3, "it never connected"
    assert f"stays in the spool at {tmp_path / 'spool'} and goes first at the next start" in run.stderr
    assert kept(lost) == []
    run = command("run", "--set", f"url={peer.url}", *spool, "--stats", text="3\n")
    assert run.returncode == 0
    figures = json.loads(run.stderr.splitlines()[-1])
    assert (figures["accepted"], figures["confirmed"], figures["spool"]["events"]) == (3, 3, 0)


def test_a_damaged_spool_is_2(peer, command, tmp_path) -> None:
    (tmp_path / "spool.db").write_bytes(b"x" * 100)
    run = command("run", "--set", f"url={peer.url}", "--set", f"spool.path={tmp_path}", text="1\n")
    assert run.returncode == 2
    assert "file is not a database; restore it or remove it to start anew" in run.stderr


DEEP = "[" * 400 + "]" * 400
LARGE = "123456789012345678901234567890"


def test_undelivered_events_that_are_deep_or_large_are_kept_with_all_others(
    nowhere: str, listen, tmp_path
) -> None:
    lost = tmp_path / "lost.ndjson"
    link = [f"url={nowhere}", *GIVES_UP_LATE, "payload=json"]
    run, url = listen("relay", *(f"--set={each}" for each in link), "--undelivered", str(lost))
    with connect(url) as client:
        for text in ("1", LARGE, DEEP, "2"):
            client.send(text)
        code, said = run.end()
    assert code == 3, said
    assert "Traceback" not in said
    assert [json.loads(line)["event"] for line in lost.read_text().splitlines()] == [
        1, int(LARGE), json.loads(DEEP), 2
    ]  # fmt: skip


def test_undelivered_bytes_are_kept_in_hexadecimal(nowhere: str, listen, tmp_path) -> None:
    lost = tmp_path / "lost.ndjson"
    link = [f"url={nowhere}", *GIVES_UP_LATE, "payload=binary"]
    run, url = listen("relay", *(f"--set={each}" for each in link), "--undelivered", str(lost))
    with connect(url) as client:
        client.send(b"\x00\xff")
        assert run.end()[0] == 3
    assert [item["event"] for item in kept(lost)] == ["00ff"]


def test_lines_that_were_not_sent_are_kept_as_they_were_read(nowhere: str, start, tmp_path) -> None:
    lost = tmp_path / "lost.ndjson"
    options = ["--set", "delivery.max-unconfirmed=1", "--set", "shutdown-timeout=300ms"]
    run = start(nowhere, *options, "--undelivered", str(lost))
    odd = [f'{{"id":{LARGE}, "f":1.10}}', '{"a":1,"a":2}', DEEP]
    run.send(*map(str, range(500)), *odd, '{"n":\r1}\r', "nope")
    run.wait_for("link backing-off")
    run.wait_taken()
    run.interrupt()
    code, said = run.end()
    assert code == 130
    assert "Traceback" not in said
    lines = lost.read_bytes().splitlines()
    events = [line.removeprefix(b'{"event":').rsplit(b',"reason":', 1)[0].decode() for line in lines]
    assert events == [*map(str, range(500)), *odd, '{"n": 1}', '"nope"']


async def test_what_a_thread_that_was_left_behind_has_read_is_kept(monkeypatch) -> None:
    reading, writing = os.pipe()
    begun, read = threading.Event(), os.read

    def hesitate(descriptor: int, most: int) -> bytes:
        piece = read(descriptor, most)
        if descriptor == reading:
            begun.set()
            time.sleep(0.2)
        return piece

    monkeypatch.setattr(os, "read", hesitate)
    os.write(writing, b"1\n2\n")
    lines = InputLines(reading, 1000, lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lines.read)
        while not begun.is_set():
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert lines.rest(waiting=True) == [b"1", b"2", b""]
    os.close(reading)
    os.close(writing)


def test_an_event_that_cannot_be_written_costs_only_itself(tmp_path, capfd) -> None:
    file = UndeliveredFile(tmp_path / "lost.ndjson")
    file.open()
    file.append([Undelivered(event=event, reason="why") for event in (1, 10**5000, object(), 2)])
    assert [item["event"] for item in kept(tmp_path / "lost.ndjson")] == [1, 2]
    assert capfd.readouterr().err.count("an undelivered event could not be written") == 2
    assert file.outcome.startswith("not all of them")


def test_a_full_disk_under_undelivered_events_is_reported(capfd) -> None:
    file = UndeliveredFile(Path("/dev/full"))
    file.open()
    file.append([Undelivered(event=1, reason="why")])
    full = "No space left on device"
    assert capfd.readouterr().err == f"/dev/full: {full}; 1 undelivered event could not all be written\n"
    assert file.outcome == f"not all of them in /dev/full: {full}"


def test_a_terminal_that_closes_ends_it_and_costs_nothing(nowhere: str, env, tmp_path) -> None:
    lost = tmp_path / "lost.ndjson"
    ours, theirs = pty.openpty()
    # The terminal becomes that of a session of its own, so that the kernel tells the command when it closes.
    script = "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    options = ["--set", f"url={nowhere}", "--set", "shutdown-timeout=1s", "--undelivered", str(lost)]
    with subprocess.Popen(
        [sys.executable, "-c", script, sys.executable, "-m", "trio_wsout", "run", *options],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**env, "TERM": "xterm"}, start_new_session=True,
    ) as run:  # fmt: skip
        os.close(theirs)
        os.write(ours, b"1\n2\n")
        seen = b""
        while b"2 unconfirmed" not in seen:
            seen += os.read(ours, 4096)
        os.close(ours)
        assert run.wait(PATIENCE) == 130
    assert [item["event"] for item in kept(lost)] == [1, 2]


def test_a_terminal_that_tells_its_end_again_and_again_costs_nothing(silent: str, start, tmp_path) -> None:
    lost = tmp_path / "lost.ndjson"
    run = start(silent, "--set", "shutdown-timeout=300ms", "--undelivered", str(lost))
    run.send(*map(str, range(1000)))
    run.wait_for("link dialling")
    patience = time.monotonic() + PATIENCE
    while run.process.poll() is None and time.monotonic() < patience:
        run.interrupt(signal.SIGHUP)
        time.sleep(0.001)
    code, said = run.end()
    assert code == 130
    assert "Traceback" not in said
    assert [item["event"] for item in kept(lost)] == list(range(1000))


def test_a_hangup_that_was_ignored_at_the_start_stays_so(peer, env) -> None:
    script = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", script, sys.executable, "-m", "trio_wsout", "run", "--set", f"url={peer.url}"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
    ) as run:  # fmt: skip
        assert run.stdin
        run.stdin.write(b"1\n")
        run.stdin.flush()
        peer.wait_for(1)
        run.send_signal(signal.SIGHUP)
        run.stdin.write(b"2\n")
        run.stdin.flush()
        peer.wait_for(2)
        run.stdin.close()
        assert run.wait(PATIENCE) == 0


@pytest.fixture
def hasty() -> Iterator[tuple[int, int]]:
    """A pipe that makes nobody wait, at either end, as another process that shares it may have set it."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def fill(pipe: int) -> None:
    """Wait until a pipe holds all that it can."""
    held, give_up = b"\0" * 4, time.monotonic() + PATIENCE
    while int.from_bytes(held, sys.byteorder) < 60_000:
        assert time.monotonic() < give_up
        time.sleep(0.02)
        held = fcntl.ioctl(pipe, termios.FIONREAD, held)


def test_an_empty_input_that_makes_nobody_wait_is_waited_for(peer, env, hasty) -> None:
    ours, theirs = hasty
    with subprocess.Popen(
        [sys.executable, "-m", "trio_wsout", "run", "--set", f"url={peer.url}", "--set", "connect.mode=eager"],
        stdin=ours, stderr=subprocess.PIPE, text=True, env=env,
    ) as run:  # fmt: skip
        assert run.stderr
        while "link open" not in run.stderr.readline():
            pass
        os.write(theirs, b"1\n")
        peer.wait_for(1)
        os.write(theirs, b"2\n")
        os.close(theirs)
        assert (run.wait(PATIENCE), peer.messages) == (0, ["1", "2"])


def test_a_full_output_that_makes_nobody_wait_is_waited_for(peer, env, hasty) -> None:
    peer.greeting = [f"{number:01000}" for number in range(300)]
    ours, theirs = hasty
    with subprocess.Popen(
        [sys.executable, "-m", "trio_wsout", "run", "--set", f"url={peer.url}", "--set", "connect.mode=eager"],
        stdin=subprocess.PIPE, stdout=theirs, env=env,
    ) as run:  # fmt: skip
        os.close(theirs)
        fill(ours)
        os.set_blocking(ours, True)
        with os.fdopen(os.dup(ours)) as pipe:
            assert [json.loads(pipe.readline()) for _ in range(300)] == peer.greeting
        assert run.stdin
        run.stdin.close()
        assert run.wait(PATIENCE) == 0


def test_a_full_standard_error_that_makes_nobody_wait_is_waited_for(peer, env, hasty) -> None:
    ours, theirs = hasty
    with subprocess.Popen(
        [sys.executable, "-m", "trio_wsout", "run", "--set", f"url={peer.url}", "--quiet"],
        stdin=subprocess.PIPE, stderr=theirs, env=env,
    ) as run:  # fmt: skip
        os.close(theirs)
        assert run.stdin
        run.stdin.write(b"nope\n" * 5000)
        run.stdin.close()
        fill(ours)
        os.set_blocking(ours, True)
        with os.fdopen(os.dup(ours)) as pipe:
            assert [line.partition(":")[0] for line in pipe] == [f"line {n}" for n in range(1, 5001)]
        assert run.wait(PATIENCE) == 4


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("schema",), ("demo", "--events", "5")])
def test_a_full_disk_behind_standard_output_is_2_and_told(env, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "trio_wsout", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, env=env, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert (run.returncode, run.stderr) == (2, "standard output: No space left on device\n")


def test_usage_errors_that_nobody_can_be_told_are_2(env) -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "trio_wsout", "run", "--nope"],
            stdout=subprocess.PIPE, stderr=full, text=True, env=env, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert (run.returncode, run.stdout) == (2, "")


def test_what_a_peer_sends_cannot_command_the_terminal(peer, env) -> None:
    peer.greeting = ["a\x9b31mü", "b\u202e"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "trio_wsout", "run", "--set", f"url={peer.url}", "--set", "connect.mode=eager"],
        stdin=subprocess.PIPE, stdout=theirs, env=env,
    ) as run:  # fmt: skip
        os.close(theirs)
        seen = b""
        while seen.count(b"\n") < 2:
            seen += os.read(ours, 4096)
        assert seen.decode().splitlines() == [r'"a\u009b31mü"', r'"b\u202e"']
        assert run.stdin
        run.stdin.close()
        assert run.wait(PATIENCE) == 0
    os.close(ours)
