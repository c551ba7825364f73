"""Run by `nox -s wheel` on the installed wheel alone: it works without any extra and without the checkout."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
# The script's own directory is no part of what is installed.
sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() not in {CHECKOUT, CHECKOUT / "tests"}]

import trio  # noqa: E402 - the path comes first
import trio_wsout  # noqa: E402
from trio_wsout.stores.from_config import check_paths  # noqa: E402
from trio_wsout.testing import open_peer  # noqa: E402


async def deliver() -> None:
    config = {"url": "ws://peer.test/events"}
    async with open_peer() as peer:
        async with trio_wsout.open_output(config, open_stream=peer.open_stream) as output:
            receipt = await output.submit({"n": 1})
            await receipt.wait()
        assert peer.messages == ['{"n":1}'], peer.messages


def main() -> None:
    place = Path(trio_wsout.__file__).resolve()
    assert "site-packages" in place.parts, place
    assert CHECKOUT / "trio_wsout" not in place.parents, place
    assert (files("trio_wsout") / "py.typed").is_file()
    for extra in ("cyclopts", "ruamel.yaml", "python_socks", "coredis", "hypothesis"):
        assert find_spec(extra.split(".", maxsplit=1)[0]) is None, (
            f"{extra} is here: nothing is shown about living without"
        )
    trio.run(deliver)
    store = {"mode": "server-output", "server": {"bind": ":0"}, "history": {"store": "redis://h?stream=x"}}
    (problem,) = check_paths(trio_wsout.load_config(store))
    assert "pip install 'trio-wsout[redis]'" in problem.reason, problem
    command = subprocess.run(
        [sys.executable, "-P", "-m", "trio_wsout", "demo"], check=False, capture_output=True, text=True
    )
    assert (command.returncode, "trio-wsout[cli]" in command.stderr) == (2, True), command
    print(f"trio-wsout {version('trio-wsout')} delivers from its wheel, without extras")


main()
