"""The file of `--undelivered`: events that were not delivered, one {"event", "reason"} a line, on disk."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import orjson
import trio
from attrs import define, field

from trio_wsout._core.json_line import JsonLine
from trio_wsout.cli.lines import to_json
from trio_wsout.cli.terminal import OUT, report, write_all
from trio_wsout.errors import Undelivered, count

_STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1")
"""Names of standard output where a file is named."""
_EVENT, _HEX, _REASON = b'{"event":', b',"hex":true', b',"reason":'
_NO_JSON = "read, but not sent; it is no JSON"
"""The reason for which a line is kept as a text."""


@define(eq=False)
class UndeliveredFile:
    """Counts undelivered events, and appends them to a file if one was named."""

    _path: Path | None
    count: int = field(default=0, init=False)
    """Accepted events that were not delivered."""
    _descriptor: int | None = field(default=None, init=False)
    _incomplete: str = field(default="", init=False)
    """The reason for which not all events are in the file; empty if all are."""

    @property
    def outcome(self) -> str:
        """The location of the events, as the end of a sentence."""
        if self._path is None:
            return "lost; --undelivered FILE keeps what is not delivered"
        if self._incomplete:
            return f"not all of them in {self._path}: {self._incomplete}"
        return f"written to {self._path}"

    def open(self) -> None:
        """Open the file, so that one that can't be written is found before the first event (by an OSError)."""
        if self._path is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            standard = str(self._path) in _STANDARD_OUTPUT
            self._descriptor = os.dup(OUT) if standard else os.open(self._path, flags, 0o666)

    def append(self, items: Sequence[Undelivered]) -> None:
        """Append a line for each item. They are on disk when this returns; those that can't be written are reported."""
        if self._descriptor is None or not items:
            return
        lines = b"".join(self._line(item) for item in items)
        try:
            write_all(self._descriptor, lines)
        except OSError as error:
            self._incomplete = error.strerror or str(error)
            lost = count(len(items), "undelivered event")
            report(f"{self._path}: {self._incomplete}; {lost} could not all be written", "error")
        with suppress(OSError):  # a pipe or a terminal has no disk
            os.fsync(self._descriptor)

    def _line(self, item: Undelivered) -> bytes:
        in_hex = _HEX if isinstance(item.event, bytes) else b""
        try:
            return b"".join((_EVENT, to_json(item.event), in_hex, _REASON, to_json(item.reason), b"}\n"))
        except (TypeError, ValueError) as error:  # the other events are written all the same
            self._incomplete = str(error)
            report(f"{self._path}: an undelivered event could not be written: {error}", "error")
            return b""

    async def append_from(self, channel: trio.MemoryReceiveChannel[Undelivered]) -> None:
        """Append the events of a channel until it ends; all that wait in it are written together."""
        async for item in channel:
            items = [item, *_waiting(channel)]
            self.count += len(items)
            # These are in the channel no more: a second Ctrl-C must not come between them and the file.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.append, items)

    def append_waiting(self, channel: trio.MemoryReceiveChannel[Undelivered]) -> None:
        """Append the events that a cancelled output left in the channel."""
        items = list(_waiting(channel))
        self.count += len(items)
        self.append(items)


def _waiting(channel: trio.MemoryReceiveChannel[Undelivered]) -> Iterator[Undelivered]:
    """Take the events that wait in a channel."""
    with suppress(trio.WouldBlock, trio.EndOfChannel):
        while True:
            yield channel.receive_nowait()


def undelivered_line(line: bytes) -> Undelivered:
    """Return a line that was read and not sent as an undelivered event; a line that is no JSON is kept as a text."""
    try:
        return Undelivered(event=JsonLine.read(line), reason="read, but not sent")
    except ValueError:
        return Undelivered(event=line.decode(errors="replace"), reason=_NO_JSON)


def read_undelivered(line: bytes) -> JsonLine | bytes:
    """Return the event of a line that `--undelivered` wrote, as it was.

    It raises ValueError if the line is something else, or keeps a line that was no JSON.
    """
    text = line.strip()
    whole = JsonLine.read(text)
    end = text.rfind(_REASON)
    if text.startswith(_EVENT) and end > 0:
        # The last one is the reason of the line, and no part of the event: a reason holds no bare quotes.
        in_hex = text[:end].endswith(_HEX)
        if orjson.loads(text[end + len(_REASON) : -1]) == _NO_JSON:
            raise ValueError("it was no JSON when it was read")
        event = JsonLine.read(text[len(_EVENT) : end].removesuffix(_HEX))
        return bytes.fromhex(str(event.value())) if in_hex else event
    value = whole.value()
    if not isinstance(value, dict) or "event" not in value:
        raise ValueError('expected {"event": …, "reason": …}, as --undelivered writes it')
    return JsonLine(to_json(cast("object", value["event"])))
