"""What can't be used of the places that a configuration names is seen, and nothing is made or changed by looking."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from trio_wsout.config import load_config
from trio_wsout.stores.from_config import check_paths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLIENT: dict[str, Any] = {"url": "ws://h/"}
SERVER: dict[str, Any] = {"mode": "server-output", "server": {"bind": ":0"}}


def cursor(place: str | None) -> dict[str, Any]:
    return {**CLIENT, "cursor": {"header-name": "L", "persist-to": place, "state-id": "x"}}


def history(place: str) -> dict[str, Any]:
    return {**SERVER, "history": {"store": place}}


def spool(place: str) -> dict[str, Any]:
    return {**CLIENT, "spool": {"path": place}}


def socket(place: str) -> dict[str, Any]:
    return {**SERVER, "server": {"bind": place}}


def looked(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each.path, each.reason) for each in check_paths(load_config(document))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("x")
    return tmp_path


USABLE = [
    CLIENT,
    SERVER,
    cursor(None),
    cursor("memory:"),
    cursor("there"),
    cursor("there/"),
    cursor("new/and/deep/"),
    cursor("new.cursor"),
    cursor("file"),
    cursor("sqlite:there/c.db"),
    cursor("redis://h/0"),
    history("memory:"),
    history("rediss://u:${secret|p}@h/0?stream=x"),
    history("sqlite:h.db"),
    spool("there"),
    spool("there/new"),
    socket("unix:there/socket"),
]


@pytest.mark.parametrize("document", USABLE)
def test_what_can_be_used_is_fine_and_stays_as_it_is(document: dict[str, Any], folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    assert looked(document) == []
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("of", "place", "path", "words"),
    [
        (cursor, "none/c.cursor", "cursor.persist-to", "none is not there; create it"),
        (cursor, "sqlite:none/c.db", "cursor.persist-to", "none is not there; create it"),
        (cursor, "sqlite:there", "cursor.persist-to", "there is a directory; name a file"),
        (cursor, "file/c", "cursor.persist-to", "file is no directory"),
        (cursor, "file/deep/c/", "cursor.persist-to", "file is no directory"),
        (cursor, f"{'n' * 300}/c", "cursor.persist-to", "is not there"),
        (history, "sqlite:none/h.db", "history.store", "none is not there; create it"),
        (history, "sqlite:there", "history.store", "there is a directory; name a file"),
        (spool, "none/spool", "spool.path", "none is not there; create it"),
        (spool, "file", "spool.path", "file is no directory"),
        (socket, "unix:none/socket", "server.bind", "none is not there; create it"),
    ],
)
def test_what_cannot_be_used_is_told_with_advice(
    of: Callable[[str], dict[str, Any]], place: str, path: str, words: str, folder: Path
) -> None:
    del folder
    (found,) = looked(of(place))
    assert found[0] == path
    assert words in found[1]


@pytest.mark.parametrize("document", [each for each in USABLE if each not in (CLIENT, SERVER)])
def test_what_cannot_be_written_is_told(
    document: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del folder
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = looked(document)
    assert len(found) == (0 if "memory:" in str(document) or "redis" in str(document) else 1)
    assert all("by this user" in reason or "for this user" in reason for _, reason in found)


def test_without_a_home_there_is_one_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del folder
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", "")
    ((path, reason),) = looked(cursor(None))
    assert path == "cursor.persist-to"
    assert "set cursor.persist-to" in reason
