"""What of the places that a configuration names can't be used, seen without making or changing anything (SPEC 13)."""

# ruff: noqa: PTH110, PTH112 - what pathlib asks raises where a name is too long; os.path says no
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trio_wsout.config.addresses import UnixAddress, parse_bind
from trio_wsout.errors import ConfigError, Problem
from trio_wsout.stores.opening import ELSEWHERE, state_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_wsout.config.sections import Config

__all__ = ["look_at_places", "look_at_state_directory"]


def look_at_places(config: Config) -> list[Problem]:
    """Return a problem for each place that opening the output, or its first write, would fail at.

    What only the attempt can tell is left to it: a lock that another process has, damage, a disk that is full.
    """
    return [
        Problem(path=path, reason=reason)
        for path, reason in (*_cursor(config), *_history(config), *_spool(config), *_socket(config))
        if reason is not None
    ]


def look_at_state_directory() -> list[Problem]:
    """Return the one problem that keeps a cursor from the platform's state directory, if there is one."""
    try:
        directory = state_directory()
    except ConfigError as error:
        return list(error.problems)
    wrong = _no_directory(directory, deep=True)
    if wrong is None:
        return []
    reason = f"is not set, and the state directory {directory} can't be used: {wrong}; {ELSEWHERE}"
    return [Problem(path="cursor.persist-to", reason=reason)]


_Found = tuple[str, str | None]


def _cursor(config: Config) -> Iterator[_Found]:
    cursor = config.cursor
    if cursor is None or config.url is None or cursor.persist_to == "memory:":
        return
    path, place = "cursor.persist-to", cursor.persist_to
    if place is None and cursor.state_id is not None:
        yield from ((each.path, each.reason) for each in look_at_state_directory())
    elif place is not None and place.startswith("sqlite:"):
        yield path, _no_file(Path(place.removeprefix("sqlite:")))
    elif place is not None and (place.endswith(("/", os.sep)) or os.path.isdir(place)):
        yield path, _no_directory(Path(place), deep=True)
    elif place is not None:
        yield path, _no_file(Path(place))


def _history(config: Config) -> Iterator[_Found]:
    if config.history is not None and config.history.store.startswith("sqlite:"):
        yield "history.store", _no_file(Path(config.history.store.removeprefix("sqlite:")))


def _spool(config: Config) -> Iterator[_Found]:
    if config.spool is not None:
        yield "spool.path", _no_directory(Path(config.spool.path), deep=False)


def _socket(config: Config) -> Iterator[_Found]:
    address = None if config.server is None else parse_bind(config.server.bind)
    if isinstance(address, UnixAddress):
        yield "server.bind", _unwritable(Path(address.path).parent)


def _no_file(path: Path) -> str | None:
    """Why there can't be a file at a place that is read and replaced; None if there can."""
    if os.path.isdir(path):
        return f"{path} is a directory; name a file in it"
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        return f"{path} can't be read and written by this user; chown or chmod it, or name another place"
    return _unwritable(path.parent)


def _no_directory(path: Path, *, deep: bool) -> str | None:
    """Why there can't be a directory, with all above it if `deep`; None if there can."""
    place = path
    while not os.path.exists(place) and place != place.parent and (deep or place == path):
        place = place.parent
    return _unwritable(place)


def _unwritable(directory: Path) -> str | None:
    """Why nothing can be made in a directory; None if it can."""
    if not os.path.exists(directory):
        return f"the directory {directory} is not there; create it, or name another place"
    if not os.path.isdir(directory):
        return f"{directory} is no directory; name another place"
    if not os.access(directory, os.W_OK | os.X_OK):
        return (
            f"nothing can be written into {directory} by this user; make it writable, or name another place"
        )
    return None
