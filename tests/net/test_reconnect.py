"""The comparison of reconnect loops can be run, and this library loses nothing in it. Of the others nothing is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.faults, pytest.mark.network]

SCRIPT = Path(__file__).parents[1] / "bench" / "reconnect.py"
EVENTS, CUTS = 500, 8


def test_the_comparison_of_reconnect_loops_has_its_rows_and_ours_lost_nothing(
    figures: Callable[[str], None],
) -> None:
    pytest.importorskip("websockets")
    command = [sys.executable, str(SCRIPT), f"--events={EVENTS}", f"--cuts={CUTS}", "--seed=7"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    _, head, *lines = ended.stdout.splitlines()
    assert head.split() == ["events", "sent", "cuts", "lost", "duplicates", "reordered", "seconds"]
    rows = {name: (version, *found) for name, version, *found in map(str.split, lines)}
    assert list(rows) == ["trio_wsout", "websockets", "trio_websocket"]
    _, sent, cuts, lost, _, reordered, seconds = rows["trio_wsout"]
    assert (int(sent), int(lost), int(reordered)) == (EVENTS, 0, 0)
    assert int(cuts) > 1
    assert float(seconds) > 0
    for name, (version, sent, cuts, lost, duplicates, *_) in rows.items():
        figures(
            f"reconnect loop of {name} {version}: {sent} events sent, {cuts} cuts, {lost} lost, {duplicates} duplicates"
        )
