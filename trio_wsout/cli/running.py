"""`trio-wsout run`: events in, one JSON value a line; what peers send out, the same way."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
import trio

from trio_wsout._core.json_line import JsonLine
from trio_wsout._modes.hooks import Hooks
from trio_wsout.cli.codes import CONFIGURATION, INTERRUPTED
from trio_wsout.cli.job import Run, exit_code, tell_failure, tell_missed, tell_unsent
from trio_wsout.cli.keeping import Keeper
from trio_wsout.cli.lines import Lines, undelivered_event
from trio_wsout.cli.printing import count, print_received, say, wait_reader_gone
from trio_wsout.cli.status import can_show, done, run_status, sum_line
from trio_wsout.config.sections import BatchMode, Mode, Payload
from trio_wsout.errors import ConfigError, DeliveryError, OutputError, Undelivered
from trio_wsout.output import open_with_hooks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_wsout.cli.job import Job
    from trio_wsout.config import Config
    from trio_wsout.output import Output

__all__ = ["run_job"]

_BEFORE_QUEUES = 1024
"""Messages that a listener may hold before they are in the queues of its peers."""
_LINGER = 0.1
"""Seconds for answers after the last confirmation, if `--linger` does not say: an echo comes beside its confirmation."""
_REPEATED = 0.5
"""Seconds within which a second SIGTERM is the first one again."""
_LOOK = 0.1
"""Part of the time without progress after which it is looked for; half a second at most."""
_HANGUP = [
    each for each in signal.Signals if each.name == "SIGHUP" and signal.getsignal(each) != signal.SIG_IGN
]
"""The signal of a terminal that closes; none where it was ignored from the start (`nohup`), or is not known."""


async def run_job(job: Job) -> int:
    """Run a job to its end; gives the exit code."""
    if job.misfit is not None:
        say(job.misfit, "error")
        return CONFIGURATION
    run = Run(job, Keeper(job.undelivered))
    # Ignored when this ends: it must not come between what is left to keep and its file.
    for hangup in _HANGUP:
        signal.signal(hangup, signal.SIG_IGN)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *_HANGUP) as signals:
        async with trio.open_nursery() as watching:
            watching.start_soon(_watch_signals, run, signals)
            code = await _run_job(run)
            watching.cancel_scope.cancel()
    return code


async def _run_job(run: Run) -> int:
    job, lines = run.job, None
    with run.preparing:
        try:
            # A named pipe that nobody has at its other end makes `open` wait.
            await trio.to_thread.run_sync(run.keeper.open, abandon_on_cancel=True)
            if job.reads:
                descriptor = await trio.to_thread.run_sync(_open_input, job, abandon_on_cancel=True)
                lines = Lines(descriptor, job.config.max_message_size, lambda: _too_long(run))
        except OSError as error:
            say(f"{error.filename}: {error.strerror}", "error")
            return CONFIGURATION
    if run.preparing.cancelled_caught:
        return INTERRUPTED
    code = await _told(run, lines)
    if run.statistics is not None:
        figures = run.statistics()
        tell_missed(run, figures)
        run.say(sum_line(figures, job.config.mode, trio.current_time() - run.began, run.skipped))
        if job.stats:
            # It escapes what is no Unicode, for a cursor can be anything.
            print_figures = json.dumps(attrs.asdict(figures))
            say(print_figures)
    return code


def _open_input(job: Job) -> int:
    path = job.events_path
    return 0 if path is None else os.open(path, os.O_RDONLY)


def _too_long(run: Run) -> None:
    run.skip(f"longer than max-message-size ({run.job.config.max_message_size} bytes)")
    run.number += 1


async def _told(run: Run, lines: Lines | None) -> int:
    """Run it, and tell people how it ended."""
    failure: OutputError | None = None
    try:
        await _deliver(run, lines)
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem), "error")
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
        say(f"{count(run.keeper.count, 'event')} undelivered, {run.keeper.where}", "error")
    if lines is not None:
        tell_unsent(run, lines)
    return exit_code(run, failure)


async def _deliver(run: Run, lines: Lines | None) -> None:
    """Open the output, feed it, and leave it gracefully when the input ends or a signal comes."""
    config = run.job.config
    reports, taken = trio.open_memory_channel[Undelivered](_room(config))
    hooks = Hooks(
        undelivered=reports,
        receive=True,
        raw=config.payload is Payload.JSON,
        on_state=run.link_changed,
        to_the_end=run.takes_to_the_end,
        shutdown_timeout=run.time_to_end,
    )
    trouble: Exception | None = None
    with run.everything:
        # What is in `lasting` ends by itself, as its channels end; what is in `watching` is ended.
        async with trio.open_nursery() as lasting, trio.open_nursery() as watching:
            lasting.start_soon(run.keeper.run, taken.clone())
            watching.start_soon(_watch_reader, run)
            try:
                with run.opening:
                    async with open_with_hooks(config, hooks) as output:
                        run.statistics, run.began = output.statistics, trio.current_time()
                        lasting.start_soon(_print_received, run, output)  # noqa: ASYNC111 - it ends with the output
                        _tell_where(run, output)
                        if not run.job.quiet and can_show():
                            watching.start_soon(run_status, output, config.mode, lines)  # noqa: ASYNC111 - statistics are always there
                        with run.feeding:
                            await _feed(run, output, lines, watching)
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


async def _watch_signals(run: Run, signals: AsyncIterator[int]) -> None:
    """First signal: read no more, end gracefully; second: at once."""
    first = 0.0
    async for each in signals:
        if not run.interrupted:
            first = trio.current_time()
            run.interrupt()
        # A terminal that closes may say so twice: the system does, and the shell. So does `timeout` of coreutils,
        # which signals its child and then its whole group.
        elif each not in _HANGUP and not (each == signal.SIGTERM and trio.current_time() < first + _REPEATED):
            run.everything.cancel()
            return


async def _watch_reader(run: Run) -> None:
    """End the run when nobody reads standard output any more, also where nothing comes that could be printed."""
    if sys.stdout is not None and await trio.to_thread.run_sync(wait_reader_gone, 1, abandon_on_cancel=True):
        run.reader_gone()


async def _print_received(run: Run, output: Output) -> None:
    with run.printing:
        await print_received(
            output,
            with_peer=run.job.with_peer,
            as_json=run.job.config.payload is Payload.JSON,
            failed=run.print_failed,
            left=run.leave_unprinted,
        )
    if run.cut_off and run.printing.cancelled_caught:
        say("standard output: nobody reads it; not all that peers sent was printed", "error")
    # The output has ended; if by itself, then whoever waits for the next line waits in vain.
    run.feeding.cancel()


def _tell_where(run: Run, output: Output) -> None:
    addresses = output.statistics().addresses
    if addresses and not run.job.verbose:  # the log says it, too
        run.say(f"listening at {', '.join(addresses)}")


# -- the input --------------------------------------------------------------------------------------------------


async def _feed(run: Run, output: Output, lines: Lines | None, watching: trio.Nursery) -> None:
    """Send the lines, when the peers are there that were asked for; wait for what is to come behind them."""
    job = run.job
    if job.wait_peers is not None:
        run.say(f"waiting for {count(job.wait_peers, 'peer')}")
        await output.wait_peers(job.wait_peers)
    if lines is not None:
        await _send_lines(run, output, lines)
        await _settle(run, output, watching)
    if job.stays:
        if lines is not None and not run.unreadable:
            run.say("the input has ended; this goes on until a signal ends it")
        await trio.sleep_forever()
    elif job.linger is not None:
        await trio.sleep(job.linger)
    elif job.config.mode is Mode.CLIENT and run.number:
        await trio.sleep(_LINGER)
    elif job.config.mode is Mode.CLIENT and not run.unreadable:
        run.say("the input was empty; --stay prints what the peer sends until a signal, --linger for a while")


async def _settle(run: Run, output: Output, watching: trio.Nursery) -> None:
    """Wait until everything is confirmed, for as long as there is progress."""
    confirmed = trio.Event()
    watching.start_soon(_flush, output, confirmed)
    mode = run.job.config.mode
    look = min(0.5, run.patience * _LOOK)
    before, since = -1, trio.current_time()
    while not confirmed.is_set():
        now = output.statistics()
        progress = done(now, mode) + now.undelivered
        if progress != before:
            before, since = progress, trio.current_time()
        elif trio.current_time() - since >= run.patience:
            run.late = True
            return
        with trio.move_on_after(look):
            await confirmed.wait()


async def _flush(output: Output, confirmed: trio.Event) -> None:
    # What broke the output is told as its block is left.
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while not confirmed.is_set():
            # The reader of standard output may be slow: how long is too long is the matter of `_settle`.
            with suppress(DeliveryError):
                await output.flush()
                confirmed.set()
    confirmed.set()


async def _send_lines(run: Run, output: Output, source: Lines) -> None:
    """Send every line; one that can't be sent is reported with its number and skipped."""
    batch = run.job.config.batch
    documents = batch is not None and batch.mode is BatchMode.DOCUMENT
    read = JsonLine.read if run.job.from_undelivered is None else undelivered_event
    # With a spool `send` waits for the disk; else most lines find room, and cost no task a turn.
    at_once = run.job.config.spool is None
    run.ended_early = True
    try:
        while lines := await source.read():
            before = run.number
            try:
                for line in lines:
                    if not (at_once and _sent_at_once(output, line, read)):
                        await _send_line(run, output, line, read, documents=documents)
                    run.number += 1
            finally:
                run.unsent = lines[run.number - before :]
        run.ended_early = False
        if documents:  # before it is waited for: the last part must know that it is the last
            await output.end_document()
    except OSError as error:
        run.unreadable = True
        say(
            f"{run.job.events_path or 'standard input'}: {error.strerror}; read up to line {run.number}",
            "error",
        )


def _sent_at_once(output: Output, line: bytes, read: Callable[[bytes], object]) -> bool:
    """Send a line if it is an event and there is room for it."""
    try:
        output.send_nowait(read(line))
    except (ValueError, trio.WouldBlock):
        return False
    return True


async def _send_line(
    run: Run, output: Output, line: bytes, read: Callable[[bytes], object], *, documents: bool
) -> None:
    try:
        if line.strip():
            await output.send(read(line))
        elif documents:
            # An empty line ends a document, as it does in many stream formats.
            await output.end_document()
    except ValueError as error:
        run.skip(error)
