"""The commands and their options; what they do is in the modules beside this one.

Those are imported by the command that needs them, so that help and mistakes are told at once.
"""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import inspect
import json
import math
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from trio_wsout.cli.codes import CONFIGURATION, INTERRUPTED, OK
from trio_wsout.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsout.config import Config

__all__ = ["app", "run_app"]

_screen = Screen()
app = App(
    name="trio-wsout",
    help="Deliver events over WebSocket: at least once, in order, and never lost without being told.",
    help_format="rich",
    version=version("trio-wsout"),
    version_flags=["--version", "-V"],
    result_action="return_value",
    console=_screen,
    error_console=Screen(stderr=True),
)

Sets = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        negative=(),
        help="Set one field of the configuration, as in reconnect.jitter=0.2 or url=ws://localhost:80/. "
        "The value is JSON, or text where it is no JSON. May be repeated.",
    ),
]
Contexts = Annotated[
    list[str] | None,
    Parameter(name="--context", negative=(), help="Value for {{name}}, as in name=value. May be repeated."),
]
Headers = Annotated[
    list[str] | None,
    Parameter(
        name=["--header", "-H"],
        negative=(),
        help="Header of the handshake, as in 'Name: value'; it is kept secret, as auth.headers are. May be repeated.",
    ),
]
UndeliveredPath = Annotated[
    Path | None,
    Parameter(help='Append events that are not delivered to this file, one {"event", "reason"} a line.'),
]
WaitPeers = Annotated[
    int | None,
    Parameter(
        help="Begin to read when so many peers are there at the same time; more than one in server-output "
        "and relay only.",
        validator=Number(gte=1),
    ),
]
ConfigPlace = Annotated[
    str | None,
    Parameter(
        help="A YAML, TOML or JSON file (- is standard input), or the address ws://host/path; may be left out where "
        "--set gives the fields."
    ),
]
Address = Annotated[str | None, Parameter(help="The address ws://host/path, beside a file.")]


def _command(function: Callable[..., int]) -> Callable[..., int]:
    """Make a function a command; the lines of a paragraph of its help are one, for terminals of any width."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    function.__doc__ = "\n\n".join(" ".join(each.split("\n")) for each in paragraphs)
    return app.command(function)


def run_app() -> None:
    """Parse this process's arguments, run the command, exit with its code."""
    # The parser takes a lone - for an option.
    before = ("", *sys.argv)
    tokens = [
        each if each != "-" else "/dev/stdout" if before[at + 1] == "--undelivered" else "/dev/stdin"
        for at, each in enumerate(sys.argv[1:])
    ]
    try:
        code = app(tokens, exit_on_error=False)
    except CycloptsError:  # it has told what is wrong
        code = CONFIGURATION
    raise SystemExit(CONFIGURATION if _screen.failed else code or OK)


def _run(task: Callable[..., Awaitable[int]], *arguments: object) -> int:
    """Run a task; Ctrl-C where the task has no eye on it ends it without a traceback."""
    import trio

    code = INTERRUPTED
    try:
        code = trio.run(task, *arguments)
    except* KeyboardInterrupt:
        pass
    return code


def _load(
    places: tuple[str | None, ...],
    sets: list[str] | None,
    contexts: list[str] | None,
    headers: list[str] | None,
) -> tuple[Config, Path | None] | None:
    """The configuration and its file; None if it is wrong, which was told."""
    from trio_wsout.cli.checking import load, print_problems
    from trio_wsout.errors import ConfigError

    try:
        return load([each for each in places if each is not None], sets or [], contexts or [], headers or [])
    except ConfigError as error:
        print_problems(error)
        return None


