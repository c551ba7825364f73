"""Writes the parts of the documentation that come from the code: tables of fields, classes, options.

They stand in the pages as Markdown, between two comments, so that a forge shows them as well::

    <!-- from code: class trio_wsout.Output -->
    …
    <!-- end -->

``python docs/write_tables.py`` writes all of them anew. With ``--check`` it writes nothing, and fails if one is stale.
What may stand in the first comment:

    configuration, modes, defaults      the fields of all sections; what a mode can't use; what one URL stands for
    command NAME                        what ``trio-wsout NAME --help`` prints
    exit codes                          of the command
    link                                the states of a link, as a Mermaid diagram
    function NAME                       its parameters and what it raises
    class NAME                          its attributes and methods; `without a, b` leaves members out, `with constructor`
                                        says how to make one, `text only` leaves all members out
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin

from attrs import NOTHING, Factory, fields, has
from trio_wsout._core.link import TRANSITIONS, State
from trio_wsout.cli import exit_codes
from trio_wsout.config import Config, Mode, Secret, dump_config, sections
from trio_wsout.config.field_types import field_type_of, kebab, section_of
from trio_wsout.config.validation import UNUSABLE, UNUSABLE_WITHOUT_LINK

DOCS = Path(__file__).parent
_BLOCK = re.compile(r"^<!-- from code: (.+?) -->\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"^<!-- from code: (.+?) -->$", re.MULTILINE)
_SPEC = re.compile(r" ?\((?:extra ``\w+``; )?SPEC [^)]*\)")
_ATTRIBUTE_DOC = re.compile(
    r'^    (\w+): ((?:(?!\n    ["\w]).)*?)(?: = (?:(?!\n    ["\w]).)*)?\n    """(.*?)"""',
    re.MULTILINE | re.DOTALL,
)
_CONSTANT_DOC = re.compile(r'^(\w+) = (\d+)\n"""(.*?)"""', re.MULTILINE | re.DOTALL)


# -- the configuration --------------------------------------------------------------------------------

_KEYS = {
    each.name: kebab(each.name)
    for section in (getattr(sections, name) for name in sections.__all__)
    if has(section)
    for each in fields(section)
}


def configuration() -> str:
    """Every section with its fields."""
    parts: list[str] = []
    for path, section in _sections():
        documented = {
            name: meaning for name, _, meaning in _ATTRIBUTE_DOC.findall(inspect.getsource(section))
        }
        rows = [
            (
                f"`{kebab(each.name)}`",
                _value(each.type),
                _default(each),
                _field_prose(documented[each.name]),
            )
            for each in fields(section)
        ]
        heading = f"## `{path}`" if path else "## The output itself"
        parts += [
            heading,
            _field_prose(section.__doc__ or ""),
            _table(("field", "value", "default", ""), rows),
        ]
    return "\n\n".join(parts)


def _sections(section: type = Config, path: str = "") -> list[tuple[str, type]]:
    found = [(path, section)]
    for each in fields(section):
        inner = section_of(each.type)
        if inner is not None:
            found += _sections(inner, f"{path}.{each.name}".lstrip(".").replace("_", "-"))
    return found


def _value(annotation: Any) -> str:
    """Return the values that a field takes, in words."""
    kind = field_type_of(annotation)
    if kind is None:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if section_of(annotation) is not None:
            return f"section, or `{sections.NONE}`" if sections.Heartbeat in arguments else "section"
        if origin is Mapping:
            return f"table: name → {_value(arguments[1])}"
        return f"list: {_value(arguments[0])}" if origin is tuple else _value(arguments[0])
    words = kind.words
    return f"{words}, secret" if Secret in get_args(annotation) and "proxy" not in words else words


def _default(each: Any) -> str:
    default = each.default
    if default is NOTHING:
        return "**required**"
    if isinstance(default, Factory):  # type: ignore[arg-type]  # attrs calls its class so
        return "see there" if default.takes_self else "none"
    if default is None or default == () or has(type(default)):
        return "" if default is None or has(type(default)) else "none"
    if isinstance(default, Enum):
        return f"`{default.value}`"
    kind = field_type_of(each.type) or next(
        (field_type_of(one) for one in get_args(each.type) if field_type_of(one)), None
    )
    if kind is not None and isinstance(default, tuple):
        return ", ".join(f"`{kind.write(one)}`" for one in default)
    written = kind.write(default) if kind is not None else default
    return f"`{str(written).lower() if isinstance(written, bool) else written}`" if written != "" else "empty"


def _field_prose(text: str) -> str:
    """A section's docstring for those who write configurations, not Python: keys in kebab-case, no None."""
    line = re.sub(r"`([a-z_]+)`", lambda match: f"`{_KEYS.get(match[1], match[1])}`", _line(text))
    return line.replace("None:", "Absent:")


