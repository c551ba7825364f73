"""The command line: ``trio-wsout run``, ``check``, ``schema``, ``demo`` (SPEC 13; extra ``cli``)."""

import os
import signal
import sys
from importlib.util import find_spec

from trio_wsout.cli.exit_codes import CONFIGURATION, INTERRUPTED


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    # Until a command has begun Ctrl-C simply ends the process: out of an import an exception would show as a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)
    if find_spec("cyclopts") is None:
        print("the command needs cyclopts: pip install 'trio-wsout[cli]'", file=sys.stderr)
        raise SystemExit(CONFIGURATION)
    from trio_wsout.cli.commands import run_app  # noqa: PLC0415 - only where the extra is there

    run_app()


def _exit(*_: object) -> None:
    os._exit(INTERRUPTED)
