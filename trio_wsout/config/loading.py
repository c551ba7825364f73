"""From a document to a `Config`, or to every problem at once (SPEC 1). The only file that knows cattrs.

cattrs walks the classes; each field is read by its kind. What goes wrong comes out of cattrs as
one tree of exceptions, and `_problems` turns it into a list with the user's own key paths.
"""

# What is walked here holds anything, and ruamel.yaml and cattrs tell pyright little about it.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import difflib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from attrs import fields, has
from cattrs import (
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, override

from trio_wsout.config import sections
from trio_wsout.config.documents import Document, read_document
from trio_wsout.config.kinds import Kind
from trio_wsout.config.quantities import is_unicode, parse_characters
from trio_wsout.config.rules import check
from trio_wsout.config.secret import MASK
from trio_wsout.config.sections import Config, Delivery
from trio_wsout.config.templates import resolve_context
from trio_wsout.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cattrs import AttributeValidationNote

    from trio_wsout.config.documents import KeyPath

__all__ = ["keys_of", "kind_of", "load_config"]

_FORM = ("output", "web-socket")
_SHOWN = 60


class _Wrong(ValueError):  # noqa: N818 - never leaves this file
    """A value that its kind refuses; the text is the reason and what was found."""


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
        overrides: Values for dotted paths such as ``reconnect.jitter``, put over the document's.

    Raises:
        ConfigError: Everything that is wrong, each problem with the user's own key path.
    """
    if isinstance(source, Mapping):
        document, name = Document(_copied(source), {}), None
    else:
        document, name = read_document(Path(source)), str(source)
    mapping, prefix = _section(document.mapping)
    wrong = [
        problem for path, value in (overrides or {}).items() if (problem := _override(mapping, path, value))
    ]
    converter = _converter(context or {})
    try:
        config = converter.structure(mapping, Config)
    except ClassValidationError as error:
        wrong += [
            _placed(document, prefix, path, reason) for path, reason in _problems(error, Config, mapping)
        ]
        raise ConfigError(_in_order(wrong), source=name) from None
    except _Wrong as error:
        raise ConfigError([Problem(path="", reason=str(error))], source=name) from None
    present = [key.replace("-", "_") for key in mapping]
    wrong += [
        _placed(document, prefix, _users_path(each.path, mapping), each.reason)
        for each in check(config, present)
    ]
    if wrong:
        raise ConfigError(_in_order(wrong), source=name)
    return config


def _in_order(problems: list[Problem]) -> list[Problem]:
    """By the lines of the file, where they are known."""
    return sorted(problems, key=lambda each: (each.line or 0, each.column or 0))


def kind_of(annotation: object) -> Kind | None:
    """The kind that a field's annotation names; None: it names none."""
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((each for each in metadata if isinstance(each, Kind)), None)


def keys_of(section: type) -> dict[str, str]:
    """The keys of a section, kebab-case, and the attribute each stands for."""
    return {each.name.replace("_", "-"): each.name for each in fields(section)}


# -- the document before cattrs -----------------------------------------------------------------------


def _copied(source: Mapping[str, object]) -> Any:  # noqa: ANN401 - a document holds anything
    try:
        return _deep_copy(source)
    except RecursionError:
        problem = Problem(path="", reason="is nested too deeply")
    raise ConfigError([problem])


def _deep_copy(value: object) -> Any:  # noqa: ANN401 - a document holds anything
    if isinstance(value, Mapping):
        return {key: _deep_copy(each) for key, each in value.items()}
    return [_deep_copy(each) for each in value] if isinstance(value, list | tuple) else value


def _section(mapping: Mapping[str, object]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The section's own fields, and the user's path to them."""
    found: object = mapping
    prefix: tuple[str, ...] = ()
    for wanted in _FORM:
        key = next((each for each in (wanted, wanted.replace("-", "_")) if _holds(found, each)), None)
        if key is None or not isinstance(found, Mapping):
            return dict(mapping), ()
        found = found[key]
        prefix = (*prefix, key)
    return (found, prefix) if isinstance(found, dict) else ({}, prefix)


def _holds(found: object, key: str) -> bool:
    return isinstance(found, Mapping) and set(found) == {key}


def _override(mapping: dict[str, Any], path: str, value: object) -> Problem | None:
    """Put one value into the document; a problem where the path leads through no mapping."""
    *above, last = path.split(".")
    place: object = mapping
    for key in above:
        if isinstance(place, dict):
            place = place.setdefault(_spelled(key, place), {})
    if not isinstance(place, dict) or not last:
        return Problem(path=path, reason="can't be set: there is no such place")
    place[_spelled(last, place)] = value
    return None


def _spelled(key: str, mapping: Mapping[str, object]) -> str:
    """The key as the document spells it, kebab or snake."""
    same = [each for each in mapping if _kebab(each) == _kebab(key)]
    return same[0] if same else key


# -- cattrs -------------------------------------------------------------------------------------------


def _converter(context: Mapping[str, object]) -> Converter:
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)

    def structure_kind(value: Any, annotation: Any) -> Any:  # noqa: ANN401 - a document holds anything
        kind = kind_of(annotation)
        assert kind is not None  # noqa: S101 - the predicate below looked
        try:
            if isinstance(value, str):
                typed = kind.schema.get("type") != "string"
                value = resolve_context(parse_characters(value), context, escape=kind.templated, typed=typed)
            return kind.parse(value)
        except ValueError as error:
            raise _Wrong(f"{error}; found {_shown(value, kind)}") from None

    def structure_table(value: Any, annotation: Any) -> dict[str, Any]:  # noqa: ANN401
        _, inner = get_args(annotation)
        return dict(_each(_named(value), inner, converter))

    def structure_list(value: Any, annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401
        if not isinstance(value, list):
            raise _Wrong(f"expected a list; found {_type_name(value)}")
        return tuple(each for _, each in _each(enumerate(value), get_args(annotation)[0], converter))

    converter.register_structure_hook_func(lambda kind: kind_of(kind) is not None, structure_kind)
    converter.register_structure_hook_func(_is_table, structure_table)
    converter.register_structure_hook_func(_is_list, structure_list)
    # Leaf sections first, so that each class finds the hooks of those inside it.
    for name in sorted(sections.__all__, key=lambda each: each == "Config"):
        section = getattr(sections, name)
        if has(section):
            converter.register_structure_hook(section, _section_hook(section, converter))
    return converter


def _named(value: object) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise _Wrong(f"expected a table of names and values; found {_type_name(value)}")
    named = [(key, each) for key, each in value.items() if isinstance(key, str) and is_unicode(key)]
    if len(named) < len(value):
        raise _Wrong("expected names that are texts, without halves of surrogate pairs")
    return named


def _is_table(annotation: Any) -> bool:  # noqa: ANN401 - cattrs asks of any type
    return get_origin(annotation) is Mapping


def _is_list(annotation: Any) -> bool:  # noqa: ANN401
    return get_origin(annotation) is tuple


def _each(pairs: Any, inner: Any, converter: Converter) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    """Structure every value; all that fail are raised together, each knowing its key or index."""
    failed: list[Exception] = []
    done: list[tuple[Any, Any]] = []
    for key, value in pairs:
        try:
            done.append((key, converter.structure(value, inner)))
        except Exception as error:  # noqa: BLE001 - collected for one report
            error.add_note(IterableValidationNote(str(key), key, inner))
            failed.append(error)
    if failed:
        # cattrs' class takes three arguments; pyright sees ExceptionGroup's two.
        raise IterableValidationError("", failed, object)  # pyright: ignore[reportCallIssue]
    yield from done


def _section_hook(section: type, converter: Converter) -> Callable[[Any, Any], Any]:
    renames: Any = {name: override(rename=key) for key, name in keys_of(section).items()}
    generated: Any = make_dict_structure_fn(
        section,
        converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
        **renames,
    )

    def structure(value: Any, _: Any) -> Any:  # noqa: ANN401
        if section is Delivery and isinstance(value, str):
            value = {"level": value}
        if not isinstance(value, Mapping):
            raise _Wrong(f"expected a section with fields of its own; found {_type_name(value)}")
        renamed = {_kebab(key): each for key, each in value.items()}
        if len(renamed) < len(value):
            twice = [str(key) for key in value if _kebab(key) != str(key) and _kebab(key) in value]
            raise _Wrong(f"{', '.join(twice)}: is there twice, with - and with _; keep one of the two")
        return generated(renamed, section)

    return structure


def _kebab(key: object) -> str:
    return str(key).replace("_", "-")


# -- what went wrong --------------------------------------------------------------------------------------


def _problems(
    error: BaseException, section: type | None, raw: object, path: KeyPath = ()
) -> Iterator[tuple[KeyPath, str]]:
    """Every leaf of cattrs' tree of exceptions as the user's key path and a reason."""
    if isinstance(error, ClassValidationError):
        inside, beside = error.group_exceptions()
        for each, note in inside:
            key = _users_key(note.name, raw)
            yield from _problems(each, _class_of(note), _inside(raw, key), (*path, key))
        for each in beside:
            yield from _problems(each, error.cl, raw, path)
    elif isinstance(error, IterableValidationError):
        for each, found in error.group_exceptions()[0]:
            yield from _problems(each, None, _inside(raw, found.index), (*path, found.index))
    elif isinstance(error, ForbiddenExtraKeysError):
        for key in sorted(error.extra_fields):
            yield (*path, _users_key(key, raw)), _unknown(key, error.cl)
    elif isinstance(error, KeyError):
        yield path, f"is required{_advice(section)}"
    else:
        yield path, str(error)


def _class_of(note: AttributeValidationNote | IterableValidationNote) -> type | None:
    of = (note.type, *get_args(note.type))
    return next(
        (each for each in of if getattr(each, "__module__", "") == sections.__name__ and has(each)), None
    )


def _advice(section: type | None) -> str:
    return "" if section is None else f" (a section with {', '.join(keys_of(section))})"


def _users_key(name: str, raw: object) -> str:
    """The key as the user wrote it."""
    wanted = name.replace("_", "-")
    written = raw if isinstance(raw, Mapping) else {}
    return next((str(key) for key in written if _kebab(key) == wanted), wanted)


def _inside(raw: object, key: object) -> object:
    if isinstance(raw, Mapping):
        return next((value for found, value in raw.items() if str(found) == str(key)), None)
    return raw[key] if isinstance(raw, list) and isinstance(key, int) else None


def _users_path(path: str, mapping: Mapping[str, object]) -> KeyPath:
    """A rule's path in the user's own spelling."""
    raw: object = mapping
    found: list[str | int] = []
    for key in path.split("."):
        found.append(_users_key(key, raw))
        raw = _inside(raw, found[-1])
    return tuple(found)


def _unknown(key: str, section: type) -> str:
    known = list(keys_of(section))
    near = difflib.get_close_matches(_kebab(key), known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"is not a known field; {hint}Known here: {', '.join(known)}"


def _shown(value: object, kind: Kind) -> str:
    if kind.secret:
        return MASK
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return _type_name(value)
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return f"a number of more than {_SHOWN} digits"
    text = repr(value)
    if isinstance(value, str) and "@" in value:
        return "a text with @ in it"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _type_name(value: object) -> str:
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return str(value).lower()
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return type(value).__name__


def _placed(document: Document, prefix: tuple[str, ...], path: KeyPath, reason: str) -> Problem:
    whole = (*prefix, *path)
    place = document.place(whole)
    line, column = place if place is not None else (None, None)
    return Problem(path=_written(whole), reason=reason, line=line, column=column)


def _written(path: KeyPath) -> str:
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text
