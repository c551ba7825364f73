"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import trio
from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from trio_wsout.cli.checking import load, print_config, print_problems
from trio_wsout.cli.codes import CONFIGURATION, INTERRUPTED, OK
from trio_wsout.cli.demo import run_demo
from trio_wsout.cli.job import Job
from trio_wsout.cli.printing import show
from trio_wsout.cli.running import run_job
from trio_wsout.cli.screen import Screen
from trio_wsout.config import json_schema
from trio_wsout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["app", "run_app"]

_screen = Screen()
app = App(
    name="trio-wsout",
    help="Deliver events over WebSocket: at least once, in order, and never lost without being told.",
    version=version("trio-wsout"),
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
ConfigPath = Annotated[
    Path | None, Parameter(help="A YAML, TOML or JSON file; may be left out where --set gives the fields.")
]


def run_app() -> None:
    """Parse this process's arguments, run the command, exit with its code."""
    try:
        code = app(exit_on_error=False)
    except CycloptsError:  # it has told what is wrong
        code = CONFIGURATION
    raise SystemExit(CONFIGURATION if _screen.failed else code or OK)


def _run(task: Callable[..., Awaitable[int]], *arguments: object) -> int:
    """Run a task; Ctrl-C where the task has no eye on it ends it without a traceback."""
    code = INTERRUPTED
    try:
        code = trio.run(task, *arguments)
    except* KeyboardInterrupt:
        pass
    return code


@app.command
def run(
    config: ConfigPath = None,
    /,
    *,
    sets: Sets = None,
    contexts: Contexts = None,
    source: Annotated[
        Path | None, Parameter(name="--input", help="Read events from this file, not from standard input.")
    ] = None,
    undelivered: UndeliveredPath = None,
    with_peer: Annotated[
        bool, Parameter(negative=(), help='Print what peers send as {"peer", "event"}; peer is its address.')
    ] = False,
    wait_peers: WaitPeers = None,
    stats: Annotated[bool, Parameter(negative=(), help="End with one line of JSON statistics.")] = False,
    quiet: Annotated[
        bool, Parameter(negative=(), help="No status line, no address, no link changes.")
    ] = False,
) -> int:
    """Send events, one JSON value a line, from standard input or a file; print what peers send.

    Ends with its input: everything is confirmed, then the connections are closed; mode server-input reads
    none, and runs until Ctrl-C or a termination signal. A line that is no JSON is reported with its number,
    and skipped. Exit codes: 0 all confirmed; 2 configuration or usage; 3 could not connect, or gave up; 4
    some events undelivered, lines skipped, or what peers sent not printed; 130 interrupted (Ctrl-C once:
    gracefully, within shutdown-timeout; twice: at once).
    """
    try:
        loaded = load(config, sets or [], contexts or [])
    except ConfigError as error:
        print_problems(error)
        return CONFIGURATION
    job = Job(
        loaded, source, undelivered, wait_peers=wait_peers, with_peer=with_peer, stats=stats, quiet=quiet
    )
    return _run(run_job, job)


@app.command
def check(config: ConfigPath = None, /, *, sets: Sets = None, contexts: Contexts = None) -> int:
    """Print the effective configuration, secrets masked; or every mistake, a line each. Exit code 0 or 2."""
    try:
        loaded = load(config, sets or [], contexts or [])
    except ConfigError as error:
        print_problems(error)
        return CONFIGURATION
    return OK if print_config(loaded) else CONFIGURATION


@app.command
def schema() -> int:
    """Print the JSON Schema of configurations, for editors."""
    return OK if show(json.dumps(json_schema(), indent=2)) else CONFIGURATION


@app.command
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
    return _run(run_demo, events, rate)
