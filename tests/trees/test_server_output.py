"""The server-output tree over memory streams, on a mock clock: every time is exact."""

from __future__ import annotations

import itertools
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel
import trio_wsout
from trio_wsout.config import History
from trio_wsout.stores.log_memory import MemoryLog

if TYPE_CHECKING:
    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener


def config(**more: Any) -> dict[str, Any]:
    server = {"bind": "127.0.0.1:0", **more.pop("server", {})}
    return {"mode": "server-output", "server": server, **more}


async def test_every_peer_gets_every_event_in_order(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(), listeners=[listener]) as output:
        clients = [await listener.connect() for _ in range(3)]
        await output.wait_peers(3)
        receipts = [await output.submit({"n": n}) for n in range(10)]
        for receipt in receipts:
            await receipt.wait()
        figures = output.statistics()
    for client in clients:
        assert [json.loads(message)["n"] for message in client.messages] == list(range(10))
        assert client.close_code == 1001
    assert (figures.accepted, figures.confirmed, figures.unconfirmed, figures.peers) == (10, 10, 0, 3)
    assert (figures.written, figures.written_messages) == (30, 30)
    assert figures.listener.state == "listening"
    assert output.statistics().listener.state == "closed"
    assert trio.current_time() == 0


async def test_without_a_peer_an_event_is_confirmed_and_counted_as_unheard(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(), listeners=[listener]) as output:
        receipt = await output.submit({"n": 1})
        await receipt.wait()
        figures = output.statistics()
    assert (figures.confirmed, figures.listener.unheard) == (1, 1)


async def test_a_peer_gets_what_is_sent_after_it_came(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(), listeners=[listener]) as output:
        await output.send("before")
        await output.flush()
        client = await listener.connect()
        await output.send("after")
        await client.wait_messages(1)
    assert client.messages == ["after"]


async def test_confirmed_is_what_every_peer_has(listener: MemoryListener, autojump_clock: MockClock) -> None:
    async with trio_wsout.open_output(config(), listeners=[listener]) as output:
        good = await listener.connect()
        silent = await listener.connect()
        silent.pong_after = None
        receipt = await output.submit("x")
        await good.wait_messages(1)
        await trio.sleep(5)
        assert not receipt.settled
        await silent.stream.aclose()  # gone: nobody waits for it any more
        await receipt.wait()
        assert output.statistics().confirmed == 1


async def test_many_peers_are_asked_what_they_have_a_second_later_and_at_once_where_somebody_waits(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(retry={"timeout": "5s"}), listeners=[listener]) as output:
        clients = [await listener.connect() for _ in range(20)]
        start = trio.current_time()
        await output.send("nobody waits")
        await clients[0].wait_messages(1)
        assert output.statistics().confirmed == 0
        while output.statistics().confirmed == 0:
            await trio.sleep(0.125)
        assert trio.current_time() - start == 1.125
        await output.send("flush waits")
        await output.flush()
        receipt = await output.submit("its receipt waits")
        await receipt.wait()
        assert trio.current_time() - start == 1.125
        await trio.sleep(20)
        assert output.statistics().peers == 20
    assert {len(client.messages) for client in clients} == {3}


