"""What is said of a queue at the broker, in words and as JSON, and which exit code follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mxworker import Queue
from mxworker.amqp.consuming.differences import Difference
from mxworker.amqp.consuming.found import FoundExchange, FoundQueue
from mxworker.cli.check.comparison import (
    Compared,
    binding_findings,
    channel_findings,
    planned,
    queue_findings,
    rights_findings,
)
from mxworker.cli.check.findings import Finding, Level, error, exit_code, warning, without
from mxworker.cli.check.names import NAMES
from mxworker.cli.check.texts import finding_text
from mxworker.errors import ExitCode
from tests.harness.repository import REPOSITORY

PAGE = REPOSITORY / "docs" / "how-to" / "check.md"
THERE = FoundQueue(is_there=True, may_declare=True, is_compared=True)


def compared(queue: Queue, found: FoundQueue, **more: Any) -> Compared:
    (work,) = (each for each in planned(queue, (), is_consumed=True) if each.wanted.role == "work")
    return Compared(queue, work.wanted, is_consumed=True, found=found, **more)


def only(found: list[Finding]) -> tuple[str, Level]:
    (finding,) = found
    return finding.name, finding.level


def test_page_shows_a_finding_as_it_is() -> None:
    queue = Queue("orders", arguments={"x-max-length": 1000})
    difference = Difference("x-max-length", "'500'", "'1000'", 500)
    found = FoundQueue(is_there=True, differences=(difference,), may_declare=True, is_compared=True)
    (finding,) = queue_findings(compared(queue, found))
    assert "\n".join(finding_text(finding)) in PAGE.read_text()  # docs/how-to/check.md


def test_page_lists_every_finding() -> None:
    page = PAGE.read_text()
    assert [name for name in sorted(NAMES) if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize(
    ("queue", "found", "expected"),
    [
        (Queue("orders"), THERE, None),
        (Queue("orders"), FoundQueue(is_there=False, may_declare=True), None),
        (Queue("orders"), FoundQueue(is_there=False, may_declare=False), "may-not-declare"),
        (Queue("orders"), FoundQueue(is_there=True, may_declare=False), "may-not-declare"),
        (Queue("orders"), FoundQueue(is_there=True, trouble="RESOURCE_LOCKED - locked"), "queue-unusable"),
        (Queue("orders", declare="passive"), THERE, None),
        (Queue("orders", declare="passive"), FoundQueue(is_there=True, may_declare=False), None),
        (Queue("orders", declare="passive"), FoundQueue(is_there=False), "queue-missing"),
        (Queue("orders", declare="off"), FoundQueue(is_there=False), "queue-missing"),
    ],
)
def test_errors_about_a_queue(queue: Queue, found: FoundQueue, expected: str | None) -> None:
    findings = list(queue_findings(compared(queue, found)))
    assert [finding.name for finding in findings] == ([expected] if expected is not None else [])


@pytest.mark.parametrize(
    ("role", "difference", "is_error"),
    [
        ("dead-letter", Difference("x-queue-type", "'classic'", "'quorum'", "classic"), False),
        ("retry", Difference("x-message-ttl", "'7'", "'1000'", 7), True),
        ("retry", Difference("x-overflow", "none", "'reject-publish'"), False),
        ("quarantine", Difference("x-max-length", "'7'", "none", 7), False),
    ],
)
def test_queues_beside_one_of_others_are_taken_if_they_work(role: str, difference: Difference, is_error: bool) -> None:
    queue = Queue("orders", declare="passive")
    (beside,) = (each for each in planned(queue, (1000,), is_consumed=True) if each.wanted.role == role)
    found = FoundQueue(is_there=True, differences=(difference,), may_declare=True, is_compared=True)
    findings = list(queue_findings(replace(beside, found=found)))
    assert [finding.name for finding in findings] == (["queue-differs"] if is_error else [])


def test_queue_that_may_not_be_read() -> None:
    assert only(list(queue_findings(compared(Queue("orders"), THERE, may_consume=False)))) == (
        "may-not-consume",
        Level.ERROR,
    )


@pytest.mark.parametrize(
    ("found", "key", "expected"),
    [
        (FoundExchange(is_there=True, type="topic"), "orders.*", None),
        (FoundExchange(is_there=True, type="direct"), "orders.eu", None),
        (FoundExchange(is_there=True), "orders.*", None),
        (FoundExchange(is_there=True, type="direct"), "orders.*", ("binding-pattern", Level.WARNING)),
        (FoundExchange(is_there=True, type="fanout"), "#", ("binding-pattern", Level.WARNING)),
        (FoundExchange(is_there=False), "orders.eu", ("exchange-missing", Level.ERROR)),
        (FoundExchange(is_there=True, trouble="ACCESS_REFUSED"), "orders.eu", ("exchange-unusable", Level.ERROR)),
    ],
)
def test_exchanges_of_bindings(found: FoundExchange, key: str, expected: tuple[str, Level] | None) -> None:
    findings = list(binding_findings(Queue("orders", bind=[("shop", key)]), {"shop": found}))
    assert [(each.name, each.level) for each in findings] == ([expected] if expected is not None else [])


def test_rights_and_channels() -> None:
    assert [each.name for each in rights_findings(may_publish=False, needs_copies=True)] == ["may-not-publish"]
    assert list(rights_findings(may_publish=False, needs_copies=False)) == []
    assert list(rights_findings(may_publish=None, needs_copies=True)) == []
    assert [each.name for each in channel_findings(9, 8)] == ["too-many-channels"]
    assert list(channel_findings(8, 8)) == []


@pytest.mark.parametrize(
    ("findings", "is_strict", "code"),
    [
        ([], False, ExitCode.OK),
        ([warning("consumer-timeout", "", "", "")], False, ExitCode.OK),
        ([warning("consumer-timeout", "", "", "")], True, ExitCode.RUNTIME),
        ([error("no-dead-letter-target", "", "", "")], False, ExitCode.RUNTIME),
        ([error("no-dead-letter-target", "", "", ""), error("queue-differs", "", "", "")], False, ExitCode.BROKER),
        ([warning("binding-pattern", "", "", "")], False, ExitCode.OK),
        ([warning("binding-pattern", "", "", "")], True, ExitCode.BROKER),
    ],
)
def test_exit_code(findings: list[Finding], is_strict: bool, code: ExitCode) -> None:
    assert exit_code(findings, is_strict) == code


def test_findings_that_are_ignored_are_left_out_and_errors_come_first() -> None:
    findings = [warning("consumer-timeout", "", "", ""), error("queue-differs", "", "", "")]
    assert [each.name for each in without(findings, ())] == ["queue-differs", "consumer-timeout"]
    assert [each.name for each in without(findings, ("queue-differs",))] == ["consumer-timeout"]


def test_line_to_write_keeps_what_the_code_says_and_is_python() -> None:
    queue = Queue("orders", arguments={"x-max-length": 1000, "x-expires": 5})
    found = FoundQueue(
        is_there=True, differences=(Difference("x-max-length", "'500'", "'1000'", 500),), is_compared=True
    )
    (finding,) = queue_findings(compared(queue, found))
    line = next(way for way in finding.remedy.splitlines() if way.startswith("Or change the code:  "))
    written = eval(line.removeprefix("Or change the code:  "), {"Queue": Queue})
    assert written == Queue("orders", arguments={"x-max-length": 500, "x-expires": 5})
