"""`trio-wsout run`: events in, one JSON value a line; what peers send out, the same way."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import attrs
import trio

from trio_wsout._core.json_line import JsonLine
from trio_wsout.cli.codes import CONFIGURATION
from trio_wsout.cli.ending import exit_code, tell_failure, tell_missed, tell_unsent
from trio_wsout.cli.job import Run
from trio_wsout.cli.keeping import Keeper
from trio_wsout.cli.lines import Lines
from trio_wsout.cli.printing import print_received, say
from trio_wsout.cli.status import run_status
from trio_wsout.config.sections import BatchMode
from trio_wsout.errors import ConfigError, OutputError, Undelivered
from trio_wsout.output import open_output

if TYPE_CHECKING:
    from trio_wsout.cli.job import Job
    from trio_wsout.config import Config
    from trio_wsout.output import Output

__all__ = ["run_job"]

_BEFORE_QUEUES = 1024
"""Messages that a listener may hold before they are in the queues of its peers."""
_HANGUP = [
    each for each in signal.Signals if each.name == "SIGHUP" and signal.getsignal(each) != signal.SIG_IGN
]
"""The signal of a terminal that closes; none where it was ignored from the start (`nohup`), or is not known."""


async def run_job(job: Job) -> int:
    """Run a job to its end; gives the exit code."""
    if job.misfit is not None:
        say(job.misfit)
        return CONFIGURATION
    try:
        descriptor = 0 if job.source is None else os.open(job.source, os.O_RDONLY)
        run = Run(job, Keeper(job.undelivered))
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")
        return CONFIGURATION
    code = await _told(run, Lines(descriptor))
    if run.statistics is not None:
        figures = run.statistics()
        tell_missed(run, figures)
        if job.stats:
            # It escapes what is no Unicode, for a cursor can be anything.
            say(json.dumps(attrs.asdict(figures)))
    return code


async def _told(run: Run, lines: Lines) -> int:
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
        tell_failure(run, failure)
    elif run.keeper.count:
        say(f"{run.keeper.count} events undelivered, {run.keeper.where}")
    tell_unsent(run, lines.begun)
    return exit_code(run, failure)


async def _deliver(run: Run, lines: Lines) -> None:
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
                    _tell_where(run, output)
                    if not run.job.quiet and sys.stderr is not None and sys.stderr.isatty():
                        watching.start_soon(run_status, output, config.mode)  # noqa: ASYNC111 - statistics are always there
                    with run.feeding:
                        await _feed(run, output, lines)
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
    queue = 0 if config.server is None else config.server.send_buffer_capacity + _BEFORE_QUEUES
    return config.delivery.max_unconfirmed_bytes + (queue + 2) * config.max_message_size + 1024


async def _watch_signals(run: Run, everything: trio.CancelScope) -> None:
    """First signal: read no more, end gracefully; second: at once."""
    # Ignored when this ends: it must not come between what is left to keep and its file.
    for hangup in _HANGUP:
        signal.signal(hangup, signal.SIG_IGN)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *_HANGUP) as signals:
        async for each in signals:
            if not run.interrupted:
                run.interrupt()
            # A terminal that closes may say so twice: the system does, and the shell.
            elif each not in _HANGUP:
                everything.cancel()
                return


async def _print_received(run: Run, output: Output) -> None:
    with run.printing:
        await print_received(output, with_peer=run.job.with_peer, failed=run.print_failed)
    if run.printing.cancelled_caught:
        say("standard output: nobody reads it; not all that peers sent was printed")
    # The output has ended; if by itself, then whoever waits for the next line waits in vain.
    run.feeding.cancel()


def _tell_where(run: Run, output: Output) -> None:
    addresses = output.statistics().addresses
    if addresses:
        run.say(f"listening at {', '.join(addresses)}")


async def _feed(run: Run, output: Output, lines: Lines) -> None:
    """Send the lines, when the peers are there that were asked for; mode server-input waits for its end."""
    if run.job.only_receives:
        await trio.sleep_forever()
    count = run.job.wait_peers
    if count is not None:
        run.say(f"waiting for {count} peer{'' if count == 1 else 's'}")
        await output.wait_peers(count)
    await _send_lines(run, output, lines)


async def _send_lines(run: Run, output: Output, source: Lines) -> None:
    """Send every line; one that can't be sent is reported with its number and skipped."""
    batch = run.job.config.batch
    documents = batch is not None and batch.mode is BatchMode.DOCUMENT
    # With a spool `send` waits for the disk; else most lines find room, and cost no task a turn.
    at_once = run.job.config.spool is None
    try:
        while lines := await source.read():
            before = run.number
            try:
                for line in lines:
                    if not (at_once and _sent_at_once(output, line)):
                        await _send_line(run, output, line, documents=documents)
                    run.number += 1
            finally:
                run.unsent = lines[run.number - before :]
    except OSError as error:
        run.unreadable = True
        say(f"{run.job.source or 'standard input'}: {error.strerror}; read up to line {run.number}")


def _sent_at_once(output: Output, line: bytes) -> bool:
    """Send a line if it is an event and there is room for it."""
    try:
        output.send_nowait(JsonLine.read(line))
    except (ValueError, trio.WouldBlock):
        return False
    return True


async def _send_line(run: Run, output: Output, line: bytes, *, documents: bool) -> None:
    try:
        if line.strip():
            await output.send(JsonLine.read(line))
        elif documents:
            # An empty line ends a document, as it does in many stream formats.
            await output.end_document()
    except ValueError as error:
        run.skipped += 1
        say(f"line {run.number + 1}: {error}; skipped")
