"""`import trio_wsout` is quick: each name is fetched when it is first asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio_wsout


def python(script: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True
    )
    return run.stdout.strip()


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    script = "import sys, trio_wsout; print('trio' in sys.modules, 'cattrs' in sys.modules); trio_wsout.open_output; "
    assert python(script + "print('trio' in sys.modules)").split() == ["False", "False", "True"]
    assert (
        python("import sys; from trio_wsout import *; print('trio_wsout.testing' in sys.modules)") == "False"
    )


def test_help_imports_no_library() -> None:
    script = (
        "import sys; sys.argv = ['trio-wsout', '--help']\n"
        "from trio_wsout.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({'trio', 'cattrs', 'ssl', 'pygments'} & set(sys.modules), file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True
    )
    assert "Usage: trio-wsout" in run.stdout
    assert run.stderr.strip() == "set()"


def test_every_name_is_there() -> None:
    for name in trio_wsout.__all__:
        assert getattr(trio_wsout, name).__name__
    assert set(trio_wsout.__all__) <= set(dir(trio_wsout))
    assert python("from trio_wsout import *; print(open_output.__name__)") == "open_output"
    assert python("import trio_wsout; print(trio_wsout.errors.__name__)") == "trio_wsout.errors"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        trio_wsout.nothing  # noqa: B018 - asking is the point
