"""Mode server-input over memory streams, on a mock clock: what peers send, who sent it, and who waits."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.testing import MemoryListener, PeerConnection

if TYPE_CHECKING:
    from trio.testing import MockClock

MOST_WAITING = 100
"""More than wait for the application, with what each of a few peers may have on its way."""


@define(eq=False)
class Talker(PeerConnection):
    """A peer that counts."""

    said: int = field(default=0, init=False)
    _counting: trio.Lock = field(factory=trio.Lock, init=False)

    async def count(self, name: str, more: int) -> None:
        """Send its name and the next numbers, so many, or until the connection is over."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._counting:
                for _ in range(more):
                    await self.send(json.dumps({"from": name, "n": self.said}))
                    self.said += 1


def config(**more: Any) -> dict[str, Any]:
    server = {"bind": "127.0.0.1:0", **more.pop("server", {})}
    return {"mode": "server-input", "server": server, **more}


async def enter(listener: MemoryListener, nursery: trio.Nursery, *, buffered: bool = True) -> Talker:
    talker = Talker(listener.dial(buffered=buffered))
    nursery.start_soon(talker.run)
    await talker.request()
    assert await talker.wait_status() == 101
    return talker


async def take(output: trio_wsout.Output, count: int) -> list[Any]:
    return [(await output.received.receive()).event for _ in range(count)]


async def test_all_that_waits_is_taken_at_once(listener: MemoryListener, autojump_clock: MockClock) -> None:
    async with trio_wsout.open_output(config(payload="json"), listeners=[listener]) as output:
        client = await listener.connect()
        for number in range(20):
            await client.send(str(number))
        await trio.sleep(1)
        assert [item.event for item in await output.received.receive_many()] == list(range(20))
        with trio.move_on_after(1) as waiting:
            await output.received.receive_many()
        assert waiting.cancelled_caught
        await client.send("20")
        await trio.sleep(1)
    assert [item.event for item in await output.received.receive_many()] == [20]
    with pytest.raises(trio.EndOfChannel):
        await output.received.receive_many()


