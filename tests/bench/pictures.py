"""Pictures of the figures as SVG, drawn by hand so that the page needs nothing from elsewhere."""

from __future__ import annotations

import html
from math import ceil, floor, log10

_INK, _OTHER, _OURS, _GRID = "#555", "#8fa7bf", "#d9622b", "#ccc"
_ROW, _LEFT, _WIDTH = 24, 210, 720
_COLOURS = ("#d9622b", "#8fa7bf", "#3d6b99", "#6a9a58", "#a0679c", "#b59a3c")


def bar_picture(title: str, rows: list[tuple[str, float, bool]], *, scale: float = 1.0) -> str:
    """Horizontal bars on a logarithmic scale; a row is a name, a figure, and whether it is ours."""
    low = floor(log10(min(value for _, value, _ in rows)))
    high = max(low + 1, ceil(log10(max(value for _, value, _ in rows))))
    room, height = _WIDTH - _LEFT - 110, 60 + _ROW * len(rows)
    parts = [_text(10, 20, title, weight="bold")]
    for power in range(low, high + 1):
        x = _LEFT + room * (power - low) / (high - low)
        parts.append(f'<line x1="{x:.0f}" y1="32" x2="{x:.0f}" y2="{height - 22}" stroke="{_GRID}"/>')
        parts.append(_text(x, height - 8, _short(10.0**power * scale), anchor="middle"))
    for number, (name, value, ours) in enumerate(rows):
        y, wide = 36 + _ROW * number, room * (log10(value) - low) / (high - low)
        colour = _OURS if ours else _OTHER
        parts.append(
            f'<rect x="{_LEFT}" y="{y}" width="{max(wide, 1):.0f}" height="{_ROW - 6}" fill="{colour}"/>'
        )
        parts.append(_text(_LEFT - 8, y + 13, name, anchor="end"))
        parts.append(_text(_LEFT + max(wide, 1) + 6, y + 13, _short(value * scale)))
    return _svg(height, parts)


def line_picture(title: str, across: str, series: dict[str, list[tuple[float, float]]]) -> str:
    """Lines on logarithmic scales, a series a subject."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    left, top, wide, tall = 70, 36, 440, 260
    low_x, high_x = log10(min(xs)), log10(max(xs))
    low_y, high_y = floor(log10(min(ys))), ceil(log10(max(ys)))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + wide * (log10(x) - low_x) / ((high_x - low_x) or 1),
            top + tall * (high_y - log10(y)) / ((high_y - low_y) or 1),
        )

    parts = [
        _text(10, 20, title, weight="bold"),
        _text(left + wide / 2, top + tall + 36, across, anchor="middle"),
    ]
    for power in range(low_y, high_y + 1):
        _, y = place(min(xs), 10.0**power)
        parts.append(f'<line x1="{left}" y1="{y:.0f}" x2="{left + wide}" y2="{y:.0f}" stroke="{_GRID}"/>')
        parts.append(_text(left - 6, y + 4, _short(10.0**power), anchor="end"))
    parts += [
        _text(place(x, min(ys))[0], top + tall + 18, f"{x:,.0f}", anchor="middle") for x in sorted(set(xs))
    ]
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join("{:.0f},{:.0f}".format(*place(x, y)) for x, y in sorted(points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(left + wide + 16, top + 14 + 20 * number, name, colour=colour))
    return _svg(top + tall + 50, parts)


def _short(value: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal", colour: str = _INK
) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
        f"{html.escape(words)}</text>"
    )


def _svg(height: float, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        'font-family="sans-serif" font-size="12">'
    )
    return "\n".join(
        [head, f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#fff"/>', *parts, "</svg>", ""]
    )
