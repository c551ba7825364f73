"""Standard output and standard error: JSON lines, results, and what people are told; also when nobody reads them."""

from __future__ import annotations

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
from typing import TYPE_CHECKING, Any, TextIO, cast

import orjson
import trio
from attrs import define

from trio_wsout._core.json_line import JsonLine
from trio_wsout._core.received import RawReceived

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_wsout._core.received import Received
    from trio_wsout.output import Output

__all__ = [
    "GONE",
    "Teller",
    "count",
    "is_writable",
    "print_received",
    "say",
    "show",
    "silence",
    "tell_log",
    "teller",
    "to_json",
    "wait_reader_gone",
    "write_all",
]

_OUT, _ERR = 1, 2
"""File descriptors."""

GONE = "nobody reads it any more"
"""Why standard output can't be written when its reader has ended."""

_FAILURES_APART = 55
"""Seconds from one line about an absent server to the next, at least."""
_PEER_LINES = 10
"""Lines about peers that are told in a second; the rest is counted, for thousands may come at once."""

# -- what people are told -------------------------------------------------------------------------------


@define(eq=False)
class Teller:
    """How people are told something: lines of text or of JSON, on standard error."""

    as_json: bool = False
    timed: bool = False
    """Whether each line of text begins with its time; lines of JSON always have it."""

    def say(self, text: str, level: str = "info") -> None:
        """One line; when standard error is gone, nobody is told and nothing stops.

        A file or a peer may have written what it says: see `_harmless`.
        """
        # A closed standard error is None here, and print would take standard output for it.
        if sys.stderr is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self.as_json:
            line = json.dumps({"time": now, "level": level, "message": text})
        else:
            line = f"{now} {_harmless(text)}" if self.timed else _harmless(text)
        try:
            _print(f"{line}\n", sys.stderr, _ERR)
        except OSError:
            silence(_ERR)


teller = Teller()
"""How this process tells people; the command's options set it."""
say = teller.say


class _Log(logging.Handler):
    """What the library logs, as lines for people."""

    def __init__(self) -> None:
        super().__init__()
        self._told: deque[float] = deque(maxlen=_PEER_LINES)
        self._untold = 0
        self._failure_told = -inf

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.name == "trio_wsout.link" and " backing-off" in text:
            # The first failure was told when it came; the warning that it lasts can wait for a minute.
            now = time.monotonic()
            if record.levelno == logging.WARNING and now - self._failure_told < _FAILURES_APART:
                return
            self._failure_told = now
        if record.name == "trio_wsout.peers":
            now = time.monotonic()
            if len(self._told) == _PEER_LINES and now - self._told[0] < 1:
                self._untold += 1
                return
            self._told.append(now)
            if self._untold:
                text += f" (and {self._untold} more came or left)"
                self._untold = 0
        for line in [text] if teller.as_json else text.splitlines():
            teller.say(line, record.levelname.lower())


def tell_log(*, verbose: bool, quiet: bool) -> None:
    """Tell what the library logs: warnings, link changes and peers; `quiet`: warnings only; `verbose`: everything."""
    log = logging.getLogger("trio_wsout")
    log.handlers = [_Log()]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING)
    for name in ("link", "peers"):
        level = logging.ERROR if quiet and name == "link" else logging.WARNING if quiet else logging.INFO
        log.getChild(name).setLevel(logging.NOTSET if verbose else level)


def count(number: int, thing: str, things: str | None = None) -> str:
    """A number of things, in words that fit the number."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


def show(text: str) -> bool:
    """Print a result on standard output; a reader that has seen enough is no fault. Whether it went well."""
    try:
        _print(f"{text}\n", sys.stdout, _OUT)
    except BrokenPipeError:
        silence(_OUT)
    except OSError as error:
        silence(_OUT)
        say(f"standard output: {error.strerror}", "error")
        return False
    return True


def _harmless(text: str) -> str:
    """The text, with what commands a terminal, or can't be seen, written as in JSON."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


# -- writing ----------------------------------------------------------------------------------------------


def write_all(descriptor: int, text: bytes) -> None:
    """Write all of it, however long that takes, also where whoever shares the pipe has set O_NONBLOCK."""
    left = memoryview(text)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def is_writable(descriptor: int) -> bool:
    """Whether it takes something now."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def wait_reader_gone(descriptor: int) -> bool:
    """Wait until nobody can read any more what is written to a pipe; False: it is no pipe, and that is never known."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll())


