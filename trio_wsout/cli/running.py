"""`trio-wsout run`: events in, one JSON value a line; what peers send out, the same way."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import attrs
import orjson
import trio
from attrs import define, frozen

from trio_wsout._core.link import State
from trio_wsout._core.payload import parse_json
from trio_wsout.cli.codes import CONFIGURATION, INTERRUPTED, NO_CONNECTION, OK, SOME_UNDELIVERED
from trio_wsout.cli.keeping import Keeper, as_undelivered
from trio_wsout.cli.lines import Lines
from trio_wsout.cli.printing import print_received, say
from trio_wsout.cli.status import run_status
from trio_wsout.config.sections import BatchMode
from trio_wsout.errors import ConfigError, ConnectError, CursorError, DeliveryError, OutputError, Undelivered
from trio_wsout.output import open_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio_wsout._core.link_change import LinkChange
    from trio_wsout._core.statistics import Statistics
    from trio_wsout.config import Config
    from trio_wsout.output import Output

__all__ = ["Job", "run_job"]


@frozen
class Job:
    """What one `run` was asked to do."""

    config: Config
    source: Path | None
    undelivered: Path | None
    with_peer: bool = attrs.field(kw_only=True)
    stats: bool = attrs.field(kw_only=True)
    quiet: bool = attrs.field(kw_only=True)


@define(eq=False)
class _Run:
    """One job on its way: what happened so far, and what ends it."""

    job: Job
    keeper: Keeper
    opening: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled, the output is closed at once; for as long as nothing was sent."""
    feeding: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled, no more is read, and the output ends gracefully."""
    statistics: Callable[[], Statistics] | None = None
    number: int = 0
    """Lines that were sent or skipped."""
    unsent: list[bytes] = attrs.field(factory=list)
    """Lines that were read and neither."""
    skipped: int = 0
    opened: bool = False
    """Whether there ever was a connection."""
    interrupted: bool = False
    unreadable: bool = False

    def link_changed(self, change: LinkChange) -> None:
        """Remember that there was a connection, and say what changed."""
        self.opened = self.opened or change.state is State.OPEN
        if self.job.quiet:
            return
        delay = f"; next attempt in {change.delay:.2g} s" if change.delay is not None else ""
        why = f": {change.ending.detail}" if change.ending is not None and change.delay is not None else ""
        say(f"link {change.state.value}{why}{delay}")


async def run_job(job: Job) -> int:
    """Run a job to its end; gives the exit code."""
    if job.source is None and sys.stdin is None:
        say("standard input is closed; name a file with --input")
        return CONFIGURATION
    try:
        descriptor = 0 if job.source is None else os.open(job.source, os.O_RDONLY)
        run = _Run(job, Keeper(job.undelivered))
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")
        return CONFIGURATION
    code = await _told(run, Lines(descriptor))
    if job.stats and run.statistics is not None:
        say(orjson.dumps(attrs.asdict(run.statistics())).decode())
    return code


async def _told(run: _Run, lines: Lines) -> int:
    """Run it, and tell people how it ended."""
    failure: OutputError | None = None
    try:
        await _deliver(run, lines)
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem))
        return CONFIGURATION
    except OutputError as error:
        failure = error
    except trio.BrokenResourceError as error:
        if not isinstance(error.__cause__, OutputError):
            raise
        failure = error.__cause__
    if failure is not None:
        _tell_failure(run, failure)
    elif run.keeper.count:
        say(f"{run.keeper.count} events undelivered, {run.keeper.where}")
    _tell_unsent(run, lines.begun)
    return _code(run, failure)


def _tell_failure(run: _Run, failure: OutputError) -> None:
    """Say why the output ended, and keep what it could not deliver."""
    say(f"{type(failure).__name__}: {failure}")
    if failure.undelivered:
        run.keeper.count += len(failure.undelivered)
        run.keeper.keep(failure.undelivered)
        say(f"{len(failure.undelivered)} accepted events were not confirmed, {run.keeper.written}")


def _tell_unsent(run: _Run, begun: bytes) -> None:
    """Keep the lines that were taken from the input and not sent: a pipe will not give them again."""
    unsent = [line for line in [*run.unsent, begun] if line.strip()]
    if unsent:
        run.keeper.keep([as_undelivered(line) for line in unsent])
        say(f"line {run.number + 1} and on: {len(unsent)} lines were read and not sent, {run.keeper.written}")


def _code(run: _Run, failure: OutputError | None) -> int:
    if run.interrupted:
        return INTERRUPTED
    if run.unreadable:
        return CONFIGURATION
    if isinstance(failure, ConnectError) or (isinstance(failure, DeliveryError) and not run.opened):
        return NO_CONNECTION
    if isinstance(failure, CursorError) and not run.keeper.count:
        return CONFIGURATION
    return SOME_UNDELIVERED if failure is not None or run.keeper.count or run.skipped else OK


async def _deliver(run: _Run, lines: Lines) -> None:
    """Open the output, feed it, and leave it gracefully when the input ends or a signal comes."""
    config = run.job.config
    reports, taken = trio.open_memory_channel[Undelivered](_room(config))
    trouble: Exception | None = None
    # What is in `lasting` ends by itself, as its channels end; what is in `watching` is ended.
    async with trio.open_nursery() as lasting, trio.open_nursery() as watching:
        lasting.start_soon(run.keeper.run, taken.clone())
        watching.start_soon(_watch_signals, run, lasting.cancel_scope)
        try:
            with run.opening:
                async with open_output(
                    config, undelivered=reports, receive=True, on_state=run.link_changed
                ) as output:
                    run.statistics = output.statistics
                    lasting.start_soon(_print_received, run, output)  # noqa: ASYNC111 - it ends with the output
                    if not run.job.quiet and sys.stderr is not None and sys.stderr.isatty():
                        watching.start_soon(run_status, output)  # noqa: ASYNC111 - statistics are always there
                    with run.feeding:
                        await _send_lines(run, output, lines)
        except Exception as error:  # noqa: BLE001 - raised again outside of the nurseries
            trouble = error
        finally:
            reports.close()
        watching.cancel_scope.cancel()
    run.keeper.keep_rest(taken)
    if trouble is not None:
        raise trouble


def _room(config: Config) -> int:
    """Room for all that an output holds, a byte an event: at the second Ctrl-C it leaves it there at once."""
    return config.delivery.max_unconfirmed_bytes + 2 * config.max_message_size + 1024


async def _watch_signals(run: _Run, everything: trio.CancelScope) -> None:
    """First signal: read no more, end gracefully; second: at once."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if run.interrupted:
                everything.cancel()
                return
            run.interrupted = True
            say("interrupted: delivering what was accepted; once more to end at once")
            if run.statistics is None:
                run.opening.cancel()
            run.feeding.cancel()


