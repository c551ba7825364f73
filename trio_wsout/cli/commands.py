"""The commands; the modules beside this one do the work.

A command imports those that it needs when it runs, so that help and mistakes are shown without delay.
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
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from trio_wsout.cli.exit_codes import CONFIGURATION, INTERRUPTED, OK
from trio_wsout.cli.options import Address, ConfigFile, ConfigOptions, RunOptions
from trio_wsout.cli.terminal import Screen, print_result, report, report_log, reporter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsout.config import Config

_screen = Screen()
app = App(
    name="trio-wsout",
    help="Deliver events over WebSocket: at least once, in order, and no loss goes unreported.",
    help_format="rich",
    version=version("trio-wsout"),
    version_flags=["--version", "-V"],
    result_action="return_value",
    default_parameter=Parameter(negative=()),
    console=_screen,
    error_console=Screen(stderr=True),
)


def _command(function: Callable[..., int]) -> Callable[..., int]:
    """Make a function a command. In its help each paragraph is one line, for terminals of any width."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    function.__doc__ = "\n\n".join(" ".join(each.split("\n")) for each in paragraphs)
    return app.command(function)


def run_app() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    # The parser takes a lone - for an option.
    before = ("", *sys.argv)
    tokens = [
        each if each != "-" else "/dev/stdout" if before[at + 1] == "--undelivered" else "/dev/stdin"
        for at, each in enumerate(sys.argv[1:])
    ]
    try:
        code = app(tokens, exit_on_error=False)
    except CycloptsError:  # it has reported the mistake
        code = CONFIGURATION
    raise SystemExit(CONFIGURATION if _screen.failed else code or OK)


def _run_in_trio(task: Callable[..., Awaitable[int]], *arguments: object) -> int:
    """Run a task and return its exit code; a Ctrl-C that the task does not catch ends it without a traceback."""
    import trio

    code = INTERRUPTED
    try:
        code = trio.run(task, *arguments)
    except* KeyboardInterrupt:
        pass
    return code


def _load(arguments: tuple[str | None, ...], options: ConfigOptions) -> tuple[Config, Path | None] | None:
    """Return the configuration and the path of its file, or None after reporting its problems."""
    from trio_wsout.cli.configuration import load, print_problems
    from trio_wsout.errors import ConfigError

    try:
        return load([each for each in arguments if each is not None], options)
    except ConfigError as error:
        print_problems(error)
        return None


_NO_FIELDS, _DEFAULTS = ConfigOptions(), RunOptions()


@_command
def run(
    config: ConfigFile = None,
    /,
    *url: Address,
    fields: ConfigOptions = _NO_FIELDS,
    options: RunOptions = _DEFAULTS,
) -> int:
    """Send events, one JSON value a line, from standard input or a file; print what peers send.

    Ends with its input: everything is confirmed, then the connections are closed. Modes relay and server-input, and
    --stay, go on until Ctrl-C or a termination signal. A line that is no JSON is reported with its number, and
    skipped. Exit codes: 0 all confirmed; 2 configuration or usage; 3 could not connect, or gave up; 4 some events
    undelivered, lines skipped, or what peers sent not printed; 130 interrupted (Ctrl-C once: gracefully, within
    shutdown-timeout; twice: immediately).
    """
    from trio_wsout.cli.child import find_parent
    from trio_wsout.cli.processes import run_processes
    from trio_wsout.cli.run import Run, run_to_the_end
    from trio_wsout.config.quantities import parse_duration

    reporter.as_json, reporter.timed = options.log_format == "json", options.verbose
    try:
        linger = None if options.linger is None else parse_duration(options.linger)
    except ValueError as error:
        report(f"--linger: {error}", "error")
        return CONFIGURATION
    parent = find_parent()
    loaded = _load((config, *url), fields) if parent is None else (parent.role.config, None)
    if loaded is None:
        return CONFIGURATION
    report_log(verbose=options.verbose, quiet=options.quiet)
    if parent is not None:
        reporter.number = parent.role.number
    several = parent is None and (options.processes or 1) > 1
    return _run_in_trio(run_processes if several else run_to_the_end, Run(*loaded, options, linger, parent))


@_command
def check(config: ConfigFile = None, /, *url: Address, fields: ConfigOptions = _NO_FIELDS) -> int:
    """Print the effective configuration, secrets redacted; or every mistake, a line each. Exit code 0 or 2."""
    from trio_wsout.cli.configuration import print_config

    loaded = _load((config, *url), fields)
    return OK if loaded is not None and print_config(loaded[0]) else CONFIGURATION


@_command
def schema() -> int:
    """Print the JSON Schema of configurations, for editors."""
    from trio_wsout.config import json_schema

    return OK if print_result(json.dumps(json_schema(), indent=2)) else CONFIGURATION


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

    # A KeyboardInterrupt lets it put the terminal in order before it ends.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return _run_in_trio(run_demo, events, rate)
