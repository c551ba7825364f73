"""`trio-wsout run`: the lines of the input become events, and messages from peers become lines of the output."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path

import trio
from attrs import asdict, define, field

from trio_wsout._core.json_line import JsonLine
from trio_wsout._core.link import LinkChange, State
from trio_wsout._core.received import Received
from trio_wsout._core.statistics import Statistics
from trio_wsout._modes.hooks import Hooks
from trio_wsout.cli.child import ABORT, END, FIGURES, INTERRUPT, Figures, Parent
from trio_wsout.cli.configuration import print_problems
from trio_wsout.cli.exit_codes import CONFIGURATION, INTERRUPTED, NO_CONNECTION, OK, SOME_UNDELIVERED
from trio_wsout.cli.lines import STANDARD_INPUT, InputLines, escape_lines, line_of
from trio_wsout.cli.options import RunOptions
from trio_wsout.cli.signals import open_signals, watch_signals
from trio_wsout.cli.status_line import can_show, progress_of, run_status_line, summary
from trio_wsout.cli.terminal import (
    GONE,
    OUT,
    count_were,
    report,
    silence,
    wait_reader_gone,
    write_all,
    write_alone,
)
from trio_wsout.cli.undelivered_file import UndeliveredFile, read_undelivered, undelivered_line
from trio_wsout.config import Config
from trio_wsout.config.sections import BatchMode, CursorFrom, Mode, Payload
from trio_wsout.errors import (
    ConfigError,
    ConnectError,
    CursorError,
    DeliveryError,
    HistoryError,
    OutputError,
    SpoolError,
    Undelivered,
    count,
)
from trio_wsout.output import Output, open_with_hooks

_RESERVE = 1.0
"""Most seconds of shutdown-timeout that are kept for Closes; no more than a tenth of it."""
_LINGER = 0.1
"""Seconds for answers after the last confirmation without `--linger`: an echo comes together with its confirmation."""
_CHECK_EVERY = 0.1
"""Interval between two checks of progress, as a part of `patience`; at most 0.5 s."""


@define(eq=False)
class Run:
    """One run: its options, its state so far, and the scopes that end parts of it."""

    config: Config
    config_path: Path | None
    options: RunOptions
    linger: float | None
    """Seconds to wait for answers after the last confirmation; None for the usual time."""
    parent: Parent | None = None
    """The process that started this one by `--processes`; None without that option, and in that process itself."""
    undelivered: UndeliveredFile = field(init=False)
    lines: InputLines | None = field(default=None, init=False)
    """The input; None if there is none."""
    everything: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Cancelled to end the run immediately."""
    preparing: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Cancelled to wait for its files no longer."""
    opening: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Cancelled, as long as nothing was sent, to close the output immediately."""
    feeding: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Cancelled to read no more, so that the output ends gracefully."""
    printing: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Cancelled to print no more messages from peers."""
    statistics: Callable[[], Statistics] | None = field(default=None, init=False)
    """Returns the figures of the output; None until it is open."""
    began: float = field(default=0.0, init=False)
    """The time at which the output was open."""
    number: int = field(default=0, init=False)
    """Number of lines that were sent or skipped."""
    unsent: list[bytes] = field(factory=list, init=False)
    """Lines that were read, and neither sent nor skipped."""
    skipped: int = field(default=0, init=False)
    connected: bool = field(init=False)
    """Whether the link was ever open; also true if there is no link."""
    interrupted: bool = field(default=False, init=False)
    late: bool = field(default=False, init=False)
    """Whether nothing was confirmed within shutdown-timeout after the input had ended."""
    ended_early: bool = field(default=False, init=False)
    """Whether it ended before its input."""
    unreadable: bool = field(default=False, init=False)
    """Whether reading the input failed."""
    unprinted: bool = field(default=False, init=False)
    """Whether standard output can't be written, so that messages from peers are not printed."""
    cut_off: bool = field(default=False, init=False)
    """Whether printing had to end while standard output did not take the lines being printed."""

    def __attrs_post_init__(self) -> None:
        self.undelivered = UndeliveredFile(self.options.undelivered)
        self.connected = self.config.url is None

    @property
    def only_receives(self) -> bool:
        """Whether it reads no input, but prints messages of peers until a signal ends it."""
        return self.config.mode is Mode.SERVER_INPUT

    @property
    def must_print(self) -> bool:
        """Whether messages that can't be printed end the run: it is for nothing else, or a cursor must not move past them."""
        cursor = self.config.cursor
        follows = cursor is not None and cursor.from_ is CursorFrom.RECEIVED
        return self.only_receives or (follows and self.config.mode is Mode.CLIENT)

    @property
    def stays(self) -> bool:
        """Whether it goes on when its input has ended, until a signal or its parent ends it."""
        beside = self.parent is not None and not self.parent.role.reads
        return beside or self.options.stay or self.config.mode in (Mode.SERVER_INPUT, Mode.RELAY)

    @property
    def input_path(self) -> Path | None:
        """The file of the events; None for standard input."""
        path = None if self.parent is not None else self.options.from_undelivered or self.options.source
        return None if path is None or str(path) in STANDARD_INPUT else path

    @property
    def has_input(self) -> bool:
        """Whether there is an input to read; a service may have none."""
        if self.parent is not None:
            return self.parent.role.reads
        is_configuration = self.config_path is not None and str(self.config_path) in STANDARD_INPUT
        standard_input = not is_configuration and sys.stdin is not None
        return not self.only_receives and (self.input_path is not None or standard_input)

    @property
    def patience(self) -> float:
        """Seconds without progress after the end of the input that are too many; the rest of shutdown-timeout is for Closes."""
        return self.config.shutdown_timeout - min(_RESERVE, self.config.shutdown_timeout / 10)

    def shutdown_timeout(self) -> float:
        """Return the seconds that leaving the output may take."""
        return self.config.shutdown_timeout - (self.patience if self.late else 0.0)

    def prints_to_the_end(self) -> bool:
        """Return whether to print messages that come while the output ends: not if printing has delayed the deliveries."""
        return not (self.late or self.unprinted)

    def inform(self, text: str) -> None:
        """Report something that is not important with `--quiet`."""
        if not self.options.quiet:
            report(text)

    def link_changed(self, change: LinkChange) -> None:
        """Note whether the link was open; the log reports changes."""
        self.connected = self.connected or change.state is State.OPEN

    def skip(self, reason: object) -> None:
        """Report that the line after those that were sent or skipped can't be sent."""
        self.skipped += 1
        report(f"line {self.number + 1}: {reason}; skipped", "warning")

    def line_too_long(self) -> None:
        """Skip a line that was dropped while it was read."""
        self.skip(f"longer than max-message-size ({self.config.max_message_size} bytes)")
        self.number += 1

    def print_failed(self, error: OSError) -> None:
        """Note that standard output can't be written. A reader that is gone ends the run, as in any pipe; a full disk if the run `must_print`."""
        self.unprinted = True
        silence(OUT)
        if isinstance(error, BrokenPipeError):
            self.reader_gone()
            return
        report(f"standard output: {error.strerror}; what peers send is no longer printed", "error")
        if self.must_print:
            self.feeding.cancel()

    def reader_gone(self) -> None:
        """Note that nobody reads standard output any more: read no more input, deliver the accepted events, and end."""
        if not self.feeding.cancel_called:
            doing = "" if self.only_receives else "; delivering what was accepted"
            report(f"standard output: {GONE}{doing}", "error")
            self.unprinted = True
            self.feeding.cancel()

    def tell_parent(self) -> None:
        """Send the figures to the parent, if there is one, once the output is open."""
        if self.parent is not None and self.statistics is not None:
            self.parent.tell(Figures(self.statistics(), self.skipped))

    def told(self, byte: bytes) -> None:
        """Do what the parent says."""
        if byte == FIGURES:
            self.tell_parent()
        elif byte == END:
            self.feeding.cancel()
        elif byte == INTERRUPT:
            self.interrupt()
        elif byte == ABORT:
            self.everything.cancel()

    def interrupt(self) -> None:
        """Read no more, and end gracefully; received messages are printed for as long as that may take."""
        if self.interrupted:
            return
        self.interrupted = True
        if self.parent is None:
            self.report_interrupt()
        if self.statistics is None:
            self.preparing.cancel()
            self.opening.cancel()
        self.feeding.cancel()
        self.printing.deadline = trio.current_time() + self.config.shutdown_timeout

    def report_interrupt(self) -> None:
        """Report the first signal."""
        doing = "ending" if self.only_receives else "delivering what was accepted"
        report(f"interrupted: {doing}; once more to end immediately")

    def report_totals(self, figures: Statistics, skipped: int) -> None:
        """Report what became of all events."""
        _report_unheard(self, figures)
        self.inform(summary(figures, self.config.mode, trio.current_time() - self.began, skipped))
        if self.options.stats:
            # Not by orjson: a cursor may hold lone surrogates, which this escapes.
            report(json.dumps(asdict(figures)))


