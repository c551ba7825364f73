"""What of a configuration depends on the machine that it runs on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from trio_wsout._wire.proxy import check_proxy
from trio_wsout._wire.tls import ServerContext, client_context, key_password
from trio_wsout.errors import ConfigError
from trio_wsout.stores.from_config import state_directory
from trio_wsout.stores.path_checks import check_paths

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsout.config import Config, Tls
    from trio_wsout.errors import Problem

__all__ = ["on_this_machine"]


def _client_tls(tls: Tls) -> None:
    password = key_password("tls.client-key-password", tls.client_key_password, _value)
    client_context(evolve(tls, client_key_password=password))


def _value(source: str, name: str | None) -> str | None:
    """The value of a ``${…}`` that the command has; None if it has none."""
    try:
        text = Path(name or "").read_text(encoding="utf-8").rstrip() if source == "file" else None
    except (OSError, ValueError):
        return None
    return os.environ.get(name or "") if source == "env" else text


def on_this_machine(config: Config, source: str | None) -> Config:
    """Return the configuration as a command runs it: its cursor is kept in the platform's state directory by default.

    Args:
        config: What was loaded.
        source: The file that it was loaded from, for the problems; None if there was none.

    Raises:
        ConfigError: Files, keys or directories that it names can't be used here; all of them at once.
    """
    found: list[Problem] = []

    def attempt(look: Callable[[], object]) -> None:
        try:
            look()
        except ConfigError as error:
            found.extend(error.problems)

    if config.url is not None:
        attempt(lambda: check_proxy(config))
    if config.url is not None and config.url.startswith("wss:"):
        attempt(lambda: _client_tls(config.tls))
    if config.server is not None and (tls := config.server.tls) is not None:
        attempt(lambda: ServerContext(tls, _value))
    found += check_paths(config)
    if found:
        raise ConfigError(found, source=source)
    cursor = config.cursor
    if (
        cursor is not None
        and config.url is not None
        and cursor.persist_to is None
        and cursor.state_id is None
    ):
        config = evolve(config, cursor=evolve(cursor, persist_to=f"{state_directory()}{os.sep}"))
    return config