async def test_a_message_comes_with_who_sent_it(listener: MemoryListener, autojump_clock: MockClock) -> None:
    async def authenticate(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
        await trio.lowlevel.checkpoint()
        return trio_wsout.Admit(identity=handshake.query)

    fields = config(subprotocols=["v2", "v1"])
    async with trio_wsout.open_output(fields, listeners=[listener], authenticate=authenticate) as output:
        ann = await listener.connect("/in/here%20?ann", [("X-Device", "7")], subprotocols=["v1"])
        bob = await listener.connect("/?bob", [("Authorization", "Bearer secret")])
        await ann.send("hello")
        by_ann = await output.received.receive()
        await bob.send("hi")
        by_bob = await output.received.receive()
    assert (by_ann.event, by_bob.event) == ("hello", "hi")
    peer = by_ann.peer
    assert (peer.address, peer.path, peer.identity, peer.subprotocol) == (
        "memory",
        "/in/here%20",
        "ann",
        "v1",
    )
    assert peer.headers["x-device"] == "7"
    peer = by_bob.peer
    assert (peer.path, peer.identity, peer.subprotocol) == ("/", "bob", None)
    assert peer.headers["authorization"] == "Bearer secret"
    assert "secret" not in repr(by_bob)
    assert "hi" not in repr(by_bob)


@pytest.mark.parametrize(
    ("payload", "message", "event"),
    [
        ("text", '{"n": 1}', '{"n": 1}'),
        ("text", "", ""),
        ("json", '{"n": 1}', {"n": 1}),
        ("json", b"[1]", [1]),
        ("json", "18446744073709551616", 2**64),
        ("binary", b"\x00\xff", b"\x00\xff"),
        ("binary-base64", b"\x00\xff", "AP8="),
    ],
)
async def test_messages_are_decoded_by_the_payload(
    payload: str, message: str | bytes, event: object, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(payload=payload), listeners=[listener]) as output:
        client = await listener.connect()
        await client.send(message)
        assert await take(output, 1) == [event]


async def test_every_way_to_send_raises_and_says_which_mode_it_is(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(), listeners=[listener]) as output:
        with pytest.raises(RuntimeError, match="server-input"):
            await output.send("x")
        with pytest.raises(RuntimeError, match="server-input"):
            output.send_nowait("x")
        with pytest.raises(RuntimeError, match="server-input"):
            await output.submit("x")
        await output.flush()
        figures = output.statistics()
        assert (figures.accepted, figures.unconfirmed) == (0, 0)


async def test_while_nobody_takes_messages_peers_are_not_read_and_nothing_is_lost(
    listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    fields = config(
        payload="json", heartbeat={"ping-interval": "20s", "timeout": "10s"}, server={"idle-timeout": "60s"}
    )
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        flooder = await enter(listener, nursery, buffered=False)
        quiet = await enter(listener, nursery, buffered=False)
        nursery.start_soon(flooder.count, "flooder", 1000)
        await trio.sleep(1)
        nursery.start_soon(quiet.count, "quiet", 3)
        await trio.sleep(3600)
        # They wait, and are not called dead or idle meanwhile.
        assert output.statistics().peers == 2
        assert flooder.said < MOST_WAITING
        assert output.statistics().received < MOST_WAITING
        got = await take(output, 1003)
        assert [each["n"] for each in got if each["from"] == "flooder"] == list(range(1000))
        assert [each["n"] for each in got if each["from"] == "quiet"] == [0, 1, 2]
        first = next(index for index, each in enumerate(got) if each["from"] == "quiet")
        assert first < MOST_WAITING
        assert output.statistics().dropped == 0


BEGIN_END = {"header": "begin", "footer": "end"}


@pytest.mark.parametrize(
    ("batch", "message", "events"),
    [
        ({}, '{"n":1}\n{"n":2}', [{"n": 1}, {"n": 2}]),
        ({}, '{"n":1}', [{"n": 1}]),
        ({}, "", []),
        (BEGIN_END, 'begin\n{"n":1}\n{"n":2}\nend', [{"n": 1}, {"n": 2}]),
        (BEGIN_END, "begin\n\nend", []),
        ({"header": "a\nb"}, "a\nb\n1", [1]),
        ({"header": "run ${env|HOME||none}"}, "run anything\n1\n2", [1, 2]),
        ({"wrap-as-json": True}, '[{"n":1}, {"n":2},\n3]', [{"n": 1}, {"n": 2}, 3]),
        ({"wrap-as-json": True}, "[]", []),
        ({"wrap-as-json": True, **BEGIN_END}, "begin\n[1,2]\nend", [1, 2]),
    ],
)
@pytest.mark.parametrize("mode", ["fixed", "document"])
async def test_batches_are_taken_apart(
    mode: str,
    batch: dict[str, Any],
    message: str,
    events: list[object],
    listener: MemoryListener,
    autojump_clock: MockClock,
) -> None:
    fields = config(payload="json", batch={"mode": mode, **batch})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        client = await listener.connect()
        await client.send(message)
        await trio.sleep(1)
        await output.aclose()
        assert await take(output, len(events)) == events
        with pytest.raises(trio.WouldBlock):
            output.received.receive_nowait()
        assert output.statistics().dropped == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"payload": "json"}, "{"),
        ({"payload": "json"}, b"\xff"),
        ({"payload": "json"}, ""),
        ({"payload": "json", "batch": {"mode": "fixed"}}, '{"n":1}\n{'),
        ({"payload": "json", "batch": {"mode": "fixed", **BEGIN_END}}, '{"n":1}'),
        ({"payload": "json", "batch": {"mode": "fixed", **BEGIN_END}}, "begin"),
        ({"payload": "json", "batch": {"mode": "fixed", "wrap-as-json": True}}, '{"n":1}'),
        ({"payload": "json", "batch": {"mode": "fixed", "wrap-as-json": True}}, "[1"),
    ],
)
async def test_a_message_that_cannot_be_read_is_dropped_counted_and_warned_of(
    fields: dict[str, Any],
    message: str | bytes,
    listener: MemoryListener,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    batch = fields.get("batch", {})
    good = "begin\n1\nend" if "header" in batch else "[1]" if "wrap-as-json" in batch else "1"
    async with trio_wsout.open_output(config(**fields), listeners=[listener]) as output:
        client = await listener.connect()
        await client.send(message)
        await client.send(good)
        assert await take(output, 1) == [1]
        figures = output.statistics()
        assert (figures.received, figures.dropped, figures.peers) == (2, 1, 1)
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "dropped" in warnings[0].getMessage()
    assert client.close_code == 1001


async def test_an_application_that_left_makes_nobody_wait(
    listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(payload="json"), listeners=[listener]) as output:
        client = await enter(listener, nursery, buffered=False)
        nursery.start_soon(client.count, "p", 500)
        await take(output, 10)
        await output.received.aclose()
        while output.statistics().received < 500:
            await trio.sleep(0.01)
        # 10 were taken; some of the rest may have waited when the application left.
        assert 490 - MOST_WAITING < output.statistics().dropped <= 490
        assert output.statistics().peers == 1


async def test_a_graceful_end_leaves_what_waits_to_be_taken_and_tells_every_peer(
    listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(payload="json"), listeners=[listener]) as output:
        talker, silent = await enter(listener, nursery), await enter(listener, nursery)
        await talker.count("p", 20)
        await trio.sleep(1)
    assert await take(output, 20) == [{"from": "p", "n": n} for n in range(20)]
    with pytest.raises(trio.EndOfChannel):
        output.received.receive_nowait()
    await talker.wait_ended()
    await silent.wait_ended()
    assert (talker.close_code, silent.close_code) == (1001, 1001)
    assert trio.current_time() == 1
    assert output.statistics().listener.state == "closed"


@pytest.mark.parametrize("reads", [True, False])
async def test_a_graceful_end_under_traffic_raises_nothing(
    reads: bool, listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    got: list[Any] = []

    async def read(output: trio_wsout.Output) -> None:
        async for message in output.received:
            got.append(message.event)

    for pause in range(10):
        got.clear()
        from_memory = MemoryListener(nursery)
        async with trio_wsout.open_output(config(payload="json"), listeners=[from_memory]) as output:
            clients = [await enter(from_memory, nursery) for _ in range(3)]
            for number, client in enumerate(clients):
                nursery.start_soon(client.count, str(number), 10**6)
            if reads:
                nursery.start_soon(read, output)
            for _ in range(30 * pause):
                await trio.lowlevel.checkpoint()
        for number, client in enumerate(clients):
            await client.wait_ended()
            assert client.close_code == 1001
            numbers = [each["n"] for each in got if each["from"] == str(number)]
            assert numbers == list(range(len(numbers)))
        if reads:
            figures = output.statistics()
            await trio.sleep(1)
            assert figures.received == len(got) + figures.dropped


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["enter", "leave", "cut"]), st.integers(0, 4)),
        st.tuples(st.just("say"), st.integers(0, 4)),
        st.tuples(st.just("take"), st.integers(1, 100)),
        st.tuples(st.just("sleep"), st.integers(0, 5)),
    ),
    max_size=25,
)


