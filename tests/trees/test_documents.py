"""Documents on the mock clock: parts in time, and each end told exactly once (SPEC 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_wsout
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from tests.trees.test_spool import Disk
from trio_wsout import Document
from trio_wsout.testing import Accept, MemoryListener, Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout import Output, Receipt


def documents(**more: Any) -> dict[str, Any]:
    batch = {"mode": "document", "use-document-marker": True, "wrap-as-json": True, **more.pop("batch", {})}
    return {"url": "ws://peer.test/", "batch": batch, **more}


async def test_a_steady_document_goes_in_parts_each_a_timeout_after_its_first_event(
    autojump_clock: object,
) -> None:
    times: list[float] = []
    async with open_peer() as peer:
        async with trio_wsout.open_output(documents(), open_stream=peer.open_stream) as output:
            start = trio.current_time()

            async def heartbeat_task() -> None:
                for count in range(1, 4):
                    await peer.wait_messages(count)
                    times.append(round(trio.current_time() - start, 6))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(heartbeat_task)
                for number in range(7):  # one every 40 ms: the document is never quiet
                    await output.send(number)
                    await trio.sleep(0.04)
                end = await output.end_document()
                await end.wait()
        assert times == [0.1, 0.22, 0.28]
        assert peer.messages == ["[0,1,2]", "[3,4,5]", "[6]"]
        assert end.document == Document(id=1, first=False, last=True, count=1)


async def test_a_quiet_document_goes_on(autojump_clock: object) -> None:
    async with open_peer() as peer:
        async with trio_wsout.open_output(documents(), open_stream=peer.open_stream) as output:
            first = await output.submit(1)
            await trio.sleep(3600)
            assert first.document == Document(id=1, first=True, last=False, count=1)
            second = await output.submit(2)
            end = await output.end_document()
            await second.wait()
            assert second.document == end.document == Document(id=1, first=False, last=True, count=1)
            third = await output.submit(3)
        assert third.document == Document(id=2, first=True, last=True, count=1), (
            "the end of the output ends it"
        )
        assert output.statistics().last_document == third.document


async def test_an_end_with_nothing_open_is_told_behind_its_events(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(Accept(pong_after=5))
        async with trio_wsout.open_output(documents(), open_stream=peer.open_stream) as output:
            await output.send(1)
            await trio.sleep(0.2)
            end = await output.end_document()
            await trio.sleep(1)
            assert not end.settled
            assert output.statistics().last_document is None
            await end.wait()
            assert end.document == Document(id=1, first=False, last=True, count=0)
            assert output.statistics().last_document == end.document
            nothing = await output.end_document()
            await nothing.wait()
            assert nothing.document is None, "a document without events is none"
            await output.send(2)
            await output.flush()
        assert output.statistics().last_document == Document(id=2, first=False, last=True, count=0)
        assert peer.messages == ["[1]", "[2]"]


async def test_an_end_that_is_cancelled_or_cut_off_is_not_told(autojump_clock: object) -> None:
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with trio.move_on_after(1):
            async with trio_wsout.open_output(documents(), open_stream=peer.open_stream) as output:
                await output.send(1)
                end = await output.end_document()
                await trio.sleep_forever()
        with pytest.raises(trio_wsout.DeliveryError, match="no end of the document") as caught:
            await end.wait()
        assert caught.value.undelivered == ()
        assert output.statistics().last_document is None
        with pytest.raises(trio_wsout.DeliveryError):
            async with trio_wsout.open_output(
                documents(**{"shutdown-timeout": "1s"}), open_stream=peer.open_stream
            ) as output:
                await output.send(1)
                await trio.sleep(1)
                end = await output.end_document()
        with pytest.raises(trio_wsout.DeliveryError, match="shutdown-timeout"):
            await end.wait()
        assert output.statistics().last_document is None


async def test_an_end_behind_an_event_that_is_undelivered_is_told_all_the_same(
    autojump_clock: object,
) -> None:
    sending, taking = trio.open_memory_channel[trio_wsout.Undelivered](10)
    fields = documents(payload="binary-base64", batch={"wrap-as-json": False})
    async with open_peer() as peer, taking:
        async with trio_wsout.open_output(
            fields, open_stream=peer.open_stream, undelivered=sending
        ) as output:
            await output.send("YQ==")
            await output.send("no base64!")
            end = await output.end_document()
            await end.wait()
            assert end.document == Document(id=1, first=True, last=True, count=1)
            assert taking.receive_nowait().event == "no base64!"


async def test_a_last_part_that_is_undelivered_is_no_confirmed_part(autojump_clock: object) -> None:
    sending, taking = trio.open_memory_channel[trio_wsout.Undelivered](10)
    async with open_peer() as peer, taking:
        peer.plan(Accept(close_after=(1, 1009), pong_after=None), Accept())
        async with trio_wsout.open_output(
            documents(), open_stream=peer.open_stream, undelivered=sending
        ) as output:
            lost = await output.submit(1)
            end = await output.end_document()
            await end.wait()
            assert taking.receive_nowait().event == 1
            assert end.document == Document(id=1, first=True, last=True, count=1)
            assert lost.document is None
            assert output.statistics().last_document is None
            await output.send(2)
        assert output.statistics().last_document == Document(id=2, first=True, last=True, count=1)


async def test_what_an_earlier_life_left_is_no_part_of_a_new_document(autojump_clock: object) -> None:
    disk = Disk(takes=0, events=[1, 2])
    async with open_peer() as peer:
        fields = documents(spool={"path": "/spool"})
        async with trio_wsout.open_output(fields, open_stream=peer.open_stream, spool=disk) as output:
            new = await output.submit(3)
            await output.end_document()
            await new.wait()
            assert new.document == Document(id=2, first=True, last=True, count=1)
        assert peer.messages == ["[1,2]", "[3]"]


async def test_a_spool_that_ends_with_a_document_open_says_so(autojump_clock: object) -> None:
    disk = Disk(takes=0)
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with pytest.raises(trio_wsout.DeliveryError):
            async with trio_wsout.open_output(
                documents(spool={"path": "/spool"}, **{"shutdown-timeout": "1s"}),
                open_stream=peer.open_stream,
                spool=disk,
            ) as output:
                for number in range(3000):
                    await output.send(number)
                end = await output.end_document()
        with pytest.raises(trio_wsout.DeliveryError):
            await end.wait()


# -- a law --------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 5)),
        st.tuples(st.just("sleep"), st.integers(1, 200)),
        st.tuples(st.sampled_from(["end", "end", "flush"]), st.just(0)),
    ),
    max_size=25,
)


@define
class Told:
    """What was sent and ended, and the receipts of that."""

    sent: list[tuple[int, Receipt]] = field(factory=list)
    """Each event's document, by the ends that were asked for, and its receipt."""
    ends: list[tuple[bool, Receipt]] = field(factory=list)
    """Whether a document was ended, and the receipt."""
    document: int = 1
    since: int = 0
    """Events since the latest end."""

    async def run(self, output: Output, steps: Sequence[tuple[str, int]]) -> None:
        for what, count in steps:
            if what == "send":
                for _ in range(count):
                    self.sent.append((self.document, await output.submit(len(self.sent))))
                    self.since += 1
            elif what == "sleep":
                await trio.sleep(count / 1000)
            elif what == "flush":
                await output.flush()
            else:
                self.ends.append((self.since > 0, await output.end_document()))
                self.document += self.since > 0
                self.since = 0

    def check(self, latest: Document | None) -> None:
        by_document: dict[int, list[Document]] = {}
        for number, receipt in self.sent:
            marker = receipt.document
            assert marker is not None
            assert marker.id == number, "the events of a document have its id"
            parts = by_document.setdefault(number, [])
            if not parts or parts[-1] != marker:
                parts.append(marker)
        real = [receipt.document for ended, receipt in self.ends if ended]
        assert [receipt.document for ended, receipt in self.ends if not ended] == [None] * (
            len(self.ends) - len(real)
        )
        assert [marker and marker.id for marker in real] == list(range(1, len(real) + 1))
        if self.since:  # the end of the output ended the last
            assert latest is not None
            real.append(latest)
        for number, end in enumerate(real, 1):
            assert end is not None
            assert end.last
            lasts = [marker for marker in by_document[number] if marker.last]
            assert lasts == ([end] if end.count else []), (
                "the end is told once: by its last part, or by an empty one"
            )
            assert by_document[number][0].first
        if real:
            assert latest == real[-1]


@given(STEPS, st.sampled_from([None, 1, 2, 3]), st.booleans(), st.sampled_from([0, 0.05, 3]))
def test_each_document_has_one_id_and_one_end_whatever_its_parts(
    steps: list[tuple[str, int]], most: int | None, serving: bool, pong_after: float
) -> None:
    async def main() -> tuple[Told, Document | None]:
        told = Told()
        batch = {} if most is None else {"fixed-size": most}
        async with open_peer() as peer, trio.open_nursery() as nursery:
            peer.plan(Accept(pong_after=pong_after))
            fields: dict[str, Any] = documents(batch=batch)
            if serving:
                del fields["url"]
                fields |= {"mode": "server-output", "server": {"bind": "127.0.0.1:0"}}
            listener = MemoryListener(nursery)
            async with trio_wsout.open_output(
                fields,
                open_stream=None if serving else peer.open_stream,
                listeners=[listener] if serving else None,
            ) as output:
                if serving:
                    await listener.connect()
                await told.run(output, steps)
            nursery.cancel_scope.cancel()
        return told, output.statistics().last_document

    told, latest = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    told.check(latest)
