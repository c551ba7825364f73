"""Messages to frames, and the frame boundaries of what comes in (RFC 6455 section 5.2).

Outgoing data frames are made here and not in wsproto, so that many messages become one write.
Of incoming bytes `FrameScanner` finds the frames while wsproto judges them; what needs no judging
is taken apart in `split`.
"""

from __future__ import annotations

import os
from functools import cache, lru_cache
from struct import Struct
from typing import TYPE_CHECKING

from wsproto.frame_protocol import LOCAL_ONLY_CLOSE_REASONS, CloseReason

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BINARY",
    "CLOSE",
    "LONGEST_CONTROL",
    "LONGEST_SHORT",
    "MOST_FRAGMENTS",
    "NO_STATUS",
    "PING",
    "PONG",
    "TEXT",
    "FrameScanner",
    "header_length",
    "masked_frame",
    "masked_frames",
    "parse_close",
    "plain_frame",
    "unmask",
]

TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

LONGEST_CONTROL = 125
"""Bytes of a control frame's payload at most (RFC 6455 section 5.5)."""

LONGEST_SHORT = 0xFFFF
"""Bytes of a payload whose length is in two bytes at most (RFC 6455 section 5.2)."""

NO_STATUS = 1005
"""Stands for a Close frame without a code; never sent (RFC 6455 section 7.4.1)."""

MOST_FRAGMENTS = 1024
"""Most frames of one message (SPEC 10)."""

_CLOSE_CODES = frozenset(int(each) for each in CloseReason) - {int(each) for each in LOCAL_ONLY_CLOSE_REASONS}
_FIRST_PRIVATE, _LAST_PRIVATE = 3000, 4999
_FIN = 0x80
_MASKED = 0x80
_LENGTH_2 = 126
_LENGTH_8 = 127
_MOST_2 = 0xFFFF

_WATCHED = frozenset({_FIN | PONG, _FIN | CLOSE})
_XOR_BELOW = 1024
"""Bytes up to which integers mask faster than four strided table look-ups (measured, CPython 3.11)."""
_KEY = Struct("4s")
_XOR_TABLES = tuple(bytes(byte ^ key for byte in range(256)) for key in range(256))


def masked_frames(payloads: Sequence[bytes], opcode: int) -> list[bytes]:
    """Frame each payload as one unfragmented frame from a client, each under a fresh mask; gives the pieces.

    The masking keys come from one read of the system's random source (RFC 6455 section 5.3).
    """
    # Many small frames are masked by one XOR of all of them with one pad, which leaves headers and keys
    # as they are. That takes a quarter off the cost of masking each by itself, and masking is what an
    # event costs most (tests/bench/bench.py --work push-256).
    pieces: list[bytes] = []
    clear: list[bytes] = []
    pads: list[bytes] = []
    shapes = _shapes(opcode)
    for (key,), payload in zip(_KEY.iter_unpack(os.urandom(4 * len(payloads))), payloads, strict=True):
        length = len(payload)
        if length <= _XOR_BELOW:
            header, blank, repeats = shapes[length]
            clear += (header, key, payload)
            pads += (blank, (key * repeats)[:length])
        else:
            pieces += (_xor(clear, pads), _header(opcode, length, _MASKED), key, _mask(payload, key))
            clear, pads = [], []
    pieces.append(_xor(clear, pads))
    return pieces


def masked_frame(payload: bytes, opcode: int) -> bytes:
    """Frame one payload as `masked_frames` does."""
    return b"".join(masked_frames((payload,), opcode))


def plain_frame(payload: bytes, opcode: int) -> bytes:
    """Frame a payload as one unfragmented frame from a server: unmasked, so the same for every peer."""
    return _header(opcode, len(payload), 0) + payload


@lru_cache(maxsize=4096)
def _header(opcode: int, length: int, masked: int) -> bytes:
    if length < _LENGTH_2:
        return bytes((_FIN | opcode, masked | length))
    if length <= _MOST_2:
        return bytes((_FIN | opcode, masked | _LENGTH_2)) + length.to_bytes(2, "big")
    return bytes((_FIN | opcode, masked | _LENGTH_8)) + length.to_bytes(8, "big")


