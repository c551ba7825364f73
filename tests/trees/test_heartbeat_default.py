"""What the heartbeat does where nobody configured one: devices that vanish, and proxies that cut what is silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from trio_wsout.testing import open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener

SERVER = {"bind": "127.0.0.1:0"}


@pytest.mark.parametrize("mode", ["server-input", "server-output", "relay"])
async def test_a_device_that_vanished_is_missed(
    mode: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    config = {"mode": mode, "server": SERVER}
    async with trio_wsout.open_output(config, listeners=[listener]) as output:
        vanished, there = await listener.connect(), await listener.connect()
        start = trio.current_time()
        vanished.stop_reading()  # its power is gone: nothing comes from it, and no FIN
        await trio.sleep(29.9)
        assert output.statistics().peers == 2
        await trio.sleep(0.2)
        assert (output.statistics().peers, output.statistics().heartbeat_misses) == (1, 1)
        await trio.sleep(3600)
        assert there.ended_at is None
        assert there.ping_times == [start + 20 * (number + 1) for number in range(181)]


class Proxy:
    """Stands before a peer, and cuts what is silent in both directions for so many seconds."""

    def __init__(self, nursery: trio.Nursery, patience: float) -> None:
        self._nursery = nursery
        self._patience = patience
        self.cuts = 0

    def before(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        """The stream to talk to it by."""
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._pass_on, theirs, stream)
        return ours

    async def _pass_on(self, one: trio.abc.Stream, other: trio.abc.Stream) -> None:
        with trio.CancelScope(deadline=trio.current_time() + self._patience) as silence:
            async with trio.open_nursery() as nursery:

                async def passing(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
                    async for chunk in source:
                        silence.deadline = trio.current_time() + self._patience
                        await sink.send_all(chunk)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(passing, one, other)
                nursery.start_soon(passing, other, one)
        self.cuts += silence.cancelled_caught
        await trio.aclose_forcefully(one)
        await trio.aclose_forcefully(other)


@pytest.mark.parametrize(
    ("patience", "said", "cuts"),
    [
        (60.0, {}, 0),  # nginx' proxy_read_timeout
        (6.0, {"heartbeat": {"ping-interval": "5s"}}, 0),
        (60.0, {"heartbeat": "none"}, 1),
        (6.0, {}, 1),
    ],
)
async def test_an_idle_link_stays_open_behind_a_proxy_that_cuts_what_is_silent(
    patience: float, said: dict[str, Any], cuts: int, autojump_clock: MockClock
) -> None:
    config = {"url": "ws://peer.test/", "connect": {"mode": "eager"}, "reconnect": {"jitter": 0}, **said}
    async with open_peer() as peer, trio.open_nursery() as nursery:
        proxy = Proxy(nursery, patience)

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            return proxy.before(await peer.open_stream(host, port))

        async with trio_wsout.open_output(config, open_stream=open_stream) as output:
            await trio.sleep(3600)
            assert (proxy.cuts > 0) == (cuts > 0)
            assert (output.statistics().link.reconnects > 0) == (cuts > 0)
        nursery.cancel_scope.cancel()
