"""History stores: one naive model, restarts, crashes, full disks and damage; all or none, never silence."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import valkey_server
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio_wsout._core.durable_log import Entry, Extent, Kind
from trio_wsout.config import History
from trio_wsout.errors import HistoryError
from trio_wsout.stores.from_config import open_history_store
from trio_wsout.stores.log_memory import MemoryLog
from trio_wsout.stores.log_sqlite import SqliteLog
from valkey_server import running, valkey_log

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence

    from trio_wsout.stores.log import LogStore

ALONE = ["memory", "sqlite"]
"""Stores to which one output writes at a time, and which it numbers."""
KINDS = [*ALONE, "valkey"]
ALL = 1 << 30
NONE = History()
FEWER = settings(max_examples=max(20, settings.default.max_examples // 4))
"""For what syncs to a disk at every step."""
every = pytest.mark.parametrize("kind", KINDS)
both = pytest.mark.parametrize("kind", ALONE)


def make(kind: str, folder: Path, limits: History = NONE) -> LogStore:
    if kind == "valkey":
        return valkey_log(valkey_server.server(), folder.name, limits)
    return MemoryLog(limits) if kind == "memory" else SqliteLog(folder / "h.db", limits)


@asynccontextmanager
async def opened(
    kind: str, folder: Path, limits: History = NONE, epoch: int = 1
) -> AsyncGenerator[LogStore, None]:
    store = make(kind, folder, limits)
    async with running(store):
        await store.open(epoch)
        try:
            yield store
        finally:
            await store.aclose()


def entry(position: int, cursor: str | None = None, *, epoch: int = 1, size: int = 1, at: float = 0) -> Entry:
    return Entry(position, epoch, Kind.JSON, b"x" * size, cursor, float(at))


def entries(*positions: int, epoch: int = 1, size: int = 1) -> list[Entry]:
    return [entry(each, f"c{each}", epoch=epoch, size=size) for each in positions]


async def everything(store: LogStore) -> list[Entry]:
    found: list[Entry] = []
    while page := await store.after(found[-1].position if found else 0, most=ALL, most_bytes=ALL):
        found += page
    return found


async def positions(store: LogStore) -> list[int]:
    return [each.position for each in await everything(store)]


@every
async def test_what_was_appended_is_there_in_pages(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, epoch=7) as store:
        assert await store.append([]) == Extent(epoch=7, floor=0, tail=0, size=0)
        kept = entries(1, 2, 3, 4, epoch=7, size=10)
        assert await store.append(kept[:1]) == Extent(epoch=7, floor=0, tail=1, size=10)
        assert await store.append(kept[1:]) == Extent(epoch=7, floor=0, tail=4, size=40)
        assert await everything(store) == kept
        assert await store.after(2, most=1, most_bytes=ALL) == kept[2:3]
        assert await store.after(2, most=9, most_bytes=19) == kept[2:3]
        assert await store.after(2, most=9, most_bytes=20) == kept[2:]
        assert await store.after(0, most=9, most_bytes=0) == kept[:1]
        assert await store.after(4, most=9, most_bytes=ALL) == []


@every
async def test_the_newest_of_equal_cursors_and_the_last_that_left_are_found(
    kind: str, tmp_path: Path
) -> None:
    async with opened(kind, tmp_path, History(max_events=3)) as store:
        await store.append([entry(1, "a"), entry(2, "b"), entry(3, "a")])
        assert [await store.find(each) for each in ("a", "b", "c", "")] == [3, 2, None, None]
        await store.append([entry(4)])
        assert await store.find("a") == 3
        await store.append([entry(5)])
        assert [await store.find(each) for each in "ab"] == [3, 2]
        await store.append([entry(6)])
        assert [await store.find(each) for each in "ab"] == [3, None]
        await store.append([entry(7)])
        assert await store.find("a") is None
        assert await positions(store) == [5, 6, 7]


@every
async def test_limits_by_number_bytes_and_age(kind: str, tmp_path: Path) -> None:
    limits = History(max_events=4, max_bytes=30, max_age=60.0)
    async with opened(kind, tmp_path, limits) as store:
        assert (await store.append(entries(1, 2, 3, 4, 5))).floor == 1
        assert (await store.append([entry(6, size=27, at=60)])).floor == 2
        assert await store.trim(60.0) == Extent(epoch=1, floor=2, tail=6, size=30)
        assert await store.trim(60.5) == Extent(epoch=1, floor=5, tail=6, size=27)
        extent = await store.append([entry(7, "big", size=31, at=61)])
        assert extent == Extent(epoch=1, floor=7, tail=7, size=0)
        assert await store.find("big") == 7
        assert await everything(store) == []
        assert (await store.append([entry(8, at=100)])).events == 1
        assert (await store.append([entry(9, at=161)])).floor == 8


@both
async def test_an_older_epoch_is_fenced_off(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as old:
        await old.append(entries(1))
        new = old if kind == "memory" else make(kind, tmp_path)
        assert (await new.open(1)).epoch == 2
        await new.append(entries(2, epoch=2))
        with pytest.raises(HistoryError, match="another process or output has taken the history over"):
            await old.append(entries(2, 3))
        if new is not old:
            for refused in (old.append([]), old.append(entries(3, epoch=2)), old.trim(0.0)):
                with pytest.raises(HistoryError, match=f"{tmp_path}.*taken"):
                    await refused
        assert await positions(old) == [1, 2]
        await new.aclose()


@both
async def test_what_does_not_follow_is_refused_whole(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await store.append(entries(1))
        for wrong in (entries(1), entries(2, 2), entries(3), entries(2, 4), entries(2, epoch=2)):
            with pytest.raises(ValueError, match="follow|not opened"):
                await store.append(wrong)
        assert await positions(store) == [1]
        assert await store.find("c2") is None


@every
async def test_a_closed_store_says_so(kind: str, tmp_path: Path) -> None:
    store = make(kind, tmp_path)
    await store.open(1)
    await store.aclose()
    await store.aclose()
    calls = (store.open(2), store.append([]), store.after(0, most=1, most_bytes=1), store.find("a"))
    for call in (*calls, store.trim(0.0)):
        with pytest.raises(trio.ClosedResourceError):
            await call


async def test_a_restart_resumes_from_the_disk(tmp_path: Path) -> None:
    limits = History(max_events=2)
    async with opened("sqlite", tmp_path, limits, 5) as store:
        before = await store.append(entries(1, 2, 3, 4, epoch=5))
    async with opened("sqlite", tmp_path, limits, 2) as store:
        assert await store.open(6) == evolve(before, epoch=7)
        assert await everything(store) == entries(3, 4, epoch=5)
        assert [await store.find(f"c{each}") for each in range(1, 5)] == [None, 2, 3, 4]
        await store.append(entries(5, epoch=7))
    async with opened("sqlite", tmp_path, limits, 100) as store:
        assert await store.trim(0.0) == Extent(epoch=100, floor=3, tail=5, size=2)
        assert [each.epoch for each in await everything(store)] == [5, 7]


CURSORS = (
    st.none() | st.text(max_size=5) | st.text(st.characters(), max_size=5) | st.sampled_from("ab\0\ud800")
)


@FEWER
@given(
    st.lists(st.lists(st.tuples(CURSORS, st.binary(max_size=20)), max_size=5), max_size=5),
    st.integers(1, 6),
    st.integers(0, 50),
)
def test_pages_of_any_size_give_every_event_once(
    batches: list[list[tuple[str | None, bytes]]], most: int, most_bytes: int
) -> None:
    async def replay(kind: str, folder: Path) -> list[Entry]:
        numbers = iter(range(1, 100))
        async with opened(kind, folder) as store:
            kept: list[Entry] = []
            for batch in batches:
                new = [Entry(next(numbers), 1, Kind.JSON, payload, cursor, 1.5) for cursor, payload in batch]
                kept += new
                await store.append(new)
            found: list[Entry] = []
            while page := await store.after(len(found), most=most, most_bytes=most_bytes):
                assert len(page) <= most
                assert len(page) == 1 or sum(len(each.payload) for each in page) <= most_bytes
                found += page
            assert found == kept
            assert {
                each.cursor: await store.find(each.cursor) for each in kept if each.cursor is not None
            } == {each.cursor: each.position for each in kept if each.cursor is not None}
        return found

    with tempfile.TemporaryDirectory() as folder:
        memory, *others = (trio.run(replay, kind, Path(folder)) for kind in KINDS)
        assert all(other == memory for other in others)


class HistoryMachine(RuleBasedStateMachine):
    """A store against a list of everything that was ever appended and the number of those that left."""

    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.log: list[Entry] = []
        self.left = 0
        self.epoch = 0

    def call(self, ask: Callable[..., Any], *given: Any) -> Any:
        """Return what a method of the store returns."""

        async def call() -> Any:
            async with running(self.store):
                return await ask(*given)

        return trio.run(call)

    def teardown(self) -> None:
        trio.run(self.store.aclose)
        shutil.rmtree(self.folder)

    @property
    def kept(self) -> list[Entry]:
        return self.log[self.left :]

    @property
    def extent(self) -> Extent:
        floor = self.log[self.left - 1].position if self.left else 0
        tail = self.log[-1].position if self.log else 0
        size = sum(len(each.payload) for each in self.kept)
        return Extent(epoch=self.epoch, floor=floor, tail=tail, size=size)

    def trimmed(self, now: float) -> Extent:
        limits = self.limits
        while self.kept and (
            (limits.max_events is not None and len(self.kept) > limits.max_events)
            or (limits.max_bytes is not None and self.extent.size > limits.max_bytes)
            or (limits.max_age is not None and now - self.kept[0].at > limits.max_age)
        ):
            self.left += 1
        return self.extent

    @initialize(
        limits=st.builds(
            History,
            max_events=st.none() | st.integers(1, 8),
            max_bytes=st.none() | st.integers(1, 40),
            max_age=st.none() | st.floats(1, 20),
        )
    )
    def begin(self, limits: History) -> None:
        self.limits = limits
        self.store = make(self.kind, self.folder, limits)
        self.open_again(1)

    @rule(epoch=st.integers(1, 12))
    def open_again(self, epoch: int) -> None:
        if self.kind == "valkey":  # it begins a new epoch where the engine was started anew
            trio.run(valkey_server.forget_process, valkey_server.server(), self.folder.name)
        self.epoch = max(epoch, self.epoch + 1)
        # The task of a store runs later: it would begin an epoch, too, if it looks at the log first.
        assert trio.run(self.store.open, epoch) == self.extent

    @rule(epoch=st.integers(1, 12))
    def restart(self, epoch: int) -> None:
        if self.kind != "memory":
            trio.run(self.store.aclose)
            self.store = make(self.kind, self.folder, self.limits)
        self.open_again(epoch)

    @rule(
        new=st.lists(st.tuples(st.none() | st.sampled_from("abc"), st.integers(0, 15)), max_size=6),
        at=st.floats(0, 50),
        settled=st.just(0) | st.integers(0, 30),
    )
    def append(self, new: list[tuple[str | None, int]], at: float, settled: int) -> None:
        batch = [
            entry(number, cursor, epoch=self.epoch, size=size, at=at)
            for number, (cursor, size) in enumerate(new, self.extent.tail + 1)
        ]

        found = self.call(self.store.append, batch, settled)
        self.log += batch
        self.left = max(self.left, min(settled, len(self.log)))
        # Without an event the age of the others is not looked at.
        assert found == self.trimmed(at if batch else -inf)

    @precondition(lambda self: self.kind in ALONE)
    @rule(wrong=st.sampled_from(["older", "newer", "position"]))
    def append_what_does_not_follow(self, wrong: str) -> None:
        tail, epoch = self.extent.tail, self.epoch
        good = entry(tail + 1, "a", epoch=epoch)
        bad = {
            "older": entry(tail + 2, "a", epoch=epoch - 1),
            "newer": entry(tail + 2, "a", epoch=epoch + 1),
            "position": good,
        }[wrong]
        with pytest.raises(HistoryError if wrong == "older" else ValueError):
            trio.run(self.store.append, [good, bad])

    @rule(now=st.floats(0, 60))
    def trim(self, now: float) -> None:
        assert self.call(self.store.trim, now) == self.trimmed(now)

    @rule(position=st.integers(0, 60), most=st.integers(1, 5), most_bytes=st.integers(0, 40))
    def after(self, position: int, most: int, most_bytes: int) -> None:
        page = [each for each in self.kept if each.position > position][:most]
        while len(page) > 1 and sum(len(each.payload) for each in page) > most_bytes:
            page.pop()

        async def after() -> Sequence[Entry]:
            return await self.store.after(position, most=most, most_bytes=most_bytes)

        assert self.call(after) == page

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        known = {each.cursor: each.position for each in self.log[max(self.left - 1, 0) :]}

        async def look() -> None:
            assert await everything(self.store) == self.kept
            assert [await self.store.find(each) for each in "abc"] == [known.get(each) for each in "abc"]
            for number, each in enumerate(self.log, 1):
                found = await self.store.find(f"{each.epoch}-{number}")
                assert found == (number if number >= self.left else None)
                assert await self.store.find(f"{each.epoch + 99}-{number}") is None

        self.call(look)


class MemoryMachine(HistoryMachine):
    kind = "memory"


class SqliteMachine(HistoryMachine):
    kind = "sqlite"


class ValkeyMachine(HistoryMachine):
    kind = "valkey"


TestMemoryMachine = MemoryMachine.TestCase
TestSqliteMachine = SqliteMachine.TestCase
TestValkeyMachine = ValkeyMachine.TestCase
TestMemoryMachine.settings = FEWER
TestValkeyMachine.settings = settings(
    FEWER, max_examples=max(15, settings.default.max_examples // 8), stateful_step_count=20
)
TestSqliteMachine.settings = settings(FEWER, stateful_step_count=25)


def test_the_configuration_chooses_the_store(tmp_path: Path) -> None:
    assert isinstance(open_history_store(History()), MemoryLog)
    place = f"sqlite:{tmp_path}/h.db"
    store = open_history_store(History(store=place, max_events=1))
    assert isinstance(store, SqliteLog)
    assert not (tmp_path / "h.db").exists()

    async def use() -> Extent:
        await store.open(1)
        extent = await store.append(entries(1, 2))
        await store.aclose()
        return extent

    assert trio.run(use).events == 1
    assert (tmp_path / "h.db").exists()


@both
async def test_a_cancelled_append_keeps_all_or_nothing(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        tail, kept = 0, 0
        for turn in range(60):
            batch = entries(*range(tail + 1, tail + 51), size=200)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.append, batch)
                if turn % 3:
                    await trio.lowlevel.checkpoint()
                if turn % 3 == 2:
                    await trio.sleep(random.random() / 1000)
                nursery.cancel_scope.cancel()
            found = [each.position for each in await store.after(tail, most=ALL, most_bytes=ALL)]
            assert found in ([], [each.position for each in batch])
            if found:
                tail, kept = found[-1], kept + 1
        assert 0 < kept < 60


async def test_replays_beside_a_writer_have_no_gap(tmp_path: Path) -> None:
    async def replay() -> None:
        seen = 0
        while seen < 2000:
            page = await store.after(seen, most=64, most_bytes=ALL)
            assert [each.position for each in page] == list(range(seen + 1, seen + 1 + len(page)))
            seen += len(page)

    async with opened("sqlite", tmp_path) as store, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(replay)
        for first in range(1, 2001, 20):
            await store.append(entries(*range(first, first + 20)))


async def test_closing_waits_for_the_calls_that_have_begun(tmp_path: Path) -> None:
    ended: list[str] = []

    async def call(ask: Callable[..., Any], *given: Any) -> None:
        try:
            await ask(*given)
        except trio.ClosedResourceError:
            ended.append("closed")
        else:
            ended.append("done")

    async with opened("sqlite", tmp_path) as store:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(call, store.find, str(number))
                nursery.start_soon(call, store.trim, 0.0)
            await trio.lowlevel.checkpoint()
            with trio.CancelScope() as scope:
                scope.cancel()
                await store.aclose()
        assert len(ended) == 40
        assert "done" in ended


def connections_to(folder: Path) -> list[str]:
    found: list[str] = []
    for each in Path("/proc/self/fd").glob("*"):  # elsewhere than on Linux it matches nothing
        with suppress(OSError):
            found.append(str(each.readlink()))
    return [each for each in found if each.startswith(str(folder))]


def place_text(path: Path) -> None:
    path.write_bytes(b"no database, " * 1000)


def place_directory(path: Path) -> None:
    path.mkdir()


def place_nothing(path: Path) -> None:
    path.parent.rmdir()


def place_strangers_table(path: Path) -> None:
    execute(path, "CREATE TABLE log_meta (name TEXT)")


def place_next_version(path: Path) -> None:
    execute(path, "CREATE TABLE log_meta (version)", "INSERT INTO log_meta VALUES (4)")


def place_earlier_version(path: Path) -> None:
    execute(path, "CREATE TABLE history_meta (version)", "INSERT INTO history_meta VALUES (2)")


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (place_text, "not a database; restore it or remove it"),
        (place_directory, "unable to open database file; create its directory"),
        (place_nothing, "unable to open database file; create its directory"),
        (place_strangers_table, "no such column: version; mend that"),
        (place_next_version, "version 4, and this library knows 3; use the library that made it"),
        (place_earlier_version, "an older version of this library made it; remove it to start anew"),
    ],
)
async def test_what_can_not_be_opened_says_why_and_leaves_nothing_open(
    place: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "below" / "h.db"
    path.parent.mkdir()
    place(path)
    before = path.read_bytes() if path.is_file() and place is place_text else None
    store = SqliteLog(path, NONE)
    for _ in range(2):
        with pytest.raises(
            HistoryError, match=f"history database {path}: can't be opened: .*{words}"
        ) as caught:
            await store.open(1)
        assert caught.value.__cause__ is not None or "version" in words or "older" in words
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.open(1)
    assert scope.cancelled_caught
    assert connections_to(tmp_path) == []
    assert before is None or path.read_bytes() == before
    with pytest.raises(trio.ClosedResourceError):
        await store.append([])
    await store.aclose()


@pytest.mark.parametrize("size", [0, 1, 99])
async def test_a_file_that_was_cut_off_is_told_and_left_as_it_is(size: int, tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await store.append(entries(1, 2))
    path = tmp_path / "h.db"
    cut = path.read_bytes()[:size]
    path.write_bytes(cut)
    store = make("sqlite", tmp_path)
    with pytest.raises(HistoryError, match=f"{path}: can't be opened: the file is cut off; .*remove it"):
        await store.open(2)
    assert path.read_bytes() == cut
    assert [each.name for each in tmp_path.iterdir()] == ["h.db"]
    assert connections_to(tmp_path) == []
    path.unlink()
    assert (await store.open(2)).tail == 0
    await store.aclose()


async def test_a_failed_open_may_be_tried_again(tmp_path: Path) -> None:
    store = SqliteLog(tmp_path / "later" / "h.db", NONE)
    with pytest.raises(HistoryError):
        await store.open(1)
    (tmp_path / "later").mkdir()
    assert (await store.open(1)).epoch == 1
    await store.aclose()
    assert [each.name for each in (tmp_path / "later").iterdir()] == ["h.db"]


async def test_a_database_without_a_file_is_refused() -> None:
    with pytest.raises(HistoryError, match="no write-ahead log is possible"):
        await SqliteLog(Path(":memory:"), NONE).open(1)


@contextmanager
def without_root(folder: Path) -> Generator[None, None, None]:
    """Root may write to anything, so act as nobody."""
    if os.geteuid() != 0:
        yield
        return
    if not all(each.stat().st_mode & 0o001 for each in folder.parents):
        pytest.skip("nobody else can get to the temporary directory")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_file_that_can_only_be_read(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        async with opened("sqlite", folder) as store:
            await store.append(entries(1))
        folder.chmod(0o777)
        (folder / "h.db").chmod(0o444)
        with without_root(folder):
            store = make("sqlite", folder)
            with pytest.raises(HistoryError, match="readonly database; make the file .* writable"):
                await store.open(2)
        assert connections_to(folder) == []
        (folder / "h.db").chmod(0o644)
        async with opened("sqlite", folder) as store:
            assert await positions(store) == [1]
    finally:
        shutil.rmtree(folder)


async def test_another_process_that_holds_the_file(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await store.append(entries(1))
        with closing(sqlite3.connect(tmp_path / "h.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(HistoryError, match="can't be written: database is locked; another process"):
                await store.append(entries(2))
            assert await positions(store) == [1]
        assert (await store.append(entries(2))).tail == 2


DAMAGES = {
    "DELETE FROM log_runs WHERE last = 3": {"open", "after"},
    "UPDATE log_meta SET floor = 9": {"open"},
    "UPDATE log_meta SET epoch = 'x'": {"open", "append", "trim"},
    "UPDATE log_runs SET floor = 'x'": {"open"},
    "UPDATE log_runs SET floor = 9": {"open"},
    "DELETE FROM log_meta": {"open", "append", "trim"},
    "UPDATE log_runs SET body = 'text'": {"after"},
    "UPDATE log_runs SET body = x'79' WHERE last = 3": {"after"},
    "UPDATE log_runs SET head = x'79' WHERE last = 3": {"after"},
    "UPDATE log_runs SET epoch = 3 WHERE last = 3": {"after"},
    "UPDATE log_runs SET checksum = 5 WHERE last = 4": {"after"},
    "UPDATE log_runs SET last = 9 WHERE last = 4": {"after"},
    "UPDATE log_runs SET first = 1": {"open", "after"},
    "UPDATE log_runs SET at = 'x'": {"open", "after"},
    "UPDATE log_runs SET epoch = 'x'": {"after"},
    "UPDATE log_cursors SET position = position + 5": set(),
    "DROP TABLE log_runs": {"open", "append", "trim", "after", "find", "left"},
}


@pytest.mark.parametrize(("statement", "touched"), DAMAGES.items(), ids=DAMAGES)
async def test_damaged_rows_are_told_by_the_call_that_meets_them(
    statement: str, touched: set[str], tmp_path: Path
) -> None:
    limits = History(max_events=3, max_age=100.0)
    async with opened("sqlite", tmp_path, limits) as store:
        for number in range(1, 5):
            await store.append(entries(number))
        execute(tmp_path / "h.db", statement)

        async def reopen() -> None:
            shutil.copytree(tmp_path, tmp_path / "copy")
            async with opened("sqlite", tmp_path / "copy", limits):
                pass

        calls: dict[str, Callable[[], Any]] = {
            "open": reopen,
            "after": lambda: everything(store),
            "find": lambda: store.find("c4"),
            "left": lambda: store.find("c1"),
            "append": lambda: store.append(entries(5)),
            "trim": lambda: store.trim(0.0),
        }
        told: set[str] = set()
        for name, call in calls.items():
            try:
                await call()
            except HistoryError as error:
                assert str(tmp_path) in str(error)
                assert "restore it" in str(error) or "mend that" in str(error)
                told.add(name)
        assert told == touched


async def test_a_damaged_event_is_named_and_those_around_it_can_be_read(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await store.append(entries(1, 2, 3, 4, size=4))
        execute(tmp_path / "h.db", "UPDATE log_runs SET body = x'78787878787878787978787878787878'")
        assert await store.after(0, most=ALL, most_bytes=ALL) == entries(1, 2, size=4)
        with pytest.raises(HistoryError, match="can't be read: event 3 is damaged; restore it"):
            await store.after(2, most=ALL, most_bytes=ALL)
        assert await store.after(3, most=ALL, most_bytes=ALL) == entries(4, size=4)


async def test_a_row_that_is_there_twice_is_told(tmp_path: Path) -> None:
    """As after damage to a page's list of its rows, which SQLite does not find."""
    async with opened("sqlite", tmp_path) as store:
        for number in range(1, 5):
            await store.append(entries(number))
        execute(
            tmp_path / "h.db",
            "DROP VIEW log_floor",
            "ALTER TABLE log_runs RENAME TO kept",
            "CREATE TABLE log_runs AS SELECT * FROM kept WHERE last <> 3 "
            "UNION ALL SELECT * FROM kept WHERE last = 4",
            "CREATE VIEW log_floor AS SELECT 0 AS floor",
        )
        with pytest.raises(HistoryError, match="missing"):
            await everything(store)
        assert await store.after(0, most=ALL, most_bytes=ALL) == entries(1, 2)


