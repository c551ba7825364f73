"""Loading a configuration for a command, and printing it or its problems."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trio_wsout.cli.machine import on_this_machine
from trio_wsout.cli.printing import say, show
from trio_wsout.config import dump_config, load_config
from trio_wsout.config.scalars import read_json_value
from trio_wsout.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_wsout.config import Config

__all__ = ["load", "print_config", "print_problems"]


_URL = re.compile(r"(wss?|https?)://", re.IGNORECASE)
_WITHOUT = "name a configuration file or an address (ws://…), or give fields with --set"

_ENDINGS = (".yaml", ".yml", ".toml", ".json")
_NEITHER = "there is no such file; an address begins with ws:// or wss://"


def load(
    places: Sequence[str], sets: Sequence[str], contexts: Sequence[str], headers: Sequence[str]
) -> tuple[Config, Path | None]:
    """The configuration of a file with fields set over it; without a file, of these fields alone; and that file.

    Args:
        places: A file and an address, in any order; either may be missing.
        sets: Fields, as ``path=value``.
        contexts: Values for ``{{name}}``, as ``name=value``.
        headers: Headers of the handshake, as ``Name: value``; they are secret.

    Raises:
        ConfigError: Everything that is wrong with it, or with the command's own options.
    """
    wrong: list[Problem] = []
    overrides = {name: _value(text) for name, text in _pairs("--set", sets, wrong)}
    context = {name: _context(text) for name, text in _pairs("--context", contexts, wrong)}
    urls = [each for each in places if _URL.match(each)]
    paths = [Path(each) for each in places if not _URL.match(each)]
    if len(urls) > 1 or len(paths) > 1:
        wrong.append(Problem(path="", reason="name one configuration file and one address at most"))
    if not places and not sets:
        wrong.append(Problem(path="", reason=_WITHOUT))
    if urls:
        overrides["url"] = urls[0]
    given = _headers(headers, wrong)
    overrides.update({f"auth.headers.{name}": value for name, value in given.items()})
    if wrong:
        raise ConfigError(wrong)
    path = paths[0] if paths else None
    if path is not None and path.suffix.lower() not in _ENDINGS and not os.path.lexists(path):
        raise ConfigError([Problem(path=str(path), reason=_NEITHER)])
    config = load_config({} if path is None else path, context=context, overrides=overrides)
    taken = {name.lower() for name in config.headers} & {name.lower() for name in given}
    if taken:
        reason = f"{', '.join(sorted(taken))}: the configuration's own headers have it, and win; change it with --set headers.NAME=value"
        raise ConfigError([Problem(path="-H", reason=reason)])
    return on_this_machine(config, None if path is None else str(path)), path


def _headers(texts: Sequence[str], wrong: list[Problem]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, colon, value = (part.strip() for part in text.partition(":"))
        if colon and name and "." not in name:
            found[name] = value
        else:
            # What stands there may be secret, also the name if the colon was forgotten.
            dot = "; a name with a dot can be given in a file only" if "." in name else ""
            wrong.append(Problem(path="-H", reason=f"expected 'Name: value'{dot}"))
    return found


def _pairs(option: str, texts: Sequence[str], wrong: list[Problem]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name:
            found.append((name, value))
        else:
            # What stands behind an equals sign may be secret.
            wrong.append(Problem(path=option, reason=f"expected name=value; found '{name or '=…'}'"))
    return found


def _value(text: str) -> Any:  # noqa: ANN401 - JSON
    """A JSON value where it parses as one, else the text itself."""
    try:
        return read_json_value(text)
    except (ValueError, RecursionError):  # also of a number of thousands of digits, or of endless brackets
        return text


def _context(text: str) -> object:
    """A number, true or false where that reads back as the same text, a JSON object, or else the text itself.

    So a value may stand for a number, and where it stands in a text it is what was written.
    """
    value: object = _value(text)
    return value if _is_context(value, text) else text


def _is_context(value: object, text: str) -> bool:
    return isinstance(value, dict) or (isinstance(value, bool | int | float) and json.dumps(value) == text)


def print_config(config: Config) -> bool:
    """Print the effective configuration, defaults filled in and secrets masked. Whether it went well."""
    document = dump_config(config, masked=True)
    try:
        from ruamel.yaml import YAML  # noqa: PLC0415 - an optional dependency
    except ImportError:
        return show(json.dumps(document, indent=2))
    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(document, text)  # pyright: ignore[reportUnknownMemberType] - ruamel.yaml has few types
    return show(text.getvalue().removesuffix("\n"))


def print_problems(error: ConfigError) -> None:
    """Print every problem on a line of its own: file, line, column, key path, reason."""
    for problem in error.problems:
        place = f"{error.source}:" if error.source else ""
        if problem.line is not None:
            place += f"{problem.line}:{problem.column}:"
        path = f"{problem.path}: " if problem.path else ""
        say(f"{place}{' ' if place else ''}{path}{problem.reason}", "error")
