"""`cursor.from: received` on a mock clock: when the cursor moves, what the next handshake carries, and that there is no hole."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout._tasks.received_channel import FollowedChannel
from trio_wsout.config import History
from trio_wsout.stores.log_memory import MemoryLog
from trio_wsout.testing import MemoryListener, MemoryPeer, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from trio.testing import MockClock

GONE = r"the peer closed with 4410 \('first'\), which is final"
LAST = {"header-name": "last-event-id"}
RECONNECT = {"initial-backoff": "10ms", "max-backoff": "10ms", "jitter": 0}


def config(**more: Any) -> dict[str, Any]:
    cursor = {"from": "received", "value-field": "id", **more.pop("cursor", {})}
    return {"url": "ws://feed.test/", "payload": "json", "reconnect": RECONNECT, "cursor": cursor, **more}


@asynccontextmanager
async def following(peer: MemoryPeer, **more: Any) -> AsyncGenerator[trio_wsout.Output]:
    async with trio_wsout.open_output(config(**more), receive=True, open_stream=peer.open_stream) as output:
        await output.wait_connected()
        yield output


async def say(peer: MemoryPeer, *events: Any) -> None:
    for event in events:
        await peer.send(event if isinstance(event, str) else json.dumps(event))
    await trio.testing.wait_all_tasks_blocked()


async def reconnect(peer: MemoryPeer, output: trio_wsout.Output) -> str | None:
    """Cut the connection; return the cursor of the next handshake."""
    await peer.cut()
    await trio.sleep(0.02)
    assert output.statistics().link.state == "open"
    return peer.connections[-1].headers.get("last-event-id")


def stored(output: trio_wsout.Output) -> str | None:
    return output.statistics().link.cursor


async def test_a_message_is_taken_when_the_application_asks_for_the_next_one(
    autojump_clock: MockClock,
) -> None:
    async with open_peer() as peer, following(peer) as output:
        assert "last-event-id" not in peer.connections[0].headers
        await say(peer, *({"id": number} for number in range(1, 9)))
        received = output.received
        assert (await received.receive()).event == {"id": 1}
        assert stored(output) is None, "it may still be at work on the first"
        assert received.receive_nowait().event == {"id": 2}
        assert stored(output) == "1"
        assert (await anext(received)).event == {"id": 3}
        assert stored(output) == "2"
        assert [item.event["id"] for item in await received.receive_many()] == [4, 5, 6, 7, 8]  # type: ignore[index]
        assert stored(output) == "3"
        with pytest.raises(trio.WouldBlock):
            received.receive_nowait()
        assert stored(output) == "8"


async def test_a_connection_resumes_behind_what_waits_for_the_application(autojump_clock: MockClock) -> None:
    async with open_peer() as peer, following(peer) as output:
        await say(
            peer, {"id": 1}, {"id": 2}, {"n": 3}, {"gap": {"asked": "2", "first": "9"}}, {"id": "x" * 5000}
        )
        assert await reconnect(peer, output) == "2"
        assert stored(output) is None
        await say(peer, {"id": 4})
        assert [item.event.get("id") for item in await output.received.receive_many()][:2] == [1, 2]  # type: ignore[attr-defined]
        assert await reconnect(peer, output) == "4"


async def test_what_a_slow_application_had_no_room_for_comes_again(autojump_clock: MockClock) -> None:
    async with open_peer() as peer, following(peer) as output:
        for number in range(500):
            await peer.send(json.dumps({"id": number}))
            await trio.testing.wait_all_tasks_blocked()
        await peer.cut()
        # A side that does not read finds the end of its connection when it writes.
        await output.send({})
        await trio.sleep(3)
        await output.wait_connected()
        asked = int(peer.connections[-1].headers["last-event-id"])
        assert asked < 499, "there was room for everything"
        assert output.statistics().dropped
        await say(peer, *({"id": number} for number in range(asked + 1, 500)))
        seen: list[int] = []
        with trio.move_on_after(1):
            async for item in output.received:
                seen.append(item.event["id"])  # type: ignore[index]
        assert seen == list(range(500)), "each once"


async def test_a_task_that_waits_for_the_next_message_has_taken_all_before_it(
    autojump_clock: MockClock,
) -> None:
    seen: list[Any] = []

    async def take(output: trio_wsout.Output) -> None:
        async for item in output.received:
            seen.append(item.event)

    async with open_peer() as peer:
        async with following(peer) as output, trio.open_nursery() as nursery:
            nursery.start_soon(take, output)
            await say(peer, {"id": 1}, {"id": "two"}, {"n": 3})
            assert stored(output) == "two"
            assert output.statistics().link.without_cursor == 1
            nursery.cancel_scope.cancel()
        assert len(seen) == 3


async def test_what_was_handed_out_last_is_not_taken_when_the_application_closes_the_channel(
    autojump_clock: MockClock,
) -> None:
    async with open_peer() as peer, following(peer) as output:
        await say(peer, *({"id": number} for number in range(1, 4)))
        for _ in range(2):
            await output.received.receive()
        await output.received.aclose()
        await say(peer, {"id": 4})
        assert await reconnect(peer, output) == "3"
    assert stored(output) == "1"
    assert isinstance(output.received, FollowedChannel)
    await output.received.taken_to_the_end.wait()


async def test_what_was_taken_is_stored_and_what_was_not_comes_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    cursor = {"persist-to": str(tmp_path / "cursor"), "query-parameter": "after"}
    async with open_peer() as peer:
        async with following(peer, cursor=cursor) as output:
            await say(peer, *({"id": number} for number in range(1, 6)))
            for _ in range(3):
                await output.received.receive()
            await output.received.receive()
        async with following(peer, cursor=cursor):
            assert peer.connections[-1].path == "/?after=3"


async def test_what_was_taken_is_stored_if_the_output_is_cancelled(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    cursor = {"persist-to": str(tmp_path / "cursor")}
    async with open_peer() as peer:
        with trio.CancelScope() as scope:
            async with following(peer, cursor=cursor) as output:
                await say(peer, {"id": 1}, {"id": 2})
                for _ in range(2):
                    await output.received.receive()
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        async with following(peer, cursor=cursor):
            assert peer.connections[-1].headers["last-event-id"] == "1"


async def test_a_gap_reaches_the_application_as_what_it_is(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_peer() as peer, following(peer, cursor={"initial-value": "7"}) as output:
        assert peer.connections[0].headers["last-event-id"] == "7"
        await say(peer, {"gap": {"asked": "7", "first": "9"}}, {"id": 9}, {"gap": "of another kind"})
        gap, event, other = await output.received.receive_many()
        assert isinstance(gap, trio_wsout.Gap)
        assert (gap.asked, gap.first, gap.event) == ("7", "9", {"gap": {"asked": "7", "first": "9"}})
        assert [type(each) for each in (event, other)] == [trio_wsout.Received] * 2
        figures = output.statistics().link
        assert (figures.gaps, figures.without_cursor, figures.cursor) == (1, 1, "7")
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert warnings == ["link: the server reports a gap: asked for 7, it goes on with 9"]


@pytest.mark.parametrize("follows", [True, False])
async def test_who_is_refused_because_its_cursor_is_gone_is_told_if_its_cursor_follows(
    *, follows: bool, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async def dial(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return listener.dial()

    fields = {
        **config(cursor={**LAST, "initial-value": "gone", "from": "received" if follows else "sent"}),
        "connect": {"mode": "eager"},
    }
    serving = {
        "mode": "server-output",
        "server": {"bind": "127.0.0.1:0"},
        "cursor": {**LAST, "value-field": "id"},
        "history": {"store": "memory:", "on-gap": "refuse"},
    }
    async with trio_wsout.open_output(serving, listeners=[listener]) as server:
        await server.send({"id": "first"})
        await server.flush()
        with pytest.raises(trio_wsout.ConnectError, match=GONE) if follows else nullcontext():
            async with trio_wsout.open_output(fields, receive=True, open_stream=dial) as output:
                await trio.sleep(1)
                figures = output.statistics().link
                assert (figures.state == "gave-up", figures.reconnects > 10) == (follows, not follows)


async def test_without_it_no_message_is_taken_for_a_gap(autojump_clock: MockClock) -> None:
    fields = {"url": "ws://feed.test/", "payload": "json"}
    async with (
        open_peer() as peer,
        trio_wsout.open_output(fields, receive=True, open_stream=peer.open_stream) as output,
    ):
        await output.wait_connected()
        await say(peer, {"gap": {"asked": "7", "first": "9"}})
        assert type(await output.received.receive()) is trio_wsout.Received
        assert output.statistics().link.gaps == 0


async def test_a_cursor_that_no_handshake_carries_is_not_adopted_and_counted(
    autojump_clock: MockClock,
) -> None:
    async with open_peer() as peer, following(peer) as output:
        await say(peer, {"id": "a"}, {"id": "two\nlines"}, {"id": "x" * 4097}, {"n": 1})
        for _ in range(4):
            await output.received.receive()
        assert (stored(output), await reconnect(peer, output)) == ("a", "a")
        assert output.statistics().unusable_cursors == 2


async def test_events_that_are_sent_have_no_cursor(autojump_clock: MockClock) -> None:
    async with open_peer() as peer, following(peer) as output:
        await output.send({"id": "two\nlines"})
        await output.send({"id": "b"})
        await output.flush()
        assert await reconnect(peer, output) is None
        figures = output.statistics()
        assert (figures.link.without_cursor, figures.unusable_cursors) == (0, 0)


async def test_who_takes_nothing_has_no_use_for_it() -> None:
    with pytest.raises(trio_wsout.ConfigError, match=r"cursor\.from: is received, and nobody takes"):
        async with trio_wsout.open_output(config()):
            pass


# -- a relay --------------------------------------------------------------------------------------------


def relay(**more: Any) -> dict[str, Any]:
    return config(mode="relay", server={"bind": "127.0.0.1:0"}, connect={"mode": "eager"}, **more)


async def test_the_cursor_of_a_relay_moves_when_its_peers_have_the_message(
    autojump_clock: MockClock, listener: MemoryListener
) -> None:
    async with (
        open_peer() as up,
        trio_wsout.open_output(relay(), listeners=[listener], open_stream=up.open_stream) as output,
    ):
        await say(up, {"id": 1})
        assert stored(output) == "1", "there is nobody who lacks it"
        member = await listener.connect()
        member.pong_after = None
        await say(up, {"id": 2}, {"n": 3}, {"gap": {"asked": "2", "first": "4"}}, {"id": 4})
        await trio.sleep(1)
        assert len(member.messages) == 4, "a gap is passed on as it came"
        assert (stored(output), await reconnect(up, output)) == ("1", "4")
        await member.cut()
        await trio.sleep(0.1)
        assert stored(output) == "4"
        figures = output.statistics().link
        assert (figures.gaps, figures.without_cursor) == (1, 1)


async def test_the_cursor_of_a_relay_moves_when_its_history_has_the_message(
    autojump_clock: MockClock, listener: MemoryListener
) -> None:
    held = trio.Event()

    class Held(MemoryLog):
        async def append(self, run: Any, settled: int = 0) -> Any:
            await held.wait()
            return await super().append(run, settled)

    options: dict[str, Any] = {"listeners": [listener], "history": Held(History())}
    async with (
        open_peer() as up,
        trio_wsout.open_output(relay(history={}), open_stream=up.open_stream, **options) as output,
    ):
        await say(up, {"id": 1})
        await trio.sleep(1)
        assert (stored(output), await reconnect(up, output)) == (None, "1")
        held.set()
        await trio.sleep(1)
        assert stored(output) == "1"
        member = await listener.connect(headers=[("Last-Event-ID", "0")])
        await member.wait_messages(2)


# -- no hole ----------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 8)),
        st.tuples(st.just("take"), st.integers(1, 5)),
        st.tuples(st.just("cut"), st.just(0)),
        st.tuples(st.just("die"), st.sampled_from([0, 0.2])),
        st.tuples(st.just("sleep"), st.sampled_from([0.01, 0.2])),
    ),
    max_size=20,
)


class Script:
    """A server with a history, and an application that follows it, dies, and comes again with the cursor that it stored."""

    def __init__(self, steps: Sequence[tuple[str, float]], path: Path, *, stamped: bool) -> None:
        self._steps = iter([*steps, ("catch up", 0)])
        self._path = path
        self._key = "at" if stamped else "id"
        self._stamped = stamped
        self.sent = 0
        self.lives: list[list[int]] = []
        """What came, by life."""
        self.done: list[int] = []
        """What the application has worked off."""
        self._at_work: list[int] = []
        self.over = False

    async def run(self) -> None:
        server: dict[str, Any] = {
            "mode": "server-output",
            "server": {"bind": "127.0.0.1:0"},
            "history": {},
            "cursor": {"header-name": "Last-Event-ID", **({} if self._stamped else {"value-field": "id"})},
            "delivery": {"stamp": "at"} if self._stamped else {},
        }
        async with trio.open_nursery() as nursery:
            self._listener = MemoryListener(nursery)
            async with trio_wsout.open_output(server, listeners=[self._listener]) as self._source:
                while not self.over:
                    await self._live()
            nursery.cancel_scope.cancel()

    async def _open_stream(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self._stream = self._listener.dial()
        return self._stream

    async def _live(self) -> None:
        self.lives.append([])
        self._at_work.clear()
        cursor = {"persist-to": str(self._path), "initial-value": "start", "value-field": self._key}
        fields = config(cursor=cursor)
        with trio.CancelScope() as life:
            async with trio_wsout.open_output(fields, receive=True, open_stream=self._open_stream) as output:
                await output.wait_connected()
                for what, number in self._steps:
                    if what == "die":
                        await trio.sleep(number)
                        life.cancel()
                    else:
                        self._work_off()
                    await self._step(output, what, number)
                self._work_off()
                self.over = True

    async def _step(self, output: trio_wsout.Output, what: str, number: float) -> None:
        match what:
            case "send":
                for _ in range(int(number)):
                    await self._source.send({"id": self.sent})
                    self.sent += 1
            case "take":
                with trio.move_on_after(0.5):
                    for _ in range(int(number)):
                        await self._take(output)
            case "catch up":
                with trio.move_on_after(5):
                    while True:
                        await self._take(output)
            case "cut":
                await trio.aclose_forcefully(self._stream)
            case _:
                await trio.sleep(number)

    async def _take(self, output: trio_wsout.Output) -> None:
        self._work_off()
        item = await output.received.receive()
        if not isinstance(item, trio_wsout.Gap):
            self._at_work.append(item.event["id"])  # type: ignore[index]
            self.lives[-1] += self._at_work

    def _work_off(self) -> None:
        self.done += self._at_work
        self._at_work.clear()


@given(STEPS, st.booleans())
def test_there_is_no_hole_and_what_comes_twice_comes_after_a_death(
    steps: list[tuple[str, float]], stamped: bool
) -> None:
    with TemporaryDirectory() as folder:
        script = Script(steps, Path(folder) / "cursor", stamped=stamped)
        trio.run(script.run, clock=trio.testing.MockClock(autojump_threshold=0))
    for life in script.lives:
        assert life == list(range(life[0], life[0] + len(life))) if life else True
    assert list(dict.fromkeys(script.done)) == list(range(script.sent))
