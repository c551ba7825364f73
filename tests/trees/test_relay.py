"""The relay over memory streams, on a mock clock: who gets what, in which order, and who waits for whom."""

from __future__ import annotations

import gc
import json
import logging
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.testing import (
    Accept,
    MemoryListener,
    MemoryPeer,
    PeerConnection,
    PeerProtocol,
    Unreachable,
    open_peer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

Step = tuple[str, int, int]


def config(**more: Any) -> dict[str, Any]:
    server = {"bind": "127.0.0.1:0", **more.pop("server", {})}
    return {"mode": "relay", "server": server, **more}


def linked(**more: Any) -> dict[str, Any]:
    reconnect = {"initial-backoff": "10ms", "max-backoff": "10ms", "jitter": 0, **more.pop("reconnect", {})}
    return config(url="ws://up.test/", connect={"mode": "eager"}, reconnect=reconnect, **more)


async def talk(peer: PeerConnection, name: str, *numbers: int) -> None:
    for number in numbers:
        await peer.send(f"{name}:{number}")


def told(messages: Sequence[str | bytes], name: str) -> list[int]:
    """Numbers of what one source said, also in batches, which only the application has."""
    parts = [event.split(":") for message in messages for event in str(message).split("\n")]
    return [int(number) for source, number in parts if source == name]


@define(eq=False)
class Member:
    """A peer of the relay, and what had been said when it came."""

    client: PeerConnection
    name: str
    before: dict[str, int]
    said: int = 0
    gone: str | None = None
    """How it went: ``leave`` or ``cut``."""


@define(eq=False)
class Script:
    """Runs the steps: peers that come, talk and go, a link that is cut, and one peer that only listens."""

    output: trio_wsout.Output
    listener: MemoryListener
    up: MemoryPeer | None
    observer: PeerConnection = field(init=False)
    members: list[Member] = field(factory=list)
    said: dict[str, int] = field(factory=dict)
    down: list[tuple[int, int]] = field(factory=list)
    """What the other end of the link said: number, and the connection on which it did."""

    async def run(self, steps: Sequence[Step]) -> None:
        self.observer = await self.listener.connect()
        for what, number, count in steps:
            await self._step(what, number, count)
            await trio.lowlevel.checkpoint()
        await trio.sleep(5)
        await self.output.flush()
        await trio.sleep(1)

    async def _step(self, what: str, number: int, count: int) -> None:
        here = [member for member in self.members if member.gone is None]
        match what:
            case "join":
                name, before = f"p{len(self.members)}", dict(self.said)
                self.members.append(Member(await self.listener.connect(), name, before))
            case "sleep":
                await trio.sleep(count / 1000)
            case "application":
                for _ in range(count):
                    await self.output.send(self._next("application"))
            case "link" if self.up is not None:
                await self._link(self.up, number, count)
            case "say" | "leave" | "cut" if here:
                await self._act(what, here[number % len(here)], count)
            case _:
                pass

    def _next(self, name: str) -> str:
        number = self.said.setdefault(name, 0)
        self.said[name] += 1
        return f"{name}:{number}"

    async def _link(self, up: MemoryPeer, number: int, count: int) -> None:
        if number == 0 and up.connected:
            up.plan(*[Unreachable()] * (count % 4))
            await up.cut()
        elif up.connected:
            with suppress(trio.ClosedResourceError):  # it was cut in this moment
                for _ in range(count):
                    self.down.append((self.said.get("down", 0), len(up.connections)))
                    await up.send(self._next("down"))

    async def _act(self, what: str, member: Member, count: int) -> None:
        if what == "say":
            for _ in range(count):
                await member.client.send(self._next(member.name))
        elif what == "leave":
            member.gone = what
            await member.client.close(1000)
        else:
            member.gone = what
            await member.client.cut()


def run(steps: Sequence[Step], **fields: Any) -> Script:
    async def main() -> Script:
        async with trio.open_nursery() as nursery, open_peer() as up:
            listener = MemoryListener(nursery)
            async with trio_wsout.open_output(
                fields, listeners=[listener], open_stream=up.open_stream if "url" in fields else None
            ) as output:
                script = Script(output, listener, up if "url" in fields else None)
                await script.run(steps)
            nursery.cancel_scope.cancel()
        return script

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.just(0), st.just(0)),
        st.tuples(st.sampled_from(["say", "say", "application"]), st.integers(0, 5), st.integers(1, 9)),
        st.tuples(st.just("say"), st.integers(0, 5), st.just(100)),
        st.tuples(st.sampled_from(["leave", "cut"]), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("link"), st.integers(0, 2), st.integers(1, 9)),
        st.tuples(st.just("sleep"), st.just(0), st.integers(0, 30)),
    ),
    max_size=20,
)
HISTORIES = st.sampled_from([{}, {"history": {"store": "memory:", "max-events": 3}}])
BATCHES = st.sampled_from(
    [
        {},
        *[
            {"batch": {"mode": mode, "fixed-size": size, "timeout": "5ms"}}
            for mode in ("fixed", "document")
            for size in (1, 2, 7)
        ],
    ]
)


