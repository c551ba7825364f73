"""A spool on disk: what was appended is there, or an error names what is damaged; one output at a time; full disks."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing, suppress
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
import trio
import trio_wsout
from disks import fill, mount
from trio_wsout.errors import SpoolError
from trio_wsout.stores.log import Entry, Extent, Kind, LogFullError
from trio_wsout.stores.log_sqlite import SqliteLog, spool_in
from trio_wsout.testing import Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@asynccontextmanager
async def opened(path: Path, epoch: int = 7) -> AsyncIterator[tuple[SqliteLog, Extent]]:
    store = spool_in(path)
    found = await store.open(epoch, keep_epoch=True)
    try:
        yield store, found
    finally:
        await store.aclose()


def events(after: int, *payloads: bytes, epoch: int = 7) -> list[Entry]:
    return [Entry(n, epoch, Kind.TEXT, each, None, 0.0) for n, each in enumerate(payloads, after + 1)]


async def left(store: SqliteLog) -> list[bytes]:
    """Every event that is not settled."""
    found: list[Entry] = []
    while page := await store.after(found[-1].position if found else 0, most=9, most_bytes=100):
        found += page
    return [each.payload for each in found]


async def filled(path: Path, groups: int = 3) -> None:
    """Make a spool with groups of two events."""
    async with opened(path) as (store, _):
        for number in range(groups):
            await store.append(events(2 * number, b"a%d" % number, b"b%d" % number))


async def test_what_was_appended_is_there_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    async with opened(path) as (store, _):
        await store.append(events(0, b"a", b"b", b"c"))
        assert path.stat().st_mode & 0o777 == 0o700
        assert {each.stat().st_mode & 0o777 for each in path.iterdir()} == {0o600}
    async with opened(path, epoch=8) as (store, found):
        assert found == Extent(epoch=7, floor=0, tail=3, size=3), "stamps stay as they were"
        assert await left(store) == [b"a", b"b", b"c"]
        await store.append(events(3, b"d"), 2)
    async with opened(path) as (store, found):
        assert (found.floor, found.tail, found.size) == (2, 4, 2)
        assert await left(store) == [b"c", b"d"]
        await store.append([], 4)
    async with opened(path, epoch=9) as (_, found):
        assert found == Extent(epoch=9, floor=4, tail=4, size=0), "it is empty: nobody knows the old stamps"


async def test_a_spool_without_events_gives_its_room_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, _):
        for number in range(100):
            await store.append(events(number, b"x" * 10_000))
        assert (tmp_path / "spool.db").stat().st_size + (tmp_path / "spool.db-wal").stat().st_size > 1_000_000
        await store.append([], 100)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 50_000


async def test_the_room_of_what_settled_is_used_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, _):
        for number in range(300):
            await store.append(events(number, b"x" * 10_000), number)
        assert (tmp_path / "spool.db").stat().st_size < 500_000
        assert await left(store) == [b"x" * 10_000]


@pytest.mark.parametrize("kept", ["spool.db", "spool.db-wal"])
async def test_a_crash_in_the_middle_of_a_commit_costs_only_that_commit(kept: str, tmp_path: Path) -> None:
    """Cut the write-ahead log at many places: whole commits are there, in order, and the spool goes on."""
    async with opened(tmp_path / "whole") as (store, _):
        for number in range(3):
            await store.append(events(number, b"%d" % number * 500))
        main, log = ((tmp_path / "whole" / name).read_bytes() for name in ("spool.db", "spool.db-wal"))
    seen = set[int]()
    for cut in range(0, len(log), 997):
        path = tmp_path / f"cut{cut}{kept}"
        path.mkdir(mode=0o700)
        (path / "spool.db").write_bytes(main)
        (path / "spool.db-wal").write_bytes(log[:cut])
        async with opened(path) as (store, found):
            seen.add(found.tail)
            assert await left(store) == [b"%d" % number * 500 for number in range(found.tail)]
            await store.append(events(found.tail, b"again", epoch=found.epoch))
        async with opened(path) as (_, again):
            assert again.tail == found.tail + 1
    assert seen >= {0, 1, 2}


async def test_a_file_that_was_made_and_never_written_is_a_new_spool(tmp_path: Path) -> None:
    (tmp_path / "spool.db").touch(mode=0o600)
    async with opened(tmp_path) as (_, found):
        assert (found.epoch, found.tail) == (7, 0)


async def test_damage_is_told_with_the_number_of_the_event_and_the_rest_can_be_read(tmp_path: Path) -> None:
    await filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "spool.db", isolation_level=None)) as database:
        database.execute("UPDATE log_runs SET body = x'61315858' WHERE last = 4")
    async with opened(tmp_path) as (store, _):
        assert [each.payload for each in await store.after(0, most=9, most_bytes=99)] == [b"a0", b"b0", b"a1"]
        with pytest.raises(SpoolError, match=r"event 4 is damaged; restore"):
            await store.after(3, most=9, most_bytes=99)
        assert [each.payload for each in await store.after(4, most=9, most_bytes=99)] == [b"a2", b"b2"]
    async with open_peer() as peer:
        with pytest.raises(SpoolError, match="event 4 is damaged"):
            async with trio_wsout.open_output(
                {"url": "ws://h/", "spool": {"path": str(tmp_path)}}, open_stream=peer.open_stream
            ) as output:
                with pytest.raises(trio.BrokenResourceError):
                    await output.flush()


async def test_a_file_of_something_else_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    for content in (b"no database " * 100, b"short"):
        (tmp_path / "spool.db").write_bytes(content)
        (tmp_path / "spool.db").chmod(0o600)
        with pytest.raises(SpoolError, match="restore it or remove it|cut off"):
            async with opened(tmp_path):
                pass
        assert (tmp_path / "spool.db").read_bytes() == content


async def test_only_one_output_at_a_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, _):
        for _ in range(2):
            with pytest.raises(SpoolError, match="only one may use it at a time: stop the other"):
                async with opened(tmp_path):
                    pass
        await store.append(events(0, b"x"))
    async with opened(tmp_path) as (_, found):
        assert found.tail == 1


def place_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": place_socket,
    "a directory": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to("elsewhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "others may write": lambda path: (path.touch(), path.chmod(0o666)),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("name", ["spool.db", "spool.db-wal", "spool.db-reserve"])
async def test_what_is_no_file_of_a_spool_is_told_and_left_alone(
    name: str, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    HOSTILE[what](path / name)
    (tmp_path / "elsewhere").write_text("mine")
    with trio.fail_after(120):
        with pytest.raises(SpoolError, match=r"\b(remove|restore|chmod|name)\b") as caught:
            async with opened(path):
                pass
    assert str(path / name) in str(caught.value)
    assert name in [each.name for each in path.iterdir()]
    assert (tmp_path / "elsewhere").read_text() == "mine"


async def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    await filled(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none/spool", "create its directory"),
        ("plain", "no directory|name"),
        ("plain/x", "no directory"),
        ("a\0b", "spool.path"),
    ],
)
async def test_a_place_that_can_not_be_is_told(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("mine")
    with pytest.raises(SpoolError, match=says):
        async with opened(tmp_path / name):
            pass
    assert (tmp_path / "plain").read_text() == "mine"


async def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    with pytest.raises(SpoolError, match="chmod 700"):
        async with opened(path):
            pass
    if os.geteuid() == 0:
        path.chmod(0o700)
        os.chown(path, 65534, 65534)
        with pytest.raises(SpoolError, match="somebody else"):
            async with opened(path):
                pass
    assert list(path.iterdir()) == []


async def test_a_full_disk_takes_nothing_of_a_group_and_goes_on_later(small_disk: Path) -> None:
    path = small_disk / "spool"
    async with opened(path) as (store, _):
        extent = await store.append(events(0, b"first"))
        filler = fill(small_disk)
        with pytest.raises(LogFullError, match="disk is full; free some space"):
            for _ in range(9):
                extent = await store.append(events(extent.tail, b"x" * 9000))
        filler.unlink()
        await store.append(events(extent.tail, b"second"))
    async with opened(path) as (store, found):
        assert [each[:9] for each in await left(store)] == [
            b"first", *[b"x" * 9] * (found.tail - 2), b"second",
        ]  # fmt: skip


@pytest.fixture(params=["400k", "12m"])
def disk(request: pytest.FixtureRequest, remount: Callable[[str], None], small_disk: Path) -> Path:
    """A disk of this size of its own."""
    remount(f"size={request.param}")
    return small_disk


async def until_full(store: SqliteLog, tail: int, size: int, settled: int = 0) -> int:
    """Append until the disk is full; return the number of the last event."""
    with pytest.raises(LogFullError):
        while True:
            tail = (await store.append(events(tail, b"x" * size), settled)).tail
    return tail


@pytest.mark.parametrize("size", [2000, 9000])
async def test_a_full_disk_goes_on_when_all_events_have_left(disk: Path, size: int) -> None:
    path = disk / "spool"
    async with opened(path) as (store, _):
        tail = 0
        for _ in range(3):
            before, tail = tail, await until_full(store, tail, size, tail)
            assert tail > before + 5
            fill(disk).rename(disk / "mine")
            with suppress(LogFullError):  # there may be no room to store that only some have left
                await store.append([], tail - 1)
            extent = await store.append([], tail)
            assert (extent.floor, extent.tail, extent.size) == (tail, tail, 0)
            assert (path / "spool.db").stat().st_size < 50_000
            extent = await store.append(events(tail, b"next"), tail)
            assert await left(store) == [b"next"]
            tail = extent.tail
            (disk / "mine").unlink()


async def test_a_full_disk_stores_what_left_with_the_next_event(disk: Path) -> None:
    async with opened(disk / "spool") as (store, _):
        tail = await until_full(store, 0, 900)
        fill(disk)
        with pytest.raises(LogFullError):
            await store.append(events(tail, b"too early" * 999), tail - 1)
        await store.append(events(tail, b"next"), tail)
        assert await left(store) == [b"next"]
        tail = await until_full(store, tail + 1, 9000)
        with pytest.raises(LogFullError):
            await store.append(events(tail, bytes(20_000_000)), tail)
        assert (await store.append([], tail)).events == 0


FILLING = """
    import sys
    from pathlib import Path
    import trio
    from trio_wsout.stores.log import Entry, Kind, LogFullError
    from trio_wsout.stores.log_sqlite import spool_in

    async def main():
        store = spool_in(Path(sys.argv[1]))
        extent = await store.open(7, keep_epoch=True)
        tail, epoch = extent.tail, extent.epoch
        try:
            while True:
                tail = (await store.append([Entry(tail + 1, epoch, Kind.TEXT, b"x" * 3000, None, 0.0)])).tail
        except LogFullError:
            if sys.argv[2] == "confirmed":
                await store.append([], tail)
        print(tail, flush=True)
        await trio.sleep_forever()

    trio.run(main)
