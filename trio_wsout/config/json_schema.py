"""The JSON Schema of a configuration, made from the classes and the kinds of their fields (SPEC 1).

It accepts what `load_config` accepts, in either form, but for what JSON Schema has no words for: `UNSAID`, and
what a ``{{name}}`` will stand for. What lies inside a text (durations, URLs, templates, …) is told by ``pattern`` as
far as a regular expression can, and by ``format`` in full: `formats` has the checks, for validators that take some.

``properties`` has the kebab-case names only, so that editors offer each field once; snake_case is accepted by
``patternProperties``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, get_args, get_origin

from attrs import NOTHING, Attribute, fields, fields_dict, has

from trio_wsout.config import sections
from trio_wsout.config.dumping import document_value
from trio_wsout.config.field_types import FieldType, field_type_of, section_of
from trio_wsout.config.sections import (
    NONE,
    Auth,
    Config,
    Cursor,
    Delivery,
    DeliveryLevel,
    Heartbeat,
    Mode,
    Payload,
    ServerAuth,
    Tls,
)
from trio_wsout.config.validation import UNUSABLE, UNUSABLE_WITHOUT_LINK, default_of

__all__ = ["UNSAID", "formats", "json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_FORM = ("output", "web-socket")

UNSAID = {
    "reconnect.max-backoff": "shorter than reconnect.initial-backoff",
    "spool.max-bytes": "less than two messages of max-message-size",
    "subprotocols": "a name that is there twice, once as a text and once as a number",
    "headers": "a name that is there twice, in different case",
    "auth.headers": "a name that is there twice, in different case",
    "server.auth.query-parameter": "the same as cursor.query-parameter",
    "server.auth.bearer": "a token that two identities have",
    "server.sender-field": "the same as delivery.stamp",
    "batch.header": "${cursor} or ${attempt} where there are many peers",
    "batch.footer": "${cursor} or ${attempt} where there are many peers",
}
"""What the loader refuses and the schema accepts, because JSON Schema compares no values."""

Schema = dict[str, Any]


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a whole document: the section's own fields, or the full form around them."""
    definitions: Schema = {}
    section = _section_schema(Config, definitions)
    section["allOf"] = [*section.get("allOf", []), *_modes()]
    inner: Schema = {"$ref": f"#/$defs/{_FORM[1]}"}
    for name in reversed(_FORM):
        inner = _only(name, inner)
    full = inner["properties"][_FORM[0]]
    is_full: Schema = {"required": [_FORM[0]]}
    return {
        "$schema": _DIALECT,
        "title": "trio_wsout configuration",
        **section,
        "properties": {**section["properties"], _FORM[0]: full},
        "allOf": [{"if": is_full, "then": {"maxProperties": 1}, "else": {"allOf": section["allOf"]}}],
        "$defs": {
            _FORM[1]: section,
            "context": {"description": "A value of the context.", "type": "string", "pattern": r"\{\{"},
            "empty": _EMPTY,
            "usable": {name: _field_schema(each, definitions) for name, _, each in _somewhere_unusable()},
            "silent": {name: _silent(section, each) for name, section, each in _somewhere_unusable()},
            **definitions,
        },
    }


