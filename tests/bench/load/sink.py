"""The server that a pushing client pushes to: it only counts frames and answers pings.

    python load/sink.py '{"size": 256, "events": 100000, "cert": null, "key": null}'

It prints its port, then, once the client has left, how many messages came and its own CPU time.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time

from load.frames import CLOSE, PING, PONG, Counter, answer, read, take_client


def swallow(connection: socket.socket, counter: Counter) -> None:
    """Read until Close or the end."""
    chunk, room = take_client(connection), memoryview(bytearray(1 << 20))
    connection.setblocking(False)
    while True:
        _, controls = counter.feed(chunk)
        for opcode, payload in controls:
            if opcode == PING:
                connection.send(answer(PONG, payload, masked=False))
            elif opcode == CLOSE:
                connection.send(answer(CLOSE, payload, masked=False))
                return
        while (read_now := read(connection, room)) is None:
            select.select([connection], [], [], 120)
        if not read_now:
            return
        chunk = read_now


def main() -> None:
    job = json.loads(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if job["cert"]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(job["cert"], job["key"])
        connection = context.wrap_socket(connection, server_side=True)
    counter = Counter(job["size"], masked=True)
    cpu = time.process_time()
    swallow(connection, counter)
    print(json.dumps({"messages": counter.frames, "cpu": time.process_time() - cpu}), flush=True)
    connection.close()


if __name__ == "__main__":
    main()
