"""The walks of events, confirmations and received messages go through the modules that the page on the design draws."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
import trio_wsout
from attrs import frozen
from trio_websocket import ConnectionClosed, open_websocket_url, serve_websocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from trio_websocket import WebSocketConnection, WebSocketRequest

PACKAGE = Path(trio_wsout.__file__).parent
DESIGN = Path(__file__).parents[2] / "docs" / "explanation" / "design.md"
DRAWING = re.compile(
    r"^<!-- walk: (?P<name>[\w, ]+) -->\n```text\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL
)
MODULE = re.compile(r"^(?:· )?(?P<module>[\w/]+) ")
WRITES = {"Connection._write_nowait", "write_to_each"}
LISTENING = {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}}
PATIENCE = 30

pytestmark = pytest.mark.network


def drawn(text: str) -> dict[str, set[str]]:
    """Return the modules of each drawing, by its name."""
    found: dict[str, set[str]] = {}
    for drawing in DRAWING.finditer(text):
        lines = drawing["lines"].splitlines()
        modules = [match["module"] for line in lines[1:] if (match := MODULE.match(line))]
        assert lines[0].startswith(f"{len(modules)} modules, ")
        found[drawing["name"]] = set(modules)
    return found


WALKS = drawn(DESIGN.read_text(encoding="utf-8"))


@frozen
class Call:
    task: str
    module: str
    function: str


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """Record which functions of the package run, and in which tasks."""
    calls: list[Call] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)) and trio.lowlevel.in_trio_task():
            module = Path(code.co_filename).relative_to(PACKAGE).with_suffix("").as_posix()
            calls.append(Call(trio.lowlevel.current_task().name, module, code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def through(calls: list[Call], task: str, until: set[str]) -> set[str]:
    """Return the modules through which a task goes, up to its first call of one of these functions."""
    modules: set[str] = set()
    for call in calls:
        if call.task == task:
            modules.add(call.module)
            if call.function in until:
                return modules
    raise AssertionError((task, until))


async def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, and everything that follows from it has happened."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)
    await trio.testing.wait_all_tasks_blocked(0.05)


async def read_all(peer: WebSocketConnection) -> None:
    try:
        while True:
            await peer.get_message()
    except ConnectionClosed:
        return


async def serve(request: WebSocketRequest) -> None:
    await read_all(await request.accept())


async def test_the_walks_of_a_client() -> None:
    here = trio.lowlevel.current_task().name
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, serve, "127.0.0.1", 0, None)
        async with trio_wsout.open_output({"url": f"ws://127.0.0.1:{server.port}/"}) as output:
            await output.wait_connected()
            await trio.testing.wait_all_tasks_blocked(0.05)
            with recorded() as calls:
                await output.send({"n": 1})
                sent = len(calls)
                await wait_for(lambda: output.statistics().confirmed == 1)
            down = {call.module for call in calls[:sent] if call.task == here}
            assert down | through(calls, "sender", WRITES) == WALKS["client, event"]
            assert through(calls, "reader", {"Settled.add"}) == WALKS["client, confirmation"]
        nursery.cancel_scope.cancel()


async def test_the_walk_of_an_event_in_a_listener() -> None:
    here = trio.lowlevel.current_task().name
    async with trio_wsout.open_output(LISTENING) as output:
        (address,) = output.statistics().addresses
        async with open_websocket_url(f"ws://{address}/"):
            await output.wait_peers(1)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with recorded() as calls:
                await output.send({"n": 1})
            await wait_for(lambda: output.statistics().confirmed == 1)
            assert through(calls, here, WRITES) == WALKS["listener, event"]


async def test_the_walk_of_a_received_message() -> None:
    async with trio_wsout.open_output({**LISTENING, "mode": "server-input"}) as output:
        (address,) = output.statistics().addresses
        async with open_websocket_url(f"ws://{address}/") as peer:
            await output.wait_peers(1)
            with recorded() as calls:
                await peer.send_message("{}")
                await output.received.receive()
            assert through(calls, "reader", {"Handover._put"}) == WALKS["listener, received"]


async def test_the_walk_of_a_message_through_a_relay() -> None:
    async with trio_wsout.open_output({**LISTENING, "mode": "relay"}) as output:
        (address,) = output.statistics().addresses
        async with (
            open_websocket_url(f"ws://{address}/") as ann,
            open_websocket_url(f"ws://{address}/") as bob,
        ):
            await output.wait_peers(2)
            with recorded() as calls:
                await ann.send_message("{}")
                assert await bob.get_message() == "{}"
            await wait_for(lambda: output.statistics().confirmed == 1)
            turn = next(at for at, call in enumerate(calls) if call.task == "sender")
            up = {call.module for call in calls[:turn] if call.task == "reader"}
            assert up | through(calls, "sender", {"Log.post"}) == WALKS["relay, received"]


def test_every_walk_is_compared() -> None:
    names = [
        "client, confirmation",
        "client, event",
        "listener, event",
        "listener, received",
        "relay, received",
    ]
    assert sorted(WALKS) == names
