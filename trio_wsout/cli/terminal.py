"""Standard output and standard error: results, messages for people, and rich's console.

Messages and results are discarded when nobody reads their stream any more, or its disk is full: that ends no command.
"""

import json
import logging
import os
import select
import sys
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from math import inf
from typing import Any, TextIO

from rich.console import Console

from trio_wsout.errors import count

OUT, ERR = 1, 2
"""File descriptors of standard output and standard error."""
GONE = "nobody reads it any more"
"""The reason for which standard output can't be written when its reader has ended."""

_BETWEEN_FAILURES = 55
"""Least seconds between two lines about a server that stays absent."""
_PEER_LINES = 10
"""Lines about peers in one second; more are counted only, because thousands may come together."""


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content`, however long that takes, also if another process that shares the pipe set O_NONBLOCK."""
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            is_ready(descriptor, select.POLLOUT, None)


def write_alone(descriptor: int, content: bytes) -> None:
    """Write all of `content`, as `write_all` does, while no process that does so, too, writes there: so no line is torn."""
    import fcntl  # noqa: PLC0415 - Windows has no such module, and no processes that share a port

    with suppress(OSError):  # where the system can't lock it
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        write_all(descriptor, content)
    finally:
        with suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_UN)


def write_text(text: str, stream: TextIO | None, descriptor: int) -> None:
    """Write a text to `descriptor` in the encoding of its `stream`, or nowhere if the stream is closed (None)."""
    if stream is not None:
        # Not through the stream, which loses the bytes that a full pipe with O_NONBLOCK does not take.
        write_all(descriptor, text.encode(stream.encoding, "backslashreplace"))


def is_ready(descriptor: int, events: int, milliseconds: float | None = 0) -> bool:
    """Return whether a descriptor is readable (POLLIN) or writable (POLLOUT), after waiting for that; None waits for ever."""
    poll = select.poll()
    poll.register(descriptor, events)
    return bool(poll.poll(milliseconds))


def wait_reader_gone(descriptor: int) -> bool:
    """Wait until a pipe has no reader any more. Return False if the descriptor is no pipe, so that this can't be known."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll())


def silence(descriptor: int) -> None:
    """Let a descriptor discard everything, so that Python's own flush at the end of the process does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Reporter(logging.Handler):
    """Writes messages for people, and the log of the library, to standard error: as lines of text or of JSON."""

    as_json: bool = False
    number: int | None = None
    """The number of this process beside others (`--processes`), which every line then has."""
    timed: bool = False
    """Whether a line of text begins with its time; a line of JSON always has it."""

    def __init__(self) -> None:
        super().__init__()
        self._peer_lines: deque[float] = deque(maxlen=_PEER_LINES)
        self._omitted = 0
        self._last_failure = -inf

    def report(self, text: str, level: str = "info") -> None:
        """Write one line. If standard error is closed or can't be written, nothing happens."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self.as_json:
            beside = {} if self.number is None else {"process": self.number}
            line = json.dumps({"time": now, **beside, "level": level, "message": text})
        else:
            # A file or a peer may have written a part of the text.
            number = "" if self.number is None else f"[{self.number}] "
            line = f"{f'{now} ' if self.timed else ''}{number}{escape_controls(text)}"
        try:
            write_text(f"{line}\n", sys.stderr, ERR)
        except OSError:
            silence(ERR)

    def emit(self, record: logging.LogRecord) -> None:
        """Report a record of the log, unless it says again what was said a moment ago."""
        text, now = self.format(record), time.monotonic()
        if record.name == "trio_wsout.link" and " backing-off" in text:
            # The first failure is reported when it comes; the warning that it lasts can wait for a minute.
            if record.levelno == logging.WARNING and now - self._last_failure < _BETWEEN_FAILURES:
                return
            self._last_failure = now
        if record.name == "trio_wsout.peers":
            if len(self._peer_lines) == _PEER_LINES and now - self._peer_lines[0] < 1:
                self._omitted += 1
                return
            self._peer_lines.append(now)
            if self._omitted:
                text += f" (and {self._omitted} more came or left)"
                self._omitted = 0
        for line in [text] if self.as_json else text.splitlines():
            self.report(line, record.levelname.lower())


reporter = Reporter()
"""The reporter of this process; the options of the command set it."""
report = reporter.report


def report_log(*, verbose: bool, quiet: bool) -> None:
    """Report the log of the library: warnings, link changes and peers; with `quiet` warnings only, with `verbose` all."""
    log = logging.getLogger("trio_wsout")
    log.handlers = [reporter]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING)
    for name in ("link", "peers"):
        level = logging.ERROR if quiet and name == "link" else logging.WARNING if quiet else logging.INFO
        log.getChild(name).setLevel(logging.NOTSET if verbose else level)


def count_were(number: int, thing: str) -> str:
    """Return a number of things with the verb of a sentence: "1 line was", "2 lines were"."""
    return f"{count(number, thing)} {'was' if number == 1 else 'were'}"


def escape_controls(text: str) -> str:
    """Return `text` with all characters that command a terminal, or can't be seen, escaped as in JSON."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def print_result(text: str) -> bool:
    """Print a result on standard output. Return False if it can't be written; a reader that has seen enough is no fault."""
    try:
        write_text(f"{text}\n", sys.stdout, OUT)
    except OSError as error:
        silence(OUT)
        if not isinstance(error, BrokenPipeError):
            report(f"standard output: {error.strerror}", "error")
            return False
    return True


class Screen(Console):
    """rich's console; if its stream can't be written, this is reported once, and nothing more is printed."""

    failed: bool = False
    """Whether the stream could not be written, for another reason than a reader that has seen enough."""

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 - rich's own are many
        """Print as rich does."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            self.on_broken_pipe()
            self.failed = self.failed or not isinstance(error, BrokenPipeError)
            if self.failed and not self.stderr:
                report(f"standard output: {error.strerror}")

    def on_broken_pipe(self) -> None:
        """Print nothing more; rich itself would end the process."""
        self.quiet = True
        silence(ERR if self.stderr else OUT)
