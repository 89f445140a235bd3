"""Fixtures of the tests that publish."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rabbit.client import Client


@pytest.fixture
def output(queue_name: str, admin: Client) -> Iterator[str]:
    """A queue to publish to."""
    name = f"{queue_name}.out"
    admin.declare(name)
    yield name
    admin.delete(name)
