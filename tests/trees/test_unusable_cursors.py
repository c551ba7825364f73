"""Cursors that no handshake can carry: refused, or left aside and counted; no link is ever kept from opening by one."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout._core.cursor import CursorReader
from trio_wsout._core.statistics import Counters
from trio_wsout._tasks.cursor_saver import CursorSaver
from trio_wsout._tasks.ledger import Ledger
from trio_wsout.config import Cursor
from trio_wsout.stores.cursor import FileCursorStore, SqliteCursorStore, StoredCursor
from trio_wsout.testing import open_peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener

    Store = FileCursorStore | SqliteCursorStore

LONG = "x" * 4097
CONTROL = "holds a control character, which no header can carry; send it by cursor.query-parameter"
TOO_LONG = "has more than 4096 bytes, too many for a handshake"
SERVER = {"bind": "127.0.0.1:0"}


def config(**fields: Any) -> dict[str, Any]:
    return {"url": "ws://peer.test/events", "payload": "json", **fields}


def by(name: str, **more: Any) -> dict[str, Any]:
    return {name: "Last-Event-ID", "value-field": "at.id", **more}


@pytest.mark.parametrize("value", ["two\nlines", "nul\0", "del\x7f", "cr\r"])
async def test_send_refuses_a_control_character_that_a_header_would_have_to_carry(
    value: str, autojump_clock: MockClock
) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            config(cursor=by("header-name")), open_stream=peer.open_stream
        ) as output:
            event = {"at": {"id": value}}
            for send in (output.send, output.submit):
                with pytest.raises(ValueError, match=r"^\$\.at\.id: the cursor " + CONTROL) as caught:
                    await send(event)
                assert value not in str(caught.value)
            with pytest.raises(ValueError, match=r"\$\.at\.id"):
                output.send_nowait(event)
            await output.send({"at": {"id": "1"}})
            await output.flush()
            figures = output.statistics()
            assert (figures.accepted, figures.link.cursor, figures.unusable_cursors) == (1, "1", 0)
            await peer.cut()
            await output.send({})
            await output.flush()
        assert [each.headers.get("last-event-id") for each in peer.connections] == [None, "1"]


async def test_a_query_carries_what_a_header_can_not(autojump_clock: MockClock) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            config(cursor=by("query-parameter")), open_stream=peer.open_stream
        ) as output:
            await output.send({"at": {"id": "two\nlines"}})
            await output.flush()
            await peer.cut()
            await output.send({})
            await output.flush()
            with pytest.raises(ValueError, match=r"^\$\.at\.id: the cursor " + TOO_LONG):
                await output.send({"at": {"id": LONG}})
        assert peer.connections[1].path == "/events?Last-Event-ID=two%0Alines"


@pytest.mark.parametrize(
    "where", [{"headers": {"X": "a ${cursor} b"}}, {"auth": {"headers": {"X": "${cursor||none}"}}}]
)
async def test_a_header_that_names_the_cursor_is_a_header_as_well(
    where: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            config(cursor=by("query-parameter"), **where), open_stream=peer.open_stream
        ) as output:
            with pytest.raises(ValueError, match=r"^\$\.at\.id"):
                await output.send({"at": {"id": "two\nlines"}})


@pytest.mark.parametrize(
    ("initial", "fault"), [("two\nlines", CONTROL), (LONG, TOO_LONG), ("\N{SNOWMAN}" * 1366, TOO_LONG)]
)
async def test_an_initial_value_that_can_not_be_carried_is_counted_and_told_and_the_link_opens(
    initial: str, fault: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            config(cursor=by("header-name", **{"initial-value": initial})), open_stream=peer.open_stream
        ) as output:
            await output.wait_connected()
            assert output.statistics().unusable_cursors == 1
            assert output.statistics().link.cursor is None
        assert "last-event-id" not in peer.connections[0].headers
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert warnings == [f"cursor.initial-value {fault}, and is not used"]


@pytest.mark.parametrize("persist_to", ["{}/cursor", "sqlite:{}/cursors"])
@pytest.mark.parametrize(
    ("value", "used", "counted"),
    [("two\nlines", "first", 1), (LONG, "first", 1), ("", "first", 0), ("7", "7", 0)],
)
async def test_what_an_older_version_stored_is_used_only_if_a_handshake_can_carry_it(
    persist_to: str, value: str, used: str, counted: int, tmp_path: Path
) -> None:
    make: Callable[[Path, str], Store] = FileCursorStore if "sqlite" not in persist_to else SqliteCursorStore
    place = persist_to.format(tmp_path)
    await make(tmp_path / place.rpartition("/")[2], "me").save(StoredCursor(value=value, epoch=3))
    cursor = by("header-name", **{"persist-to": place, "state-id": "me", "initial-value": "first"})
    async with open_peer() as peer:
        for then in ("next", "after"):
            async with trio_wsout.open_output(config(cursor=cursor), open_stream=peer.open_stream) as output:
                await output.send({"at": {"id": then}})
                await output.flush()
                assert output.statistics().unusable_cursors == (counted if then == "next" else 0)
        assert [each.headers["last-event-id"] for each in peer.connections] == [used, "next"]


async def test_an_empty_initial_value_is_no_cursor(autojump_clock: MockClock) -> None:
    both = {"header-name": "C", "query-parameter": "after", "value-field": "id", "initial-value": ""}
    async with open_peer() as peer:
        async with trio_wsout.open_output(config(cursor=both), open_stream=peer.open_stream) as output:
            await output.send({"id": ""})
            await output.flush()
            figures = output.statistics()
            assert (figures.link.cursor, figures.link.without_cursor, figures.unusable_cursors) == (
                None,
                1,
                0,
            )
            await peer.cut()
            await output.send({})
            await output.flush()
        assert {each.path for each in peer.connections} == {"/events"}
        assert not any("c" in each.headers for each in peer.connections)


async def test_what_peers_of_a_relay_send_is_passed_on_and_its_cursor_is_not_adopted(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with open_peer() as up:
        relay = config(mode="relay", server=SERVER, cursor=by("header-name"), history={})
        async with trio_wsout.open_output(relay, open_stream=up.open_stream, listeners=[listener]) as output:
            one, other = await listener.connect(), await listener.connect()
            for value in ("a", "two\nlines", LONG):
                await one.send(json.dumps({"at": {"id": value}}))
            await other.wait_messages(3)
            await up.wait_messages(3)
            await output.flush()
            await trio.sleep(1)
            figures = output.statistics()
            assert (figures.unusable_cursors, figures.link.cursor) == (2, "a")
            await up.cut()
            await output.send({})
            await output.flush()
        assert up.connections[1].headers["last-event-id"] == "a"


async def test_an_event_that_waited_in_a_spool_goes_without_its_cursor(tmp_path: Path) -> None:
    spool = {"path": str(tmp_path / "spool")}
    async with open_peer() as peer:
        with pytest.raises(trio_wsout.DeliveryError):
            async with trio_wsout.open_output(
                config(spool=spool, cursor=by("query-parameter"), **{"shutdown-timeout": 0})
            ) as output:
                await output.send({"at": {"id": "two\nlines"}})
        async with trio_wsout.open_output(
            config(spool=spool, cursor=by("header-name")), open_stream=peer.open_stream
        ) as output:
            await output.flush()
            figures = output.statistics()
            assert (figures.confirmed, figures.undelivered) == (1, 0)
            assert (figures.unusable_cursors, figures.link.cursor) == (1, None)
        assert peer.messages == ['{"at":{"id":"two\\nlines"}}']


async def test_a_listener_refuses_an_event_after_which_no_peer_could_resume(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    serving = {"mode": "server-output", "server": SERVER, "history": {}, "cursor": by("header-name")}
    async with trio_wsout.open_output(serving, listeners=[listener]) as output:
        with pytest.raises(ValueError, match=r"^\$\.at\.id"):
            await output.send({"at": {"id": "two\nlines"}})


async def test_half_of_a_surrogate_pair_is_carried_by_nothing() -> None:
    class Store:
        async def load(self) -> StoredCursor:
            return StoredCursor(value="\ud800", epoch=1)

        async def save(self, cursor: StoredCursor) -> None: ...

    reader = CursorReader(Cursor())
    cursor_saver = CursorSaver(Store(), Ledger(None), Counters())
    await cursor_saver.load(None, reader)
    assert (cursor_saver.value, reader.unusable) == (None, 1)
