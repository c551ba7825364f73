"""Cancelled at any step of a short run: nothing stays open, nothing is confirmed that the peer has not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.testing import Accept, MemoryListener, PeerConnection, Step, Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BASE: dict[str, Any] = {
    "url": "ws://peer.test/",
    "payload": "json",
    "reconnect": {"jitter": 0},
    "heartbeat": {"ping-interval": "1s", "timeout": "1s"},
    "cursor": {"header-name": "C", "value-field": "n"},
}
BATCH = {"mode": "fixed", "fixed-size": 2, "timeout": "300ms", "wrap-as-json": True}
FULL = {"max-unconfirmed": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "batches": {**BASE, "batch": BATCH},
    "batches, full window": {**BASE, "batch": {**BATCH, "fixed-size": 1}, "delivery": FULL},
    "documents": {**BASE, "batch": {"mode": "document", "timeout": "300ms", "wrap-as-json": True}},
    "alone": BASE,
    "alone, full window": {**BASE, "delivery": {"max-unconfirmed": 1}},
    "stamped, full window": {**BASE, "delivery": {**FULL, "stamp": "s"}},
    "written": {**BASE, "delivery": {"level": "written"}},
}
SERVER: dict[str, Any] = {
    "mode": "server-output",
    "payload": "json",
    "server": {"bind": "127.0.0.1:0", "send-buffer-capacity": 2, "slow-peer-timeout": "1s"},
}
SERVERS: dict[str, dict[str, Any]] = {
    "plain": SERVER,
    "history": {**SERVER, "history": {}},
    "few unconfirmed": {**SERVER, "delivery": FULL},
    "drop-oldest": {**SERVER, "server": {**SERVER["server"], "slow-peer": "drop-oldest"}},
}


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope before a given step of any task."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.scope: trio.CancelScope | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.scope is not None:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def scenario(scope: trio.CancelScope, fields: dict[str, Any], steps: tuple[Step, ...]) -> bool:
    """A run with a refused attempt, a cut and a graceful end; gives whether it was cancelled."""
    outputs: list[trio_wsout.Output] = []
    receipts: list[trio_wsout.Receipt] = []
    async with open_peer() as peer:
        peer.plan(*steps)
        with scope:
            async with trio_wsout.open_output(fields, open_stream=peer.open_stream, receive=True) as output:
                outputs.append(output)
                for number in range(5):
                    receipts.append(await output.submit({"n": number}))
                await output.flush()
                await peer.send("[1]")
                await output.received.receive()
                await output.send({"n": 5})
                await trio.sleep(1)
        await trio.sleep(1)  # the peer's script may be asleep
        assert all(each.ended_at is not None for each in peer.connections), "a connection stayed open"
        arrived = "".join(str(message) for message in peer.messages)
        for output in outputs:
            statistics = output.statistics()
            assert statistics.accepted == statistics.confirmed + statistics.undelivered
            assert (statistics.unconfirmed, statistics.peers, statistics.window) == (0, 0, 0)
            assert statistics.link.cursor is None or f'"n":{statistics.link.cursor}' in arrived
            with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                output.send_nowait(1)
        for number, receipt in enumerate(receipts):
            assert receipt.settled
            try:
                await receipt.wait()
            except trio_wsout.DeliveryError:
                assert scope.cancelled_caught
            else:
                assert f'"n":{number}' in arrived, "confirmed, and the peer does not have it"
    return scope.cancelled_caught


async def serving(scope: trio.CancelScope, fields: dict[str, Any]) -> bool:
    """A run with a peer that reads, and one that does not and is found too slow; gives whether it was cancelled."""
    outputs: list[trio_wsout.Output] = []
    receipts: list[trio_wsout.Receipt] = []
    clients: list[PeerConnection] = []
    async with trio.open_nursery() as nursery:
        listener = MemoryListener(nursery)
        with scope:
            async with trio_wsout.open_output(fields, listeners=[listener]) as output:
                outputs.append(output)
                clients.append(await listener.connect())
                clients.append(await listener.connect(buffered=False))
                clients[1].stop_reading()
                for number in range(6):
                    receipts.append(await output.submit({"n": number}))
                clients[1].resume_reading()
                await output.flush()
                await output.send({"n": 6})
                await trio.sleep(1)
        for client in clients:
            client.resume_reading()
        await trio.sleep(10)
        assert all(each.ended_at is not None for each in clients), "a connection stayed open"
        for output in outputs:
            statistics = output.statistics()
            assert statistics.accepted == statistics.confirmed + statistics.undelivered
            assert (statistics.unconfirmed, statistics.peers, statistics.window) == (0, 0, 0)
        for number, receipt in enumerate(receipts):
            assert receipt.settled
            try:
                await receipt.wait()
            except trio_wsout.DeliveryError:
                assert scope.cancelled_caught
            else:
                arrived = "".join(map(str, clients[0].messages))
                assert f'"n":{number}' in arrived, "confirmed, and a peer that reads does not have it"
        nursery.cancel_scope.cancel()
    return scope.cancelled_caught


def run(
    main: Callable[[trio.CancelScope], Awaitable[bool]],
    instrument: CancelAtStep | None = None,
    at: float | None = None,
) -> bool:
    async def scoped() -> bool:
        scope = trio.CancelScope()
        if at is not None:
            scope.deadline = trio.current_time() + at
        if instrument is not None:
            instrument.scope = scope
        return await main(scope)

    return trio.run(
        scoped,
        clock=trio.testing.MockClock(autojump_threshold=0),
        instruments=[instrument] if instrument is not None else [],
    )


SLOW = Accept(after=0.2, pong_after=0.1)
# What is confirmed as it is written may never have come where the connection is cut.
TROUBLED = [kind for kind in CONFIGS if kind != "written"]
TROUBLE = (Unreachable(), Accept(cut_after=1, pong_after=0.1), SLOW)


def cancelled_before_every_step(main: Callable[[trio.CancelScope], Awaitable[bool]]) -> None:
    step = 1
    while run(main, CancelAtStep(step)):
        step += 1
    assert step > 100, "the run has many steps"


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_cancelled_before_every_step_of_a_plain_run(fields: dict[str, Any]) -> None:
    cancelled_before_every_step(partial(scenario, fields=fields, steps=(Accept(pong_after=0.1),)))


@pytest.mark.parametrize("fields", SERVERS.values(), ids=SERVERS)
def test_a_server_cancelled_before_every_step(fields: dict[str, Any]) -> None:
    cancelled_before_every_step(partial(serving, fields=fields))


@given(st.sampled_from(TROUBLED), st.integers(1, 600))
def test_cancelled_before_any_step_of_a_troubled_run(kind: str, step: int) -> None:
    run(partial(scenario, fields=CONFIGS[kind], steps=TROUBLE), CancelAtStep(step))


@given(st.sampled_from(TROUBLED), st.floats(0, 6))
def test_cancelled_at_any_time(kind: str, at: float) -> None:
    run(partial(scenario, fields=CONFIGS[kind], steps=TROUBLE), at=at)


@given(st.sampled_from(list(SERVERS)), st.floats(0, 4))
def test_a_server_cancelled_at_any_time(kind: str, at: float) -> None:
    run(partial(serving, fields=SERVERS[kind]), at=at)