async def run_to_the_end(run: Run) -> int:
    """Run until the input ends or something else ends the run, and return the exit code."""
    misuse = None if run.parent is not None else find_misuse(run)
    if misuse is not None:
        report(misuse, "error")
        return CONFIGURATION
    with open_signals() as signals:
        async with trio.open_nursery() as watching:
            # Beside others a second signal is the parent's to pass on: the terminal sends the first one to all of them.
            abort = run.everything.cancel if run.parent is None else run.interrupt
            watching.start_soon(watch_signals, signals, run.interrupt, abort)
            if run.parent is not None:
                watching.start_soon(run.parent.watch, run.told)
            code = await _prepare_and_run(run)
            watching.cancel_scope.cancel()
    return code


def find_misuse(run: Run) -> str | None:
    """Return why the options, or the standard streams, can't be used in this mode; None if they can."""
    options = run.options
    if run.config.mode is Mode.CLIENT and (options.wait_peers or 0) > 1:
        return f"--wait-peers {options.wait_peers}: mode client has one peer, never more"
    if options.source is not None and options.from_undelivered is not None:
        return "--input and --from-undelivered: both are the input; leave one out"
    if _is_same(options.from_undelivered, options.undelivered):
        return f"--from-undelivered {options.from_undelivered}: it is read and can't be written, too; name another file with --undelivered"
    if run.only_receives:
        return _find_misuse_of_receiver(run)
    if run.linger is not None and run.stays:
        return "--linger: this run stays until a signal ends it; leave it out"
    if run.has_input or run.stays:
        return None
    reason = "is closed" if sys.stdin is None else "is the configuration"
    return f"standard input {reason}; name a file with --input"


