"""Makes a checked `Config` of a document, or of a `Config` made in Python, or reports every problem (SPEC 1).

The only module that knows cattrs, which walks the classes of the sections. A value that can't be read is no exception:
its problem is noted under the user's own keys, and an `Unknown` stands in its place, so that all other values are read,
and the rules between them are checked, in the same pass.
"""

# A document may hold any value, and cattrs has few types for pyright.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

import difflib
import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import StrEnum
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, get_args, get_origin

from attrs import NOTHING, define, evolve, field, fields, has
from cattrs import Converter

from trio_wsout.config.field_types import field_type_of, kebab, walk
from trio_wsout.config.files import Document, KeyPath, read_document
from trio_wsout.config.scalars import is_unicode, parse_unicode, shown, type_name
from trio_wsout.config.secret import Secret
from trio_wsout.config.sections import FORM, NONE, Config, Delivery, Heartbeat, Mode
from trio_wsout.config.templates import resolve_context
from trio_wsout.config.validation import Missing, Unknown, broken_rules, is_unset, unusable
from trio_wsout.errors import ConfigError, Problem

_DEEPEST = 100
"""Levels of a document; a configuration has seven."""
_NAMED = 6
"""Number of known fields that an error names if the user's field resembles none of them."""
_REQUIRED = "is required"