@_command
def run(
    config: ConfigPlace = None,
    url: Address = None,
    /,
    *,
    headers: Headers = None,
    sets: Sets = None,
    contexts: Contexts = None,
    source: Annotated[
        Path | None,
        Parameter(name="--input", help="Read events from this file, not from standard input (-)."),
    ] = None,
    from_undelivered: Annotated[
        Path | None, Parameter(help="Send the events of a file that --undelivered wrote, and no other input.")
    ] = None,
    undelivered: UndeliveredPath = None,
    with_peer: Annotated[
        bool,
        Parameter(
            negative=(),
            help='Print what peers send as {"peer", "event"}, with its address and, if it has one, its identity.',
        ),
    ] = False,
    wait_peers: WaitPeers = None,
    linger: Annotated[
        str | None,
        Parameter(
            help="Wait so long for answers after the last confirmation, as in 500ms or 2s; where it is not given, 100ms "
            "in mode client."
        ),
    ] = None,
    stay: Annotated[
        bool,
        Parameter(
            negative=(), help="Go on when the input has ended, until a signal, as relay and server-input do."
        ),
    ] = False,
    stats: Annotated[bool, Parameter(negative=(), help="End with one line of JSON statistics.")] = False,
    quiet: Annotated[
        bool, Parameter(negative=(), help="No status line, no address, no link changes, no peers, no sum.")
    ] = False,
    verbose: Annotated[
        bool,
        Parameter(
            name=["--verbose", "-v"], negative=(), help="Tell every attempt, and the time of each line."
        ),
    ] = False,
    log_format: Annotated[
        Literal["text", "json"],
        Parameter(
            help="How to write to standard error: lines of text, or of JSON with time, level and message."
        ),
    ] = "text",
) -> int:
    """Send events, one JSON value a line, from standard input or a file; print what peers send.

    Ends with its input: everything is confirmed, then the connections are closed. Modes relay and server-input, and
    --stay, go on until Ctrl-C or a termination signal. A line that is no JSON is reported with its number, and
    skipped. Exit codes: 0 all confirmed; 2 configuration or usage; 3 could not connect, or gave up; 4 some events
    undelivered, lines skipped, or what peers sent not printed; 130 interrupted (Ctrl-C once: gracefully, within
    shutdown-timeout; twice: at once).
    """
    from trio_wsout.cli.job import Job
    from trio_wsout.cli.printing import say, tell_log, teller
    from trio_wsout.cli.running import run_job
    from trio_wsout.config.quantities import parse_duration

    teller.as_json, teller.timed = log_format == "json", verbose
    try:
        seconds = None if linger is None else parse_duration(linger)
    except ValueError as error:
        say(f"--linger: {error}", "error")
        return CONFIGURATION
    loaded = _load((config, url), sets, contexts, headers)
    if loaded is None:
        return CONFIGURATION
    tell_log(verbose=verbose, quiet=quiet)
    job = Job(
        config=loaded[0],
        config_path=loaded[1],
        source=source,
        from_undelivered=from_undelivered,
        undelivered=undelivered,
        wait_peers=wait_peers,
        with_peer=with_peer,
        linger=seconds,
        stay=stay,
        stats=stats,
        quiet=quiet,
        verbose=verbose,
    )
    return _run(run_job, job)


@_command
def check(
    config: ConfigPlace = None,
    url: Address = None,
    /,
    *,
    headers: Headers = None,
    sets: Sets = None,
    contexts: Contexts = None,
) -> int:
    """Print the effective configuration, secrets masked; or every mistake, a line each. Exit code 0 or 2."""
    from trio_wsout.cli.checking import print_config

    loaded = _load((config, url), sets, contexts, headers)
    return OK if loaded is not None and print_config(loaded[0]) else CONFIGURATION


@_command
def schema() -> int:
    """Print the JSON Schema of configurations, for editors."""
    from trio_wsout.cli.printing import show
    from trio_wsout.config import json_schema

    return OK if show(json.dumps(json_schema(), indent=2)) else CONFIGURATION


@_command
def demo(
    *,
    events: Annotated[int, Parameter(help="How many events to send.", validator=Number(gte=1))] = 2000,
    rate: Annotated[
        float, Parameter(help="How many events a second.", validator=Number(gt=0, lt=math.inf))
    ] = 1000,
) -> int:
    """Fan events out to five clients over real sockets; one is cut off and resumes, and nothing is lost.

    Exit codes: 0 every client has every event once, in order; 2 standard output can't be written; 4 it has
    not; 130 interrupted.
    """
    from trio_wsout.cli.demo import run_demo

    # Its own screen is put in order before it ends.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return _run(run_demo, events, rate)
