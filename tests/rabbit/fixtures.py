"""The fixtures that lend tests a broker. Loaded for all of `tests` by its conftest; nothing starts until a test asks.

`broker_url` is for tests that do no damage: they share one private node, or use the broker that
MXWORKER_TEST_BROKER_URL names. `node` is that shared node itself (rabbitmqctl, log), `own_node` makes nodes that a test
may kill, configure and restart.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mxworker.api.retry_policy import DEFAULT_RETRY
from mxworker.devbroker.process import BrokerProcess, start_broker
from tests.harness.retries import FAST
from tests.rabbit.client import Client
from tests.rabbit.installation import OWN_BROKER, is_embedded
from tests.rabbit.node import Node


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The private node that tests share. Do not stop, kill or configure it."""
    need_nodes()
    shared = Node(tmp_path_factory.mktemp("node"))
    try:
        shared.start()
        yield shared
    finally:
        _remove(shared)
    failures = shared.precondition_failures()
    assert not failures, (
        "The broker logged PRECONDITION_FAILED (a double or stale settlement, or a changed queue) that no test "
        "announced with node.expect_precondition_failed():\n" + "\n".join(failures)
    )


@pytest.fixture(scope="session")
def broker_url(request: pytest.FixtureRequest) -> str:
    """The URL of a broker that is up; what it holds belongs to other tests too."""
    named = os.environ.get(OWN_BROKER)
    if named:
        return named
    shared: Node | BrokerProcess = request.getfixturevalue("embedded" if is_embedded() else "node")
    return shared.url


@pytest.fixture(scope="session")
def embedded() -> Iterator[BrokerProcess]:
    """The embedded broker that tests share."""
    with start_broker() as shared:
        yield shared


@pytest.fixture(scope="session")
def worker_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL for another user of the shared node than the publisher of originals; the embedded broker has one user."""
    if is_embedded():
        yield request.getfixturevalue("broker_url")
        return
    node: Node = request.getfixturevalue("node")
    with node.user() as url:
        yield url


@pytest.fixture
def admin(broker_url: str) -> Iterator[Client]:
    """A plain client of the shared broker, independent of mxworker."""
    with Client(broker_url) as client:
        yield client


@pytest.fixture
def queue_name(broker_url: str) -> Iterator[str]:
    """A queue name that nobody else uses. The queue and those beside it are deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    with Client(broker_url) as client:
        for beside in (
            "",
            ".dlq",
            ".quarantine",
            *(f".retry.{step_ms}" for step_ms in (*DEFAULT_RETRY.steps_ms, *FAST.steps_ms)),
        ):
            client.delete(f"{name}{beside}")


@pytest.fixture
def own_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Node]]:
    """Make nodes of the test's own: `own_node(config="...", ...)` takes what `Node` takes, and starts it.

    They end with the test; their logs stay in the test run's temporary folder.
    """
    need_nodes()
    nodes: list[Node] = []

    def make(**parameters: Any) -> Node:
        made = Node(tmp_path_factory.mktemp("own-node"), **parameters)
        nodes.append(made)
        made.start()
        return made

    yield make
    for made in nodes:
        _remove(made, crash=True)


def need_nodes() -> None:
    """Skip the test in a run whose broker is not a private node of ours."""
    if os.environ.get(OWN_BROKER):
        pytest.skip(f"needs a private node, but {OWN_BROKER} names a broker")
    if is_embedded():
        pytest.skip("needs a private node of RabbitMQ")


def _remove(node: Node, *, crash: bool = False) -> None:
    """End `node` and delete all of it but its logs."""
    if crash:
        node.kill()  # nobody needs its data; an orderly stop takes a second
    else:
        node.stop()
    shutil.rmtree(node.data / "mnesia", ignore_errors=True)
