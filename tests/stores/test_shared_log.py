"""Many outputs on one log, through restarts, failovers and removals: the rules of `_core.shared_log` and the scripts, on a real server."""

from __future__ import annotations

import uuid
from typing import Any

import valkey_server
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from trio_wsout._core.durable_log import Entry, Kind
from trio_wsout._core.run_format import run_of
from trio_wsout._core.shared_log import Arrival, Follower, read_entry

FEWER = settings(max_examples=max(200, settings.default.max_examples), stateful_step_count=40)
NODES = st.integers(0, 2)


class Node:
    """An output, of which nothing waits: it does one step when it is told to."""

    def __init__(self, machine: SharedLogMachine, name: str) -> None:
        self.machine = machine
        self.follower = Follower(name.encode(), 0, 0)
        epoch, _, tail, *_ = self.join()
        self.follower.epoch, self.follower.position = epoch, tail
        self.appended: list[list[str]] = []
        self.handed: list[str | None] = []
        """Events that were handed over; None where a gap was told."""
        self.own: list[list[str]] = []

    def join(self) -> list[int]:
        """Look at the log as it is now."""
        from trio_wsout.stores.redis_scripts import JOIN

        seen = self.follower.epoch, self.follower.position
        return self.machine.run(JOIN, self.follower.node, 0, 0, *seen)

    def append(self, events: list[str]) -> None:
        entries = [Entry(0, 0, Kind.TEXT, event.encode(), None, 1.0) for event in events]
        made = run_of(entries, shared=True)
        of_run = made.last, made.at, made.checksum, made.head, made.body
        self.follower.append(made.last, (*of_run, 0, "inf", "inf", "inf"))
        self.appended.append(events)

    def send(self, *, answered: bool) -> None:
        """Send the oldest run that the log does not have; the answer may get lost."""
        from trio_wsout.stores.redis_scripts import APPEND

        run, follower = self.follower.to_send(), self.follower
        if run is None:
            return
        head = follower.epoch, follower.node, run.number
        answer = self.machine.run(APPEND, follower.node, *head, *run.content)
        if answer and answered:
            follower.stored(run, answer[-1])

    def read(self, most: int) -> None:
        for key, fields in self.machine.entries_behind(self.follower.position, self.follower.epoch, most):
            for arrival in self.follower.take(read_entry(key, fields)):
                self.hand_over(arrival)

    def hand_over(self, arrival: Arrival) -> None:
        events = [each.payload.decode() for each in arrival.entries()]
        if arrival.gap:
            self.handed.append(None)
        if arrival.own:
            expected = self.appended[len(self.own)]
            assert events in ([], expected)  # a run that left unread is handed over from memory
            assert arrival.last - arrival.first + 1 == len(expected)
            events = expected
            self.own.append(events)
        self.handed += events


