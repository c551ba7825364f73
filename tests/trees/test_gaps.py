"""A cursor that leads nowhere: what a peer that can read no headers is told, for each kind of payload."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from trio_wsout._core.durable_log import Entry, Extent, gap_message
from trio_wsout.config import History
from trio_wsout.stores.log_memory import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock
    from trio_wsout.testing import MemoryListener, PeerConnection

BY_ID = {"query-parameter": "after", "header-name": "Last-Event-ID", "value-field": "id"}
BATCH = {"mode": "fixed", "fixed-size": 3, "timeout": "1s"}
EVENTS = [{"id": f"e{n}"} for n in range(6)]


def config(**fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}, "cursor": BY_ID}
    return {**base, "history": {"max-events": 3}, **fields}


def line(n: int) -> str:
    return json.dumps(EVENTS[n], separators=(",", ":"))


KEPT = [line(n) for n in (3, 4, 5)]
KINDS: dict[str, tuple[dict[str, Any], list[str | bytes]]] = {
    "text": ({}, [*KEPT]),
    "json": ({"payload": "json"}, [*KEPT]),
    "stamped": ({"delivery": {"stamp": "s"}}, []),
    "binary": ({"payload": "binary"}, [each.encode() for each in KEPT]),
    "lines": ({"batch": BATCH}, ["\n".join(KEPT)]),
    "lines with header and footer": (
        {"batch": {**BATCH, "header": "<", "footer": ">"}},
        ["\n".join(["<", *KEPT, ">"])],
    ),
    "binary lines": ({"payload": "binary", "batch": BATCH}, ["\n".join(KEPT).encode()]),
    "array": ({"batch": {**BATCH, "wrap-as-json": True}}, [f"[{','.join(KEPT)}]"]),
}


async def told(client: PeerConnection, count: int) -> tuple[Any, list[str | bytes]]:
    """The gap message that came first, and the messages behind it."""
    await client.wait_messages(1 + count)
    notice, *rest = client.messages
    assert isinstance(notice, str), "a text message, so that it is no event where those are binary"
    return json.loads(notice), rest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", ["e1", "never was", "é\N{SNOWMAN}"])
async def test_the_first_message_tells_of_a_gap_and_then_comes_what_is_kept(
    kind: str, asked: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields, kept = KINDS[kind]
    async with trio_wsout.open_output(config(**fields), listeners=[listener]) as output:
        for event in EVENTS:
            await output.send(event)
        await output.flush()
        before = output.statistics()
        client = await listener.connect("/", [("Last-Event-ID", asked)])
        assert client.headers["resume-status"] == "gap"
        notice, rest = await told(client, max(1, len(kept)))
        assert notice == {"gap": {"asked": asked, "first": "e3"}}
        if kept:
            assert rest == kept
        await output.flush()
        await trio.sleep(1)
        figures = output.statistics()
        assert figures.history.replayed == 3
        assert figures.written - before.written == 3, "it is no event"
        assert figures.written_messages - before.written_messages == (len(kept) or 3)
        assert (figures.history.events, figures.accepted, figures.unconfirmed) == (3, 6, 0)


async def test_base64_events_are_binary_and_their_gap_is_a_text(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(payload="binary-base64", cursor={"query-parameter": "after"})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        for event in (b"a", b"b", b"c", b"d"):
            await output.send(event)
        await output.flush()
        client = await listener.connect("/?after=x")
        notice, rest = await told(client, 3)
        assert notice["gap"]["asked"] == "x"
        assert notice["gap"]["first"].endswith("-2")
        assert rest == [b"b", b"c", b"d"]


@pytest.mark.parametrize("target", ["/", "/?after=", "/?after", "/?other=e1"])
async def test_who_names_no_cursor_or_an_empty_one_gets_what_comes_and_is_told_nothing(
    target: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(), listeners=[listener]) as output:
        for event in EVENTS[:3]:
            await output.send(event)
        await output.flush()
        client = await listener.connect(target, [("Last-Event-ID", "")])
        assert "resume-status" not in client.headers
        await output.send(EVENTS[3])
        await client.wait_messages(1)
        await output.flush()
        assert client.messages == [line(3)]


@pytest.mark.parametrize("history", [{"max-events": 3}, None], ids=["nothing kept", "no history"])
async def test_nothing_kept_and_no_history_are_gaps_without_a_first(
    history: dict[str, int] | None, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(history=history), listeners=[listener]) as output:
        client = await listener.connect("/?after=e1")
        assert client.headers["resume-status"] == "gap"
        await output.send(EVENTS[0])
        assert await told(client, 1) == ({"gap": {"asked": "e1", "first": None}}, [line(0)])


@pytest.mark.parametrize(("last", "first"), [({"id": "e9"}, "e9"), ({}, None)])
async def test_first_is_the_first_cursor_there_is(
    last: dict[str, str], first: str | None, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    async with trio_wsout.open_output(config(), listeners=[listener]) as output:
        for event in (*EVENTS, {}, {}, last):
            await output.send(event)
        await output.flush()
        client = await listener.connect("/?after=e1")
        assert (await told(client, 3))[0] == {"gap": {"asked": "e1", "first": first}}


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        (EVENTS, "e3"),
        ([{"id": "é" * 61 + "x"}], "é" * 61 + "x"),
        ([{"id": "é" * 62}], ""),
        ([{}], ""),
        ([], ""),
    ],
)
async def test_who_is_refused_hears_4410_and_the_first_cursor_there_is(
    events: Sequence[dict[str, str]], reason: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(history={"max-events": 3, "on-gap": "refuse"})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        for event in events:
            await output.send(event)
        await output.flush()
        client = await listener.connect("/?after=never")
        assert client.headers["resume-status"] == "gap"
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4410, reason)
        await trio.sleep(1)
        assert client.messages == []
        receipt = await output.submit({"id": "after"})
        await receipt.wait()
        assert output.statistics().peers == 0
        again = await listener.connect("/?after=after")
        assert again.headers["resume-status"] == "resumed"


async def test_a_refused_peer_that_reads_nothing_is_cut_and_holds_nobody_up(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(history={"on-gap": "refuse"})
    async with trio_wsout.open_output(fields, listeners=[listener]) as output:
        silent = await listener.connect("/?after=never", buffered=False)
        silent.stop_reading()
        start = trio.current_time()
        receipt = await output.submit({"id": "1"})
        await receipt.wait()
        assert trio.current_time() == start
        await trio.sleep(6)
        assert output.statistics().peers == 0


class Late(MemoryLog):
    """A store of which each read waits a second."""

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        await trio.sleep(1)
        return await super().after(position, most=most, most_bytes=most_bytes)


@pytest.mark.parametrize("on_gap", ["tell", "refuse"])
async def test_a_replay_that_the_history_overtakes_is_told_without_stamps_or_refused(
    on_gap: str, listener: MemoryListener, autojump_clock: MockClock
) -> None:
    fields = config(history={"on-gap": on_gap})
    async with trio_wsout.open_output(
        fields, listeners=[listener], history=Late(History(max_events=3))
    ) as output:
        for event in EVENTS[:3]:
            await output.send(event)
        await output.flush()
        client = await listener.connect("/?after=e0")
        assert client.headers["resume-status"] == "resumed"
        for event in EVENTS[3:]:
            await output.send(event)
        if on_gap == "refuse":
            await client.wait_closed()
            assert (client.close_code, client.close_reason) == (4410, "e3")
            return
        notice, rest = await told(client, 3)
        assert notice == {"gap": {"asked": "e0", "first": "e3"}}
        assert rest == KEPT


async def test_the_names_of_a_gap() -> None:
    assert gap_message(None, None) == b'{"gap":{"asked":null,"first":null}}'
    assert gap_message('"', "\n") == b'{"gap":{"asked":"\\"","first":"\\n"}}'


class SlowTrim(MemoryLog):
    """Takes very long over what is asked for second: a trim, after the one by which a peer was located."""

    def __init__(self) -> None:
        super().__init__(History(max_age=3600.0))
        self.trims = 0
        self.cancelled = 0

    async def trim(self, now: float) -> Extent:
        self.trims += 1
        if self.trims == 1:
            try:
                await trio.sleep(3600)
            except trio.Cancelled:
                self.cancelled += 1
                raise
        return await super().trim(now)


async def test_a_trim_that_is_cancelled_with_its_peer_leaves_no_replay_waiting(
    listener: MemoryListener, autojump_clock: MockClock
) -> None:
    history = SlowTrim()
    fields = config(history={"max-age": "1h"}, server={"bind": "127.0.0.1:0", "handshake-timeout": "5s"})
    async with trio_wsout.open_output(fields, listeners=[listener], history=history) as output:
        for event in EVENTS[:3]:
            await output.send(event)
        await output.flush()
        first = await listener.knock("/?after=e0")
        await trio.sleep(1)
        second = await listener.knock("/?after=e0")
        await first.wait_ended()
        assert (first.status, trio.current_time(), history.cancelled) == (503, 2.5, 1)
        await second.wait_messages(2)
        assert second.messages == [line(1), line(2)]
        third = await listener.connect("/?after=e1")
        await third.wait_messages(1)
        assert trio.current_time() == 2.5
