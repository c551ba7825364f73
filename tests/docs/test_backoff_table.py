"""The worked table in docs/explanation/backoff.md is what the code computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from trio_wsout._core.backoff import ceiling, delay
from trio_wsout.config import Reconnect, load_config

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "backoff.md"
TEXT = PAGE.read_text(encoding="utf-8")
HEADING = re.search(r"^\| n \|.*$", TEXT, re.MULTILINE)
assert HEADING is not None
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in re.findall(r"^\| *\d.*$", TEXT, re.MULTILINE)
]


def seconds(cell: str) -> float:
    return float(cell.removesuffix(" s").replace("\N{NARROW NO-BREAK SPACE}", ""))


def test_the_table_has_enough_rows_to_see_the_cap() -> None:
    assert [int(row[0].replace(" ", "")) for row in ROWS] == [1, 2, 3, 4, 5, 6, 7, 8, 1_000_000]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_is_what_the_code_computes(row: list[str]) -> None:
    policy = Reconnect()
    n = int(row[0].replace(" ", ""))
    shown = [seconds(cell) for cell in row[1:]]
    almost_one = 1 - 2**-53
    computed = [
        ceiling(n, policy),
        delay(n, 0.0, policy),
        delay(n, 0.5, policy),
        delay(n, almost_one, policy),
    ]
    assert shown == pytest.approx(computed, rel=1e-9)


def test_the_table_is_of_the_defaults_that_the_page_names() -> None:
    named = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert named is not None
    fields = dict(re.findall(r"^  ([a-z-]+): (\S+)$", named[1], re.MULTILINE))
    assert set(fields) == {"initial-backoff", "max-backoff", "multiplier", "jitter"}
    loaded = load_config(
        {
            "url": "ws://x/",
            "reconnect": {
                key: float(value) if value[-1].isdigit() else value for key, value in fields.items()
            },
        }
    )
    assert loaded.reconnect == Reconnect()


def test_the_formula_stands_on_the_page_as_in_the_code() -> None:
    from trio_wsout._core import backoff

    formula = [
        line.strip()
        for line in (backoff.__doc__ or "").splitlines()
        if re.match(r"\s+(ceiling|delay)\(n\)", line)
    ]
    assert len(formula) == 2
    for line in formula:
        assert line in TEXT