def _find_misuse_of_receiver(run: Run) -> str | None:
    options, names = run.options, ("--wait-peers", "--input", "--from-undelivered", "--linger")
    values = (options.wait_peers, options.source, options.from_undelivered, run.linger)
    for name, value in zip(names, values, strict=True):
        if value is not None:
            return f"{name}: mode server-input sends nothing and reads no input; leave it out"
    return "standard output is closed; mode server-input has no other use" if sys.stdout is None else None


def _is_same(one: Path | None, other: Path | None) -> bool:
    with suppress(OSError):
        return one is not None and other is not None and one.samefile(other)
    return False


async def _prepare_and_run(run: Run) -> int:
    with run.preparing:
        try:
            # Opening a named pipe waits until another process has its other end.
            await trio.to_thread.run_sync(run.undelivered.open, abandon_on_cancel=True)
            if run.has_input:
                again = run.parent is not None and run.parent.role.again
                run.lines = InputLines(
                    await open_input(run), run.config.max_message_size, run.line_too_long, dropping=again
                )
        except OSError as error:
            report(f"{error.filename}: {error.strerror}", "error")
            return CONFIGURATION
    if run.preparing.cancelled_caught:
        return INTERRUPTED
    code = await _run_and_report(run)
    if run.parent is not None:
        run.tell_parent()
    elif run.statistics is not None:
        run.report_totals(run.statistics(), run.skipped)
    return code


async def open_input(run: Run) -> int:
    """Return the descriptor of the input. It raises OSError if its file can't be opened."""
    if run.input_path is None:
        await trio.lowlevel.checkpoint()
        return 0
    return await trio.to_thread.run_sync(os.open, run.input_path, os.O_RDONLY, abandon_on_cancel=True)


async def _run_and_report(run: Run) -> int:
    failure: OutputError | None = None
    try:
        await _deliver(run)
    except ConfigError as error:
        print_problems(error)
        return CONFIGURATION
    except OutputError as error:
        failure = error
    except trio.BrokenResourceError as error:
        if not isinstance(error.__cause__, OutputError):
            raise
        failure = error.__cause__
    if failure is not None:
        _report_failure(run, failure)
    elif run.undelivered.count:
        report(f"{count(run.undelivered.count, 'event')} undelivered, {run.undelivered.outcome}", "error")
    if run.lines is not None:
        _report_unsent(run, run.lines)
    return _exit_code(run, failure)


