"""The tasks of a running output are the tree that the modes' docstring draws: their names, and who started them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from tests.trees.shared import Engine
from trio_wsout._modes import modes
from trio_wsout.testing import open_listener, open_peer

if TYPE_CHECKING:
    from trio.lowlevel import Task
    from trio_wsout.testing import MemoryListener

DESIGN = Path(__file__).parents[2] / "docs" / "explanation" / "design.md"
NODE = re.compile(r"(?P<stem>[│ ]*)[├└]─ (?P<name>\w+( \w+)?) ")
LINK: dict[str, Any] = {
    "url": "ws://peer.test/",
    "connect": {"mode": "eager"},
    "cursor": {"value-field": "n", "query-parameter": "since"},
}
SERVER: dict[str, Any] = {"server": {"bind": "127.0.0.1:0"}}
LEAST = [
    LINK,
    {"mode": "server-output", **SERVER},
    {"mode": "server-input", **SERVER},
    {"mode": "relay", **SERVER},
]

Edge = tuple[str, str]
"""A task, below the one that started it."""


def drawn(text: str) -> dict[str, set[Edge]]:
    """Return the edges of each drawing in a text, by the mode that stands at its root."""
    trees: dict[str, set[Edge]] = {}
    modes: list[str] = []
    above: dict[int, str] = {}
    for line in text.splitlines():
        root, node = re.fullmatch(r" *((?:client|server-|relay)[\w, -]*)", line), NODE.search(line)
        if root is not None:
            modes = root[1].split(", ")
            trees |= {mode: set() for mode in modes}
        elif node is not None and modes:
            depth = len(node["stem"].removeprefix("    ")) // 3
            above[depth] = node["name"]
            for mode in modes:
                trees[mode].add((above[depth - 1] if depth else mode, node["name"]))
    return trees


TREES = drawn(modes.__doc__ or "")


def below(task: Task) -> list[Edge]:
    """Return the edges below a task, without those tasks that trio starts for its own functions."""
    edges: list[Edge] = []
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            if not child.name.startswith("trio."):
                edges += [(task.name, child.name), *below(child)]
    return edges


def running(mode: str) -> list[Edge]:
    """Return the edges of the tree of the output that the calling task has opened."""
    here = trio.lowlevel.current_task().child_nurseries
    (root,) = [child for nursery in here for child in nursery.child_tasks if child.name == mode]
    return below(root)


def test_the_pages_draw_the_trees_of_the_modes() -> None:
    assert TREES
    assert drawn(DESIGN.read_text(encoding="utf-8")) == TREES


async def test_a_client_has_the_tasks_that_are_drawn(tmp_path: Path) -> None:
    fields = {**LINK, "spool": {"path": str(tmp_path / "spool")}, "delivery": {"max-age": "1h"}}
    async with (
        open_peer() as peer,
        trio_wsout.open_output(fields, open_stream=peer.open_stream, receive=True) as output,
    ):
        assert set(running("client")) == TREES["client"]
        await output.received.aclose()


async def test_a_relay_has_the_tasks_that_are_drawn(listener: MemoryListener) -> None:
    fields = {**LINK, **SERVER, "mode": "relay", "history": {}}
    async with (
        open_peer() as peer,
        trio_wsout.open_output(
            fields, open_stream=peer.open_stream, listeners=[listener], receive=True
        ) as output,
    ):
        await listener.connect()
        await output.wait_peers(1)
        linked = set(running("relay"))
        await output.received.aclose()
    async with (
        open_listener() as other,
        trio_wsout.open_output(
            {**SERVER, "mode": "relay", "history": {}}, listeners=[other], history=Engine().node()
        ),
    ):
        sharing = {("relay", "follower"), ("relay", "shared log")}
        assert sharing <= set(running("relay"))
    assert not sharing & linked, "a relay with a link shares no history"
    assert linked | sharing == TREES["relay"]


@pytest.mark.parametrize("fields", LEAST, ids=TREES)
async def test_a_mode_with_nothing_configured_starts_no_other_tasks(
    fields: dict[str, Any], listener: MemoryListener
) -> None:
    mode = fields.get("mode", "client")
    async with (
        open_peer() as peer,
        trio_wsout.open_output(
            fields,
            open_stream=peer.open_stream if mode == "client" else None,
            listeners=None if mode == "client" else [listener],
        ) as output,
    ):
        if mode != "client":
            await listener.connect()
        await output.wait_peers(1)
        assert {(mode, "sender"), (mode, "heartbeat")} < set(running(mode)) < TREES[mode]


async def test_an_idle_peer_costs_two_tasks(listener: MemoryListener) -> None:
    async with trio_wsout.open_output(LEAST[1], listeners=[listener]) as output:
        for _ in range(10):
            await listener.connect()
        await output.wait_peers(10)
        edges = running("server-output")
        assert [edges.count(edge) for edge in (("listener", "session"), ("session", "reader"))] == [10, 10]
        assert len(set(edges)) == len(edges) - 2 * 9
