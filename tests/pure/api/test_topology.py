"""The queues that a consumed queue needs: which, in which order, and what is done about each."""

from __future__ import annotations

import pytest

from mxworker.api.queues import Queue
from mxworker.api.topology import declarations, quarantine

LIMIT = {"x-delivery-limit": 2**31 - 1}
KEPT = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


def test_arguments_are_frozen() -> None:
    dead, work, retry = declarations(Queue("orders"), (5000,))
    assert (dead.name, dead.role, dict(dead.arguments)) == (
        "orders.dlq",
        "dead-letter",
        {"x-queue-type": "quorum", **LIMIT},
    )
    assert (work.name, work.role, dict(work.arguments)) == (
        "orders",
        "work",
        {
            "x-queue-type": "quorum",
            **LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "orders.dlq",
            **KEPT,
        },
    )
    assert (retry.name, retry.role, dict(retry.arguments)) == (
        "orders.retry.5000",
        "retry",
        {
            "x-queue-type": "quorum",
            "x-message-ttl": 5000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "orders",
            **KEPT,
            **LIMIT,
        },
    )


def test_dead_letter_queue_comes_first() -> None:
    names = [each.name for each in declarations(Queue("orders"), (1000, 5000))]
    assert names == ["orders.dlq", "orders", "orders.retry.1000", "orders.retry.5000"]
    assert [each.name for each in declarations(Queue("orders", dead_letter=False))] == ["orders"]


@pytest.mark.parametrize("declare", ["ensure", "passive", "off"])
def test_queue_is_declared_as_it_says(declare: str) -> None:
    queue = Queue("orders", declare=declare)  # type: ignore[arg-type]
    (work,) = (each for each in declarations(queue, (1000,)) if each.role == "work")
    assert work.declare == declare
    assert quarantine(queue).name == "orders.quarantine"
