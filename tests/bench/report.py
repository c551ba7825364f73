"""Tables of text."""

from __future__ import annotations

from measure import Measured
from subject import BASE


def table(measured: Measured) -> str:
    """One work, a subject a line, with its ratio to naked trio-websocket."""
    work = measured.work
    lines = [
        f"\n{work.title}",
        f"{'':32}{f'{work.unit}/CPU s':>16}{'ratio':>8}{f'{work.unit}/s':>14}{'ratio':>8}{'load':>7}{'p50 ms':>9}{'p99 ms':>9}",
    ]
    base = BASE if BASE in measured.rounds else next(iter(measured.rounds), "")
    for name in measured.rounds:
        cpu, wall = measured.per_cpu(name), measured.per_second(name)
        late = [measured.late(name, part) for part in ("p50", "p99")]
        lines.append(
            f"{name:32}{cpu:16,.0f}{cpu / measured.per_cpu(base):8.2f}{wall:14,.0f}"
            f"{wall / measured.per_second(base):8.2f}{measured.load(name):7.0%}"
            + "".join(f"{each * 1000:9.2f}" for each in late if each is not None)
        )
    lines += [f"{name:32} failed: {why.splitlines()[-1]}" for name, why in measured.failed.items()]
    return "\n".join(lines)
