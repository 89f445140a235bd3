"""What tests on a broker share beside the broker: queues of their own that are deleted afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.apps import Recorded
from tests.rabbit.client import Client

KINDS = ("async", "def", "cpu", "batch")


@pytest.fixture
def output(queue_name: str, admin: Client) -> Iterator[str]:
    """A queue to publish to."""
    name = f"{queue_name}.out"
    admin.declare(name)
    yield name
    admin.delete(name)


@pytest.fixture
def queues(queue_name: str, admin: Client) -> Iterator[str]:
    """What the names of an app's queues begin with, one queue for each kind of handler: `NAME.async`, `NAME.def` ..."""
    yield queue_name
    for kind in KINDS:
        admin.delete(f"{queue_name}.{kind}")
        admin.delete(f"{queue_name}.{kind}.dlq")


@pytest.fixture
def recorded(broker_url: str, queue_name: str, tmp_path: Path) -> Recorded:
    """A quorum queue that is declared, and the ledger of what handlers do with its messages."""
    declared = Recorded(broker_url, tmp_path, queue_name)
    declared.declare()
    return declared
