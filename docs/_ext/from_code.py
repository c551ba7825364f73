"""What the documentation takes from the code, so that it can't differ from it.

- ``<!-- from code: configuration -->`` becomes the tables of all sections and fields.
- ``<!-- from code: command NAME -->`` becomes what ``trio-wsout NAME --help`` prints.
- A fenced ``mermaid`` state diagram is drawn as SVG here, so that pages need no script from elsewhere.
- Numbers of the specification's sections are cut out of docstrings: readers don't have it.
"""

from __future__ import annotations

import html
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from enum import Enum
from math import hypot
from typing import TYPE_CHECKING, Any, get_args, get_origin

from attrs import NOTHING, Factory, fields, has
from docutils import nodes
from docutils.parsers.rst import Directive
from trio_wsout.config import Config, Secret, dump_config, sections
from trio_wsout.config.loading import kind_of
from trio_wsout.config.rules import UNUSABLE

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_MARK = re.compile(r"<!-- from code: (\w+)(?: (\w+))? -->")
_SPEC = re.compile(r" ?\((?:extra ``\w+``; )?SPEC [^)]*\)")
_ATTRIBUTE_DOC = re.compile(r'^    (\w+): [^\n]*\n    """(.*?)"""', re.MULTILINE | re.DOTALL)


# -- configuration ------------------------------------------------------------------------------------

_FORMATS = {
    "template": "templated text",
    "positive-duration": "duration > 0",
    "duration": "duration",
    "url": "URL",
    "size": "size",
    "proxy": "proxy URL, or `none`",
    "dotted-path": "dotted path",
    "pointer": "JSON pointer",
    "close-codes": "close code or range",
    "bind": "address",
    "path": "path",
    "origin": "origin, or `*`",
}
_TYPES = {"string": "text", "boolean": "true or false"}


def configuration() -> str:
    """Every section with its fields, as Markdown."""
    lines: list[str] = []
    for path, section in _sections():
        lines += [
            "",
            f"## `{path}`" if path else "## The output itself",
            "",
            _prose(section.__doc__ or ""),
            "",
        ]
        lines += ["| field | value | default | |", "|---|---|---|---|"]
        documented = dict(_ATTRIBUTE_DOC.findall(inspect.getsource(section)))
        for each in fields(section):
            key = each.name.replace("_", "-")
            meaning = _prose(documented[each.name]).replace("|", "\\|")
            lines.append(f"| `{key}` | {_value(each.type)} | {_default(each)} | {meaning} |")
    return "\n".join(lines)


_KEYS = {
    each.name: each.name.replace("_", "-")
    for section in (getattr(sections, name) for name in sections.__all__)
    if has(section)
    for each in fields(section)
}


def _sections(section: type = Config, path: str = "") -> list[tuple[str, type]]:
    found = [(path, section)]
    for each in fields(section):
        inner = _inner(each.type)
        if inner is not None:
            found += _sections(inner, f"{path}.{each.name}".lstrip(".").replace("_", "-"))
    return found


def _inner(annotation: Any) -> type | None:
    """The section that a field holds; None: it holds a value."""
    if kind_of(annotation) is not None:
        return None
    candidates = [annotation, *get_args(annotation)]
    return next(
        (each for each in candidates if isinstance(each, type) and has(each) and each is not Secret), None
    )


def _value(annotation: Any) -> str:
    """What a field takes, in words."""
    kind = kind_of(annotation)
    if kind is None:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if _inner(annotation) is not None:
            return "section"
        if origin is Mapping:
            return f"table: name → {_value(arguments[1])}"
        return f"list: {_value(arguments[0])}" if origin is tuple else _value(arguments[0])
    schema = dict(kind.schema)
    if "enum" in schema:
        return " · ".join(f"`{each}`" for each in schema["enum"])
    if "format" in schema:
        words = _FORMATS[schema["format"].removeprefix("trio-wsout-")]
    elif schema["type"] in {"integer", "number"}:
        words = ("whole number" if schema["type"] == "integer" else "number") + _bounds(schema)
    else:
        words = _TYPES[schema["type"]]
    return f"{words}, secret" if get_args(annotation)[0] is Secret and "proxy" not in words else words


def _bounds(schema: Mapping[str, Any]) -> str:
    top = schema.get("maximum", sys.float_info.max)
    return f" ≥ {schema['minimum']}" if top == sys.float_info.max else f", {schema['minimum']} to {top}"


def _default(each: Any) -> str:
    default = each.default
    if default is NOTHING:
        return "**required**"
    if isinstance(default, Factory):  # type: ignore[arg-type]  # attrs calls its class so
        return "none"
    if default is None or default == () or has(type(default)):
        return "" if default is None or has(type(default)) else "none"
    if isinstance(default, Enum):
        return f"`{default.value}`"
    kind = kind_of(each.type) or next((kind_of(one) for one in get_args(each.type) if kind_of(one)), None)
    if kind is not None and isinstance(default, tuple):
        return ", ".join(f"`{kind.write(one)}`" for one in default)
    written = kind.write(default) if kind is not None else default
    return f"`{str(written).lower() if isinstance(written, bool) else written}`" if written != "" else "empty"


def _prose(text: str) -> str:
    """A docstring as one line of Markdown."""
    line = " ".join(_SPEC.sub("", text).split())
    line = re.sub(r"``(.+?)``", r"`\1`", line)
    # Attributes are named in Python's way there, fields in the user's here; None is what is absent.
    line = re.sub(r"`([a-z_]+)`", lambda match: f"`{_KEYS.get(match[1], match[1])}`", line)
    return re.sub(r"\bNone:", "absent:", line).replace("are None when absent", "have no defaults: see each")


