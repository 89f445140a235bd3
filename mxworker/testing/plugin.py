"""The pytest plugin: the fixture `mx_broker`, and the option that names a RabbitMQ for it.

It imports what it needs when a test asks for the fixture. All its names begin with `mx`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mxworker.testing.brokers_under_test import FarEnd
    from mxworker.testing.end_to_end import BrokerUnderTest

URL = "MX_BROKER_URL"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("mxworker").addoption(
        "--mx-broker-url",
        metavar="URL",
        help=f"the RabbitMQ that the fixture mx_broker uses, also {URL}; default: the embedded broker",
    )


@pytest.hookimpl(hookwrapper=True)  # which older versions of pytest have, too
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Tell the broker of a test that has failed."""
    outcome = yield
    broker: BrokerUnderTest | None = getattr(item, "funcargs", {}).get("mx_broker")
    if broker is not None and outcome.get_result().failed:
        broker.has_failed = True


@pytest.fixture(scope="session")
def mx_far_end(pytestconfig: pytest.Config) -> Iterator[Callable[[Any], FarEnd]]:
    """Yield the function that makes the far end of a test. The embedded broker runs once for the session."""
    from mxworker.devbroker.process import start_broker
    from mxworker.testing.brokers_under_test import EmbeddedFarEnd, RabbitFarEnd

    url = pytestconfig.getoption("--mx-broker-url") or os.environ.get(URL)
    if url:
        yield lambda client: RabbitFarEnd(url, client)
        return
    with start_broker(is_for_tests=True) as broker, broker.control() as control:
        yield lambda client: EmbeddedFarEnd(broker, control)


@pytest.fixture
def mx_broker(
    mx_far_end: Callable[[Any], FarEnd], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerUnderTest]:
    """Yield a broker for an end-to-end test, which runs services in real processes. See docs/testing.md."""
    from mxworker.testing.end_to_end import BrokerUnderTest

    folder: Path = tmp_path_factory.mktemp("mx_broker")
    broker = BrokerUnderTest(mx_far_end, folder)
    yield broker
    broker.finish(is_checked=not broker.has_failed)
