"""Sending through a link that is cut: what becomes of the events of three documented ways to do it.

Each contestant is a process of its own that sends the same numbered events at the same pace through the
same proxy (`tests/net/chaos.py`), which ends connections in every way by a plan that follows from the seed.
The receiver is strict: it notes a message when it has all of it, before it looks at what is behind it.

* trio_wsout: mode `client` as its tutorial has it; the block that opens the output is left when all is confirmed.
* websockets: the loop of its reference of the asyncio client, under `connect`, which "can be used as an infinite
  asynchronous iterator to reconnect automatically on errors": `async for` over `connect(...)`, its body in a `try`
  whose `except ConnectionClosed` says `continue`. Its pings are its own.
* trio-websocket documents no such loop. Its recipe for a heartbeat ends with the advice that one may wish to add
  logic that reconnects. So here is the plainest there is: `while True`, `open_websocket_url`, that heartbeat beside
  the sending, and after an error a short sleep.

An event counts as sent when the call that sends it has returned; the one whose call raised is sent again on the
next connection. All have the same times: 2 s for an attempt, 0.5 s + 0.5 s for a ping, delays of some 50 ms between
attempts, and to the others, which close politely what they leave, 0.5 s for that.

    python tests/bench/reconnect.py [--events 10000] [--cuts 25] [--seed 7] [--pace 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import random
import sys
import time
from collections import defaultdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from attrs import evolve, frozen

sys.path.insert(0, str(Path(__file__).parents[1] / "net"))
from chaos import Chaos, Fault, Place, Way, fault_plan, open_chaos
from history_check import Identity, Verdict, check, event, identify
from processes import StrictPeer, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_websocket import WebSocketConnection

RUN = "run"
SIZE = 190
"""Bytes of a message, about."""
BURST = 10
"""Events between two pauses of the source."""
LIMIT = 60.0
"""Seconds that a contestant has."""
ATTEMPT, PING, POLITE, DELAY = 2.0, 0.5, 0.5, 0.05
"""Seconds: for an attempt; before a ping, and for its pong; to close; between attempts."""


# -- the contestants, each in a process of its own ---------------------------------------------------------


class Source:
    """The events in their order, at a pace."""

    def __init__(self, events: int, pace: float) -> None:
        self.sent = 0
        """How many were sent: the number of the next."""
        self.begin = time.monotonic()
        self._events = events
        self._pace = pace

    @property
    def over(self) -> bool:
        return self.sent == self._events

    @property
    def next(self) -> dict[str, Any]:
        return event(RUN, self.sent)

    def took(self) -> float:
        """The next was sent; gives the seconds to wait."""
        self.sent += 1
        return BURST / self._pace if self._pace and self.sent % BURST == 0 else 0.0

    def tell(self) -> None:
        print(json.dumps({"sent": self.sent, "seconds": time.monotonic() - self.begin}), flush=True)


async def send_with_trio_wsout(url: str, source: Source) -> None:
    import trio_wsout

    fields = {
        "url": url,
        "connect": {"timeout": f"{ATTEMPT}s"},
        "heartbeat": {"ping-interval": f"{PING}s", "timeout": f"{PING}s"},
        "reconnect": {"initial-backoff": f"{DELAY}s", "max-backoff": f"{DELAY}s"},
        "shutdown-timeout": f"{LIMIT}s",
    }
    async with trio_wsout.open_output(fields) as output:
        while not source.over:
            await output.send(source.next)
            await trio.sleep(source.took())


async def send_with_websockets(url: str, source: Source) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    connecting = connect(
        url,
        compression=None,
        open_timeout=ATTEMPT,
        ping_interval=PING,
        ping_timeout=PING,
        close_timeout=POLITE,
    )
    async for websocket in connecting:
        try:
            while not source.over:
                await websocket.send(json.dumps(source.next))
                await asyncio.sleep(source.took())
            await websocket.close()
        except ConnectionClosed:
            continue
        return


async def send_with_trio_websocket(url: str, source: Source) -> None:
    from trio_websocket import ConnectionClosed, HandshakeError, open_websocket_url

    while not source.over:
        try:
            async with (
                open_websocket_url(url, connect_timeout=ATTEMPT, disconnect_timeout=POLITE) as websocket,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(heartbeat, websocket)
                while not source.over:
                    await websocket.send_message(json.dumps(source.next))
                    await trio.sleep(source.took())
                nursery.cancel_scope.cancel()
        except* (OSError, HandshakeError, ConnectionClosed, trio.TooSlowError):
            await trio.sleep(DELAY)


async def heartbeat(websocket: WebSocketConnection) -> None:
    """Fail when a pong does not come in time."""
    while True:
        await trio.sleep(PING)
        with trio.fail_after(PING):
            await websocket.ping()


async def in_time_of_trio(send: Callable[[], Awaitable[None]]) -> None:
    with trio.move_on_after(LIMIT):
        await send()


async def in_time_of_asyncio(send: Callable[[], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(LIMIT):
            await send()
    except TimeoutError:
        return


CONTESTANTS: dict[str, tuple[str, Callable[[str, Source], Awaitable[None]]]] = {
    "trio_wsout": ("trio-wsout", send_with_trio_wsout),
    "websockets": ("websockets", send_with_websockets),
    "trio_websocket": ("trio-websocket", send_with_trio_websocket),
}
"""By the module that each is made of: its distribution, and what sends."""


def contest(name: str, url: str, events: int, pace: float) -> None:
    """Be a contestant."""
    source = Source(events, pace)
    send = partial(CONTESTANTS[name][1], url, source)
    if name == "websockets":
        asyncio.run(in_time_of_asyncio(send))
    else:
        trio.run(in_time_of_trio, send)
    source.tell()


# -- the proxy, the receiver and the table -----------------------------------------------------------------


@frozen(kw_only=True)
class Row:
    """What came of one contestant."""

    name: str
    verdict: Verdict
    cuts: int
    seconds: float
    trouble: str
    """What it ended with that was no success; empty: nothing."""


def plan(events: int, cuts: int, seed: int) -> list[Fault]:
    """So many faults of all kinds.

    Without a heartbeat's pongs and confirmations nothing comes back from the receiver, and not all have the same
    of those. So between handshake and Close the bytes that are counted are those of events.
    """
    up = events * SIZE // cuts
    faults = fault_plan(random.Random(seed), -(-cuts // 25), head=180, up=up, down=up)
    return [evolve(fault, way=Way.UP) if fault.place is Place.FRAME else fault for fault in faults[:cuts]]


class Receiver:
    """Notes what it reads; says Close where the plan has a fault for that."""

    def __init__(self) -> None:
        self.arrived: defaultdict[int, list[Identity | None]] = defaultdict(list)
        """Who came on each connection."""
        self.peer = StrictPeer(self._keep)
        self.open = 0
        """Connections that have not ended."""

    def watch(self, chaos: Chaos) -> None:
        """Say Close on connections for which that is planned."""

        def close_after() -> int | None:
            fault = chaos.fault
            return 20 + fault.after if fault is not None and fault.place is Place.CLOSE else None

        self.peer.close_after = close_after

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.open += 1
        try:
            await self.peer.serve(stream)
        finally:
            self.open -= 1

    def _keep(self, number: int, text: str) -> None:
        self.arrived[number].append(identify(text))


async def measure(name: str, options: argparse.Namespace) -> Row:
    """Have one contestant send all, and look what arrived."""
    receiver = Receiver()
    faults = plan(options.events, options.cuts, options.seed)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, receiver.serve, listeners)
        async with open_chaos(listeners[0].socket.getsockname()[1], faults) as chaos:
            receiver.watch(chaos)
            told, trouble = await run_apart(name, f"ws://127.0.0.1:{chaos.port}/", options)
            await until(lambda: receiver.open == 0, within=5)
        nursery.cancel_scope.cancel()
    sent = [(RUN, number) for number in range(int(told["sent"]))]
    arrived = [receiver.arrived[number] for number in sorted(receiver.arrived)]
    # No window is known of the others: duplicates are counted, and none of them is a complaint.
    verdict = check(sent, sent, [], arrived, window=options.events, cuts=len(chaos.cuts), direct=False)
    if told["sent"] < options.events:
        trouble = trouble or f"not done in {LIMIT:g} s"
    return Row(name=name, verdict=verdict, cuts=len(chaos.cuts), seconds=told["seconds"], trouble=trouble)


async def run_apart(name: str, url: str, options: argparse.Namespace) -> tuple[dict[str, float], str]:
    """Run a contestant in a process of its own; gives what it told, and what it failed with."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment |= {
        "WEBSOCKETS_BACKOFF_INITIAL_DELAY": str(DELAY),
        "WEBSOCKETS_BACKOFF_MIN_DELAY": str(DELAY),
        "WEBSOCKETS_BACKOFF_MAX_DELAY": str(DELAY),
    }
    command = [sys.executable, __file__, "--contest", name, "--url", url]
    command += [f"--events={options.events}", f"--pace={options.pace}"]
    with trio.fail_after(LIMIT + 30):
        ended = await trio.run_process(
            command, env=environment, capture_stdout=True, capture_stderr=True, check=False
        )
    errors = ended.stderr.decode().strip().splitlines()
    if ended.returncode == 0:
        told: dict[str, float] = json.loads(ended.stdout)
        return told, ""
    return {"sent": 0, "seconds": 0.0}, errors[-1] if errors else f"exit code {ended.returncode}"