"""


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("confirmed", ["confirmed", "open"])
async def test_a_start_on_a_disk_that_is_still_full_sends_what_is_left_and_goes_on(
    disk: Path, confirmed: str
) -> None:
    path = disk / "spool"
    tail = 0
    for _ in range(2):
        script = [sys.executable, "-c", dedent(FILLING), str(path), confirmed]
        with start(script) as run:
            assert run.stdout is not None
            before, tail = tail, int(run.stdout.readline())
            run.kill()
        fill(disk).rename(disk / "mine")
        async with opened(path, epoch=9) as (store, found):
            assert found.tail == tail > before
            assert found.events == len(await left(store)) == (tail - before if confirmed == "open" else 0)
            assert (await store.append([], tail)).events == 0
            if confirmed == "confirmed":
                (disk / "mine").unlink()  # it took the room of what had left
            tail = (await store.append(events(tail, b"next", epoch=found.epoch))).tail
            assert (await store.append([], tail)).events == 0
        (disk / "mine").unlink(missing_ok=True)


async def test_a_disk_too_full_for_a_spool_leaves_nothing_in_the_way(small_disk: Path) -> None:
    path = small_disk / "spool"
    filler = fill(small_disk)
    with pytest.raises(SpoolError, match="full|space"):
        async with opened(path):
            pass
    filler.unlink()
    async with opened(path) as (store, _):
        await store.append(events(0, b"first"))
    mount(small_disk, "remount,ro")
    with pytest.raises(SpoolError, match="look at the disk|readonly|unable to open"):
        async with opened(path):
            pass
    mount(small_disk, "remount,rw")
    async with opened(path) as (store, _):
        assert await left(store) == [b"first"]


async def test_a_limit_of_the_system_breaks_it_and_nothing_is_lost(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        async with opened(tmp_path) as (store, _):
            await store.append(events(0, b"first"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
            with pytest.raises(SpoolError, match="can't be written: disk I/O error; look at the disk"):
                await store.append(events(1, b"x" * 200_000))
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    async with opened(tmp_path) as (store, _):
        assert await left(store) == [b"first"]


async def test_a_removed_file_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, _):
        await store.append(events(0, b"first"))
        (tmp_path / "spool.db").unlink()
        with pytest.raises(SpoolError, match="it was removed or replaced while it was open"):
            await store.append(events(1, b"second"))


async def test_a_full_disk_under_a_live_link_makes_send_wait_and_statistics_say_why(small_disk: Path) -> None:
    config = {"url": "ws://peer.test/", "spool": {"path": str(small_disk / "spool")}}
    async with open_peer() as peer, trio_wsout.open_output(config, open_stream=peer.open_stream) as output:
        await output.send("first")
        await output.flush()
        filler = fill(small_disk)
        sent = trio.Event()

        async def post() -> None:
            await output.send("x" * 9000)
            sent.set()

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(post)
                while output.statistics().spool.waits is None:
                    await trio.sleep(0.01)
                assert output.statistics().spool.waits == "the disk is full"
                with trio.move_on_after(0.2):
                    await output.send("y" * 9000)
                    pytest.fail("there is no room")
                assert not sent.is_set()
                filler.unlink()
                await sent.wait()
        await output.flush()
        assert output.statistics().spool.waits is None
        assert peer.messages == ["first", "x" * 9000]


async def test_what_is_left_goes_first_with_the_stamps_that_it_had(tmp_path: Path) -> None:
    config = {
        "url": "ws://peer.test/",
        "spool": {"path": str(tmp_path / "spool")},
        "shutdown-timeout": "50ms",
        "delivery": {"stamp": "seq"},
    }
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with pytest.raises(
            trio_wsout.DeliveryError, match=f"3 accepted events .*stays in the spool at {tmp_path}"
        ) as caught:
            async with trio_wsout.open_output(config, open_stream=peer.open_stream) as output:
                for number in range(2):
                    await output.send({"n": number})
                receipt = await output.submit({"n": 2})
        assert caught.value.undelivered == ()
        with pytest.raises(trio_wsout.DeliveryError, match="goes first at the next start"):
            await receipt.wait()
        statistics = output.statistics()
        assert (statistics.accepted, statistics.undelivered, statistics.unconfirmed) == (3, 0, 3)
    async with open_peer() as peer:
        async with trio_wsout.open_output(
            {**config, "shutdown-timeout": "10s"}, open_stream=peer.open_stream
        ) as output:
            assert (output.statistics().spool.events, output.statistics().accepted) == (3, 3)
            await output.send({"n": 3})
            await output.flush()
        events = [json.loads(each) for each in peer.messages]
    assert [each["n"] for each in events] == [0, 1, 2, 3]
    assert [each["seq"].split("-")[1] for each in events] == ["1", "2", "3", "4"]
    assert len({each["seq"].split("-")[0] for each in events}) == 1


async def test_a_link_that_gave_up_says_what_stays(tmp_path: Path) -> None:
    config = {"url": "ws://peer.test/", "spool": {"path": str(tmp_path)}, "reconnect": {"max-attempts": 1}}
    async with open_peer() as peer:
        peer.plan(then=Unreachable())
        with pytest.raises(trio_wsout.ConnectError, match="1 accepted event stays in the spool") as caught:
            async with trio_wsout.open_output(config, open_stream=peer.open_stream) as output:
                await output.send("x")
        assert caught.value.undelivered == ()