def modes() -> str:
    """Which fields each mode can't use."""
    alone = (*UNUSABLE[Mode.RELAY], *UNUSABLE_WITHOUT_LINK)
    names_of = {f"`{mode.value}`": names for mode, names in UNUSABLE.items()} | {
        "`relay` without `url`": alone
    }
    rows = [(mode, ", ".join(f"`{kebab(name)}`" for name in names)) for mode, names in names_of.items()]
    return _table(("mode", "can't use"), rows)


def defaults() -> str:
    """The configuration that one URL stands for."""
    lines = ["```yaml"]
    for key, value in dump_config(Config(url="wss://feed.example.com/events")).items():
        if isinstance(value, dict):
            lines += [f"{key}:" if value else f"{key}: {{}}"]
            lines += [f"  {name}: {_yaml(inner)}" for name, inner in value.items()]
        else:
            lines.append(f"{key}: {_yaml(value)}")
    return "\n".join([*lines, "```"])


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "''" if value == "" else "{}" if value == {} else str(value)


# -- the command --------------------------------------------------------------------------------------


def command(name: str) -> str:
    """Return the text that ``--help`` of a command prints."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"}
    arguments = [sys.executable, "-m", "trio_wsout", name, "--help"]
    told = subprocess.run(arguments, check=True, capture_output=True, encoding="utf-8", env=environment)  # noqa: S603
    lines = [line.rstrip() for line in told.stdout.strip().splitlines()]
    return "\n".join(["```text", *lines, "```"])


def exit_code_table() -> str:
    """The exit codes of the command."""
    rows = [
        (code, _line(meaning)) for _, code, meaning in _CONSTANT_DOC.findall(inspect.getsource(exit_codes))
    ]
    return _table(("code", "meaning"), sorted(rows, key=lambda row: int(row[0])))


# -- Python -------------------------------------------------------------------------------------------


def resolve_name(name: str) -> Any:
    """Return the object of a dotted name; a module that has the name of a function in its package is passed over."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def function(name: str) -> str:
    """Return the call of a function, with its parameters."""
    called = resolve_name(name)
    asynchronous = inspect.isasyncgenfunction(inspect.unwrap(called))
    signature = _signature(called)
    needed = [each for each in signature.parameters.values() if each.default is each.empty]
    rest_of_them = ["…"] if len(needed) < len(signature.parameters) else []
    call = f"{called.__name__}({', '.join([*map(_parameter, needed), *rest_of_them])})"
    text, arguments, rest = _sorted_out(called.__doc__ or "")
    rows = [
        (
            f"`{each.name}`",
            _code(each.annotation),
            "" if each.default is each.empty else _code(_default_text(each.default)),
            arguments.get(each.name, ""),
        )
        for each in signature.parameters.values()
    ]
    table = _table(("parameter", "type", "default", ""), rows) if arguments else ""
    heading = f"### {called.__name__}"
    way = f"`async with {call} as …`" if asynchronous else _code(f"{call} -> {signature.return_annotation}")
    return "\n\n".join(part for part in (heading, way, text, table, rest) if part)


def class_(name: str, *, without: tuple[str, ...], constructor: bool, members: bool) -> str:
    """Return the attributes and methods of a class."""
    described = resolve_name(name)
    parts = [f"### {described.__name__}"]
    if constructor:
        parts.append(_code(f"{described.__name__}({_parameters(_signature(described))})"))
    text, _, rest = _sorted_out(described.__doc__ or "")
    parts += [text, rest]
    if issubclass(described, Enum):
        parts.append(
            _table(("member", "value"), [(f"`{each.name}`", f"`{each.value}`") for each in described])
        )
    elif members:
        own = {
            key: value
            for key, value in vars(described).items()
            if not key.startswith("_") and key not in without
        }
        parts.append(_attributes(described, without))
        parts += [_member(key, value) for key, value in own.items()]
    return "\n\n".join(part for part in parts if part)


