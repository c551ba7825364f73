"""The JSON Schema of a configuration, made from the sections and the types of their fields (SPEC 1).

It accepts what `load_config` accepts, in either form, but for rules that compare two values, which JSON Schema can't, and
for the values that a ``{{name}}`` will stand for. A regular expression in ``pattern`` describes a text as far
as it can; ``format`` describes it exactly, to validators that are given the checks of `formats`.

``properties`` has the kebab-case names only, so that editors offer each field once; ``patternProperties`` accepts
snake_case.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, get_args, get_origin

from attrs import NOTHING, Attribute, fields, fields_dict

from trio_wsout.config import field_types
from trio_wsout.config.dumping import document_value
from trio_wsout.config.field_types import FieldType, field_type_of, kebab, section_of, walk, without_none
from trio_wsout.config.sections import (
    FORM,
    NONE,
    Config,
    Cursor,
    CursorFrom,
    Delivery,
    DeliveryLevel,
    Heartbeat,
    Mode,
    Payload,
    Server,
    ServerAuth,
    Tls,
)
from trio_wsout.config.validation import EXCLUDES, NEEDS, UNUSABLE, UNUSABLE_WITHOUT_LINK, default_of

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
_CONTEXT: Schema = {"$ref": "#/$defs/context"}
_EMPTY: Schema = {"$ref": "#/$defs/empty"}


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of a whole document: the section's own fields, or the full form around them."""
    definitions: Schema = {}
    section = _section_schema(Config, definitions)
    section["allOf"] = [*section.get("allOf", []), *_modes()]
    inner: Schema = {"$ref": f"#/$defs/{FORM[1]}"}
    for name in reversed(FORM):
        inner = _only(name, inner)
    return {
        "$schema": _DIALECT,
        "title": "trio_wsout configuration",
        **section,
        "properties": {**section["properties"], FORM[0]: inner["properties"][FORM[0]]},
        "allOf": [
            {
                "if": {"required": [FORM[0]]},
                "then": {"maxProperties": 1},
                "else": {"allOf": section["allOf"]},
            }
        ],
        "$defs": {
            FORM[1]: section,
            "context": {"description": "A value of the context.", "type": "string", "pattern": r"\{\{"},
            "empty": {
                "description": "Nothing: null, an empty text or list, or a mapping of nothing but that.",
                "anyOf": [{"enum": [None, "", []]}, {"type": "object", "additionalProperties": _EMPTY}],
            },
            "usable": {name: _field_schema(each, definitions) for name, _, each in _SOMEWHERE_UNUSABLE},
            "unset": {name: _unset(section, each) for name, section, each in _SOMEWHERE_UNUSABLE},
            **definitions,
        },
    }


def _only(name: str, inner: Schema) -> Schema:
    """Return the schema of a mapping with this one key, in kebab-case or snake_case."""
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
    """Return the checks of the named formats; each returns whether `load_config` accepts a value.

    Where a field is null or of another JSON type, ``type`` has refused it already.
    """
    types = [each for each in map(field_type_of, vars(field_types).values()) if each is not None]
    return {str(each.schema["format"]): partial(_accepts, each) for each in types if "format" in each.schema}


def _accepts(field_type: FieldType, instance: object) -> bool:
    try:
        field_type.parse(instance)
    except ValueError:
        return False
    return True


# -- sections and fields ------------------------------------------------------------------------------