def _only(name: str, inner: Schema) -> Schema:
    """A mapping with this one key, kebab-case or snake_case."""
    return {
        "type": "object",
        "description": "The full form of the configuration.",
        "properties": {name: inner},
        "patternProperties": {f"^{name.replace('-', '_')}$": inner} if "-" in name else {},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
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


def _kinds(annotation: Any) -> list[FieldType]:  # noqa: ANN401 - any field's type
    kind = field_type_of(annotation)
    return [kind] if kind is not None else [each for inner in get_args(annotation) for each in _kinds(inner)]


def _accepts(kind: FieldType) -> Callable[[object], bool]:
    def accepts(instance: object) -> bool:
        try:
            kind.parse(instance)
        except ValueError:
            return False
        return True

    return accepts


# -- sections and fields ------------------------------------------------------------------------------


def _section_schema(section: type, definitions: Schema) -> Schema:
    """The schema of a section; those inside it are put into `definitions` under their class's name."""
    documented = _attribute_docs(section)
    properties: Schema = {}
    snake: Schema = {}
    conditions: list[Schema] = []
    for each in fields(section):
        key = _key(each.name)
        schema = _field_schema(each, definitions)
        if any(each is field for _, _, field in _somewhere_unusable()):
            schema = {"anyOf": [*schema.get("anyOf", [schema]), _silent(section, each)]}
        properties[key] = {
            "description": documented.get(each.name, ""),
            **_default(section, each),
            **_examples(each),
            **schema,
        }
        if key != each.name:
            named = _FORM[1] if section is Config else section.__name__
            snake[f"^{each.name}$"] = {"$ref": f"#/$defs/{named}/properties/{key}"}
            conditions.append({"not": {"required": [key, each.name]}})
        if each.default is NOTHING:
            conditions.append({"anyOf": [{"required": [name]} for name in _spellings(each.name)]})
    conditions += _relations(section)
    return {
        "type": "object",
        "description": _prose(" ".join((section.__doc__ or "").split("\n\n")[0].split())),
        "properties": properties,
        **({"patternProperties": snake} if snake else {}),
        "additionalProperties": False,
        **({"allOf": conditions} if conditions else {}),
    }


def _default(section: type, each: Attribute[Any]) -> Schema:
    if each.default is NOTHING or (field_type_of(each.type) is None and get_origin(each.type) is None):
        return {}
    default = (
        default_of(each, section()) if getattr(each.default, "takes_self", False) else default_of(each, None)
    )
    return {} if default is None else {"default": document_value(default, each.type)}


def _field_schema(each: Attribute[Any], definitions: Schema) -> Schema:
    """What a field may be: its value, a ``{{name}}``, or null where it may be left out."""
    schema, kind = _type_schema(each.type, definitions), _only_kind(each.type)
    others: list[Schema] = [] if kind is None else [{"$ref": "#/$defs/context"}]
    others += [] if each.default is NOTHING else [{"type": "null"}]
    return {"anyOf": [schema, *others]} if others else schema


def _examples(each: Attribute[Any]) -> Schema:
    kind = _only_kind(each.type)
    return {"examples": list(kind.examples)} if kind is not None and kind.examples else {}


@cache
def _somewhere_unusable() -> list[tuple[str, type, Attribute[Any]]]:
    """Each field that some mode can't use: its attribute names joined by a dot, its section, and itself."""
    found: list[tuple[str, type, Attribute[Any]]] = []
    for name in _SOMEWHERE_UNUSABLE:
        above, _, field = name.rpartition(".")
        section = section_of(fields_dict(Config)[above].type) if above else Config
        found.append((name, section, fields_dict(section)[field]))
    return found


def _only_kind(annotation: Any) -> FieldType | None:  # noqa: ANN401 - any field's type
    """The kind of a field that holds one value, or none."""
    optional = get_origin(annotation) not in (Mapping, tuple, None) and field_type_of(annotation) is None
    return field_type_of(get_args(annotation)[0]) if optional else field_type_of(annotation)


def _type_schema(annotation: Any, definitions: Schema) -> Schema:  # noqa: ANN401 - any field's type
    kind = field_type_of(annotation)
    if kind is not None:
        name = str(kind.schema.get("format", "")).removeprefix("trio-wsout-")
        if not name:
            return dict(kind.schema)
        definitions[name] = dict(kind.schema)
        return {"$ref": f"#/$defs/{name}"}
    if isinstance(annotation, type) and has(annotation):
        if annotation.__name__ not in definitions:
            definitions[annotation.__name__] = _section_schema(annotation, definitions)
        section: Schema = {"$ref": f"#/$defs/{annotation.__name__}"}
        short: dict[type, list[str]] = {Delivery: [level.value for level in DeliveryLevel], Heartbeat: [NONE]}
        words = short.get(annotation)
        return {"anyOf": [{"enum": words}, section]} if words else section
    if get_origin(annotation) is Mapping:
        name, value = get_args(annotation)
        return {
            "type": "object",
            "propertyNames": _type_schema(name, definitions),
            "additionalProperties": _inside(value, definitions),
        }
    if get_origin(annotation) is tuple:
        return {"type": "array", "items": _inside(get_args(annotation)[0], definitions)}
    return _type_schema(get_args(annotation)[0], definitions)


def _inside(annotation: Any, definitions: Schema) -> Schema:  # noqa: ANN401 - any field's type
    """An element of a list, or a value of a table."""
    return {"anyOf": [_type_schema(annotation, definitions), {"$ref": "#/$defs/context"}]}


# -- what holds between fields ------------------------------------------------------------------------


def _relations(section: type) -> list[Schema]:
    """What `rules` says between the fields of a section."""
    if section is Auth:
        return [_not_both("bearer_token", "basic")]
    if section is Tls:
        verified = {
            "properties": {name: {"not": {"const": True}} for name in _spellings("insecure_skip_verify")}
        }
        return [
            _needs("client_certificate", "client_key"),
            _needs("client_key", "client_certificate"),
            _needs("client_key_password", "client_key"),
            {"if": _has("ca_certificate"), "then": verified},
        ]
    if section is Cursor:
        return [_not_both("value_field", "value_pointer")]
    if section is ServerAuth:
        some_bearer = _has("bearer", some=True)
        return [
            {"anyOf": [_has("basic", some=True), some_bearer]},
            {"if": _has("query_parameter"), "then": some_bearer},
        ]
    return []


_CURSOR = r"(^|[^$])\$\{ *cursor *(\|\||\})"


def _sent_cursor() -> Schema:
    """That a cursor, where there is one, is sent: by its own fields, or by ``${cursor}`` somewhere in the handshake."""
    its_own = {"anyOf": [_has("header_name"), _has("query_parameter")]}
    mentioned = [
        each for name in ("url", "headers", "query", "auth", "tls") for each in _mentions(Config, name)
    ]
    return {"if": _has("cursor"), "then": {"anyOf": [{"properties": {"cursor": its_own}}, *mentioned]}}


def _mentions(section: type, name: str) -> list[Schema]:
    """Each way in which a field may hold ``${cursor}``."""
    annotation = fields_dict(section)[name].type
    kind, inner = _only_kind(annotation), section_of(annotation)
    there: Schema = {"type": "string", "pattern": _CURSOR}
    if inner is not None:
        there = {"anyOf": [each for one in fields(inner) for each in _mentions(inner, one.name)]}
    elif get_origin(annotation) is Mapping:
        there = {"type": "object", "not": {"additionalProperties": {"not": there}}}
    elif kind is None or not kind.templated:
        return []
    return [{"required": [key], "properties": {key: there}} for key in _spellings(name)]


def _key(name: str) -> str:
    return name.replace("_", "-")


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys((_key(name), name)))