class _Shapes(dict[int, tuple[bytes, bytes, int]]):
    """By length of a small payload: the header of its masked frame, and of the pad what leaves header and key, and how many keys."""

    def __init__(self, opcode: int) -> None:
        super().__init__()
        self._opcode = opcode

    def __missing__(self, length: int) -> tuple[bytes, bytes, int]:
        header = _header(self._opcode, length, _MASKED)
        self[length] = shape = (header, bytes(len(header) + 4), length // 4 + 1)
        return shape


_shapes = cache(_Shapes)


def _xor(clear: Sequence[bytes], pads: Sequence[bytes]) -> bytes:
    """What `clear` is with `pads` on it, both joined."""
    text = b"".join(clear)
    number = int.from_bytes(text, "little") ^ int.from_bytes(b"".join(pads), "little")
    return number.to_bytes(len(text), "little")


def _mask(payload: bytes, key: bytes) -> bytes:
    length = len(payload)
    if length <= _XOR_BELOW:
        return _xor((payload,), ((key * (length // 4 + 1))[:length],))
    masked = bytearray(payload)
    for offset in range(4):
        masked[offset::4] = masked[offset::4].translate(_XOR_TABLES[key[offset]])
    return bytes(masked)


unmask = _mask
"""A payload without the mask of its frame; the mask is its own inverse (RFC 6455 section 5.3)."""


def parse_close(payload: bytes) -> tuple[int, str] | None:
    """Code and reason of a Close frame (1005: it had none); None: it is malformed (RFC 6455 section 7.4)."""
    if not payload:
        return NO_STATUS, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _CLOSE_CODES or _FIRST_PRIVATE <= code <= _LAST_PRIVATE):
        return None
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        return None


class FrameScanner:
    """Finds the frames in a stream of bytes, cut in any way, and gives pongs and Closes.

    It judges nothing: on bytes that are no frames it finds nonsense, which wsproto then refuses.
    """

    frames: int
    """Frames whose first byte was seen."""

    messages: int
    """Messages whose last byte was seen."""

    scattered: bool
    """Whether a message came in more than `MOST_FRAGMENTS` frames."""

    __slots__ = (
        "_final",
        "_fragments",
        "_header",
        "_key",
        "_opcode",
        "_open",
        "_payload",
        "_skip",
        "frames",
        "messages",
        "scattered",
    )

    def __init__(self) -> None:
        self.frames = 0
        self.messages = 0
        self.scattered = False
        self._open = False
        self._final = False
        self._fragments = 0
        self._header = bytearray()
        self._skip = 0
        self._payload: bytearray | None = None
        self._opcode = 0
        self._key = b""

    @property
    def missing(self) -> int:
        """Bytes of payload that the frame which has begun still lacks; 0: all is there, or its header is not."""
        return self._skip

    @property
    def between_frames(self) -> bool:
        """Whether the next byte begins a frame."""
        return not (self._skip or self._header)

    @property
    def between_messages(self) -> bool:
        """Whether the next byte begins a frame, and that may begin a message."""
        return not (self._skip or self._header or self._open)

    def feed(self, data: bytes | bytearray) -> list[tuple[int, bytes]]:
        """Take the next bytes; give opcode and payload of the pongs and Closes that end in them, in order."""
        seen: list[tuple[int, bytes]] = []
        position = 0
        end = len(data)
        while position < end:
            if self._skip:
                position = self._pass_payload(data, position, seen)
                continue
            self._header.append(data[position])
            position += 1
            if self._header_complete():
                self._begin_frame(seen)
        return seen

    def lone_pong(self, data: bytes, *, masked: bool) -> bytes | None:
        """The payload, if these next bytes are one pong of the right kind, whole and nothing else; else None."""
        if self._skip or self._header or data[0] != _FIN | PONG:
            return None
        size = data[1] & 0x7F if len(data) > 1 else _LENGTH_2
        start = 6 if masked else 2
        if size >= _LENGTH_2 or len(data) != start + size or (data[1] & _MASKED != 0) is not masked:
            return None
        self.frames += 1
        return _mask(data[start:], data[2:6]) if masked else data[2:]

    def _header_complete(self) -> bool:
        header = self._header
        return len(header) > 1 and len(header) == header_length(header[1])

    def _begin_frame(self, seen: list[tuple[int, bytes]]) -> None:
        header = self._header
        self.frames += 1
        opcode = header[0] & 0xF
        self._opcode = opcode
        if opcode < CLOSE:
            self._final = header[0] & _FIN != 0
            self._open = True
            self._fragments = 1 if opcode else self._fragments + 1
            self.scattered = self.scattered or self._fragments > MOST_FRAGMENTS
        length = header[1] & 0x7F
        if length == _LENGTH_2:
            length = int.from_bytes(header[2:4], "big")
        elif length == _LENGTH_8:
            length = int.from_bytes(header[2:10], "big")
        if header[0] in _WATCHED and length < _LENGTH_2:
            self._payload = bytearray()
            self._key = bytes(header[2:])
        self._skip = length
        self._header = bytearray()
        if length == 0:
            self._end_frame(seen)

    def _pass_payload(self, data: bytes | bytearray, position: int, seen: list[tuple[int, bytes]]) -> int:
        step = min(self._skip, len(data) - position)
        if self._payload is not None:
            self._payload += data[position : position + step]
        self._skip -= step
        if self._skip == 0:
            self._end_frame(seen)
        return position + step

    def _end_frame(self, seen: list[tuple[int, bytes]]) -> None:
        if self._opcode < CLOSE and self._final:
            self._open = False
            self.messages += 1
        if self._payload is not None:
            payload = bytes(self._payload)
            payload = _mask(payload, self._key) if self._key else payload
            seen.append((self._opcode, payload))
            self._payload = None


def header_length(second: int) -> int:
    """Bytes of a frame's header, by its second byte."""
    length = 4 if second & _MASKED else 0
    short = second & 0x7F
    return length + (10 if short == _LENGTH_8 else 4 if short == _LENGTH_2 else 2)
