"""What runs measured, for whoever reads the log: noted by tests, printed at the end of pytest's summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


class Figures:
    """One line a figure, in the order in which they were noted. Called with a text, it notes it."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __call__(self, text: str) -> None:
        self._lines.append(text)

    def print(self, reporter: pytest.TerminalReporter) -> None:
        """Print what was noted under a heading; nothing, if nothing was."""
        if self._lines:
            reporter.section("figures")
        for line in self._lines:
            reporter.write_line(line)