@given(STEPS, st.booleans())
def test_what_peers_send_arrives_once_and_in_the_order_of_each(
    steps: list[tuple[str, int]], buffered: bool
) -> None:
    clients: list[Talker] = []
    gone: dict[int, str] = {}
    got: list[Any] = []

    async def act(nursery: trio.Nursery, what: str, number: int) -> None:
        client = clients[number]
        if what == "say":
            nursery.start_soon(client.count, str(number), 40)
        elif what == "cut":
            gone[number] = what
            await client.cut()
        elif buffered:
            gone[number] = what
            await client.close(1000)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listener = MemoryListener(nursery)
            async with trio_wsout.open_output(config(payload="json"), listeners=[listener]) as output:
                for what, number in steps:
                    here = [each for each in range(len(clients)) if each not in gone]
                    if what == "enter":
                        clients.append(await enter(listener, nursery, buffered=buffered))
                    elif what == "sleep":
                        await trio.sleep(number / 10)
                    elif what == "take":
                        with suppress(trio.WouldBlock):
                            for _ in range(number):
                                got.append(output.received.receive_nowait().event)
                    elif here:
                        await act(nursery, what, here[number % len(here)])
                with trio.move_on_after(10):
                    while True:
                        got.append((await output.received.receive()).event)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    for number, client in enumerate(clients):
        numbers = [each["n"] for each in got if each["from"] == str(number)]
        assert numbers == list(range(len(numbers)))
        if gone.get(number) != "cut":
            assert len(numbers) == client.said
