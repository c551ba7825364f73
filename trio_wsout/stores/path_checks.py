"""Find out whether the paths that a configuration names can be used, without making or changing anything (SPEC 13)."""

# ruff: noqa: PTH110, PTH112 - pathlib raises where a name is too long; os.path returns False
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trio_wsout.config.addresses import UnixAddress, parse_bind
from trio_wsout.errors import ConfigError, Problem
from trio_wsout.stores.advice import unusable_directory
from trio_wsout.stores.from_config import no_state_directory, state_directory

if TYPE_CHECKING:
    from trio_wsout.config.sections import Config, Cursor

__all__ = ["check_paths"]

_SQLITE = "sqlite:"


def check_paths(config: Config) -> list[Problem]:
    """Return a problem for each path at which opening the output, or its first write, would fail.

    Without `cursor.persist-to` the state directory is checked. Only the attempt can find a lock of another process,
    damage, and a full disk.
    """
    reasons: dict[str, str | None] = {}
    if config.cursor is not None and config.url is not None:
        reasons["cursor.persist-to"] = _check_cursor(config.cursor)
    if config.history is not None and config.history.store.startswith(_SQLITE):
        reasons["history.store"] = _check_file(config.history.store.removeprefix(_SQLITE))
    if config.spool is not None:
        reasons["spool.path"] = _check_directory(Path(config.spool.path), parents=False)
    address = None if config.server is None else parse_bind(config.server.bind)
    if isinstance(address, UnixAddress):
        reasons["server.bind"] = unusable_directory(Path(address.path).parent)
    return [Problem(path=path, reason=reason) for path, reason in reasons.items() if reason is not None]


# Each of these returns a reason with advice, or None if the path can be used.


def _check_cursor(cursor: Cursor) -> str | None:
    path = cursor.persist_to
    if path is None:
        return _check_state_directory()
    if path == "memory:":
        return None
    if path.startswith(_SQLITE):
        return _check_file(path.removeprefix(_SQLITE))
    if path.endswith(("/", os.sep)) or os.path.isdir(path):
        return _check_directory(Path(path), parents=True)
    return _check_file(path)


def _check_state_directory() -> str | None:
    try:
        directory = state_directory()
        reason = _check_directory(directory, parents=True)
        if reason is not None:
            raise no_state_directory(f"the state directory {directory} can't be used: {reason}")
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
