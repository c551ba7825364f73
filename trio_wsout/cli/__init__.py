"""The command line: ``trio-wsout run``, ``check``, ``schema``, ``demo`` (SPEC 13; extra ``cli``)."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec

__all__ = ["main"]

_INTERRUPTED = 130


def _end(*_: object) -> None:
    """End this process at once."""
    os._exit(_INTERRUPTED)


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    # Nothing has begun yet, so Ctrl-C simply ends it; from within an import an exception would show as a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    if find_spec("cyclopts") is None:
        print("the command needs cyclopts: pip install 'trio-wsout[cli]'", file=sys.stderr)
        raise SystemExit(2)
    from trio_wsout.cli.commands import run_app  # noqa: PLC0415 - only where the extra is there

    run_app()
