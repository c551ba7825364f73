"""Writing to standard output and standard error, also when nobody reads them any more."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import trio

from trio_wsout.cli.descriptors import wait_writable, write_all
from trio_wsout.cli.json_text import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_wsout._core.received import Received
    from trio_wsout.output import Output

__all__ = ["GONE", "print_received", "say", "show", "silence", "waiting"]

_OUT, _ERR = 1, 2
"""File descriptors."""

GONE = "nobody reads it any more"
"""Why standard output can't be written when its reader has ended."""


def say(text: str) -> None:
    """One line for people, on standard error; when that is gone, nobody is told and nothing stops.

    A file or a peer may have written what it says: see `_harmless`.
    """
    # A closed standard error is None here, and print would take standard output for it.
    if sys.stderr is None:
        return
    try:
        _print(f"{_harmless(text)}\n", sys.stderr, _ERR)
    except OSError:
        silence(_ERR)


def show(text: str) -> bool:
    """Print a result on standard output; a reader that has seen enough is no fault. Whether it went well."""
    try:
        _print(f"{text}\n", sys.stdout, _OUT)
    except BrokenPipeError:
        silence(_OUT)
    except OSError as error:
        silence(_OUT)
        say(f"standard output: {error.strerror}")
        return False
    return True


def _harmless(text: str) -> str:
    """The text, with what commands a terminal, or can't be seen, written as in JSON."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def _print(text: str, stream: TextIO | None, descriptor: int) -> None:
    """Print all of it, also where a full pipe makes nobody wait (O_NONBLOCK), or the encoding is small."""
    if stream is None:
        return
    above: TextIO | None = getattr(stream, "rich_proxied_file", None)
    if above is None:
        # Not through the stream, which loses what a full pipe does not take.
        write_all(descriptor, text.encode(stream.encoding, "backslashreplace"))
        return
    for line in text.splitlines(keepends=True):
        try:
            print(line, end="", file=stream, flush=True)  # a status line at the bottom gives way
        except BlockingIOError:
            _flush(above, descriptor)


def _flush(stream: TextIO, descriptor: int) -> None:
    while True:
        wait_writable(descriptor)
        try:
            stream.flush()
        except BlockingIOError:
            continue
        return


def silence(descriptor: int = _OUT) -> None:
    """Let Python's own flush at the end find a place that takes everything."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def waiting(channel: trio.MemoryReceiveChannel[Any]) -> Iterator[Any]:
    """What lies in a channel now."""
    try:
        while True:
            yield channel.receive_nowait()
    except (trio.WouldBlock, trio.EndOfChannel):
        return


async def print_received(output: Output, *, with_peer: bool, failed: Callable[[str], object]) -> None:
    """Print what peers send, a line each, until the output ends; all that is there in one write.

    When standard output can't be written any more `failed` is told why, and the rest goes nowhere.
    """
    write = _write_nowhere if sys.stdout is None else _write_terminal if sys.stdout.isatty() else _write
    with suppress(trio.EndOfChannel):
        while True:
            items = await output.received.receive_many()
            lines = b"".join(_line(each, with_peer=with_peer) for each in items)
            try:
                # Left behind when cancelled: a reader that has stopped must not keep us from ending.
                await trio.to_thread.run_sync(write, lines, abandon_on_cancel=True)
            except OSError as error:
                write = _write_nowhere
                silence(_OUT)
                failed(GONE if isinstance(error, BrokenPipeError) else error.strerror or str(error))


def _line(item: Received, *, with_peer: bool) -> bytes:
    event: Any = item.event.hex() if isinstance(item.event, bytes) else item.event
    if with_peer:
        identity = {} if item.peer.identity is None else {"identity": item.peer.identity}
        event = {"peer": item.peer.address, **identity, "event": event}
    return to_json(event) + b"\n"


def _write(lines: bytes) -> None:
    # Not through sys.stdout: a thread left behind would hold its lock as Python ends.
    write_all(_OUT, lines)


def _write_terminal(lines: bytes) -> None:
    # Through sys.stdout, so that a status line at the bottom gives way.
    # JSON lets all but the oldest control characters stand as they are.
    _print("\n".join(map(_harmless, lines.decode().split("\n"))), sys.stdout, _OUT)


def _write_nowhere(lines: bytes) -> None:
    del lines
