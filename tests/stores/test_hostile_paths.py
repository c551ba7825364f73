"""Hostile names and places for what outlives a process: nothing leaves its directory, hangs, or is lost in silence.

A place that can't be used gives a typed error which names it, and what was kept before is still there.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import stat
import tempfile
import threading
import unicodedata
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_wsout
from attrs import frozen
from disks import fill
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from trio_wsout.config import Cursor, History
from trio_wsout.errors import CursorError, HistoryError, OutputError
from trio_wsout.stores.cursor import CursorStore, FileCursorStore, SqliteCursorStore, StoredCursor
from trio_wsout.stores.from_config import open_cursor_store
from trio_wsout.stores.log import Entry
from trio_wsout.stores.log import Kind as Form
from trio_wsout.stores.log_sqlite import SqliteLog
from trio_wsout.testing import open_peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

pytestmark = pytest.mark.faults

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep" or os.environ.get("FAULTS") == "long"
EXAMPLES = settings(max_examples=1000 if DEEP else 40, deadline=None)
DAMAGES = 2000 if DEEP else 200
PATIENCE = 240
"""Seconds that anything here may take, on a machine that is busy."""

MEND = re.compile(r"\b(name|restore|remove|set|free|chmod|chown|create|make|use|look|mend|stop)\b")
"""What an error that is of use tells somebody to do."""

STATE_IDS = (
    ".", "..", "../..", "../../etc/passwd", "/etc/passwd", "/", "//", "a/b", "a\\b", "a/../b", "~", "~root", "",
    "\0", "a\0b", "a\nb", "\n", "\r", "\x7f", " ", " a", "a ", "a.", ".a", "...", "-", "-rf", "--help", "*", "?",
    "$HOME", "`id`", "$(id)", "a;b", "a|b", "a&b", "a'b", 'a"b', "%2e%2e%2f", "%00", "con", "CON", "nul", "aux.txt",
    "COM1", "a:b", "C:\\x", "\\\\host\\share", "a", "A", "ß", "SS", "ss", "ẞ", "i", "I", "ı", "İ", "é", "e\u0301",
    "É", "\u212b", "\u00c5", "A\u030a", "ﬁ", "fi", "ⅷ", "\u202e", "\u200b", "\ufeff", "日本", "😀", "\ud800",
    "\udc80", "\udfff", "x" * 200, "X" * 200, "x" * 201, "x" * 5000, "é" * 200, "😀" * 300, "a" * 80, "a" * 81,
    "a" * 80 + "/", "a" * 80 + "_", "a/b.cursor", "state.cursor", ".cursor", "a_b", "a b", "a-b",
)  # fmt: skip
IDS = st.one_of(
    st.sampled_from(STATE_IDS),
    st.text(max_size=20),
    st.text("./\\~%:\0\n aA", max_size=8),
    st.text(min_size=150, max_size=400),
    st.lists(st.sampled_from(["../", "..", "/", "a", "A", "é", "e\u0301", "\0"]), max_size=5).map("".join),
)


TRIED: Counter[str] = Counter()
"""What was tried and held, by what it is."""


@pytest.fixture(scope="module", autouse=True)
def noted(figures: Callable[[str], None]) -> Generator[None, None, None]:
    """Note what was tried."""
    TRIED.clear()
    yield
    for what, count in TRIED.items():
        figures(f"hostile places: {count} {what}")


def is_encodable(text: str) -> bool:
    """Whether a configuration can hold a text: it can't be a state id where it is not."""
    return not re.search("[\ud800-\udfff]", text)


