"""What every test can have: a seed that the run prints, the two scales, and a broker where the folder's tests need one.

Without RabbitMQ the tests that need it are skipped, and the end of the run says so; with CI=true they fail instead.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rabbit.installation import missing_broker

pytest_plugins = ["tests.rabbit.fixtures"]

TESTS = Path(__file__).parent
NEED_A_BROKER = frozenset({"broker", "chaos"})
_SEED = pytest.StashKey[int]()
_NOT_RUN = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mxworker")
    group.addoption("--seed", type=int, help="seed of random faults and inputs; default: a random one, see the header")
    group.addoption("--full", action="store_true", help="run guarantee tests in full, not at a tenth of their size")


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--seed")
    config.stash[_SEED] = random.SystemRandom().randrange(2**32) if given is None else given


def pytest_report_header(config: pytest.Config) -> str:
    scale = "full" if config.getoption("--full") else "a tenth (--full for all)"
    return f"mxworker: --seed={config.stash[_SEED]}, scale: {scale}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("CI") == "true":
        return  # the fixtures then fail, which is what a CI without a broker deserves
    missing = missing_broker()
    if missing is None:
        return
    needy = [item for item in items if item.path.relative_to(TESTS).parts[0] in NEED_A_BROKER]
    for item in needy:
        item.add_marker(pytest.mark.skip(reason=missing))
    config.stash[_NOT_RUN] = len(needy)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    not_run = config.stash.get(_NOT_RUN, 0)
    if not_run:
        terminalreporter.section("RabbitMQ is missing", sep="!", red=True)
        terminalreporter.line(f"{not_run} tests that need a broker were NOT run. {missing_broker()}")


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
