"""The stores that a configuration names, and whether its paths can be used (SPEC 7, 9, 11 and 13)."""

# ruff: noqa: PTH110, PTH112 - pathlib raises where a name is too long; os.path returns False

import os
import random
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import trio

from trio_wsout._core.cursor import default_state_id
from trio_wsout.config.addresses import UnixAddress, parse_bind
from trio_wsout.config.redis_url import REDIS_SCHEME, expand_redis_url
from trio_wsout.config.sections import Config, Cursor, History, Spool
from trio_wsout.config.templates import Resolve, no_value
from trio_wsout.errors import ConfigError, CursorError, HistoryError, Problem
from trio_wsout.stores.advice import unusable_directory
from trio_wsout.stores.cursor import (
    CursorStore,
    FileCursorStore,
    MemoryCursorStore,
    SqliteCursorStore,
    file_in_directory,
)
from trio_wsout.stores.log import LogStore
from trio_wsout.stores.log_memory import MemoryLog
from trio_wsout.stores.log_sqlite import SqliteLog, spool_in

__all__ = [
    "check_paths",
    "open_cursor_store",
    "open_history_store",
    "open_spool_store",
    "state_directory",
]

_SQLITE = "sqlite:"
NO_COREDIS = (
    None
    if find_spec("coredis")
    else "coredis, which speaks with Valkey and Redis, is not installed: pip install 'trio-wsout[redis]'"
)
"""The reason why no URL of Valkey or Redis can be used, with advice; None if they can."""


async def open_cursor_store(cursor: Cursor, *, url: str, resolve: Resolve = no_value) -> CursorStore:
    """Return the store that `persist-to` and `state-id` name.

    `persist-to` is ``memory:``, ``sqlite:PATH``, the URL of Valkey or Redis, a directory (one that exists, or ends with a slash;
    the cursor is in a file in it that is named after the state id), or a file. Without `persist-to` the cursor is in memory, or
    in the platform's state directory if there is a `state-id`. `resolve` returns the values of ``${…}`` in a URL.

    Raises:
        ConfigError: There is no `persist-to`, and no state directory that can be written to.
        CursorError: The directory can't be made, or the URL needs coredis, which is not installed.
    """
    state_id = cursor.state_id if cursor.state_id is not None else default_state_id(url, of=cursor.from_)
    persist_to = cursor.persist_to
    if persist_to == "memory:" or (persist_to is None and cursor.state_id is None):
        await trio.lowlevel.checkpoint()
        return MemoryCursorStore()
    if persist_to is not None and persist_to.startswith(_SQLITE):
        await trio.lowlevel.checkpoint()
        return SqliteCursorStore(Path(persist_to.removeprefix(_SQLITE)), state_id)
    if persist_to is not None and REDIS_SCHEME.match(persist_to):
        await trio.lowlevel.checkpoint()
        if NO_COREDIS:
            raise CursorError(f"cursor.persist-to: {NO_COREDIS}")
        from trio_wsout.stores.cursor_redis import RedisCursorStore  # noqa: PLC0415 - an optional dependency

        address = partial(expand_redis_url, persist_to, resolve, stream=False)
        return RedisCursorStore(address, state_id, persist_to)
    path = await trio.to_thread.run_sync(_cursor_file, persist_to, state_id)
    return FileCursorStore(path, state_id)


def _cursor_file(persist_to: str | None, state_id: str) -> Path:
    """Return the path of a cursor's file, after making its directory if `persist-to` names one, or nothing."""
    if persist_to is not None and not _is_directory(persist_to):
        return Path(persist_to)
    directory = state_directory() if persist_to is None else Path(persist_to)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if persist_to is None:
            reason = f"the state directory {directory} can't be made: {error.strerror}"
            raise _no_state_directory(reason) from error
        advice = "create it, or set cursor.persist-to"
        raise CursorError(f"cursor directory {directory}: {error.strerror}; {advice}") from error
    if persist_to is None and not os.access(directory, os.W_OK | os.X_OK):
        raise _no_state_directory(f"nothing can be written into the state directory {directory}")
    return file_in_directory(directory, state_id)


def _is_directory(persist_to: str) -> bool:
    """Return whether `persist-to` names a directory: one that exists, or one that is to be made."""
    return persist_to.endswith(("/", os.sep)) or os.path.isdir(persist_to)


