"""The client tree on the mock clock: every time is exact."""

from __future__ import annotations

import json
from http import HTTPStatus
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from trio_wsout.config import Config
from trio_wsout.testing import Accept, Refuse, Silent, Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def half() -> float:
    return 0.5


def config(**fields: Any) -> Config:
    return trio_wsout.load_config({"url": "ws://peer.test/events", **fields})


def on_clock(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario on a clock that jumps; it must end within a day of its time."""

    async def bounded() -> None:
        with trio.fail_after(86400):
            await scenario()

    trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_events_arrive_in_order_and_are_confirmed(autojump_clock: object) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
            for number in range(1000):
                await output.send({"n": number})
            await output.flush()
            assert output.statistics().confirmed == 1000
        assert peer.messages == [f'{{"n":{number}}}' for number in range(1000)]
        assert peer.connections[0].close_code == 1000
        statistics = output.statistics()
        assert (statistics.link.state, statistics.unconfirmed, statistics.peers) == ("closed", 0, 0)


async def test_a_lazy_link_dials_when_the_first_event_waits(autojump_clock: object) -> None:
    async with open_peer() as peer, trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
        await trio.sleep(100)
        assert peer.attempts == []
        assert output.statistics().link.state == "idle"
        await output.send("x")
        await peer.wait_messages(1)
        assert [each.opened_at for each in peer.connections] == [trio.current_time()]


async def test_a_lazy_link_that_was_never_needed_never_dials(autojump_clock: object) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream):
            pass
        assert peer.attempts == []


async def test_a_lazy_link_whose_messages_are_taken_dials_at_once_and_goes_on_trying(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Who only listens never sends, so nothing would ever wait."""
    caplog.set_level("INFO", "trio_wsout.link")
    fields = config(reconnect={"jitter": 0, "initial-backoff": "1s", "max-backoff": "1s"})
    async with open_peer() as peer:
        peer.plan(*[Unreachable()] * 100)
        start = trio.current_time()
        async with trio_wsout.open_output(fields, receive=True, open_stream=peer.open_stream) as output:
            await output.wait_connected()
            assert trio.current_time() == start + 100
        assert [each - start for each in peer.attempts] == list(range(101))
    told = [(record.levelname, record.getMessage().split(":")[0]) for record in caplog.records]
    assert told == [
        ("INFO", "link dialling"),
        ("INFO", "link backing-off"),
        ("WARNING", "link backing-off"),
        ("WARNING", "link backing-off"),
        ("INFO", "link open"),
        ("INFO", "link closed"),
    ]


async def test_an_eager_link_is_open_when_the_block_begins(autojump_clock: object) -> None:
    eager = config(connect={"mode": "eager"})
    async with open_peer() as peer:
        peer.plan(Accept(after=3.0))
        start = trio.current_time()
        async with trio_wsout.open_output(eager, open_stream=peer.open_stream) as output:
            assert trio.current_time() == start + 3.0
            assert output.statistics().link.state == "open"


async def test_an_eager_start_retries_by_the_backoff_and_fails_at_its_timeout(autojump_clock: object) -> None:
    eager = config(connect={"mode": "eager", "eager-timeout": "4s"}, reconnect={"jitter": 0})
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        start = trio.current_time()
        with pytest.raises(trio_wsout.ConnectError, match="eager-timeout") as caught:
            async with trio_wsout.open_output(eager, open_stream=peer.open_stream):
                pytest.fail("the block must not begin")
        assert trio.current_time() == start + 4.0
        assert [each - start for each in peer.attempts] == [0.0, 0.5, 1.5, 3.5]
        assert peer.connections == []
        assert caught.value.attempts == 4
        assert "Connection refused" in caught.value.cause


async def test_an_eager_start_fails_at_once_when_it_is_final(autojump_clock: object) -> None:
    eager = config(connect={"mode": "eager"})
    async with open_peer() as peer:
        peer.plan(Refuse(status=403))
        start = trio.current_time()
        with pytest.raises(trio_wsout.ConnectError, match="403"):
            async with trio_wsout.open_output(eager, open_stream=peer.open_stream):
                pytest.fail("the block must not begin")
        assert trio.current_time() == start


async def test_attempts_follow_the_backoff_exactly(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(*[Unreachable()] * 8)
        async with trio_wsout.open_output(
            config(reconnect={"jitter": 0.5}), open_stream=peer.open_stream, draw=half
        ) as output:
            await output.send("x")
            await peer.wait_messages(1)
        times = peer.attempts
        delays = [later - earlier for earlier, later in pairwise(times)]
        assert delays == pytest.approx([0.375, 0.75, 1.5, 3.0, 6.0, 12.0, 22.5, 22.5])


async def test_the_first_delay_after_a_drop_is_that_of_one_failure(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(Accept(cut_after=1))
        async with trio_wsout.open_output(
            config(reconnect={"jitter": 0}), open_stream=peer.open_stream
        ) as output:
            await output.send("x")
            await peer.wait_messages(2)
        dropped = peer.connections[0].ended_at
        assert dropped is not None
        assert peer.connections[1].opened_at == dropped + 0.5
        assert output.statistics().link.reconnects == 1


@pytest.mark.parametrize(("lasted", "delay"), [(10.0, 0.5), (9.999, 2.0)])
async def test_the_count_is_reset_by_a_connection_that_lasted(
    lasted: float, delay: float, autojump_clock: object
) -> None:
    async with open_peer() as peer:
        peer.plan(Unreachable(), Unreachable())
        async with trio_wsout.open_output(
            config(reconnect={"jitter": 0}), open_stream=peer.open_stream
        ) as output:
            await output.wait_connected()
            await trio.sleep(lasted)
            await peer.cut()
            await trio.sleep(delay + 0.25)
            assert peer.connections[1].opened_at - (peer.connections[0].ended_at or 0) == pytest.approx(delay)


async def test_giving_up_breaks_the_output_and_the_error_has_the_events(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with pytest.raises(trio_wsout.ConnectError) as caught:
            async with trio_wsout.open_output(
                config(reconnect={"max-attempts": 3, "jitter": 0}), open_stream=peer.open_stream
            ) as output:
                receipt = await output.submit("a")
                await output.send("b")
                with pytest.raises(trio_wsout.DeliveryError) as undelivered:
                    await receipt.wait()
                assert [each.event for each in undelivered.value.undelivered] == ["a"]
                with pytest.raises(trio.BrokenResourceError) as broken:
                    await output.send("c")
                assert isinstance(broken.value.__cause__, trio_wsout.ConnectError)
                with pytest.raises(trio.BrokenResourceError):
                    await output.flush()
                with pytest.raises(trio.BrokenResourceError):
                    await output.wait_connected()
                with pytest.raises(trio.BrokenResourceError):
                    output.send_nowait("c")
        assert len(peer.attempts) == 3
        assert caught.value.attempts == 3
        assert "max-attempts" in str(caught.value)
        assert [each.event for each in caught.value.undelivered] == ["a", "b"]
        assert output.statistics().undelivered == 2


async def test_giving_up_wakes_a_flush(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(then=Refuse(status=404))
        with pytest.raises(trio.BrokenResourceError) as caught:
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
                await output.send("a")
                await output.flush()
        assert isinstance(caught.value.__cause__, trio_wsout.ConnectError)
        assert [each.event for each in caught.value.__cause__.undelivered] == ["a"]


@pytest.mark.parametrize("status", [400, 404, 405, 426])
async def test_a_link_that_worked_outlives_what_a_proxy_says_while_its_server_is_replaced(
    status: int, autojump_clock: object
) -> None:
    async with open_peer() as peer:
        peer.plan(Accept(cut_after=1), Refuse(status=status), Refuse(status=status), Accept())
        async with trio_wsout.open_output(
            config(reconnect={"jitter": 0}), open_stream=peer.open_stream
        ) as output:
            start = trio.current_time()
            await output.send("x")
            await output.flush()
            assert [each.opened_at - start for each in peer.connections] == [0.0, 0.5, 1.5, 3.5]
            assert (
                output.statistics().link.last_error
                == f"the server answered {status} {HTTPStatus(status).phrase}"
            )


async def test_a_server_that_asks_to_wait_is_waited_for(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(Refuse(status=503, headers=[("Retry-After", "7")]))
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
            start = trio.current_time()
            await output.send("x")
            await peer.wait_messages(1)
            assert peer.connections[1].opened_at == start + 7.0


async def test_a_silent_server_costs_connect_timeout_and_no_more(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(Silent())
        async with trio_wsout.open_output(
            config(reconnect={"jitter": 0}), open_stream=peer.open_stream
        ) as output:
            start = trio.current_time()
            await output.send("x")
            await peer.wait_messages(1)
            assert peer.connections[1].opened_at == start + 10.5
            assert "connect.timeout" in (output.statistics().link.last_error or "")


async def test_flush_ends_with_the_output_also_where_its_batch_waits_for_room(autojump_clock: object) -> None:
    fields = {"batch": {"mode": "fixed", "fixed-size": 2}, "delivery": {"max-unconfirmed": 1}}
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with pytest.raises(trio_wsout.ConnectError):
            async with trio_wsout.open_output(
                config(**fields, reconnect={"max-attempts": 2}), open_stream=peer.open_stream
            ) as output:
                for number in range(3):
                    await output.send({"n": number})
                with pytest.raises(trio.BrokenResourceError, match="gave up"):
                    await output.flush()


async def test_after_a_break_exactly_the_unconfirmed_go_again_first_and_in_order(
    autojump_clock: object,
) -> None:
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=None))
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
            for number in range(5):
                await output.send(str(number))
            await peer.wait_messages(5)
            await peer.cut()
            await output.send("5")
        assert peer.connections[0].messages == ["0", "1", "2", "3", "4"]
        assert peer.connections[1].messages == ["0", "1", "2", "3", "4", "5"]


async def test_fixed_batches_close_by_size_and_by_time(autojump_clock: object) -> None:
    batched = config(batch={"mode": "fixed", "fixed-size": 3, "timeout": "2s", "header": "h", "footer": "f"})
    async with open_peer() as peer:
        async with trio_wsout.open_output(batched, open_stream=peer.open_stream) as output:
            start = trio.current_time()
            for number in range(4):
                await output.send({"n": number})
            await peer.wait_messages(1)
            assert trio.current_time() == start
            await peer.wait_messages(2)
            assert trio.current_time() == start + 2.0
            await output.send({"n": 4})
        assert peer.messages == ['h\n{"n":0}\n{"n":1}\n{"n":2}\nf', 'h\n{"n":3}\nf', 'h\n{"n":4}\nf']


async def test_documents_close_at_their_end_and_are_marked(autojump_clock: object) -> None:
    batched = config(batch={"mode": "document", "use-document-marker": True, "wrap-as-json": True})
    async with open_peer() as peer:
        async with trio_wsout.open_output(batched, open_stream=peer.open_stream) as output:
            receipt = await output.submit(1)
            await output.send(2)
            await output.end_document()
            await receipt.wait()
            assert receipt.document == trio_wsout.Document(id=1, first=True, last=True, count=2)
            await output.send(3)
            await trio.sleep(0.2)
            assert output.statistics().last_document == trio_wsout.Document(
                id=2, first=True, last=False, count=1
            )
        assert peer.messages == ["[1,2]", "[3]"]
        assert output.statistics().last_document == trio_wsout.Document(id=2, first=False, last=True, count=0)


async def test_a_peer_that_stops_reading_makes_send_wait(autojump_clock: object) -> None:
    async with open_peer(buffered=False) as peer:
        peer.plan(then=Accept(read=False))
        with pytest.raises(trio_wsout.DeliveryError):
            async with trio_wsout.open_output(
                config(delivery={"max-unconfirmed": 10}, retry={"timeout": "1h"}),
                open_stream=peer.open_stream,
            ) as output:
                accepted = 0
                with trio.move_on_after(60):
                    while True:
                        await output.send("x" * 1000)
                        accepted += 1
                statistics = output.statistics()
                assert statistics.accepted == accepted
                assert statistics.window == 10
                assert 256 < accepted <= 256 + 10 + 2, "intake, window, and what is on its way between them"


async def test_the_end_is_bounded_and_what_is_left_is_in_the_error(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(then=Accept(pong_after=None))
        start = trio.current_time()
        with pytest.raises(trio_wsout.DeliveryError, match="shutdown-timeout") as caught:
            async with trio_wsout.open_output(
                config(**{"shutdown-timeout": "5s"}), open_stream=peer.open_stream
            ) as output:
                await output.send("a")
                await output.send("b")
        assert trio.current_time() == start + 5.0
        assert [each.event for each in caught.value.undelivered] == ["a", "b"]
        assert output.statistics().undelivered == 2


async def test_an_exception_of_the_block_comes_out_as_it_is_and_costs_no_event(
    autojump_clock: object,
) -> None:
    async with open_peer() as peer:
        with pytest.raises(KeyError, match="mine"):
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
                await output.send("a")
                raise KeyError("mine")
        assert peer.messages == ["a"]
        assert peer.connections[0].close_code == 1000


async def test_an_exception_of_the_block_tells_what_was_left(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with pytest.raises(KeyError) as caught:
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
                await output.send("a")
                raise KeyError("mine")
        assert "1 accepted event not confirmed" in caught.value.__notes__[0]


async def test_cancellation_closes_at_once_and_offers_what_is_left(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    sender, receiver = trio.open_memory_channel[trio_wsout.Undelivered](1)
    async with open_peer() as peer:
        peer.plan(then=Accept(pong_after=None))
        start = trio.current_time()
        with trio.move_on_after(1):
            async with trio_wsout.open_output(
                config(), open_stream=peer.open_stream, undelivered=sender
            ) as output:
                await output.send("a")
                await output.send("b")
                await trio.sleep_forever()
        assert trio.current_time() == start + 1.0
        assert receiver.receive_nowait().event == "a"
        assert output.statistics().undelivered == 2
        assert "2 accepted events not confirmed" in caplog.text
        with pytest.raises(trio.ClosedResourceError):
            await output.send("c")
        with pytest.raises(trio.ClosedResourceError):
            await output.flush()


async def test_undelivered_events_go_to_the_channel_and_the_link_lives(autojump_clock: object) -> None:
    sender, receiver = trio.open_memory_channel[trio_wsout.Undelivered](10)
    async with open_peer() as peer:
        peer.plan(Accept(close_after=(1, 1009)))
        async with trio_wsout.open_output(
            config(), open_stream=peer.open_stream, undelivered=sender
        ) as output:
            await output.send("big")
            item = await receiver.receive()
            assert item.event == "big"
            assert "1009" in item.reason
            await output.send("small")
        assert peer.messages == ["big", "small"]


async def test_a_message_that_ends_every_connection_is_undelivered_and_the_rest_is_not(
    autojump_clock: object,
) -> None:
    """The peer dies of one message, whichever others are in flight with it: that one is found."""
    sender, receiver = trio.open_memory_channel[trio_wsout.Undelivered](10)
    async with open_peer() as peer:
        peer.plan(then=Accept(cut_on="poison"))
        async with trio_wsout.open_output(
            config(), open_stream=peer.open_stream, undelivered=sender
        ) as output:
            for number in range(20):
                await output.send("poison" if number == 13 else str(number))
            await output.flush()
        item = receiver.receive_nowait()
        assert item.event == "poison"
        assert "3 times in a row" in item.reason
        with pytest.raises(trio.WouldBlock):
            receiver.receive_nowait()
        others = [message for message in peer.messages if message != "poison"]
        assert list(dict.fromkeys(others)) == [str(number) for number in range(20) if number != 13]
        assert output.statistics().confirmed == 19


async def test_the_retry_budget_makes_a_message_undelivered(autojump_clock: object) -> None:
    sender, receiver = trio.open_memory_channel[trio_wsout.Undelivered](10)
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=None), Accept(pong_after=None))
        async with trio_wsout.open_output(
            config(retry={"retries": 0, "timeout": "2s"}), open_stream=peer.open_stream, undelivered=sender
        ) as output:
            await output.send("a")
            item = await receiver.receive()
            assert item.event == "a"
            assert item.reason.startswith(
                "sent 1 time without a confirmation, retry.retries allows no more; no ping"
            )
            assert trio.current_time() == 2.0


async def test_an_undelivered_channel_that_is_closed_breaks_the_output(autojump_clock: object) -> None:
    sender, receiver = trio.open_memory_channel[trio_wsout.Undelivered](10)
    receiver.close()
    async with open_peer() as peer:
        with pytest.raises(trio_wsout.DeliveryError):
            async with trio_wsout.open_output(
                config(payload="binary-base64"), open_stream=peer.open_stream, undelivered=sender
            ) as output:
                await output.send("%")


async def test_an_undelivered_channel_that_nobody_reads_makes_send_wait_and_the_end_is_bounded(
    autojump_clock: object,
) -> None:
    sender, receiver = trio.open_memory_channel[trio_wsout.Undelivered](0)
    async with open_peer() as peer:
        with pytest.raises(trio_wsout.DeliveryError) as caught:
            async with trio_wsout.open_output(
                config(payload="binary-base64"), open_stream=peer.open_stream, undelivered=sender
            ) as output:
                await output.send("%1")
                await output.send("%2")
        assert [each.event for each in caught.value.undelivered] == ["%1", "%2"]
        assert trio.current_time() == 10.0
    receiver.close()


async def test_a_stored_cursor_is_used_and_kept(tmp_path: Path) -> None:
    place = config(
        payload="json",
        cursor={
            "header-name": "C",
            "value-field": "id",
            "persist-to": str(tmp_path / "c"),
            "initial-value": "0",
        },
    )
    async with open_peer() as peer:
        for number in (1, 2):
            async with trio_wsout.open_output(place, open_stream=peer.open_stream) as output:
                await output.send({"id": number})
        assert [each.headers["c"] for each in peer.connections] == ["0", "1"]
    assert [each.name for each in tmp_path.iterdir()] == ["c"]


async def test_a_damaged_cursor_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("damaged")
    (tmp_path / "c").chmod(0o600)
    place = config(cursor={"header-name": "C", "persist-to": str(tmp_path / "c")})
    async with open_peer() as peer:
        start = trio.current_time()
        with pytest.raises(trio_wsout.CursorError, match="damaged"):
            async with trio_wsout.open_output(place, open_stream=peer.open_stream):
                pytest.fail("the block must not begin")
        assert trio.current_time() - start < 5, "there is nothing to wait for"
        assert peer.attempts == []
    assert (tmp_path / "c").read_text() == "damaged"


async def test_a_cursor_that_cannot_be_saved_breaks_the_output(tmp_path: Path) -> None:
    place = config(
        payload="json",
        cursor={"header-name": "C", "value-field": "id", "persist-to": str(tmp_path / "there" / "c")},
    )
    async with open_peer() as peer:
        with pytest.raises(trio_wsout.CursorError, match="create it, or name another path"):
            async with trio_wsout.open_output(place, open_stream=peer.open_stream):
                pytest.fail("the block must not begin")
        (tmp_path / "there").mkdir()
        with pytest.raises(trio_wsout.CursorError, match="No such file"):
            async with trio_wsout.open_output(place, open_stream=peer.open_stream) as output:
                (tmp_path / "there").rmdir()
                await output.send({"id": 1})
                await output.flush()
                while True:
                    await trio.sleep(0.01)
                    try:
                        await output.send({"id": 2})
                    except trio.BrokenResourceError:
                        break


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"mode": "relay", "server": {"bind": ":0", "viewer": True}}, "server.viewer"),
    ],
)
async def test_what_is_not_built_yet_is_a_config_error(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(trio_wsout.ConfigError) as caught:
        async with trio_wsout.open_output(fields):
            pytest.fail("the block must not begin")
    assert [problem.path for problem in caught.value.problems] == [path]
    assert "not available in this version" in caught.value.problems[0].reason


async def test_a_config_made_in_python_is_checked() -> None:
    with pytest.raises(trio_wsout.ConfigError, match="url"):
        async with trio_wsout.open_output(Config()):
            pytest.fail("the block must not begin")


async def test_secrets_and_environment_in_templates(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_WSOUT_TEST", "from env")
    templated = config(
        headers={"A": "${attempt}", "E": "${env|TRIO_WSOUT_TEST}", "S": "${secret|k||none}"},
        batch={"mode": "fixed", "fixed-size": 1, "header": "try ${attempt}"},
    )
    async with open_peer() as peer:
        peer.plan(Unreachable())
        async with trio_wsout.open_output(
            templated, open_stream=peer.open_stream, secrets={"k": "s3"}.get
        ) as output:
            await output.send("x")
        (headers,) = [each.headers for each in peer.connections]
        assert (headers["a"], headers["e"], headers["s"]) == ("2", "from env", "s3")
        assert peer.messages == ["try 1\nx"]


async def test_a_header_that_cannot_be_expanded_makes_its_events_undelivered(autojump_clock: object) -> None:
    sender, receiver = trio.open_memory_channel[trio_wsout.Undelivered](10)
    batched = config(
        **{"max-message-size": 50},
        batch={"mode": "fixed", "fixed-size": 1, "footer": "${secret|k}"},
    )
    values = iter([None, "y" * 60, "ok"])
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            batched, open_stream=peer.open_stream, secrets=lambda _: next(values), undelivered=sender
        ) as output:
            for _ in range(3):
                await output.send("x")
        assert "secret|k" in receiver.receive_nowait().reason
        assert "max-message-size" in receiver.receive_nowait().reason
        assert peer.messages == ["x\nok"]


async def test_callables_that_raise_or_give_nonsense_cost_an_attempt_each(autojump_clock: object) -> None:
    def secret(name: str) -> str:
        raise LookupError(name)

    async def token() -> str:
        return tokens.pop(0)

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        if not opened:
            opened.append(1)
            raise ZeroDivisionError
        return await peer.open_stream(host, port)

    errors: list[str | None] = []
    tokens: list[Any] = [7, "t", "t"]
    opened: list[int] = []
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            config(),
            open_stream=open_stream,
            token=token,
            on_state=lambda change: errors.append(
                change.disconnection.detail if change.disconnection else None
            ),
        ) as output:
            await output.send("x")
        assert peer.messages == ["x"]
    assert "no text" in str(errors)
    assert "open_stream callable raised ZeroDivisionError" in str(errors)
    async with open_peer() as peer:
        opened.append(1)
        with pytest.raises(trio_wsout.ConnectError, match="secrets callable raised LookupError"):
            async with trio_wsout.open_output(
                config(headers={"X": "${secret|k}"}, reconnect={"max-attempts": 1}),
                open_stream=peer.open_stream,
                secrets=secret,
            ) as output:
                await output.send("x")


async def test_a_request_that_cannot_be_built_is_retried_without_its_value(autojump_clock: object) -> None:
    values = iter(["bad\r\ncanary", "good"])
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            config(headers={"X": "${secret|k}"}), open_stream=peer.open_stream, secrets=lambda _: next(values)
        ) as output:
            await output.send("x")
            await output.flush()
            assert "control character" in (output.statistics().link.last_error or "")
            assert "canary" not in (output.statistics().link.last_error or "")
        assert peer.connections[0].headers["x"] == "good"


async def test_without_a_channel_an_undelivered_event_breaks_the_output(autojump_clock: object) -> None:
    async with open_peer() as peer:
        with pytest.raises(trio_wsout.DeliveryError, match="base64") as caught:
            async with trio_wsout.open_output(
                config(payload="binary-base64"), open_stream=peer.open_stream
            ) as output:
                await output.send("AAEC")
                await output.flush()
                await output.send("%%%")
                with pytest.raises(trio.BrokenResourceError):
                    await output.flush()
        assert peer.messages == [b"\0\1\2"]
        assert [each.event for each in caught.value.undelivered] == ["%%%"]


async def test_received_messages_are_given_to_who_asked(autojump_clock: object) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            config(payload="json"), open_stream=peer.open_stream, receive=True
        ) as output:
            await output.wait_connected()
            await peer.send('{"a": 1}')
            await peer.send("no json")
            await peer.send("[2]")
            first = await output.received.receive()
            second = await output.received.receive()
            assert [first.event, second.event] == [{"a": 1}, [2]]
            assert first.peer.address == "peer.test"
            assert output.statistics().received == 3
            assert output.statistics().dropped == 1
        with pytest.raises(trio.EndOfChannel):
            output.received.receive_nowait()


