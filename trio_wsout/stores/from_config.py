"""The stores that a configuration names (SPEC 7, 9 and 11)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from trio_wsout._core.cursor import default_state_id
from trio_wsout.errors import ConfigError, CursorError, Problem, SpoolError
from trio_wsout.stores.cursor import FileCursorStore, MemoryCursorStore, SqliteCursorStore, file_in_directory
from trio_wsout.stores.history_memory import MemoryHistoryStore
from trio_wsout.stores.history_sqlite import SqliteHistoryStore

if TYPE_CHECKING:
    from trio_wsout.config.sections import Cursor, History, Spool
    from trio_wsout.stores.cursor import CursorStore
    from trio_wsout.stores.history import HistoryStore
    from trio_wsout.stores.spool import SpoolStore

__all__ = [
    "no_state_directory",
    "open_cursor_store",
    "open_history_store",
    "open_spool_store",
    "state_directory",
]


async def open_cursor_store(cursor: Cursor, *, url: str | None) -> CursorStore:
    """Return the store that `persist-to` and `state-id` name.

    `persist-to` is ``memory:``, ``sqlite:PATH``, a directory (one that exists, or ends with a slash; the cursor is in
    a file in it that is named after the state id), or a file. Without `persist-to` the cursor is in memory, or in the
    platform's state directory if there is a `state-id`.

    Raises:
        ConfigError: There is no `persist-to`, and no state directory that can be written to.
        CursorError: The directory can't be made.
    """
    state_id = cursor.state_id if cursor.state_id is not None else default_state_id(url or "")
    persist_to = cursor.persist_to
    if persist_to == "memory:" or (persist_to is None and cursor.state_id is None):
        await trio.lowlevel.checkpoint()
        return MemoryCursorStore()
    if persist_to is None:
        directory = state_directory()
        await trio.to_thread.run_sync(_make_state_directory, directory)
        return FileCursorStore(file_in_directory(directory, state_id), state_id)
    if persist_to.startswith("sqlite:"):
        await trio.lowlevel.checkpoint()
        return SqliteCursorStore(Path(persist_to.removeprefix("sqlite:")), state_id)
    path = Path(persist_to)
    if persist_to.endswith(("/", os.sep)):
        await trio.to_thread.run_sync(_make_directory, path)
    if await trio.to_thread.run_sync(os.path.isdir, path):
        path = file_in_directory(path, state_id)
    return FileCursorStore(path, state_id)


def open_history_store(history: History) -> HistoryStore:
    """Return the store that `store` names, which is ``memory:`` or ``sqlite:PATH``, with the section's limits.

    Nothing is read or written before its own `open`.
    """
    if history.store == "memory:":
        return MemoryHistoryStore(history)
    return SqliteHistoryStore(Path(history.store.removeprefix("sqlite:")), history)


def open_spool_store(spool: Spool, max_bytes: int) -> SpoolStore:
    """Return the spool in the directory `path`, of at most `max_bytes`. Nothing is read or written before its own `open`.

    Raises:
        SpoolError: This system has no spools.
    """
    try:
        from trio_wsout.stores.spool_files import FileSpool  # noqa: PLC0415 - only POSIX systems can import it
    except ImportError as error:
        raise SpoolError(f"spool {spool.path}: this system can't lock files; leave spool out") from error
    return FileSpool(Path(spool.path), max_bytes)


def state_directory() -> Path:
    """Return the platform's directory for state that survives, as the environment has it now.

    Raises:
        ConfigError: There is no home directory that it could be in.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = _home() / "Library" / "Application Support"
    else:
        # The XDG specification says to ignore a relative path.
        base = Path(os.environ.get("XDG_STATE_HOME", ""))
        base = base if base.is_absolute() else _home() / ".local" / "state"
    return Path(base) / "trio-wsout"


def _home() -> Path:
    reason = "HOME is empty"
    if os.environ.get("HOME") != "":
        try:
            return Path.home()
        except RuntimeError:
            reason = "HOME is not set and this user has no entry"
    raise no_state_directory(f"{reason}, so there is no home directory to keep the cursor in")


def no_state_directory(reason: str) -> ConfigError:
    """Return the error for a cursor without `persist-to` on a machine whose state directory can't be used."""
    advice = (
        "set cursor.persist-to to a directory, or to memory: to keep the cursor no longer than this process"
    )
    return ConfigError([Problem(path="cursor.persist-to", reason=f"is not set, and {reason}; {advice}")])


def _make_state_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise no_state_directory(f"the state directory {path} can't be made: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise no_state_directory(f"nothing can be written into the state directory {path}")


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        message = f"cursor directory {path}: {error.strerror}; create it, or set cursor.persist-to"
        raise CursorError(message) from error
