"""Configuration files: text to plain mappings, and where each key stands (SPEC 1)."""

# What is walked here holds anything, and ruamel.yaml and cattrs tell pyright little about it.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import re
import tomllib
import warnings
from datetime import date, time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trio_wsout.config.scalars import SpelledFloat, SpelledInt, read_json_value
from trio_wsout.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Document", "Place", "read_document"]

Place = tuple[int, int]
"""1-based line and column."""
KeyPath = tuple["str | int", ...]


class Document:
    """A parsed file: its mapping, and the place of every key."""

    def __init__(self, mapping: Mapping[str, object], places: Mapping[KeyPath, Place]) -> None:
        self.mapping = mapping
        self._places = places

    def place(self, path: KeyPath) -> Place | None:
        """Where a key stands, or the nearest key above it; None: unknown."""
        while path:
            if path in self._places:
                return self._places[path]
            path = path[:-1]
        return None


def read_document(path: Path) -> Document:
    """Read a YAML, TOML or JSON file, told apart by its ending; a pipe has none, and is told apart by how it begins.

    Raises:
        ConfigError: It can't be read, parsed, or is no mapping; the text has line and column.
    """
    readers = {".yaml": _read_yaml, ".yml": _read_yaml, ".toml": _read_toml, ".json": _read_json}
    reader = readers.get(path.suffix.lower())
    nameless = path.parts[:2] == ("/", "dev") or path.is_fifo()
    if reader is None and not nameless:
        raise _refused(path, f"the file's ending must be one of {', '.join(readers)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _refused(path, f"can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise _refused(path, "is not UTF-8 text") from None
    document = (reader or _reader_of(text))(path, text)
    if not isinstance(document.mapping, dict):
        raise _refused(path, "must hold a mapping of fields at its top level")
    return document


def _reader_of(text: str) -> Callable[[Path, str], Document]:
    """How to read a text that comes without a name, by its first line that is no comment."""
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    if first.startswith("{"):
        return _read_json
    return _read_toml if _TOML_TABLE.match(first) or _TOML_KEY.match(first) else _read_yaml


def _refused(path: Path, reason: str, place: Place | None = None) -> ConfigError:
    line, column = place if place is not None else (None, None)
    return ConfigError([Problem(path="", reason=reason, line=line, column=column)], source=str(path))


def _beyond(path: Path, text: str, error: ValueError | RecursionError) -> ConfigError:
    """What a parser says of a text that is well-formed: a number that Python does not read, or endless brackets."""
    if isinstance(error, RecursionError):
        return _refused(path, "is nested too deeply")
    longest = max(re.finditer(r"[\d_]+", text), key=lambda found: len(found[0]))
    before = text[: longest.start()]
    place = before.count("\n") + 1, longest.start() - before.rfind("\n")
    return _refused(path, "holds a number of thousands of digits", place)


_DUPLICATE = re.compile(r'found duplicate key "[\w.-]+"(?= with value)')
_QUOTED = re.compile(r"""(['"]).*\1""")

# -- YAML -------------------------------------------------------------------------------------------


def _read_yaml(path: Path, text: str) -> Document:
    try:
        from ruamel.yaml import YAML  # noqa: PLC0415 - an optional dependency
        from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415
    except ImportError:
        raise _refused(path, "YAML files need ruamel.yaml: pip install 'trio-wsout[yaml]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they show lines of the file
            yaml = YAML(typ="rt", pure=True)
            yaml.Constructor = _constructor()
            loaded = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = None if mark is None else (mark.line + 1, mark.column + 1)
        tab = None if mark is None else _tab(text, mark.line)
        if tab is not None:
            place, said = tab, "a tab indents this line; YAML is indented with spaces only"
        else:
            said = _problem(error.problem)
        refused = _refused(path, f"is not valid YAML: {said}", place)
    except (YAMLError, ValueError, RecursionError) as error:
        refused = _refused(path, f"is not valid YAML: {type(error).__name__}")
    else:
        return _expanded(path, loaded)
    # Out here, for the library's exception, which would go with it, shows the file's text.
    raise refused


def _tab(text: str, line: int) -> Place | None:
    """Where a tab indents the line of an error, or the line before it; None if none does."""
    lines = text.splitlines()
    for number in (line, line - 1):
        found = re.match(r"[ -]*\t", lines[number]) if 0 <= number < len(lines) else None
        if found is not None:
            return number + 1, found.end()
    return None


@cache
def _constructor() -> Any:  # noqa: ANN401 - ruamel.yaml is an optional dependency
    """Make a constructor that keeps how numbers and dates were written."""
    from ruamel.yaml.constructor import RoundTripConstructor  # noqa: PLC0415

    class Constructor(RoundTripConstructor):
        def construct_yaml_int(self, node: Any) -> Any:  # noqa: ANN401
            return SpelledInt(node.value, int(super().construct_yaml_int(node)))

        def construct_yaml_float(self, node: Any) -> Any:  # noqa: ANN401
            return SpelledFloat(node.value, float(super().construct_yaml_float(node)))

        def construct_yaml_timestamp(self, node: Any, values: Any = None) -> Any:  # noqa: ANN401
            del values
            return node.value

    for tag in ("int", "float", "timestamp"):
        Constructor.add_constructor(f"tag:yaml.org,2002:{tag}", getattr(Constructor, f"construct_yaml_{tag}"))
    return Constructor


def _problem(problem: str | None) -> str:
    """The library's word without what it quotes of the file, which may be a secret; but for the name of a key."""
    text = (problem or "it can't be parsed").strip().splitlines()[0]
    key = _DUPLICATE.match(text)
    return key[0] if key else _QUOTED.sub("…", text)


def _expanded(path: Path, loaded: object) -> Document:
    expansion = _Expansion(path)
    try:
        return Document(expansion.plain(loaded, ()), expansion.places)
    except ConfigError:
        raise
    except RecursionError:
        reason = "is nested too deeply"
    except ValueError:
        reason = "holds a key of thousands of digits"
    raise _refused(path, reason)


_MOST_NODES = 100_000
"""Values that a file may stand for; with aliases a few lines can stand for any number."""


class _Expansion:
    """Plain dicts, lists and scalars of what the round-trip loader gives, and the keys' places."""

    def __init__(self, path: Path) -> None:
        self.places: dict[KeyPath, Place] = {}
        self._path = path
        self._nodes = 0

    def plain(self, value: Any, path: KeyPath) -> Any:  # noqa: ANN401 - YAML holds anything
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise _refused(
                self._path, f"stands for more than {_MOST_NODES} values, with its aliases written out"
            )
        if isinstance(value, dict):
            return self._table(value, path)
        if isinstance(value, list):
            return [self.plain(each, (*path, index)) for index, each in enumerate(value)]
        if type(value).__name__ == "ScalarBoolean":
            # A boolean with an anchor is an int to Python.
            return bool(value)
        if isinstance(value, SpelledInt | SpelledFloat):
            return value
        for kind in (bool, int, float, str):
            if isinstance(value, kind):
                return kind(value)
        return value

    def _table(self, value: dict[Any, Any], path: KeyPath) -> dict[str, Any]:
        marks = getattr(value, "lc", None)
        found: dict[str, Any] = {}
        for key, each in value.items():
            name, place = str(key), None
            if marks is not None and marks.data and key in marks.data:
                line, column = marks.key(key)
                place = self.places[(*path, name)] = (line + 1, column + 1)
            if name in found:
                raise _refused(
                    self._path, f"the key {name!r} is there twice, as a text and not as one", place
                )
            found[name] = self.plain(each, (*path, name))
        return found


# -- TOML -------------------------------------------------------------------------------------------

_TOML_TABLE = re.compile(r"\s*\[([^\[\]]+)\]")
_TOML_KEY = re.compile(r"(\s*)([\w.\"' -]+?)\s*=")
_TOML_AT = re.compile(r"\(at line (\d+), column (\d+)\)")


def _read_toml(path: Path, text: str) -> Document:
    try:
        mapping = tomllib.loads(text, parse_float=SpelledFloat)
    except tomllib.TOMLDecodeError as error:
        at = _TOML_AT.search(str(error))
        place = (int(at[1]), int(at[2])) if at else None
        raise _refused(path, f"is not valid TOML: {_TOML_AT.sub('', str(error)).strip()}", place) from None
    except (ValueError, RecursionError) as error:
        raise _beyond(path, text, error) from None
    places = _toml_places(text)
    return Document(_toml_written(mapping, text.splitlines(), places, ()), places)


def _toml_places(text: str) -> dict[KeyPath, Place]:
    """Where keys stand, as far as lines tell; tomllib does not say."""
    places: dict[KeyPath, Place] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        if found := _TOML_TABLE.match(line):
            table = _toml_path(found[1])
            places.setdefault(table, (number, 1))
        elif found := _TOML_KEY.match(line):
            places.setdefault((*table, *_toml_path(found[2])), (number, len(found[1]) + 1))
    return places


_TOML_BARE = re.compile(
    r"""[\s,{](?:[\w-]+|"[^"\\]*"|'[^']*')\s*=\s*([-+\w.:]+(?: [\d:.]+(?:Z|[-+][\d:]+)?)?)"""
)


def _toml_written(value: Any, lines: list[str], places: Mapping[KeyPath, Place], path: KeyPath) -> Any:  # noqa: ANN401
    """The same values, where whole numbers, dates and times know how they were written."""
    if isinstance(value, dict):
        return {key: _toml_written(each, lines, places, (*path, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_toml_written(each, lines, places, (*path, index)) for index, each in enumerate(value)]
    if isinstance(value, bool) or not isinstance(value, int | date | time):
        return value
    written = _toml_spelling(value, lines, places, path)
    return SpelledInt(written, value) if isinstance(value, int) else written


def _toml_spelling(
    value: int | date | time, lines: list[str], places: Mapping[KeyPath, Place], path: KeyPath
) -> str:
    """How a value was written, if its key's line, or that of the inline table around it, tells; else how it is usual."""
    place = places.get(path) or places.get(path[:-1])
    if place is not None:
        for found in _TOML_BARE.finditer(f" {lines[place[0] - 1]}"):
            try:
                same = tomllib.loads(f"x = {found[1]}")["x"] == value
            except ValueError:
                continue
            if same:
                return found[1]
    return str(value) if isinstance(value, int) else value.isoformat()


def _toml_path(text: str) -> KeyPath:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


# -- JSON -------------------------------------------------------------------------------------------


def _read_json(path: Path, text: str) -> Document:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise _refused(path, f"the key {key!r} is there twice in one object", places.get((key,)))
            found[key] = value
        return found

    places = _json_places(text)
    try:
        mapping = read_json_value(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        refused = _refused(path, f"is not valid JSON: {error.msg}", (error.lineno, error.colno))
    except ConfigError as error:
        refused = error
    except (ValueError, RecursionError) as error:
        refused = _beyond(path, text, error)
    else:
        return Document(mapping, places)
    raise refused


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _json_places(text: str) -> dict[KeyPath, Place]:
    """Where keys stand, by a walk over the tokens; on text that is no JSON it stops somewhere."""
    places: dict[KeyPath, Place] = {}
    stack: list[str | int] = []
    inside: list[str] = []
    expects_key = False
    for token in _JSON_TOKEN.finditer(text):
        piece = token[0]
        if piece in "{[":
            inside.append(piece)
            stack.append("" if piece == "{" else 0)
            expects_key = piece == "{"
        elif piece in "}]":
            if not inside:
                break
            inside.pop()
            stack.pop()
            expects_key = False
        elif piece == "," and inside:
            expects_key = inside[-1] == "{"
            if inside[-1] == "[" and isinstance(stack[-1], int):
                stack[-1] += 1
        elif piece.startswith('"') and expects_key:
            stack[-1] = piece[1:-1]
            line_start = text.rfind("\n", 0, token.start()) + 1
            places.setdefault(
                tuple(stack), (text.count("\n", 0, token.start()) + 1, token.start() - line_start + 1)
            )
            expects_key = False
    return places
