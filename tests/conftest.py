"""What every test can have: a seed that the run prints, the two scales, and a broker where the folder's tests need one.

Without RabbitMQ the tests that need it are skipped, and the end of the run says so; with CI=true they fail instead.

A run may have several processes (pytest-xdist). They share its seed, and each has a shared broker of its own.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.harness import chromium
from tests.rabbit.installation import OWN_BROKER, WANTED, broker, missing_broker

pytest_plugins = ["tests.rabbit.fixtures", "pytester"]

# Hypothesis takes an example of 0.2 s for a fault; with the machine busy, any of them may take that.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it to what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that Ctrl-C means to our children what it should

TESTS = Path(__file__).parent
NEED_A_BROKER = frozenset({"broker", "chaos"})
_SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mxworker")
    group.addoption("--seed", type=int, help="seed of random faults and inputs; default: a random one, see the header")
    group.addoption(
        "--broker",
        metavar="MAJOR",
        help="RabbitMQ's major version (3, 4), or embedded; default: the installed RabbitMQ",
    )
    group.addoption("--full", action="store_true", help="run guarantee tests in full, not at a tenth of their size")


def pytest_configure(config: pytest.Config) -> None:
    if wanted := config.getoption("--broker"):
        os.environ[WANTED] = wanted
    if os.environ.get(WANTED) and os.environ.get(OWN_BROKER):
        raise pytest.UsageError(f"RabbitMQ {os.environ[WANTED]} was asked for, but {OWN_BROKER} names a broker.")
    given = config.getoption("--seed")
    if hasattr(config, "workerinput"):  # one of several processes of the run: its controller has chosen
        given = config.workerinput["seed"]
    config.stash[_SEED] = random.SystemRandom().randrange(2**32) if given is None else given
    config.pluginmanager.register(_FailuresAtOnce(config))


class _FailuresAtOnce:
    """Names each failure as it happens: the whole suite takes a quarter of an hour, and tells the rest at its end."""

    def __init__(self, config: pytest.Config) -> None:
        self._plugins = config.pluginmanager

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._plugins.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\n{'FAILED' if report.when == 'call' else 'ERROR'} {report.nodeid}")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the seed to a process of pytest-xdist before it starts."""
    node.workerinput["seed"] = node.config.stash[_SEED]


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Write what a test printed in characters that pytest-xdist can send: a lone surrogate would end the whole run."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list() | tuple():
            return type(value)(map(_sendable, value))
        case dict():
            return {key: _sendable(item) for key, item in value.items()}
        case _:
            return value


def pytest_report_header(config: pytest.Config) -> str:
    scale = "full" if config.getoption("--full") else "a tenth (--full for all)"
    return f"mxworker: --seed={config.stash[_SEED]}, scale: {scale}, broker: {broker()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CI") == "true" or os.environ.get(WANTED):
        return  # the fixtures then fail, which is what a CI without a broker deserves, or a version that is not there
    missing = missing_broker()
    if missing is None:
        return
    for item in items:
        if item.path.is_relative_to(TESTS) and item.path.relative_to(TESTS).parts[0] in NEED_A_BROKER:
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector what collecting the tests makes.

    Each look through it takes up to a second of CPU, and stops a test for half a minute on a busy machine, which is
    longer than its heartbeats.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were not run, and where pictures are.

    Only the reports tell it: in a run of several processes we collect nothing.
    """
    reports = terminalreporter.getreports("skipped")
    for what, missing in (("RabbitMQ", missing_broker()), ("Chromium", chromium.MISSING)):
        not_run = sum(report.longrepr[2] == f"Skipped: {missing}" for report in reports)
        if not_run:
            terminalreporter.section(f"{what} is missing", sep="!", red=True)
            terminalreporter.line(f"{not_run} tests that need it were NOT run. {missing}")
    passed = terminalreporter.getreports("passed")
    for folder in dict.fromkeys(
        value for report in passed for name, value in report.user_properties if name == "screenshots"
    ):
        terminalreporter.line(f"screenshots: {folder}")


@pytest.fixture(autouse=True)
def _level_of_the_log() -> Iterator[None]:
    """Leave the log as it was: a command that is refused sets it up, so that its error is a line of the log."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """The seed of this run, printed in its header; `--seed` repeats it."""
    return pytestconfig.stash[_SEED]


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the run's seed and the test's name alone, not on which tests ran before."""
    return random.Random(f"{seed}:{request.node.nodeid}")


@pytest.fixture
def scale(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """`scale(small, full)`: `full` under --full, otherwise `small`."""
    full_wanted = bool(pytestconfig.getoption("--full"))
    return lambda small, full: full if full_wanted else small
