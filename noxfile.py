"""Everything that is checked: `nox` runs the list below in this order, `nox -s NAME` one of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
# The tests of this Python come last, so that their closing line is the last thing printed.
nox.options.sessions = ["lint", "types", "docs", "wheel", "pythons"]

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = [
    line.rsplit(" ")[-1]
    for line in PROJECT["project"]["classifiers"]
    if line.startswith("Programming Language :: Python :: 3.")
]
EXTRAS = ".[cli,proxy,redis,yaml,testing]"
QUICK = "not heavy and not faults"
# Whole files: what a module makes once for its tests may take long. One more than cores: many tests wait for something.
SIDE_BY_SIDE = ["-n", "3", "--dist", "loadfile"]
# Seconds for one test where it may take long: with many more examples, or for the figures of the documentation.
PATIENT = ["--timeout", "7200"]
PURE = "*/trio_wsout/_core/*,*/trio_wsout/config/*"
# What flake8-async has something to say about. It takes a second for 700 lines, and no other file has a finding.
ASYNCHRONOUS = re.compile(r"\b(async|await|trio|anyio|asyncio|BaseException|BaseExceptionGroup)\b")


INSTALLING = re.compile(
    r"^<!-- example: not run: [^\n]* noxfile.py runs it -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def group(name: str) -> list[str]:
    """The requirements of a dependency group, with the groups it includes."""
    found: list[str] = []
    for each in PROJECT["dependency-groups"][name]:
        found += group(each["include-group"]) if isinstance(each, dict) else [each]
    return found


def asynchronous() -> list[str]:
    """The files that flake8-async is asked about."""
    ours = [*Path("trio_wsout").rglob("*.py"), *Path("tests").rglob("*.py"), Path("noxfile.py")]
    return sorted(str(each) for each in ours if ASYNCHRONOUS.search(each.read_text(encoding="utf-8")))


def open_pyenv() -> None:
    """Let pyenv's commands reach every Python that it has, not only the one it is set to."""
    pyenv = shutil.which("pyenv")
    if pyenv is not None and "PYENV_VERSION" not in os.environ:
        answer = subprocess.run([pyenv, "versions", "--bare"], check=False, capture_output=True, text=True)  # noqa: S603
        known = [each for each in answer.stdout.split() if each.rpartition(".")[0] in PYTHONS]
        os.environ["PYENV_VERSION"] = ":".join(sorted(known, key=lambda each: not each.startswith(here())))


def works(python: str) -> bool:
    """Whether this Python is on the machine; a name that only leads nowhere is not."""
    path = shutil.which(f"python{python}")
    if path is None:
        return False
    answer = subprocess.run([path, "--version"], check=False, capture_output=True, text=True)  # noqa: S603
    return answer.returncode == 0 and answer.stdout.startswith(f"Python {python}.")


