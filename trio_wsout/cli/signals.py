"""The signals that end a run: gracefully at the first one, immediately at the second one."""

import signal
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager

import trio

_REPEATED = 0.5
"""Seconds within which a second SIGTERM counts as the first one."""
_HANGUP = [
    each for each in signal.Signals if each.name == "SIGHUP" and signal.getsignal(each) != signal.SIG_IGN
]
"""The signal of a terminal that closes; none if it was ignored from the start (`nohup`), or the system has none."""


@contextmanager
def open_signals() -> Generator[AsyncIterator[int]]:
    """Receive the signals that end a run.

    The one of a closing terminal is ignored afterwards, so that it does not interrupt the writing of undelivered events.
    """
    for hangup in _HANGUP:
        signal.signal(hangup, signal.SIG_IGN)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *_HANGUP) as signals:
        yield signals


async def watch_signals(
    signals: AsyncIterator[int], interrupt: Callable[[], object], abort: Callable[[], object]
) -> None:
    """Call `interrupt` at the first signal, and `abort` at the second one."""
    first: float | None = None
    async for each in signals:
        if first is None:
            first = trio.current_time()
            interrupt()
        # The end of a terminal may be signalled twice, by the system and by the shell. `timeout` of coreutils sends
        # SIGTERM to its child and then to its whole group.
        elif each not in _HANGUP and not (each == signal.SIGTERM and trio.current_time() < first + _REPEATED):
            abort()
            return