async def _print_received(run: _Run, output: Output) -> None:
    await print_received(output, with_peer=run.job.with_peer)
    # The output has ended; if by itself, then whoever waits for the next line waits in vain.
    run.feeding.cancel()


async def _send_lines(run: _Run, output: Output, source: Lines) -> None:
    """Send every line; one that can't be sent is reported with its number and skipped."""
    batch = run.job.config.batch
    documents = batch is not None and batch.mode is BatchMode.DOCUMENT
    try:
        while lines := await source.read():
            before = run.number
            try:
                for line in lines:
                    await _send_line(run, output, line, documents=documents)
                    run.number += 1
            finally:
                run.unsent = lines[run.number - before :]
    except OSError as error:
        run.unreadable = True
        say(f"{run.job.source or 'standard input'}: {error.strerror}; read up to line {run.number}")


async def _send_line(run: _Run, output: Output, line: bytes, *, documents: bool) -> None:
    try:
        if line.strip():
            await output.send(parse_json(line))
        elif documents:
            # An empty line ends a document, as it does in many stream formats.
            await output.end_document()
    except orjson.JSONDecodeError as error:
        run.skipped += 1
        say(f"line {run.number + 1}: not JSON ({error.msg}); skipped")
    except ValueError as error:
        run.skipped += 1
        say(f"line {run.number + 1}: {error}; skipped")