@FEWER
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=9))
def test_damaged_files_give_errors_of_ours_or_events_as_they_were(flips: list[tuple[float, int]]) -> None:
    limits = History(max_events=150)

    async def fill(folder: Path) -> None:
        async with opened("sqlite", folder, limits) as store:
            await store.append(entries(*range(1, 201), size=20))

    async def read(store: LogStore) -> None:
        for each in await everything(store):
            # What tells its age only is not what a peer gets.
            assert evolve(each, at=0.0) == entry(each.position, f"c{each.position}", size=20)

    async def use(folder: Path) -> None:
        store = make("sqlite", folder, limits)
        calls: tuple[Callable[[], Any], ...] = (
            lambda: store.open(2),
            lambda: read(store),
            lambda: store.find("c70"),
            lambda: store.append([entry(201 + flips[0][1], epoch=2)]),
            lambda: store.trim(9.0),
        )
        for call in calls:
            try:
                await call()
            except HistoryError as error:
                assert str(folder) in str(error)
            except (trio.ClosedResourceError, ValueError):
                assert call is not calls[0]
        await store.aclose()

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        trio.run(fill, folder)
        content = bytearray((folder / "h.db").read_bytes())
        for where, byte in flips:
            content[int(where * len(content))] = byte
        (folder / "h.db").write_bytes(content)
        trio.run(use, folder)
        assert connections_to(folder) == []


