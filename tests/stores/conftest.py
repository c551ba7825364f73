"""A disk that is soon full, for what is kept on one."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path, None, None]:
    """A directory on a disk of half a megabyte of its own; skipped where none can be made."""
    try:
        mount(tmp_path, "size=512k")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted: {error}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture
def remount(small_disk: Path) -> Callable[[str], None]:
    """Call it with options: the small disk has them from now on (`ro`, `size=4m`)."""
    return lambda options: mount(small_disk, f"remount,{options}")
