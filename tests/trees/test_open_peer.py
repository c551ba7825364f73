"""The scripted peer of `trio_wsout.testing`, as those who embed the library see it."""

from __future__ import annotations

import pytest
import trio
import trio_wsout
from trio_wsout.testing import Accept, Refuse, Unreachable, open_peer


@pytest.mark.parametrize(
    "kind", [ValueError, KeyboardInterrupt, pytest.fail.Exception, pytest.skip.Exception]
)
async def test_what_the_block_raises_comes_out_as_it_is(kind: type[BaseException]) -> None:
    raised = kind("from the block")
    with pytest.raises(kind) as caught:
        async with open_peer() as peer:
            await peer.open_stream("peer.test", 80)
            raise raised
    assert caught.value is raised


async def test_a_cancelled_block_ends_as_cancelled(autojump_clock: object) -> None:
    with trio.move_on_after(1) as scope:
        async with open_peer() as peer:
            await peer.open_stream("peer.test", 80)
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_an_attempt_that_finds_nobody_is_no_connection(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(Unreachable(), Refuse(status=503), then=Accept())
        config = {"url": "ws://peer.test/", "reconnect": {"jitter": 0}}
        start = trio.current_time()
        async with trio_wsout.open_output(config, open_stream=peer.open_stream) as output:
            await output.wait_connected()
        assert [each - start for each in peer.attempts] == [0.0, 0.5, 1.5]
        assert [each.opened_at - start for each in peer.connections] == [0.5, 1.5]
