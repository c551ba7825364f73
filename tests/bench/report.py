"""Tables of text, for the terminal."""

from __future__ import annotations

from bars import bars
from measure import Measured
from results import Results
from subject import BASE

MEANING = (
    "Frames or messages per second: of the measured process's CPU time, with all its threads, and of wall-clock time. "
    f"Ratios are to {BASE}. 'load' is how busy the load generator was: near 100 % it may have limited the result."
)


def table(measured: Measured) -> str:
    """One work, a subject a line, with its ratio to naked trio-websocket."""
    unit = measured.work.unit
    columns = (f"{unit}/CPU s", "ratio", f"{unit}/s", "ratio", "load", "p50 ms", "p99 ms")
    widths = (16, 8, 14, 8, 7, 9, 9)
    paced = measured.work.pace > 0 and not measured.work.tls
    head = "".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))
    lines = [f"\n{measured.work.title}", f"{'':32}{head if paced else head[:-18]}"]
    for name, cells in rows(measured):
        lines.append(
            f"{name:32}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False))
        )
    lines += [f"{name:32}failed: {why.splitlines()[-1]}" for name, why in measured.failed.items()]
    return "\n".join(lines)


def rows(measured: Measured) -> list[tuple[str, list[str]]]:
    """The cells of each subject's line."""
    base = BASE if BASE in measured.rounds else next(iter(measured.rounds), "")
    found = []
    for name in measured.rounds:
        cpu, wall = measured.per_cpu(name), measured.per_second(name)
        cells = [
            f"{cpu:,.0f}",
            f"{cpu / measured.per_cpu(base):.2f}",
            f"{wall:,.0f}",
            f"{wall / measured.per_second(base):.2f}",
            f"{measured.load(name):.0%}",
        ]
        late = [measured.late(name, part) for part in ("p50", "p99")]
        found.append((name, cells + [f"{each * 1000:.2f}" for each in late if each is not None]))
    return found


def idle_table(results: Results) -> str:
    """The idle peers, a subject a line."""
    if not results.idle:
        return ""
    peers = int(next(iter(results.idle.values()))["peers"])
    lines = [
        f"\n{peers:,} idle peers, heartbeats every 20 s",
        f"{'':32}{'KiB per peer':>16}{'% of a core':>14}",
    ]
    for name, told in results.idle.items():
        lines.append(f"{name:32}{told['bytes'] / 1024:16.1f}{told['cpu'] * 100:14.1f}")
    return "\n".join(lines)


def lines_text(results: Results) -> list[str]:
    """What the straight lines say."""
    if not results.lines:
        return []
    peers, events = results.lines["peers"], results.lines["events"]
    return [
        (
            f"An event costs {peers.base * 1e6:.1f} µs plus {peers.slope * 1e6:.3f} µs per peer "
            f"({', '.join(f'{x:,.0f}' for x, _ in peers.points)} peers; farthest point {peers.off:.1%} off the line)."
        ),
        (
            f"100 peers: {events.slope * 1e6:.1f} µs per event, and {events.base * 1e3:.1f} ms at the start "
            f"({', '.join(f'{x:,.0f}' for x, _ in events.points)} events; farthest point {events.off:.1%} off the line)."
        ),
    ]


def bars_table(results: Results) -> str:
    """Every bar and its figure."""
    words = {True: "holds", False: "does not hold", None: ""}
    lines = ["\nBars"]
    for bar in bars(results):
        lines.append(f"{bar.what:92}{bar.wanted:>22}{bar.figure:>14}  {words[bar.holds]}".rstrip())
    return "\n".join(lines)
