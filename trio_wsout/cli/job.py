"""What one `trio-wsout run` was asked to do, what happened to it so far, and how it ended."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
import trio
from attrs import define, frozen

from trio_wsout._core.link import State
from trio_wsout.cli.codes import CONFIGURATION, INTERRUPTED, NO_CONNECTION, OK, SOME_UNDELIVERED
from trio_wsout.cli.keeping import as_undelivered
from trio_wsout.cli.lines import STANDARD_INPUT
from trio_wsout.cli.printing import GONE, count, say
from trio_wsout.config.sections import Mode
from trio_wsout.errors import ConnectError, CursorError, DeliveryError, HistoryError, SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio_wsout._core.link import LinkChange
    from trio_wsout._core.statistics import Statistics
    from trio_wsout.cli.keeping import Keeper
    from trio_wsout.cli.lines import Lines
    from trio_wsout.config import Config
    from trio_wsout.errors import OutputError

__all__ = ["Job", "Run", "exit_code", "tell_failure", "tell_missed", "tell_unsent"]

_RESERVE = 1.0
"""Most seconds of shutdown-timeout that are kept for Closes; no more than a tenth of it."""


@frozen(kw_only=True)
class Job:
    """What one `run` was asked to do."""

    config: Config
    config_path: Path | None = None
    source: Path | None = None
    """Where events are read; None: standard input."""
    from_undelivered: Path | None = None
    """A file of `--undelivered` that is read in place of that."""
    undelivered: Path | None = None
    wait_peers: int | None = None
    with_peer: bool = False
    stay: bool = False
    linger: float | None = None
    """Seconds to wait for answers after the last confirmation; None: as usual."""
    stats: bool = False
    quiet: bool = False
    verbose: bool = False

    @property
    def only_receives(self) -> bool:
        """Whether it reads no input: it prints what peers send until a signal ends it."""
        return self.config.mode is Mode.SERVER_INPUT

    @property
    def stays(self) -> bool:
        """Whether it goes on when its input has ended, until a signal ends it."""
        return self.stay or self.config.mode in (Mode.SERVER_INPUT, Mode.RELAY)

    @property
    def events_path(self) -> Path | None:
        """The file of the events; None: standard input."""
        path = self.from_undelivered or self.source
        return None if path is None or str(path) in STANDARD_INPUT else path

    @property
    def reads(self) -> bool:
        """Whether there is an input to read; a service may have none."""
        taken = self.config_path is not None and str(self.config_path) in STANDARD_INPUT
        return not self.only_receives and (self.events_path is not None or not (taken or sys.stdin is None))

    @property
    def misfit(self) -> str | None:
        """Why its options, or its standard streams, can't be used in its mode; None: they can."""
        if self.config.mode is Mode.CLIENT and (self.wait_peers or 0) > 1:
            return f"--wait-peers {self.wait_peers}: mode client has one peer, never more"
        if self.source is not None and self.from_undelivered is not None:
            return "--input and --from-undelivered: both are the input; leave one out"
        if self.from_undelivered is not None and _same(self.from_undelivered, self.undelivered):
            return f"--from-undelivered {self.from_undelivered}: it is read and can't be written, too; name another file with --undelivered"
        if self.only_receives:
            return self._misfit_of_receiver()
        if self.linger is not None and self.stays:
            return "--linger: this run stays until a signal ends it; leave it out"
        if self.reads or self.stays:
            return None
        taken = "is closed" if sys.stdin is None else "is the configuration"
        return f"standard input {taken}; name a file with --input"

    def _misfit_of_receiver(self) -> str | None:
        options = {
            "--wait-peers": self.wait_peers,
            "--input": self.source,
            "--from-undelivered": self.from_undelivered,
            "--linger": self.linger,
        }
        for option, value in options.items():
            if value is not None:
                return f"{option}: mode server-input sends nothing and reads no input; leave it out"
        return "standard output is closed; mode server-input has no other use" if sys.stdout is None else None


def _same(one: Path, other: Path | None) -> bool:
    with suppress(OSError):
        return other is not None and one.samefile(other)
    return False


