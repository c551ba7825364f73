"""What is published: the wheel's contents, the version, the public names, the README's two commands."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
import trio_wsout

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_its_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as history_journal:
        names = {name for name in history_journal.namelist() if ".dist-info/" not in name}
    package = {
        each.relative_to(ROOT).as_posix()
        for each in (ROOT / "trio_wsout").rglob("*")
        if each.is_file() and each.suffix != ".pyc"
    }
    assert "trio_wsout/py.typed" in names
    assert names == package


def test_the_wheel_names_its_version_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as history_journal:
        texts = {
            Path(name).name: history_journal.read(name)
            for name in history_journal.namelist()
            if ".dist-info/" in name
        }
    assert f"Version: {PROJECT['project']['version']}\n".encode() in texts["METADATA"]
    assert b"License-Expression: MIT\n" in texts["METADATA"]
    assert b"MIT License" in texts["LICENSE"]
    assert b"trio-wsout = trio_wsout.cli:main" in texts["entry_points.txt"]


def test_the_version_that_is_installed_is_the_projects() -> None:
    assert version("trio-wsout") == PROJECT["project"]["version"]


def test_the_changelog_tells_of_this_version_or_of_what_is_unreleased() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[?(Unreleased|\d+\.\d+\.\d+)\]?", changelog, re.MULTILINE)
    assert headings
    assert headings[0] in {"Unreleased", PROJECT["project"]["version"]}


def test_the_command_is_there() -> None:
    (found,) = entry_points(group="console_scripts", name="trio-wsout")
    assert callable(found.load())


def test_public_names_are_listed_sorted_and_documented() -> None:
    assert trio_wsout.__all__ == sorted(trio_wsout.__all__)
    for name in trio_wsout.__all__:
        assert getattr(trio_wsout, name).__doc__, name


def test_every_public_name_has_its_place_in_the_reference() -> None:
    reference = "".join(
        page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md")
    )
    documented = set(
        re.findall(r"^<!-- from code: (?:class|function) trio_wsout\.(\w+)\b(?!\.)", reference, re.MULTILINE)
    )
    assert documented == set(trio_wsout.__all__)


MODULES = sorted((ROOT / "trio_wsout").rglob("*.py"))


PUBLIC = ("__init__", "errors", "output", "config/__init__", "config/sections", "stores/", "testing/")
"""Modules that applications import. In all others a name without an underscore is the module's own, and no list says it again."""


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_says_what_it_is_lists_its_public_names_and_stays_small(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 600
    if tree.body:
        assert ast.get_docstring(tree), "no docstring"
    targets = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    defines = any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree.body
    )
    is_public = module.relative_to(ROOT / "trio_wsout").as_posix().startswith(PUBLIC)
    assert "__all__" in targets or not (defines and is_public)


def readme_commands() -> list[str]:
    """The two lines to paste: what it does, and its tests."""
    return [line for line in re.findall(r"^```sh\n(.*)\n```$", README, re.MULTILINE) if "-m venv" in line]


def test_each_of_the_readmes_commands_is_one_line_and_comes_first() -> None:
    blocks = re.findall(r"^```sh\n(.*?)```$", README, re.MULTILINE | re.DOTALL)
    assert [block.rstrip("\n") for block in blocks[:2]] == readme_commands()
    demo, tests = readme_commands()
    assert demo.startswith("python3 -m venv .venv && ")
    assert demo.endswith("trio-wsout demo")
    assert tests.startswith("python3 -m venv .venv-ci && ")
    assert tests.endswith("nox")


def test_the_first_command_ends_with_events_that_arrived() -> None:
    demo, _ = readme_commands()
    step = demo.split(" && ")[-1].split(" ")[1:]
    done = subprocess.run(
        [sys.executable, "-m", "trio_wsout", *step], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every client has every event once, in order." in done.stdout


def test_ci_runs_the_readmes_commands_in_a_path_with_a_space(tmp_path: Path) -> None:
    """.ci/run, with stand-ins for what the commands call, in a checkout that has environments of its own already."""
    checkout = tmp_path / "a path"
    (checkout / ".ci").mkdir(parents=True)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    for name in (".ci/run", "README.md"):
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    tools = tmp_path / "tools"
    tools.mkdir()
    log, places = tmp_path / "log", tmp_path / "places"
    # The stand-in makes an environment whose tools write down how they were called.
    (tools / "python3").write_text(
        f'#!/bin/sh\necho "python3 $*" >> "{log}"\npwd >> "{places}"\nmkdir "$3" "$3/bin" || exit 1\n'
        f'for tool in python pip nox trio-wsout; do printf \'#!/bin/sh\\necho "%s $*" >> "{log}"\\n\' "$tool" > "$3/bin/$tool"; '
        f'chmod +x "$3/bin/$tool"; done\n'
    )
    (tools / "python3").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(checkout / ".ci" / "run")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("+ ")] == [
        f"+ {command}" for command in readme_commands()
    ]
    called = log.read_text().splitlines()
    steps = [step for command in readme_commands() for step in command.split(" && ")]
    wanted = [re.sub(r"^\S*/", "", step).replace('"', "") for step in steps]
    assert [line.strip() for line in called] == [step.strip() for step in wanted]
    first, second = map(Path, places.read_text().splitlines())
    assert first == second != checkout
    assert " " in first.name
    assert not first.exists(), "it was left behind"
    assert sorted(each.name for each in checkout.iterdir()) == [".ci", ".venv", "README.md"]
