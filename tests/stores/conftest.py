"""A disk that is soon full, for what is kept on one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

# What several test modules share lies beside them: pytest's importlib mode puts no folder on the path.
sys.path.insert(0, str(Path(__file__).parent))
import valkey_server
from disks import mount


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path, None, None]:
    """A directory on a disk of half a megabyte of its own; skipped where none can be made."""
    try:
        mount(tmp_path, "size=512k")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted: {error}")
    yield tmp_path
    # A test that failed may have files open in it.
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.fixture
def remount(small_disk: Path) -> Callable[[str], None]:
    """Call it with options: the small disk has them from now on (`ro`, `size=4m`)."""
    return lambda options: mount(small_disk, f"remount,{options}")


@pytest.fixture(scope="session", autouse=True)
def _end_of_the_server() -> Generator[None, None, None]:
    """The server that tests share ends with them."""
    yield
    valkey_server.stop_server()
