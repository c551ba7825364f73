"""What stands in the pages under `from code` is what the code says now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from trio_wsout._core.link import TRANSITIONS

DOCS = Path(__file__).parents[2] / "docs"
CHECK = [sys.executable, str(DOCS / "write_tables.py"), "--check"]


def test_the_tables_in_the_pages_are_what_the_code_says() -> None:
    told = subprocess.run(CHECK, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


def test_the_diagram_of_a_link_shows_every_transition() -> None:
    text = (DOCS / "explanation" / "link.md").read_text(encoding="utf-8")
    for (old, event), new in TRANSITIONS.items():
        assert f"{old.value.replace('-', '_')} --> {new.value.replace('-', '_')}: {event.value}\n" in text
    assert "stateDiagram-v2\n    [*] --> idle\n" in text
    assert "gave_up --> [*]\n" in text


def test_a_table_that_is_stale_is_found(tmp_path: Path) -> None:
    errors = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    stale = tmp_path / "stale.md"
    stale.write_text(errors.replace("`attempts` |", "`attempt` |"), encoding="utf-8")
    broken = tmp_path / "broken.md"
    broken.write_text(errors.replace("<!-- end -->", "", 1), encoding="utf-8")
    told = subprocess.run([*CHECK, str(stale), str(broken)], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert f"{stale} is not what the code says" in told.stderr
    assert f"{broken}: a block from code has no" in told.stderr
