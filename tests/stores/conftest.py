"""A small disk for stores to fill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

# What several test modules share lies beside them: pytest's importlib mode puts no folder on the path.
sys.path.insert(0, str(Path(__file__).parent))
from disks import mount


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path, None, None]:
    try:
        mount(tmp_path, "size=256k")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted: {error}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)
