"""What comes in, cut into parts: whole messages read here, and the rest for wsproto (RFC 6455 section 5).

Rules
-----
1. *Plain* is a data frame that is a whole message: final, no reserved bit, masked exactly when the peer has
   to, its length in the shortest form and not over max-message-size, no message open before it, and a text
   that is UTF-8. Runs of them are unmasked and decoded here, for a fraction of what a frame costs in wsproto.
2. Whole pongs are given at once, whatever waits before them. Whole pings and valid Closes keep their place;
   of a Close only the code goes on, for its reason may hold what nobody should log.
3. Everything else goes to wsproto as it came, one frame at a time, and wsproto alone says what is wrong with
   it. Behind a Close nothing is looked at.
4. A frame that is cut is held back where wsproto would say nothing about it yet: while its header is not
   complete, a control frame until it is whole, and a small data frame that may become plain until the next
   bytes. So most of what a burst cuts is plain, too.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from attrs import field, frozen

from trio_wsout._wire.frames import (
    BINARY,
    CLOSE,
    LONGEST_CONTROL,
    LONGEST_SHORT,
    PING,
    PONG,
    TEXT,
    FrameScanner,
    header_length,
    parse_close,
    unmask,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MOST_IN_RUN", "Part", "Ping", "Slow", "Splitter"]

MOST_IN_RUN = 256
"""Messages of one run at most: a millisecond's work, between which other tasks run."""
_LARGEST_HELD = 64 * 1024
"""Bytes of a cut data frame that is held back at most."""

_FIN = 0x80
_MASKED = 0x80
_RESERVED = 0x70
_LONGEST = 2**63 - 1
"""Bytes of a payload at most: the first bit of 8 bytes of length is 0."""
_PLAIN_TEXT, _PLAIN_BINARY = _FIN | TEXT, _FIN | BINARY
_PLAIN = (_PLAIN_TEXT, _PLAIN_BINARY)
_CONTROL = {_FIN | opcode: opcode for opcode in (CLOSE, PING, PONG)}
_OPCODES = frozenset((0, TEXT, BINARY, CLOSE, PING, PONG))
_LENGTH_2, _LENGTH_8 = 126, 127
_XOR_BELOW = 1024
"""Bytes up to which the mask is taken off here; `unmask` knows what is best for more."""
_SHORTEST = 2
"""Bytes that a header has at least."""
_CODE = 2
"""Bytes of a Close's code."""
from_bytes = int.from_bytes


@frozen
class Ping:
    """A ping, to be answered when everything before it was handed over."""

    payload: bytes = field(repr=False)


@frozen
class Slow:
    """Bytes of one frame for wsproto."""

    data: bytes = field(repr=False)
    ends_message: bool
    """Whether a message ends with them, which wsproto then has, if it finds no fault."""
    close: bytes | None = field(default=None, repr=False)
    """Payload of the Close that they are; None: they are none."""


Part = list[str | bytes] | Ping | Slow
"""A run of plain messages, or something else. Parts keep the order of the bytes."""