async def test_received_messages_that_nobody_asked_for_are_drained_and_counted(
    autojump_clock: object,
) -> None:
    async with open_peer() as peer, trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
        await output.wait_connected()
        for _ in range(100):
            await peer.send("x")
        await trio.sleep(1)
        assert output.statistics().dropped == 100
        with pytest.raises(RuntimeError, match="receive=True"):
            _ = output.received


async def test_the_end_does_not_wait_for_an_application_that_does_not_read(autojump_clock: object) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, receive=True) as output:
            await output.wait_connected()
            for number in range(200):
                await peer.send(str(number))
            await trio.sleep(1)
            await output.send("x")
            start = trio.current_time()
        assert trio.current_time() == start
        assert peer.messages == ["x"]
        statistics = output.statistics()
        assert (statistics.received, statistics.confirmed) == (200, 1)
        left = [item.event async for item in output.received]
        assert len(left) + statistics.dropped == 200


async def test_an_application_that_closes_its_end_of_received_costs_nothing(autojump_clock: object) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, receive=True) as output:
            await output.wait_connected()
            for number in range(100):
                await peer.send(str(number))
            await trio.sleep(1)
            output.received.close()
            await peer.send("more")
            await output.send("x")
            await output.flush()
            assert output.statistics().dropped > 0
        assert peer.messages == ["x"]


