"""`trio-wsout run`: events in, one JSON value a line; what peers send out, the same way."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import trio
from attrs import define, frozen

from trio_wsout.cli.codes import CONFIGURATION, INTERRUPTED, NO_CONNECTION, OK, SOME_UNDELIVERED
from trio_wsout.cli.lines import Lines
from trio_wsout.cli.status import run_status
from trio_wsout.config.sections import BatchMode
from trio_wsout.errors import ConfigError, ConnectError, OutputError, Undelivered
from trio_wsout.output import open_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from trio_wsout._core.link_change import LinkChange
    from trio_wsout._core.received import Received
    from trio_wsout._core.statistics import Statistics
    from trio_wsout.config import Config
    from trio_wsout.output import Output

__all__ = ["Job", "run_job"]

_UNDELIVERED = 64
"""Undelivered events that wait to be written."""


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
class _Outcome:
    """What happened so far that decides the exit code."""

    skipped: int = 0
    undelivered: int = 0
    interrupted: bool = False
    statistics: Callable[[], Statistics] | None = None


def say(text: str) -> None:
    """One line for people, on standard error."""
    print(text, file=sys.stderr, flush=True)


async def run_job(job: Job) -> int:
    """Run a job to its end; gives the exit code."""
    outcome = _Outcome()
    try:
        descriptor = 0 if job.source is None else os.open(job.source, os.O_RDONLY)
    except OSError as error:
        say(f"{job.source}: {error.strerror}")
        return CONFIGURATION
    try:
        await _deliver(job, descriptor, outcome)
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem))
        return CONFIGURATION
    except OutputError as error:
        return _failed(job, error, outcome)
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if not isinstance(cause, OutputError):
            raise
        return _failed(job, cause, outcome)
    if outcome.undelivered:
        where = f"in {job.undelivered}" if job.undelivered else "lost; --undelivered FILE keeps them"
        say(f"{outcome.undelivered} events undelivered, {where}")
    if outcome.interrupted:
        return INTERRUPTED
    return SOME_UNDELIVERED if outcome.undelivered or outcome.skipped else OK


def _failed(job: Job, error: OutputError, outcome: _Outcome) -> int:
    """Say why the output ended, and keep what it could not deliver."""
    say(f"{type(error).__name__}: {error}")
    outcome.undelivered += len(error.undelivered)
    if error.undelivered:
        _keep(job.undelivered, error.undelivered)
        where = f"written to {job.undelivered}" if job.undelivered else "lost; --undelivered FILE keeps them"
        say(f"{len(error.undelivered)} accepted events were not confirmed, {where}")
    if outcome.interrupted:
        return INTERRUPTED
    return NO_CONNECTION if isinstance(error, ConnectError) else SOME_UNDELIVERED


def _keep(path: Path | None, items: Iterable[Undelivered]) -> None:
    """Append undelivered events to a file, a line each, on disk when this returns."""
    if path is None:
        return
    lines = [
        orjson.dumps({"event": item.event, "reason": item.reason}, default=str) + b"\n" for item in items
    ]
    with path.open("ab") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


async def _deliver(job: Job, descriptor: int, outcome: _Outcome) -> None:
    """Open the output, feed it, and leave it gracefully when the input ends or a signal comes."""
    reports, taken = trio.open_memory_channel[Undelivered](_UNDELIVERED)
    feeding = trio.CancelScope()
    trouble: Exception | None = None
    # What is in `lasting` ends by itself, as its channels end; what is in `watching` is ended.
    async with trio.open_nursery() as lasting, trio.open_nursery() as watching:
        lasting.start_soon(_keep_undelivered, job, taken, outcome)
        watching.start_soon(_watch_signals, outcome, feeding, lasting.cancel_scope)
        try:
            async with open_output(
                job.config,
                undelivered=reports,
                receive=True,
                on_state=None if job.quiet else _say_change,
            ) as output:
                lasting.start_soon(_print_received, output, job.with_peer)  # noqa: ASYNC111 - it ends with the output
                if not job.quiet and sys.stderr.isatty():
                    watching.start_soon(run_status, output)  # noqa: ASYNC111 - statistics are always there
                outcome.statistics = output.statistics
                with feeding:
                    await _send_lines(output, descriptor, outcome, documents=_documents(job.config))
        except Exception as error:  # noqa: BLE001 - raised again outside of the nurseries
            trouble = error
        finally:
            reports.close()
        watching.cancel_scope.cancel()
    _keep_rest(job, taken, outcome)
    if job.stats and outcome.statistics is not None:
        say(orjson.dumps(attrs.asdict(outcome.statistics())).decode())
    if trouble is not None:
        raise trouble


def _documents(config: Config) -> bool:
    return config.batch is not None and config.batch.mode is BatchMode.DOCUMENT


async def _watch_signals(outcome: _Outcome, feeding: trio.CancelScope, everything: trio.CancelScope) -> None:
    """First signal: read no more, end gracefully; second: at once."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if outcome.interrupted:
                everything.cancel()
                return
            outcome.interrupted = True
            say("interrupted: delivering what was accepted; once more to end at once")
            feeding.cancel()


async def _send_lines(output: Output, descriptor: int, outcome: _Outcome, *, documents: bool) -> None:
    """Send every line; one that can't be sent is reported with its number and skipped."""
    number = 0
    source = Lines(descriptor)
    while lines := await source.read():
        for line in lines:
            number += 1
            try:
                if line.strip():
                    await output.send(orjson.loads(line))
                elif documents:
                    # An empty line ends a document, as it does in many stream formats.
                    await output.end_document()
            except orjson.JSONDecodeError as error:
                outcome.skipped += 1
                say(f"line {number}: not JSON ({error.msg}); skipped")
            except ValueError as error:
                outcome.skipped += 1
                say(f"line {number}: {error}; skipped")


async def _print_received(output: Output, with_peer: bool) -> None:  # noqa: FBT001 - a nursery passes by position
    """Print what peers send, a line each; when nobody reads standard output any more, go on without a word."""
    async for item in output.received:
        try:
            await trio.to_thread.run_sync(_write, _line(item, with_peer=with_peer))
        except BrokenPipeError:
            _silence()


def _line(item: Received, *, with_peer: bool) -> bytes:
    event: Any = item.event.hex() if isinstance(item.event, bytes) else item.event
    return orjson.dumps({"peer": item.peer.address, "event": event} if with_peer else event) + b"\n"


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _silence() -> None:
    """Let Python's own flush at the end find a place that takes everything."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _keep_undelivered(
    job: Job, taken: trio.MemoryReceiveChannel[Undelivered], outcome: _Outcome
) -> None:
    async for item in taken.clone():
        outcome.undelivered += 1
        await trio.to_thread.run_sync(_keep, job.undelivered, [item])


def _keep_rest(job: Job, taken: trio.MemoryReceiveChannel[Undelivered], outcome: _Outcome) -> None:
    """Cancelled, the output gave back through the channel what it could; nobody else takes it."""
    with suppress(trio.WouldBlock, trio.EndOfChannel):
        while True:
            _keep(job.undelivered, [taken.receive_nowait()])
            outcome.undelivered += 1


def _say_change(change: LinkChange) -> None:
    delay = f"; next attempt in {change.delay:.2g} s" if change.delay is not None else ""
    why = f": {change.ending.detail}" if change.ending is not None and change.delay is not None else ""
    say(f"link {change.state.value}{why}{delay}")
