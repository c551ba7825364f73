"""This process stands still while the peer's answer comes: nobody is cut for that, over TCP and TLS.

The peer runs in a thread, so it goes on while the loop is held; `tests/trees/test_stopped_process.py` has the exact times.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import PeerProtocol
from trio_wsout.testing.protocol import Close, Ping, Request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme
    from layers import Layer
    from trio_wsout.testing.protocol import PeerEvent

ROUNDS = 4
STILL = 1.0
"""Seconds that this process stands still; the deadlines are half of that."""
BEAT = {"ping-interval": "300ms", "timeout": "500ms"}


class ThreadPeer:
    """A peer in a thread: answers each ping a moment later, and says when."""

    def __init__(self, *, server: bool) -> None:
        self.protocol = PeerProtocol(server=server)
        self.pinged = threading.Event()
        self.answers: list[float] = []
        self.closes: list[Close] = []
        self.cut = threading.Event()
        self.events = 0
        self.stream: socket.socket | None = None

    def serve(self, stream: socket.socket) -> None:
        """Run to the end of the connection."""
        self.stream = stream
        with stream:
            if not self.protocol.server:
                stream.sendall(self.protocol.request())
            with contextlib.suppress(OSError):
                while data := stream.recv(65536):
                    for event in self.protocol.feed(data):
                        self.on(event, stream)
        self.cut.set()

    def say(self, text: str) -> None:
        assert self.stream is not None
        self.stream.sendall(self.protocol.message(text))

    def on(self, event: PeerEvent, stream: socket.socket) -> None:
        self.events += 1
        if isinstance(event, Request):
            stream.sendall(self.protocol.accept())
        elif isinstance(event, Close):
            self.closes.append(event)
            stream.sendall(self.protocol.close(event.code))
        elif isinstance(event, Ping):
            self.pinged.set()
            time.sleep(0.1)
            stream.sendall(self.protocol.pong(event.payload))
            self.answers.append(time.monotonic())


class ThreadServer:
    """Accepts connections, each for a `ThreadPeer`."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.peers: list[ThreadPeer] = []
        self._context = context

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self.listener.accept()
                if self._context is not None:
                    stream = self._context.wrap_socket(stream, server_side=True)
                self.peers.append(ThreadPeer(server=True))
                threading.Thread(target=self.peers[-1].serve, args=(stream,), daemon=True).start()


@contextlib.contextmanager
def server_in_a_thread(context: ssl.SSLContext | None) -> Iterator[ThreadServer]:
    server = ThreadServer(context)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()
    thread.join()
    for peer in server.peers:
        peer.cut.wait(5)


async def stand_still(peer: ThreadPeer) -> bool:
    """Stand still from when the peer has a ping until it has long answered; give whether it answered meanwhile."""
    peer.pinged.clear()
    with trio.fail_after(20):
        while not peer.pinged.is_set():
            await trio.sleep(0.005)
    begun = time.monotonic()
    time.sleep(STILL)  # noqa: ASYNC251 - that is the fault
    await trio.sleep(0.05)
    return peer.answers[-1] > begun


@pytest.fixture(params=["tcp", "tls"])
def layer(request: pytest.FixtureRequest, tls: Layer) -> Layer | None:
    return tls if request.param == "tls" else None


@pytest.mark.parametrize(
    "said",
    [
        {"heartbeat": BEAT},
        {"heartbeat": "none", "retry": {"timeout": "500ms"}},
    ],
    ids=["heartbeat", "retry"],
)
async def test_a_link_reads_the_answer_before_it_judges(
    said: dict[str, Any], layer: Layer | None, ca: trustme.CA, tmp_path: Path
) -> None:
    context = None
    scheme, trust = "ws", {}
    if layer is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(layer.fields["tls"]["cert"], layer.fields["tls"]["key"])
        ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        scheme, trust = "wss", {"tls": {"ca-certificate": str(tmp_path / "ca.pem")}}
    with server_in_a_thread(context) as server:
        config = {
            "url": f"{scheme}://127.0.0.1:{server.port}/",
            "connect": {"mode": "eager"},
            **trust,
            **said,
        }
        late = 0
        async with trio_wsout.open_output(config) as output:
            for _ in range(ROUNDS):
                if "retry" in said:
                    output.send_nowait("x")
                late += await stand_still(server.peers[0])
                assert output.statistics().link.reconnects == 0
            figures = output.statistics()
        assert late, "no answer came while this process stood still"
        assert (len(server.peers), figures.heartbeat_misses) == (1, 0)


async def test_a_listener_reads_the_answer_before_it_judges(layer: Layer | None) -> None:
    server = {"bind": "127.0.0.1:0", **({} if layer is None else layer.fields)}
    config = {"mode": "server-output", "server": server, "heartbeat": BEAT, "retry": {"timeout": "500ms"}}
    async with trio_wsout.open_output(config) as output:
        peer = visit(output, layer)
        await output.wait_peers(1)
        late = 0
        for _ in range(ROUNDS):
            output.send_nowait("x")
            late += await stand_still(peer)
            assert output.statistics().peers == 1
        assert late, "no answer came while this process stood still"
        assert output.statistics().heartbeat_misses == 0
    assert peer.cut.wait(5)


async def test_a_peer_that_spoke_meanwhile_is_not_idle(layer: Layer | None) -> None:
    tls = {} if layer is None else layer.fields
    server = {"bind": "127.0.0.1:0", "idle-timeout": "500ms", **tls}
    async with trio_wsout.open_output({"mode": "server-input", "server": server}) as output:
        peer = visit(output, layer)
        await output.wait_peers(1)
        for number in range(ROUNDS):
            speaking = threading.Timer(0.2, peer.say, [f"{number}"])
            speaking.start()
            time.sleep(STILL)  # noqa: ASYNC251 - that is the fault
            await trio.sleep(0.05)
            assert output.received.receive_nowait().event == f"{number}"
            assert not peer.closes
        with trio.fail_after(10):
            while not peer.closes:
                await trio.sleep(0.01)
        assert peer.closes[0].code == 1001, "who says nothing is idle"


async def test_a_peer_that_took_all_meanwhile_is_not_slow(layer: Layer | None) -> None:
    tls = {} if layer is None else layer.fields
    server = {"bind": "127.0.0.1:0", "send-buffer-capacity": 1, "slow-peer-timeout": "500ms", **tls}
    config = {"mode": "server-output", "server": server, "delivery": {"max-unconfirmed": 1}}
    async with trio_wsout.open_output(config) as output:
        peer = visit(output, layer)
        await output.wait_peers(1)
        late = 0
        for _ in range(ROUNDS):
            for _ in range(4):  # more than it has room for before it has confirmed the first
                output.send_nowait("x")
            late += await stand_still(peer)
            await output.flush()
            assert (output.statistics().listener.expelled, output.statistics().peers) == (0, 1)
        assert late, "no answer came while this process stood still"
    assert peer.cut.wait(5)


def visit(output: trio_wsout.Output, layer: Layer | None) -> ThreadPeer:
    """A peer of the listener, in a thread of its own."""
    peer = ThreadPeer(server=False)
    port = int(output.statistics().addresses[0].rpartition(":")[2])

    def run() -> None:
        stream = socket.create_connection(("127.0.0.1", port))
        if layer is not None and layer.context is not None:
            stream = layer.context.wrap_socket(stream, server_hostname="127.0.0.1")
        peer.serve(stream)

    threading.Thread(target=run, daemon=True).start()
    return peer
