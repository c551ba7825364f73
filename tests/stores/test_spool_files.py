"""A spool in files: what was appended is there, or an error says where it is damaged; a torn end is cut off."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from disks import fill, mount
from trio_wsout._core.spool_format import HEADER_SIZE
from trio_wsout.errors import SpoolError
from trio_wsout.stores.spool import SpoolFullError
from trio_wsout.stores.spool_files import FileSpool
from trio_wsout.testing import Unreachable, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MOST = 1 << 20


@asynccontextmanager
async def opened(path: Path, most: int = MOST, epoch: int = 7) -> AsyncIterator[tuple[FileSpool, Any]]:
    store = FileSpool(path, most)
    found = await store.open(epoch)
    try:
        yield store, found
    finally:
        await store.aclose()


async def left(store: FileSpool, found: Any) -> list[bytes]:
    """Every event that is not settled."""
    events: list[bytes] = []
    while found.settled + len(events) < found.last:
        events += await store.after(found.settled + len(events), 1000)
    return events


def looks(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir()}


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.spool"))


async def filled(path: Path, groups: int = 3, most: int = MOST) -> list[int]:
    """A spool with groups of two events; gives its size after each."""
    async with opened(path, most) as (store, _):
        return [await store.append([b"a%d" % each, b"b%d" % each], 0) for each in range(groups)]


async def test_what_was_appended_is_there_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    sizes = await filled(path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in path.iterdir()} == {0o600}
    async with opened(path, epoch=8) as (store, found):
        assert (found.epoch, found.settled, found.last, found.size, found.torn) == (7, 0, 6, sizes[-1], 0)
        assert await left(store, found) == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2"]
        await store.append([b"c"], 3)
    async with opened(path) as (store, found):
        assert (found.settled, found.last) == (3, 7)
        assert await left(store, found) == [b"b1", b"a2", b"b2", b"c"]
        await store.append([], 7)
    assert [each.name for each in path.iterdir()] == ["lock"]
    async with opened(path, epoch=9) as (_, found):
        assert (found.epoch, found.settled, found.last) == (9, 0, 0)


async def test_segments_go_as_what_is_in_them_is_settled(tmp_path: Path) -> None:
    async with opened(tmp_path, 40_000) as (store, found):
        for number in range(30):
            size = await store.append([b"x%02d" % number * 300], 0)
        assert len(segments(tmp_path)) == 3
        assert size == sum(each.stat().st_size for each in segments(tmp_path)) <= 40_000
        assert [
            each[:3] for each in await left(store, type(found)(epoch=7, settled=0, last=30, size=0, torn=0))
        ] == [b"x%02d" % number for number in range(30)]
        with pytest.raises(SpoolFullError, match="max-bytes"):
            await store.append([b"y" * 20_000], 0)
        await store.append([b"y" * 20_000], 29)
        assert len(segments(tmp_path)) == 1
        # The newest goes, too, when everything is settled and room is short.
        await store.append([b"z" * 39_000], 31)
        assert len(segments(tmp_path)) == 1
        assert await store.after(31, 1000) == [b"z" * 39_000]


async def test_cut_at_every_byte_of_the_last_group_the_rest_is_there(tmp_path: Path) -> None:
    await filled(tmp_path / "whole")
    (whole,) = segments(tmp_path / "whole")
    content = whole.read_bytes()
    before = (await filled(tmp_path / "other", groups=2))[-1]
    for at in range(before, len(content)):
        path = tmp_path / f"cut{at}"
        path.mkdir()
        (path / whole.name).write_bytes(content[:at])
        async with opened(path) as (store, found):
            assert (found.last, found.torn, found.size) == (4, int(at > before), before)
            assert await left(store, found) == [b"a0", b"b0", b"a1", b"b1"]
            await store.append([b"again"], 0)
        async with opened(path) as (_, found):
            assert (found.last, found.torn) == (5, 0)


async def test_a_segment_that_was_never_begun_is_cut_off(tmp_path: Path) -> None:
    await filled(tmp_path)
    for size in (0, 1, HEADER_SIZE - 1, HEADER_SIZE):
        (tmp_path / f"{7:020}.spool").write_bytes(bytes(size))
        async with opened(tmp_path) as (_, found):
            assert (found.last, found.torn) == (6, 1)
        assert len(segments(tmp_path)) == 1


async def test_a_changed_byte_in_the_middle_refuses_to_start_and_changes_nothing(tmp_path: Path) -> None:
    sizes = await filled(tmp_path)
    (segment,) = segments(tmp_path)
    content = segment.read_bytes()
    for at in range(sizes[1]):
        changed = bytearray(content)
        changed[at] ^= 0x10
        segment.write_bytes(bytes(changed))
        before = looks(tmp_path)
        offset = max(each for each in (0, HEADER_SIZE, *sizes) if each <= at)
        with pytest.raises(SpoolError, match=rf"damaged at byte {offset}: .*restore") as caught:
            async with opened(tmp_path):
                pass
        assert str(segment) in str(caught.value)
        assert looks(tmp_path) == before


async def test_damage_is_told_by_open_output_and_by_what_reads_later(tmp_path: Path) -> None:
    sizes = await filled(tmp_path)
    (segment,) = segments(tmp_path)
    content = bytearray(segment.read_bytes())
    content[sizes[0] + 30] ^= 1
    async with opened(tmp_path) as (store, _):
        segment.write_bytes(bytes(content))
        with pytest.raises(SpoolError, match=f"damaged at byte {sizes[0]}"):
            await store.after(2, 1)
    with pytest.raises(SpoolError, match="damaged"):
        async with trio_wsout.open_output({"url": "ws://h/", "spool": {"path": str(tmp_path)}}):
            pytest.fail("the block must not begin")


async def gapped(path: Path, settled: int) -> None:
    """A spool of events 1 to 4, a file each, in which the files of 2 and 3 are missing, and `settled` are settled."""
    async with opened(path, 60_000) as (store, _):
        for number in (b"1", b"2", b"3"):
            await store.append([number * 16_000], 0)
        (first, *_) = segments(path)
        kept = first.read_bytes()
        assert len(segments(path)) == 3
        await store.append([b"4" * 100], settled)
    first.write_bytes(kept)
    for name in (2, 3):
        (path / f"{name:020}.spool").unlink(missing_ok=True)
    assert [each.name for each in segments(path)] == [f"{each:020}.spool" for each in (1, 4)]


async def test_a_gap_between_files_is_none_where_all_that_was_in_it_is_settled(tmp_path: Path) -> None:
    await gapped(tmp_path, settled=3)
    async with opened(tmp_path, 60_000) as (store, found):
        assert (found.settled, found.last, found.torn) == (3, 4, 0)
        assert await left(store, found) == [b"4" * 100]
        assert [each.name for each in segments(tmp_path)] == [f"{4:020}.spool"], "the settled one is removed"


@pytest.mark.parametrize("settled", [0, 1, 2])
async def test_a_gap_between_files_with_something_in_it_that_is_not_settled_is_damage(
    settled: int, tmp_path: Path
) -> None:
    await gapped(tmp_path, settled)
    before = looks(tmp_path)
    with pytest.raises(SpoolError, match="events 2 to 3 are missing"):
        async with opened(tmp_path, 60_000):
            pass
    assert looks(tmp_path) == before


RECORDER = """
import functools, json, os, sys

