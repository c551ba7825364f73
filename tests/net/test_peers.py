"""Who is connected, over real sockets: while many come and go, and when they are sent away."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio_wsout
from trio_wsout.testing import PeerConnection

pytestmark = pytest.mark.network

PEERS = 100
CLOSED = 9
"""A port at which nobody listens (discard)."""
KEPT = 1024
"""Messages of peers that left for which a relay keeps room, beside 64 of each connection."""
PATIENCE = 120
"""Seconds after which something hangs, on the slowest of machines."""


def config(**more: Any) -> dict[str, Any]:
    return {"mode": "relay", "server": {"bind": "127.0.0.1:0"}, **more}


def port_of(output: trio_wsout.Output) -> int:
    return int(output.statistics().addresses[0].rpartition(":")[2])


async def test_figures_and_closes_are_right_while_a_hundred_peers_come_and_go() -> None:
    """Each sends, stays a moment, and closes, is cut, is sent away or expires; then the next one comes."""
    draw = random.Random(13)
    codes: list[int | None] = []
    named = 0

    async def authenticate(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
        return trio_wsout.Admit(identity=handshake.path, until=time.time() + draw.choice([0.05, 60.0]))

    async def come_and_go(port: int) -> None:
        while True:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            peer = PeerConnection(stream)
            try:
                async with trio.open_nursery() as own:
                    own.start_soon(peer.run)
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await peer.request(f"/{draw.random()}")
                        await peer.wait_status()
                        await peer.send("hello")
                        with trio.move_on_after(draw.random() / 5):
                            await peer.wait_ended()
                        if draw.random() < 0.5:
                            await peer.close(1000)
                            await peer.wait_ended()
                    own.cancel_scope.cancel()
            finally:
                await trio.aclose_forcefully(stream)  # noqa: ASYNC102 - by force, which never waits
            codes.append(peer.close_code)

    with trio.fail_after(PATIENCE):
        async with (
            trio_wsout.open_output(config(), authenticate=authenticate, receive=True) as output,
            trio.open_nursery() as nursery,
        ):
            for _ in range(PEERS):
                nursery.start_soon(come_and_go, port_of(output))
            seen: set[trio_wsout.Peer] = set()
            while len(seen) < 2 * PEERS or named < PEERS or not {4401, 4403} <= set(codes):
                await output.send({"n": len(seen)})
                await trio.sleep(0.01)
                peers = output.peers()
                assert len(peers) == output.statistics().peers
                assert list(peers.values()) == sorted(peers.values(), key=lambda each: each.since)
                assert len({each.address for each in peers}) == len(peers)
                assert all(each.queued is not None and each.queued >= 0 for each in peers.values())
                seen |= peers.keys()
                for peer in draw.sample(list(peers), min(3, len(peers))):
                    named += output.disconnect(peer, 4403, "go")
                    assert not output.disconnect(peer, 4404)
            assert all(not output.disconnect(peer, 4404) for peer in seen - output.peers().keys())
            nursery.cancel_scope.cancel()
        assert output.peers() == {}
    assert 4404 not in codes, "the first Close counts"


async def test_a_peer_that_reads_nothing_is_cut_and_others_are_not_held_up() -> None:
    with trio.fail_after(PATIENCE):
        async with (
            trio_wsout.open_output(config(retry={"timeout": "1h"})) as output,
            trio.open_nursery() as nursery,
        ):
            port = port_of(output)
            good = PeerConnection(await trio.open_tcp_stream("127.0.0.1", port))
            nursery.start_soon(good.run)
            await good.request("/good")
            await output.wait_peers(1)
            stalled = await trio.open_tcp_stream("127.0.0.1", port)
            await PeerConnection(stalled).request("/stalled")
            await output.wait_peers(2)
            for number in range(200):
                await output.send("x" * 100_000 + str(number))
                await good.wait_messages(number + 1)
            figures = {each.path: their for each, their in output.peers().items()}
            assert figures["/stalled"].unconfirmed > 0 == figures["/good"].queued
            (peer,) = [each for each in output.peers() if each.path == "/stalled"]
            start = trio.current_time()
            assert output.disconnect(peer, 4403)
            await output.flush()  # nothing waits for it
            while len(output.peers()) == 2:
                await trio.sleep(0.05)
            assert trio.current_time() - start > 4.5
            assert good.is_open
            await trio.aclose_forcefully(stalled)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("most", [None, 6])
async def test_of_peers_that_come_send_and_go_while_the_link_is_away_few_connections_and_messages_stay(
    most: int | None,
) -> None:
    """Each sends more than a relay takes of it, and comes again at once."""
    churning, fields = (
        4,
        config(
            url=f"ws://127.0.0.1:{CLOSED}/",
            heartbeat={"ping-interval": "100ms", "timeout": "200ms"},
            reconnect={"initial-backoff": "100ms", "max-backoff": "100ms"},
            **{"shutdown-timeout": "0s"},
        ),
    )
    if most is not None:
        fields["server"]["max-connections"] = most
    enough = 200 if most is None else 60  # far more than there is room for
    came = open_at_most = 0

    async def come_and_go(port: int) -> None:
        nonlocal came
        while True:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream, trio.open_nursery() as own:
                peer = PeerConnection(stream)
                own.start_soon(peer.run)
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await peer.request("/")
                    if await peer.wait_status() == 101:
                        for number in range(100):
                            await peer.send(str(number))
                        came += 1
                    await trio.sleep(0.05)
                own.cancel_scope.cancel()

    with trio.fail_after(PATIENCE), suppress(trio_wsout.DeliveryError):
        async with trio_wsout.open_output(fields) as output, trio.open_nursery() as nursery:
            for _ in range(churning):
                nursery.start_soon(come_and_go, port_of(output))
            while came < enough:
                await trio.sleep(0.05)
                open_at_most = max(open_at_most, len(output.peers()))
                assert output.statistics().queued <= KEPT + 64 * (most or 150) + 1000
            nursery.cancel_scope.cancel()
            while output.peers():
                await trio.sleep(0.05)
    assert open_at_most <= (most or 150)
