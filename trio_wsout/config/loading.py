"""From a document, or a `Config` made in Python, to a `Config`, or to every problem at once (SPEC 1).

The only file that knows cattrs. cattrs walks the classes; each field is read by its kind. What goes wrong comes
out of cattrs as one tree of exceptions, and `_failures` turns it into a list with the user's own key paths. What
could not be read is then `Unknown`, so that the rules between all other fields are checked in the same go.
"""

# What is walked here holds anything, and ruamel.yaml and cattrs tell pyright little about it.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from attrs import evolve, fields, frozen, has
from cattrs import (
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, override

from trio_wsout.config import sections
from trio_wsout.config.field_types import FieldType
from trio_wsout.config.files import Document, read_document
from trio_wsout.config.quantities import format_codes
from trio_wsout.config.scalars import is_unicode, parse_unicode, shown, type_name
from trio_wsout.config.secret import Secret
from trio_wsout.config.sections import NONE, Config, Delivery, Heartbeat, Mode
from trio_wsout.config.templates import resolve_context
from trio_wsout.config.validation import MISSING, UNKNOWN, Unknown, check, says_nothing, unusable
from trio_wsout.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cattrs import AttributeValidationNote

    from trio_wsout.config.files import KeyPath

__all__ = ["field_type_of", "keys_of", "load_config", "verify_config"]

_FORM = ("output", "web-socket")
_NAMED = 6
"""Known fields that are named to a person who wrote one that is like none of them."""

_CONTEXT: ContextVar[Mapping[str, object] | None] = ContextVar("_CONTEXT", default=None)
"""Values for ``{{name}}`` while a document is read; None if its texts hold none."""


class _Wrong(ValueError):  # noqa: N818 - never leaves this file
    """A value that its kind refuses; the text is the reason and what was found."""


class _TwiceError(ValueError):
    """A field that is there in both spellings; its text is the one to leave out."""


@frozen
class _Failure:
    """What could not be read."""

    path: KeyPath
    reason: str
    mark: Unknown | None = UNKNOWN
    """What stands there for the rules; None if nothing does, for there is no such field."""


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
    config, found = _read(mapping, context or {})
    wrong += [_placed(document, prefix, path, reason) for path, reason in found]
    if wrong:
        raise ConfigError(_in_order(wrong), source=name)
    return config


def verify_config(config: Config) -> Config:
    """Return a configuration that was made in Python as it is read from a document that says the same.

    Raises:
        ConfigError: Everything that is wrong with it, as `load_config` tells it.
    """
    verified, found = _read(_as_document(config), None)
    if found:
        raise ConfigError([Problem(path=_written(path), reason=reason) for path, reason in found])
    return verified


def _in_order(problems: list[Problem]) -> list[Problem]:
    """By the lines of the file; last what stands on none."""
    return sorted(problems, key=lambda each: (each.line or math.inf, each.column or 0))


def field_type_of(annotation: object) -> FieldType | None:
    """The kind that a field's annotation names; None: it names none."""
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((each for each in metadata if isinstance(each, FieldType)), None)


def keys_of(section: type) -> dict[str, str]:
    """The keys of a section, kebab-case, and the attribute each stands for."""
    return {each.name.replace("_", "-"): each.name for each in fields(section)}


# -- reading ------------------------------------------------------------------------------------------


def _read(
    mapping: dict[str, Any], context: Mapping[str, object] | None
) -> tuple[Config, list[tuple[KeyPath, str]]]:
    """Return the configuration of a document, and all that is wrong, each with the user's path and a reason.

    Args:
        mapping: The section's own fields.
        context: Values for ``{{name}}``; None if the texts were resolved before.
    """
    mapping = _without_empty(mapping)
    token = _CONTEXT.set(context)
    failures: list[_Failure] = []
    try:
        config = _converter().structure(mapping, Config)
    except ClassValidationError as error:
        failures = list(_failures(error, Config, mapping))
        config = _converter().structure(_marked(mapping, failures), Config)
    finally:
        _CONTEXT.reset(token)
    cannot_use = _cannot_use(config)
    # Nobody has to complete a section that can't be used.
    found = [
        (each.path, each.reason)
        for each in failures
        if not (each.mark is MISSING and _attribute(each.path[0]) in cannot_use)
    ]
    # What was written and says nothing is as if it were not there.
    silent = {name: getattr(_DEFAULTS, name) for name in cannot_use if says_nothing(config, name)}
    config = evolve(config, **silent)
    return config, [*found, *((_users_path(each.path, mapping), each.reason) for each in check(config))]


def _cannot_use(config: Config) -> list[str]:
    """The top-level fields that the mode can't use."""
    if isinstance(config.mode, Unknown):
        return []
    return [name for name in unusable(config.mode, link=config.url is not None) if "." not in name]


_DEFAULTS = Config()


def _marked(mapping: dict[str, Any], failures: Iterable[_Failure]) -> dict[str, Any]:
    """The document with `Unknown` in place of what could not be read, and without what is no field."""
    copied: dict[str, Any] = _deep_copy(mapping)
    for each in failures:
        _mark(copied, each)
    return copied


def _mark(mapping: dict[str, Any], failure: _Failure) -> None:
    place: Any = mapping
    for key in failure.path[:-1]:
        inside = place[key]
        if not isinstance(inside, dict | list):
            # A value that stands for its section, and is wrong as a whole; or part of one that was marked.
            place[key] = UNKNOWN
            return
        place = inside
    last: Any = failure.path[-1]
    if failure.mark is None:
        for key in [key for key in place if str(key) == last]:
            del place[key]
    else:
        place[last] = failure.mark


# -- the document before cattrs -----------------------------------------------------------------------


def _without_empty(mapping: dict[str, Any]) -> dict[str, Any]:
    """The document without what its mode can't use and what is empty: templated deployments carry such fields."""
    try:
        mode = Mode(_value_of(mapping, "mode") or Mode.CLIENT)
    except ValueError:
        return mapping
    names = unusable(mode, link=bool(_value_of(mapping, "url")))
    return _pruned(mapping, {tuple(name.split(".")) for name in names}, ())


def _pruned(
    mapping: Mapping[str, Any], names: set[tuple[str, ...]], above: tuple[str, ...]
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    keys = [_attribute(key) for key in mapping]
    for key, value in mapping.items():
        path = (*above, _attribute(key))
        unusable_here = path in names
        if unusable_here and _is_empty(value) and keys.count(path[-1]) == 1:  # what is there twice is told
            continue
        if isinstance(value, Mapping):
            inside = {*names, *((*path, _attribute(each)) for each in value)} if unusable_here else names
            kept[key] = _pruned(value, inside, path)
        else:
            kept[key] = value
    return kept


def _is_empty(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_empty(each) for each in value.values())
    return value is None or value in ("", [], ())


def _value_of(mapping: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - a document holds anything
    return mapping.get(_users_key(name, mapping))


def _attribute(key: object) -> str:
    return str(key).replace("-", "_")


def _as_document(config: Config) -> dict[str, Any]:
    """What a document would hold that says what the fields say, whatever was put into them."""
    document = {
        each.name.replace("_", "-"): _document_value(getattr(config, each.name))
        for each in fields(Config)
        if getattr(config, each.name) is not None
    }
    return {"heartbeat": NONE, **document}


def _document_value(value: Any) -> Any:  # noqa: ANN401 - people put anything there
    match value:
        case Mapping():
            return {key: _document_value(each) for key, each in value.items()}
        case list() | tuple():
            return [_range(each) for each in value]
        case _ if type(value).__module__ == sections.__name__ and has(type(value)):
            return {key: _document_value(getattr(value, name)) for key, name in keys_of(type(value)).items()}
        case _:
            return value


def _range(value: Any) -> Any:  # noqa: ANN401 - people put anything there
    """An element of a list; a range of close codes is a tuple."""
    match value:
        case (int(first), int(last)):
            return format_codes((first, last))
        case _:
            return _document_value(value)


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
            spelled = _spelled(key, place)
            if place.get(spelled) is None:
                place[spelled] = {}
            place = place[spelled]
    if not isinstance(place, dict) or not last:
        return Problem(path=path, reason="can't be set: there is no such place")
    place[_spelled(last, place)] = value
    return None


def _spelled(key: str, mapping: Mapping[str, object]) -> str:
    """The key as the document spells it, kebab or snake."""
    same = [each for each in mapping if _kebab(each) == _kebab(key)]
    return same[0] if same else key


# -- cattrs -------------------------------------------------------------------------------------------


@cache
def _converter() -> Converter:
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)

    def structure_table(value: Any, annotation: Any) -> Any:  # noqa: ANN401
        return value if isinstance(value, Unknown) else dict(_each(_named(value), annotation, converter))

    def structure_list(value: Any, annotation: Any) -> Any:  # noqa: ANN401
        if isinstance(value, Unknown):
            return value
        if not isinstance(value, list):
            raise _Wrong(f"expected a list; found {type_name(value)}")
        return tuple(each for _, each in _each(enumerate(value), annotation, converter))

    converter.register_structure_hook_func(lambda kind: field_type_of(kind) is not None, _structure_kind)
    converter.register_structure_hook_func(_is_table, structure_table)
    converter.register_structure_hook_func(_is_list, structure_list)
    # Leaf sections first, so that each class finds the hooks of those inside it.
    for name in sorted(sections.__all__, key=lambda each: each == "Config"):
        section = getattr(sections, name)
        if has(section):
            converter.register_structure_hook(section, _section_hook(section, converter))
    return converter


def _structure_kind(value: Any, annotation: Any) -> Any:  # noqa: ANN401 - a document holds anything
    if isinstance(value, Unknown):
        return value
    kind = field_type_of(annotation)
    assert kind is not None  # noqa: S101 - the predicate of this hook looked
    context = _CONTEXT.get()
    try:
        if isinstance(value, str) and context is not None:
            value = resolve_context(
                parse_unicode(value), context, escape=kind.templated, typed=not kind.is_text
            )
        return kind.parse(value)
    except ValueError as error:
        raise _Wrong(f"{error}; found {shown(value, secret=kind.secret)}") from None


def _named(value: object) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise _Wrong(f"expected a table of names and values; found {type_name(value)}")
    named = [(key, each) for key, each in value.items() if isinstance(key, str) and is_unicode(key)]
    if len(named) < len(value):
        raise _Wrong("expected names that are texts, without halves of surrogate pairs")
    return named


def _is_table(annotation: Any) -> bool:  # noqa: ANN401 - cattrs asks of any type
    return get_origin(annotation) is Mapping


def _is_list(annotation: Any) -> bool:  # noqa: ANN401
    return get_origin(annotation) is tuple


def _each(pairs: Any, annotation: Any, converter: Converter) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    """Structure every value; all that fail are raised together, each knowing its key or index."""
    *names, inner = [each for each in get_args(annotation) if each is not Ellipsis]
    failed: list[Exception] = []
    done: list[tuple[Any, Any]] = []
    for key, value in pairs:
        for raw, kind in (*((key, name) for name in names), (value, inner)):
            try:
                read = value if isinstance(value, Unknown) else converter.structure(raw, kind)
            except Exception as error:  # noqa: BLE001 - collected for one report
                error.add_note(IterableValidationNote(str(key), key, inner))
                failed.append(error)
            else:
                done.append((key, read))
    if failed:
        # cattrs' class takes three arguments; pyright sees ExceptionGroup's two.
        raise IterableValidationError("", failed, object)  # pyright: ignore[reportCallIssue]
    yield from done


def _section_hook(section: type, converter: Converter) -> Callable[[Any, Any], Any]:
    known = keys_of(section)
    renames: Any = {name: override(rename=key) for key, name in known.items()}
    generated: Any = make_dict_structure_fn(
        section,
        converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
        **renames,
    )

    def structure(value: Any, _: Any) -> Any:  # noqa: ANN401
        if isinstance(value, Unknown):
            return value
        if section is Delivery and isinstance(value, str):
            value = {"level": value}
        if section is Heartbeat and value == NONE:
            return None
        if not isinstance(value, Mapping):
            either = f", or {NONE}" if section is Heartbeat else ""
            raise _Wrong(f"expected a section with fields of its own{either}; found {type_name(value)}")
        twice = [str(key) for key in value if _kebab(key) != str(key) and _kebab(key) in value]
        # Null is what templates and YAML leave where nothing was said.
        read = {
            _kebab(key): each
            for key, each in value.items()
            if key not in twice and (each is not None or _kebab(key) not in known)
        }
        if not twice:
            return generated(read, section)
        failed: list[Exception] = [_TwiceError(key) for key in twice]
        try:
            generated(read, section)
        except ClassValidationError as error:
            failed += error.exceptions
        # cattrs' class takes three arguments; pyright sees ExceptionGroup's two.
        raise ClassValidationError("", failed, section)  # pyright: ignore[reportCallIssue]

    return structure


def _kebab(key: object) -> str:
    return str(key).replace("_", "-")


# -- what went wrong --------------------------------------------------------------------------------------


def _failures(
    error: BaseException, section: type | None, raw: object, path: KeyPath = ()
) -> Iterator[_Failure]:
    """Every leaf of cattrs' tree of exceptions, under the user's key path."""
    if isinstance(error, ClassValidationError):
        inside, beside = error.group_exceptions()
        for each, note in inside:
            key = _users_key(note.name, raw)
            yield from _failures(each, _class_of(note), _inside(raw, key), (*path, key))
        for each in beside:
            yield from _failures(each, error.cl, raw, path)
    elif isinstance(error, IterableValidationError):
        for each, found in error.group_exceptions()[0]:
            yield from _failures(each, None, _inside(raw, found.index), (*path, found.index))
    elif isinstance(error, ForbiddenExtraKeysError):
        for key in sorted(error.extra_fields):
            yield _Failure((*path, _users_key(key, raw)), _unknown(key, error.cl), None)
    elif isinstance(error, _TwiceError):
        yield _Failure((*path, str(error)), "is there twice, with - and with _; keep one of the two", None)
    elif isinstance(error, KeyError):
        yield _Failure(path, f"is required{_advice(section)}", MISSING)
    else:
        yield _Failure(path, str(error))


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
    if not isinstance(raw, Mapping) or wanted in raw:
        return wanted
    return next((str(key) for key in raw if _kebab(key) == wanted), wanted)


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
    """What to write instead of a field that is not known in a section: a near name, or where it belongs."""
    known = list(keys_of(section))
    wanted = _kebab(key)
    said = "is not a known field"
    if homes := _homes().get(wanted):
        return f"{said} here; it belongs to {' or '.join(homes)}"
    if near := difflib.get_close_matches(wanted, known, n=1, cutoff=0.6):
        return f"{said}; did you mean {near[0]}?"
    if near := difflib.get_close_matches(wanted, list(_homes()), n=1, cutoff=0.75):
        return f"{said} here; did you mean {' or '.join(_homes()[near[0]])}?"
    named = difflib.get_close_matches(wanted, known, n=_NAMED, cutoff=0)
    more = f" and {len(known) - len(named)} more, see trio-wsout schema" if len(known) > len(named) else ""
    return f"{said}; known here: {', '.join(named)}{more}"


@cache
def _homes() -> dict[str, list[str]]:
    """Every key, and the paths where it stands."""
    found: dict[str, list[str]] = {}

    def walk(section: type, above: str) -> None:
        for key, name in keys_of(section).items():
            found.setdefault(key, []).append(f"{above}{key}")
            inner = getattr(fields(section), name).type
            for each in (inner, *get_args(inner)):
                if each is not Secret and isinstance(each, type) and has(each):
                    walk(each, f"{above}{key}.")

    walk(Config, "")
    return found


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
