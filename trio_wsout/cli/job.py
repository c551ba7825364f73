"""What one `trio-wsout run` was asked to do, and what happened to it so far."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import attrs
import trio
from attrs import define, frozen

from trio_wsout._core.link import State
from trio_wsout.cli.printing import GONE, say
from trio_wsout.config.sections import Mode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio_wsout._core.link_change import LinkChange
    from trio_wsout._core.statistics import Statistics
    from trio_wsout.cli.keeping import Keeper
    from trio_wsout.config import Config

__all__ = ["Job", "Run"]


@frozen
class Job:
    """What one `run` was asked to do."""

    config: Config
    source: Path | None
    undelivered: Path | None
    wait_peers: int | None = attrs.field(kw_only=True)
    with_peer: bool = attrs.field(kw_only=True)
    stats: bool = attrs.field(kw_only=True)
    quiet: bool = attrs.field(kw_only=True)

    @property
    def only_receives(self) -> bool:
        """Whether it reads no input: it prints what peers send until a signal ends it."""
        return self.config.mode is Mode.SERVER_INPUT

    @property
    def misfit(self) -> str | None:
        """Why its options, or its standard streams, can't be used in its mode; None: they can."""
        if self.config.mode is Mode.CLIENT and (self.wait_peers or 0) > 1:
            return f"--wait-peers {self.wait_peers}: mode client has one peer, never more"
        if not self.only_receives:
            closed = self.source is None and sys.stdin is None
            return "standard input is closed; name a file with --input" if closed else None
        for option, value in (("--wait-peers", self.wait_peers), ("--input", self.source)):
            if value is not None:
                return f"{option}: mode server-input sends nothing and reads no input; leave it out"
        return "standard output is closed; mode server-input has no other use" if sys.stdout is None else None


@define(eq=False)
class Run:
    """One job on its way: what happened so far, and what ends it."""

    job: Job
    keeper: Keeper
    opening: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled, the output is closed at once; for as long as nothing was sent."""
    feeding: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled, no more is read, and the output ends gracefully."""
    printing: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Cancelled, what peers send is no longer printed."""
    statistics: Callable[[], Statistics] | None = None
    number: int = 0
    """Lines that were sent or skipped."""
    unsent: list[bytes] = attrs.field(factory=list)
    """Lines that were read and neither."""
    skipped: int = 0
    opened: bool = attrs.field(init=False)
    """Whether the link, if there is one, was ever open."""
    interrupted: bool = False
    unreadable: bool = False
    unprinted: bool = False
    """Whether what peers sent is lost because it could not be printed, and that was all there was to do."""

    def __attrs_post_init__(self) -> None:
        self.opened = self.job.config.url is None

    def say(self, text: str) -> None:
        """A line for people, where they want to be told how it goes."""
        if not self.job.quiet:
            say(text)

    def link_changed(self, change: LinkChange) -> None:
        """Remember that there was a connection, and say what changed."""
        self.opened = self.opened or change.state is State.OPEN
        delay = f"; next attempt in {change.delay:.2g} s" if change.delay is not None else ""
        why = f": {change.ending.detail}" if change.ending is not None and change.delay is not None else ""
        self.say(f"link {change.state.value}{why}{delay}")

    def print_failed(self, reason: str) -> None:
        """Standard output can't be written: without it, mode server-input ends."""
        if self.job.only_receives:
            self.unprinted = True
            say(f"standard output: {reason}; what peers sent and is not printed is lost")
            self.feeding.cancel()
        elif reason != GONE:
            say(f"standard output: {reason}; what peers send is no longer printed")

    def interrupt(self) -> None:
        """Read no more, and end gracefully; printing what was received has as long as the output."""
        self.interrupted = True
        doing = "ending" if self.job.only_receives else "delivering what was accepted"
        say(f"interrupted: {doing}; once more to end at once")
        if self.statistics is None:
            self.opening.cancel()
        self.feeding.cancel()
        self.printing.deadline = trio.current_time() + self.job.config.shutdown_timeout
