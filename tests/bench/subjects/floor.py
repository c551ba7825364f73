"""No library at all: blocking sockets and bytes that were framed before; `option` says how many frames are joined."""

from __future__ import annotations

import select
import socket
import time

from event import now, text_of
from load.frames import Counter, frame, join_server, take_client
from stage import SETTLE, Clock, Job, perform, ready


def admit(job: Job) -> list[socket.socket]:
    """Accept all peers, and shake hands."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    ready(listener.getsockname()[1])
    peers = []
    for _ in range(job.peers):
        peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        take_client(peer)
        peers.append(peer)
    return peers


def fanout(job: Job) -> None:
    peers, clock, joined = admit(job), Clock(), int(job.option)
    time.sleep(SETTLE)
    clock.start()
    one = frame(text_of(job.size).encode())
    blob = one * joined
    for _ in range(job.events // joined):
        if job.pace:
            blob = frame(text_of(job.size, now()).encode())
        for peer in peers:
            peer.sendall(blob)
        if job.pace:
            time.sleep(job.pace)
    for peer in peers:
        peer.sendall(one * (job.events % joined))
    peers[0].recv(4096)
    clock.tell()


def receive(job: Job) -> None:
    peers, clock = admit(job), Clock()
    counters = {peer: Counter(job.size, masked=True) for peer in peers}
    count = 0
    while count < job.events:
        for peer in select.select(peers, [], [])[0]:
            clock.start()
            before = counters[peer].frames
            counters[peer].feed(peer.recv(int(job.option) * 264))
            count += counters[peer].frames - before
    clock.tell()


def push(job: Job) -> None:
    clock, joined = Clock(), int(job.option)
    sink = socket.create_connection(("127.0.0.1", job.port))
    join_server(sink)
    clock.start()
    one = frame(text_of(job.size).encode(), masked=True)
    for _ in range(job.events // joined):
        sink.sendall(one * joined)
    sink.sendall(one * (job.events % joined) + b"\x88\x80\0\0\0\0")
    sink.recv(4096)
    clock.tell()


if __name__ == "__main__":
    perform({each.__name__: each for each in (fanout, receive, push)})
