"""Each mistake that `mxworker check` finds in code and settings, and what is close to it and none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mxworker import Handlers, Queue
from mxworker.api.handlers import compile_handlers
from mxworker.brokers import Brokers
from mxworker.cli.check.findings import Finding, Level
from mxworker.cli.check.lints import NOT_ASKED, broker_lints, lints

RABBIT_3, RABBIT_4, RABBIT_43 = "RabbitMQ 3.10.8", "RabbitMQ 4.0.5", "RabbitMQ 4.3.0"
LIMIT = 2**31 - 1


def found(
    queue: Queue,
    server: str | None = None,
    known: Mapping[str, Mapping[str, Any]] = NOT_ASKED,
    **options: Any,
) -> list[Finding]:
    handlers = Handlers()
    handlers.consume(queue, **options)(_order)
    return list(lints(compile_handlers(handlers), (), server, known))


async def _order(payload: dict[str, Any]) -> None: ...


def names(findings: list[Finding]) -> list[tuple[str, Level]]:
    return [(finding.name, finding.level) for finding in findings]


def test_plain_handler_has_no_finding() -> None:
    for server in (None, RABBIT_3, RABBIT_4, RABBIT_43):
        assert found(Queue("orders"), server) == []


@pytest.mark.parametrize(
    ("queue", "level"),
    [
        (Queue("orders", dead_letter=False), Level.ERROR),
        (Queue("orders", dead_letter=False, type="classic"), None),
        (Queue("orders", dead_letter=False, arguments={"x-dead-letter-exchange": "dead"}), None),
        (Queue("orders", dead_letter=False, declare="passive", arguments={"x-delivery-limit": LIMIT}), Level.WARNING),
    ],
)
def test_quorum_queue_without_a_dead_letter_target(queue: Queue, level: Level | None) -> None:
    assert names(found(queue)) == ([("no-dead-letter-target", level)] if level is not None else [])


def test_target_that_the_broker_shows_counts() -> None:
    queue = Queue("orders", dead_letter=False, declare="passive")
    known = {"x-queue-type": "quorum", "x-delivery-limit": 5}
    assert names(found(queue, RABBIT_4, {"orders": known})) == [("no-dead-letter-target", Level.WARNING)]
    assert found(queue, RABBIT_4, {"orders": {**known, "x-dead-letter-exchange": "dead"}}) == []


def test_messages_that_wait_longer_than_the_consumer_timeout() -> None:
    (finding,) = found(Queue("orders"), timeout=1000.0, concurrency=10, prefetch=20)
    assert names([finding]) == [("consumer-timeout", Level.WARNING)]
    assert "33.333m" in finding.text or "2000s" in finding.text
    assert "prefetch=10 " in finding.remedy
    assert found(Queue("orders"), timeout=1000.0, concurrency=10, prefetch=10) == []
    allowed = Queue("orders", arguments={"x-consumer-timeout": 7_200_000})
    assert found(allowed, timeout=1000.0, concurrency=10, prefetch=20) == []


@pytest.mark.parametrize(
    ("server", "level"), [(None, Level.WARNING), (RABBIT_4, Level.WARNING), (RABBIT_43, Level.ERROR)]
)
def test_handler_that_may_run_longer_than_the_consumer_timeout(server: str | None, level: Level) -> None:
    assert names(found(Queue("orders"), server, timeout=1800.0, prefetch=32)) == [("endless-redelivery", level)]


def test_prefetch_above_concurrency_with_priorities() -> None:
    queue = Queue("orders", type="classic", max_priority=5)
    (finding,) = found(queue, concurrency=4, prefetch=6)
    assert finding.name == "priority-prefetch"
    assert "prefetches 2 more" in finding.text
    assert found(queue, concurrency=4, prefetch=4) == []
    assert found(Queue("orders"), concurrency=4, prefetch=6) == []


@pytest.mark.parametrize(
    ("arguments", "server", "level"),
    [
        ({"x-ha-policy": "all"}, None, Level.WARNING),
        ({"x-queue-mode": "lazy"}, RABBIT_3, Level.WARNING),
        ({"x-queue-mode": "lazy"}, RABBIT_43, Level.ERROR),
        ({"x-queue-version": 1}, None, Level.WARNING),
        ({"x-queue-version": 2}, None, None),
    ],
)
def test_arguments_of_old_brokers(arguments: dict[str, Any], server: str | None, level: Level | None) -> None:
    findings = found(Queue("orders", type="classic", arguments=arguments), server)
    assert names(findings) == ([("removed-argument", level)] if level is not None else [])


@pytest.mark.parametrize("declare", ["passive", "off"])
def test_limit_of_a_queue_of_others(declare: Any) -> None:
    queue = Queue("orders", declare=declare)
    expected = [("delivery-limit-unknown", Level.WARNING)]
    assert names(found(queue)) == names(found(queue, RABBIT_4)) == expected
    assert found(queue, RABBIT_3) == []
    assert names(found(queue, RABBIT_4, {"orders": {"x-queue-type": "quorum"}})) == expected
    assert found(queue, RABBIT_4, {"orders": {"x-queue-type": "quorum", "x-delivery-limit": 100}}) == []
    assert found(queue, RABBIT_4, {"orders": {}}) == []  # a classic one
    assert found(Queue("orders", declare=declare, arguments={"x-delivery-limit": LIMIT})) == []


def test_way_to_the_broker() -> None:
    exposed = Brokers.parse(["amqp://user:secret@rabbit.example/"])
    assert [each.name for each in broker_lints(exposed, is_password_typed=True)] == [
        "plain-text-broker",
        "password-on-command-line",
    ]
    for url in ("amqp://user:secret@localhost/", "amqps://user:secret@rabbit.example/"):
        assert list(broker_lints(Brokers.parse([url]), is_password_typed=False)) == []
    assert "secret" not in "".join(map(repr, broker_lints(exposed, is_password_typed=True)))