def run_script(script: str, *arguments: str) -> subprocess.Popen[str]:
    text = "import sys, trio\nfrom pathlib import Path\n" + textwrap.dedent(script)
    return subprocess.Popen([sys.executable, "-c", text, *arguments], stdout=subprocess.PIPE, text=True)


APPENDING = """
    from trio_wsout._core.durable_log import Entry, Kind
    from trio_wsout.config import History
    from trio_wsout.stores.log_sqlite import SqliteLog

    async def main():
        store = SqliteLog(Path(sys.argv[1]), History(max_events=5000))
        extent = await store.open(1)
        while True:
            batch = [
                Entry(extent.tail + each, extent.epoch, Kind.JSON, b"x" * 100, None, 0.0)
                for each in range(1, 8)
            ]
            extent = await store.append(batch)
            print(extent.epoch, extent.tail, flush=True)

    trio.run(main)
"""


def test_everything_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    async def look() -> tuple[int, list[int]]:
        async with opened("sqlite", tmp_path, History(max_events=5000)) as store:
            return (await store.trim(0.0)).epoch, await positions(store)

    epoch = acknowledged = 0
    for _ in range(5):
        with run_script(APPENDING, str(tmp_path / "h.db")) as run:
            assert run.stdout is not None
            lines = [run.stdout.readline() for _ in range(random.randrange(1, 60))]
            run.send_signal(signal.SIGKILL)
            told, acknowledged = (int(each) for each in [*lines, *run.stdout][-1].split())
        assert told == epoch + 1
        epoch, kept = trio.run(look)
        assert epoch == told + 1
        assert kept == list(range(1, kept[-1] + 1))
        assert kept[-1] - acknowledged in (0, 7)


