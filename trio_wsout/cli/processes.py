"""`trio-wsout run --processes N`: the parent of N processes that serve at one port; it serves nobody itself.

Rules
-----
1. A child is the same command line, with a `Role` from its parent. All have the configuration that the parent has loaded. The
   first child is started alone: if the port is 0, its port is that of the others.
2. The first child reads the input; the others stay until it has ended. The parent opens the input, so that a child that is
   started again goes on where the one before it stopped.
3. A child that is killed, that crashes, or that a signal of its own has ended, is started again, after a delay that grows with
   each time in a row. At the `_MOST`-th time in a row all end.
4. When a child ends in any other way, all end: its input has ended, or nothing that it needs is to be had by trying again.
5. Signals are passed on. Whoever is still there `_GRACE` seconds after the time for an end is killed.
6. The exit code is the worst one.
"""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

import trio
from attrs import define, evolve, field

from trio_wsout._core.backoff import delay
from trio_wsout._core.statistics import Statistics, total
from trio_wsout.cli.child import (
    ABORT,
    BEGIN,
    END,
    FIGURES,
    INTERRUPT,
    VARIABLE,
    Figures,
    Role,
    pack,
    receive_figures,
)
from trio_wsout.cli.configuration import print_problems
from trio_wsout.cli.exit_codes import CONFIGURATION, INTERRUPTED, NO_CONNECTION, OK, SOME_UNDELIVERED
from trio_wsout.cli.run import Run, find_misuse, open_input
from trio_wsout.cli.signals import open_signals, watch_signals
from trio_wsout.cli.status_line import can_show, run_status_line
from trio_wsout.cli.terminal import report
from trio_wsout.config.addresses import BindAddress, parse_bind
from trio_wsout.config.sections import Config, Mode, Reconnect
from trio_wsout.errors import ConfigError, Problem, count

_DELAYS = Reconnect()
"""The delays before a child is started again; one that lived for `reset_after` begins anew."""
_MOST = 5
"""Times in a row that a child may die before all end."""
_GRACE = 5.0
"""Seconds after the time for an end in which the children that are still there may end by themselves."""
_ASK_EVERY = 0.5
"""Seconds between two questions for figures, while somebody needs them."""
_WORST_FIRST = (CONFIGURATION, NO_CONNECTION, SOME_UNDELIVERED)


def find_problems(config: Config) -> list[Problem]:
    """Return why a configuration can't be used by several processes."""
    return [Problem(path=path, reason=f"{reason} (--processes)") for path, reason in _reasons(config)]


def _reasons(config: Config) -> Iterator[tuple[str, str]]:
    if config.mode is Mode.CLIENT:
        yield "mode", "is client, whose one link is held by one process"
    elif config.url is not None:
        yield "url", "is a link, which one process holds; run the relay that has it as one process"
    if config.server is not None and not isinstance(parse_bind(config.server.bind), BindAddress):
        yield "server.bind", "is a Unix socket, which has one listener; bind host:port"
    elif config.server is not None and not hasattr(socket, "SO_REUSEPORT"):
        yield "server.bind", "can't be shared: this system has no SO_REUSEPORT"
    store = "" if config.history is None else config.history.store
    if config.mode in (Mode.SERVER_OUTPUT, Mode.RELAY) and (
        not store or store.startswith(("memory:", "sqlite:"))
    ):
        own = f"is {store or 'not set'}: each process would have events and an order of its own"
        yield (
            "history.store",
            f"{own}; name a store that they share, such as redis://localhost/?stream=events",
        )


async def run_processes(run: Run) -> int:
    """Run as many processes as the options say, until the input ends or something else ends them; return the exit code."""
    problems, misuse = find_problems(run.config), find_misuse(run)
    if problems or misuse is not None:
        print_problems(ConfigError(problems))
        if misuse is not None:
            report(misuse, "error")
        return CONFIGURATION
    server = None if run.config.server is None else evolve(run.config.server, reuse_port=True)
    family = _Family(run, evolve(run.config, server=server))
    with open_signals() as signals:
        async with trio.open_nursery() as watching:
            watching.start_soon(watch_signals, signals, family.interrupt, partial(family.tell, ABORT))
            with family.everything:
                await family.live(watching)
            watching.cancel_scope.cancel()
    if family.figures:
        run.report_totals(family.statistics(), sum(each.skipped for each in family.figures.values()))
    return INTERRUPTED if family.told >= INTERRUPT else family.code()


