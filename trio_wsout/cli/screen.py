"""Standard output and standard error for rich; one that can't be written ends nothing."""

from __future__ import annotations

from typing import Any

from rich.console import Console

__all__ = ["Screen"]


class Screen(Console):
    """Tells once that it can't be written; where it is standard error itself, it only remembers."""

    failed: bool = False
    """Whether it could not be written, for another reason than a reader that has seen enough."""

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 - rich's own are many
        """Print as rich does."""
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            self.on_broken_pipe()
        except OSError as error:
            self._silence()
            self.failed = True
            if not self.stderr:
                from trio_wsout.cli.printing import say  # noqa: PLC0415 - help is told at once

                say(f"standard output: {error.strerror}")

    def on_broken_pipe(self) -> None:
        """A reader that has seen enough ends nothing, as it would in rich."""
        self._silence()

    def _silence(self) -> None:
        from trio_wsout.cli.printing import silence  # noqa: PLC0415 - help is told at once

        self.quiet = True
        silence(2 if self.stderr else 1)