def _section_schema(section: type, definitions: Schema) -> Schema:
    """Return the schema of a section. Those inside it are put into `definitions` under their class's name."""
    documented = _attribute_docs(section)
    named = FORM[1] if section is Config else section.__name__
    properties: Schema = {}
    snake: Schema = {}
    conditions: list[Schema] = []
    for each in fields(section):
        key = kebab(each.name)
        schema = _field_schema(each, definitions)
        if any(each is field for _, _, field in _SOMEWHERE_UNUSABLE):
            schema = {"anyOf": [*schema.get("anyOf", [schema]), _unset(section, each)]}
        field_type = field_type_of(without_none(each.type))
        properties[key] = {
            "description": documented.get(each.name, ""),
            **_default(section, each),
            **({"examples": list(field_type.examples)} if field_type and field_type.examples else {}),
            **schema,
        }
        if key != each.name:
            snake[f"^{each.name}$"] = {"$ref": f"#/$defs/{named}/properties/{key}"}
        if each.default is NOTHING:
            conditions.append({"anyOf": [{"required": [name]} for name in _spellings(each.name)]})
    conditions += [*_spelt_once(section), *_relations(section)]
    return {
        "type": "object",
        "description": _prose(" ".join((section.__doc__ or "").split("\n\n")[0].split())),
        "properties": properties,
        **({"patternProperties": snake} if snake else {}),
        "additionalProperties": False,
        **_all(conditions),
    }


def _default(section: type, each: "Attribute[Any]") -> Schema:
    """Return the default of a field as a document holds it; nothing for a required field or a section."""
    if each.default is NOTHING or section_of(each.type) is not None:
        return {}
    default = default_of(each, section)
    return {} if default is None else {"default": document_value(default, each.type)}


def _field_schema(each: "Attribute[Any]", definitions: Schema) -> Schema:
    """Return the schema of a field: of its value, of ``{{name}}``, and of null where it may be absent."""
    others = [] if field_type_of(without_none(each.type)) is None else [_CONTEXT]
    others += [] if each.default is NOTHING else [{"type": "null"}]
    schema = _type_schema(without_none(each.type), definitions)
    return {"anyOf": [schema, *others]} if others else schema


def _type_schema(annotation: Any, definitions: Schema) -> Schema:  # noqa: ANN401 - any field's type
    field_type, section = field_type_of(annotation), section_of(annotation)
    if field_type is not None:
        name = str(field_type.schema.get("format", "")).removeprefix("trio-wsout-")
        if not name:
            return dict(field_type.schema)
        definitions[name] = dict(field_type.schema)
        one: Schema = {"$ref": f"#/$defs/{name}"}
        many = {"type": "array", "items": {"anyOf": [one, _CONTEXT]}, "minItems": 1}
        return {"anyOf": [one, many]} if field_type.element is not None else one
    if section is not None:
        if section.__name__ not in definitions:
            definitions[section.__name__] = _section_schema(section, definitions)
        whole: Schema = {"$ref": f"#/$defs/{section.__name__}"}
        words = {Delivery: [level.value for level in DeliveryLevel], Heartbeat: [NONE]}.get(section)
        return {"anyOf": [{"enum": words}, whole]} if words else whole
    *names, value = (each for each in get_args(annotation) if each is not Ellipsis)
    inside = {"anyOf": [_type_schema(value, definitions), _CONTEXT]}
    if get_origin(annotation) is tuple:
        return {"type": "array", "items": inside}
    key = _type_schema(names[0], definitions)
    return {"type": "object", "propertyNames": key, "additionalProperties": inside}


_SOMEWHERE_UNUSABLE = [
    found
    for found in walk(Config)
    if found[0] in {*UNUSABLE_WITHOUT_LINK, *(name for names in UNUSABLE.values() for name in names)}
]
"""Each field that some mode can't use: its attribute names joined by dots, its section, and itself."""


def _unset(section: type, each: "Attribute[Any]") -> Schema:
    """Return the schema of a field without effect: empty, at its default, or a section of nothing but such fields."""
    ways: list[Schema] = [_EMPTY]
    inner = section_of(each.type)
    if inner is not None:
        inside = {f"^{_either(one.name)}$": _unset(inner, one) for one in fields(inner)}
        ways.append(
            {
                "type": "object",
                "patternProperties": inside,
                "additionalProperties": False,
                **_all(_spelt_once(inner)),
            }
        )
    elif field_type_of(without_none(each.type)) is not None:
        ways.append(_CONTEXT)
    if inner is Delivery:
        ways.append({"enum": [Delivery().level.value]})
    default = _default(section, each)
    if default:
        value = default_of(each, section)
        ways.append({"enum": [default["default"], *([value] if isinstance(value, float) else [])]})
    return {"anyOf": ways}