def _attributes(described: type, without: tuple[str, ...]) -> str:
    found = {name: (kind, told) for name, kind, told in _ATTRIBUTE_DOC.findall(inspect.getsource(described))}
    standard: dict[str, object] = {}
    if has(described):
        standard = {each.name: each.default for each in fields(described) if each.init}
        kinds = _annotations(described)
        found = {
            each.name: found.get(each.name, (kinds.get(each.name, ""), "")) for each in fields(described)
        }
    rows = []
    for name, (kind, told) in found.items():
        if name.startswith("_") or name in without:
            continue
        default = standard.get(name, NOTHING)
        said = "" if default is NOTHING or isinstance(default, Factory) else _code(_default_text(default))
        rows.append((f"`{name}`", _code(kind), said, _line(told)))
    if not any(row[2] for row in rows):
        return _table(("attribute", "type", ""), [(row[0], row[1], row[3]) for row in rows])
    return _table(("attribute", "type", "default", ""), rows)


def _member(name: str, member: object) -> str:
    """A method or property as an item of a list; empty if it is nothing that one uses."""
    if isinstance(member, property):
        told, call = member.fget, f"{name}: {_signature(member.fget).return_annotation}"  # type: ignore[arg-type]
    elif inspect.isfunction(member):
        told, signature = member, _signature(member)
        call = f"{'await ' if inspect.iscoroutinefunction(member) else ''}{name}({_parameters(signature)})"
        if signature.return_annotation not in {None, "None", signature.empty}:
            call += f" -> {signature.return_annotation}"
    else:
        return ""
    text, arguments, rest = _sorted_out(getattr(told, "__doc__", "") or "")
    listed = "\n".join(f"- `{key}`: {meaning}" for key, meaning in arguments.items())
    body = "\n\n".join(part for part in (text, listed, rest) if part)
    return f"- {_code(call)}: " + body.replace("\n", "\n  ").replace("\n  \n", "\n\n")


def _annotations(described: Any) -> dict[str, str]:
    """The annotations of a function or class as they stand in the source."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(described)))
    definition: Any = ast.parse(source).body[0]
    if isinstance(definition, ast.ClassDef):  # attrs makes its constructor of the fields
        found = (each for each in definition.body if isinstance(each, ast.AnnAssign))
        return {ast.unparse(each.target).lstrip("_"): ast.unparse(each.annotation) for each in found}
    listed = (each for each in ast.walk(definition.args) if isinstance(each, ast.arg) and each.annotation)
    return {each.arg: ast.unparse(each.annotation) for each in listed} | {
        "return": ast.unparse(definition.returns)
    }


def _signature(described: Any) -> inspect.Signature:
    signature, told = inspect.signature(described), _annotations(described)
    parameters = [
        each.replace(annotation=told.get(each.name, each.annotation))
        for each in signature.parameters.values()
    ]
    return signature.replace(
        parameters=parameters, return_annotation=told.get("return", inspect.Signature.empty)
    )


def diagram() -> str:
    """The transitions of a link as a Mermaid state diagram."""
    edges = [
        ("[*]", _node(State.IDLE)),
        *((_node(old), f"{_node(new)}: {event}") for (old, event), new in TRANSITIONS.items()),
    ]
    edges += [(_node(state), "[*]") for state in (State.CLOSED, State.GAVE_UP)]
    return "\n".join(["stateDiagram-v2", *(f"    {old} --> {new}" for old, new in edges)])


def _node(state: State) -> str:
    return state.value.replace("-", "_")


def _parameters(signature: inspect.Signature) -> str:
    shown: list[str] = []
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        if each.name != "self":
            shown.append(_parameter(each))
    return ", ".join(shown)


def _parameter(each: inspect.Parameter) -> str:
    told = each.annotation
    shown = each.name if each.annotation is each.empty else f"{each.name}: {told}"
    star = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
    return star + (shown if each.default is each.empty else f"{shown} = {_default_text(each.default)}")


def _default_text(default: object) -> str:
    # Of the defaults that are called, all are functions of a module that is named as they are, such as random.random.
    return f"{default.__name__}.{default.__name__}" if callable(default) else repr(default)


def _sorted_out(docstring: str) -> tuple[str, dict[str, str], str]:
    """A docstring in Google's style: its text, its arguments, and what it raises, as Markdown."""
    parts = re.split(r"^(Args|Raises|Returns|Yields):\n", inspect.cleandoc(docstring), flags=re.MULTILINE)
    text = "\n\n".join(
        _line(each) if not each.lstrip().startswith("- ") else _markdown(each)
        for each in re.split(r"\n\n+", parts[0])
        if each.strip()
    )
    arguments: dict[str, str] = {}
    rest: list[str] = []
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        items = re.findall(r"^ {4}([\w.]+): (.*?)(?=^ {4}\S|\Z)", body, re.MULTILINE | re.DOTALL)
        if title == "Args":
            arguments = {name: _line(meaning) for name, meaning in items}
        elif title == "Raises":
            rest.append(
                "\n".join(["Raises:", "", *(f"- `{name}`: {_line(meaning)}" for name, meaning in items)])
            )
        else:
            rest.append(f"{title}: {_line(body)}")
    return text, arguments, "\n\n".join(rest)