@define(eq=False)
class _Family:
    """The children of this process, by their numbers from 1."""

    _run: Run
    _config: Config
    """The configuration of the next child."""
    _input: int = field(default=subprocess.DEVNULL, init=False)
    figures: dict[int, Figures] = field(factory=dict[int, Figures], init=False)
    """The latest figures of each child whose output was opened."""
    told: bytes = field(default=b"", init=False)
    """`END`, `INTERRUPT` or `ABORT`, once all children are told so."""
    everything: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    """Ends in time to kill whoever is still there."""
    _sockets: dict[int, socket.socket] = field(factory=dict[int, socket.socket], init=False)
    """The sockets of the children that have their role."""
    _codes: list[int] = field(factory=list[int], init=False)
    _ending: trio.Event = field(factory=trio.Event, init=False)
    _begun: bool = field(default=False, init=False)
    """Whether the input may be read: no peers are awaited, or they were there."""

    # -- all of them ------------------------------------------------------------------------------------

    async def live(self, watching: trio.Nursery) -> None:
        """Start the children, and see to them until the last one has ended."""
        run = self._run
        self._begun = run.options.wait_peers is None
        if run.has_input:
            try:
                with run.preparing:
                    self._input = await open_input(run)
            except OSError as error:
                report(f"{error.filename}: {error.strerror}", "error")
                self._codes.append(CONFIGURATION)
                return
        first, *others = (trio.Event() for _ in range(run.options.processes or 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, 1, first)
            await first.wait()
            for number, each in enumerate(others, 2):
                nursery.start_soon(self._keep, number, each)
            for each in others:
                await each.wait()
            if not self._ending.is_set():
                self._tell_started(watching)

    def _take_port(self, addresses: Sequence[str]) -> None:
        """Let the next children listen at the port of one that listens at these addresses."""
        server = self._config.server
        if server is not None and addresses:
            bind = f"{server.bind.rpartition(':')[0]}:{addresses[0].rpartition(':')[2]}"
            self._config = evolve(self._config, server=evolve(server, bind=bind))

    def _tell_started(self, watching: trio.Nursery) -> None:
        run = self._run
        run.began = trio.current_time()
        run.inform(f"{run.options.processes} processes listening at {', '.join(self.statistics().addresses)}")
        shows = not run.options.quiet and can_show()
        if shows:
            watching.start_soon(run_status_line, self.statistics, run.config.mode, None)
        if not self._begun:
            run.inform(f"waiting for {count(run.options.wait_peers or 0, 'peer')}")
        if shows or not self._begun:
            watching.start_soon(self._ask)

    async def _ask(self) -> None:
        """Ask for figures again and again, and let the input be read when the awaited peers are there."""
        while True:
            if not self._begun and self.statistics().peers >= (self._run.options.wait_peers or 0):
                self._begun = True
                self._send(1, BEGIN)
            for number in self._sockets:
                self._send(number, FIGURES)
            await trio.sleep(_ASK_EVERY)

    def statistics(self) -> Statistics:
        """Return the figures of the children as those of one; a child that was killed left none."""
        return total([each.statistics for each in self.figures.values()])

    def code(self) -> int:
        """Return the worst exit code."""
        if self.everything.cancelled_caught:
            self._codes.append(SOME_UNDELIVERED)
        return next((each for each in _WORST_FIRST if each in self._codes), OK)

    def interrupt(self) -> None:
        """End all children gracefully."""
        self._run.report_interrupt()
        self._run.preparing.cancel()
        self.tell(INTERRUPT)

    def tell(self, byte: bytes) -> None:
        """Tell all children to end: by `END`, `INTERRUPT` or `ABORT`."""
        if byte <= self.told:
            return
        self.told = byte
        self._ending.set()
        for number in self._sockets:
            self._send(number, byte)
        within = 0.0 if byte == ABORT else self._config.shutdown_timeout
        self.everything.deadline = trio.current_time() + within + _GRACE

    def _send(self, number: int, byte: bytes) -> None:
        with suppress(KeyError, OSError):  # it is not there, or has not taken hundreds of bytes
            self._sockets[number].send(byte)

    # -- one of them ------------------------------------------------------------------------------------

    async def _keep(self, number: int, settled: trio.Event) -> None:
        """Start a child, and again when that helps; `settled` is set when its output is open, or never will be."""
        failures = 0
        reads = number == 1 and self._run.has_input
        while not self._ending.is_set():
            began = trio.current_time()
            role = Role(number, self._config, reads, again=failures > 0)
            code, which = await self._live_once(role, settled)
            if self._ending.is_set() or code in (OK, *_WORST_FIRST):
                self._codes.append(SOME_UNDELIVERED if code < 0 or code == 1 else code)
                self.tell(END)
                break
            self.figures.pop(number, None)
            lasted = trio.current_time() - began
            failures = 1 if lasted > _DELAYS.reset_after else failures + 1
            await self._recover(role, code, which, failures)
        settled.set()

    async def _recover(self, role: Role, code: int, which: str, failures: int) -> None:
        """Report that a child has died, and wait before it is started again."""
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        text = f"process {role.number} ({which}) {how}"
        if role.reads:
            self._codes.append(SOME_UNDELIVERED)
            text += "; what it had read of the input and not sent is lost"
        if failures == _MOST:
            report(f"{text}; this was the {_MOST}th time in a row", "error")
            self._codes.append(NO_CONNECTION)
            self.tell(END)
            return
        seconds = delay(failures, random.random(), _DELAYS)  # noqa: S311 - no secret
        report(f"{text}; it starts again in {seconds:.1f} s", "error")
        with trio.move_on_after(seconds):
            await self._ending.wait()

    async def _live_once(self, role: Role, settled: trio.Event) -> tuple[int, str]:
        """Start a child, give it its role, and take its figures until it has ended.

        Return its exit code and its id, or 1 and why it could not be started.
        """

        def take(figures: Figures) -> None:
            self.figures[role.number] = figures
            self._take_port(figures.statistics.addresses)
            settled.set()

        ours, theirs = socket.socketpair()
        with ours:
            try:
                child = await self._start(role, theirs)
            except OSError as error:  # for example, this user has too many processes
                return 1, error.strerror or str(error)
            try:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive_figures, stream, take)
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(pack(role))
                    self._sockets[role.number] = ours
                    for byte in (BEGIN if self._begun else b"", self.told):
                        self._send(role.number, byte)
                    code = await child.wait()
                    self._sockets.pop(role.number)
            finally:
                child.kill()
                with trio.CancelScope(shield=True):
                    await child.wait()
        return code, str(child.pid)

    async def _start(self, role: Role, theirs: socket.socket) -> trio.Process:
        with theirs:
            return await trio.lowlevel.open_process(
                [sys.executable, *sys.orig_argv[1:]],
                stdin=self._input if role.reads else subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, VARIABLE: str(theirs.fileno())},
            )