def modes() -> str:
    """Which top-level fields each mode can't use, as Markdown."""
    lines = ["| mode | can't use |", "|---|---|"]
    for mode, names in UNUSABLE.items():
        keys = ", ".join(f"`{name.replace('_', '-')}`" for name in names)
        lines.append(f"| `{mode.value}` | {keys} |")
    return "\n".join(lines)


def defaults() -> str:
    """The configuration that one URL stands for."""
    config = Config(url="wss://feed.example.com/events")
    lines = ["```yaml"]
    for key, value in dump_config(config).items():
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


def command(name: str) -> str:
    """What a command's ``--help`` prints."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    arguments = [sys.executable, "-m", "trio_wsout", name, "--help"]
    told = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)  # noqa: S603
    return f"```text\n{told.stdout.strip()}\n```"


def _fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    del app, page
    makers = {"configuration": configuration, "modes": modes, "defaults": defaults}

    def made(match: re.Match[str]) -> str:
        return command(match[2]) if match[1] == "command" else makers[match[1]]()

    source[0] = _MARK.sub(made, source[0])


_set_aside: dict[str, list[str]] = {}


def _before_napoleon(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Cut section numbers; keep the lines of attributes, where napoleon takes ``None: …`` for a type."""
    del app, obj, options
    lines[:] = [_SPEC.sub("", line) for line in lines]
    if what == "attribute":
        _set_aside[name] = lines[:]
        lines.clear()


def _after_napoleon(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    del app, what, obj, options
    lines.extend(_set_aside.pop(name, []))


# -- state diagrams -----------------------------------------------------------------------------------

_EDGE = re.compile(r"^\s*(\S+) --> (\S+?)(?:: (.+))?$", re.MULTILINE)
_PLACES = {
    "idle": (70, 120),
    "dialling": (260, 120),
    "open": (640, 120),
    "gave_up": (430, 30),
    "backing_off": (385, 225),
    "closed": (150, 430),
}
"""Middle of each state's box; a state that is not here makes the build fail."""
_WIDTH, _HEIGHT, _BOX_WIDE, _BOX_HIGH = 720, 460, 100, 36


class StateDiagram(Directive):
    """A Mermaid state diagram, drawn with boxes at fixed places."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        return [nodes.raw("", draw("\n".join(self.content)), format="html")]


def draw(text: str) -> str:
    """SVG of the text of a state diagram; labels of parallel edges share one line."""
    edges: dict[tuple[str, str], list[str]] = {}
    for old, new, label in _EDGE.findall(text):
        if "[*]" not in (old, new):
            edges.setdefault((old, new), []).append(label)
    parts = [
        _edge(old, new, " / ".join(labels), twin=(new, old) in edges) for (old, new), labels in edges.items()
    ]
    parts += [_box(state) for state in dict.fromkeys(state for edge in edges for state in edge)]
    label = html.escape("; ".join(f"{old} to {new}: {', '.join(said)}" for (old, new), said in edges.items()))
    arrow = (
        '<marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L10 5L0 10z" fill="currentColor"/></marker>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}" width="100%" '
        f'font-size="12" font-family="sans-serif" text-anchor="middle">'
        f"<defs>{arrow}</defs>{''.join(parts)}</svg>"
    )


def _box(state: str) -> str:
    x, y = _PLACES[state]
    return (
        f'<rect x="{x - _BOX_WIDE / 2}" y="{y - _BOX_HIGH / 2}" width="{_BOX_WIDE}" height="{_BOX_HIGH}" '
        f'rx="8" fill="none" stroke="currentColor"/>'
        f'<text x="{x}" y="{y + 4}" font-weight="bold" fill="currentColor">{state.replace("_", "-")}</text>'
    )


def _edge(old: str, new: str, label: str, *, twin: bool) -> str:
    """A straight arrow from border to border; one of two between the same boxes keeps to its side."""
    (x1, y1), (x2, y2) = _PLACES[old], _PLACES[new]
    length = hypot(x2 - x1, y2 - y1)
    along = (x2 - x1) / length, (y2 - y1) / length
    side = 9 if twin else 0
    x1, x2 = x1 - along[1] * side, x2 - along[1] * side
    y1, y2 = y1 + along[0] * side, y2 + along[0] * side
    to_side = _BOX_WIDE / 2 / abs(along[0]) if along[0] else length
    to_top = _BOX_HIGH / 2 / abs(along[1]) if along[1] else length
    reach = min(to_side, to_top)
    x1, y1, x2, y2 = (
        x1 + along[0] * reach,
        y1 + along[1] * reach,
        x2 - along[0] * reach,
        y2 - along[1] * reach,
    )
    # The label stands on the outer side of its arrow, in a gap of its own.
    x, y = (x1 + x2) / 2 - along[1] * (side and 12), (y1 + y2) / 2 + along[0] * (side and 12)
    at, told = f'x="{x:.0f}" y="{y + 4:.0f}"', html.escape(label)
    return (
        f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="currentColor" '
        f'marker-end="url(#arrow)"/>'
        f'<text {at} stroke="var(--color-background-primary, white)" stroke-width="6">{told}</text>'
        f'<text {at} fill="currentColor">{told}</text>'
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("mermaid", StateDiagram)
    app.connect("source-read", _fill_in)
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