calls = []


def place(number):
    name = os.readlink(f"/proc/self/fd/{number}") if isinstance(number, int) else str(number)
    return "." if os.path.isdir(name) else os.path.basename(name).removesuffix(" (deleted)").lstrip("0")


def recorded(told, real):
    @functools.wraps(real)
    def call(what, *args, **more):
        result = real(what, *args, **more)
        if told != "make":
            calls.append(f"{told} {place(what)}")
        elif args[0] & os.O_EXCL:
            calls.append(f"{told} {place(what)}")
        return result

    return call


for name, told in {
    "fsync": "sync", "fdatasync": "sync", "pwrite": "write", "ftruncate": "cut", "unlink": "remove", "open": "make"
}.items():
    if hasattr(os, name):
        setattr(os, name, recorded(told, getattr(os, name)))

import trio
from pathlib import Path
from trio_wsout.stores.spool_files import FileSpool


async def main():
    store = FileSpool(Path(sys.argv[1]), 60_000)
    await store.open(1)
    for events, settled in json.loads(sys.argv[2]):
        await store.append([each.encode() * 16_000 for each in events], settled)
    await store.aclose()


trio.run(main)
print(json.dumps(calls))
"""


def recorded(path: Path, *groups: tuple[list[str], int]) -> list[str]:
    """What the system was asked for, in its order, by a spool to which these groups were appended."""
    run = subprocess.run(
        [sys.executable, "-c", RECORDER, path, json.dumps(groups)], check=True, capture_output=True, text=True
    )
    found: list[str] = json.loads(run.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="it asks /proc which file a descriptor is")
def test_a_file_is_synced_and_its_directory_before_a_record_goes_in_and_each_record_before_the_next(
    tmp_path: Path,
) -> None:
    one, two, three = (f"{number}.spool" for number in (1, 2, 3))
    begun = [
        [f"make {name}", f"write {name}", f"sync {name}", "sync .", f"write {name}", f"sync {name}"]
        for name in (one, two, three)
    ]
    gone = [[f"remove {name}", "sync ."] for name in (one, two, three)]
    assert recorded(tmp_path, (["a"], 0), (["b"], 0)) == [*begun[0], *begun[1]]
    # Those that are settled leave one by one, oldest first, and each is synced before the next.
    rest = recorded(tmp_path, (["c"], 2), ([], 3))
    assert rest == [*gone[0], *begun[2], *gone[1], f"write {three}", f"sync {three}", *gone[2]]


@pytest.mark.skipif(sys.platform != "linux", reason="it asks /proc which file a descriptor is")
def test_a_torn_end_that_was_cut_off_is_synced_before_anything_is_written(tmp_path: Path) -> None:
    recorded(tmp_path, (["a"], 0))
    (segment,) = segments(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-1])
    begun = ["cut 1.spool", "sync 1.spool"]
    assert recorded(tmp_path, (["b"], 0))[:3] == [*begun, "remove 1.spool"]


async def test_a_missing_or_misplaced_segment_is_damage(tmp_path: Path) -> None:
    async with opened(tmp_path, 8000) as (store, _):
        for _ in range(9):
            await store.append([b"x" * 700], 0)
    first, second, *rest = segments(tmp_path)
    assert rest
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(SpoolError, match="events 3 to 4 are missing|events 4 to 6 are missing"):
        async with opened(tmp_path):
            pass
    second.write_bytes(first.read_bytes())
    with pytest.raises(SpoolError, match="by its header"):
        async with opened(tmp_path):
            pass
    second.write_bytes(content)
    async with opened(tmp_path) as (_, found):
        assert found.last == 9


async def test_only_one_output_at_a_time(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(SpoolError, match="another output uses it"):
            async with opened(tmp_path):
                pass
    async with opened(tmp_path):
        pass


def place_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a directory": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to("elsewhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "others may write": lambda path: (path.touch(), path.chmod(0o666)),
    "text": lambda path: path.write_bytes(b"no spool " * 100),
    "large": lambda path: path.touch() or os.truncate(path, 1 << 40),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("name", ["lock", f"{1:020}.spool"])
async def test_what_is_no_file_of_a_spool_is_told_and_left_alone(
    name: str, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "spool"
    path.mkdir()
    HOSTILE[what](path / name)
    if name == "lock" and what in ("text", "large"):
        return
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
    (tmp_path / "1.spool").write_text("mine")
    await filled(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "1.spool").read_text() == "mine"


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
        size = await store.append([b"first"], 0)
        filler = fill(small_disk)
        with pytest.raises(SpoolFullError, match="the disk is full"):
            await store.append([b"x" * 9000], 0)
        assert segments(path)[0].stat().st_size == size
        await store.append([], 0)  # a hint: it needs no room
        filler.unlink()
        await store.append([b"second"], 0)
    async with opened(path) as (store, found):
        assert await left(store, found) == [b"first", b"second"]
        assert found.torn == 0


async def test_a_disk_too_full_for_a_segment_leaves_nothing_half_made(small_disk: Path) -> None:
    path = small_disk / "spool"
    async with opened(path) as (store, _):
        filler = fill(small_disk)
        with pytest.raises(SpoolFullError, match="the disk is full"):
            await store.append([b"first"], 0)
        assert segments(path) == []
        filler.unlink()
        await store.append([b"first"], 0)
    mount(small_disk, "remount,ro")
    with pytest.raises(SpoolError, match="name a path that can be written to"):
        async with opened(path):
            pass
    mount(small_disk, "remount,rw")
    async with opened(path) as (store, found):
        assert await left(store, found) == [b"first"]


async def test_a_limit_of_the_system_breaks_it_and_nothing_is_lost(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        async with opened(tmp_path) as (store, _):
            await store.append([b"first"], 0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
            with pytest.raises(SpoolError, match="can't be written: File too large"):
                await store.append([b"x" * 4000], 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    async with opened(tmp_path) as (store, found):
        assert await left(store, found) == [b"first"]
        assert found.torn == 1


async def test_a_removed_file_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, _):
        await store.append([b"first"], 0)
        segments(tmp_path)[0].unlink()
        with pytest.raises(SpoolError, match="was removed"):
            await store.append([b"second"], 0)


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