# -- rules between fields -----------------------------------------------------------------------------


def _all(rules: list[Schema]) -> Schema:
    """Return the keyword that these rules all hold; nothing if there are none, for it may not be empty."""
    return {"allOf": rules} if rules else {}


def _spelt_once(section: type) -> list[Schema]:
    """Return the rules that no field is there in both spellings."""
    names = [_spellings(each.name) for each in fields(section)]
    return [{"not": {"required": both}} for both in names if len(both) > 1]


def _relations(section: type) -> list[Schema]:
    """Return the rules between the fields of a section, as `validation` has them."""
    rules: list[Schema] = [
        {"if": _has(one), "then": _has(other)} for one, other in NEEDS.get(section, ())
    ] + [{"not": {"allOf": [_has(one), _has(other)]}} for one, other in EXCLUDES.get(section, ())]
    if section is Tls:
        names = _spellings("insecure_skip_verify")
        verified = {"properties": {name: {"not": {"const": True}} for name in names}}
        rules.append({"if": _has("ca_certificate"), "then": verified})
    if section is Cursor:
        found = {"anyOf": [_has("value_field"), _has("value_pointer")]}
        rules.append({"if": _received(), "then": found})
    if section is Server:
        shared = [
            {"required": [name], "properties": {name: {"const": True}}} for name in _spellings("reuse_port")
        ]
        rules.append(
            {"if": {"anyOf": shared}, "then": {"properties": {"bind": {"not": {"pattern": "^unix:"}}}}}
        )
    if section is ServerAuth:
        bearer = _has("bearer", some=True)
        rules.append({"anyOf": [_has("basic", some=True), bearer]})
        rules.append({"if": _has("query_parameter"), "then": bearer})
    return rules


def _received(*others: Schema) -> Schema:
    """Return the rule that a cursor is taken from what comes in, or that its `from` matches one of the others."""
    there = {"anyOf": [{"const": CursorFrom.RECEIVED.value}, *others]}
    return {"anyOf": [{"required": [key], "properties": {key: there}} for key in _spellings("from_")]}


_CURSOR = r"(^|[^$])\$\{ *cursor *(\|\||\})"


def _sent_cursor() -> Schema:
    """Return the rule that a cursor is sent: by its own fields, or by ``${cursor}`` somewhere in the handshake."""
    its_own = {"anyOf": [_has("header_name"), _has("query_parameter"), _received(_CONTEXT)]}
    mentioned = [
        each for name in ("url", "headers", "query", "auth", "tls") for each in _mentions(Config, name)
    ]
    return {"if": _has("cursor"), "then": {"anyOf": [{"properties": {"cursor": its_own}}, *mentioned]}}


def _mentions(section: type, name: str) -> list[Schema]:
    """Return a schema for each way in which a field may hold ``${cursor}``."""
    annotation = without_none(fields_dict(section)[name].type)
    field_type, inner = field_type_of(annotation), section_of(annotation)
    there: Schema = {"type": "string", "pattern": _CURSOR}
    if inner is not None:
        there = {"anyOf": [each for one in fields(inner) for each in _mentions(inner, one.name)]}
    elif field_type is None:
        there = {"type": "object", "not": {"additionalProperties": {"not": there}}}
    elif not field_type.templated:
        return []
    elif field_type.element is not None:
        there = {"anyOf": [there, {"type": "array", "contains": there}]}
    return [{"required": [key], "properties": {key: there}} for key in _spellings(name)]