async def _deliver(run: Run) -> None:
    """Open the output, feed it, and leave it gracefully when the input ends or a signal comes."""
    config = run.config
    # It is bounded by what an output can hold: at the second Ctrl-C the output reports all of that, and can't wait.
    reports, undelivered = trio.open_memory_channel[Undelivered](inf)
    hooks = Hooks(
        undelivered=reports,
        receive=True,
        raw=config.payload is Payload.JSON,
        on_state=run.link_changed,
        to_the_end=run.prints_to_the_end,
        shutdown_timeout=run.shutdown_timeout,
    )
    trouble: Exception | None = None
    with run.everything:
        # Tasks in `lasting` end by themselves, when their channels end; tasks in `watching` are cancelled.
        async with trio.open_nursery() as lasting, trio.open_nursery() as watching:
            lasting.start_soon(run.undelivered.append_from, undelivered.clone())
            watching.start_soon(_watch_reader, run)
            try:
                with run.opening:
                    async with open_with_hooks(config, hooks) as output:
                        run.statistics, run.began = output.statistics, trio.current_time()
                        lasting.start_soon(_print_received, run, output)  # noqa: ASYNC111 - it ends with the output
                        addresses = ", ".join(output.statistics().addresses)
                        run.tell_parent()
                        if (
                            addresses and run.parent is None and not run.options.verbose
                        ):  # else the log reports them
                            run.inform(f"listening at {addresses}")
                        if run.parent is None and not run.options.quiet and can_show():
                            watching.start_soon(run_status_line, output.statistics, config.mode, run.lines)  # noqa: ASYNC111 - statistics can always be read
                        with run.feeding:
                            await _feed(run, output, watching)
            except Exception as error:  # noqa: BLE001 - raised again outside of the nurseries
                trouble = error
            finally:
                reports.close()
            watching.cancel_scope.cancel()
    run.undelivered.append_waiting(undelivered)
    if trouble is not None:
        raise trouble


async def _watch_reader(run: Run) -> None:
    """End the run when nobody reads standard output any more, even while there is nothing to print."""
    if sys.stdout is not None and await trio.to_thread.run_sync(
        wait_reader_gone, OUT, abandon_on_cancel=True
    ):
        run.reader_gone()


async def _print_received(run: Run, output: Output) -> None:
    """Print messages from peers until the output ends; all that wait are written together."""
    with run.printing, suppress(trio.EndOfChannel):
        while True:
            items = await output.received.receive_many()
            if not (run.unprinted or sys.stdout is None):
                await _print(run, items)
            if run.unprinted and run.must_print:
                # To ask for the next would tell that these were taken; and nobody may count more as confirmed.
                output.received.close()
                return
    if run.cut_off and run.printing.cancelled_caught:
        report("standard output: nobody reads it; not all that peers sent was printed", "error")
    # The output has ended. If it broke, nobody needs the next line any more.
    run.feeding.cancel()


async def _print(run: Run, items: Sequence[Received]) -> None:
    as_json = run.config.payload is Payload.JSON
    lines = b"".join(line_of(each, with_peer=run.options.with_peer, as_json=as_json) for each in items)
    if sys.stdout.isatty():
        lines = escape_lines(lines).encode(sys.stdout.encoding, "backslashreplace")
    write = write_all if run.parent is None else write_alone
    try:
        # The thread is abandoned when cancelled: a reader that does not read can't keep the run from ending.
        # Not through sys.stdout: an abandoned thread would hold its lock while Python ends.
        await trio.to_thread.run_sync(write, OUT, lines, abandon_on_cancel=True)
    except trio.Cancelled:
        run.cut_off = True
        raise
    except OSError as error:
        run.print_failed(error)


async def _feed(run: Run, output: Output, watching: trio.Nursery) -> None:
    """Wait for peers if `--wait-peers` asks for it, send all lines, and wait for answers or for a signal."""
    if run.options.wait_peers is not None:
        await _wait_peers(run, output, run.options.wait_peers)
    if run.lines is not None:
        await _send_lines(run, output, run.lines)
        await _wait_confirmed(run, output, watching)
    if run.stays:
        if run.lines is not None and not run.unreadable:
            run.inform("the input has ended; this goes on until a signal ends it")
        await trio.sleep_forever()
    elif run.linger is not None:
        await trio.sleep(run.linger)
    elif run.config.mode is Mode.CLIENT and run.number:
        await trio.sleep(_LINGER)
    elif run.config.mode is Mode.CLIENT and not run.unreadable:
        run.inform("the input was empty; --stay prints what the peer sends until a signal, --linger a while")


async def _wait_peers(run: Run, output: Output, number: int) -> None:
    if run.parent is None:
        run.inform(f"waiting for {count(number, 'peer')}")
        await output.wait_peers(number)
    else:
        await run.parent.begun.wait()


