"""Messages to frames, many of them for one write, and the masking of payloads (RFC 6455 sections 5.2 and 5.3)."""

import os
from collections.abc import Sequence
from functools import cache, lru_cache
from struct import Struct

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
    """Return pieces which, joined, are one frame of a client for each payload, each masked with a key of its own.

    The masking keys come from one read of the system's random source (RFC 6455 section 5.3).
    """
    # Many small frames are masked by one XOR of all of them with one pad, which leaves headers and keys
    # as they are. That takes a quarter off the cost of masking each by itself, and masking is the
    # largest part of an event's cost (tests/bench/bench.py --work push-256).
    pieces: list[bytes] = []
    clear: list[bytes] = []
    pads: list[bytes] = []
    for (key,), payload in zip(_KEY.iter_unpack(os.urandom(4 * len(payloads))), payloads, strict=True):
        length = len(payload)
        if length <= _XOR_BELOW:
            header, blank, repeats = _shape(opcode, length)
            clear += (header, key, payload)
            pads += (blank, (key * repeats)[:length])
        else:
            pieces += (_xor(clear, pads), _header(opcode, length, _MASKED), key, unmask(payload, key))
            clear, pads = [], []
    pieces.append(_xor(clear, pads))
    return pieces


def masked_frame(payload: bytes, opcode: int) -> bytes:
    """Return the payload as one frame of a client, masked."""
    return b"".join(masked_frames((payload,), opcode))


def plain_frame(payload: bytes, opcode: int) -> bytes:
    """Return the payload as one frame of a server: without a mask, so the same for every peer."""
    return _header(opcode, len(payload), 0) + payload


def unmask(payload: bytes, key: bytes) -> bytes:
    """Return a payload with the mask taken off, or put on: the mask is its own inverse (RFC 6455 section 5.3)."""
    length = len(payload)
    if length <= _XOR_BELOW:
        return _xor((payload,), ((key * (length // 4 + 1))[:length],))
    masked = bytearray(payload)
    for offset in range(4):
        masked[offset::4] = masked[offset::4].translate(_XOR_TABLES[key[offset]])
    return bytes(masked)


@lru_cache(maxsize=4096)
def _header(opcode: int, length: int, masked: int) -> bytes:
    if length < _LENGTH_2:
        return bytes((_FIN | opcode, masked | length))
    if length <= _MOST_2:
        return bytes((_FIN | opcode, masked | _LENGTH_2)) + length.to_bytes(2, "big")
    return bytes((_FIN | opcode, masked | _LENGTH_8)) + length.to_bytes(8, "big")


@cache  # of small payloads only, so it is bounded
def _shape(opcode: int, length: int) -> tuple[bytes, bytes, int]:
    """Return the header of a masked frame, a pad that leaves header and key as they are, and how often the key is repeated."""
    header = _header(opcode, length, _MASKED)
    return header, bytes(len(header) + 4), length // 4 + 1


def _xor(clear: Sequence[bytes], pads: Sequence[bytes]) -> bytes:
    """Return `clear` XOR `pads`, the pieces of both joined."""
    text = b"".join(clear)
    number = int.from_bytes(text, "little") ^ int.from_bytes(b"".join(pads), "little")
    return number.to_bytes(len(text), "little")