def check_members(script: Script) -> None:
    """Each got a stretch of what the observer got, without its own; who stayed, to the end."""
    everything = script.observer.messages
    for member in script.members:
        others = [each for each in everything if not str(each).startswith(f"{member.name}:")]
        got = member.client.messages
        start = others.index(got[0]) if got else len(others)
        assert got == others[start : start + len(got)]
        if member.gone is None:
            assert start + len(got) == len(others)
            for name, before in script.said.items():
                if name not in (member.name, "down"):
                    said_since = range(member.before.get(name, 0), before)
                    assert set(said_since) & set(told(others, name)) <= set(told(got, name))


def check_sources(script: Script) -> None:
    """The observer got everything of whoever was not cut, and of those a beginning, in order."""
    everything = script.observer.messages
    assert told(everything, "application") == list(range(script.said.get("application", 0)))
    for member in script.members:
        passed = told(everything, member.name)
        assert passed == list(range(len(passed)))
        if member.gone != "cut":
            assert len(passed) == script.said.get(member.name, 0)


def check_link(script: Script, up: MemoryPeer) -> None:
    """All but what came down went up: at least once, in order, again only from what a cut left open."""
    everything = script.observer.messages
    expected = [each for each in everything if not str(each).startswith("down:")]
    done = 0
    for connection in up.connections:
        if connection.messages:
            start = expected.index(connection.messages[0])
            assert start <= done
            assert connection.messages == expected[start : start + len(connection.messages)]
            done = max(done, start + len(connection.messages))
    assert done == len(expected)
    passed = told(everything, "down")
    assert all(one < other for one, other in pairwise(passed))
    whole = [number for number, connection in script.down if connection == len(up.connections)]
    assert set(whole) <= set(passed)


@given(STEPS, HISTORIES, BATCHES)
def test_without_a_link_each_peer_gets_what_the_others_and_the_application_sent_while_it_was_there(
    steps: list[Step], history: dict[str, Any], batch: dict[str, Any]
) -> None:
    script = run(steps, **config(**history, **batch))
    check_members(script)
    check_sources(script)


@given(STEPS, HISTORIES, BATCHES)
def test_with_a_link_that_is_cut_what_peers_send_goes_up_and_what_comes_down_goes_to_all(
    steps: list[Step], history: dict[str, Any], batch: dict[str, Any]
) -> None:
    script = run(steps, **linked(**history, **batch))
    check_members(script)
    check_sources(script)
    assert script.up is not None
    check_link(script, script.up)