FILLING = """
    import resource, signal
    from trio_wsout._core.durable_log import Entry, Kind
    from trio_wsout.config import History
    from trio_wsout.errors import HistoryError
    from trio_wsout.stores.log import LogFullError
    from trio_wsout.stores.log_sqlite import SqliteLog

    async def main():
        store = SqliteLog(Path(sys.argv[1]), History())
        tail = (await store.open(1)).tail
        if sys.argv[2:]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
        try:
            while True:
                batch = [
                    Entry(tail + each, 1, Kind.JSON, b"x" * 5000, None, 0.0)
                    for each in range(1, 4)
                ]
                tail = (await store.append(batch)).tail
        except (HistoryError, LogFullError) as error:
            found = [each.position for each in await store.after(0, most=1000, most_bytes=1 << 30)]
            assert found == list(range(1, tail + 1)), found
            print(tail, error)
        if sys.argv[2:]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert (await store.append(batch)).tail == tail + 3
        await store.aclose()

    trio.run(main)
"""


def fill(path: Path, *limit: str) -> tuple[int, str]:
    with run_script(FILLING, str(path), *limit) as run:
        assert run.stdout is not None
        tail, _, error = run.stdout.read().partition(" ")
    assert run.returncode == 0
    assert int(tail) > 0
    return int(tail), error


async def test_a_file_that_may_not_grow_keeps_what_it_has(tmp_path: Path) -> None:
    tail, error = fill(tmp_path / "h.db", "400000")
    assert f"{tmp_path}/h.db: can't be written: disk I/O error; look at the disk" in error
    async with opened("sqlite", tmp_path) as store:
        assert await positions(store) == list(range(1, tail + 4))


async def test_a_full_disk_keeps_what_it_has(small_disk: Path, remount: Callable[[str], None]) -> None:
    tail, error = fill(small_disk / "h.db")
    assert "can't be written: database or disk is full; free some space" in error
    remount("size=4m")
    async with opened("sqlite", small_disk) as store:
        assert await positions(store) == list(range(1, tail + 1))
        assert (await store.append(entries(tail + 1, epoch=2))).tail == tail + 1
    remount("ro")
    with pytest.raises(HistoryError, match="can't be opened: .*(readonly|unable to open)"):
        await make("sqlite", small_disk).open(3)
    assert connections_to(small_disk) == []