async def test_on_state_hears_every_change(autojump_clock: object) -> None:
    changes: list[trio_wsout.LinkChange] = []
    async with open_peer() as peer:
        peer.plan(Unreachable())
        async with trio_wsout.open_output(
            config(reconnect={"jitter": 0}), open_stream=peer.open_stream, on_state=changes.append
        ) as output:
            await output.send("x")
    assert [(each.state.value, each.attempt, each.delay) for each in changes] == [
        ("dialling", 1, None),
        ("backing-off", 2, 0.5),
        ("dialling", 2, None),
        ("open", 2, None),
        ("closed", 2, None),
    ]


async def test_on_state_finds_figures_that_know_of_the_change(autojump_clock: object) -> None:
    outputs: list[trio_wsout.Output] = []
    seen: list[tuple[str, str | None]] = []

    def on_state(change: trio_wsout.LinkChange) -> None:
        for output in outputs:
            figures = output.statistics()
            assert figures.link.state == change.state.value
            assert figures.peers == (change.state.value == "open")
            assert figures.link.last_error == (
                None if change.disconnection is None else change.disconnection.detail
            )
            seen.append((figures.link.state, figures.link.last_error))

    async with open_peer() as peer:
        peer.plan(Unreachable(), Refuse(), Accept(cut_after=1))
        async with trio_wsout.open_output(
            config(reconnect={"jitter": 0}), open_stream=peer.open_stream, on_state=on_state
        ) as output:
            outputs.append(output)
            await output.send("x")
            await output.flush()
    states = [state for state, _ in seen]
    again = ["backing-off", "dialling"]
    assert states == ["dialling", *again, *again, "open", *again, "open", "closed"]
    told = [error or "" for state, error in seen if state == "backing-off"]
    assert ["refused" in told[0], "503" in told[1], len(set(told))] == [True, True, 3]