async def test_a_graceful_end_under_traffic_raises_nothing_and_tells_everybody(
    autojump_clock: MockClock,
) -> None:
    for pause in range(8):
        async with trio.open_nursery() as nursery, open_peer() as up:
            listener = MemoryListener(nursery)

            async def talk_up(client: PeerConnection, name: str) -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await talk(client, name, *range(10**6))

            async def talk_down(up: MemoryPeer = up) -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    for number in range(10**6):
                        await up.send(f"down:{number}")

            fields = linked(**{"history": {"store": "memory:"}} if pause % 2 else {})
            async with trio_wsout.open_output(
                fields, listeners=[listener], open_stream=up.open_stream
            ) as output:
                clients = [await listener.connect() for _ in range(4)]
                for number, client in enumerate(clients[:3]):
                    nursery.start_soon(talk_up, client, f"p{number}")
                nursery.start_soon(talk_down)
                for _ in range(40 * pause):
                    await trio.lowlevel.checkpoint()
            figures = output.statistics()
            assert (figures.unconfirmed, figures.undelivered) == (0, 0)
            assert figures.accepted == figures.confirmed
            for client in clients:
                await client.wait_ended()
                assert client.close_code == 1001
            (connection,) = up.connections
            assert connection.close_code == 1000
            assert connection.messages == [
                each for each in clients[3].messages if not str(each).startswith("down:")
            ]
            nursery.cancel_scope.cancel()


