"""What befalls a listener: errors of accepting, and peers that go before they were answered."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import MemoryListener, PeerConnection

if TYPE_CHECKING:
    from trio.testing import MockClock


def config(**more: Any) -> dict[str, Any]:
    server = {"bind": "127.0.0.1:0", **more.pop("server", {})}
    return {"mode": "server-output", "server": server, **more}


class Troubled(MemoryListener):
    """A listener that raises these errors first."""

    def __init__(self, nursery: trio.Nursery, *errors: int) -> None:
        super().__init__(nursery)
        self.errors = list(errors)
        self.times: list[float] = []

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.errors:
            self.times.append(trio.current_time())
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return await super().accept()


@pytest.mark.parametrize(
    ("number", "times"),
    [
        *[(each, (0, 0, 0.1)) for each in (errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN)],
        *[(each, (0, 0.1, 0.2)) for each in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)],
    ],
)
async def test_an_error_of_accepting_is_logged_and_accepting_goes_on(
    number: int,
    times: tuple[float, ...],
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener = Troubled(nursery, number, number, number)
    async with trio_wsout.open_output(config(), listeners=[listener]) as output:
        client = await listener.connect()
        assert client.status == 101
        await output.send("one")
        await client.wait_messages(1)
    assert listener.times == [pytest.approx(at) for at in times], "one that repeats waits a moment"
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    told = f"a connection was not accepted: [Errno {number}] {os.strerror(number)}"
    assert [each.getMessage() for each in warnings] == [
        told,
        f"2 more like this, the latest: {told}",
    ]


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL])
async def test_a_listener_that_is_over_ends_the_output(
    number: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    listener = Troubled(nursery, number)
    with trio.fail_after(10), pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with trio_wsout.open_output(config(), listeners=[listener]):
            await trio.sleep_forever()


@pytest.mark.parametrize("level", ["written", "received"])
async def test_a_peer_that_goes_before_its_answer_is_out_holds_up_nothing(
    level: str, listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(delivery={"level": level}), listeners=[listener]) as output:
        client = PeerConnection(listener.dial(buffered=False))
        await client.request()
        await trio.sleep(1)
        receipt = await output.submit("one")

        async def leave() -> None:
            await trio.sleep(1)
            await client.cut()

        nursery.start_soon(leave)
        with trio.fail_after(60):
            await output.flush()
            await receipt.wait()
        assert trio.current_time() == 2


async def test_a_peer_that_reads_no_answer_confirms_nothing_by_the_cancellation_of_all(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    with trio.move_on_after(2):
        async with trio_wsout.open_output(config(), listeners=[listener]) as output:
            client = PeerConnection(listener.dial(buffered=False))
            await client.request()
            await trio.sleep(1)
            await output.send("one")
            await trio.sleep_forever()
    figures = output.statistics()
    assert (figures.confirmed, figures.undelivered) == (0, 1)


@pytest.mark.parametrize("answered", [False, True])
async def test_a_peer_that_reads_no_answer_makes_nobody_wait_where_slow_peers_are_closed(
    answered: bool, listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = {"slow-peer": "disconnect", "send-buffer-capacity": 4}
    async with trio_wsout.open_output(config(server=server), listeners=[listener]) as output:
        good = await listener.connect()
        client = PeerConnection(listener.dial(buffered=False))
        await client.request()
        await trio.sleep(1)
        for number in range(1000):
            await output.send(number)
        await good.wait_messages(1000)
        assert trio.current_time() == 1
        if answered:
            nursery.start_soon(client.run)
            await client.wait_closed()
            assert (client.status, client.close_code, client.messages) == (101, 1013, [])
        await output.flush()
        assert output.statistics().listener.expelled == answered


async def test_what_was_sent_while_a_peer_was_answered_comes_where_slow_peers_are_closed(
    listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = {"slow-peer": "disconnect", "send-buffer-capacity": 4}
    async with trio_wsout.open_output(config(server=server), listeners=[listener]) as output:
        client = PeerConnection(listener.dial(buffered=False))
        await client.request()
        await trio.sleep(1)
        for number in range(3):
            await output.send(str(number))
        nursery.start_soon(client.run)
        await client.wait_messages(3)
        await output.flush()
        assert (client.messages, output.statistics().listener.expelled) == (["0", "1", "2"], 0)
