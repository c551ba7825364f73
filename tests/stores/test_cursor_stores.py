"""Cursor stores: what was saved is loaded, or an error says what is wrong; never another value."""

from __future__ import annotations

import os
import pwd
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio_wsout.config import Cursor
from trio_wsout.errors import ConfigError, CursorError
from trio_wsout.stores.cursor import (
    CursorStore,
    FileCursorStore,
    MemoryCursorStore,
    SqliteCursorStore,
    StoredCursor,
    file_in_directory,
)
from trio_wsout.stores.from_config import open_cursor_store, state_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[[Path], CursorStore]

SEVEN = StoredCursor(value="seven ✓", epoch=3)
STORES: dict[str, Make] = {
    "file": lambda folder: FileCursorStore(folder / "c.cursor", "id"),
    "sqlite": lambda folder: SqliteCursorStore(folder / "c.db", "id"),
    "memory": lambda folder: MemoryCursorStore(),
}


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
async def test_what_was_saved_is_loaded(make: Make, tmp_path: Path) -> None:
    store = make(tmp_path)
    assert await store.load() is None
    for cursor in (SEVEN, StoredCursor(value="", epoch=3), StoredCursor(value="8", epoch=4)):
        await store.save(cursor)
        assert await store.load() == cursor


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_an_older_epoch_does_not_win(kind: str, tmp_path: Path) -> None:
    store = STORES[kind](tmp_path)
    await store.save(SEVEN)
    with pytest.raises(CursorError, match="taken"):
        await store.save(StoredCursor(value="old", epoch=2))
    assert await store.load() == SEVEN


async def test_a_file_is_synced_whole_then_renamed_and_then_its_directory_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    sync, rename = os.fsync, os.rename

    def note_sync(number: int) -> None:
        status = os.fstat(number)
        calls.append(("directory", 0) if stat.S_ISDIR(status.st_mode) else ("file", status.st_size))
        sync(number)

    def note_rename(source: Path, target: Path) -> None:
        calls.append(("rename", source.stat().st_size))
        rename(source, target)

    store = STORES["file"](tmp_path)
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    await store.save(SEVEN)
    size = (tmp_path / "c.cursor").stat().st_size
    assert calls == [("file", size), ("rename", size), ("directory", 0)]


async def test_a_file_is_private_and_replaced_whole(tmp_path: Path) -> None:
    store = STORES["file"](tmp_path)
    await store.save(SEVEN)
    before = (tmp_path / "c.cursor").stat()
    await store.save(StoredCursor(value="8", epoch=3))
    after = (tmp_path / "c.cursor").stat()
    assert after.st_mode & 0o777 == 0o600
    assert after.st_ino != before.st_ino
    assert [each.name for each in tmp_path.iterdir()] == ["c.cursor"]


async def test_another_state_id_is_refused(tmp_path: Path) -> None:
    await STORES["file"](tmp_path).save(SEVEN)
    with pytest.raises(CursorError, match="another state id"):
        await FileCursorStore(tmp_path / "c.cursor", "other").load()
    await STORES["sqlite"](tmp_path).save(SEVEN)
    assert await SqliteCursorStore(tmp_path / "c.db", "other").load() is None


async def test_no_damage_gives_another_value(tmp_path: Path) -> None:
    path = tmp_path / "c.cursor"
    await STORES["file"](tmp_path).save(SEVEN)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [
        whole[:at] + bytes((whole[at] ^ 1 << bit,)) + whole[at + 1 :]
        for at in range(len(whole))
        for bit in range(8)
    ]
    store = FileCursorStore(path, "id")
    for content in damaged:
        path.write_bytes(content)
        try:
            found = await store.load()
        except CursorError as error:
            assert str(path) in str(error)
        else:
            assert found == SEVEN


