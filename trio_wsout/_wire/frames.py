"""Messages to frames, many of them for one write, and the masking of payloads (RFC 6455 sections 5.2 and 5.3)."""

from __future__ import annotations

import os
from functools import cache, lru_cache
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BINARY",
    "CLOSE",
    "PING",
    "PONG",
    "TEXT",
    "masked_frame",
    "masked_frames",
    "plain_frame",
    "unmask",
]

TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

_FIN = 0x80
_MASKED = 0x80
_LENGTH_2 = 126
_LENGTH_8 = 127
_MOST_2 = 0xFFFF

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