async def test_delivery_acked_waits_for_every_peers_application(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(delivery={"level": "acked", "stamp": "seq"})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        first, second = await listener.connect(), await listener.connect()
        receipts = [await output.submit({"n": n}) for n in range(3)]
        await first.wait_messages(3)
        await second.wait_messages(3)
        await first.send(json.dumps({"ack": json.loads(first.messages[2])["seq"]}))
        await trio.sleep(1)
        assert not receipts[0].settled
        await second.send(json.dumps({"ack": json.loads(second.messages[1])["seq"]}))
        await receipts[1].wait()
        assert not receipts[2].settled
        await second.send('{"ack": "nothing"}')
        await second.send(json.dumps({"ack": json.loads(second.messages[2])["seq"]}))
        await receipts[2].wait()
        assert output.statistics().unknown_acks == 1


async def test_unconfirmed_in_flight_is_bounded_and_a_peer_that_never_confirms_is_cut_after_retry_timeout(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(delivery={"max-unconfirmed": 2}, retry={"timeout": "3s"})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        client = await listener.connect()
        client.pong_after = None
        receipts = [await output.submit(str(n)) for n in range(4)]
        await client.wait_ended()
        assert client.messages == ["0", "1"]
        assert client.ended_at == 3
        for receipt in receipts:
            await receipt.wait()  # it is gone
        assert trio.current_time() == 3


# -- slow peers -----------------------------------------------------------------------------------------


async def test_slow_peer_wait_makes_the_sender_wait_and_then_closes_the_peer(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(server={"send-buffer-capacity": 4, "slow-peer-timeout": "5s"})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        good = await listener.connect(buffered=False)
        slow = await listener.connect(buffered=False)
        await output.wait_peers(2)
        slow.stop_reading()
        for n in range(600):
            await output.send(str(n))
        assert trio.current_time() == 5
        await good.wait_messages(600)
        assert good.messages == [str(n) for n in range(600)]
        assert output.statistics().listener.expelled == 1
        slow.resume_reading()
        await slow.wait_closed()
        assert slow.close_code == 1013
        assert slow.messages == [str(n) for n in range(len(slow.messages))]
        await trio.sleep(0.001)
        assert output.statistics().peers == 1


async def test_slow_peer_wait_goes_on_when_the_peer_reads_in_time(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(server={"send-buffer-capacity": 4})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output, trio.open_nursery() as nursery:
        slow = await listener.connect(buffered=False)
        await output.wait_peers(1)
        slow.stop_reading()

        async def read_on() -> None:
            await trio.sleep(4.5)
            slow.resume_reading()

        nursery.start_soon(read_on)
        for n in range(600):
            await output.send(str(n))
        await slow.wait_messages(600)
        assert trio.current_time() == 4.5
        assert slow.messages == [str(n) for n in range(600)]
        assert output.statistics().listener.expelled == 0


async def test_slow_peer_disconnect_closes_it_at_once(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(server={"send-buffer-capacity": 4, "slow-peer": "disconnect"})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        good = await listener.connect()
        slow = await listener.connect(buffered=False)
        await output.wait_peers(2)
        slow.stop_reading()
        for n in range(600):
            await output.send(str(n))
        await good.wait_messages(600)
        assert trio.current_time() == 0
        assert good.messages == [str(n) for n in range(600)]
        assert output.statistics().listener.expelled == 1
        await trio.sleep(5.001)
        assert output.statistics().peers == 1  # the time for saying goodbye is over, too
        slow.resume_reading()
        await slow.wait_ended()
        assert slow.close_code is None


async def test_slow_peer_drop_oldest_costs_only_that_peer_and_tells_it(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(server={"send-buffer-capacity": 4, "slow-peer": "drop-oldest"}, delivery={"stamp": "seq"})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        good = await listener.connect()
        slow = await listener.connect(buffered=False)
        await output.wait_peers(2)
        slow.stop_reading()
        for n in range(600):
            await output.send({"n": n})
        await good.wait_messages(600)
        assert [json.loads(each)["n"] for each in good.messages] == list(range(600))
        assert trio.current_time() == 0
        slow.resume_reading()
        await output.flush()
        while json.loads(slow.messages[-1]).get("n") != 599:
            await slow.wait_messages(len(slow.messages) + 1)
        lost = output.statistics().listener.lost_by_slow
        got = [json.loads(each) for each in slow.messages]
    stamps = {each["n"]: each["seq"] for each in map(json.loads, good.messages)}
    numbers = [each.get("n") for each in got]
    gaps = [at for at, number in enumerate(numbers) if number is None]
    assert gaps
    for at in gaps:
        asked, first = stamps[numbers[at - 1]], stamps[numbers[at + 1]]
        assert got[at] == {"gap": {"asked": asked, "first": first}}
    kept = [number for number in numbers if number is not None]
    assert kept == sorted(set(kept))
    assert kept[-4:] == [596, 597, 598, 599]
    assert [b for a, b in itertools.pairwise(kept) if b != a + 1] == [numbers[at + 1] for at in gaps]
    assert lost == 600 - len(kept)


async def test_a_burst_is_no_reason_to_call_a_quick_peer_slow(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    for policy in ("disconnect", "drop-oldest"):
        fields = config(server={"send-buffer-capacity": 1, "slow-peer": policy})
        async with trio.open_nursery() as nursery:
            from_memory = type(listener)(nursery)
            async with trio_wsout.open_output(fields, listeners=[from_memory]) as output:
                client = await from_memory.connect()
                await output.wait_peers(1)
                for n in range(200):
                    await output.send(str(n))
                await output.flush()
                assert client.messages == [str(n) for n in range(200)]


# -- time -----------------------------------------------------------------------------------------------


async def test_idle_timeout_is_about_messages_not_pings(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(server={"idle-timeout": "60s"}, heartbeat={"ping-interval": "20s"})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        client, talks = await listener.connect(), await listener.connect()
        await trio.sleep(30)
        await output.send("x")
        await trio.sleep(30)
        await talks.send("still here")
        await client.wait_closed()
        assert (client.close_code, client.closed_at) == (1001, 90)
        await talks.wait_closed()
        assert (talks.close_code, talks.closed_at) == (1001, 120)
        assert client.pings


# -- admission ----------------------------------------------------------------------------------------------


async def test_places_are_limited_and_given_back(listener: MemoryListener, autojump_clock: MockClock) -> None:
    fields = config(server={"max-connections": 1})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        first = await listener.connect()
        second = await listener.connect()
        assert (second.status, second.headers["retry-after"]) == (503, "1")
        await first.stream.aclose()
        await trio.sleep(0.1)
        third = await listener.connect()
        assert third.status == 101
        assert output.statistics().listener.refused == 1


async def test_authenticate_admits_denies_raises_and_hangs(
    listener: MemoryListener, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[trio_wsout.Handshake] = []

    async def authenticate(handshake: trio_wsout.Handshake) -> Any:
        seen.append(handshake)
        match handshake.query:
            case "token=good":
                return trio_wsout.Admit(identity="ann")
            case "token=bad":
                return trio_wsout.Deny(status=403, reason="wrong token")
            case "token=raise":
                raise KeyError("secret")
            case "token=hang":
                await trio.sleep_forever()
        return None

    async with trio_wsout.open_output(config(), listeners=[listener], authenticate=authenticate) as output:
        assert (await listener.connect("/x?token=good")).status == 101
        assert (await listener.connect("/x?token=bad")).status == 403
        assert (await listener.connect("/x?token=raise")).status == 500
        assert (await listener.connect("/x")).status == 500
        hanging = listener.dial()
        await hanging.send_all(
            b"GET /?token=hang HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        before = trio.current_time()
        assert await hanging.receive_some() == b""
        assert trio.current_time() == before + 10
        assert output.statistics().peers == 1
    assert seen[0].path == "/x"
    assert "token" not in repr(seen[0])


async def test_the_subprotocol_is_the_first_of_ours_that_is_offered(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(subprotocols=["b", "a"]), listeners=[listener]):
        assert (await listener.connect(subprotocols=["a", "b"])).subprotocol == "b"
        assert (await listener.connect(subprotocols=["c"])).subprotocol is None


async def test_plain_http_is_answered(listener: MemoryListener, autojump_clock: MockClock) -> None:
    async def ask(request: bytes) -> bytes:
        stream = listener.dial()
        await stream.send_all(request)
        answer = b""
        while chunk := await stream.receive_some():
            answer += chunk
        return answer

    async with trio_wsout.open_output(config(server={"path": "/feed"}), listeners=[listener]):
        healthy = await ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert healthy.startswith(b"HTTP/1.1 200 OK\r\n")
        assert healthy.endswith(b"\r\n\r\nok\n")
        assert (await ask(b"GET /feed HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(
            b"HTTP/1.1 426 Upgrade Required\r\n"
        )
        assert (await ask(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(
            b"HTTP/1.1 404 Not Found\r\n"
        )
        assert (await ask(b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 Bad Request\r\n")


# -- the end --------------------------------------------------------------------------------------------------


async def test_what_is_not_confirmed_within_shutdown_timeout_is_raised(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    with pytest.raises(trio_wsout.DeliveryError) as caught:
        async with trio_wsout.open_output(
            {**config(), "shutdown-timeout": "2s"}, listeners=[listener]
        ) as output:
            client = await listener.connect()
            client.pong_after = None
            await output.send({"n": 1})
    assert trio.current_time() == 1.8, "a tenth of the time is for Closes"
    assert client.close_code == 1001
    assert [each.event for each in caught.value.undelivered] == [{"n": 1}]
    assert "1 peer connected" in str(caught.value)


@pytest.mark.parametrize("history", [None, {"store": "memory:"}])
async def test_at_the_end_nobody_waits_for_a_peer_that_is_stalled(
    listener: MemoryListener, autojump_clock: MockClock, history: dict[str, str] | None
) -> None:
    fields = config() if history is None else config(history=history)
    with pytest.raises(trio_wsout.DeliveryError) as caught:
        async with trio_wsout.open_output(fields, listeners=[listener]) as output:
            stalled = await listener.connect(buffered=False)
            stalled.stop_reading()
            deaf = await listener.connect()
            deaf.pong_after = None
            others = [await listener.connect() for _ in range(10)]
            for n in range(5):
                await output.send({"n": n})
    assert [each.event for each in caught.value.undelivered] == [{"n": n} for n in range(5)]
    assert "2 peers connected, 5 messages open" in caught.value.undelivered[0].reason
    for client in others:
        assert [json.loads(each)["n"] for each in client.messages] == list(range(5))
        assert (client.close_code, client.closed_at) == (1001, 0)
    assert (deaf.close_code, deaf.closed_at) == (1001, 9)
    assert (stalled.close_code, trio.current_time()) == (None, 10)
    assert output.statistics().confirmed == 0


async def test_who_comes_in_as_the_output_ends_is_told_at_once(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async def hesitate(_: trio_wsout.Handshake) -> trio_wsout.Admit:
        await trio.sleep(2)
        return trio_wsout.Admit()

    async with trio_wsout.open_output(config(), listeners=[listener], authenticate=hesitate) as output:
        first = await listener.connect()
        first.answer_close = False
        late = await listener.knock()
        await trio.sleep(1)
        await output.send("x")
    assert trio.current_time() == 8, "the first peer had five seconds, and nobody made it longer"
    assert (late.close_code, late.closed_at) == (1001, 4)


async def test_cancelling_ends_at_once(listener: MemoryListener, autojump_clock: MockClock) -> None:
    with trio.move_on_after(1):
        async with trio_wsout.open_output(config(), listeners=[listener]):
            client = await listener.connect()
            await trio.sleep_forever()
    assert trio.current_time() == 1
    await client.wait_ended()


async def test_closing_and_sending_again_is_an_error(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(), listeners=[listener]) as output:
        with pytest.raises(RuntimeError, match="receive=True"):
            _ = output.received
        await output.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await output.send("x")


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: memory\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TOO_BIG = b"\x81\x8b\0\0\0\0" + b"x" * 11
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"


def opcodes(data: bytes) -> list[int]:
    """Of the frames behind an answer to a handshake, each shorter than 126 bytes."""
    frames = data.partition(b"\r\n\r\n")[2]
    found = []
    while frames:
        found.append(frames[0] & 0xF)
        frames = frames[2 + frames[1] :]
    return found


@pytest.mark.parametrize("last", [TOO_BIG, CLOSE, b"\x81\x01a", TOO_BIG + CLOSE, CLOSE + TOO_BIG])
async def test_one_close_is_said_and_nothing_behind_it(
    listener: MemoryListener, autojump_clock: MockClock, last: bytes
) -> None:
    ping = b"\x89\x80\0\0\0\0"

    async def go_on(output: trio_wsout.Output) -> None:
        for n in range(40):
            await output.send({"n": n})

    async with trio_wsout.open_output({**config(), "max-message-size": 10}, listeners=[listener]) as output:
        for _ in range(20):  # the order in which tasks run is random
            stream = listener.dial()
            await stream.send_all(HANDSHAKE)
            data = await stream.receive_some()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_on, output)
                nursery.start_soon(stream.send_all, ping * 3 + last)
                data += b"".join([chunk async for chunk in stream])
            assert opcodes(data).count(0x8) == 1
            assert opcodes(data)[-1] == 0x8


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_a_peer_that_says_close_as_we_do_is_not_waited_for(
    nursery: trio.Nursery, listener: MemoryListener, autojump_clock: MockClock, before: int
) -> None:
    for _ in range(5):  # the order in which tasks run is random
        from_memory = type(listener)(nursery)
        async with trio_wsout.open_output(config(), listeners=[from_memory]):
            streams = [from_memory.dial() for _ in range(5)]
            for stream in streams:
                await stream.send_all(HANDSHAKE)
            answers = [await stream.receive_some() for stream in streams]
            for stream in streams:
                await stream.send_all(CLOSE)
            for _ in range(before):
                await trio.lowlevel.checkpoint()
        for answer, stream in zip(answers, streams, strict=True):
            assert opcodes(answer + b"".join([chunk async for chunk in stream])) == [0x8]
    assert trio.current_time() == 0


@pytest.mark.parametrize("behind", [b"", b"\x81\x81\0\0\0\0a"])
async def test_a_message_has_at_most_1024_fragments(
    listener: MemoryListener, autojump_clock: MockClock, behind: bytes
) -> None:
    first, more, last = b"\x01\x80\0\0\0\0", b"\x00\x80\0\0\0\0", b"\x80\x80\0\0\0\0"
    async with trio_wsout.open_output(config(mode="server-input"), listeners=[listener]) as output:
        client = await listener.connect()
        await client.stream.send_all(first + more * 1022 + last)
        assert (await output.received.receive()).event == ""
        await client.stream.send_all(first + more * 1023 + last + behind)
        await client.wait_closed()
        assert client.close_code == 1009


# -- batches and history ----------------------------------------------------------------------------------------


async def test_batches_go_to_peers_as_one_message(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(batch={"mode": "fixed", "fixed-size": 3, "timeout": "1s", "wrap-as-json": True})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        client = await listener.connect()
        for n in range(4):
            await output.send({"n": n})
        await client.wait_messages(2)
        assert trio.current_time() == 1
        assert client.messages == ['[{"n":0},{"n":1},{"n":2}]', '[{"n":3}]']
        await output.flush()
        assert (output.statistics().written, output.statistics().written_messages) == (4, 2)


RESUMING = {
    "history": {"store": "memory:", "max-events": 5},
    "cursor": {"query-parameter": "c", "header-name": "Last-Event-ID"},
    "delivery": {"stamp": "s"},
}


async def test_resume_gives_exactly_what_follows_the_cursor(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(**RESUMING), listeners=[listener]) as output:
        first = await listener.connect()
        for n in range(5):
            await output.send({"n": n})
        await first.wait_messages(5)
        cursor = json.loads(first.messages[2])["s"]
        again = await listener.connect(headers=[("Last-Event-ID", cursor)])
        assert again.headers["resume-status"] == "resumed"
        await again.wait_messages(2)
        await output.send({"n": 5})
        await again.wait_messages(3)
        assert [json.loads(each)["n"] for each in again.messages] == [3, 4, 5]
        figures = output.statistics()
        assert (figures.history.events, figures.history.replayed) == (5, 2)
        assert (figures.written, figures.written_messages) == (9, 9)


@pytest.mark.parametrize("cursor", ["nonsense", "1-1", "tooold"])
async def test_an_unknown_cursor_meets_an_explicit_gap(
    listener: MemoryListener, autojump_clock: MockClock, cursor: str
) -> None:
    async with trio_wsout.open_output(config(**RESUMING), listeners=[listener]) as output:
        first = await listener.connect()
        for n in range(7):
            await output.send({"n": n})
        await first.wait_messages(7)
        asked = json.loads(first.messages[0])["s"] if cursor == "tooold" else cursor
        again = await listener.connect(f"/?c={asked}")
        assert again.headers["resume-status"] == "gap"
        await again.wait_messages(6)
        got = [json.loads(each) for each in again.messages]
        assert got[0] == {"gap": {"asked": asked, "first": json.loads(first.messages[2])["s"]}}
        assert [each["n"] for each in got[1:]] == [2, 3, 4, 5, 6]


async def test_the_last_event_that_left_the_history_is_no_gap(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(**RESUMING), listeners=[listener]) as output:
        first = await listener.connect()
        for n in range(7):
            await output.send({"n": n})
        await first.wait_messages(7)
        cursor = json.loads(first.messages[1])["s"]
        again = await listener.connect(f"/?c={cursor}")
        assert again.headers["resume-status"] == "resumed"
        await again.wait_messages(5)
        assert [json.loads(each)["n"] for each in again.messages] == [2, 3, 4, 5, 6]


async def test_a_history_that_fails_breaks_the_output_with_what_was_not_kept(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    class Full(MemoryLog):
        async def append(self, run: Any, settled: int = 0) -> Any:
            await trio.lowlevel.checkpoint()
            raise trio_wsout.HistoryError("history: the disk is full")

    fields = config(history={"store": "memory:"})
    with pytest.raises(trio_wsout.HistoryError, match="disk is full") as caught:
        async with trio_wsout.open_output(fields, listeners=[listener], history=Full(History())) as output:
            client = await listener.connect()
            await output.send({"n": 1})
            with pytest.raises(trio.BrokenResourceError):
                await output.flush()
    assert [each.event for each in caught.value.undelivered] == [{"n": 1}]
    assert client.messages == []


class Unreadable(MemoryLog):
    async def find(self, cursor: str) -> int | None:
        await trio.lowlevel.checkpoint()
        raise trio_wsout.HistoryError("the disk is gone; bring it back")


async def test_a_history_that_cannot_be_read_is_503_for_who_resumes_and_nobody_else(
    listener: MemoryListener, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Unreadable(History())
    async with trio_wsout.open_output(config(**RESUMING), listeners=[listener], history=store) as output:
        bystander = await listener.connect()
        client = await listener.connect("/?c=1-1")
        assert (client.status, client.headers["retry-after"]) == (503, "1")
        await output.send("x")
        await bystander.wait_messages(1)
        assert (output.statistics().listener.refused, output.statistics().peers) == (1, 1)
    assert "a peer that wants to resume was refused with 503: the disk is gone" in caplog.text


@pytest.mark.parametrize(
    ("fields", "arguments", "path"),
    [
        ({"url": "ws://h/"}, {"listeners": []}, "server"),
        ({"url": "ws://h/"}, {"authenticate": lambda _: None}, "server"),
        (config(), {"history": MemoryLog(History())}, "history"),
    ],
)
async def test_an_argument_that_would_do_nothing_is_an_error(
    fields: dict[str, Any], arguments: dict[str, Any], path: str
) -> None:
    with pytest.raises(trio_wsout.ConfigError) as caught:
        async with trio_wsout.open_output(fields, **arguments):
            pass
    (problem,) = caught.value.problems
    assert problem.path == path
    assert f"open_output(…, {next(iter(arguments))}=…)" in problem.reason


def test_binding_beyond_this_machine_without_origins_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def main(bind: str) -> None:
        async with trio_wsout.open_output(config(server={"bind": bind})):
            pass

    with caplog.at_level(logging.WARNING, "trio_wsout"):
        trio.run(main, "127.0.0.1:0")
        assert caplog.text == ""
        trio.run(main, "0.0.0.0:0")
        assert "allowed-origins" in caplog.text
