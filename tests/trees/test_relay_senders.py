"""A relay that says who said it, hears only whom it may, and passes on what the application lets pass."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from attrs import evolve
from trio_wsout.testing import Accept, open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout import Received
    from trio_wsout.testing import MemoryListener, PeerConnection


def config(**more: Any) -> dict[str, Any]:
    server = {"bind": "127.0.0.1:0", **more.pop("server", {})}
    return {"mode": "relay", "payload": "json", "server": server, **more}


TOKENS = {"bearer": {"ann": "a-token", "bob": "b-token"}}


async def enter(listener: MemoryListener, name: str) -> PeerConnection:
    client = await listener.connect(headers=[("Authorization", f"Bearer {name[0]}-token")])
    assert client.status == 101
    return client


async def test_each_message_says_who_sent_it(listener: MemoryListener, autojump_clock: MockClock) -> None:
    fields = config(server={"auth": TOKENS, "sender-field": "from"})
    async with trio_wsout.open_output(fields, listeners=[listener], receive=True) as output:
        ann, bob = await enter(listener, "ann"), await enter(listener, "bob")
        await ann.send('{ "n": 12345678901234567890123 }')
        await bob.wait_messages(1)
        await trio.sleep(1)  # it has answered the ping behind that
        await bob.send('{"from": "ann", "n": 2}')
        await bob.send("[1]")
        await ann.wait_messages(2)
        await output.send({"from": "the hub"})
        await ann.wait_messages(3)
        assert bob.messages == ['{ "n": 12345678901234567890123 ,"from":"ann"}', '{"from":"the hub"}']
        assert ann.messages == ['{"from":"bob","n":2}', "[1]", '{"from":"the hub"}']
        received = [await output.received.receive() for _ in range(3)]
        assert [item.event for item in received] == [
            {"n": 12345678901234567890123, "from": "ann"},
            {"from": "bob", "n": 2},
            [1],
        ]


async def test_a_stamp_goes_beside_the_sender(listener: MemoryListener, autojump_clock: MockClock) -> None:
    fields = config(server={"auth": TOKENS, "sender-field": "from"}, delivery={"stamp": "seq"})
    async with trio_wsout.open_output(fields, listeners=[listener]):
        ann, bob = await enter(listener, "ann"), await enter(listener, "bob")
        await ann.send('{"n":1}')
        await bob.wait_messages(1)
    (message,) = bob.messages
    assert message.startswith('{"n":1,"from":"ann","seq":"')


async def test_who_may_not_send_is_dropped_and_counted_and_goes_on_hearing(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async def authenticate(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
        return trio_wsout.Admit(may_send=handshake.identity == "ann")

    fields = config(server={"auth": TOKENS})
    async with trio_wsout.open_output(
        fields, listeners=[listener], authenticate=authenticate, receive=True
    ) as output:
        ann, bob = await enter(listener, "ann"), await enter(listener, "bob")
        await bob.send('"unheard"')
        await trio.sleep(1)
        await ann.send('"heard"')
        item = await output.received.receive()
        assert (item.event, item.peer.identity, item.peer.may_send) == ("heard", "ann", True)
        await bob.wait_messages(1)
        figures = output.statistics()
        assert (figures.received, figures.dropped) == (2, 1)
    assert (ann.messages, bob.messages) == ([], ['"heard"'])


async def test_server_input_hears_only_who_may_send(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async def authenticate(handshake: trio_wsout.Handshake) -> trio_wsout.Admit:
        return trio_wsout.Admit(may_send=handshake.identity == "ann")

    fields = {**config(server={"auth": TOKENS}), "mode": "server-input"}
    async with trio_wsout.open_output(fields, listeners=[listener], authenticate=authenticate) as output:
        ann, bob = await enter(listener, "ann"), await enter(listener, "bob")
        for number in range(200):
            await bob.send(str(number))
        await ann.send('"heard"')
        assert (await output.received.receive()).event == "heard"
        await trio.sleep(1)
        assert output.statistics().dropped == 200


async def test_the_application_may_change_and_refuse(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    def on_message(item: Received) -> Received | None:
        if item.event == "secret":
            return None
        return evolve(item, event=f"{item.peer.identity or item.peer.address}: {item.event}")

    async with open_peer() as up:
        up.plan(then=Accept())
        fields = config(server={"auth": TOKENS}, url="ws://up.test/", connect={"mode": "eager"})
        async with trio_wsout.open_output(
            fields, listeners=[listener], open_stream=up.open_stream, on_message=on_message, receive=True
        ) as output:
            ann, bob = await enter(listener, "ann"), await enter(listener, "bob")
            for text in ('"secret"', '"hello"', '"secret"'):
                await ann.send(text)
            await bob.wait_messages(1)
            await up.send('"down"')
            await up.send('"secret"')
            await bob.wait_messages(2)
            await output.send("mine")
            await bob.wait_messages(3)
            received = [(await output.received.receive()).event for _ in range(2)]
            assert output.statistics().dropped == 3
            await output.flush()
        assert bob.messages == ['"ann: hello"', '"up.test: down"', '"mine"']
        assert received == ["ann: hello", "up.test: down"]
        assert up.messages == ['"ann: hello"', '"mine"']


async def test_an_on_message_that_raises_costs_that_message(
    listener: MemoryListener, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def on_message(item: Received) -> Received | None:
        if item.event == "canary":
            raise KeyError(item.event)
        return item

    fields = config(server={"auth": TOKENS})
    async with trio_wsout.open_output(fields, listeners=[listener], on_message=on_message) as output:
        ann, bob = await enter(listener, "ann"), await enter(listener, "bob")
        for text in ('"canary"', '"hello"'):
            await ann.send(text)
        await bob.wait_messages(1)
        assert bob.messages == ['"hello"']
        assert output.statistics().dropped == 1
    assert "on_message raised KeyError" in caplog.text
    assert "canary" not in caplog.text.replace('if item.event == "canary"', "")


async def test_credentials_are_asked_for_and_given_to_authenticate(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    asked: list[trio_wsout.Handshake] = []

    async def authenticate(handshake: trio_wsout.Handshake) -> trio_wsout.Admit | trio_wsout.Deny:
        asked.append(handshake)
        if handshake.identity == "bob":
            return trio_wsout.Deny(status=403)
        return trio_wsout.Admit(identity="the cellar" if handshake.identity == "cellar" else None)

    auth = {"basic": {"ann": "päss"}, "bearer": {"cellar": "t", "bob": "b"}, "query-parameter": "token"}
    fields = {**config(server={"auth": auth, "max-connections": 3}), "mode": "server-input"}
    async with trio_wsout.open_output(fields, listeners=[listener], authenticate=authenticate) as output:
        refused = await listener.connect()
        assert refused.status == 401
        assert refused.headers["www-authenticate"]
        assert (await listener.connect("/?token=wrong")).status == 401
        assert asked == []
        pair = base64.b64encode("ann:päss".encode()).decode()
        ann = await listener.connect(headers=[("Authorization", f"Basic {pair}")])
        cellar = await listener.connect("/?token=t")
        assert (await listener.connect(headers=[("Authorization", "Bearer b")])).status == 403
        await ann.send('"1"')
        assert (await output.received.receive()).peer.identity == "ann"
        await cellar.send('"2"')
        assert (await output.received.receive()).peer.identity == "the cellar"
        assert output.statistics().listener.refused == 3
    assert [each.identity for each in asked] == ["ann", "cellar", "bob"]


async def test_an_entry_that_has_no_value_is_found_at_the_start(listener: MemoryListener) -> None:
    auth = {"basic": {"ann": "${secret|ann}"}, "bearer": {"bob": "${secret|bob}", "eve": "x"}}
    with pytest.raises(trio_wsout.ConfigError) as caught:
        async with trio_wsout.open_output(config(server={"auth": auth}), listeners=[listener]):
            pytest.fail("the block must not begin")
    assert [each.path for each in caught.value.problems] == [
        "server.auth.basic.ann",
        "server.auth.bearer.bob",
    ]


async def test_an_entry_that_loses_its_value_admits_nobody_and_is_told_once(
    listener: MemoryListener, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"ann": "a-token"}
    auth = {"bearer": {"ann": "${secret|ann}", "bob": "b-token"}}
    async with trio_wsout.open_output(
        config(server={"auth": auth}), listeners=[listener], secrets=values.get
    ):
        await enter(listener, "ann")
        values.clear()
        for _ in range(3):
            assert (await listener.connect(headers=[("Authorization", "Bearer a-token")])).status == 401
            await enter(listener, "bob")
    told = [each.getMessage() for each in caplog.records if "server.auth" in each.getMessage()]
    assert told == [
        "an entry of server.auth admits nobody: server.auth.bearer.ann: ${secret|ann} has no value and no ||default"
    ]


async def test_on_message_is_for_relays() -> None:
    fields = {"mode": "server-input", "server": {"bind": "127.0.0.1:0"}}
    with pytest.raises(trio_wsout.ConfigError, match="on_message"):
        async with trio_wsout.open_output(fields, on_message=lambda item: item):
            pytest.fail("the block must not begin")