@define(eq=False)
class Run:
    """One job on its way: what happened so far, and what ends it."""

    job: Job
    keeper: Keeper
    everything: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled, all of it ends at once."""
    preparing: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled, its files are not waited for."""
    opening: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled, the output is closed at once; for as long as nothing was sent."""
    feeding: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled, no more is read, and the output ends gracefully."""
    printing: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled, what peers send is no longer printed."""
    statistics: Callable[[], Statistics] | None = None
    began: float = 0.0
    """When the output was open."""
    number: int = 0
    """Lines that were sent or skipped."""
    unsent: list[bytes] = attrs.field(factory=list)
    """Lines that were read and neither."""
    skipped: int = 0
    opened: bool = attrs.field(init=False)
    """Whether the link, if there is one, was ever open."""
    interrupted: bool = False
    late: bool = False
    """Whether nothing was confirmed any more for as long as shutdown-timeout says, after the input had ended."""
    ended_early: bool = False
    """Whether it ended before its input."""
    unreadable: bool = False
    unprinted: bool = False
    """Whether what peers sent could not be printed."""
    cut_off: bool = False
    """Whether this had to end while standard output did not take what was being printed."""

    def __attrs_post_init__(self) -> None:
        self.opened = self.job.config.url is None

    def say(self, text: str) -> None:
        """A line for people, where they want to be told how it goes."""
        if not self.job.quiet:
            say(text)

    def link_changed(self, change: LinkChange) -> None:
        """Remember that there was a connection; the log tells people what changed."""
        self.opened = self.opened or change.state is State.OPEN

    def skip(self, reason: object) -> None:
        """The line behind those that were sent or skipped can't be sent."""
        self.skipped += 1
        say(f"line {self.number + 1}: {reason}; skipped", "warning")

    def print_failed(self, reason: str) -> None:
        """Standard output can't be written: its reader ends the run, as in any pipe; a full disk only server-input."""
        self.unprinted = True
        if reason == GONE:
            self.reader_gone()
        elif self.job.only_receives:
            say(f"standard output: {reason}; what peers sent and is not printed is lost", "error")
            self.feeding.cancel()
        else:
            say(f"standard output: {reason}; what peers send is no longer printed", "error")

    def leave_unprinted(self) -> None:
        """Remember that printing was ended while standard output did not take what had come."""
        self.cut_off = True

    def reader_gone(self) -> None:
        """Nobody reads standard output any more: read no more, deliver what was accepted, and end."""
        if not self.feeding.cancel_called:
            doing = "" if self.job.only_receives else "; delivering what was accepted"
            say(f"standard output: {GONE}{doing}", "error")
            self.unprinted = True
            self.feeding.cancel()

    def interrupt(self) -> None:
        """Read no more, and end gracefully; printing what was received has as long as the output."""
        self.interrupted = True
        doing = "ending" if self.job.only_receives else "delivering what was accepted"
        say(f"interrupted: {doing}; once more to end at once")
        if self.statistics is None:
            self.preparing.cancel()
            self.opening.cancel()
        self.feeding.cancel()
        self.printing.deadline = trio.current_time() + self.job.config.shutdown_timeout

    @property
    def patience(self) -> float:
        """Seconds without progress after the end of the input that are too many; the rest of shutdown-timeout is for Closes."""
        return self.job.config.shutdown_timeout - self._reserve

    @property
    def _reserve(self) -> float:
        return min(_RESERVE, self.job.config.shutdown_timeout / 10)

    def time_to_end(self) -> float:
        """Seconds that leaving may take."""
        return self._reserve if self.late else self.job.config.shutdown_timeout

    def takes_to_the_end(self) -> bool:
        """Whether what comes while the output ends is printed; not where waiting for that has held up what was sent."""
        return not (self.late or self.unprinted)


# -- how it ended ---------------------------------------------------------------------------------------------


def tell_failure(run: Run, failure: OutputError) -> None:
    """Say why the output ended, and keep what it could not deliver."""
    say(str(failure), "error")
    lost = len(failure.undelivered)
    if lost:
        run.keeper.count += lost
        run.keeper.keep(failure.undelivered)
        was = "was" if lost == 1 else "were"
        say(f"{count(lost, 'accepted event')} {was} not confirmed, {run.keeper.written}", "error")


def tell_unsent(run: Run, lines: Lines) -> None:
    """Keep the lines that were taken from the input and not sent, or wait in a pipe: it will not give them again."""
    waiting = run.job.undelivered is not None and (run.interrupted or run.ended_early)
    unsent = [line for line in [*run.unsent, *lines.rest(waiting=waiting)] if line.strip()]
    if unsent:
        run.keeper.keep([as_undelivered(line) for line in unsent])
        were = "was" if len(unsent) == 1 else "were"
        what = f"{count(len(unsent), 'line')} {were} read and not sent"
        say(f"line {run.number + 1} and on: {what}, {run.keeper.written}", "error")


def tell_missed(run: Run, figures: Statistics) -> None:
    """Say what nobody got, or not everybody, where the configuration wants it so."""
    config = run.job.config
    # What no peer heard may have gone to the link, if there is one: what it did not get is undelivered.
    listener = figures.listener
    if listener is not None and listener.unheard and config.history is None and config.url is None:
        unheard = count(listener.unheard, "message")
        run.say(f"no peer was there for {unheard}; --wait-peers 1 waits for one")
    if listener is not None and listener.lost_by_slow:
        lost = "message was" if listener.lost_by_slow == 1 else "messages were"
        run.say(f"{listener.lost_by_slow:,} {lost} lost by slow peers (server.slow-peer: drop-oldest)")
    if figures.dropped and config.mode is not Mode.SERVER_OUTPUT:
        dropped = "message that came was" if figures.dropped == 1 else "messages that came were"
        run.say(f"{figures.dropped:,} {dropped} dropped, as unreadable or too late")


def exit_code(run: Run, failure: OutputError | None) -> int:
    """The code that says how it ended (SPEC 13)."""
    if run.interrupted:
        return INTERRUPTED
    if run.unreadable or _never_began(run, failure):
        return CONFIGURATION
    if isinstance(failure, ConnectError) or (isinstance(failure, DeliveryError) and not run.opened):
        return NO_CONNECTION
    lossless = failure is None and not (run.keeper.count or run.skipped or run.unprinted)
    return OK if lossless else SOME_UNDELIVERED


def _never_began(run: Run, failure: OutputError | None) -> bool:
    """Whether what is stored can't be used, so that nothing was lost."""
    if isinstance(failure, HistoryError | SpoolError):
        return run.statistics is None
    return isinstance(failure, CursorError) and not run.keeper.count