def place_symlink(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


def place_directory(path: Path) -> None:
    path.mkdir()


def place_group_writable(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0o620)


def place_strangers(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0o600)
    os.chown(path, 12345, 12345)


def place_list(path: Path) -> None:
    path.write_bytes(b"[1]")
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (place_symlink, "symbolic links"),
        (os.mkfifo, "not a plain file"),
        (place_directory, "not a plain file|directory"),
        (place_group_writable, "chmod 600"),
        (place_strangers, "chown"),
        (place_list, "no cursor file"),
    ],
)
async def test_what_is_no_file_of_ours_is_refused(
    place: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    if place is place_strangers and os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    place(tmp_path / "c.cursor")
    store = STORES["file"](tmp_path)
    with pytest.raises(CursorError, match=words):
        await store.load()
    with pytest.raises(CursorError, match=words):
        await store.save(SEVEN)


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    store = STORES["file"](tmp_path / "none")
    with pytest.raises(CursorError, match="none is not there; create it, or name another path"):
        await store.load()
    with pytest.raises(CursorError, match="No such file.*intact"):
        await store.save(SEVEN)
    with pytest.raises(CursorError, match="can't be read"):
        await STORES["sqlite"](tmp_path / "none").load()
    with pytest.raises(CursorError, match="can't be written"):
        await STORES["sqlite"](tmp_path / "none").save(SEVEN)


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_what_cannot_be_written_is_found_before_the_first_save(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = STORES[kind](tmp_path)
    await store.save(SEVEN)
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(CursorError, match="writ.*writable for this user, or name another path"):
        await store.load()


def test_a_full_disk_leaves_the_old_value(tmp_path: Path) -> None:
    script = f"""
        import resource, signal, trio
        from pathlib import Path
        from trio_wsout.errors import CursorError
        from trio_wsout.stores.cursor import FileCursorStore, StoredCursor
        store = FileCursorStore(Path({str(tmp_path / "c.cursor")!r}), "id")
        trio.run(store.save, StoredCursor(value="old", epoch=1))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            trio.run(store.save, StoredCursor(value="new", epoch=1))
        except CursorError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        print(trio.run(store.load).value)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert "too large" in run.stdout
    assert "intact" in run.stdout
    assert run.stdout.splitlines()[-1] == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["c.cursor"]


@given(st.lists(st.text(min_size=1, max_size=300), unique=True, min_size=2, max_size=20))
def test_state_ids_never_leave_the_directory_and_never_meet(state_ids: list[str]) -> None:
    folder = Path("/state/cursors")
    files = [file_in_directory(folder, each) for each in state_ids]
    assert len(set(files)) == len(state_ids)
    for file in files:
        assert file.parent == folder
        assert len(file.name) <= 200
        assert "/" not in file.name
        assert not file.name.startswith("..")


@pytest.mark.parametrize(
    "state_id", ["../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "\0", "x" * 300, "\ud800"]
)
def test_hostile_state_ids(state_id: str) -> None:
    assert file_in_directory(Path("/s"), state_id).parent == Path("/s")


async def test_sqlite_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    store = SqliteCursorStore(path, "id")
    await store.save(SEVEN)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE cursors SET value = 'eight'")
    connection.close()
    with pytest.raises(CursorError, match="damaged"):
        await store.load()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE cursors SET state_id = 'ie'")
    connection.close()
    with pytest.raises(CursorError, match="a row is damaged, which may be that of this state id"):
        await store.load()
    path.write_bytes(path.read_bytes()[:4097])
    with pytest.raises(CursorError, match="the file is damaged"):
        await store.load()
    for _ in range(2):
        path.write_bytes(b"")
        with pytest.raises(CursorError, match="the file is cut off; restore it or remove it"):
            await store.load()
    path.write_bytes(b"no database, " * 100)
    with pytest.raises(CursorError, match="can't be read"):
        await store.load()


async def test_the_configuration_chooses_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "there").mkdir()

    async def place(**fields: str) -> str:
        store = await open_cursor_store(Cursor(header_name="L", **fields), url="ws://h/")  # type: ignore[arg-type]
        if isinstance(store, MemoryCursorStore):
            return "memory"
        await store.save(SEVEN)
        (found,) = (each for each in tmp_path.rglob("*") if each.suffix in {".cursor", ".db", ".file"})
        await trio.Path(found).unlink()
        return str(found.relative_to(tmp_path))

    assert await place() == "memory"
    assert await place(persist_to="memory:", state_id="x") == "memory"
    assert (await place(state_id="x")).startswith("state/trio-wsout/x.")
    assert (await place(persist_to=str(tmp_path / "there"), state_id="x")).startswith("there/x.")
    assert (await place(persist_to=f"{tmp_path}/made/")).startswith("made/")
    assert await place(persist_to=str(tmp_path / "one.file")) == "one.file"
    assert await place(persist_to=f"sqlite:{tmp_path}/c.db") == "c.db"
    (tmp_path / "plain").write_text("")
    with pytest.raises(CursorError, match="persist-to"):
        await place(persist_to=f"{tmp_path}/plain/below/")


async def test_without_a_home_directory_there_is_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    advice = r"cursor\.persist-to: is not set, and .* set cursor\.persist-to to"

    async def refused() -> str:
        with pytest.raises(ConfigError, match=advice) as caught:
            await open_cursor_store(Cursor(header_name="L", state_id="x"), url="ws://h/")
        return caught.value.problems[0].reason

    # A relative path counts for nothing there.
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", "")
    assert "HOME is empty" in await refused()
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", dict[int, object]().__getitem__)
    assert "HOME is not set and this user has no entry" in await refused()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert "can't be made: Not a directory" in await refused()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "nothing can be written into the state directory" in await refused()


def test_each_platform_has_its_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    found = {}
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr(sys, "platform", platform)
        found[platform] = str(state_directory())
    assert found == {
        "linux": "/home/u/.local/state/trio-wsout",
        "darwin": "/home/u/Library/Application Support/trio-wsout",
        "win32": "/home/u/AppData/Local/trio-wsout",
    }
