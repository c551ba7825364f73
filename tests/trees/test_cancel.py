"""Cancelled at any step of a short run: nothing stays open, nothing is confirmed that the peer has not."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
import trio_wsout
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.testing import Accept, Step, Unreachable, open_peer

CONFIG = {
    "url": "ws://peer.test/",
    "payload": "json",
    "reconnect": {"jitter": 0},
    "heartbeat": {"ping-interval": "1s", "timeout": "1s"},
    "cursor": {"header-name": "C", "value-field": "n"},
    "batch": {"mode": "fixed", "fixed-size": 2, "timeout": "300ms", "wrap-as-json": True},
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


async def scenario(scope: trio.CancelScope, steps: tuple[Step, ...]) -> bool:
    """A run with a refused attempt, a cut and a graceful end; gives whether it was cancelled."""
    outputs: list[trio_wsout.Output] = []
    receipts: list[trio_wsout.Receipt] = []
    async with open_peer() as peer:
        peer.plan(*steps)
        with scope:
            async with trio_wsout.open_output(CONFIG, open_stream=peer.open_stream, receive=True) as output:
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
            assert statistics.cursor is None or f'"n":{statistics.cursor}}}' in arrived
            with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                output.send_nowait(1)
        for number, receipt in enumerate(receipts):
            assert receipt.settled
            try:
                await receipt.wait()
            except trio_wsout.DeliveryError:
                assert scope.cancelled_caught
            else:
                assert f'"n":{number}}}' in arrived, "confirmed, and the peer does not have it"
    return scope.cancelled_caught


def run(steps: tuple[Step, ...], instrument: CancelAtStep | None = None, at: float | None = None) -> bool:
    async def main() -> bool:
        scope = trio.CancelScope()
        if at is not None:
            scope.deadline = trio.current_time() + at
        if instrument is not None:
            instrument.scope = scope
        return await scenario(scope, steps)

    found: Any = trio.run(
        main,
        clock=trio.testing.MockClock(autojump_threshold=0),
        instruments=[instrument] if instrument is not None else [],
    )
    return bool(found)


SLOW = Accept(after=0.2, pong_after=0.1)


def test_cancelled_before_every_step_of_a_plain_run() -> None:
    step, cancelled = 1, True
    while cancelled:
        cancelled = run((), CancelAtStep(step))
        step += 1
    assert step > 100, "the run has many steps"


@given(st.integers(1, 600))
def test_cancelled_before_any_step_of_a_troubled_run(step: int) -> None:
    run((Unreachable(), Accept(cut_after=1, pong_after=0.1), SLOW), CancelAtStep(step))


@given(st.floats(0, 6))
def test_cancelled_at_any_time(at: float) -> None:
    run((Unreachable(), Accept(cut_after=1, pong_after=0.1), SLOW), at=at)