class SharedLogMachine(RuleBasedStateMachine):
    """Three outputs, and a server that dies, comes back with less, or is tampered with."""

    @initialize()
    def begin(self) -> None:
        import valkey

        server = valkey_server.server()
        self.client: Any = valkey.Valkey(unix_socket_path=str(server.socket))
        self.name = f"{{{uuid.uuid4().hex}}}:"
        self.process = "0"
        self.saved: dict[str, bytes] | None = None
        self.tampered = False
        """Whether somebody has removed what an output may not have read."""
        self.numbers = 0
        self.nodes = [Node(self, str(number)) for number in range(3)]

    def teardown(self) -> None:
        if hasattr(self, "client"):
            self.client.delete(
                *self.client.keys(f"{self.name.replace('{', '[{]').replace('}', '[}]')}*"), "none"
            )
            self.client.close()

    def run(self, script: Any, node: bytes, *arguments: Any) -> Any:
        keys = [self.name + each for each in ("log", "meta", "cursors", f"node:{node.decode()}")]
        return self.client.eval(script.source, 4, *keys, self.process, *arguments)

    def entries_behind(self, position: int, epoch: int, most: int) -> list[tuple[bytes, list[bytes]]]:
        found = self.client.execute_command(
            "XREAD", "COUNT", most, "STREAMS", self.name + "log", f"{position}-{epoch}"
        )
        return [] if not found else [(key, _flat(fields)) for key, fields in _of_stream(found)]

    # -- outputs ----------------------------------------------------------------------------------------

    @rule(node=NODES, count=st.integers(1, 3))
    def append(self, node: int, count: int) -> None:
        self.nodes[node].append([f"{self.numbers + each}" for each in range(count)])
        self.numbers += count

    @rule(node=NODES, answered=st.booleans())
    def send(self, node: int, answered: bool) -> None:
        self.nodes[node].send(answered=answered)

    @rule(node=NODES, most=st.integers(1, 4))
    def read(self, node: int, most: int) -> None:
        self.nodes[node].read(most)

    @rule(node=NODES)
    def join(self, node: int) -> None:
        self.nodes[node].join()

    # -- the server -------------------------------------------------------------------------------------

    def keys(self) -> list[bytes]:
        pattern = self.name.replace("{", "[{]").replace("}", "[}]") + "*"
        return list(self.client.keys(pattern))

    @rule()
    def restart(self) -> None:
        """It comes back with all it had."""
        self.process = str(int(self.process) + 1)

    @rule()
    def replicate(self) -> None:
        """A replica has got everything up to now."""
        self.saved = {key: self.client.dump(key) for key in self.keys()}

    @precondition(lambda self: self.saved is not None)
    @rule()
    def fail_over(self) -> None:
        """The replica takes over, with what it had got."""
        assert self.saved is not None
        if self.keys():
            self.client.delete(*self.keys())
        for key, content in self.saved.items():
            self.client.restore(key, 0, content)
        self.saved = None
        self.restart()

    @rule()
    def come_back_empty(self) -> None:
        if self.keys():
            self.client.delete(*self.keys())
        self.restart()

    @rule(name=st.sampled_from(["log", "meta"]))
    def remove(self, name: str) -> None:
        """Somebody removes a key of it."""
        self.tampered = True
        self.client.delete(self.name + name)

    @rule(keep=st.integers(1, 3))
    def trim(self, keep: int) -> None:
        """Somebody trims the stream."""
        self.tampered = True
        self.client.xtrim(self.name + "log", maxlen=keep, approximate=False)

    # -- the laws ---------------------------------------------------------------------------------------

    @rule()
    def all_settles(self) -> None:
        """Every output connects, sends and reads until nothing is left."""
        for _ in range(60):
            for node in self.nodes:
                node.join()
                node.send(answered=True)
                node.read(100)
            if all(
                node.follower.to_send() is None and len(node.own) == len(node.appended) for node in self.nodes
            ):
                break
        else:
            raise AssertionError("a run has not come round")
        for node in self.nodes:
            node.read(1000)
        for node in self.nodes:
            assert node.own == node.appended  # each comes round once, in order
        whole = [node.handed for node in self.nodes if None not in node.handed]
        assert all(events == whole[0] for events in whole)  # all began with the log
        for node in self.nodes:
            for part in _parts(node.handed):
                assert len(set(part)) == len(part) or self.tampered  # nothing twice
        for events in whole:  # who was told of no gap has missed nothing that anybody got
            assert all(
                set(events) >= {each for each in node.handed if each is not None} for node in self.nodes
            )


def _parts(handed: list[str | None]) -> list[list[str]]:
    """Return the events between gaps."""
    parts: list[list[str]] = [[]]
    for event in handed:
        if event is None:
            parts.append([])
        else:
            parts[-1].append(event)
    return parts


def _of_stream(found: Any) -> Any:
    return found[0][1] if isinstance(found, list) else next(iter(found.values()))[0]


def _flat(fields: Any) -> list[bytes]:
    if isinstance(fields, dict):
        return [each for pair in fields.items() for each in pair]
    return list(fields)


TestSharedLog = SharedLogMachine.TestCase
TestSharedLog.settings = FEWER
