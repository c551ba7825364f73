"""The list of which test file guards which module is complete, and names nothing that is not there."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "trio_wsout"
GUARDS: dict[str, dict[str, list[str]]] = tomllib.loads((TESTS / "guards.toml").read_text(encoding="utf-8"))
LISTED = {name for modules in GUARDS.values() for files in modules.values() for name in files}


def holds_code(module: Path) -> bool:
    """Whether there is more in it than a docstring."""
    body = ast.parse(module.read_text(encoding="utf-8")).body
    return any(not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)) for each in body)


def test_every_module_is_guarded() -> None:
    there = {
        (PACKAGE.name if module.parent == PACKAGE else module.parent.name, module.stem)
        for module in PACKAGE.rglob("*.py")
        if holds_code(module)
    }
    listed = {(folder, name) for folder, modules in GUARDS.items() if folder != "others" for name in modules}
    assert (there - listed, listed - there) == (set(), set()), (
        "guards.toml lacks the first, and the second are gone"
    )
    for modules in GUARDS.values():
        for name, files in modules.items():
            assert files, f"{name} is guarded by nothing"
            assert len(files) == len(set(files)), f"{name} names a file twice"


def test_every_test_file_guards_something() -> None:
    there = {
        path.relative_to(TESTS).as_posix()
        for path in TESTS.rglob("*.py")
        if path.stem.startswith(("test_", "smoke_"))
    }
    assert (there - LISTED, LISTED - there) == (set(), set()), (
        "guards.toml lacks the first, and the second are gone"
    )


@pytest.mark.parametrize(
    "folder",
    [("_core", "core"), ("_wire", "wire"), ("_tasks", "tasks"), ("config", "config"), ("testing", "testing")],
)
def test_a_test_file_that_has_the_name_of_a_module_guards_it(folder: tuple[str, str]) -> None:
    modules = GUARDS[folder[0]]
    for path in (TESTS / folder[1]).glob("test_*.py"):
        name = path.stem.removeprefix("test_")
        if name in modules:
            assert modules[name][0] == f"{folder[1]}/{path.name}"
