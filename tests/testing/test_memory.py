"""The peers in memory of `trio_wsout.testing`, as those who embed the library see them."""

from __future__ import annotations

import pytest
import trio
import trio_wsout
from trio_wsout.testing import Accept, Refuse, Unreachable, open_listener, open_peer


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


# -- a listener -------------------------------------------------------------------------------------------

SERVING = {"mode": "relay", "server": {"bind": "127.0.0.1:0", "max-connections": 1}, "subprotocols": ["v1"]}


async def test_a_peer_of_a_listener_notes_what_comes_and_when(autojump_clock: object) -> None:
    async with open_listener() as listener:
        async with trio_wsout.open_output(SERVING, listeners=[listener], receive=True) as output:
            start = trio.current_time()
            peer = await listener.connect("/a?b=1", {"X-Key": "k"}, subprotocols=["v0", "v1"])
            assert (peer.status, peer.subprotocol, peer.is_open) == (101, "v1", True)
            await peer.send("up")
            received = await output.received.receive()
            assert received.event == "up"
            assert received.peer is not None
            assert (received.peer.path, received.peer.headers["x-key"]) == ("/a", "k")
            await trio.sleep(1)
            await output.send("down")
            assert await peer.receive() == "down"
            await peer.ping(b"p")
            await peer.wait_until(lambda: bool(peer.pongs))
            assert (peer.message_times, peer.pongs, peer.pong_times) == ([start + 1], [b"p"], [start + 1])
            await peer.close(4000, "enough")
            await peer.wait_ended()
            assert (peer.close_code, peer.is_open) == (4000, False)
            with pytest.raises(trio.EndOfChannel):
                await peer.receive()
            with pytest.raises(trio.ClosedResourceError):
                await peer.send("behind a Close")
            assert output.statistics().peers == 0


async def test_a_refused_peer_has_the_status_and_the_body(autojump_clock: object) -> None:
    async with open_listener() as listener:
        async with trio_wsout.open_output(SERVING, listeners=[listener]):
            peer = await listener.connect()
            refused = await listener.connect()
            await refused.wait_ended()
            assert (peer.status, refused.status, refused.headers["retry-after"]) == (101, 503, "1")
            assert refused.body


async def test_a_handshake_without_an_answer_is_told(autojump_clock: object) -> None:
    async with open_listener() as listener:
        peer = await listener.knock()
        stream = await listener.accept()
        await stream.aclose()
        with pytest.raises(trio.BrokenResourceError, match="before the handshake was answered"):
            await peer.wait_status()


async def test_a_peer_that_does_not_read_makes_the_writer_wait_where_nothing_is_buffered(
    autojump_clock: object,
) -> None:
    slow = {"mode": "server-output", "server": {"bind": "127.0.0.1:0", "send-buffer-capacity": 2}}
    async with open_listener() as listener:
        async with trio_wsout.open_output(slow, listeners=[listener]) as output:
            peer = await listener.connect(buffered=False)
            peer.stop_reading()
            with trio.move_on_after(1) as waiting:
                for number in range(1000):
                    await output.send(str(number))
            assert waiting.cancelled_caught
            assert peer.messages == []
            peer.resume_reading()
            await peer.wait_messages(number)
            assert peer.messages == [str(each) for each in range(number)]


async def test_a_peer_answers_pings_late_or_never_and_a_close_or_not(autojump_clock: object) -> None:
    fields = {**SERVING, "heartbeat": {"ping-interval": "10s", "timeout": "5s"}, "shutdown-timeout": "3s"}
    async with open_listener() as listener:
        async with trio_wsout.open_output(fields, listeners=[listener]) as output:
            peer = await listener.connect()
            peer.pong_after = 4.0
            await trio.sleep(60)
            assert output.statistics().peers == 1
            peer.pong_after = None
            await peer.wait_ended()
            assert peer.ended_at == peer.ping_times[-1] + 5
            stubborn = await listener.connect()
            stubborn.answer_close = False
            await trio.sleep(1)
            left = trio.current_time()
        assert (stubborn.close_code, trio.current_time() - left) == (1001, 3)


async def test_what_an_unplanned_peer_is_asked_is_an_error() -> None:
    async with open_peer() as peer:
        assert not peer.connected
        with pytest.raises(RuntimeError, match="no connection"):
            await peer.send("to nobody")