async def test_a_write_that_was_cancelled_is_not_counted_as_written(autojump_clock: object) -> None:
    async with open_peer(buffered=False) as peer:
        peer.plan(Accept(read=False))
        with trio.CancelScope() as scope:
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
                await output.wait_connected()
                await output.send("x")
                await trio.sleep(1)
                assert output.statistics().written == 0
                scope.cancel()
    figures = output.statistics()
    assert (figures.written, figures.written_messages, figures.confirmed, figures.undelivered) == (0, 0, 0, 1)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_came_and_was_not_taken_as_the_output_ended_is_counted_as_dropped(
    cancelled: bool, autojump_clock: object
) -> None:
    async with open_peer() as peer:
        with trio.CancelScope() as scope:
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream, receive=True) as output:
                await output.wait_connected()
                for number in range(200):
                    await peer.send(str(number))
                await trio.sleep(1)
                if cancelled:
                    scope.cancel()
    taken = [item.event async for item in output.received]
    assert taken == [str(number) for number in range(len(taken))]
    figures = output.statistics()
    assert figures.dropped > 0
    assert figures.received == len(taken) + figures.dropped


async def test_an_on_state_that_raises_costs_nothing(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(change: trio_wsout.LinkChange) -> None:
        raise ValueError(change.state)

    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, on_state=bad) as output:
            await output.send("x")
        assert peer.messages == ["x"]
    assert "on_state raised" in caplog.text


