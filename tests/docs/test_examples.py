"""Every fenced block of README and docs is executed, loaded or compared; none is only looked at.

A page is one story: its blocks run in order, in one directory, beside one real WebSocket server
that the page knows as 127.0.0.1:8765 (the port is exchanged for a free one). What a block is for is
told by its language and by a comment line before it, `<!-- example: WORD …; WORD … -->`:

    file NAME        the block is this file; not run by itself
    output           (text) what the command or program before it printed
    arrived          (text) the messages that the server has, one a line
    background       (sh) keep it running until the page ends; it is the server on the port
    background output  (text) what that printed so far
    exits N          (sh, python) it must end with this code
    context N=V      (yaml, toml, json) it loads with this value for {{N}}
    wrong            (yaml, toml, json) it must be refused; otherwise it must load
    not run: REASON  only in README, for what .ci/run itself is
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio_wsout
from attrs import define, field, frozen
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(each for each in DOCS.rglob("*.md") if "_build" not in each.parts)]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>example: .*?|test-command) -->\n)?^(?P<fence>```+)(?P<language>\S*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
PORT = "8765"
PATIENCE = 60


@frozen
class Block:
    language: str
    marks: tuple[str, ...]
    text: str
    line: int

    def marked(self, word: str) -> str | None:
        """What follows the word in the block's comment; None: it is not there."""
        found = [each for each in self.marks if each.split(" ")[0] == word or each == word]
        return found[0].removeprefix(word).strip() if found else None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        mark = (found["mark"] or "").removeprefix("example: ")
        marks = tuple(each.strip() for each in mark.split(";") if each)
        yield Block(found["language"], marks, found["text"], text.count("\n", 0, found.start("fence")) + 1)


@define
class Endpoint:
    """The server of one page."""

    port: int
    messages: list[str] = field(factory=list)

    def handle(self, connection) -> None:
        try:
            for message in connection:
                self.messages.append(message if isinstance(message, str) else message.hex())
        except ConnectionClosed:
            pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint(0)
    with serve(found.handle, "127.0.0.1", 0) as server:
        found.port = server.socket.getsockname()[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
    thread.join(PATIENCE)


class Story:
    """A page while it is told."""

    def __init__(self, directory: Path, endpoint: Endpoint, *, own_server: bool) -> None:
        self.directory = directory
        self.endpoint = endpoint
        self.port = str(free_port() if own_server else endpoint.port)
        self.printed = ""
        self.background: subprocess.Popen[str] | None = None
        self.background_printed: list[str] = []
        tools = directory / ".tools"
        tools.mkdir()
        for name, module in {"trio-wsout": "trio_wsout", "pytest": "pytest", "python": ""}.items():
            tool = tools / name
            run = f"{shlex.quote(sys.executable)} {f'-m {module}' if module else ''}"
            tool.write_text(f'#!/bin/sh\nexec {run} "$@"\n')
            tool.chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "HOME": str(directory),
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }

    def tell(self, block: Block) -> None:
        """Do what a block is for."""
        text = block.text.replace(PORT, self.port)
        name = block.marked("file")
        if name is not None:
            (self.directory / name).write_text(text, encoding="utf-8")
        match block.language:
            case "python" if name is None:
                self.run([sys.executable, "-c", text], block)
            case "python":
                compile(text, name, "exec")
            case "sh" if block.marked("background") is not None:
                self.start(text)
            case "sh":
                self.run(["bash", "-euo", "pipefail", "-c", text], block)
            case "yaml" | "toml" | "json":
                self.load(text, block)
            case "text":
                self.compare(block)
            case "mermaid":
                pass  # tests/docs/test_tables.py compares it with the code
            case directive if directive.startswith("{"):
                pass  # Sphinx's own, and the docs session takes no warning
            case other:
                pytest.fail(f"nobody knows what to do with a block of {other or 'no language'}")

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
        self.printed = done.stdout.replace(self.port, PORT)
        assert done.returncode == int(block.marked("exits") or 0), self.printed

    def start(self, text: str) -> None:
        self.background = subprocess.Popen(
            ["bash", "-c", f"exec {text.strip()}"],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self.listen, args=(self.background.stdout,)).start()
        # Its first line says that it is there.
        self.wait_for(lambda: self.background_printed)

    def listen(self, stream) -> None:
        with stream:
            for line in stream:
                self.background_printed.append(line.replace(self.port, PORT))

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
        if block.marked("background") is not None:
            self.wait_for(lambda: "".join(self.background_printed) == block.text)
            assert "".join(self.background_printed) == block.text
        elif block.marked("output") is not None:
            # … stands for what is not this project's to say.
            pattern = re.escape(block.text).replace("…", ".*")
            assert re.fullmatch(pattern, self.printed), self.printed
        elif block.marked("arrived") is not None:
            arrived = block.text.splitlines()
            self.wait_for(lambda: self.endpoint.messages == arrived)
            assert self.endpoint.messages == arrived
        else:
            assert block.marked("file") is not None or not block.marks

    def wait_for(self, there) -> None:
        end = time.monotonic() + PATIENCE / 4
        while not there() and time.monotonic() < end:
            time.sleep(0.01)

    def end(self) -> None:
        if self.background is not None:
            self.background.kill()
            self.background.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.network
@pytest.mark.heavy
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_is_so(page: Path, tmp_path: Path, endpoint: Endpoint) -> None:
    told = list(blocks(page))
    story = Story(tmp_path, endpoint, own_server=any(each.marked("background") is not None for each in told))
    try:
        for block in told:
            if block.marks == ("test-command",) or block.marked("not") is not None:
                assert page.name == "README.md"
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
