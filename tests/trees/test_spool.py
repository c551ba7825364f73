"""A client with a spool on the mock clock: a store of the test's own says how long writing takes, and when it is full."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from tests.trees.disk import Disk
from trio_wsout.config import Config
from trio_wsout.errors import SpoolError
from trio_wsout.stores.log import LogFullError
from trio_wsout.testing import Accept, Refuse, Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout.stores.log import Entry, Extent


def config(**fields: Any) -> Config:
    fields.setdefault("spool", {"path": "/spool"})
    return trio_wsout.load_config({"url": "ws://peer.test/", **fields})


def balanced(output: trio_wsout.Output) -> None:
    now = output.statistics()
    assert now.accepted == now.confirmed + now.undelivered + now.unconfirmed


async def test_send_returns_when_its_group_is_on_disk_and_a_group_is_all_that_waits(
    autojump_clock: object,
) -> None:
    disk, times = Disk(), list[float]()
    async with open_peer() as peer:
        start = trio.current_time()

        async def post(after: float) -> None:
            await trio.sleep(after)
            await output.send({"after": after})
            times.append(trio.current_time() - start)

        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output:
            async with trio.open_nursery() as nursery:
                for after in (0.0, 0.25, 0.5, 0.75, 1.5):
                    nursery.start_soon(post, after)
        assert times == [1.0, 2.0, 2.0, 2.0, 3.0]
        assert [count for _, count, _ in disk.groups if count] == [1, 3, 1]
        assert [json.loads(each)["after"] for each in peer.messages] == [0.0, 0.25, 0.5, 0.75, 1.5]
        assert disk.groups[-1][2] == 5, "the graceful end tells that all is settled"
        assert disk.closed
        balanced(output)


async def test_settled_events_are_told_within_100_ms_or_with_the_next_group(autojump_clock: object) -> None:
    disk = Disk(takes=0)
    async with (
        open_peer() as peer,
        trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output,
    ):
        await output.send(1)
        await output.flush()
        confirmed = trio.current_time()
        assert output.statistics().spool.events == 0
        await trio.sleep(1)
        assert disk.groups[1:] == [(pytest.approx(confirmed + 0.1), 0, 1)]
        await output.send(2)
        await output.flush()
        await output.send(3)
        assert [(count, settled) for _, count, settled in disk.groups[2:]] == [(1, 1), (1, 2)]


async def test_a_send_that_is_cancelled_before_its_group_began_was_not_accepted(
    autojump_clock: object,
) -> None:
    disk = Disk()
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(output.send, "first")
                await trio.sleep(0.1)
                with trio.move_on_after(0.5) as scope:
                    await output.send("never")
                assert scope.cancelled_caught
                assert trio.current_time() == 0.6
            await output.send("last")
        assert peer.messages == ["first", "last"]
        assert output.statistics().accepted == 2


async def test_a_send_that_is_cancelled_while_its_group_is_written_was_accepted(
    autojump_clock: object,
) -> None:
    disk = Disk()
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output:
            with trio.move_on_after(0.5) as scope:
                await output.send("first")
            assert (trio.current_time(), scope.cancelled_caught) == (1.0, False)
            balanced(output)
        assert peer.messages == ["first"]
        assert (output.statistics().accepted, output.statistics().confirmed) == (1, 1)


async def test_a_send_that_is_cancelled_while_its_group_finds_no_room_was_not_accepted(
    autojump_clock: object,
) -> None:
    disk = Disk()
    disk.room = 0
    async with (
        open_peer() as peer,
        trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output,
    ):
        with trio.move_on_after(0.5) as scope:
            await output.send("never")
        assert (trio.current_time(), scope.cancelled_caught) == (1.0, True)
        assert output.statistics().spool.waits is None, "nobody waits any more"
        with trio.move_on_after(1.5) as scope:
            await output.send("never")
        assert scope.cancelled_caught
        disk.room = None
        await output.send("later")
        await output.flush()
        assert peer.messages == ["later"]


async def test_send_waits_while_there_is_no_room_and_goes_on_when_something_is_settled(
    autojump_clock: object,
) -> None:
    disk = Disk(takes=0)
    tight = config(spool={"path": "/spool", "max-bytes": 1150}, **{"max-message-size": 60})
    async with open_peer() as peer:
        peer.plan(Accept(after=5.0))
        async with trio_wsout.open_output(tight, open_stream=peer.open_stream, spool=disk) as output:
            for number in range(17):
                await output.send(number)
            with trio.move_on_after(2) as scope:
                await output.send("never")
            assert scope.cancelled_caught

            async with trio.open_nursery() as nursery:
                nursery.start_soon(output.send, 17)
                await trio.sleep(1)
                assert output.statistics().spool.waits == "spool.max-bytes is reached"
            assert 5.0 <= trio.current_time() <= 5.1
            assert output.statistics().spool.waits is None
        assert peer.messages == list(map(str, range(18)))


async def test_what_an_earlier_life_left_goes_first_then_what_is_new(autojump_clock: object) -> None:
    disk = Disk(events=list(range(1000)), settled=300)
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output:
            assert (output.statistics().accepted, output.statistics().spool.events) == (700, 700)
            balanced(output)
            await output.send("new")
        assert peer.messages == [*map(str, range(300, 1000)), "new"]
        now = output.statistics()
        assert (now.accepted, now.confirmed, now.spool.events) == (701, 701, 0)


async def test_a_peer_that_is_away_costs_disk_and_not_memory(autojump_clock: object) -> None:
    disk = Disk(takes=0)
    small = config(delivery={"max-unconfirmed": 10}, batch={"mode": "document", "fixed-size": 10})
    async with open_peer() as peer:
        peer.plan(*[Unreachable()] * 8)
        async with trio_wsout.open_output(small, open_stream=peer.open_stream, spool=disk) as output:
            receipts = []
            for number in range(5000):
                await output.send(number)
                if number % 1000 == 999:
                    receipts.append(await output.submit(f"receipt {number}"))
                    await output.end_document()
            assert output.statistics().spool.events == 5005
            balanced(output)
            for receipt in receipts:
                await receipt.wait()
            assert output.statistics().spool.events == 0
            await output.send("after")
        lines = [line for message in peer.messages for line in message.split("\n")]
        assert len(lines) == 5006
        assert [line for line in lines if line.isdigit()] == list(map(str, range(5000)))
        ends = [message.split("\n")[-1] for message in peer.messages]
        assert [end for end in ends if end.startswith("receipt")] == [
            f"receipt {number}" for number in range(999, 5000, 1000)
        ]
        assert disk.read >= set(range(1200, 5005)), "1024 events, and those being sent, were kept in memory"


async def test_acknowledged_events_leave(autojump_clock: object) -> None:
    disk = Disk(takes=0, events=[{"n": 0}, {"n": 1}])
    acked = config(delivery={"level": "acked", "stamp": "seq"})
    async with open_peer() as peer:
        async with trio_wsout.open_output(acked, open_stream=peer.open_stream, spool=disk) as output:
            await output.send({"n": 2})
            await peer.wait_messages(3)
            stamps = [json.loads(each)["seq"] for each in peer.messages]
            assert stamps == ["9-1", "9-2", "9-3"], "as they were in the earlier life"
            await peer.send(json.dumps({"ack": stamps[1]}))
            await trio.sleep(0.5)
            assert (output.statistics().spool.events, disk.settled) == (1, 2)
            await peer.send(json.dumps({"ack": stamps[2]}))
            await trio.sleep(0.5)
            assert disk.settled == 3


async def test_what_is_undelivered_leaves_and_what_cannot_be_encoded_any_more_is_undelivered(
    autojump_clock: object,
) -> None:
    disk = Disk(takes=0, events=["aGk=", "no base64", {"an": "object"}, b"bytes"])
    reports, items = trio.open_memory_channel[trio_wsout.Undelivered](10)
    base64 = config(payload="binary-base64")
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            base64, open_stream=peer.open_stream, spool=disk, undelivered=reports
        ) as output:
            await output.send("still no base64")
            await output.flush()
            balanced(output)
        assert peer.messages == [b"hi", b"bytes"]
    found = [items.receive_nowait() for _ in range(3)]
    assert [each.event for each in found] == ["no base64", {"an": "object"}, "still no base64"]
    assert "takes str (base64) or bytes" in found[1].reason
    assert disk.settled == 5


async def test_an_undelivered_event_that_breaks_the_output_leaves_and_the_others_stay(
    autojump_clock: object,
) -> None:
    disk = Disk(takes=0)
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=None, close_after=(1, 1009)), then=Unreachable())
        with pytest.raises(trio_wsout.DeliveryError, match="accepted events? stays? in the spool") as caught:
            async with trio_wsout.open_output(
                config(delivery={"max-unconfirmed": 1}), open_stream=peer.open_stream, spool=disk
            ) as output:
                await output.send("too big")
                await peer.wait_messages(1)
                await output.send("stays")
                await output.wait_connected()
        assert [each.event for each in caught.value.undelivered] == ["too big"]
        assert (disk.settled, disk.count) == (1, 2)
        balanced(output)


async def test_retries_that_ran_out_leave_the_spool(autojump_clock: object) -> None:
    disk = Disk(takes=0)
    reports, items = trio.open_memory_channel[trio_wsout.Undelivered](10)
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=None, cut_after=1))
        async with trio_wsout.open_output(
            config(retry={"retries": 0}), open_stream=peer.open_stream, spool=disk, undelivered=reports
        ) as output:
            await output.send("once")
            await output.flush()
            assert output.statistics().spool.events == 0
        assert items.receive_nowait().event == "once"
        assert disk.settled == 1


async def test_send_nowait_is_accepted_at_once_and_on_disk_a_moment_later(autojump_clock: object) -> None:
    disk = Disk()
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output:
            for number in range(256):
                output.send_nowait(number)
            with pytest.raises(trio.WouldBlock):
                output.send_nowait("no room")
            assert output.statistics().accepted == 256
            assert disk.count == 0
            await trio.sleep(1.5)
            assert disk.count == 256
            output.send_nowait("room")
        assert peer.messages == [*map(str, range(256)), "room"]


async def test_what_never_got_to_disk_is_undelivered_at_the_end(autojump_clock: object) -> None:
    disk = Disk(takes=0)
    disk.room = 1
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with pytest.raises(trio_wsout.DeliveryError, match="1 accepted event not confirmed.*spool") as caught:
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output:
                await output.send("kept")
                output.send_nowait("only in memory")
        assert [each.event for each in caught.value.undelivered] == ["only in memory"]
        assert (disk.count, disk.settled) == (1, 0)
        balanced(output)


@pytest.mark.parametrize("reading", [False, True])
async def test_a_spool_that_fails_breaks_the_output(reading: bool, autojump_clock: object) -> None:
    disk = Disk(takes=0, events=["old"] if reading else [])
    async with open_peer() as peer:
        with pytest.raises(SpoolError, match="the disk is gone"):
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output:
                disk.broken = "spool /spool: the disk is gone"
                if reading:
                    await trio.sleep(1)
                with pytest.raises(trio.BrokenResourceError):
                    await output.send("x")
        assert disk.closed
        balanced(output)


async def test_a_spool_that_lacks_an_event_breaks_the_output(autojump_clock: object) -> None:
    class Lacking(Disk):
        async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
            await trio.lowlevel.checkpoint()
            return []

    async with open_peer() as peer:
        with pytest.raises(SpoolError, match="event 1 is missing"):
            async with trio_wsout.open_output(
                config(), open_stream=peer.open_stream, spool=Lacking(takes=0, events=["old"])
            ):
                await trio.sleep(1)


@pytest.mark.parametrize(("count", "said"), [(1, "1 accepted event was"), (2, "2 accepted events were")])
async def test_of_what_a_spool_that_failed_has_nothing_is_promised(
    count: int, said: str, autojump_clock: object
) -> None:
    disk = Disk(takes=0)
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with pytest.raises(SpoolError, match=f"{said} in the spool at .*; what is still there goes first"):
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output:
                for number in range(count):
                    await output.send(number)
                disk.broken = "spool /spool: it was removed"
                with pytest.raises(trio.BrokenResourceError):
                    await output.send("x")


async def test_a_spool_that_fails_at_the_very_end_is_told(autojump_clock: object) -> None:
    disk = Disk(takes=0)
    async with open_peer() as peer:
        with pytest.raises(SpoolError, match="gone"):
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output:
                await output.send("x")
                await output.flush()
                disk.broken = "gone"


async def test_cancelled_what_is_on_disk_just_stays(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(takes=0)
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with trio.move_on_after(1):
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream, spool=disk) as output:
                await output.send("x")
                await trio.sleep_forever()
    assert [each.levelname for each in caplog.records if "stays in the spool" in each.message] == ["WARNING"]
    assert (disk.count, disk.settled, disk.closed) == (1, 0, True)


async def test_who_waits_in_send_as_the_output_ends_hears_it(autojump_clock: object) -> None:
    disk = Disk(takes=0)
    disk.room = 0
    heard: list[type] = []

    async def post() -> None:
        try:
            await output.send("x")
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            heard.append(type(error))

    async with open_peer() as peer, trio.open_nursery() as nursery:
        short = config(**{"shutdown-timeout": "1s"})
        async with trio_wsout.open_output(short, open_stream=peer.open_stream, spool=disk) as output:
            nursery.start_soon(post)
            await trio.sleep(1)
    assert heard == [trio.ClosedResourceError]
    assert output.statistics().accepted == 0


@pytest.mark.parametrize("how", ["closed", "cancelled", "broken"])
async def test_a_flush_behind_a_spool_that_is_full_hears_that_the_output_ended(
    how: str, autojump_clock: object
) -> None:
    disk = Disk(takes=0)
    disk.room = 1
    heard: list[type] = []

    async def call(what: str) -> None:
        try:
            await (output.flush() if what == "flush" else output.send(what))
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            heard.append(type(error))

    expected = trio.BrokenResourceError if how == "broken" else trio.ClosedResourceError
    short = config(**{"shutdown-timeout": "1s"})
    async with open_peer() as peer, trio.open_nursery() as nursery:
        peer.plan(then=Unreachable())
        with trio.CancelScope() as scope, suppress(SpoolError, trio_wsout.DeliveryError):
            async with trio_wsout.open_output(short, open_stream=peer.open_stream, spool=disk) as output:
                await output.send("it has the room")
                nursery.start_soon(call, "it has none")
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(2):
                    nursery.start_soon(call, "flush")
                await trio.sleep(0.5)
                assert heard == []
                if how == "broken":
                    disk.broken = "the disk is gone"
                    await trio.sleep(5)
                if how == "cancelled":
                    scope.cancel()
        await trio.sleep(5)
        assert heard == [expected] * 3


async def test_an_event_that_never_fits_is_refused(autojump_clock: object) -> None:
    tight = config(
        payload="binary-base64", spool={"path": "/spool", "max-bytes": 4096}, **{"max-message-size": 1000}
    )
    async with (
        open_peer() as peer,
        trio_wsout.open_output(tight, open_stream=peer.open_stream, spool=Disk(takes=0)) as output,
    ):
        with pytest.raises(ValueError, match=r"fit into spool.max-bytes"):
            await output.send("%" * 5000)


async def test_a_spool_without_its_section_is_a_config_error() -> None:
    with pytest.raises(trio_wsout.ConfigError, match="spool"):
        async with trio_wsout.open_output({"url": "ws://h/"}, spool=Disk()):
            pytest.fail("the block must not begin")


async def test_a_link_that_never_opens_says_what_stays(autojump_clock: object) -> None:
    disk = Disk(takes=0, events=["old"])
    async with open_peer() as peer:
        peer.plan(Refuse(status=403))
        with pytest.raises(
            trio_wsout.ConnectError, match="403.*1 accepted event stays in the spool at /spool"
        ):
            async with trio_wsout.open_output(
                config(connect={"mode": "eager"}), open_stream=peer.open_stream, spool=disk
            ):
                pytest.fail("the block must not begin")


async def test_receipts_of_what_is_on_disk_only_are_bounded_and_hear_of_the_end(
    autojump_clock: object,
) -> None:
    disk = Disk(takes=0)
    few = config(delivery={"max-unconfirmed": 1}, **{"shutdown-timeout": "1s"})
    receipts: list[trio_wsout.Receipt] = []
    flushed: list[type] = []

    async def flush() -> None:
        try:
            await output.flush()
        except trio.ClosedResourceError as error:
            flushed.append(type(error))

    async with open_peer() as peer, trio.open_nursery() as nursery:
        peer.plan(then=Unreachable())
        with pytest.raises(trio_wsout.DeliveryError, match="stays in the spool"):
            async with trio_wsout.open_output(few, open_stream=peer.open_stream, spool=disk) as output:
                with trio.move_on_after(1):
                    while True:
                        receipts.append(await output.submit("x"))
                assert 8192 < len(receipts) < 8192 + 1024 + 10, "receipts need memory"
                await output.send("without a receipt it needs none")
                nursery.start_soon(flush)
                await trio.testing.wait_all_tasks_blocked()
        for receipt in receipts:
            with pytest.raises(trio_wsout.DeliveryError, match="goes first at the next start"):
                await receipt.wait()
    assert flushed == [trio.ClosedResourceError]


async def test_a_flush_before_the_first_events_that_stay_on_disk_ends(autojump_clock: object) -> None:
    disk, answers = Disk(), trio.Event()
    async with open_peer() as peer:

        async def open_stream(*target: Any) -> trio.abc.Stream:
            await answers.wait()
            return await peer.open_stream(*target)

        async with trio_wsout.open_output(
            config(delivery={"max-unconfirmed": 4}, connect={"timeout": "1h"}),
            open_stream=open_stream,
            spool=disk,
        ) as output:
            for number in range(10):
                output.send_nowait(number)
            await trio.sleep(2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(output.send, "is being written")
                await trio.sleep(0.5)
                nursery.start_soon(output.flush)
                await trio.sleep(0.1)
                for number in range(1023):
                    nursery.start_soon(output.send, number)
                await trio.sleep(2)
                assert [count for _, count, _ in disk.groups][-2:] == [1, 1023], "the mark went with the rest"
                answers.set()
                with trio.fail_after(300):
                    await output.flush()
        assert disk.read
        assert len(peer.messages) == 10 + 1 + 1023


async def test_what_has_settled_is_stored_later_if_the_disk_is_full_without_any_event(
    autojump_clock: object,
) -> None:
    class NoRoomAtAll(Disk):
        full = False

        async def append(self, run: Sequence[Entry], settled: int = 0) -> Extent:
            if self.full:
                await trio.lowlevel.checkpoint()
                raise LogFullError("/spool: the disk is full")
            return await super().append(run, settled)

    disk = NoRoomAtAll(takes=0)
    async with (
        open_peer() as peer,
        trio_wsout.open_output(
            config(spool={"path": "/spool", "max-bytes": 3072}, **{"max-message-size": 1024}),
            open_stream=peer.open_stream,
            spool=disk,
        ) as output,
    ):
        for _ in range(3):
            await output.send("x" * 900)
        await output.flush()
        disk.full = True
        await trio.sleep(3)
        output.send_nowait("y" * 900)  # fits only once one of them has left
        await trio.sleep(3)
        assert output.statistics().spool.waits == "the disk is full"
        assert disk.settled < 3
        disk.full = False
        await output.flush()
        await trio.sleep(2)
        assert disk.settled == 4
        balanced(output)


@pytest.mark.parametrize("mode", ["fixed", "document"])
async def test_a_spool_that_an_open_batch_fills_does_not_wait_for_the_end_of_the_batch(
    mode: str, autojump_clock: object
) -> None:
    fields: dict[str, Any] = {
        "spool": {"path": "/spool", "max-bytes": 3072},
        "max-message-size": 1024,
        "batch": {"mode": mode, "timeout": "1h", "fixed-size": 1000},
    }
    disk = Disk(takes=0)
    async with (
        open_peer() as peer,
        trio_wsout.open_output(config(**fields), open_stream=peer.open_stream, spool=disk) as output,
    ):
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(200):  # each takes 64 bytes and itself on disk, and few bytes of a message
                nursery.start_soon(output.send, number)
        assert trio.current_time() - start < 60
        assert output.statistics().spool.waits is None
        await output.flush()
        balanced(output)
    assert sorted(int(each) for message in peer.messages for each in message.split()) == list(range(200))


async def test_what_waits_for_the_disk_goes_as_far_as_there_is_room(autojump_clock: object) -> None:
    async def open_stream(*_: object) -> trio.abc.Stream:
        raise OSError("nobody is there")

    fields: dict[str, Any] = {"spool": {"path": "/spool", "max-bytes": 3072}, "max-message-size": 1024}
    fields["shutdown-timeout"] = "1s"
    with pytest.raises(trio_wsout.DeliveryError, match="3 accepted events not confirmed"):
        async with trio_wsout.open_output(
            config(**fields), open_stream=open_stream, spool=Disk(takes=0)
        ) as output:
            await output.send("x" * 900)
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(output.send, "x" * 900)
                await trio.sleep(10)
                assert output.statistics().spool.events == 3
                nursery.cancel_scope.cancel()
