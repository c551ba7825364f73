"""The page of the documentation: everything between its two marks, and the pictures beside it."""

from __future__ import annotations

import json
from pathlib import Path

from bars import bars
from measure import Measured
from pictures import bar_picture, line_picture
from report import MEANING, lines_text, rows
from results import Results
from subject import OURS
from works import BURST, PACED, PACED_1000

DOCS = Path(__file__).parents[2] / "docs" / "explanation"
PAGE = DOCS / "performance.md"
BEGIN, END = "<!-- figures: nox -s bench -- --write-docs -->", "<!-- end of the figures -->"


def write_docs(results: Results) -> None:
    """Write the figures into the page, the pictures, and the raw numbers."""
    beside = DOCS / "performance"
    beside.mkdir(exist_ok=True)
    for old in beside.glob("*.svg"):
        old.unlink()
    drawn = pictures(results)
    for name, picture in drawn.items():
        (beside / f"{name}.svg").write_text(picture, encoding="utf-8")
    raw = json.dumps(results.document(), indent=1, ensure_ascii=False)
    (beside / "figures.json").write_text(raw + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{figures(results, set(drawn))}\n\n{END}{after}", encoding="utf-8")


def pictures(results: Results) -> dict[str, str]:
    """By file name."""
    found = {}
    for key, measured in results.works.items():
        work = measured.work
        if not measured.rounds or (work.kind == "fanout" and work not in {BURST, PACED}) or work.tls:
            continue
        shown = [(name, measured.per_cpu(name), name.startswith(OURS)) for name in measured.rounds]
        found[key] = bar_picture(f"{work.title}: {work.unit} in a CPU second", shown)
    for work in (PACED, PACED_1000):
        measured = results.works.get(work.key)
        if measured is not None and measured.rounds:
            late = [
                (name, measured.late(name, "p99") or 0, name.startswith(OURS)) for name in measured.rounds
            ]
            found[f"late-{work.peers}"] = bar_picture(
                f"{work.title}: ms from send to the peer, p99", late, scale=1000
            )
    found |= _scaling(results)
    if results.idle:
        shown = [(name, told["bytes"], name.startswith(OURS)) for name, told in results.idle.items()]
        found["idle"] = bar_picture("An idle peer: bytes of memory", shown)
    return found


def _scaling(results: Results) -> dict[str, str]:
    bursts = [
        each
        for each in results.works.values()
        if each.work.kind == "fanout" and not each.work.pace and not each.work.tls
    ]
    found = {}
    for name, across, fixed in (("peers", "peers", "size"), ("size", "bytes an event", "peers")):
        line: dict[str, list[tuple[float, float]]] = {}
        for each in bursts:
            if getattr(each.work, fixed) == getattr(BURST, fixed):
                for subject in each.rounds:
                    line.setdefault(subject, []).append((getattr(each.work, name), each.per_cpu(subject)))
        line = {subject: points for subject, points in line.items() if len(points) > 2}
        if line:
            found[f"burst-by-{name}"] = line_picture(
                "Fan-out in a burst: frames in a CPU second", across, line
            )
    return found


def figures(results: Results, drawn: set[str]) -> str:
    """The part of the page that is measured."""
    parts = [_how(results), "## Goals\n", _bars(results)]
    for key, measured in results.works.items():
        parts.append(f"\n## {measured.work.title}\n")
        late = f"late-{measured.work.peers}" if measured.work.pace and not measured.work.tls else ""
        parts += [
            f"![{measured.work.title}](performance/{name}.svg)\n" for name in (key, late) if name in drawn
        ]
        parts.append(_table(measured))
    parts += [
        f"\n![Against {name}](performance/burst-by-{name}.svg)"
        for name in ("peers", "size")
        if f"burst-by-{name}" in drawn
    ]
    if results.idle:
        parts.append(_idle(results))
    if results.lines:
        parts += ["\n## Cost per event and per peer\n", *(f"- {each}" for each in lines_text(results))]
    return "\n".join(parts)


def _how(results: Results) -> str:
    machine = ", ".join(f"{name} {told}" for name, told in results.machine.items())
    versions = ", ".join(f"{name} {told}" for name, told in results.versions.items() if told)
    missing = "".join(f" Not there: {name} ({why})." for name, why in results.missing.items())
    return (
        f"Measured on {results.date}: {machine}. {versions}.{missing}\n\n"
        f"Medians of {results.rounds} rounds (one round for other numbers of peers, other sizes and TLS). "
        f"The subjects ran in turn, about {results.seconds:g} s each. {MEANING}\n"
    )


def _bars(results: Results) -> str:
    words = {True: "yes", False: "**no**", None: ""}
    lines = ["| goal | wanted | measured | met |", "|---|---|---|---|"]
    lines += [
        f"| {each.what} | {each.wanted} | {each.figure} | {words[each.holds]} |" for each in bars(results)
    ]
    return "\n".join(lines)


def _table(measured: Measured) -> str:
    unit = measured.work.unit
    heads = ["", f"{unit} per CPU second", "ratio", f"{unit} per second", "ratio", "load"]
    if measured.work.pace and not measured.work.tls:
        heads += ["p50, ms", "p99, ms"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, cells in rows(measured):
        strong = "**" if name.startswith(OURS) else ""
        lines.append(f"| {strong}{name}{strong} | {' | '.join(cells)} |")
    lines += [f"| {name} | failed |{' |' * (len(heads) - 2)}" for name in measured.failed]
    return "\n".join(lines)


def _idle(results: Results) -> str:
    peers = int(next(iter(results.idle.values()))["peers"])
    lines = [f"\n## {peers:,} idle peers, heartbeats every 20 s\n", "![Memory](performance/idle.svg)\n"]
    lines += ["| | KiB of memory per peer | % of a core |", "|---|---|---|"]
    lines += [
        f"| {name} | {told['bytes'] / 1024:.1f} | {told['cpu'] * 100:.1f} |"
        for name, told in results.idle.items()
    ]
    return "\n".join(lines)
