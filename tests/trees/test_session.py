"""What a session does, whichever side dialled: heartbeat, confirmation, reading, closing, at exact times on the mock clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from tests.trees.conftest import LateStream, open_session

if TYPE_CHECKING:
    from trio.testing import MockClock

CLOSES = {"link": 1000, "peer": 1001}
PATIENCE = {"link": 10.0, "peer": 5.0}
"""Seconds that the answer to our Close is waited for: a link within shutdown-timeout, a peer five of them."""


# -- heartbeat --------------------------------------------------------------------------------------------


async def test_who_answers_no_ping_is_cut_in_its_time(role: str, autojump_clock: MockClock) -> None:
    async with open_session(role, heartbeat={"payload": "hb"}) as (output, remote):
        start = trio.current_time()
        remote.pong_after = None
        await remote.wait_ended()
        assert (remote.pings, remote.ping_times) == ([b"hb"], [start + 20])
        assert remote.ended_at == start + 30
        assert remote.close_code is None, "the dead are cut, and told nothing"
        await trio.sleep(0.25)
        assert (output.statistics().heartbeat_misses, output.statistics().peers) == (1, 0)


async def test_misses_that_are_only_logged_cost_nothing_and_count_while_they_happen(
    role: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_session(role, heartbeat={"action": "log-only"}) as (output, remote):
        remote.pong_after = None
        await trio.sleep(61)
        assert remote.ended_at is None
        assert output.statistics().heartbeat_misses == 2
        await remote.cut()
        await trio.sleep(0.25)
        assert output.statistics().heartbeat_misses == 2
    # Peers, of which there may be many, share a line for what follows within a minute.
    lines = [record.levelname for record in caplog.records if "sign of life" in record.message]
    assert lines == ["WARNING"] * 2


async def test_life_that_is_no_pong_brings_the_next_ping_nearer(role: str, autojump_clock: MockClock) -> None:
    async with open_session(role, heartbeat={"ping-interval": "5s", "timeout": "60s"}) as (_, remote):
        start = trio.current_time()
        remote.pong_after = None
        await trio.sleep(7)
        await remote.send("alive")
        await remote.wait_ended()
        assert remote.ended_at == start + 7 + 5 + 60


async def test_with_heartbeat_none_nobody_is_pinged_or_missed(role: str, autojump_clock: MockClock) -> None:
    async with open_session(role, heartbeat="none") as (output, remote):
        remote.stop_reading()
        await trio.sleep(80_000)
        assert remote.ended_at is None
        remote.resume_reading()
        await output.send("x")
        await output.flush()
        await trio.sleep(80_000)
        assert len(remote.pings) == 1, "of the message"
        assert output.statistics().heartbeat_misses == 0


async def test_the_payload_of_idle_pings_is_the_configured_one(role: str, autojump_clock: MockClock) -> None:
    heartbeat = {"ping-interval": "10s", "payload": "are you there?"}
    async with open_session(role, heartbeat=heartbeat) as (output, remote):
        await trio.sleep(35)
        assert remote.pings == [b"are you there?"] * 3
        await output.send("x")
        await output.flush()
        assert remote.pings[3:] == [b"are you there? 1"]
        await trio.sleep(25)
        assert remote.pings[4:] == [b"are you there?"] * 2


async def test_an_application_that_takes_nothing_never_makes_a_live_peer_look_dead(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role, receive=True, payload="text") as (output, remote):
        for number in range(1000):
            await remote.send(str(number))
        await output.send("x")
        await trio.sleep(3600)
        assert remote.ended_at is None
        assert output.statistics().heartbeat_misses == 0
        got = [(await output.received.receive()).event for _ in range(1000)]
        assert got == [str(number) for number in range(1000)]
        await output.flush()


async def test_an_application_that_takes_again_has_a_heartbeat_again(
    role: str, autojump_clock: MockClock
) -> None:
    heartbeat = {"ping-interval": 10, "timeout": 5}
    async with open_session(role, receive=True, heartbeat=heartbeat) as (output, remote):
        for number in range(300):
            await remote.send(str(number))
        await trio.sleep(100)
        assert remote.pings == []
        for _ in range(300):
            await output.received.receive()
        taken = trio.current_time()
        await trio.sleep(21)
        assert remote.ping_times == [taken + 10, taken + 20]
        remote.pong_after = None
        await remote.wait_ended()
        assert remote.ended_at == taken + 35


# -- confirmation -----------------------------------------------------------------------------------------


async def test_a_message_without_confirmation_costs_the_connection_at_retry_timeout(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role, heartbeat="none", retry={"timeout": "3s"}) as (output, remote):
        remote.pong_after = None
        start = trio.current_time()
        await output.send("x")
        await trio.sleep(1)
        await output.send("y")
        await remote.wait_ended()
        assert remote.ended_at == start + 3
        assert remote.messages == ["x", "y"]
        await output.flush()  # over the next connection of a link; with a peer that is gone it is settled


async def test_a_peer_that_takes_nothing_of_one_message_is_cut_at_retry_timeout(
    role: str, autojump_clock: MockClock
) -> None:
    fields = {"heartbeat": "none", "retry": {"timeout": "3s"}}
    async with open_session(role, buffered=False, **fields) as (output, remote):
        remote.stop_reading()
        start = trio.current_time()
        for text in "xy":  # the first is on its way into the peer, which has begun to read
            await output.send(text)
        await trio.sleep_until(start + 3 - 0.001)
        assert output.statistics().peers == 1
        await trio.sleep(0.002)
        assert output.statistics().peers == 0


async def test_a_pong_that_is_read_before_the_write_has_returned_confirms(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role, through=LateStream, heartbeat="none") as (output, _):
        await trio.sleep(5)
        receipt = await output.submit("x")
        start = trio.current_time()
        await receipt.wait()
        assert trio.current_time() == start
        await output.flush()
        assert (output.statistics().confirmed, output.statistics().unconfirmed) == (1, 0)


async def test_a_pong_to_a_periodic_ping_does_not_confirm_what_was_written_behind_it(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role, heartbeat={"payload": "hb"}) as (output, remote):
        remote.pong_after = None
        await trio.sleep(21)
        assert len(remote.pings) == 1
        await output.send("x")
        await remote.wait_messages(1)
        await remote.pong(b"hb")
        await trio.sleep(1)
        assert output.statistics().unconfirmed == 1
        await remote.pong(b"hb 1")
        await trio.sleep(1)
        assert output.statistics().unconfirmed == 0


async def test_delivery_written_needs_no_answer(role: str, autojump_clock: MockClock) -> None:
    async with open_session(role, delivery={"level": "written"}) as (output, remote):
        remote.pong_after = None
        receipt = await output.submit("x")
        await receipt.wait()
        assert remote.pings == []


async def test_acknowledgements_confirm_by_sequence_number_and_by_stamp(
    role: str, autojump_clock: MockClock
) -> None:
    delivery = {"level": "acked", "stamp": "seq"}
    async with open_session(role, delivery=delivery, payload="json") as (output, remote):
        receipts = [await output.submit({}) for _ in range(3)]
        await remote.wait_messages(3)
        await remote.send('{"ack": 2}')
        await receipts[1].wait()
        assert [each.settled for each in receipts] == [True, True, False]
        await remote.send('{"ack": 99}')
        await remote.send(json.dumps({"ack": json.loads(remote.messages[2])["seq"]}))
        await receipts[2].wait()
        assert output.statistics().unknown_acks == 1


async def test_what_is_in_flight_is_bounded(role: str, autojump_clock: MockClock) -> None:
    async with open_session(role, delivery={"max-unconfirmed": 2}) as (output, remote):
        remote.pong_after = None
        for number in range(4):
            await output.send(str(number))
        await trio.sleep(1)
        assert remote.messages == ["0", "1"]
        remote.pong_after = 0.0
        for ping in remote.pings:
            await remote.pong(ping)
        await output.flush()
        assert remote.messages == ["0", "1", "2", "3"]


# -- reading ----------------------------------------------------------------------------------------------


async def test_pings_of_the_peer_are_answered(role: str, autojump_clock: MockClock) -> None:
    async with open_session(role) as (output, remote):
        for payload in (b"first", b"", b"x" * 125):
            await remote.send("before")
            await remote.ping(payload)
        await trio.testing.wait_all_tasks_blocked()
        assert remote.pongs == [b"first", b"", b"x" * 125]
        assert output.statistics().received == 3


async def test_a_ping_is_answered_when_the_application_has_room_for_all_before_it(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role, receive=True) as (output, remote):
        start = trio.current_time()
        for number in range(300):
            await remote.send(str(number))
        await remote.ping(b"behind 300")
        await trio.sleep(5)
        assert remote.pongs == []
        for _ in range(300):
            await output.received.receive()
        await trio.sleep(1)
        assert (remote.pongs, remote.pong_times) == ([b"behind 300"], [start + 5])


async def test_a_peer_that_floods_with_pings_and_does_not_read_is_cut(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role, buffered=False) as (output, remote):
        remote.stop_reading()
        ping = b"\x89\xfd\0\0\0\0" if role == "peer" else b"\x89\x7d"
        with pytest.raises(trio.BrokenResourceError):
            await remote.send_raw((ping + bytes(125)) * 2000)
        await trio.sleep(0.25)
        assert output.statistics().peers == 0
        assert role == "peer" or "does not read" in (output.statistics().link.last_error or "")


async def test_messages_before_a_close_still_reach_the_application(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role, receive=True) as (output, remote):
        for number in range(5):
            await remote.send(str(number))
        await remote.close(1001, "going")
        await trio.sleep(0.25)
        assert [output.received.receive_nowait().event for _ in range(5)] == list("01234")
        assert output.statistics().peers == 0
        assert role == "peer" or "1001" in (output.statistics().link.last_error or "")


async def test_messages_before_a_close_reach_an_application_that_comes_late(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role, receive=True) as (output, remote):
        for number in range(300):
            await remote.send(str(number))
        await remote.close(1000)
        await trio.sleep(60)
        assert [(await output.received.receive()).event for _ in range(300)] == [*map(str, range(300))]
        await remote.wait_closed()
        assert remote.close_code == 1000


# -- closing ----------------------------------------------------------------------------------------------


async def test_a_peer_that_closes_is_answered(role: str, autojump_clock: MockClock) -> None:
    for code in range(3000, 3020):  # the order in which tasks run is random
        async with open_session(role) as (_, remote):
            start = trio.current_time()
            await remote.close(code)
            await remote.wait_ended()
            assert (remote.close_code, remote.ended_at) == (code, start)


async def test_the_end_is_a_close_with_its_code_and_who_answers_is_waited_for(
    role: str, autojump_clock: MockClock
) -> None:
    async with open_session(role) as (output, remote):
        await output.send("x")
        start = trio.current_time()
    assert (remote.close_code, remote.messages) == (CLOSES[role], ["x"])
    assert (remote.ended_at, trio.current_time()) == (start, start)


async def test_who_does_not_answer_the_close_is_cut_in_time(role: str, autojump_clock: MockClock) -> None:
    async with open_session(role) as (output, remote):
        remote.answer_close = False
        await output.send("x")
        await output.flush()
        start = trio.current_time()
    assert (remote.close_code, remote.closed_at) == (CLOSES[role], start)
    assert trio.current_time() == start + PATIENCE[role]
    assert output.statistics().confirmed == 1


BROKEN = {
    "opcode": ("8300", "838000000000", 1002, "a frame with the unknown opcode 3"),
    "reserved bit": ("c100", "c18000000000", 1002, "a reserved bit, for which no extension was agreed on"),
    "too large": ("810b" + "00" * 11, "818b" + "00" * 15, 1009, "a message of more than max-message-size"),
    "no mask": (None, "810161", 1002, "a frame without a mask"),
    "mask": ("81810000000061", None, 1002, "a frame with a mask"),
}
"""Bytes for a link, bytes for a listener; and what the sender of them hears."""


@pytest.mark.parametrize("how", BROKEN)
async def test_a_peer_that_breaks_the_protocol_hears_why_and_is_left(
    role: str, how: str, autojump_clock: MockClock
) -> None:
    to_link, to_listener, code, reason = BROKEN[how]
    data = to_link if role == "link" else to_listener
    if data is None:
        return  # this is how the frames of that side are
    for _ in range(20):  # the order in which tasks run is random
        async with open_session(role, **{"max-message-size": 10}) as (output, remote):
            await remote.send_raw(bytes.fromhex(data))
            await remote.wait_ended()
            assert (remote.close_code, remote.close_reason) == (code, reason)
            await trio.sleep(0.25)
            assert output.statistics().peers == 0
            assert role == "peer" or reason in (output.statistics().link.last_error or "")
