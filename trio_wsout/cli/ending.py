"""How a run ended: what people are told, what is kept, and the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_wsout.cli.codes import CONFIGURATION, INTERRUPTED, NO_CONNECTION, OK, SOME_UNDELIVERED
from trio_wsout.cli.keeping import as_undelivered
from trio_wsout.cli.printing import say
from trio_wsout.errors import ConnectError, CursorError, DeliveryError, HistoryError, SpoolError

if TYPE_CHECKING:
    from trio_wsout._core.statistics import Statistics
    from trio_wsout.cli.job import Run
    from trio_wsout.errors import OutputError

__all__ = ["exit_code", "tell_failure", "tell_missed", "tell_unsent"]


def tell_failure(run: Run, failure: OutputError) -> None:
    """Say why the output ended, and keep what it could not deliver."""
    say(f"{type(failure).__name__}: {failure}")
    if failure.undelivered:
        run.keeper.count += len(failure.undelivered)
        run.keeper.keep(failure.undelivered)
        say(f"{len(failure.undelivered)} accepted events were not confirmed, {run.keeper.written}")


def tell_unsent(run: Run, begun: bytes) -> None:
    """Keep the lines that were taken from the input and not sent: a pipe will not give them again."""
    unsent = [line for line in [*run.unsent, begun] if line.strip()]
    if unsent:
        run.keeper.keep([as_undelivered(line) for line in unsent])
        say(f"line {run.number + 1} and on: {len(unsent)} lines were read and not sent, {run.keeper.written}")


def tell_missed(run: Run, figures: Statistics) -> None:
    """Say what nobody got, or not everybody, where the configuration wants it so."""
    # What no peer heard may have gone to the link, if there is one: what it did not get is undelivered.
    if figures.unheard and run.job.config.history is None and run.job.config.url is None:
        run.say(f"no peer was there for {figures.unheard} messages; --wait-peers 1 waits for one")
    if figures.lost_by_slow:
        run.say(f"{figures.lost_by_slow} messages were lost by slow peers (server.slow-peer: drop-oldest)")


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
