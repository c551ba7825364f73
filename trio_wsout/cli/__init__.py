"""The command line: ``trio-wsout run``, ``check``, ``schema``, ``demo`` (SPEC 13; extra ``cli``)."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    if find_spec("cyclopts") is None:
        print("the command needs cyclopts: pip install 'trio-wsout[cli]'", file=sys.stderr)
        raise SystemExit(2)
    try:
        from trio_wsout.cli.commands import run_app  # noqa: PLC0415 - only where the extra is there

        run_app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
