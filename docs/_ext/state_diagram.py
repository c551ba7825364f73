"""A fenced ``mermaid`` state diagram is drawn as SVG here, so that pages need no script from elsewhere."""

from __future__ import annotations

import html
import re
from math import hypot
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.parsers.rst import Directive

if TYPE_CHECKING:
    from sphinx.application import Sphinx

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
    return {"parallel_read_safe": True, "parallel_write_safe": True}