def load_config(
    source: Mapping[str, object] | str | PathLike[str],
    *,
    context: Mapping[str, object] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Load a configuration.

    Args:
        source: A mapping, or the path of a YAML, TOML or JSON file: the section's own fields, or
            the full form ``{output: {web-socket: {…}}}``.
        context: Values for ``{{name}}``: texts, numbers, true and false, and mappings of these for ``{{a.b}}``.
        overrides: Values for dotted paths such as ``reconnect.jitter``, which replace those of the document.

    Raises:
        ConfigError: Everything that is wrong, each problem with the user's own key path.
    """
    name = None if isinstance(source, Mapping) else str(source)
    document = Document(source, {}) if isinstance(source, Mapping) else read_document(Path(source))
    try:
        mapping, prefix = _section(_copied(document.mapping))
        replaced = {path: _copied(value) for path, value in (overrides or {}).items()}
    except RecursionError as error:
        raise ConfigError([Problem(path="", reason=str(error))], source=name) from None
    wrong = [problem for path, value in replaced.items() if (problem := _override(mapping, path, value))]
    config, found = _read(mapping, context or {})
    for path, reason in found:
        line, column = document.position((*prefix, *path)) or (None, None)
        wrong.append(Problem(path=_written((*prefix, *path)), reason=reason, line=line, column=column))
    if wrong:
        # In the order of the file; those without a line are last.
        wrong.sort(key=lambda each: (each.line or math.inf, each.column or 0))
        raise ConfigError(wrong, source=name)
    return config


def verify_config(config: Config) -> Config:
    """Return a Config that was made in Python as `load_config` would read it from a document with the same values.

    Raises:
        ConfigError: Everything that is wrong with it, as `load_config` reports it.
    """
    verified, found = _read(_as_document(config), None)
    if found:
        raise ConfigError([Problem(path=_written(path), reason=reason) for path, reason in found])
    return verified


def _read(
    mapping: dict[str, Any], context: Mapping[str, object] | None
) -> tuple[Config, list[tuple[KeyPath, str]]]:
    """Return the configuration of a document, and all that is wrong: the user's path and a reason of each.

    The document is the section's own fields; `context` has the values for ``{{name}}``, None if its texts are taken as
    they stand.
    """
    reading = _Reading(context, _fields_without_use(mapping))
    token = _READING.set(reading)
    try:
        config = _converter().structure(mapping, Config)
    finally:
        _READING.reset(token)
    cannot_use = (
        [] if isinstance(config.mode, Unknown) else unusable(config.mode, link=config.url is not None)
    )
    # Nobody has to complete a section that can't be used.
    found = [
        (path, reason)
        for path, reason in reading.found
        if not (reason is _REQUIRED and _attribute(path[0]) in cannot_use)
    ]
    # A section that can't be used and is unset is as if it were absent.
    absent = {
        name: getattr(_DEFAULTS, name) for name in cannot_use if "." not in name and is_unset(config, name)
    }
    config = evolve(config, **absent)
    return config, [*found, *((_users_path(path, mapping), reason) for path, reason in broken_rules(config))]


_DEFAULTS = Config()


# -- the document before cattrs -----------------------------------------------------------------------


def _copied(value: object, depth: int = 0) -> Any:  # noqa: ANN401 - a document holds anything
    """Return a copy of a document or of a value in it.

    Raise RecursionError if it is nested too deeply to be a configuration; the text says so.
    """
    if depth > _DEEPEST:
        raise RecursionError("is nested too deeply")
    if isinstance(value, Mapping):
        return {key: _copied(each, depth + 1) for key, each in value.items()}
    return [_copied(each, depth + 1) for each in value] if isinstance(value, list | tuple) else value


def _as_document(value: Any) -> Any:  # noqa: ANN401 - people put anything there
    """Return a section or a value of it in the form of a document, whatever object was put there in Python."""
    if isinstance(value, Mapping):
        return {key: _as_document(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_as_document(each) for each in value)  # of close codes, a tuple is a range
    if has(type(value)) and not isinstance(value, Secret):
        written = {kebab(each.name): _as_document(getattr(value, each.name)) for each in fields(type(value))}
        return {key: NONE if key == "heartbeat" and each is None else each for key, each in written.items()}
    return value


def _section(mapping: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the section's own fields, and the user's path to them."""
    found: object = mapping
    prefix: tuple[str, ...] = ()
    for wanted in FORM:
        key = next(iter(found)) if isinstance(found, dict) and len(found) == 1 else ""
        if not isinstance(found, dict) or kebab(key) != wanted:
            return mapping, ()
        found = found[key]
        prefix = (*prefix, key)
    return (found, prefix) if isinstance(found, dict) else ({}, prefix)


def _override(mapping: dict[str, Any], path: str, value: object) -> Problem | None:
    """Put one value into the document. Return the problem if the path leads through something else than sections."""
    *above, last = path.split(".")
    section: object = mapping
    for key in above:
        if isinstance(section, dict):
            own = _users_key(key, section)
            if section.get(own) is None:
                section[own] = {}
            section = section[own]
    if not isinstance(section, dict) or not last:
        return Problem(path=path, reason="can't be set: this path leads to no field")
    section[_users_key(last, section)] = value
    return None


def _fields_without_use(mapping: dict[str, Any]) -> set[tuple[str, ...]]:
    """Return the fields that the mode of a document can't use, each as the keys on the way to it."""
    try:
        mode = Mode(mapping.get(_users_key("mode", mapping)) or Mode.CLIENT)
    except ValueError:
        return set()
    names = unusable(mode, link=bool(mapping.get(_users_key("url", mapping))))
    return {tuple(map(kebab, name.split("."))) for name in names}


def _is_empty(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_empty(each) for each in value.values())
    return value is None or value in ("", [], ())


# -- cattrs -------------------------------------------------------------------------------------------


@define(eq=False)
class _Reading:
    """One document that is being read."""

    context: Mapping[str, object] | None
    """Values for ``{{name}}``; None if its texts are taken as they stand."""
    _without_use: set[tuple[str, ...]]
    """The fields that its mode can't use. They are ignored where they are empty: templated deployments carry such fields."""
    _path: KeyPath = field(default=(), init=False)
    """The user's own keys on the way to the value that is being read."""
    found: list[tuple[KeyPath, str]] = field(factory=list[tuple[KeyPath, str]], init=False)
    """Everything that is wrong: the user's own key path, and the reason."""

    def refuse(self, reason: str, *below: str) -> Unknown:
        """Note why the value that is being read, or one in it, is wrong; return the `Unknown` that stands for it."""
        self.found.append(((*self._path, *below), reason))
        return Unknown()

    def read(self, key: str | int, value: object, annotation: Any) -> Any:  # noqa: ANN401 - a document holds anything
        """Return the value at a key as the type in `annotation` reads it, or an `Unknown`."""
        above = self._path
        self._path = (*above, key)
        found = _converter().structure(value, annotation)
        self._path = above
        return found

    def ignores(self, key: str, value: object) -> bool:
        """Return whether a field has no effect: it is null, as templates and YAML leave fields, or empty and of no use."""
        path = tuple(map(kebab, (*self._path, key)))
        ends = range(1, len(path) + 1)
        return value is None or (_is_empty(value) and any(path[:end] in self._without_use for end in ends))


_READING: ContextVar[_Reading] = ContextVar("_READING")


@cache
def _converter() -> Converter:
    converter = Converter(detailed_validation=False)
    for each in (bool, StrEnum):  # cattrs knows these itself
        converter.register_structure_hook(each, _read_value)
    converter.register_structure_hook_func(lambda each: field_type_of(each) is not None, _read_value)
    converter.register_structure_hook_func(_holds(Mapping), _read_table)
    converter.register_structure_hook_func(_holds(tuple), _read_list)
    converter.register_structure_hook_func(has, _read_section)
    return converter


def _holds(collection: type) -> Callable[[object], bool]:
    return lambda annotation: bool(get_origin(annotation) == collection)


def _read_value(value: Any, annotation: Any) -> Any:  # noqa: ANN401 - a document holds anything
    """Return the value that the field type reads."""
    field_type, reading = field_type_of(annotation), _READING.get()
    assert field_type is not None  # noqa: S101 - the predicate of this hook found it
    if field_type.element is not None and isinstance(value, list | tuple):
        if not value:
            return reading.refuse("is an empty list; name at least one")
        values = [reading.read(index, each, field_type.element) for index, each in enumerate(value)]
        return values[0] if len(values) == 1 else tuple(values)
    try:
        if isinstance(value, str) and reading.context is not None:
            value = resolve_context(
                parse_unicode(value),
                reading.context,
                escape=field_type.templated,
                typed=not field_type.is_text,
            )
        return field_type.parse(value)
    except ValueError as error:
        return reading.refuse(f"{error}; found {shown(value, secret=field_type.secret)}")


def _read_table(value: Any, annotation: Any) -> Any:  # noqa: ANN401 - a document holds anything
    reading = _READING.get()
    if not isinstance(value, Mapping):
        return reading.refuse(f"expected a table of names and values; found {type_name(value)}")
    if not all(isinstance(key, str) and is_unicode(key) for key in value):
        return reading.refuse("expected names that are texts, without halves of surrogate pairs")
    name_type, value_type = get_args(annotation)
    read: dict[str, Any] = {}
    for key, each in value.items():
        name, found = reading.read(key, key, name_type), reading.read(key, each, value_type)
        read[key] = name if isinstance(name, Unknown) else found
    return read


def _read_list(value: Any, annotation: Any) -> Any:  # noqa: ANN401 - a document holds anything
    reading = _READING.get()
    if not isinstance(value, list | tuple):
        return reading.refuse(f"expected a list; found {type_name(value)}")
    return tuple(reading.read(index, each, get_args(annotation)[0]) for index, each in enumerate(value))


def _read_section(value: Any, section: Any) -> Any:  # noqa: ANN401 - a document holds anything
    reading = _READING.get()
    if section is Heartbeat and value == NONE:
        return None
    if section is Delivery and isinstance(value, str):
        value = {"level": value}
    if not isinstance(value, Mapping):
        either = f", or {NONE}" if section is Heartbeat else ""
        return reading.refuse(f"expected a section with fields of its own{either}; found {type_name(value)}")
    known = {kebab(each.name): each for each in fields(section)}
    read: dict[str, Any] = {}
    for key, each in value.items():
        name = kebab(key)
        if name not in known:
            reading.refuse(_not_known(name, list(known)), str(key))
        elif name != key and name in value:
            reading.refuse("is there twice, with - and with _; keep one of the two", key)
        elif not reading.ignores(key, each):
            read[known[name].name] = reading.read(key, each, known[name].type)
    for key, each in known.items():
        if each.default is NOTHING and each.name not in read:
            reading.refuse(_REQUIRED, key)
            read[each.name] = Missing()
    return section(**read)


def _attribute(key: object) -> str:
    return str(key).replace("-", "_")


# -- the user's own keys ------------------------------------------------------------------------------


def _users_key(name: str, raw: object) -> str:
    """Return a field's key as the user wrote it; its kebab-case if the user wrote none."""
    wanted = kebab(name)
    if not isinstance(raw, Mapping) or wanted in raw:
        return wanted
    return next((str(key) for key in raw if kebab(key) == wanted), wanted)


def _users_path(path: str, mapping: Mapping[str, object]) -> KeyPath:
    """Return the path of a rule's problem in the user's own spelling."""
    raw: object = mapping
    found: list[str | int] = []
    for key in path.split("."):
        own = _users_key(key, raw)
        found.append(own)
        raw = raw.get(own) if isinstance(raw, Mapping) else None
    return tuple(found)


def _not_known(key: str, known: list[str]) -> str:
    """Return advice on a field that a section does not have: the section to which it belongs, or a similar name."""
    reason = "is not a known field"
    if homes := _homes().get(key):
        return f"{reason} here; it belongs to {' or '.join(homes)}"
    if near := difflib.get_close_matches(key, known, n=1, cutoff=0.6):
        return f"{reason}; did you mean {near[0]}?"
    if near := difflib.get_close_matches(key, list(_homes()), n=1, cutoff=0.75):
        return f"{reason} here; did you mean {' or '.join(_homes()[near[0]])}?"
    named = difflib.get_close_matches(key, known, n=_NAMED, cutoff=0)
    more = f" and {len(known) - len(named)} more, see trio-wsout schema" if len(known) > len(named) else ""
    return f"{reason}; known here: {', '.join(named)}{more}"


@cache
def _homes() -> dict[str, list[str]]:
    """Return every key of a configuration, and the dotted paths where it stands."""
    found: dict[str, list[str]] = {}
    for name, _, each in walk(Config):
        found.setdefault(kebab(each.name), []).append(kebab(name))
    return found


def _written(path: KeyPath) -> str:
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text