async def test_a_401_is_retried_once_with_a_fresh_token(autojump_clock: object) -> None:
    tokens = iter(["old", "new", "newer", "newest"])

    async def token() -> str:
        return next(tokens)

    async with open_peer() as peer:
        peer.plan(Refuse(status=401))
        with pytest.raises(trio_wsout.ConnectError, match="401"):
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream, token=token) as output:
                await output.send("x")
                await output.flush()
                used = [each.headers["authorization"] for each in peer.connections]
                assert used == ["Bearer old", "Bearer new"]
                peer.plan(Refuse(status=401), Refuse(status=401))
                await peer.cut()
                await trio.sleep(60)
        assert len(peer.connections) == 4


async def test_headers_and_a_raising_callable(autojump_clock: object) -> None:
    calls = 0

    async def headers() -> dict[str, str]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("vault is down")
        return {"X-Call": str(calls)}

    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream, headers=headers) as output:
            await output.send("x")
            await output.flush()
            assert "OSError" in (output.statistics().link.last_error or "")
        assert peer.connections[0].headers["x-call"] == "2"


async def test_the_cursor_goes_with_every_attempt(autojump_clock: object) -> None:
    resuming = config(
        cursor={
            "header-name": "Last-Event-ID",
            "query-parameter": "since",
            "value-field": "id",
            "initial-value": "7",
        },
        payload="json",
    )
    async with open_peer() as peer:
        async with trio_wsout.open_output(resuming, open_stream=peer.open_stream) as output:
            await output.send({"id": 8})
            await output.send({})
            await output.flush()
            assert output.statistics().link.cursor == "8"
            assert output.statistics().link.without_cursor == 1
            await peer.cut()
            await output.send({"id": "9 x"})
            await output.flush()
        assert [each.headers.get("last-event-id") for each in peer.connections] == ["7", "8"]
        assert [each.path for each in peer.connections] == ["/events?since=7", "/events?since=8"]
        assert output.statistics().link.cursor == "9 x"


