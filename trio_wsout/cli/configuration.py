"""The configuration of a command: loaded from a file and options, checked against this machine, and printed."""

import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from attrs import evolve

from trio_wsout._tasks.text_files import read_text_file
from trio_wsout._wire.proxy import check_proxy
from trio_wsout._wire.tls import ServerContext, check_tls
from trio_wsout.cli.options import ConfigOptions
from trio_wsout.cli.terminal import print_result, report
from trio_wsout.config import Config, dump_config, load_config
from trio_wsout.config.scalars import read_json_value
from trio_wsout.errors import ConfigError, Problem
from trio_wsout.stores.from_config import check_paths, state_directory

_URL = re.compile(r"(wss?|https?)://", re.IGNORECASE)
_SUFFIXES = (".yaml", ".yml", ".toml", ".json")


def load(arguments: Sequence[str], options: ConfigOptions) -> tuple[Config, Path | None]:
    """Load a configuration from a file, addresses and options; return it with the path of the file, None if none is named.

    The cursor is kept in the platform's state directory unless the configuration names another store. A ConfigError has all
    that is wrong with the configuration or with these options, or all files, keys and directories that this machine lacks.
    """
    problems: list[Problem] = []
    overrides = {name: _json_or_text(text) for name, text in _pairs("--set", "=", options.sets, problems)}
    contexts = _pairs("--context", "=", options.contexts, problems)
    context = {name: _context_value(text) for name, text in contexts}
    headers = {name.strip(): text.strip() for name, text in _pairs("-H", ":", options.headers, problems)}
    urls = [each for each in arguments if _URL.match(each)]
    paths = [Path(each) for each in arguments if not _URL.match(each)]
    if len(paths) > 1:
        problems.append(Problem(path="", reason="name one configuration file at most"))
    if not arguments and not options.sets:
        reason = "name a configuration file or an address (ws://…), or give fields with --set"
        problems.append(Problem(path="", reason=reason))
    path = paths[0] if paths else None
    is_file = path is None or path.suffix.lower() in _SUFFIXES or os.path.lexists(path)
    if not problems and not is_file:
        reason = "there is no such file; an address begins with ws:// or wss://"
        problems.append(Problem(path=str(path), reason=reason))
    if problems:
        raise ConfigError(problems)
    if urls:
        overrides["url"] = urls
    overrides.update({f"auth.headers.{name}": value for name, value in headers.items()})
    config = load_config({} if path is None else path, context=context, overrides=overrides)
    twice = {name.lower() for name in config.headers} & {name.lower() for name in headers}
    if twice:
        reason = f"{', '.join(sorted(twice))}: the configuration's own headers have it, and win; change it with --set headers.NAME=value"
        raise ConfigError([Problem(path="-H", reason=reason)])
    return _on_this_machine(config, None if path is None else str(path)), path


def _pairs(
    option: str, sign: str, texts: Iterable[str] | None, problems: list[Problem]
) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each text, and note those that have none."""
    for text in texts or ():
        name, found, value = text.partition(sign)
        if not found or not name.strip():
            # The text may be secret: behind the sign, and even before it, if the colon of a header was forgotten.
            shown = f"name=value; found '{name or '=…'}'" if sign == "=" else "'Name: value'"
            problems.append(Problem(path=option, reason=f"expected {shown}"))
        elif sign == ":" and "." in name:
            reason = "expected 'Name: value'; a name with a dot can be given in a file only"
            problems.append(Problem(path=option, reason=reason))
        else:
            yield name, value


def _json_or_text(text: str) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON value of a text, or the text itself if it is no JSON."""
    try:
        return read_json_value(text)
    except (ValueError, RecursionError):  # for example a number of thousands of digits, or endless brackets
        return text


def _context_value(text: str) -> object:
    """Return a JSON object, or a number or boolean that is written back as the same text, or else the text itself.

    So a value may be used where a number is expected, and within a text it is unchanged.
    """
    value = _json_or_text(text)
    if isinstance(value, bool | int | float):
        return value if json.dumps(value) == text else text
    return cast("dict[str, object]", value) if isinstance(value, dict) else text


def _on_this_machine(config: Config, source: str | None) -> Config:
    """Check the files, directories and proxies that the configuration names, and set where the cursor is kept."""
    problems: list[Problem] = []

    def attempt(check: Callable[[], object]) -> None:
        try:
            check()
        except ConfigError as error:
            problems.extend(error.problems)

    if config.url is not None:
        attempt(lambda: check_proxy(config))
        attempt(lambda: check_tls(config, _resolve))
    if config.server is not None and (tls := config.server.tls) is not None:
        attempt(lambda: ServerContext(tls, _resolve))
    problems += check_paths(config)
    if problems:
        raise ConfigError(problems, source=source)
    cursor = config.cursor
    if config.url is None or cursor is None or cursor.persist_to is not None or cursor.state_id is not None:
        return config
    return evolve(config, cursor=evolve(cursor, persist_to=f"{state_directory()}{os.sep}"))


def _resolve(source: str, name: str | None) -> str | None:
    """Return the value of a ``${source|name}``, or None if the command does not know it."""
    if source == "env":
        return os.environ.get(name or "")
    return read_text_file(name or "") if source == "file" else None


def print_config(config: Config) -> bool:
    """Print the effective configuration, with defaults and without secrets; return whether it could be written."""
    from ruamel.yaml import YAML  # noqa: PLC0415 - only this needs it

    text, yaml = io.StringIO(), YAML()
    yaml.default_flow_style = False
    yaml.dump(dump_config(config, redacted=True), text)  # pyright: ignore[reportUnknownMemberType] - ruamel.yaml has few types
    return print_result(text.getvalue().removesuffix("\n"))


def print_problems(error: ConfigError) -> None:
    """Report each problem on a line of its own: file, line, column, key path, reason."""
    for problem in error.problems:
        where = f"{error.source}:" if error.source else ""
        if problem.line is not None:
            where += f"{problem.line}:{problem.column}:"
        path = f"{problem.path}: " if problem.path else ""
        report(f"{where}{' ' if where else ''}{path}{problem.reason}", "error")