async def test_a_link_that_gives_up_breaks_the_relay_with_connect_error(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        up.plan(Accept(), then=Unreachable())
        with pytest.raises(trio_wsout.ConnectError) as caught:
            async with trio_wsout.open_output(
                linked(reconnect={"max-attempts": 3}),
                listeners=[listener],
                open_stream=up.open_stream,
            ) as output:
                speaker, hearer = await listener.connect(), await listener.connect()
                await talk(speaker, "p", 0)
                await up.wait_messages(1)
                await output.flush()
                await up.cut()
                await trio.sleep(0.001)
                await talk(speaker, "p", 1)
                await hearer.wait_messages(2)
                receipt = await output.submit("application:0")
                with pytest.raises(trio_wsout.DeliveryError):
                    await receipt.wait()
                await trio.sleep(1)
                with pytest.raises(trio.BrokenResourceError) as broken:
                    await output.send("application:1")
                assert isinstance(broken.value.__cause__, trio_wsout.ConnectError)
        assert caught.value.attempts == 3
        assert [each.event for each in caught.value.undelivered] == ["p:1", "application:0"]
        await hearer.wait_ended()
        assert hearer.messages == ["p:0", "p:1", "application:0"]
        assert output.statistics().link.state == "gave-up"


async def test_what_a_link_that_gave_up_left_goes_to_who_takes_undelivered_events(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    taking, taken = trio.open_memory_channel[trio_wsout.Undelivered](10)
    async with open_peer() as up:
        up.plan(Accept(pong_after=None), then=Unreachable())
        fields = linked(reconnect={"max-attempts": 2})
        with pytest.raises(trio_wsout.ConnectError) as caught:
            async with trio_wsout.open_output(
                fields, listeners=[listener], open_stream=up.open_stream, undelivered=taking
            ) as output:
                (speaker, _) = await listener.connect(), await listener.connect()
                await talk(speaker, "p", 0)
                await up.wait_messages(1)
                await output.send("application:0")
                await up.wait_messages(2)
                await up.cut()
                await trio.sleep(1)
                with pytest.raises(trio.BrokenResourceError):
                    await output.flush()
        reported = [each.event for each in caught.value.undelivered]
        with suppress(trio.WouldBlock):
            while True:
                reported.append(taken.receive_nowait().event)
        assert reported == ["p:0", "application:0"]
        assert output.statistics().undelivered == 2


async def test_a_link_that_gives_up_while_it_is_full_leaves_nobody_waiting_and_everything_reported(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    count, sent = 3000, 0

    async def send_all(output: trio_wsout.Output) -> None:
        nonlocal sent
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for number in range(count):
                await output.send(f"application:{number}")
                sent += 1

    async with open_peer() as up:
        up.plan(Accept(pong_after=None), then=Unreachable())
        fields = linked(reconnect={"max-attempts": 2})
        with trio.fail_after(60), pytest.raises(trio_wsout.ConnectError) as caught:
            async with trio_wsout.open_output(
                fields, listeners=[listener], open_stream=up.open_stream
            ) as output:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send_all, output)
                    await trio.sleep(1)
                    assert 1024 < sent < count, "the link is full, and who sends waits"
                    await up.cut()
        assert [each.event for each in caught.value.undelivered] == [f"application:{n}" for n in range(sent)]


async def test_a_ping_is_answered_when_everything_before_it_was_passed_on(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(server={"send-buffer-capacity": 1, "slow-peer-timeout": "10s"})
    async with trio_wsout.open_output(fields, listeners=[listener]):
        narrow, speaker = await listener.connect(buffered=False), await listener.connect()
        narrow.stop_reading()
        await talk(speaker, "p", *range(60))
        await speaker.ping(b"behind 60")
        await trio.sleep(5)
        assert speaker.pongs == []
        narrow.resume_reading()
        await narrow.wait_messages(60)
        await trio.testing.wait_all_tasks_blocked()
        assert (speaker.pongs, speaker.pong_times) == ([b"behind 60"], [5])


async def test_an_eager_link_that_does_not_open_ends_the_opening_of_the_relay(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        up.plan(then=Unreachable())
        fields = linked()
        fields["connect"]["eager-timeout"] = "2s"
        with pytest.raises(trio_wsout.ConnectError):
            async with trio_wsout.open_output(fields, listeners=[listener], open_stream=up.open_stream):
                pytest.fail("the block must not begin")
        assert trio.current_time() == 2


async def test_without_a_url_a_relay_has_no_link(listener: MemoryListener, autojump_clock: MockClock) -> None:
    async with trio_wsout.open_output(config(), listeners=[listener], receive=True) as output:
        one, two = await listener.connect("/a?x=1"), await listener.connect("/b")
        await talk(one, "one", 0)
        received = await output.received.receive()
        assert (received.event, received.peer.path, received.peer.address) == ("one:0", "/a", "memory")
        await two.wait_messages(1)
        await output.send("application:0")
        await one.wait_messages(1)
        await output.flush()
        figures = output.statistics()
        assert (figures.listener.state, figures.peers, figures.link) == ("listening", 2, None)
        assert (figures.accepted, figures.confirmed, figures.received, figures.dropped) == (2, 2, 1, 0)
    assert (one.messages, two.messages) == (["application:0"], ["one:0", "application:0"])
    with pytest.raises(trio.EndOfChannel):
        await output.received.receive()


async def test_an_application_that_takes_nothing_makes_peers_wait_and_one_that_left_does_not(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(), listeners=[listener], receive=True) as output:
        one, two = await listener.connect(), await listener.connect()
        await talk(one, "one", *range(1000))
        await trio.sleep(100)
        first = len(two.messages)
        assert 64 <= first < 64 + 256, "64 wait, and what the last read brought"
        for _ in range(first):
            await output.received.receive()
        await trio.sleep(1)
        assert 64 <= len(two.messages) - first < 64 + 256
        await output.received.aclose()
        await two.wait_messages(1000)
    assert told(two.messages, "one") == list(range(1000))
    assert output.statistics().dropped > 0


@pytest.mark.parametrize("taking_after", [0, 3], ids=["takes", "takes late"])
async def test_what_waits_for_its_turn_while_all_is_full_reaches_the_application_and_the_others_once(
    taking_after: float, listener: MemoryListener, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    fields = config(server={"send-buffer-capacity": 1, "slow-peer-timeout": "1h"}, heartbeat="none")
    async with trio_wsout.open_output(fields, listeners=[listener], receive=True) as output:
        narrow = await listener.connect(buffered=False)
        speaker, other = await listener.connect(), await listener.connect()
        narrow.stop_reading()
        taken: list[object] = []

        async def take() -> None:
            await trio.sleep(taking_after)
            async for item in output.received:
                taken.append(item.event)

        nursery.start_soon(take)
        encode = PeerProtocol(server=False).message
        await speaker.send_raw(b"".join([encode(f"s:{number}") for number in range(300)]))
        await trio.sleep(1)
        assert output.statistics().accepted < 200, "the queues are full"
        narrow.resume_reading()
        await narrow.wait_messages(300)
        await trio.sleep(1)
        everything = list(range(300))
        assert told(narrow.messages, "s") == told(other.messages, "s") == everything
        assert taken == [f"s:{number}" for number in everything]
        figures = output.statistics()
        assert (figures.received, figures.accepted, figures.dropped) == (300, 300, 0)


@pytest.mark.parametrize("store", [None, "memory:"])
async def test_a_flooding_peer_delays_others_by_one_turn_and_no_more(
    store: str | None, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    history = {} if store is None else {"history": {"store": store}}
    fields = config(server={"send-buffer-capacity": 1, "slow-peer-timeout": "1h"}, **history)
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        narrow = await listener.connect(buffered=False)
        flooder = await listener.connect()
        quiet = [await listener.connect() for _ in range(10)]
        narrow.stop_reading()
        await talk(flooder, "flood", *range(600))
        await trio.sleep(1)
        accepted = output.statistics().accepted
        assert accepted < 400, "the flooder has to wait"
        for client in quiet:
            await talk(client, "quiet", 0)
        await trio.sleep(1)
        narrow.resume_reading()
        await narrow.wait_messages(610)
        said = [str(each).partition(":")[0] for each in narrow.messages]
        first = said.index("quiet")
        last = len(said) - 1 - said[::-1].index("quiet")
        # What the flooder has waiting for its turn, 64 messages, comes behind them.
        assert first < accepted - 50
        assert last - first <= 2 * len(quiet)
        assert told(narrow.messages, "flood") == list(range(600))


@pytest.mark.parametrize(
    ("payload", "bad", "good"),
    [
        ("text", b"bytes", "text"),
        ("json", '{"n": 1', '{"n": 1}'),
        ("json", "\ufeff1", "1"),
        ("binary-base64", "no base64", b"bytes"),
    ],
)
async def test_a_message_that_cannot_be_read_is_dropped_counted_and_warned_of(
    payload: str,
    bad: str | bytes,
    good: str | bytes,
    listener: MemoryListener,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_peer() as up:
        fields = linked(payload=payload)
        async with trio_wsout.open_output(fields, listeners=[listener], open_stream=up.open_stream) as output:
            one, two = await listener.connect(), await listener.connect()
            await one.send(bad)
            await one.send(good)
            await two.wait_messages(1)
            await up.send(bad)
            await up.send(good)
            await two.wait_messages(2)
            await up.wait_messages(1)
            figures = output.statistics()
        assert (one.messages, two.messages, up.messages) == ([good], [good, good], [good])
        assert (figures.dropped, figures.received, figures.accepted) == (2, 4, 2)
        warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert len(warnings) == 2
        assert all("dropped" in str(each.msg) or "not passed on" in str(each.msg) for each in warnings)
        assert one.close_code == 1001, "its connection went on to the end"


async def test_an_object_that_holds_the_key_of_the_stamp_is_not_passed_on(
    listener: MemoryListener, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    fields = config(payload="json", delivery={"stamp": "seq"})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        one, two = await listener.connect(), await listener.connect()
        for message in ('{"seq": 1}', '{"n": 1}', "[2]"):
            await one.send(message)
        await two.wait_messages(2)
        first, second = [json.loads(each) for each in two.messages]
        assert (first["n"], "seq" in first, second) == (1, True, [2])
        assert output.statistics().dropped == 1
    assert "not passed on" in caplog.text


@pytest.mark.parametrize(("payload", "said"), [("binary", "text"), ("binary-base64", "dGV4dA==")])
async def test_a_text_of_a_peer_becomes_bytes_where_the_payload_is_binary(
    payload: str, said: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(payload=payload), listeners=[listener]):
        one, two = await listener.connect(), await listener.connect()
        await one.send(said)
        await two.wait_messages(1)
        assert two.messages == [b"text"]


@pytest.mark.parametrize("policy", ["wait", "disconnect", "drop-oldest"])
@pytest.mark.parametrize("link", [False, True], ids=["no link", "link"])
async def test_a_stalled_peer_costs_the_others_at_most_the_time_of_the_policy(
    link: bool, policy: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    server = {"send-buffer-capacity": 4, "slow-peer": policy, "slow-peer-timeout": "3s"}
    fields = (linked if link else config)(server=server, payload="json", delivery={"stamp": "seq"})
    async with open_peer() as up:
        async with trio_wsout.open_output(
            fields, listeners=[listener], open_stream=up.open_stream if link else None
        ) as output:
            speaker, good = await listener.connect(), await listener.connect()
            stalled = await listener.connect(buffered=False)
            stalled.stop_reading()
            await output.wait_peers(3)
            for n in range(300):
                await speaker.send(json.dumps({"n": n}))
            await good.wait_messages(300)
            assert trio.current_time() == (3 if policy == "wait" else 0)
            assert [json.loads(each)["n"] for each in good.messages] == list(range(300))
            figures = output.statistics()
            assert (figures.listener.expelled == 0, figures.listener.lost_by_slow > 0) == (
                policy == "drop-oldest",
            ) * 2
            if link:
                await up.wait_messages(300)
                assert [json.loads(each)["n"] for each in up.messages] == list(range(300))
            stalled.resume_reading()
            if policy == "drop-oldest":
                while json.loads(stalled.messages[-1] if stalled.messages else "{}").get("n") != 299:
                    await stalled.wait_messages(len(stalled.messages) + 1)
                got = [json.loads(each) for each in stalled.messages]
                assert any("gap" in each for each in got)
            else:
                await stalled.wait_closed()
                assert stalled.close_code == 1013
                got = [json.loads(each) for each in stalled.messages]
                assert [each["n"] for each in got] == list(range(len(got)))
    assert speaker.messages == []


async def test_a_peer_that_talks_while_its_replay_runs_gets_none_of_its_own(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(
        payload="json", delivery={"stamp": "seq"}, history={}, cursor={"query-parameter": "since"}
    )
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        hearer = await listener.connect()
        for n in range(3000):
            await output.send({"from": "application", "n": n})
        await hearer.wait_messages(3000)
        cursor = json.loads(hearer.messages[0])["seq"]
        client = await listener.connect(f"/?since={cursor}", buffered=False)
        await client.wait_messages(1)
        client.stop_reading()
        assert len(client.messages) < 2999
        for n in range(50):
            await client.send(json.dumps({"from": "client", "n": n}))
            await output.send({"from": "application", "n": 3000 + n})
        await hearer.wait_messages(3100)
        client.resume_reading()
        await client.wait_messages(3049)
        await output.flush()
        await trio.sleep(1)
        got = [json.loads(each) for each in client.messages]
        assert [(each["from"], each["n"]) for each in got] == [("application", n) for n in range(1, 3050)]
        again = await listener.connect(f"/?since={cursor}")  # another connection is another peer
        await again.wait_messages(3099)
        assert again.messages == hearer.messages[1:]


async def test_what_comes_down_the_link_leaves_no_trace_when_all_have_it(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        async with trio_wsout.open_output(
            linked(), listeners=[listener], open_stream=up.open_stream
        ) as output:
            hearer = await listener.connect()
            before = {id(each) for each in gc.get_objects() if isinstance(each, set) and len(each) >= 2000}
            for number in range(2000):
                await up.send(f"down:{number}")
            await hearer.wait_messages(2000)
            await output.flush()
            grown = [each for each in gc.get_objects() if isinstance(each, set) and len(each) >= 2000]
            assert [f"a set of {len(each)}" for each in grown if id(each) not in before] == []


@pytest.mark.parametrize("text", ['"abc"', '{"a":  1}', "123456789012345678901234567890", "[1.50]", "null"])
async def test_json_that_comes_down_the_link_goes_on_as_it_came(
    listener: MemoryListener, autojump_clock: MockClock, text: str
) -> None:
    async with open_peer() as up:
        async with trio_wsout.open_output(
            linked(payload="json"), listeners=[listener], open_stream=up.open_stream
        ) as output:
            client = await listener.connect()
            await up.send(text)
            await client.wait_messages(1)
            assert client.messages == [text]
            assert output.statistics().dropped == 0