async def _wait_confirmed(run: Run, output: Output, watching: trio.Nursery) -> None:
    """Wait until everything is confirmed, for as long as there is progress."""
    confirmed = trio.Event()
    watching.start_soon(_flush, output, confirmed)
    interval = min(0.5, run.patience * _CHECK_EVERY)
    before, since = -1, trio.current_time()
    while not confirmed.is_set():
        now = output.statistics()
        progress = progress_of(now, run.config.mode) + now.undelivered
        if progress != before:
            before, since = progress, trio.current_time()
        elif trio.current_time() - since >= run.patience:
            run.late = True
            return
        with trio.move_on_after(interval):
            await confirmed.wait()


async def _flush(output: Output, confirmed: trio.Event) -> None:
    # Leaving the block of a broken output raises its error.
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while not confirmed.is_set():
            # The reader of standard output may be slow; `_wait_confirmed` decides how long is too long.
            with suppress(DeliveryError):
                await output.flush()
                confirmed.set()
    confirmed.set()


async def _send_lines(run: Run, output: Output, source: InputLines) -> None:
    """Send every line; report and skip those that can't be sent."""
    documents = run.config.batch is not None and run.config.batch.mode is BatchMode.DOCUMENT
    read = JsonLine.read if run.options.from_undelivered is None else read_undelivered
    run.ended_early = True
    try:
        while lines := await source.read():
            before = run.number
            try:
                for line in lines:
                    await _send_line(run, output, line, read, documents=documents)
                    run.number += 1
            finally:
                run.unsent = lines[run.number - before :]
        run.ended_early = False
        if documents:  # before waiting for confirmations: the last part must know that it is the last
            await output.end_document()
    except OSError as error:
        run.unreadable = True
        name = run.input_path or "standard input"
        report(f"{name}: {error.strerror}; read up to line {run.number}", "error")


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


def _report_failure(run: Run, failure: OutputError) -> None:
    """Report why the output ended, and append the events that it could not deliver to the file of undelivered events."""
    report(str(failure), "error")
    lost = len(failure.undelivered)
    if lost:
        run.undelivered.count += lost
        run.undelivered.append(failure.undelivered)
        report(f"{count_were(lost, 'accepted event')} not confirmed, {run.undelivered.outcome}", "error")


def _report_unsent(run: Run, lines: InputLines) -> None:
    """Keep the lines that were read and not sent, and those that wait in a pipe, which are lost when its reader ends."""
    waiting = run.options.undelivered is not None and (run.interrupted or run.ended_early)
    unsent = [line for line in [*run.unsent, *lines.rest(waiting=waiting)] if line.strip()]
    if unsent:
        run.undelivered.append([undelivered_line(line) for line in unsent])
        were = f"{count_were(len(unsent), 'line')} read and not sent, {run.undelivered.outcome}"
        report(f"from line {run.number + 1} on: {were}", "error")


def _report_unheard(run: Run, figures: Statistics) -> None:
    """Report messages that some or all peers did not get, although everything went as configured."""
    config, listener = run.config, figures.listener
    # With a link nothing is unheard: a message that the link did not get is undelivered, and reported as such.
    if listener and listener.unheard and config.history is None and config.url is None:
        unheard = count(listener.unheard, "message")
        run.inform(f"no peer was there for {unheard}; --wait-peers 1 waits for one")
    if listener and listener.lost_by_slow:
        lost = count_were(listener.lost_by_slow, "message")
        run.inform(f"{lost} lost by slow peers (server.slow-peer: drop-oldest)")
    if figures.dropped and config.mode is not Mode.SERVER_OUTPUT:
        run.inform(f"{count_were(figures.dropped, 'received message')} dropped, as unreadable or too late")


def _exit_code(run: Run, failure: OutputError | None) -> int:
    """Return the exit code for how the run ended (SPEC 13)."""
    if run.interrupted:
        return INTERRUPTED
    if run.unreadable or _never_began(run, failure):
        return CONFIGURATION
    if isinstance(failure, ConnectError) or (isinstance(failure, DeliveryError) and not run.connected):
        return NO_CONNECTION
    lossless = failure is None and not (run.undelivered.count or run.skipped or run.unprinted)
    return OK if lossless else SOME_UNDELIVERED


def _never_began(run: Run, failure: OutputError | None) -> bool:
    """Whether a store could not be used, so that nothing was lost."""
    if isinstance(failure, HistoryError | SpoolError):
        return run.statistics is None
    return isinstance(failure, CursorError) and not run.undelivered.count
