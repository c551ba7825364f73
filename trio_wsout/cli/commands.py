"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import App, Parameter

from trio_wsout.cli.checking import load, print_config, print_problems
from trio_wsout.cli.codes import CONFIGURATION, OK
from trio_wsout.cli.demo import run_demo
from trio_wsout.cli.running import Job, run_job
from trio_wsout.config import json_schema
from trio_wsout.errors import ConfigError

__all__ = ["app", "run_app"]

app = App(
    name="trio-wsout",
    help="Deliver events over WebSocket: at least once, in order, and never lost without being told.",
    version=version("trio-wsout"),
    result_action="return_value",
)

Sets = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        negative=(),
        help="Set one field, as in reconnect.jitter=0.2; JSON values; may be repeated.",
    ),
]
Contexts = Annotated[
    list[str] | None,
    Parameter(name="--context", negative=(), help="Value for {{name}}, as in name=value; may be repeated."),
]
ConfigPath = Annotated[Path | None, Parameter(help="A YAML, TOML or JSON file.")]


def run_app() -> None:
    """Parse this process's arguments, run the command, exit with its code."""
    raise SystemExit(app() or OK)


@app.command
def run(
    config: ConfigPath = None,
    /,
    *,
    sets: Sets = None,
    contexts: Contexts = None,
    source: Annotated[Path | None, Parameter(name="--input", help="Read events from this file.")] = None,
    undelivered: Annotated[Path | None, Parameter(help="Write undelivered events to this file.")] = None,
    with_peer: Annotated[bool, Parameter(negative=(), help="Wrap what peers send with who sent it.")] = False,
    wait_peers: Annotated[int | None, Parameter(help="Read only when so many peers are there.")] = None,
    stats: Annotated[bool, Parameter(negative=(), help="End with one line of JSON statistics.")] = False,
    quiet: Annotated[bool, Parameter(negative=(), help="No status line and no link changes.")] = False,
) -> int:
    """Send events, one JSON value a line, from standard input or a file; print what peers send.

    Ends with its input: everything is confirmed, then the connection is closed. Exit codes: 0 all
    confirmed; 2 configuration or usage; 3 could not connect, or gave up; 4 some events undelivered or
    lines skipped; 130 interrupted (Ctrl-C once: gracefully; twice: at once).
    """
    try:
        loaded = load(config, sets or [], contexts or [])
    except ConfigError as error:
        print_problems(error)
        return CONFIGURATION
    if wait_peers is not None:
        print("--wait-peers is for the server modes; this version runs mode client", file=sys.stderr)
        return CONFIGURATION
    job = Job(loaded, source, undelivered, with_peer=with_peer, stats=stats, quiet=quiet)
    return trio.run(run_job, job)


@app.command
def check(config: ConfigPath = None, /, *, sets: Sets = None, contexts: Contexts = None) -> int:
    """Print the effective configuration, secrets masked; or every mistake, a line each. Exit code 0 or 2."""
    try:
        print_config(load(config, sets or [], contexts or []))
    except ConfigError as error:
        print_problems(error)
        return CONFIGURATION
    return OK


@app.command
def schema() -> int:
    """Print the JSON Schema of configurations, for editors."""
    print(json.dumps(json_schema(), indent=2))
    return OK


@app.command
def demo(*, events: Annotated[int, Parameter(help="How many events to send.")] = 2000) -> int:
    """Send events to an endpoint in this process over a real socket that is cut on the way; nothing is lost."""
    return trio.run(run_demo, events)