# -- Markdown -----------------------------------------------------------------------------------------


def _markdown(text: str) -> str:
    """A docstring's markup as Markdown. Section numbers of the specification, which readers don't have, are cut out."""
    return re.sub(r"``(.+?)``", r"`\1`", _SPEC.sub("", text))


def _line(text: str) -> str:
    return " ".join(_markdown(text).split())


def _code(text: object) -> str:
    return f"`{text}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Rows under a head; empty without rows."""
    if not rows:
        return ""
    lines = (
        " | ".join(cell.replace("|", "\\|") for cell in line) for line in (head, ("---",) * len(head), *rows)
    )
    return "\n".join(f"| {line} |".replace("|  |", "| |") for line in lines)


# -- the pages ----------------------------------------------------------------------------------------


def made(mark: str) -> str:
    """Return the text that belongs under a mark."""
    plain: dict[str, Callable[[], str]] = {
        "configuration": configuration,
        "modes": modes,
        "defaults": defaults,
        "exit codes": exit_code_table,
        "link": lambda: f"```mermaid\n{diagram()}\n```",
    }
    if mark in plain:
        return plain[mark]()
    kind, _, rest = mark.partition(" ")
    name, _, option = rest.partition(" ")
    if kind == "command":
        return command(name)
    if kind == "function":
        return function(name)
    if kind == "class":
        without = tuple(option.removeprefix("without ").split(", ")) if option.startswith("without ") else ()
        return class_(
            name, without=without, constructor=option == "with constructor", members=option != "text only"
        )
    message = f"docs/write_tables.py knows nothing of 'from code: {mark}'"
    raise SystemExit(message)


def stale(old: str, new: str) -> bool:
    """Whether the words differ; how a help text is broken into lines is cyclopts' and rich's own matter."""
    return re.sub(r"[\s\u2500-\u257f]+", " ", old) != re.sub(r"[\s\u2500-\u257f]+", " ", new)


def rewrite(page: str) -> str:
    """The page with its stale blocks made anew."""

    def again(match: re.Match[str]) -> str:
        mark, old = match[1], match[2]
        new = f"\n{made(mark)}\n\n"
        return f"<!-- from code: {mark} -->\n{new if stale(old, new) else old}<!-- end -->"

    return _BLOCK.sub(again, page)


def main() -> None:
    """Write all pages anew, or look whether that would change any."""
    parser = argparse.ArgumentParser(description="Write what the pages take from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is stale")
    parser.add_argument("page", type=Path, nargs="*", help="all pages of the documentation, if none is named")
    arguments = parser.parse_args()
    wrong: list[str] = []
    for page in arguments.page or sorted(each for each in DOCS.rglob("*.md") if "_build" not in each.parts):
        old = page.read_text(encoding="utf-8")
        if len(_MARK.findall(old)) != len(_BLOCK.findall(old)):
            wrong.append(f"{page}: a block from code has no '<!-- end -->'")
            continue
        new = rewrite(old)
        if new == old:
            continue
        if arguments.check:
            wrong.append(f"{page} is not what the code says: run python docs/write_tables.py")
        else:
            page.write_text(new, encoding="utf-8")
            print(page)  # noqa: T201 - this is a command
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
