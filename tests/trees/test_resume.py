"""The seam between replay and live events, at every interleaving, on a mock clock."""

from __future__ import annotations

import json
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config import History
from trio_wsout.stores.log_memory import MemoryLog
from trio_wsout.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout._core.durable_log import Entry, Extent
    from trio_wsout.testing import PeerConnection

Step = tuple[str, int]


def config(**more: Any) -> dict[str, Any]:
    server = {"bind": "127.0.0.1:0", **more.pop("server", {})}
    cursor = {"query-parameter": "since", **more.pop("cursor", {})}
    return {"mode": "server-output", "server": server, "history": {}, "cursor": cursor, **more}


class SlowHistory(MemoryLog):
    """Takes its time before and after each step, as a disk and its thread do."""

    def __init__(self, limits: History, delays: Sequence[float]) -> None:
        super().__init__(limits)
        self._delays = cycle(delays)

    async def append(self, run: Sequence[Entry], settled: int = 0) -> Extent:
        await trio.sleep(next(self._delays))
        extent = await super().append(run, settled)
        await trio.sleep(next(self._delays))
        return extent

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        await trio.sleep(next(self._delays))
        # Few at a time, so that a replay takes many reads.
        found = await super().after(position, most=min(most, 4), most_bytes=most_bytes)
        await trio.sleep(next(self._delays))
        return found

    async def find(self, cursor: str) -> int | None:
        await trio.sleep(next(self._delays))
        position = await super().find(cursor)
        await trio.sleep(next(self._delays))
        return position


class HeldHistory(MemoryLog):
    """Stops before a read (``read``), after it (``found``) or after an append (``kept``), where it is told to."""

    def __init__(self, limits: History) -> None:
        super().__init__(limits)
        self._held: dict[str, tuple[trio.Event, trio.Event]] = {}

    def hold(self, point: str) -> tuple[trio.Event, trio.Event]:
        """Stop there the next time: sets the first event, and waits for the second."""
        self._held[point] = trio.Event(), trio.Event()
        return self._held[point]

    async def _pass(self, point: str) -> None:
        if point in self._held:
            reached, go_on = self._held.pop(point)
            reached.set()
            await go_on.wait()

    async def append(self, run: Sequence[Entry], settled: int = 0) -> Extent:
        extent = await super().append(run, settled)
        await self._pass("kept")
        return extent

    async def after(self, position: int, *, most: int, most_bytes: int) -> Sequence[Entry]:
        await self._pass("read")
        found = await super().after(position, most=most, most_bytes=most_bytes)
        await self._pass("found")
        return found


def events_of(client: PeerConnection) -> list[Any]:
    return [json.loads(line) for message in client.messages for line in str(message).split("\n")]


def cursor_of(client: PeerConnection, n: int) -> str | None:
    """Cursor of the event with this number, as a client that gets everything sees it."""
    return next((event.get("seq", str(n)) for event in events_of(client) if event["n"] == n), None)


@define(eq=False)
class Listener:
    """Who resumed: after which event, and what came."""

    client: PeerConnection
    after: int | None
    """Number of the event whose cursor it asked with; None: it asked with none that there was."""
    resumed: bool = field(init=False)
    cut: bool = False
    stalled: bool = False

    def __attrs_post_init__(self) -> None:
        self.resumed = self.client.headers["resume-status"] == "resumed"

    @property
    def got(self) -> list[int | None]:
        """Numbers of the events in their order; None: word of a gap."""
        return [event.get("n") for event in events_of(self.client)]

    @property
    def notices(self) -> list[dict[str, str | None]]:
        """What was said of gaps."""
        return [event["gap"] for event in events_of(self.client) if "gap" in event]


STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 12)),
        st.tuples(st.just("resume"), st.integers(0, 100)),
        st.tuples(st.just("sleep"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["stall", "go on", "cut"]), st.integers(0, 5)),
    ),
    max_size=25,
)
DELAYS = st.lists(st.sampled_from([0, 0, 0.001, 0.002]), min_size=1, max_size=7)


class Script:
    """Runs the steps, with one client that gets everything and others that come and go."""

    def __init__(self, output: trio_wsout.Output, listener: MemoryListener) -> None:
        self.output = output
        self.listener = listener
        self.sent = 0
        self.resuming: list[Listener] = []

    async def run(self, steps: Sequence[Step]) -> None:
        self.all = await self.listener.connect()
        async with trio.open_nursery() as self.nursery:
            for what, number in steps:
                await self._step(what, number)
            for each in self.resuming:
                each.client.resume_reading()
            # Whoever is closed for being slow has been, and all others have caught up.
            await trio.sleep(60)
            await self.output.flush()
            await trio.sleep(1)

    async def _step(self, what: str, number: int) -> None:
        match what:
            case "send":
                for _ in range(number):
                    await self.output.send({"n": self.sent})
                    self.sent += 1
            case "resume":
                self.nursery.start_soon(self._resume, number)
            case "sleep":
                await trio.sleep(number / 1000)
            case _ if self.resuming:
                each = self.resuming[number % len(self.resuming)]
                if what == "cut":
                    each.cut = True
                    await each.client.cut()
                elif what == "go on":
                    each.client.resume_reading()
                elif not each.stalled:
                    each.client.stop_reading()
                each.stalled = what == "stall"

    async def _resume(self, number: int) -> None:
        events = events_of(self.all)
        event = events[-1 - number % len(events)] if events else None
        asked = "unknown" if event is None else event.get("seq", event["n"])
        client = await self.listener.connect(f"/?since={asked}", buffered=False)
        self.resuming.append(Listener(client, None if event is None else event["n"]))