def open_history_store(
    history: History, resolve: Resolve = no_value, draw: Callable[[], float] = random.random
) -> LogStore:
    """Return the store that `store` names: ``memory:``, ``sqlite:PATH`` or the URL of Valkey or Redis; with the section's limits.

    Nothing is read or written before its own `open`.

    Args:
        history: The section.
        resolve: Returns the values of ``${…}`` in the URL, at each connection.
        draw: Returns numbers in [0, 1), for the pauses between attempts.

    Raises:
        HistoryError: The URL needs coredis, which is not installed.
    """
    if history.store == "memory:":
        return MemoryLog(history)
    if history.store.startswith(_SQLITE):
        return SqliteLog(Path(history.store.removeprefix(_SQLITE)), history)
    if NO_COREDIS:
        raise HistoryError(f"history.store: {NO_COREDIS}")
    from trio_wsout.stores.log_redis import RedisLog  # noqa: PLC0415 - an optional dependency

    return RedisLog(
        partial(expand_redis_url, history.store, resolve, stream=True), history, history.store, draw=draw
    )


def open_spool_store(spool: Spool) -> LogStore:
    """Return the spool in the directory `path`. Nothing is read or written before its own `open`."""
    return spool_in(Path(spool.path))


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
    raise _no_state_directory(f"{reason}, so there is no home directory to keep the cursor in")


def _no_state_directory(reason: str) -> ConfigError:
    """Return the error for a cursor without `persist-to` on a machine whose state directory can't be used."""
    advice = (
        "set cursor.persist-to to a directory, or to memory: to keep the cursor no longer than this process"
    )
    return ConfigError([Problem(path="cursor.persist-to", reason=f"is not set, and {reason}; {advice}")])


# -- checks ----------------------------------------------------------------------------------------------


def check_paths(config: Config) -> list[Problem]:
    """Return a problem for each path at which opening the output, or its first write, would fail.

    Nothing is made or changed. Without `cursor.persist-to` the state directory is checked. Only the attempt can find a
    lock of another process, damage, and a full disk.
    """
    reasons: dict[str, str | None] = {}
    if config.cursor is not None and config.url is not None:
        reasons["cursor.persist-to"] = _check_cursor(config.cursor.persist_to)
    if config.history is not None:
        reasons["history.store"] = _check_history(config.history.store)
    if config.spool is not None:
        reasons["spool.path"] = _check_directory(Path(config.spool.path), parents=False)
    address = None if config.server is None else parse_bind(config.server.bind)
    if isinstance(address, UnixAddress):
        reasons["server.bind"] = unusable_directory(Path(address.path).parent)
    return [Problem(path=path, reason=reason) for path, reason in reasons.items() if reason is not None]


# Each of these returns a reason with advice, or None if the path can be used.


def _check_history(store: str) -> str | None:
    if store.startswith(_SQLITE):
        return _check_file(store.removeprefix(_SQLITE))
    return None if store == "memory:" else NO_COREDIS


def _check_cursor(path: str | None) -> str | None:
    if path is None:
        return _check_state_directory()
    if path == "memory:":
        return None
    if REDIS_SCHEME.match(path):
        return NO_COREDIS
    if path.startswith(_SQLITE):
        return _check_file(path.removeprefix(_SQLITE))
    if _is_directory(path):
        return _check_directory(Path(path), parents=True)
    return _check_file(path)


def _check_state_directory() -> str | None:
    try:
        directory = state_directory()
        reason = _check_directory(directory, parents=True)
        if reason is not None:
            raise _no_state_directory(f"the state directory {directory} can't be used: {reason}")
    except ConfigError as error:
        return error.problems[0].reason
    return None


def _check_file(path: str) -> str | None:
    """Check a file that is read and replaced."""
    if os.path.isdir(path):
        return f"{path} is a directory; name a file in it"
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        return f"{path} can't be read and written by this user; chown or chmod it, or name another path"
    return unusable_directory(Path(path).parent)


def _check_directory(path: Path, *, parents: bool) -> str | None:
    """Check a directory that is made if it is missing; with `parents` also the ones above it."""
    nearest = path
    while not os.path.exists(nearest) and nearest != nearest.parent and (parents or nearest == path):
        nearest = nearest.parent
    return unusable_directory(nearest)
