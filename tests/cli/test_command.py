"""The command, as a shell runs it: real processes, real sockets, every exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_events_of_standard_input_are_delivered(peer, command) -> None:
    lines = "".join(json.dumps({"n": number}) + "\n" for number in range(2000))
    run = command("run", "--set", f"url={peer.url}", "--stats", text=lines)
    assert run.returncode == 0, run.stderr
    assert [json.loads(message)["n"] for message in peer.messages] == list(range(2000))
    statistics = json.loads(run.stderr.splitlines()[-1])
    assert (statistics["accepted"], statistics["confirmed"], statistics["link"]["state"]) == (
        2000,
        2000,
        "closed",
    )
    assert run.stdout == ""
    assert "\x1b" not in run.stderr
    assert "link open" in run.stderr


def test_of_several_addresses_one_that_is_there_is_enough(peer, nowhere: str, command) -> None:
    run = command("run", nowhere, peer.url, text="1\n")
    assert (run.returncode, peer.messages) == (0, ["1"])
    urls = json.dumps([nowhere, peer.url])
    run = command("run", "--set", f"url={urls}", text="2\n")
    assert (run.returncode, peer.messages) == (0, ["1", "2"])
    run = command("check", nowhere, peer.url)
    assert run.returncode == 0
    assert nowhere in run.stdout


def test_a_file_of_each_kind_and_context_and_quiet(peer, command, tmp_path: Path) -> None:
    events = tmp_path / "events.ndjson"
    events.write_text('{"a": 1}\n[2]\n"three"')
    (tmp_path / "a.yaml").write_text("output:\n  web-socket:\n    url: '{{where}}'\n")
    (tmp_path / "a.toml").write_text("url = '{{where}}'\n")
    (tmp_path / "a.json").write_text('{"url": "{{where}}"}')
    for name in ("a.yaml", "a.toml", "a.json"):
        run = command(
            "run", str(tmp_path / name), "--context", f"where={peer.url}", "--input", str(events), "--quiet"
        )
        assert (run.returncode, run.stderr) == (0, "")
    assert peer.messages == ['{"a": 1}', "[2]", "three"] * 3


PATIENCE = 300
"""Seconds after which something hangs, on the slowest of machines."""
EXACT = [
    '{"a":1,"a":2}',
    '{"price":12345678.123456789012345}',
    '{"a": 0.1234567890123456789}',
    '{"a":9007199254740993.0}',
    '{"a":18446744073709551616}',
    '{"a":1e999, "b":"\\ud800\\u00e9"}',
    "-0",
    "[ ]",
]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "{}"),
        (["payload=json"], "{}"),
        (["batch=" + '{"mode":"fixed","fixed-size":1,"wrap-as-json":true}'], "[{}]"),
        (["batch=" + '{"mode":"fixed","fixed-size":1,"header":"h"}'], "h\n{}"),
        (["delivery.stamp=s"], None),
        (["spool.path={tmp_path}"], "{}"),
    ],
)
def test_a_line_arrives_as_it_is(peer, command, tmp_path: Path, options, message: str | None) -> None:
    sets = [f"--set={each.replace('{tmp_path}', str(tmp_path))}" for each in options]
    run = command(
        "run", "--set", f"url={peer.url}", *sets, "--quiet", text="".join(f" {line}\t\r\n" for line in EXACT)
    )
    assert (run.returncode, run.stderr) == (0, "")
    if message is not None:
        assert peer.messages == [message.replace("{}", line) for line in EXACT]
        return
    for sent, line in zip(peer.messages, EXACT, strict=True):
        assert sent.startswith(line[:-1] + ',"s":"' if line.startswith("{") else line)


def test_lines_that_cannot_be_sent_are_told_with_their_number(peer, command) -> None:
    run = command("run", "--set", f"url={peer.url}", "--quiet", text='{"a":1}\n\n{nope\n{"a":NaN}\n"b"\n')
    assert run.returncode == 4
    assert peer.messages == ['{"a":1}', "b"]
    assert [line.split(":")[0] for line in run.stderr.splitlines()] == ["line 3", "line 4"]


def test_an_empty_line_ends_a_document(peer, command) -> None:
    run = command(
        "run",
        "--set",
        f"url={peer.url}",
        "--set",
        'batch={"mode": "document", "timeout": "1h"}',
        text="1\n2\n\n3\n",
    )
    assert run.returncode == 0
    assert peer.messages == ["1\n2", "3"]


@pytest.mark.parametrize(
    ("option", "line"), [((), '"hi"'), (("--with-peer",), '{"peer": "%s", "event": "hi"}')]
)
def test_what_the_peer_sends_is_printed(peer, start, option: tuple[str, ...], line: str) -> None:
    peer.greeting = ["hi"]
    expected = line % peer.url[5:-1] if "%" in line else line
    run = start(peer.url, "--set", "connect.mode=eager", "--quiet", *option)
    assert json.loads(run.stdout.readline()) == json.loads(expected)
    run.stdin.close()
    assert run.end() == (0, "")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_receiver_goes_on_behind_the_last_line_that_it_wrote(peer, start, how: signal.Signals) -> None:
    follow = ("--quiet", "--set", "cursor.from=received", "--set", "cursor.value-field=id")
    for lines in (['{"id":1}', '{"id":2}'], ['{"gap":{"asked":"2","first":"9"}}', '{"id": 9}']):
        peer.greeting = lines
        run = start(peer.url, *follow)
        assert [run.stdout.readline() for _ in lines] == [f"{line}\n" for line in lines]
        run.interrupt(how)
        code, said = run.end()
        assert code == 130
        assert ("the server reports a gap: asked for 2, it goes on with 9" in said) == ("gap" in lines[0])
    run = start(peer.url, *follow)
    assert run.stdout.readline()
    run.stdin.close()
    assert run.end()[0] == 0
    assert peer.cursors == [None, "2", "9"]


def test_a_receiver_that_cannot_write_ends_and_its_cursor_stays(peer, start, command) -> None:
    peer.greeting = ['{"id":1}', '{"id":2}']
    follow = ("--quiet", "--set", "cursor.from=received", "--set", "cursor.value-field=id")
    reading, writing = os.pipe()
    with os.fdopen(reading) as silent_input, os.fdopen(writing, "w"), Path("/dev/full").open("w") as full:
        streams = {"input": None, "stdin": silent_input, "stdout": full}
        run = command("run", "--set", f"url={peer.url}", *follow, **streams)
    assert run.returncode == 4
    assert run.stderr == "standard output: No space left on device; what peers send is no longer printed\n"
    again = start(peer.url, *follow)
    assert again.stdout.readline() == '{"id":1}\n'
    assert peer.cursors == [None, None]


@pytest.mark.parametrize("says", [True, False])
def test_a_reader_of_standard_output_that_goes_away_ends_it_and_costs_no_event(
    peer, start, *, says: bool
) -> None:
    run = start(peer.url, "--quiet")
    run.send("1")
    peer.wait_for(1)
    if says:
        peer.say("hi")
        assert run.stdout.readline() == '"hi"\n'
    run.stdout.close()
    code, said = run.end()
    assert code == 4
    assert said == "standard output: nobody reads it any more; delivering what was accepted\n"
    assert peer.messages == ["1"]


def test_giving_up_is_3_and_keeps_the_events(nowhere: str, command, tmp_path: Path) -> None:
    lost = tmp_path / "lost.ndjson"
    options = ["--set", f"url={nowhere}", "--set", "reconnect.max-attempts=2", "--undelivered", str(lost)]
    run = command("run", *options, "--set", "reconnect.initial-backoff=10ms", text='{"a":1}\n{"a":2}\n')
    assert run.returncode == 3
    assert [json.loads(line)["event"] for line in lost.read_text().splitlines()] == [{"a": 1}, {"a": 2}]
    assert "the link gave up after 2 failures in a row" in run.stderr
    assert "ConnectError" not in run.stderr
    assert "Connection refused" in run.stderr
    assert "Traceback" not in run.stderr


def test_undelivered_events_are_4(peer, command, tmp_path: Path) -> None:
    lost = tmp_path / "lost.ndjson"
    options = ["--set", f"url={peer.url}", "--set", "payload=binary-base64", "--quiet"]
    run = command("run", *options, "--undelivered", str(lost), text='"AAEC"\n"%%%"\n')
    assert run.returncode == 4
    assert "base64" in json.loads(lost.read_text())["reason"]
    run = command("run", *options, text='"%%%"\n')
    assert run.returncode == 4
    assert "1 event undelivered, lost" in run.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "/none.yaml"),
        ("run", "--set", "url"),
        ("run", "--set", "url=ftp://x"),
        ("run", "--set", "url=ws://x", "--input", "/none.ndjson"),
        ("run", "--set", "url=ws://x", "--wait-peers", "3"),
        ("run", "--set", "mode=relay"),
        ("run", "--set", "mode=server-input", "--set", "server.bind=127.0.0.1:0", "--wait-peers", "1"),
        ("run", "--set", "mode=server-input", "--set", "server.bind=127.0.0.1:0", "--input", "/dev/null"),
        ("run", "--set", "mode=server-output", "--set", "server.bind=127.0.0.1:0", "--wait-peers", "0"),
        ("run", "--set", "url=wss://x", "--set", "tls.ca-certificate=/none.pem"),
        ("check", "--set", "url=7"),
        ("check", "--set", "max-message-size=" + "9" * 5000),
        ("check", "--set", "headers=" + "[" * 5000),
    ],
)
def test_what_is_wrong_with_the_job_is_2_and_told(command, arguments: tuple[str, ...]) -> None:
    run = command(*arguments)
    assert run.returncode == 2
    assert run.stderr
    assert "Traceback" not in run.stderr


def test_an_initial_cursor_that_is_no_unicode_is_not_used_and_counted(command) -> None:
    cursor = '{"header-name": "C", "initial-value": "{{x}}"}'
    options = ["--set", f"cursor={cursor}", "--context", "x=\udc80", "--set", "reconnect.max-attempts=1"]
    run = command("run", "--set", "url=ws://127.0.0.1:9/", *options, "--stats", text="1\n")
    assert run.returncode == 3
    figures = json.loads(run.stderr.splitlines()[-1])
    assert (figures["link"]["cursor"], figures["unusable_cursors"]) == (None, 1)


def test_usage_errors_are_told(command) -> None:
    run = command("run", "--nope")
    assert run.returncode != 0
    assert "--nope" in run.stdout + run.stderr


def test_check_prints_the_effective_configuration_masked(command, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("url: http://h/\nauth:\n  bearer-token: canary\n")
    run = command("check", str(job), "--set", "retry.retries=3")
    assert run.returncode == 0
    assert "canary" not in run.stdout
    assert "bearer-token: '***'" in run.stdout
    assert "retries: 3" in run.stdout
    assert "initial-backoff: 0.5s" in run.stdout


def test_check_finds_a_proxy_that_can_not_be_used(command, env: dict[str, str]) -> None:
    env["http_proxy"] = "ftp://user:canary@p"
    run = command("check", "--set", "url=ws://h/")
    assert run.returncode == 2
    assert "connect.proxy: the environment variable http_proxy is no proxy" in run.stderr
    assert "canary" not in run.stderr
    assert command("check", "--set", "url=wss://h/").returncode == 0


def test_check_tells_five_mistakes_in_five_lines(command, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "url: http://u:canary@h\nretyr: {}\nreconnect:\n  jitter: 3\n  max-backoff: 0s\nbatch:\n  mode: fxied\n"
    )
    run = command("check", str(job))
    assert run.returncode == 2
    lines = run.stderr.splitlines()
    assert [line.removeprefix(f"{job}:").split(": ")[0] for line in lines] == [
        "1:1",
        "2:1",
        "4:3",
        "5:3",
        "7:3",
    ]
    for line, words in zip(
        lines,
        ["auth.basic", "did you mean retry?", "0 to 1", "longer than 0", "fixed, document"],
        strict=True,
    ):
        assert words in line
    assert "canary" not in run.stderr


def test_letters_that_the_encoding_has_not_are_escaped(env, command) -> None:
    env["PYTHONIOENCODING"] = "ascii"
    run = command("check", "--set", "url=ws://h/", "--set", "headers.A=ü")
    assert (run.returncode, run.stderr) == (0, "")
    assert "A: \\xfc\n" in run.stdout


def test_what_a_file_says_cannot_command_the_terminal(command, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(r'"a\e[31m\u202eb\nü": 1' + "\nurl: ws://h\n", "utf-8")
    run = command("check", str(job))
    assert run.returncode == 2
    assert run.stderr.startswith(rf"{job}:1:1: a\u001b[31m\u202eb\nü: is not a known field")
    assert len(run.stderr.splitlines()) == 1


def test_pairs_that_are_none_are_told_without_their_values(command) -> None:
    run = command("check", "--set", "url", "--set", "=canary", "--context", "a")
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        "--set: expected name=value; found 'url'",
        "--set: expected name=value; found '=…'",
        "--context: expected name=value; found 'a'",
    ]


def test_context_values_are_what_was_written_and_stand_for_numbers_where_they_are_asked_for(
    command, tmp_path: Path
) -> None:
    job = tmp_path / "job.json"
    fields = {
        "url": "ws://{{site.host}}/{{exact}}/{{n}}/{{flag}}/{{zero}}",
        "batch": {"mode": "fixed", "fixed-size": "{{n}}", "use-document-marker": "{{flag}}"},
        "max-message-size": "{{limits.size}}",
    }
    job.write_text(json.dumps(fields), "utf-8")
    values = ["site.host=h", "exact=1.50", "n=5", "flag=true", "zero=007", 'limits={"size": 7000}']
    run = command("check", str(job), *[part for value in values for part in ("--context", value)])
    assert (run.returncode, run.stderr) == (0, "")
    for line in (
        "url: ws://h/1.50/5/true/007",
        "fixed-size: 5",
        "use-document-marker: true",
        "max-message-size: 7000",
    ):
        assert line in run.stdout


@pytest.mark.parametrize("rate", ["inf", "nan", "0"])
def test_a_rate_that_is_none_is_2(command, rate: str) -> None:
    run = command("demo", "--rate", rate)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "--rate" in run.stderr


def test_schema_is_a_schema(command) -> None:
    run = command("schema")
    assert run.returncode == 0
    assert json.loads(run.stdout)["properties"]["url"]


def test_demo_loses_nothing(command) -> None:
    run = command("demo", "--events", "500")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Every client has every event once, in order." in run.stdout
    assert "client 3 is cut off, it has 250 events" in run.stdout
    assert "client 3 is back" in run.stdout


def test_help_and_version(command) -> None:
    assert "--undelivered" in command("run", "--help").stdout
    assert command("--version").stdout.strip()[0].isdigit()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_gracefully(peer, start, how: signal.Signals) -> None:
    run = start(peer.url)
    run.send('{"a":1}')
    peer.wait_for(1)  # the link may be open before the line is read
    run.interrupt(how)
    code, said = run.end()
    assert code == 130
    assert "Traceback" not in said
    assert peer.messages == ['{"a":1}']


def test_the_second_signal_ends_at_once(nowhere: str, start) -> None:
    run = start(nowhere, "--set", "shutdown-timeout=1h")
    run.send('{"a":1}')
    run.wait_for("link backing-off")
    run.wait_taken()
    run.interrupt()
    run.wait_for("interrupted")
    run.interrupt()
    code, said = run.end()
    assert code == 130
    assert "1 event undelivered, lost" in said
    assert "Traceback" not in said


def test_sigterm_that_comes_twice_as_one_ends_gracefully(nowhere: str, start) -> None:
    run = start(nowhere, "--set", "shutdown-timeout=1s")
    run.send('{"a":1}')
    run.wait_for("link backing-off")
    run.wait_taken()
    run.interrupt(signal.SIGTERM)
    run.wait_for("interrupted")  # else the system may make one of the two
    run.interrupt(signal.SIGTERM)
    code, said = run.end()
    assert code == 130
    assert "not confirmed within shutdown-timeout (1 s)" in said


def test_without_cyclopts_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['cyclopts'] = None\nfrom trio_wsout.cli import main\nmain()"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert run.returncode == 2
    assert "pip install 'trio-wsout[cli]'" in run.stderr
