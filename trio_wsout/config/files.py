"""Configuration files: from YAML, TOML or JSON to plain mappings, and the position of each key (SPEC 1)."""

# A document holds anything, and ruamel.yaml is optional and has few types for pyright.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

import json
import re
import tomllib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from trio_wsout.config.scalars import SpelledFloat, SpelledInt, read_json_value
from trio_wsout.errors import ConfigError, Problem

Position = tuple[int, int]
"""Line and column, both from 1."""
KeyPath = tuple["str | int", ...]
"""Keys of mappings and indices of lists, from the outermost."""


@frozen
class Document:
    """A parsed file."""

    mapping: Mapping[str, object]
    """Plain dicts, lists and scalars; numbers know their spelling."""
    positions: Mapping[KeyPath, Position]
    """The position of each key, as far as it is known."""

    def position(self, path: KeyPath) -> Position | None:
        """Return the position of a key, or of the nearest known key above it. None if no such key is known."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path)


def read_document(path: Path) -> Document:
    """Read a YAML, TOML or JSON file; the ending of its name decides which. Of a pipe, the first line decides.

    Raise ConfigError if the file can't be read or parsed, or holds no mapping; with line and column where they are
    known.
    """
    readers = {".yaml": _read_yaml, ".yml": _read_yaml, ".toml": _read_toml, ".json": _read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None and not (path.parts[:2] == ("/", "dev") or path.is_fifo()):
        raise _refused(path, f"the file's ending must be one of {', '.join(readers)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _refused(path, f"can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise _refused(path, "is not UTF-8 text") from None
    try:
        document = (reader or _reader_of(text))(path, text)
    except RecursionError:
        raise _refused(path, "is nested too deeply") from None
    if not isinstance(document.mapping, dict):
        raise _refused(path, "must hold a mapping of fields at its top level")
    return document


def _reader_of(text: str) -> Callable[[Path, str], Document]:
    """Return the reader of a text without a name, by its first line that is not a comment."""
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    if first.startswith("{"):
        return _read_json
    return _read_toml if _TOML_TABLE.match(first) or _TOML_KEY.match(first) else _read_yaml


def _refused(path: Path, reason: str, position: Position | None = None) -> ConfigError:
    line, column = position or (None, None)
    return ConfigError([Problem(path="", reason=reason, line=line, column=column)], source=str(path))


def _endless_number(path: Path, text: str) -> ConfigError:
    """Return the error for the only well-formed texts that the parsers refuse: Python limits the digits of a number."""
    longest = max(re.finditer(r"[\d_]+", text), key=lambda found: len(found[0]))
    before = text[: longest.start()]
    position = before.count("\n") + 1, longest.start() - before.rfind("\n")
    return _refused(path, "holds a number of thousands of digits", position)


# -- YAML -------------------------------------------------------------------------------------------

_TAB = r"'\t' that cannot start"
_QUOTED = re.compile(r"""(['"]).*\1""")


def _read_yaml(path: Path, text: str) -> Document:
    try:
        from ruamel.yaml import YAML  # noqa: PLC0415 - an optional dependency
        from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415
    except ImportError:
        raise _refused(path, "YAML files need ruamel.yaml: pip install 'trio-wsout[yaml]'") from None
    yaml = YAML(typ="safe", pure=True)
    expansion = _Expansion(path, yaml.constructor)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they show lines of the file
            return Document(expansion.plain(yaml.compose(text), ()), expansion.positions)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        position = None if mark is None else (mark.line + 1, mark.column + 1)
        # The library's reason quotes the file, which may be secret.
        reason = _QUOTED.sub("…", (error.problem or "it can't be parsed").strip().splitlines()[0])
        if _TAB in (error.problem or ""):
            reason = "a tab indents this line; YAML is indented with spaces only"
        refused = _refused(path, f"is not valid YAML: {reason}", position)
    except ConfigError:
        raise
    except (YAMLError, ValueError) as error:
        refused = _refused(path, f"is not valid YAML: {type(error).__name__}")
    # Raised out here, so that the library's exception, which shows the file's text, is not its context.
    raise refused


_MOST_NODES = 100_000
"""Values of a file; a few lines with aliases can stand for any number of them."""


class _Expansion:
    """Makes plain dicts, lists and scalars of the nodes of a file, and notes the position of each key."""

    def __init__(self, path: Path, constructor: Any) -> None:  # noqa: ANN401 - ruamel.yaml is an optional dependency
        self.positions: dict[KeyPath, Position] = {}
        self._path = path
        self._constructor = constructor
        self._nodes = 0

    def plain(self, node: Any, path: KeyPath) -> Any:  # noqa: ANN401 - YAML holds anything
        """Return the value of the node at `path`, or raise ConfigError for a key that is there twice, or too many values."""
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise _refused(
                self._path, f"stands for more than {_MOST_NODES} values, with its aliases written out"
            )
        match getattr(node, "id", None):
            case "mapping":
                return self._table(node, path)
            case "sequence":
                return [self.plain(each, (*path, index)) for index, each in enumerate(node.value)]
            case "scalar" if not node.tag.endswith(":timestamp"):  # a date stays a text
                value = self._constructor.construct_object(node)
                spelled = {int: SpelledInt, float: SpelledFloat}.get(type(value))
                return value if spelled is None else spelled(node.value, value)
            case _:
                return getattr(node, "value", None)

    def _table(self, node: Any, path: KeyPath) -> dict[str, Any]:  # noqa: ANN401
        merged: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for key, each in node.value:
            position = key.start_mark.line + 1, key.start_mark.column + 1
            if key.id != "scalar":
                raise _refused(self._path, "holds a key that is no text", position)
            if key.tag.endswith(":merge"):
                for source in each.value if each.id == "sequence" else [each]:
                    if source.id != "mapping":
                        raise _refused(self._path, "<< takes mappings, and nothing else", position)
                    merged = {**self.plain(source, (*path, key.value)), **merged}
            elif key.value in found:
                raise _refused(self._path, f"the key {key.value!r} is there twice", position)
            else:
                self.positions[(*path, key.value)] = position
                found[key.value] = self.plain(each, (*path, key.value))
        return merged | found


# -- TOML -------------------------------------------------------------------------------------------

_TOML_TABLE = re.compile(r"\s*\[([^\[\]]+)\]")
_TOML_KEY = re.compile(r"(\s*)([\w.\"' -]+?)\s*=")
_TOML_AT = re.compile(r"\(at line (\d+), column (\d+)\)")


def _read_toml(path: Path, text: str) -> Document:
    try:
        mapping = tomllib.loads(text, parse_float=SpelledFloat)
    except tomllib.TOMLDecodeError as error:
        at = _TOML_AT.search(str(error))
        position = (int(at[1]), int(at[2])) if at else None
        reason = f"is not valid TOML: {_TOML_AT.sub('', str(error)).strip()}"
        raise _refused(path, reason, position) from None
    except ValueError:
        raise _endless_number(path, text) from None
    return Document(mapping, _toml_positions(text))


def _toml_positions(text: str) -> dict[KeyPath, Position]:
    """Return the positions of keys that single lines show, because tomllib reports none."""
    positions: dict[KeyPath, Position] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        if found := _TOML_TABLE.match(line):
            table = _toml_path(found[1])
            positions.setdefault(table, (number, 1))
        elif found := _TOML_KEY.match(line):
            positions.setdefault((*table, *_toml_path(found[2])), (number, len(found[1]) + 1))
    return positions


def _toml_path(text: str) -> KeyPath:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


# -- JSON -------------------------------------------------------------------------------------------

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _read_json(path: Path, text: str) -> Document:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise _refused(path, f"the key {key!r} is there twice in one object", positions.get((key,)))
            found[key] = value
        return found

    positions = _json_positions(text)
    try:
        return Document(read_json_value(text, object_pairs_hook=unique), positions)
    except json.JSONDecodeError as error:
        refused = _refused(path, f"is not valid JSON: {error.msg}", (error.lineno, error.colno))
    except ConfigError:
        raise
    except ValueError:
        refused = _endless_number(path, text)
    # Raised out here, so that the library's exception, which holds the file's text, is not its context.
    raise refused


def _json_positions(text: str) -> dict[KeyPath, Position]:
    """Return the positions of keys from the tokens of a text; if it is no JSON, only those at its beginning."""
    positions: dict[KeyPath, Position] = {}
    path: list[str | int] = []  # the latest key of each open object, the index in each open list
    expects_key = False
    for token in _JSON_TOKEN.finditer(text):
        piece = token[0]
        if piece in "{[":
            path.append("" if piece == "{" else 0)
            expects_key = piece == "{"
        elif piece in "}]":
            expects_key = False
            if not path:
                break
            path.pop()
        elif piece == "," and path:
            index = path[-1]
            expects_key = isinstance(index, str)
            path[-1] = index if isinstance(index, str) else index + 1
        elif piece.startswith('"') and expects_key:
            path[-1] = piece[1:-1]
            line_start = text.rfind("\n", 0, token.start()) + 1
            position = text.count("\n", 0, token.start()) + 1, token.start() - line_start + 1
            positions.setdefault(tuple(path), position)
            expects_key = False
    return positions