def tree(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*")}


async def saved(folder: Path, state_ids: list[str]) -> None:
    """Save a cursor for each, and find each again."""
    stores: list[CursorStore] = []
    for number, state_id in enumerate(state_ids):
        cursor = Cursor(header_name="L", persist_to=f"{folder}/", state_id=state_id)
        stores.append(await open_cursor_store(cursor, url=""))
        assert await stores[-1].load() is None
        await stores[-1].save(StoredCursor(value=str(number), epoch=1))
    for number, store in enumerate(stores):
        kept = await store.load()
        assert kept is not None
        assert kept.value == str(number)


def check_names(state_ids: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "above" / "cursors"
        trio.run(saved, folder, state_ids)
        files = [each.name for each in folder.iterdir()]
        assert tree(Path(name)) == {"above", "above/cursors", *(f"above/cursors/{file}" for file in files)}
        # Also where names are compared without case, or in another normal form.
        assert len({unicodedata.normalize("NFKD", file).casefold() for file in files}) == len(state_ids)
        for file in files:
            status = (folder / file).lstat()
            assert stat.S_ISREG(status.st_mode)
            assert status.st_mode & 0o777 == 0o600
    TRIED["state ids, each with a file of its own inside the directory"] += len(state_ids)


@EXAMPLES
@given(st.lists(IDS.filter(is_encodable), unique=True, min_size=1, max_size=8))
@example([each for each in STATE_IDS if is_encodable(each)])
def test_every_state_id_has_a_file_of_its_own_in_the_directory(state_ids: list[str]) -> None:
    check_names(state_ids)


async def pushed(folder: str, state_id: str) -> None:
    async with open_peer() as peer:
        document = {
            "url": "ws://peer.test/",
            "cursor": {"header-name": "L", "value-field": "n", "persist-to": folder, "state-id": state_id},
        }
        async with trio_wsout.open_output(document, open_stream=peer.open_stream) as output:
            await output.send({"n": 5})


@EXAMPLES
@given(IDS)
@example("../../a")
@example("a\nb")
def test_a_state_id_of_a_configuration_is_refused_or_a_file_in_the_directory(state_id: str) -> None:
    assume("{{" not in state_id)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "in").mkdir()
        try:
            trio.run(pushed, f"{name}/in", state_id)
        except trio_wsout.ConfigError as error:
            assert "state-id" in str(error)
            assert not 0 < len(state_id) <= 200 or not state_id.isprintable()
            assert tree(Path(name)) == {"in"}
            TRIED["state ids of a configuration refused"] += 1
        else:
            (file,) = Path(name, "in").iterdir()
            assert tree(Path(name)) == {"in", f"in/{file.name}"}
            TRIED["state ids of a configuration, each with a file inside the directory"] += 1


@settings(EXAMPLES, max_examples=1000 if DEEP else 20)
@given(st.lists(IDS.filter(str.isprintable), unique=True, min_size=1, max_size=8))
@example([each for each in STATE_IDS if each.isprintable()])
def test_every_state_id_has_a_row_of_its_own_in_a_database(state_ids: list[str]) -> None:
    async def main(path: Path) -> None:
        stores = [SqliteCursorStore(path, state_id) for state_id in state_ids]
        for number, store in enumerate(stores):
            assert await store.load() is None
            await store.save(StoredCursor(value=str(number), epoch=1))
        found = [await store.load() for store in stores]
        assert [each.value for each in found if each is not None] == list(map(str, range(len(stores))))

    with tempfile.TemporaryDirectory() as name:
        trio.run(main, Path(name) / "c.db")
    TRIED["state ids, each with a row of its own in a database"] += len(state_ids)


# -- three stores, told apart by nothing but their errors ---------------------------------------------------


def in_time(call: Callable[[], Awaitable[Any]]) -> Any:
    """What `call` gives or raises; fails where it hangs, which no cancellation would end."""
    ended: list[object] = []

    def work() -> None:
        try:
            ended.append(trio.run(call))
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not ended:
        pytest.fail(f"after {PATIENCE} seconds it still hangs")
    if isinstance(ended[0], Exception):
        raise ended[0]
    return ended[0]


@frozen
class Kind:
    """One kind of store."""

    name: str
    error: type[OutputError]
    write: Callable[[Path, str], Awaitable[None]]
    """Keep a text."""
    read: Callable[[Path], Awaitable[str | None]]
    """The text that was kept last."""

    def put(self, path: Path, value: str) -> None:
        in_time(lambda: self.write(path, value))

    def get(self, path: Path) -> str | None:
        found: str | None = in_time(lambda: self.read(path))
        return found


def cursors(make: Callable[[Path], CursorStore]) -> tuple[Any, Any]:
    async def write(path: Path, value: str) -> None:
        await make(path).save(StoredCursor(value=value, epoch=1))

    async def read(path: Path) -> str | None:
        found = await make(path).load()
        return None if found is None else found.value

    return write, read


async def write_history(path: Path, value: str) -> None:
    store = SqliteLog(path, History())
    try:
        extent = await store.open(1)
        entry = Entry(extent.tail + 1, extent.epoch, Form.TEXT, value.encode(), None, 0.0)
        await store.append([entry])
    finally:
        await store.aclose()


async def read_history(path: Path) -> str | None:
    store = SqliteLog(path, History())
    try:
        await store.open(1)
        entries = await store.after(0, most=100, most_bytes=1 << 20)
        return entries[-1].payload.decode() if entries else None
    finally:
        await store.aclose()


KINDS = (
    Kind("file", CursorError, *cursors(lambda path: FileCursorStore(path, "id"))),
    Kind("sqlite", CursorError, *cursors(lambda path: SqliteCursorStore(path, "id"))),
    Kind("history", HistoryError, write_history, read_history),
)
of_every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


# -- places --------------------------------------------------------------------------------------------------


def place_directory(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("mine")


def place_link_to_directory(path: Path) -> None:
    place_directory(path.with_name("other"))
    path.symlink_to("other")


def place_loop(path: Path) -> None:
    path.symlink_to(path.name)


def place_link_to_nothing_possible(path: Path) -> None:
    path.symlink_to("none/none")


def place_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def place_link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to("fifo")


def place_text(path: Path) -> None:
    path.write_bytes(b"no store, " * 2000)
    path.chmod(0o600)


def place_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)
    path.chmod(0o600)


def place_link_to_null(path: Path) -> None:
    path.symlink_to("/dev/null")


def place_link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


PLACES: dict[str, Callable[[Path], None]] = {
    "a directory": place_directory,
    "a link to a directory": place_link_to_directory,
    "a link to itself": place_loop,
    "a link into a directory that is not there": place_link_to_nothing_possible,
    "a FIFO": os.mkfifo,
    "a link to a FIFO": place_link_to_fifo,
    "a socket": place_socket,
    "another file": place_text,
    "a large file": place_large,
    "a link to /dev/null": place_link_to_null,
    "a link to /dev/zero": place_link_to_zero,
}


def looks(folder: Path) -> dict[str, tuple[int, int]]:
    """Kind and size of everything below a directory."""
    return {
        str(each.relative_to(folder)): (stat.S_IFMT(each.lstat().st_mode), each.lstat().st_size)
        for each in folder.rglob("*")
    }


@of_every_kind
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_store_is_told_and_left_alone(kind: Kind, place: str, tmp_path: Path) -> None:
    path = tmp_path / "place"
    PLACES[place](path)
    before = looks(tmp_path)
    for call in (partial(kind.get, path), partial(kind.put, path, "new"), partial(kind.get, path)):
        with pytest.raises(kind.error) as caught:
            call()
        assert str(path) in str(caught.value)
    assert looks(tmp_path) == before
    TRIED["places that are no store (links, FIFOs, directories, other files), each told and left alone"] += 1


def useless(kind: Kind, path: Path) -> list[str]:
    """The errors of reading and writing that say nothing about what to do."""
    found: list[str] = []
    for call in (partial(kind.get, path), partial(kind.put, path, "new")):
        try:
            call()
        except kind.error as error:
            found += [] if MEND.search(str(error).replace(str(path), "")) else [str(error)]
    return found


@of_every_kind
def test_what_is_no_store_is_told_with_what_to_do(kind: Kind, tmp_path: Path) -> None:
    found: list[str] = []
    for name, place in PLACES.items():
        path = tmp_path / name.replace("/", "") / "place"
        path.parent.mkdir()
        place(path)
        found += useless(kind, path)
    assert found + useless(kind, tmp_path / "none" / "place") == []


@of_every_kind
def test_a_link_to_a_store_is_refused_or_followed_but_never_replaced(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, path = tmp_path / "elsewhere" / "target", tmp_path / "place"
    kind.put(target, "old")
    path.symlink_to(target)
    try:
        kind.put(path, "new")
    except kind.error as error:
        assert str(path) in str(error)
        assert kind.get(target) == "old"
    else:
        assert kind.get(path) == kind.get(target) == "new"
    assert path.is_symlink()
    assert {each.name for each in tmp_path.iterdir()} == {"elsewhere", "place"}


@of_every_kind
def test_a_directory_by_a_link_holds_the_store(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    kind.put(tmp_path / "link" / "store", "new")
    assert kind.get(tmp_path / "real" / "store") == "new"


IMPOSSIBLE = {
    "no directory": "none/store",
    "a file above": "plain/store",
    "a long name": "x" * 300,
    "a long path": "/".join(["x" * 100] * 50),
    "a NUL": "a\0b",
    "a lone surrogate": "a\ud800b",
}


@of_every_kind
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_path_that_can_not_be_is_told(kind: Kind, name: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("plain")
    path = tmp_path / IMPOSSIBLE[name]
    with pytest.raises(kind.error) as caught:
        kind.put(path, "new")
    assert str(tmp_path) in str(caught.value)
    assert tree(tmp_path) == {"plain"}


@pytest.mark.parametrize("name", [*IMPOSSIBLE, "a file in place of a directory"])
@pytest.mark.parametrize("section", ["cursor", "cursor-sqlite", "history"])
def test_a_place_of_a_configuration_that_can_not_be_is_told(section: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("plain")
    place = f"{tmp_path}/{IMPOSSIBLE.get(name, 'plain/')}"
    cursor = {"header-name": "L", "value-field": "n", "persist-to": place}
    documents: dict[str, dict[str, Any]] = {
        "cursor": {"url": "ws://peer.test/", "cursor": cursor},
        "cursor-sqlite": {"url": "ws://peer.test/", "cursor": {**cursor, "persist-to": f"sqlite:{place}"}},
        "history": {
            "mode": "server-output",
            "server": {"bind": "127.0.0.1:0"},
            "history": {"store": f"sqlite:{place}"},
        },
    }

    async def main() -> None:
        async with open_peer() as peer:
            client = section != "history"
            open_stream = peer.open_stream if client else None
            async with trio_wsout.open_output(documents[section], open_stream=open_stream) as output:
                await output.send({"n": 5})
                await output.flush()

    with pytest.raises((CursorError, HistoryError, trio_wsout.ConfigError)) as caught:
        in_time(main)
    key = "history.store" if section == "history" else "cursor.persist-to"
    assert (key if isinstance(caught.value, trio_wsout.ConfigError) else str(tmp_path)) in str(caught.value)
    assert tree(tmp_path) == {"plain"}


NOBODY = 65534


# -- rights ---------------------------------------------------------------------------------------------------


@contextmanager
def without_root(folder: Path) -> Generator[None, None, None]:
    """Root may read and write anything, so act as nobody."""
    if os.geteuid() != 0:
        yield
        return
    if not all(each.stat().st_mode & 0o001 for each in folder.parents):
        pytest.skip("nobody else can get to the temporary directory")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def reachable() -> Generator[Path, None, None]:
    """A directory that nobody else can get to, too."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@of_every_kind
def test_a_file_without_permission_is_told_and_stays(kind: Kind, reachable: Path) -> None:
    path = reachable / "store"
    kind.put(path, "old")
    path.chmod(0)
    with without_root(reachable):
        for call in (partial(kind.get, path), partial(kind.put, path, "new")):
            with pytest.raises(kind.error) as caught:
                call()
            assert str(path) in str(caught.value)
    path.chmod(0o600)
    assert kind.get(path) == "old"


@of_every_kind
def test_a_read_only_directory_is_told_and_keeps_the_old_value(kind: Kind, reachable: Path) -> None:
    path = reachable / "store"
    if os.geteuid() == 0:
        os.chown(reachable, NOBODY, NOBODY)
    with without_root(reachable):
        kind.put(path, "old")
        reachable.chmod(0o555)
        try:
            with pytest.raises(kind.error) as caught:
                kind.put(path, "new")
            assert str(path) in str(caught.value)
        finally:
            reachable.chmod(0o755)
        assert kind.get(path) == "old"


@of_every_kind
def test_a_directory_without_permission_is_told(kind: Kind, reachable: Path) -> None:
    path = reachable / "shut" / "store"
    path.parent.mkdir()
    kind.put(path, "old")
    path.parent.chmod(0)
    with without_root(reachable):
        for call in (partial(kind.get, path), partial(kind.put, path, "new")):
            with pytest.raises(kind.error) as caught:
                call()
            assert str(path) in str(caught.value)
    path.parent.chmod(0o700)
    assert kind.get(path) == "old"


@of_every_kind
def test_missing_rights_are_told_with_what_to_do(kind: Kind, reachable: Path) -> None:
    path = reachable / "shut" / "store"
    path.parent.mkdir()
    kind.put(path, "old")
    found: list[str] = []
    for place, mode in ((path, 0), (path.parent, 0o555), (path.parent, 0)):
        place.chmod(mode)
        with without_root(reachable):
            found += useless(kind, path)
        place.chmod(0o755)
    assert found == []


@of_every_kind
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_another_owner_is_told_and_stays(kind: Kind, mode: int, reachable: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    path = reachable / "store"
    kind.put(path, "old")
    for each in reachable.iterdir():
        each.chmod(mode)
    os.chown(reachable, NOBODY, NOBODY)  # who could replace the file
    before = looks(reachable)
    with without_root(reachable):
        for call in (partial(kind.get, path), partial(kind.put, path, "new")):
            with pytest.raises(kind.error) as caught:
                call()
            assert str(path) in str(caught.value)
    assert looks(reachable) == before
    assert path.stat().st_uid == 0
    assert kind.get(path) == "old"
    TRIED["files of another owner told, the old value intact"] += 1


async def test_a_place_of_a_configuration_without_permission_is_told(reachable: Path) -> None:
    (reachable / "shut").mkdir(mode=0)
    with without_root(reachable):
        for place in (
            f"{reachable}/shut/store",
            f"{reachable}/shut/below/",
            f"sqlite:{reachable}/shut/store",
        ):
            with pytest.raises(CursorError) as caught:
                store = await open_cursor_store(Cursor(header_name="L", persist_to=place), url="ws://h/")
                await store.load()
            assert f"{reachable}/shut" in str(caught.value)


# -- disks ------------------------------------------------------------------------------------------------------


@of_every_kind
def test_a_full_disk_is_told_and_keeps_the_old_value(kind: Kind, small_disk: Path) -> None:
    path = small_disk / "store"
    kind.put(path, "old")
    filler = fill(small_disk)
    with pytest.raises(kind.error) as caught:
        kind.put(path, "new")
    assert str(path) in str(caught.value)
    filler.unlink()
    assert kind.get(path) == "old"
    assert not [each for each in tree(small_disk) if each.startswith(".")], "nothing half written is left"
    kind.put(path, "new")
    assert kind.get(path) == "new"
    TRIED["stores on a full disk told, the old value intact"] += 1


@of_every_kind
def test_a_full_disk_is_no_reason_to_remove_what_is_kept(kind: Kind, small_disk: Path) -> None:
    path = small_disk / "store"
    kind.put(path, "old")
    fill(small_disk)
    try:
        assert kind.get(path) == "old"
    except kind.error as error:
        assert "remove" not in str(error)


@of_every_kind
def test_a_disk_that_takes_nothing_is_told_with_what_to_do(
    kind: Kind, small_disk: Path, remount: Callable[[str], None]
) -> None:
    path = small_disk / "store"
    kind.put(path, "old")
    fill(small_disk)
    found = useless(kind, path)
    remount("ro")
    assert found + useless(kind, path) == []


@of_every_kind
def test_a_disk_that_became_read_only_is_told(
    kind: Kind, small_disk: Path, remount: Callable[[str], None]
) -> None:
    path = small_disk / "store"
    kind.put(path, "old")
    remount("ro")
    with pytest.raises(kind.error) as caught:
        kind.put(path, "new")
    assert str(path) in str(caught.value)
    remount("rw")
    assert kind.get(path) == "old"


# -- damage -------------------------------------------------------------------------------------------------------


def damaged(whole: bytes, draw: random.Random) -> Generator[bytes, None, None]:
    """What may become of a file: cut off anywhere, zeros, and single bits that turn."""
    yield from (whole[:size] for size in (0, 1, 99, 100, 101, 512, 4095, 4096, 4097) if size < len(whole))
    yield from (whole[: draw.randrange(len(whole))] for _ in range(DAMAGES // 10))
    yield bytes(len(whole))
    telling = [at for at, byte in enumerate(whole) if byte]
    for number in range(DAMAGES):
        # Most of a database is zeros that mean nothing.
        at = draw.choice(telling) if number % 2 else draw.randrange(len(whole))
        yield whole[:at] + bytes((whole[at] ^ 1 << draw.randrange(8),)) + whole[at + 1 :]


@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind.name)
def test_a_damaged_cursor_is_told_and_never_begun_anew(kind: Kind, tmp_path: Path) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(10**6))
    print(f"FAULTS_SEED={seed}")
    path = tmp_path / "store"
    kind.put(path, "old")
    for content in damaged(path.read_bytes(), random.Random(seed)):
        for each in tmp_path.iterdir():
            each.unlink()
        path.write_bytes(content)
        path.chmod(0o600)
        try:
            found = trio.run(kind.read, path)
        except kind.error as error:
            assert str(path) in str(error)
            assert MEND.search(str(error).replace(str(path), ""))
            with pytest.raises(kind.error):
                trio.run(kind.read, path)
            TRIED[f"times a cursor in {kind.name} was damaged and told, no time begun anew"] += 1
        else:
            assert found == "old"
            TRIED[f"times damage to a cursor in {kind.name} was to what means nothing"] += 1


# -- what changes under an open store ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind.name)
def test_a_cursor_that_is_replaced_between_two_saves_is_told(kind: Kind, place: str, tmp_path: Path) -> None:
    path = tmp_path / "place"
    store = FileCursorStore(path, "id") if kind.name == "file" else SqliteCursorStore(path, "id")

    async def save(value: str) -> None:
        await store.save(StoredCursor(value=value, epoch=1))

    in_time(lambda: save("old"))
    for each in tmp_path.iterdir():
        each.unlink()
    PLACES[place](path)
    before = looks(tmp_path)
    with pytest.raises(CursorError) as caught:
        in_time(lambda: save("new"))
    assert str(path) in str(caught.value)
    assert looks(tmp_path) == before


def remove(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def remove_main_file(path: Path) -> None:
    path.unlink()


def replace_by_another(path: Path) -> None:
    other = path.with_name("other")
    in_time(lambda: write_history(other, "other"))
    other.replace(path)


def replace_by_a_directory(path: Path) -> None:
    remove(path)
    path.mkdir()


def replace_by_a_fifo(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


@pytest.mark.parametrize(
    "change", [remove, remove_main_file, replace_by_another, replace_by_a_directory, replace_by_a_fifo]
)
def test_what_an_open_history_keeps_is_in_its_file_or_told(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    """An event that a removed file took is gone with the process: that is no keeping."""
    path = tmp_path / "h.db"

    async def main() -> bool:
        store = SqliteLog(path, History())
        try:
            await store.open(1)
            await store.append([Entry(1, 1, Form.TEXT, b"one", None, 0.0)])
            await trio.to_thread.run_sync(change, path)
            try:
                await store.append([Entry(2, 1, Form.TEXT, b"two", None, 0.0)])
            except HistoryError as error:
                assert str(path) in str(error)
                return False
            return True
        finally:
            await store.aclose()

    if in_time(main):
        assert in_time(lambda: read_history(path)) == "two"


@pytest.mark.parametrize("size", [1 << 19, (1 << 20) - 100, 1 << 20, 1 << 22])
@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind.name)
def test_a_cursor_of_any_size_is_kept_or_refused(kind: Kind, size: int, tmp_path: Path) -> None:
    path, value = tmp_path / "store", "x" * size
    kind.put(path, "old")
    try:
        kind.put(path, value)
    except CursorError:
        value = "old"
    assert kind.get(path) == value
