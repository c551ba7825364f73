"""Peers that stop, wires that lose: a dead link is found in time, a slow one is not called dead, everything arrives.

The wire is between two network namespaces of the test's own, each with a TUN device, and a thread that carries the
packets from one to the other, or does not. The namespaces have no names and end with what is in them.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio
import trio_wsout
from processes import LONG, Child, Receiving, StrictPeer, Subscription, bounded, disconnection, seeded, until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.faults, pytest.mark.network]

T = TypeVar("T")

INTERVAL, TIMEOUT = 0.5, 0.5
ALLOWED = INTERVAL + TIMEOUT + 0.5
"""Seconds in which a dead link must be found."""
ROUNDS = 5 if LONG else 1
MANY = 10**9

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFDSTADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x8918, 0x891C
_IFF_UP = 0x1
_NAME = b"wire"


def apart(call: Callable[[], T]) -> T:
    """Call it in a thread of its own, which may change its namespace."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result()


def change_namespace(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Wire:
    """Two namespaces with an address each, and what happens between them."""

    ADDRESSES = ("10.99.77.1", "10.99.77.2")

    def __init__(self, draw: random.Random) -> None:
        self.loss = 0.0
        """Share of the packets that are lost; 1 is a black hole."""
        self.most_in_a_row = MANY
        """Packets that are lost at most one after the other in one direction."""
        self.rate: float | None = None
        """Bytes a second in each direction, with room for all that wait; None: as many as come."""
        self.carried = 0
        self.lost = 0
        self._draw = draw
        self._ends = [apart(partial(self._make_end, n)) for n in range(2)]
        self._stopping, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def close(self) -> None:
        os.close(self._stop)
        self._thread.join()
        for number in (self._stopping, *self._ends[0], *self._ends[1]):
            os.close(number)

    def connected(self) -> tuple[trio.SocketStream, trio.SocketStream]:
        """A TCP connection from the first end to the other: its two sides."""
        listener = self._at(1, partial(socket.create_server, (self.ADDRESSES[1], 0)))
        with listener:
            dialled = self._at(0, partial(socket.create_connection, listener.getsockname()))
            accepted, _ = listener.accept()
        one, other = (trio.socket.from_stdlib_socket(each) for each in (dialled, accepted))
        return trio.SocketStream(one), trio.SocketStream(other)

    def _at(self, end: int, make: Callable[[], T]) -> T:
        def at_that_end() -> T:
            change_namespace("setns", self._ends[end][1], _CLONE_NEWNET)
            return make()

        return apart(at_that_end)

    def popen(self, end: int) -> Callable[..., subprocess.Popen[bytes]]:
        """Starts processes at that end."""

        return lambda *arguments, **more: self._at(end, partial(subprocess.Popen, *arguments, **more))

    def _make_end(self, end: int) -> tuple[int, int]:
        """The TUN device and the namespace of one end."""
        change_namespace("unshare", _CLONE_NEWNET)
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _NAME, _IFF_TUN | _IFF_NO_PI))

        def configure(request: int, address: str) -> None:
            packed = struct.pack("16sHH4s16x", _NAME, socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, request, packed)

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            configure(_SIOCSIFADDR, self.ADDRESSES[end])
            configure(_SIOCSIFDSTADDR, self.ADDRESSES[1 - end])
            configure(_SIOCSIFNETMASK, "255.255.255.255")
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", _NAME, _IFF_UP))
        return device, os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _carry(self) -> None:
        one, other = self._ends[0][0], self._ends[1][0]
        across, in_a_row = {one: other, other: one}, {one: 0, other: 0}
        on_its_way = {device: deque[tuple[float, bytes]]() for device in across}
        while True:
            now = time.monotonic()
            next_at = min((queue[0][0] for queue in on_its_way.values() if queue), default=None)
            wait = None if next_at is None else max(0.0, next_at - now)
            ready, _, _ = select.select([one, other, self._stopping], [], [], wait)
            if self._stopping in ready:
                return
            now = time.monotonic()
            for device in ready:
                packet = os.read(device, 65536)
                if in_a_row[device] < self.most_in_a_row and self._draw.random() < self.loss:
                    in_a_row[device] += 1
                    self.lost += 1
                    continue
                in_a_row[device] = 0
                self.carried += 1
                queue = on_its_way[device]
                begins = queue[-1][0] if queue else now
                queue.append((begins + (len(packet) / self.rate if self.rate else 0), packet))
            for device, queue in on_its_way.items():
                while queue and queue[0][0] <= now:
                    with suppress(OSError):  # a full queue loses, as queues do
                        os.write(across[device], queue.popleft()[1])


