"""HAProxy before nodes that share a history, with the configuration that docs/how-to/scale-out.md shows."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from processes import Subscription, free_port, until
from trio_wsout.config import Heartbeat
from valkey_server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.network

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "scale-out.md"


def configuration() -> str:
    """The configuration that the page shows."""
    return PAGE.read_text("utf-8").split("<!-- example: file haproxy.cfg -->\n```text\n")[1].split("```")[0]


def command(folder: Path, text: str) -> str:
    """Return what HAProxy answers to a command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(folder / "haproxy.sock"))
        connection.sendall(f"{text}\n".encode())
        return connection.makefile().read()


@contextmanager
def haproxy(folder: Path, ports: dict[str, int]) -> Iterator[None]:
    """Run HAProxy with the page's configuration and these ports; skip the test where there is none."""
    binary = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        pytest.skip("there is no haproxy")
    text = re.sub(rf"\b({'|'.join(ports)})\b", lambda found: str(ports[found[1]]), configuration())
    (folder / "haproxy.cfg").write_text(text)
    process = subprocess.Popen(
        [binary, "-f", "haproxy.cfg"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def state(folder: Path, name: str) -> str:
    """Return the state of a node, as HAProxy sees it."""
    rows = [line.split(",") for line in command(folder, "show stat").splitlines() if line]
    column = rows[0].index("status")
    return next(row[column] for row in rows if row[1] == name)


def node(server: Server, port: int) -> dict[str, Any]:
    return {
        "mode": "server-output",
        "server": {"bind": f"127.0.0.1:{port}"},
        "history": {"store": f"unix://{server.socket}?stream=balanced"},
        "cursor": {"header-name": "Last-Event-ID"},
        "delivery": {"stamp": "seq"},
    }


async def follow(subscription: Subscription, port: int) -> None:
    """Come back through the load balancer whenever the connection is over."""
    while True:
        try:
            await subscription.visit(port, 10**9)
        except (OSError, AssertionError):  # nobody is there, or only who is ending
            await trio.sleep(0.05)


async def test_a_peer_is_moved_to_another_node_when_its_own_is_drained_and_ended(tmp_path: Path) -> None:
    ports = {port: free_port() for port in ("8765", "8766", "8767", "8769")}
    server = Server()
    try:
        with haproxy(tmp_path, ports):
            await move_a_peer(tmp_path, server, ports)
    finally:
        server.close()


async def serve(
    config: dict[str, Any], started: Callable[[trio_wsout.Output], object], end: trio.Event
) -> None:
    """Be a node until the event."""
    async with trio_wsout.open_output(config) as output:
        started(output)
        await end.wait()


async def move_a_peer(folder: Path, server: Server, ports: dict[str, int]) -> None:
    """Drain and end the node at which a peer is."""
    nodes: dict[str, trio_wsout.Output] = {}
    ends = {"first": trio.Event(), "second": trio.Event()}
    async with trio.open_nursery() as nursery:
        for name, port in zip(ends, ("8765", "8766"), strict=True):
            config = node(server, ports[port])
            nursery.start_soon(serve, config, partial(nodes.__setitem__, name), ends[name])
        await until(lambda: len(nodes) == 2, 60)
        await until((folder / "haproxy.sock").exists, 30)
        await until(lambda: state(folder, "third").startswith("DOWN"), 60)  # nobody runs it
        assert state(folder, "second").startswith("UP")
        events: list[Any] = []
        subscription = Subscription(events.append)
        nursery.start_soon(follow, subscription, ports["8769"])
        await until(lambda: sum(each.statistics().peers for each in nodes.values()), 60)
        own = next(name for name, each in nodes.items() if each.statistics().peers)
        other = next(name for name in nodes if name != own)
        for n in range(100):
            await nodes[other].send({"n": n})
        await until(lambda: len(events) == 100, 60)
        command(folder, f"set server nodes/{own} state drain")
        assert state(folder, own).startswith("DRAIN")
        newcomers: list[Any] = []
        for _ in range(3):
            nursery.start_soon(follow, Subscription(newcomers.append), ports["8769"])
        await nodes[other].wait_peers(3)
        assert nodes[own].statistics().peers == 1, "who is there stays"
        ends[own].set()
        await until(lambda: subscription.close_code, 60)
        assert subscription.close_code == 1001
        for n in range(100, 200):
            await nodes[other].send({"n": n})
        await until(lambda: len(events) >= 200 and len(newcomers) >= 300, 60)
        assert subscription.resumed == [None, "resumed"]
        assert [event["n"] for event in events] == list(range(200))
        nursery.cancel_scope.cancel()


def test_the_load_balancer_waits_longer_than_the_heartbeat() -> None:
    (seconds,) = re.findall(r"timeout tunnel (\d+)s", configuration())
    heartbeat = Heartbeat()
    assert int(seconds) > heartbeat.ping_interval + heartbeat.timeout