async def test_resuming_can_be_left_to_the_first_connection(autojump_clock: object) -> None:
    once = config(cursor={"header-name": "C", "initial-value": "7", "resume-on-reconnect": False})
    async with open_peer() as peer:
        peer.plan(Unreachable())
        async with trio_wsout.open_output(once, open_stream=peer.open_stream) as output:
            await output.wait_connected()
            await peer.cut()
            await trio.sleep(5)
        assert [each.headers.get("c") for each in peer.connections] == ["7", None]


async def test_send_nowait_says_when_the_buffer_is_full(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with pytest.raises(trio_wsout.DeliveryError) as caught:
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
                accepted = 0
                with pytest.raises(trio.WouldBlock):
                    while True:
                        output.send_nowait(accepted)
                        accepted += 1
                assert output.statistics().accepted == accepted
        assert [each.event for each in caught.value.undelivered] == list(range(accepted))


async def test_events_that_cannot_be_sent_are_refused_by_send(autojump_clock: object) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            config(**{"max-message-size": 100}), open_stream=peer.open_stream
        ) as output:
            with pytest.raises(ValueError, match=r"\$\.a\[1\]"):
                await output.send({"a": [1, float("nan")]})
            with pytest.raises(ValueError, match="max-message-size"):
                await output.send("x" * 101)
            with pytest.raises(ValueError, match="document"):
                await output.end_document()
            await output.send("x" * 100)
        assert [len(message) for message in peer.messages] == [100]


