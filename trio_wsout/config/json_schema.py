"""The JSON Schema of a configuration, made from the classes and the kinds of their fields (SPEC 1).

It accepts what `load_config` accepts of the section's own form, with two exceptions that JSON
Schema has no words for: relations between two values (rules.py names each), and ``{{name}}``
where a text is not a text to begin with. What lies inside a text (durations, URLs, templates, …) is
told by ``format``; `formats` has their checks, for validators that take such checks.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

from attrs import NOTHING, fields, has

from trio_wsout.config import sections
from trio_wsout.config.kinds import Kind
from trio_wsout.config.loading import kind_of
from trio_wsout.config.rules import UNUSABLE
from trio_wsout.config.sections import Config, Delivery, DeliveryLevel, Mode

__all__ = ["formats", "json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of the section's own form, kebab-case and snake_case."""
    schema = _section_schema(Config)
    return {
        "$schema": _DIALECT,
        "title": "trio_wsout configuration",
        **schema,
        "allOf": [*schema.get("allOf", []), *_modes()],
    }


def formats() -> dict[str, Callable[[object], bool]]:
    """The checks of the named formats: each takes an instance and gives whether `load_config` takes it.

    Where an optional field is null or of another JSON type, ``type`` has said so already.
    """
    found: dict[str, Callable[[object], bool]] = {}
    for section in (getattr(sections, name) for name in sections.__all__):
        for each in fields(section) if has(section) else ():
            for kind in _kinds(each.type):
                found[str(kind.schema.get("format", ""))] = _accepts(kind)
    found.pop("", None)
    return found


def _kinds(annotation: Any) -> list[Kind]:  # noqa: ANN401 - any field's type
    kind = kind_of(annotation)
    return [kind] if kind is not None else [each for inner in get_args(annotation) for each in _kinds(inner)]


def _accepts(kind: Kind) -> Callable[[object], bool]:
    def accepts(instance: object) -> bool:
        try:
            kind.parse(instance)
        except ValueError:
            return False
        return True

    return accepts


def _section_schema(section: type) -> dict[str, Any]:
    documented = _attribute_docs(section)
    properties: dict[str, Any] = {}
    exclusive: list[dict[str, Any]] = []
    required: list[dict[str, Any]] = []
    for each in fields(section):
        described = {"description": documented.get(each.name, ""), **_type_schema(each.type)}
        keys = list(dict.fromkeys((each.name.replace("_", "-"), each.name)))
        for key in keys:
            properties[key] = described
        if len(keys) > 1:
            exclusive.append({"not": {"required": keys}})
        if each.default is NOTHING:
            required.append({"anyOf": [{"required": [key]} for key in keys]})
    schema: dict[str, Any] = {
        "type": "object",
        "description": _first_sentence(section.__doc__),
        "properties": properties,
        "additionalProperties": False,
    }
    if exclusive or required:
        schema["allOf"] = [*exclusive, *required]
    return schema


def _type_schema(annotation: Any) -> dict[str, Any]:  # noqa: ANN401 - any field's type
    kind = kind_of(annotation)
    if kind is not None:
        return dict(kind.schema)
    if annotation is Delivery:
        levels = [level.value for level in DeliveryLevel]
        return {"anyOf": [{"enum": levels}, _section_schema(Delivery)]}
    if isinstance(annotation, type) and has(annotation):
        return _section_schema(annotation)
    if get_origin(annotation) is Mapping:
        return {"type": "object", "additionalProperties": _type_schema(get_args(annotation)[1])}
    if get_origin(annotation) is tuple:
        return {"type": "array", "items": _type_schema(get_args(annotation)[0])}
    return {"anyOf": [_type_schema(get_args(annotation)[0]), {"type": "null"}]}


def _modes() -> list[dict[str, Any]]:
    """What each mode can't use, and what it needs."""
    conditions: list[dict[str, Any]] = []
    for mode in Mode:
        is_mode: dict[str, Any] = {"properties": {"mode": {"const": mode.value}}}
        if mode is not Mode.CLIENT:
            is_mode["required"] = ["mode"]
        needed = "url" if mode is Mode.CLIENT else "server"
        unusable = [spelled for name in UNUSABLE[mode] for spelled in {name, name.replace("_", "-")}]
        then = {
            "required": [needed],
            "properties": {needed: {"not": {"type": "null"}}, **dict.fromkeys(sorted(unusable), False)},
        }
        conditions.append({"if": is_mode, "then": then})
    return conditions


_ATTRIBUTE_DOC = re.compile(r'^    (\w+): [^\n]*\n    """(.*?)"""', re.MULTILINE | re.DOTALL)


def _attribute_docs(section: type) -> dict[str, str]:
    """The docstring under each attribute of a section, on one line."""
    source = inspect.getsource(section)
    return {name: " ".join(text.split()) for name, text in _ATTRIBUTE_DOC.findall(source)}


def _first_sentence(docstring: str | None) -> str:
    return " ".join((docstring or "").split("\n\n")[0].split())