def _modes() -> list[Schema]:
    """Return the rules of each mode: fields that it needs, can't use (then they must be unset), and can use."""
    conditions: list[Schema] = []
    for mode in Mode:
        values = [mode.value, None] if mode is Mode.CLIENT else [mode.value]
        is_mode: Schema = {"properties": {"mode": {"enum": values}}}
        if mode is not Mode.CLIENT:
            is_mode["required"] = ["mode"]
        unusable = UNUSABLE[mode]
        usable = [
            name for name, *_ in _SOMEWHERE_UNUSABLE if not {name, name.partition(".")[0]} & {*unusable}
        ]
        if mode is Mode.RELAY:
            conditions += _relay(is_mode)
            usable = [name for name in usable if name not in UNUSABLE_WITHOUT_LINK]
        then = [
            _has("url" if mode is Mode.CLIENT else "server"),
            *([] if "cursor" in unusable else [_sent_cursor()]),
            _each_is(unusable, "unset"),
            _each_is(usable, "usable"),
        ]
        conditions.append({"if": is_mode, "then": {"allOf": then}})
    return conditions


def _relay(is_relay: Schema) -> list[Schema]:
    """Return the rules of a relay that depend on other fields: whether there is a link, a spool, a shared history, and senders' names."""
    alone = {"allOf": [is_relay, {"not": _has("url")}]}
    linked = {"allOf": [is_relay, _has("url")]}
    signed = {"allOf": [is_relay, {"properties": {"server": _has("sender_field")}, "required": ["server"]}]}
    spooled = {"allOf": [linked, _has("spool")]}
    shared: Schema = {"type": "string", "pattern": r"^(redis|rediss|unix)://|^\$\{"}
    as_json: Schema = {"anyOf": [{"enum": [Payload.JSON.value]}, _CONTEXT]}
    return [
        {"if": alone, "then": _each_is(UNUSABLE_WITHOUT_LINK, "unset")},
        {"if": linked, "then": _each_is(UNUSABLE_WITHOUT_LINK, "usable")},
        {"if": spooled, "then": {"not": _has("batch")}},
        {"if": linked, "then": {"properties": {"history": {"properties": {"store": {"not": shared}}}}}},
        {"if": signed, "then": {"required": ["payload"], "properties": {"payload": as_json}}},
    ]


def _each_is(names: Iterable[str], how: str) -> Schema:
    """Return the rule that each of these fields, where it is there, matches its definition under `how`."""
    inside: Schema = {}
    for name in names:
        section, _, field = name.rpartition(".")
        of_section: Schema = inside.setdefault(f"^{_either(section)}$", {}) if section else {}
        holder = of_section.setdefault("patternProperties", {}) if section else inside
        holder.setdefault(f"^{_either(field)}$", {})["$ref"] = f"#/$defs/{how}/{name}"
    return {"patternProperties": inside}


def _has(name: str, *, some: bool = False) -> Schema:
    """Return the rule that a field is there, in either spelling, and not null; with `some`, that it is a table with entries."""
    value: Schema = {"type": "object", "minProperties": 1} if some else {"not": {"type": "null"}}
    ways = [{"required": [key], "properties": {key: value}} for key in _spellings(name)]
    return ways[0] if len(ways) == 1 else {"anyOf": ways}


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys((kebab(name), name)))


def _either(name: str) -> str:
    return kebab(name).replace("-", "[-_]") + ("_?" if name.endswith("_") else "")


# -- texts --------------------------------------------------------------------------------------------

_ATTRIBUTE_DOC = re.compile(r'^    (\w+): (?:(?!\n    """).)*\n    """(.*?)"""', re.MULTILINE | re.DOTALL)
_SPEC = re.compile(r" ?\(SPEC [^)]*\)")


def _attribute_docs(section: type) -> dict[str, str]:
    """Return the docstring under each attribute of a section, in the user's words."""
    source = inspect.getsource(section)
    return {name: _prose(text) for name, text in _ATTRIBUTE_DOC.findall(source)}


def _prose(text: str) -> str:
    """Return a docstring as one line of plain text, with the names of fields as the user writes them."""
    line = " ".join(_SPEC.sub("", text).split())
    line = re.sub(r"(?<!`)`([a-z_]+)`(?!`)", lambda name: kebab(name[1]), line)
    return line.replace("`", "").replace("None:", "Absent:")