def run(steps: Sequence[Step], limits: History, delays: Sequence[float], **fields: Any) -> Script:
    async def main() -> Script:
        async with trio.open_nursery() as nursery:
            listener = MemoryListener(nursery)
            history = SlowHistory(limits, delays)
            async with trio_wsout.open_output(
                config(**fields), listeners=[listener], history=history
            ) as output:
                script = Script(output, listener)
                await script.run(steps)
            nursery.cancel_scope.cancel()
        return script

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


FIELDS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "batch": st.just({"mode": "fixed", "fixed-size": 3, "timeout": "1ms"}),
        "server": st.sampled_from([{"send-buffer-capacity": 4}, {"send-buffer-capacity": 1}]),
    },
).flatmap(
    lambda fields: st.sampled_from(
        [{**fields, "delivery": {"stamp": "seq"}}, {**fields, "cursor": {"value-field": "n"}}]
    )
)


@given(STEPS, DELAYS, FIELDS)
def test_what_comes_by_replay_and_what_comes_live_make_one_order_without_gap_or_repetition(
    steps: list[Step], delays: list[float], fields: dict[str, Any]
) -> None:
    script = run(steps, History(), delays, **fields)
    for each in script.resuming:
        got = each.got
        if each.after is None:
            assert not each.resumed
            got = got[got[:1] == [None] :]
            assert got == list(range(len(got)))
        else:
            assert each.resumed
            assert got == list(range(each.after + 1, each.after + 1 + len(got)))
        if not each.cut and each.client.close_code in (None, 1001):
            assert got[-1:] in ([script.sent - 1], []), "it ends with the last event"
            assert len(got) == script.sent - (0 if each.after is None else each.after + 1)


def check_gaps(everything: PeerConnection, each: Listener, *, last: int) -> None:
    """What came is in order, once; what is missing is told, with the last event before it and one behind it.

    From the event that a notice calls the first on, nothing is missing that another notice does not tell.
    """
    notices = iter(each.notices)
    items = [each.after, *each.got] if each.resumed else each.got
    for before, this in pairwise(items):
        assert None in (before, this) or this == (before or 0) + 1, f"nothing tells of a gap: {items}"
    for before, this, after in zip([each.after, *each.got], each.got, [*each.got[1:], None], strict=False):
        if this is None:
            notice = next(notices)
            if before is not None:
                assert notice["asked"] == cursor_of(everything, before)
            if after is not None and notice["first"] is not None:
                assert notice["first"] in [cursor_of(everything, n) for n in range(after, last + 1)]
    numbers = [number for number in each.got if number is not None]
    assert numbers == sorted(set(numbers))
    assert each.resumed or each.got[:1] in ([None], [])
    if not each.cut and each.client.close_code in (None, 1001):
        assert numbers[-1:] in ([last], []), "it ends with the last event"


@given(STEPS, DELAYS, FIELDS, st.integers(1, 12))
def test_what_left_the_history_is_told_and_never_skipped_in_silence(
    steps: list[Step], delays: list[float], fields: dict[str, Any], most: int
) -> None:
    script = run(steps, History(max_events=most), delays, **fields)
    for each in script.resuming:
        check_gaps(script.all, each, last=script.sent - 1)


@pytest.mark.parametrize("stamped", [True, False], ids=["stamped", "not stamped"])
@pytest.mark.parametrize("late", ["append", "read"])
async def test_events_that_leave_around_a_read_are_told_however_late_the_store_answers(
    late: str, stamped: bool, listener: MemoryListener, autojump_clock: trio.testing.MockClock
) -> None:
    """A store of two threads has a read see an append that is not answered yet, or answers a read after it."""
    history = HeldHistory(History(max_events=2))
    fields = config(**{"delivery": {"stamp": "seq"}} if stamped else {"cursor": {"value-field": "n"}})
    async with trio_wsout.open_output(fields, listeners=[listener], history=history) as output:
        everything = await listener.connect()
        for n in range(6):
            await output.send({"n": n})
        await everything.wait_messages(6)
        reading, read = history.hold("read")
        cursor = cursor_of(everything, 4)
        client = await listener.connect(f"/?since={cursor}")
        assert client.headers["resume-status"] == "resumed"
        await reading.wait()
        if late == "append":
            reached, answer = history.hold("kept")
            for n in (6, 7, 8):
                output.send_nowait({"n": n})
            with trio.move_on_after(1):
                await reached.wait()
            read.set()
        else:
            for n in (6, 7, 8):
                output.send_nowait({"n": n})
            with trio.move_on_after(1):
                await everything.wait_messages(9)
            reached, answer = history.hold("found")
            read.set()
            await reached.wait()
        await trio.sleep(1)
        output.send_nowait({"n": 9})
        with trio.move_on_after(1):
            await everything.wait_messages(10)
        answer.set()
        await trio.sleep(10)
        resumed = Listener(client, 4)
        check_gaps(everything, resumed, last=9)
        assert resumed.got[-1:] == [9]