def _has(name: str, *, some: bool = False) -> Schema:
    """The field is there, in either spelling, and not null; if `some`, a table that is not empty."""
    value: Schema = {"type": "object", "minProperties": 1} if some else {"not": {"type": "null"}}
    there = [{"required": [key], "properties": {key: value}} for key in _spellings(name)]
    return there[0] if len(there) == 1 else {"anyOf": there}


def _needs(one: str, other: str) -> Schema:
    return {"if": _has(one), "then": _has(other)}


def _not_both(one: str, other: str) -> Schema:
    return {"not": {"allOf": [_has(one), _has(other)]}}


def _modes() -> list[Schema]:
    """What each mode needs; what it can't use says nothing there, and what it can use says it properly."""
    conditions: list[Schema] = []
    for mode in Mode:
        is_mode: Schema = {"properties": {"mode": {"enum": [mode.value]}}, "required": ["mode"]}
        if mode is Mode.CLIENT:
            is_mode = {"properties": {"mode": {"enum": [mode.value, None]}}}
        then = [_has("url" if mode is Mode.CLIENT else "server")]
        if "cursor" not in UNUSABLE[mode]:
            then.append(_sent_cursor())
        usable = [
            name for name in _SOMEWHERE_UNUSABLE if not {name, name.partition(".")[0]} & {*UNUSABLE[mode]}
        ]
        if mode is Mode.RELAY:
            alone = {"allOf": [is_mode, {"not": _has("url")}]}
            linked = {"allOf": [is_mode, _has("url")]}
            silent, speaking = (
                _each_is(UNUSABLE_WITHOUT_LINK, "silent"),
                _each_is(UNUSABLE_WITHOUT_LINK, "usable"),
            )
            conditions += [{"if": alone, "then": silent}, {"if": linked, "then": speaking}]
            signed = {
                "allOf": [is_mode, {"properties": {"server": _has("sender_field")}, "required": ["server"]}]
            }
            as_json: Schema = {"anyOf": [{"enum": [Payload.JSON.value]}, {"$ref": "#/$defs/context"}]}
            conditions.append(
                {"if": signed, "then": {"required": ["payload"], "properties": {"payload": as_json}}}
            )
            usable = [name for name in usable if name not in UNUSABLE_WITHOUT_LINK]
        then += [_each_is(UNUSABLE[mode], "silent"), _each_is(usable, "usable")]
        conditions.append({"if": is_mode, "then": {"allOf": then}})
    return conditions