def here() -> str:
    """Version of the Python that runs nox, as `3.11`."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


open_pyenv()


@nox.session
def lint(session: nox.Session) -> None:
    """Style, Trio's rules and the direction of imports."""
    session.install(*group("lint"), "-e", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.log("flake8, for Trio's rules")
    session.run("flake8", *asynchronous(), log=False)  # not a hundred names in the log
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Types, by mypy and by pyright's strict rules."""
    session.install(*group("types"), "-e", EXTRAS)
    session.run("mypy")
    # Without being told, it takes an environment that lies in the clone, such as .venv, for the one to look into.
    session.run("basedpyright", "--level", "error", "--pythonpath", str(Path(session.bin) / "python"))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install(*group("docs"), "-e", EXTRAS)
    with tempfile.TemporaryDirectory() as scratch:
        session.run("sphinx-build", "-W", "--keep-going", "-q", "-d", scratch, "docs", "docs/_build/html")


@nox.session
def tables(session: nox.Session) -> None:
    """Write anew what the documentation takes from the code; a test finds what is stale."""
    session.install("-e", EXTRAS)
    session.run("python", "docs/write_tables.py")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it into an empty environment, and look that it works without any extra."""
    with tempfile.TemporaryDirectory() as scratch:
        session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", scratch, ".")
        (built,) = Path(scratch).glob("*.whl")
        session.install("--force-reinstall", "--no-deps", str(built))
        session.install(str(built))
        session.run("python", "tests/smoke_wheel.py")
        # What the page about installing says, each block in a project of its own beside this checkout.
        (Path(scratch) / "trio_wsout").symlink_to(Path.cwd())
        for number, block in enumerate(INSTALLING.findall(Path("docs/how-to/install.md").read_text("utf-8"))):
            (project := Path(scratch) / f"project {number}").mkdir()
            with session.chdir(project):
                session.run("bash", "-euc", block, external=True, silent=True)
                session.run("bash", "-euc", ". .venv/bin/activate && trio-wsout --version", external=True)


@nox.session(venv_backend="none")
def pythons(session: nox.Session) -> None:
    """Queue the tests for every supported Python of this machine, this one last; say which are not there.

    The heavy ones, which ask what strangers and networks do more than what a Python does, run on this one only.
    """
    for python in PYTHONS:
        if python == here():
            continue
        if works(python):
            session.notify(f"tests-{python}", ["-m", QUICK, *SIDE_BY_SIDE])
        else:
            session.warn(f"Python {python} is not on this machine: skipped")
    session.notify("heavy")
    session.notify("coverage")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests on one Python: `nox -s tests-3.12 -- -k backoff`."""
    session.install(*group("tests"), EXTRAS)
    # Not `python -m pytest`: what is installed is tested, not what lies here.
    session.run("pytest", "-q", *session.posargs)


@nox.session
def heavy(session: nox.Session) -> None:
    """The heavy tests, and those that break things, on this Python; what is covered does not depend on them."""
    session.install(*group("tests"), "-e", EXTRAS)
    session.run("pytest", "-q", "-m", "heavy or faults", *SIDE_BY_SIDE, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The quick tests on this Python, measured: 100 % of the pure parts, 95 % of everything."""
    session.install(*group("tests"), "-e", EXTRAS)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-q", "-m", QUICK, *SIDE_BY_SIDE, *session.posargs)
    # Quiet when all is well, so that pytest's closing line stays the last of the tests.
    session.run("coverage", "combine", "-q", silent=True)
    session.run("coverage", "report", "--include", PURE, "--fail-under", "100", silent=True)
    session.run("coverage", "report", "--fail-under", "95", silent=True)


@nox.session
def oldest(session: nox.Session) -> None:
    """The tests with the oldest dependencies that pyproject.toml allows."""
    extras = PROJECT["project"]["optional-dependencies"]
    allowed = [*PROJECT["project"]["dependencies"], *extras["cli"], *extras["proxy"]]
    session.install(*group("tests"), EXTRAS, *sorted({each.replace(">=", "==") for each in allowed}))
    session.run("pytest", "-q", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """What breaks on the way: prints the figures of the documentation, and takes its time; `-- -k soak` for some."""
    session.install(*group("tests"), "-e", EXTRAS)
    chosen = [] if any(each.startswith(("-m", "tests")) for each in session.posargs) else ["-m", "faults"]
    session.run("pytest", "-q", *PATIENT, *chosen, *session.posargs, env={"FAULTS": "long"})
    if not session.posargs:
        session.run("python", "tests/bench/reconnect.py")
        session.run("python", "tests/bench/reconnect.py", "--pace", "0")


@nox.session
def deep(session: nox.Session) -> None:
    """Every property with many more examples; takes its time."""
    session.install(*group("tests"), "-e", EXTRAS)
    session.run("pytest", "-q", *PATIENT, *session.posargs, env={"HYPOTHESIS_PROFILE": "deep"})


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks against the peers, in one run, as ratios."""
    session.install(*group("bench"), "-e", EXTRAS)
    session.run("python", "tests/bench/bench.py", *session.posargs)