@pytest.fixture
def wire() -> Iterator[Wire]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not Path("/dev/net/tun").exists():
        pytest.skip("there is no /dev/net/tun for a wire of the test's own")
    try:
        made = Wire(seeded())
    except OSError as error:
        pytest.skip(f"no network namespace with a TUN device can be made here: {error}")
    yield made
    made.close()


SITUATIONS = [("received", "busy"), ("received", "idle"), ("acked", "busy"), ("acked", "idle")]
"""Delivery level, and whether events go out while the link dies, or nothing has gone for a while."""


def config(url: str, level: str) -> dict[str, Any]:
    return {
        "url": url,
        "connect": {"timeout": "500ms"},
        "reconnect": {"initial-backoff": "50ms", "max-backoff": "200ms"},
        "delivery": {"level": level, "stamp": "seq"},
        "heartbeat": {"ping-interval": f"{INTERVAL}s", "timeout": f"{TIMEOUT}s"},
    }


async def found_dead(
    sender: Child, receiver: Receiving, kind: str, die: Callable[[], object], heal: Callable[[], object]
) -> list[float]:
    """Have the link die and heal some times; gives the seconds until each death was found."""
    found = []
    for _ in range(ROUNDS):
        before = len(receiver.distinct)
        await sender.until(lambda: len(receiver.distinct) >= before + 10)  # noqa: B023
        # Idle: everything is confirmed, and some of the interval before the next ping is over.
        await trio.sleep(INTERVAL * 0.5 if kind == "idle" else 0.1)
        die()
        died = time.monotonic()
        change = await sender.wait_for(lambda said: said.get("state") == "backing-off" and said["at"] > died)  # noqa: B023
        found.append(change["at"] - died)
        heal()
        healed = time.monotonic()
        await sender.wait_for(lambda said: said.get("state") == "open" and said["at"] > healed)  # noqa: B023
        if kind == "idle":
            sender.signal(signal.SIGUSR1)
    if kind == "busy":
        sender.signal(signal.SIGUSR1)
    return found


def at_a_pace(kind: str) -> dict[str, Any]:
    if kind == "busy":
        return {"pace": 0.01}
    return {"total": 20 * (ROUNDS + 1), "pause_every": 20}


async def all_arrived(sender: Child, receiver: Receiving) -> dict[str, Any]:
    """Wait until the sender has ended; gives its figures."""
    end = await sender.wait_for(lambda said: "sent" in said)
    assert await sender.wait() == 0
    assert receiver.distinct == list(range(end["sent"])), "first arrivals: all of them, in order"
    assert (end["confirmed"], end["undelivered"]) == (end["sent"], 0)
    return end


