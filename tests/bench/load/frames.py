"""Raw WebSocket frames for the load side: built once, and counted by slices instead of one by one.

Every data frame of a run has the same size, so the first bytes of the frames in a buffer are a slice with
that stride. While all of them say "text" they are frames, counted in C; the first that says otherwise is a
control frame, and counting goes on behind it. One read of 256 KiB costs a few microseconds.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def head(size: int, *, masked: bool) -> bytes:
    """The two or more bytes before the mask of a text frame with so much payload."""
    mask = 0x80 if masked else 0
    if size < 126:
        return bytes((TEXT, mask | size))
    if size < 1 << 16:
        return bytes((TEXT, mask | 126)) + size.to_bytes(2, "big")
    return bytes((TEXT, mask | 127)) + size.to_bytes(8, "big")


def frame(payload: bytes, *, masked: bool = False) -> bytes:
    """One text frame; the mask is four zeros, which any receiver has to apply as any other."""
    return head(len(payload), masked=masked) + (b"\0\0\0\0" if masked else b"") + payload


def answer(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """A control frame that answers another."""
    return (
        bytes((opcode, (0x80 if masked else 0) | len(payload))) + (b"\0\0\0\0" if masked else b"") + payload
    )


class Counter:
    """Counts the data frames of one stream, all of one size, and finds the control frames between them."""

    def __init__(self, size: int, *, masked: bool) -> None:
        self.head = head(size, masked=masked)
        self.mask = 4 if masked else 0
        self.before = len(self.head) + self.mask
        self.stride = self.before + size
        self.frames = 0
        self.rest = b""

    def feed(
        self, chunk: bytes, spans: list[tuple[int, int]] | None = None
    ) -> tuple[bytes, list[tuple[int, bytes]]]:
        """Take what was read.

        Gives the bytes that it was counted in and the control frames in it; `spans` gets where runs of whole
        frames begin in those bytes, and how many there are.
        """
        data = self.rest + chunk if self.rest else chunk
        position, end, controls = 0, len(data), []
        while position + 2 <= end:
            if data[position] == TEXT:
                run = self._run(data, position, end)
                if spans is not None and run:
                    spans.append((position, run))
                self.frames += run
                position += run * self.stride
                if run == 0:
                    break
                continue
            size = data[position + 1] & 0x7F
            after = position + 2 + self.mask + size
            if after > end:
                break
            controls.append((data[position], self._plain(data[position + 2 : after])))
            position = after
        self.rest = data[position:]
        return data, controls

    def _run(self, data: bytes, position: int, end: int) -> int:
        """How many whole data frames lie one behind the other here."""
        most = (end - position) // self.stride
        stop = position + most * self.stride
        firsts = data[position : stop : self.stride]
        run = most - len(firsts.lstrip(self.head[:1]))
        seconds = data[position + 1 : position + run * self.stride : self.stride]
        if seconds.count(self.head[1]) != run:
            raise AssertionError("a data frame has another size than all should have")
        return run

    def _plain(self, masked: bytes) -> bytes:
        if not self.mask:
            return masked
        key, payload = masked[:4], masked[4:]
        return bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def read(connection: socket.socket, room: memoryview) -> bytes | None:
    """What has come, as much as `room` holds; None: nothing for now; empty: the end.

    Over TLS a read gives one record, so many are taken before anything is counted.
    """
    filled = 0
    while filled < len(room):
        try:
            count = connection.recv_into(room[filled:])
        except (BlockingIOError, ssl.SSLWantReadError):
            return bytes(room[:filled]) if filled else None
        except OSError:
            count = 0
        filled += count
        if count == 0 or not isinstance(connection, ssl.SSLSocket):
            break
    return bytes(room[:filled])


def join_server(connection: socket.socket) -> bytes:
    """Do a client's opening handshake; gives what came behind the answer."""
    connection.sendall(
        b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    told, rest = _read_head(connection)
    if not told.startswith(b"HTTP/1.1 101"):
        raise AssertionError(told)
    return rest


def take_client(connection: socket.socket) -> bytes:
    """Do a server's opening handshake; gives what came behind the request."""
    asked, rest = _read_head(connection)
    (key,) = (line for line in asked.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    accept = base64.b64encode(hashlib.sha1(key.split(b":", 1)[1].strip() + _GUID).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    return rest


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    read = b""
    while b"\r\n\r\n" not in read:
        chunk = connection.recv(65536)
        if not chunk:
            raise AssertionError(f"hung up in the handshake after {read!r}")
        read += chunk
    found, _, rest = read.partition(b"\r\n\r\n")
    return found, rest