async def test_many_tasks_send_and_some_are_cancelled(autojump_clock: object) -> None:
    """What was accepted arrives, each task's events in its order, and the sequence numbers have no gap."""
    stamped = config(delivery={"stamp": "seq", "max-unconfirmed": 20}, payload="json")
    accepted: dict[int, list[int]] = {task: [] for task in range(30)}

    async def send(output: trio_wsout.Output, task: int) -> None:
        with trio.move_on_after(0.01 * task):
            for number in range(100):
                await output.send({"task": task, "number": number})
                accepted[task].append(number)

    async with open_peer() as peer:
        peer.plan(Accept(after=0.05, pong_after=0.01), then=Accept(pong_after=0.01))
        async with trio_wsout.open_output(stamped, open_stream=peer.open_stream) as output:
            async with trio.open_nursery() as nursery:
                for task in accepted:
                    nursery.start_soon(send, output, task)
            assert output.statistics().accepted == sum(map(len, accepted.values()))
    events = [json.loads(message) for message in peer.messages]
    assert any(0 < len(numbers) < 100 for numbers in accepted.values()), "some were cut short"
    for task, numbers in accepted.items():
        assert [event["number"] for event in events if event["task"] == task] == numbers
    assert [int(event["seq"].split("-")[1]) for event in events] == list(range(1, len(events) + 1))


async def test_a_closed_output_takes_nothing_more(autojump_clock: object) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
            await output.send("x")
            await output.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await output.send("y")
        assert peer.messages == ["x"]


async def test_policy_violations_with_a_confirmed_message_between_are_not_final(
    autojump_clock: object,
) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
            for number in range(5):
                await output.send(str(number))
                await output.flush()
                await peer.close(1008)
                await trio.sleep(0.1)
        assert peer.messages == ["0", "1", "2", "3", "4"]
        assert len(peer.connections) == 5


async def test_three_policy_violations_in_a_row_are_final(autojump_clock: object) -> None:
    async with open_peer() as peer:
        with pytest.raises(trio_wsout.ConnectError, match="1008"):
            async with trio_wsout.open_output(config(), open_stream=peer.open_stream) as output:
                for _ in range(3):
                    await output.wait_connected()
                    await peer.close(1008)
                    await trio.sleep(5)
        assert len(peer.connections) == 3