def label(name: str) -> str:
    return f"{name} {version(CONTESTANTS[name][0])}"


def print_table(rows: Sequence[Row], options: argparse.Namespace) -> None:
    pace = f"{options.pace:g} a second" if options.pace else "as fast as it goes"
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores; {options.events} events of {SIZE} bytes, {pace}; "
        f"up to {options.cuts} cuts, seed {options.seed}"
    )
    columns = ("events sent", "cuts", "lost", "duplicates", "reordered", "seconds")
    print(f"{'':24}" + "".join(f"{column:>13}" for column in columns))
    for row in rows:
        verdict = row.verdict
        found = (
            verdict.sent, row.cuts, len(verdict.lost), verdict.duplicates, len(verdict.reordered), f"{row.seconds:.1f}",
        )  # fmt: skip
        print(f"{label(row.name):24}" + "".join(f"{each:>13}" for each in found), row.trouble)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--cuts", type=int, default=25, help="how many connections the plan ends")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pace", type=float, default=1000, help="events a second; 0: as fast as it goes")
    parser.add_argument("--contest", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contest is not None:
        contest(options.contest, options.url, options.events, options.pace)
        return
    present = [name for name in CONTESTANTS if importlib.util.find_spec(name) is not None]
    print_table([trio.run(measure, name, options) for name in present], options)


if __name__ == "__main__":
    main()