_SOMEWHERE_UNUSABLE = list(
    dict.fromkeys([*(name for names in UNUSABLE.values() for name in names), *UNUSABLE_WITHOUT_LINK])
)
"""Fields, by their attribute names joined by dots, that some mode can't use."""


def _each_is(names: Iterable[str], how: str) -> Schema:
    """That each of these fields, where it is there, is as its definition of this name says."""
    inside: Schema = {}
    for name in names:
        section, _, field = name.rpartition(".")
        of_section: Schema = inside.setdefault(f"^{_either(section)}$", {}) if section else {}
        place = of_section.setdefault("patternProperties", {}) if section else inside
        place.setdefault(f"^{_either(field)}$", {})["$ref"] = f"#/$defs/{how}/{name}"
    return {"patternProperties": inside}


def _either(name: str) -> str:
    return name.replace("_", "[-_]")


_EMPTY: Schema = {
    "description": "Nothing: null, an empty text or list, or a mapping of nothing but that.",
    "anyOf": [
        {"enum": [None, "", []]},
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/empty"}},
    ],
}


def _silent(section: type, each: Attribute[Any]) -> Schema:
    """That a field says nothing: it is empty, at its default, or a section with nothing but that."""
    said: list[Schema] = [{"$ref": "#/$defs/empty"}]
    kind, inner = _only_kind(each.type), section_of(each.type)
    if inner is not None:
        fields_of = {f"^{_either(one.name)}$": _silent(inner, one) for one in fields(inner)}
        said.append(
            {
                "type": "object",
                "patternProperties": fields_of,
                "additionalProperties": {"$ref": "#/$defs/empty"},
            }
        )
    elif kind is not None:
        said.append({"$ref": "#/$defs/context"})
    if inner is Delivery:
        said.append({"enum": [Delivery().level.value]})
    default = _default(section, each)
    if default:
        value = default_of(each, section() if getattr(each.default, "takes_self", False) else None)
        raw = [value] if isinstance(value, float) else []
        said.append({"enum": [default["default"], *raw]})
    return {"anyOf": said}


# -- texts --------------------------------------------------------------------------------------------

_ATTRIBUTE_DOC = re.compile(r'^    (\w+): (?:(?!\n    """).)*\n    """(.*?)"""', re.MULTILINE | re.DOTALL)
_SPEC = re.compile(r" ?\(SPEC [^)]*\)")


def _attribute_docs(section: type) -> dict[str, str]:
    """The docstring under each attribute of a section, in the user's words."""
    source = inspect.getsource(section)
    return {name: _prose(text) for name, text in _ATTRIBUTE_DOC.findall(source)}


def _prose(text: str) -> str:
    """A docstring as one line of plain text, with the names of fields as the user writes them."""
    line = " ".join(_SPEC.sub("", text).split())
    line = re.sub(r"(?<!`)`([a-z_]+)`(?!`)", lambda name: name[1].replace("_", "-"), line)
    return line.replace("`", "").replace("None:", "Absent:")