@pytest.mark.parametrize(("level", "kind"), SITUATIONS)
@bounded
async def test_a_peer_that_is_stopped_is_found_dead_in_time_and_has_everything_when_it_goes_on(
    level: str, kind: str, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    receiver = Receiving(tmp_path, acks=level == "acked")
    with disconnection(receiver):
        await receiver.start()
        sender = Child(tmp_path, "send", config=config(receiver.url, level), **at_a_pace(kind))
        with disconnection(sender):
            found = await found_dead(
                sender,
                receiver,
                kind,
                partial(receiver.signal, signal.SIGSTOP),
                partial(receiver.signal, signal.SIGCONT),
            )
            end = await all_arrived(sender, receiver)
    figures(
        f"peer stopped {ROUNDS} times, {level}, {kind}: found dead after at most {max(found):.2f} s "
        f"({ALLOWED:g} s allowed), {end['sent']} events, 0 lost"
    )
    if LONG:  # on a machine that does nothing else
        assert max(found) <= ALLOWED


@pytest.mark.parametrize(("level", "kind"), SITUATIONS)
@bounded
async def test_a_black_hole_is_found_in_time_and_everything_arrives_when_it_is_gone(
    level: str, kind: str, wire: Wire, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    receiver = Receiving(tmp_path, wire.ADDRESSES[1], popen=wire.popen(1), acks=level == "acked")
    with disconnection(receiver):
        await receiver.start()
        fields = config(receiver.url, level)
        sender = Child(tmp_path, "send", popen=wire.popen(0), config=fields, **at_a_pace(kind))
        with disconnection(sender):
            found = await found_dead(
                sender,
                receiver,
                kind,
                partial(setattr, wire, "loss", 1),
                partial(setattr, wire, "loss", 0),
            )
            end = await all_arrived(sender, receiver)
    figures(
        f"black hole {ROUNDS} times, {level}, {kind}: found after at most {max(found):.2f} s "
        f"({ALLOWED:g} s allowed), {end['sent']} events, 0 lost"
    )
    if LONG:  # on a machine that does nothing else
        assert max(found) <= ALLOWED


@bounded
async def test_a_wire_that_loses_every_tenth_packet_raises_no_false_alarm_and_everything_arrives(
    wire: Wire, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    receiver = Receiving(tmp_path, wire.ADDRESSES[1], popen=wire.popen(1))
    fields = {"url": receiver.url, "heartbeat": {"ping-interval": "2s", "timeout": "3s"}}
    total = 60_000 if LONG else 2000
    with disconnection(receiver):
        await receiver.start()
        sender = Child(tmp_path, "send", popen=wire.popen(0), config=fields, total=total, pace=0.001)
        with disconnection(sender):
            await sender.until(lambda: receiver.numbers)
            # Of some losses in a row TCP makes a silence that no heartbeat can tell from death, for it doubles its
            # waits. (After a lost answer to its first packet it even begins with 3 s.) So: never two in a row.
            wire.most_in_a_row = 1
            wire.loss = 1 / 9  # of those that may be lost: a tenth of all
            assert await sender.wait(600 if LONG else 60) == 0
            end = await all_arrived(sender, receiver)
    figures(
        f"{wire.lost} of {wire.lost + wire.carried} packets lost: {total} events, 0 lost, "
        f"{end['misses']} false alarms, {end['reconnects']} reconnects"
    )
    assert wire.lost > 0.05 * (wire.lost + wire.carried), "too few packets were lost"
    assert (end["misses"], end["reconnects"]) == (0, 0)


SLOW = 65_536
"""Bytes a second on a slow line."""
LARGE = 1_000_000 if LONG else 128_000
"""Bytes of a message that is large for it."""
SLOW_LINE = {"heartbeat": {"ping-interval": "1s", "timeout": "1s"}, "retry": {"timeout": "120s"}}
"""Three large messages together may take longer than the 30 s that one has by default."""


def large(number: int) -> dict[str, Any]:
    return {"n": number, "text": "x" * (LARGE - 100)}


@bounded
async def test_a_link_on_a_slow_line_with_a_deep_queue_raises_no_false_alarm(
    wire: Wire, figures: Callable[[str], None]
) -> None:
    ours, theirs = wire.connected()
    wire.rate = SLOW
    came: list[int] = []
    peer = StrictPeer(lambda _, text: came.append(json.loads(text)["n"]))
    fields = {**SLOW_LINE, "url": "ws://peer/", "reconnect": {"max-attempts": 1}}

    async def dial(host: str, port: int) -> trio.SocketStream:
        assert not came
        return ours

    start = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.serve, theirs)
        async with trio_wsout.open_output(fields, open_stream=dial) as output:
            for number in range(3):
                await output.send(large(number))
            await output.flush()
        nursery.cancel_scope.cancel()
    told = output.statistics()
    figures(
        f"three messages of {LARGE} bytes up a line of 64 KB/s that queues all: {time.monotonic() - start:.1f} s, "
        f"{told.heartbeat_misses} misses, {told.link.reconnects} reconnects; pings: 1 s + 1 s"
    )
    assert (told.heartbeat_misses, told.link.reconnects, came) == (0, 0, [0, 1, 2])


class Accepting(trio.abc.Listener[trio.SocketStream]):
    """Accepts what is connected already."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._streams = [stream]

    async def accept(self) -> trio.SocketStream:
        if not self._streams:
            await trio.sleep_forever()
        return self._streams.pop()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@bounded
async def test_a_peer_on_a_slow_line_with_a_deep_queue_raises_no_false_alarm(
    wire: Wire, figures: Callable[[str], None]
) -> None:
    ours, theirs = wire.connected()
    wire.rate = SLOW
    came: list[int] = []
    client = Subscription(lambda event: came.append(event["n"]))
    fields = {**SLOW_LINE, "mode": "server-output", "server": {"bind": "127.0.0.1:0"}}
    start = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.stay, theirs, MANY)
        async with trio_wsout.open_output(fields, listeners=[Accepting(ours)]) as output:
            await output.wait_peers(1)
            for number in range(3):
                await output.send(large(number))
            await until(lambda: len(came) == 3 or output.statistics().peers == 0, 120)
            await output.flush()
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(theirs)
    told = output.statistics()
    figures(
        f"three messages of {LARGE} bytes to a peer at a line of 64 KB/s that queues all: "
        f"{time.monotonic() - start:.1f} s, {told.heartbeat_misses} misses; pings: 1 s + 1 s"
    )
    assert (told.heartbeat_misses, came, client.close_code) == (0, [0, 1, 2], 1001)
