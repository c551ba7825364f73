"""Hypothesis profiles, and the figures that runs print for whoever reads the log."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# dev: what a developer waits for; ci: the same examples every time; deep: on demand, for hours of doubt.
# Whether the machine is slow is nobody's fault in any of them.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", patient)
settings.register_profile("ci", patient, derandomize=True, print_blob=True)
settings.register_profile("deep", patient, max_examples=2000, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_configure() -> None:
    """Refuse to test another checkout's package; let started commands hear signals, also under nohup or behind `&`."""
    package = find_spec("trio_wsout")
    if package is None or package.origin is None:
        raise pytest.UsageError(f"trio_wsout is not installed for {sys.executable}")
    checkout = Path(package.origin).parents[1]
    if (checkout / "pyproject.toml").exists() and not checkout.samefile(ROOT):
        raise pytest.UsageError(
            f"these are the tests of {ROOT}, but {sys.executable} has the package of {checkout} installed"
        )
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Know the settings of pytest-timeout also where it is not installed, so that the tests run there, unguarded."""
    if not pluginmanager.hasplugin("timeout"):
        for name in ("timeout", "timeout_method"):
            parser.addini(name, "pytest-timeout is not installed")


AGAIN = 30.0
"""Seconds until a test that hangs, and did not end when it was told to, is ended by force."""


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(settings: Any) -> bool:
    """Have a test that hangs fail by trio's own means where it hangs in trio, so that the tests behind it can run.

    A failure raised where the signal finds it, which is in trio's loop mostly, would leave trio in the middle of a run.
    """
    told: trio.lowlevel.TrioToken | None = None

    def fail() -> None:
        pytest.fail(f"it hung: not over after {settings.timeout:g} s")

    def stop(*_: object) -> None:
        nonlocal told
        try:
            token = trio.lowlevel.current_trio_token()
        except RuntimeError:
            fail()
        if token is told:
            fail()
        told = token
        token.run_sync_soon(fail)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, AGAIN)
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_cancel_timer() -> bool:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return True


class Figures:
    """What runs measured, a line each, in the order in which it was noted. Called with a text, it notes it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        self.lines.append(text)

    def print(self, reporter: pytest.TerminalReporter) -> None:
        """Print what was noted under a heading; nothing, if nothing was."""
        if self.lines:
            reporter.section("figures")
        for line in self.lines:
            reporter.write_line(line)


FIGURES_KEY = "trio_wsout figures"
FIGURES = pytest.StashKey[Figures]()


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Called with a text, it notes one line for the end of pytest's summary."""
    return pytestconfig.stash.setdefault(FIGURES, Figures())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the figures to the process that prints, where tests run in several (pytest-xdist)."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[FIGURES_KEY] = session.config.stash.get(FIGURES, Figures()).lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process with tests measured."""
    noted = node.config.stash.setdefault(FIGURES, Figures())
    for line in getattr(node, "workeroutput", {}).get(FIGURES_KEY, []):
        noted(line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    config.stash.get(FIGURES, Figures()).print(terminalreporter)
