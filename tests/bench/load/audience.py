"""The peers of a server, all in one process: they count what comes, answer pings, and send where the work asks.

    python load/audience.py '{"port": 8765, "peers": 100, "events": 1000, "size": 256, …}'

It prints one line when all peers are connected, one with its figures when everybody has everything, and ends
when its standard input does. Then the first peer hangs up, which tells the server to stop its clock.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import ssl
import struct
import sys
import threading
import time

from event import DIGITS, OFFSET, text_of
from load.frames import CLOSE, PING, PONG, Counter, answer, frame, join_server, read

_STAMPS = 35  # SO_TIMESTAMPNS; Python has no name for it
SETTLE = 0.3
"""Seconds between the last handshake and the first event, so that neither is counted as the other."""


class Peer:
    """One connection of the audience."""

    def __init__(self, port: int, size: int, context: ssl.SSLContext | None) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=30)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw) if context else raw
        self.counter = Counter(size, masked=False)
        self.early = join_server(self.socket)
        self.want = 0
        self.blob, self.written, self.unwritten = memoryview(b""), 0, 0
        self.open = True
        self.socket.setblocking(False)

    def read_stamped(self) -> tuple[bytes, int]:
        """What has come, and when the kernel had it, in nanoseconds."""
        data, told, _, _ = self.socket.recvmsg(1 << 16, 64)
        for level, kind, value in told:
            if level == socket.SOL_SOCKET and kind == _STAMPS:
                seconds, more = struct.unpack("qq", value[:16])
                return data, seconds * 1_000_000_000 + more
        return data, time.time_ns()

    def write(self) -> bool:
        """Write what can be written, the blob over and over; says whether everything is."""
        while self.unwritten:
            place = self.written % len(self.blob)
            try:
                count = self.socket.send(self.blob[place : place + self.unwritten])
            except (BlockingIOError, ssl.SSLWantWriteError):
                return False
            self.written += count
            self.unwritten -= count
        return True


class Audience:
    """All peers, and what is measured of them."""

    def __init__(self, port: int, peers: int, size: int, *, stamped: bool, tls: bool) -> None:
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.selector = selectors.DefaultSelector()
        self.peers = [Peer(port, size, context) for _ in range(peers)]
        self.stamped = stamped and not tls
        self.room = memoryview(bytearray(1 << 18))
        self.waiting = 0
        self.late: list[int] = []
        for peer in self.peers:
            if self.stamped:
                peer.socket.setsockopt(socket.SOL_SOCKET, _STAMPS, 1)
            self.selector.register(peer.socket, selectors.EVENT_READ, peer)

    def expect(self, events: int, senders: int) -> None:
        """Say what each peer is to get: everything, but for its own where it sends."""
        own = events // senders if senders else 0
        for number, peer in enumerate(self.peers):
            peer.want = events - own if number < senders else events
            self.waiting += 1
            self._take(peer, peer.early, 0)

    def send(self, peer: Peer, size: int, events: int) -> None:
        """Let a peer send so many events, as many joined as go into 128 KiB."""
        one = frame(text_of(size).encode(), masked=True)
        peer.blob = memoryview(one * max(1, (1 << 17) // len(one)))
        peer.unwritten = len(one) * events
        if not peer.write():
            self.selector.modify(peer.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, peer)

    def turn(self, timeout: float | None) -> None:
        """Wait for something, and take it."""
        for key, ready in self.selector.select(timeout):
            peer = key.data
            if ready & selectors.EVENT_WRITE and peer.write():
                self.selector.modify(peer.socket, selectors.EVENT_READ, peer)
            if ready & selectors.EVENT_READ:
                self._read(peer)

    def _read(self, peer: Peer) -> None:
        if self.stamped:
            data, at = peer.read_stamped()
        else:
            data, at = read(peer.socket, self.room), 0
        if data:
            self._take(peer, data, at)
        elif data is not None:
            self.drop(peer)

    def _take(self, peer: Peer, data: bytes, at: int) -> None:
        before, spans = peer.counter.frames, [] if at else None
        data, controls = peer.counter.feed(data, spans)
        for opcode, payload in controls:
            if opcode == PING:
                peer.socket.send(answer(PONG, payload, masked=True))
            elif opcode == CLOSE:
                peer.socket.send(answer(CLOSE, payload, masked=True))
        for start, run in spans or ():
            self._note(peer.counter, data, start, run, at)
        self.waiting -= before < peer.want <= peer.counter.frames

    def _note(self, counter: Counter, data: bytes, start: int, run: int, at: int) -> None:
        for number in range(run):
            place = start + number * counter.stride + counter.before + OFFSET
            self.late.append(at - int(data[place : place + DIGITS]))

    def drop(self, peer: Peer) -> None:
        """Hang up."""
        if peer.open:
            peer.open = False
            self.selector.unregister(peer.socket)
            peer.socket.close()


def percentile(values: list[int], part: float) -> float:
    """In seconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] / 1e9 if values else 0.0


def tell(told: object) -> None:
    print(json.dumps(told), flush=True)


def raise_limit(peers: int) -> None:
    """Allow as many open files as the peers need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, peers + 200)), hard))


def take_part(audience: Audience, job: dict[str, object], ending: threading.Event) -> None:
    """Let senders send, read until everybody has everything, tell the figures; then the first peer leaves."""
    events, senders = job["events"], job["senders"]
    audience.expect(events, senders)
    if senders:
        time.sleep(SETTLE)
    start, cpu = time.time(), time.process_time()
    for peer in audience.peers[:senders]:
        audience.send(peer, job["size"], events // senders)
    while audience.waiting and not ending.is_set():
        audience.turn(1.0)
    done, used = time.time(), time.process_time() - cpu
    late = audience.late
    tell(
        {
            "cpu": used,
            "start": start,
            "done": done,
            "p50": percentile(late, 0.5),
            "p99": percentile(late, 0.99),
        }
    )
    # What comes behind the last event, a ping say, is answered before anybody leaves.
    until = time.time() + 0.1
    while time.time() < until:
        audience.turn(0.02)
    if [peer.counter.frames for peer in audience.peers] != [peer.want for peer in audience.peers]:
        raise AssertionError("a peer has more or fewer events than there were")
    audience.drop(audience.peers[0])


def main() -> None:
    job = json.loads(sys.argv[1])
    raise_limit(job["peers"])
    audience = Audience(
        job["port"], job["peers"], job["size"], stamped=job["pace"] > 0, tls=job["cert"] is not None
    )
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ending.set()), daemon=True).start()
    tell({"connected": True})
    if job["events"]:
        take_part(audience, job, ending)
    while not ending.is_set():
        audience.turn(0.2)


if __name__ == "__main__":
    main()