class Splitter:
    """Splits what one peer sends, cut in any way."""

    __slots__ = ("_held", "_key", "_mask", "_most", "_scanner", "closed")

    closed: bool
    """Whether a Close came."""

    def __init__(self, *, masked: bool, most: int) -> None:
        """Split the frames of a peer that masks them, or does not; messages have at most `most` bytes."""
        self._scanner = FrameScanner()
        self._mask = _MASKED if masked else 0
        self._key = 4 if masked else 0
        self._most = most
        self._held = b""
        self.closed = False

    @property
    def scattered(self) -> bool:
        """Whether a message came in too many frames. Then nothing more is split."""
        return self._scanner.scattered

    def lone_pong(self, chunk: bytes) -> bytes | None:
        """The payload, if these next bytes are one pong, whole and nothing else; else None."""
        if self._held or self.closed:
            return None
        return self._scanner.lone_pong(chunk, masked=self._mask != 0)

    def split(self, chunk: bytes) -> tuple[list[Part], Sequence[bytes]]:
        """Take the next bytes; give the parts in order, and the payloads of the pongs."""
        parts: list[Part] = []
        pongs: list[bytes] = []
        scanner = self._scanner
        # Held back a second time, bytes would be looked at again and again by who sends them one by one.
        again = bool(self._held)
        if again:
            chunk, self._held = self._held + chunk, b""
        at, end = 0, len(chunk)
        while at < end and not self.closed and not scanner.scattered:
            if scanner.between_messages:
                at = self._take_plain(chunk, at, parts)
            if at < end:
                at = self._take_other(chunk, at, parts, pongs, hold=not again or at > 0)
        return parts, pongs

    def close_in(self, chunk: bytes) -> bool:
        """Take the next bytes only to find whether a Close is in them."""
        chunk, self._held = self._held + chunk, b""
        return any(opcode == CLOSE for opcode, _ in self._scanner.feed(chunk))

    # -- plain ----------------------------------------------------------------------------------------

    def _take_plain(self, chunk: bytes, at: int, parts: list[Part]) -> int:
        """Take all plain frames from `at` on; gives where they end."""
        # This loop is most of what a message costs (tests/bench): so no calls, and no attributes in it.
        mask, key, most, end = self._mask, self._key, self._most, len(chunk)
        run: list[str | bytes] = []
        while at + 1 < end:
            first = chunk[at]
            size = chunk[at + 1] ^ mask  # the wrong mask bit makes it larger than any length
            start = at + 2 + key
            if size >= _LENGTH_2:
                size, start = _long_size(chunk, at, size, start)
            stop = start + size
            if stop > end or size > most or size < 0 or first not in _PLAIN:
                break
            payload = chunk[start:stop]
            if key and size <= _XOR_BELOW:
                pad = (chunk[start - 4 : start] * (size // 4 + 1))[:size]
                xored = from_bytes(payload, "little") ^ from_bytes(pad, "little")
                payload = xored.to_bytes(size, "little")
            elif key:
                payload = unmask(payload, chunk[start - 4 : start])
            if first == _PLAIN_TEXT:
                try:
                    run.append(payload.decode())
                except UnicodeDecodeError:
                    break
            else:
                run.append(payload)
            at = stop
            if len(run) == MOST_IN_RUN:
                parts.append(run)
                run = []
        if run:
            parts.append(run)
        return at

    # -- everything else ------------------------------------------------------------------------------

    def _take_other(self, chunk: bytes, at: int, parts: list[Part], pongs: list[bytes], *, hold: bool) -> int:
        """Take one frame that is not plain, or what there is of it, or hold it back; gives where that ends."""
        scanner, end = self._scanner, len(chunk)
        if not scanner.between_frames:
            stop = min(end, at + scanner.missing) if scanner.missing else end
        else:
            measured = _measure(chunk, at)
            if measured is None:
                if self._may_be_header(chunk, at):
                    self._held = chunk[at:]
                    return end
                stop = end
            else:
                start, stop = measured
                opcode = self._control_opcode(chunk, at)
                if stop > end and (opcode or (hold and self._may_become_plain(chunk, at, start, stop))):
                    self._held = chunk[at:]
                    return end
                if opcode:
                    self._take_control(opcode, chunk[at:stop], start - at, parts, pongs)
                    return stop
                stop = min(stop, end)
        self._pass(chunk[at:stop], parts)
        return stop

    def _may_be_header(self, chunk: bytes, at: int) -> bool:
        """Whether wsproto, too, waits for the rest of a header that begins at `at`: it finds no fault so far."""
        if len(chunk) - at < _SHORTEST:
            return True
        first, second = chunk[at], chunk[at + 1]
        opcode, short = first & 0xF, second & ~_MASKED
        if opcode not in _OPCODES or first & _RESERVED or second & _MASKED != self._mask:
            return False
        if opcode >= CLOSE:
            return first & _FIN != 0 and short <= LONGEST_CONTROL
        if len(chunk) - at < header_length(short):
            return True
        # The length is there, and only the mask is not.
        return _is_shortest(short, from_bytes(chunk[at + 2 : at + header_length(short)], "big"))

    def _control_opcode(self, chunk: bytes, at: int) -> int:
        """The opcode of a control frame without fault; 0: it is something else."""
        size = chunk[at + 1] ^ self._mask  # the wrong mask bit makes it larger than any length
        return _CONTROL.get(chunk[at], 0) if size <= LONGEST_CONTROL else 0

    def _may_become_plain(self, chunk: bytes, at: int, start: int, stop: int) -> bool:
        """Whether a data frame that is cut has no fault so far and is small."""
        first, second, size = chunk[at], chunk[at + 1], stop - start
        if first not in _PLAIN or second & _MASKED != self._mask or not self._scanner.between_messages:
            return False
        if size > min(self._most, _LARGEST_HELD) or not _is_shortest(second & ~_MASKED, size):
            return False
        if first == _PLAIN_TEXT:
            payload = chunk[start:]
            if self._key:
                payload = unmask(payload, chunk[start - 4 : start])
            try:
                codecs.utf_8_decode(payload, "strict", False)  # noqa: FBT003 - it takes no keywords
            except UnicodeDecodeError:
                return False
        return True

    def _take_control(
        self, opcode: int, frame: bytes, start: int, parts: list[Part], pongs: list[bytes]
    ) -> None:
        """Take a whole control frame whose payload begins at `start`."""
        payload = unmask(frame[start:], frame[start - 4 : start]) if self._key else frame[start:]
        if opcode == PONG:
            pongs.append(payload)
        elif opcode == PING:
            parts.append(Ping(payload))
        elif parse_close(payload) is None:
            self._pass(frame, parts)
        else:
            self.closed = True
            bare = frame[: start + _CODE]
            head = bytes((bare[0], self._mask | (len(bare) - start)))
            parts.append(Slow(head + bare[2:], ends_message=False, close=payload))

    def _pass(self, data: bytes, parts: list[Part]) -> None:
        """Give bytes of one frame to wsproto."""
        scanner = self._scanner
        before = scanner.messages
        close = next((payload for opcode, payload in scanner.feed(data) if opcode == CLOSE), None)
        self.closed = close is not None
        parts.append(Slow(data, ends_message=scanner.messages > before, close=close))


def _long_size(chunk: bytes, at: int, size: int, start: int) -> tuple[int, int]:
    """Size and start of a payload whose length is in 2 or 8 bytes more; size -1: that is not the shortest form."""
    if size == _LENGTH_2:
        size = from_bytes(chunk[at + 2 : at + 4], "big")
        return (size, start + 2) if size >= _LENGTH_2 else (-1, start)
    if size == _LENGTH_8:
        size = from_bytes(chunk[at + 2 : at + 10], "big")
        return (size, start + 8) if size > LONGEST_SHORT else (-1, start)
    return -1, start


def _measure(chunk: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the frame at `at` begins and ends; None: its header is not all there."""
    if len(chunk) - at < _SHORTEST:
        return None
    second = chunk[at + 1]
    length = header_length(second)
    if len(chunk) - at < length:
        return None
    size = second & ~_MASKED
    if size == _LENGTH_2:
        size = from_bytes(chunk[at + 2 : at + 4], "big")
    elif size == _LENGTH_8:
        size = from_bytes(chunk[at + 2 : at + 10], "big")
    return at + length, at + length + size


def _is_shortest(short: int, size: int) -> bool:
    """Whether a length is in the shortest form (RFC 6455 section 5.2)."""
    if short == _LENGTH_8:
        return LONGEST_SHORT < size <= _LONGEST
    return short < _LENGTH_2 or size >= _LENGTH_2