def _print(text: str, stream: TextIO | None, descriptor: int) -> None:
    """Print all of it, also where a full pipe makes nobody wait (O_NONBLOCK), or the encoding is small."""
    if stream is not None:
        # Not through the stream, which loses what a full pipe does not take.
        write_all(descriptor, text.encode(stream.encoding, "backslashreplace"))


def silence(descriptor: int = _OUT) -> None:
    """Let Python's own flush at the end find a place that takes everything."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


# -- what peers send ----------------------------------------------------------------------------------------


async def print_received(
    output: Output,
    *,
    with_peer: bool,
    as_json: bool,
    failed: Callable[[str], object],
    left: Callable[[], object],
) -> None:
    """Print what peers send, a line each, until the output ends; all that is there in one write.

    When standard output can't be written any more `failed` is told why, and the rest goes nowhere. When this is
    cancelled while standard output takes nothing, `left` is called: what came is not printed, or not all of it.
    """
    write = _write_nowhere if sys.stdout is None else _write_terminal if sys.stdout.isatty() else _write
    with suppress(trio.EndOfChannel):
        while True:
            items = await output.received.receive_many()
            lines = b"".join([_line(each, with_peer=with_peer, as_json=as_json) for each in items])
            try:
                # Left behind when cancelled: a reader that has stopped must not keep us from ending.
                await trio.to_thread.run_sync(write, lines, abandon_on_cancel=True)
            except trio.Cancelled:
                left()
                raise
            except OSError as error:
                write = _write_nowhere
                silence(_OUT)
                failed(GONE if isinstance(error, BrokenPipeError) else error.strerror or str(error))


def _line(item: Received, *, with_peer: bool, as_json: bool) -> bytes:
    """What is printed of a message; JSON as it was written, whether it was said to be JSON (`as_json`) or is it."""
    if as_json and isinstance(item, RawReceived):
        event = to_json(JsonLine.joined(item.raw))
    elif isinstance(item.event, str) and (line := _one_line(item.event)) is not None:
        event = line
    else:
        event = to_json(item.event)
    if not with_peer:
        return event + b"\n"
    identity = {} if item.peer.identity is None else {"identity": item.peer.identity}
    return to_json({"peer": item.peer.address, **identity})[:-1] + b',"event":' + event + b"}\n"


def _one_line(text: str) -> bytes | None:
    """A text that is one line of JSON, without the line's end; None if it is not."""
    line = text.removesuffix("\n").removesuffix("\r").encode()
    if b"\n" in line or b"\r" in line:
        return None
    try:
        JsonLine.read(line)
    except ValueError:
        return None
    return line


def _write(lines: bytes) -> None:
    # Not through sys.stdout: a thread left behind would hold its lock as Python ends.
    write_all(_OUT, lines)


def _write_terminal(lines: bytes) -> None:
    # JSON lets all but the oldest control characters stand as they are.
    text = "\n".join(map(_harmless, lines.decode(errors="replace").split("\n")))
    _print(text, sys.stdout, _OUT)


def _write_nowhere(lines: bytes) -> None:
    del lines


# -- values as JSON -------------------------------------------------------------------------------------------

_slow = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Knows whole numbers of any size, and goes as deep as Python itself."""


def to_json(value: object) -> bytes:
    """JSON of a value that was read from JSON, on one line; bytes become hexadecimal text.

    Raises:
        TypeError: It holds something that JSON has not.
        ValueError: It holds a whole number of thousands of digits.
    """
    if isinstance(value, JsonLine):
        # A carriage return is a blank there, but some readers would end the line at it.
        return value.text.replace(b"\r", b" ")
    if isinstance(value, bytes):
        value = value.hex()
    try:
        return orjson.dumps(value)
    except TypeError:  # more than 254 levels, or a whole number of more than 64 bits
        pass
    try:
        return _slow(value).encode()
    except RecursionError:
        return b"".join(_pieces(value))


def _pieces(value: object) -> Iterator[bytes]:
    """What it is written as, without recursion: who sends it says how deep it is."""
    left: list[Any] = [value]  # the next one last; bytes are written already
    while left:
        item = left.pop()
        if isinstance(item, bytes):
            yield item
        elif isinstance(item, dict):
            pairs = cast("dict[object, object]", item).items()
            inner = [part for key, each in pairs for part in (b",", _scalar(key), b":", each)]
            left += [b"}", *reversed(inner[1:]), b"{"]
        elif isinstance(item, list):
            inner = [part for each in cast("list[object]", item) for part in (b",", each)]
            left += [b"]", *reversed(inner[1:]), b"["]
        else:
            yield _scalar(item)


def _scalar(value: object) -> bytes:
    return _slow(value).encode()
